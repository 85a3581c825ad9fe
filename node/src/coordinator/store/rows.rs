//! Many rows in one statement, the same for both databases. Knows no table.

use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection};

/// Rows of one statement; with the widest table below both databases' bounds of parameters (32,766 of SQLite).
const ROWS: usize = 256;

/// A cell.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Int(i64),
    /// A number or none.
    Maybe(Option<i64>),
    Bytes(Vec<u8>),
    Text(String),
}

type Statement<'q> = Query<'q, Any, AnyArguments<'q>>;

impl Value {
    /// The next parameter of a statement.
    pub(super) fn bind_to(self, to: Statement<'_>) -> Statement<'_> {
        match self {
            Value::Int(number) => to.bind(number),
            Value::Maybe(number) => to.bind(number),
            Value::Bytes(bytes) => to.bind(bytes),
            Value::Text(text) => to.bind(text),
        }
    }
}

/// Inserts rows `into` a table with its columns; `conflict` says what becomes of those that are there. No two rows have the same key.
pub(super) async fn write(
    connection: &mut AnyConnection,
    into: &str,
    conflict: &str,
    rows: Vec<Vec<Value>>,
) -> Result<(), sqlx::Error> {
    let mut rows = rows.into_iter().peekable();
    while let Some(width) = rows.peek().map(Vec::len) {
        let some: Vec<Vec<Value>> = rows.by_ref().take(ROWS).collect();
        let whole = some.len() == ROWS;
        let mut text = format!("INSERT INTO {into} VALUES ");
        for at in 0..some.len() {
            let places: Vec<String> = (1..=width).map(|column| format!("${}", at * width + column)).collect();
            text.push_str(if at == 0 { "(" } else { ", (" });
            text.push_str(&places.join(", "));
            text.push(')');
        }
        text.push(' ');
        text.push_str(conflict);
        // Only whole ones come again in the same length, and are kept prepared.
        let statement = sqlx::query(&text).persistent(whole);
        let statement = some.into_iter().flatten().fold(statement, |statement, value| value.bind_to(statement));
        statement.execute(&mut *connection).await?;
    }
    Ok(())
}
