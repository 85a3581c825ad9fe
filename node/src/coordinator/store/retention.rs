//! How old history becomes less: details go, and days before the first that is kept are added up into one. Counts of every later day
//! stay what they were.

use sqlx::{AnyConnection, Connection as _, Row as _};

use super::rows::{Value, write};

const MINUTES_A_DAY: u64 = 24 * 60;

/// Keeps days from this one on, and of all earlier ones together what they came to. One transaction.
pub(super) async fn add_up(connection: &mut AnyConnection, from_day: u64) -> Result<(), sqlx::Error> {
    let day = i64::try_from(from_day).unwrap_or(i64::MAX);
    let minute = day.saturating_mul(MINUTES_A_DAY as i64);
    let mut transaction = connection.begin().await?;
    let old = sqlx::query("DELETE FROM change WHERE day < $1").bind(day);
    old.execute(&mut *transaction).await?;
    let old = sqlx::query("DELETE FROM bytes_day WHERE day < $1").bind(day);
    old.execute(&mut *transaction).await?;
    fold(&mut transaction, "state_day", "day", &["grp", "release", "state"], day).await?;
    fold(&mut transaction, "member_day", "day", &["grp"], day).await?;
    fold(&mut transaction, "done_minute", "minute", &["grp", "release"], minute).await?;
    // An approval is forgotten when it has ended and no device is counted in it any more.
    let ended = sqlx::query(
        "DELETE FROM approval WHERE ended > 0 AND ended < $1 AND NOT EXISTS (SELECT 1 FROM state_day \
         WHERE state_day.grp = approval.grp AND state_day.release = approval.release)",
    );
    ended.bind(day.saturating_mul(super::ledger::DAY_MS as i64)).execute(&mut *transaction).await?;
    transaction.commit().await
}

/// Adds up the rows of a table that lie before `from` into one each at `from - 1`.
async fn fold(
    connection: &mut AnyConnection,
    table: &str,
    time: &str,
    keys: &[&str],
    from: i64,
) -> Result<(), sqlx::Error> {
    let columns = keys.join(", ");
    let text = format!(
        "SELECT {columns}, CAST(SUM(delta) AS BIGINT) FROM {table} WHERE {time} < $1 GROUP BY {columns} \
         HAVING COUNT(*) > 1 OR MAX({time}) < $1 - 1 OR SUM(delta) = 0"
    );
    let mut sums = Vec::new();
    for row in sqlx::query(&text).bind(from).fetch_all(&mut *connection).await? {
        let numbers = (0..=keys.len()).map(|at| row.try_get::<i64, _>(at)).collect::<Result<Vec<_>, _>>()?;
        sums.push(numbers);
    }
    let of_keys: Vec<String> = keys.iter().zip(2..).map(|(key, at)| format!("{key} = ${at}")).collect();
    let text = format!("DELETE FROM {table} WHERE {time} < $1 AND {}", of_keys.join(" AND "));
    for sum in &sums {
        let delete = sum[..keys.len()].iter().fold(sqlx::query(&text).bind(from), |to, key| to.bind(*key));
        delete.execute(&mut *connection).await?;
    }
    let rows = sums.into_iter().filter(|sum| sum.last().is_some_and(|delta| *delta != 0));
    let rows = rows.map(|sum| sum.into_iter().chain([from.saturating_sub(1)]).map(Value::Int).collect());
    write(connection, &format!("{table} ({columns}, delta, {time})"), "", rows.collect()).await
}
