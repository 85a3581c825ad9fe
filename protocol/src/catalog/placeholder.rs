//! What stands for a payload's path in an argument of a program: `{payload}` for the first, `{payload:N}` for the one at position
//! N. The only reader of this grammar; who fills in the paths, and what they are, is not its business.

/// A part of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// As it stands.
    Text(&'a str),
    /// The path of the payload at this position.
    Payload(usize),
}

/// Something that begins as a placeholder does and is none. Holds the text from there on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no payload; write {{payload}} or {{payload:0}} and up")]
pub struct BadPlaceholder(pub String);

const START: &str = "{payload";

/// Splits an argument into texts and payloads. Other braces stand for themselves.
pub fn pieces(argument: &str) -> Result<Vec<Piece<'_>>, BadPlaceholder> {
    let (mut pieces, mut rest) = (Vec::new(), argument);
    while let Some(at) = rest.find(START) {
        let bad = || BadPlaceholder(rest[at..].chars().take(64).collect());
        let (inner, after) = rest[at + START.len()..].split_once('}').ok_or_else(bad)?;
        let number = if inner.is_empty() { "0" } else { inner.strip_prefix(':').unwrap_or_default() };
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let position = number.parse().ok().filter(|_| digits).ok_or_else(bad)?;
        if at > 0 {
            pieces.push(Piece::Text(&rest[..at]));
        }
        pieces.push(Piece::Payload(position));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_stand_for_payloads_and_other_braces_for_themselves() {
        use Piece::{Payload, Text};
        assert_eq!(pieces("{payload}").unwrap(), [Payload(0)]);
        assert_eq!(pieces("{payload:12}").unwrap(), [Payload(12)]);
        assert_eq!(
            pieces("--file={payload:1},{payload}!").unwrap(),
            [Text("--file="), Payload(1), Text(","), Payload(0), Text("!")]
        );
        for plain in ["{", "{}", "{pay", "${HOME}", "{PAYLOAD}", "payload}"] {
            assert_eq!(pieces(plain).unwrap(), [Text(plain)]);
        }
        assert!(pieces("").unwrap().is_empty());
        let numbers =
            ["{payload:}", "{payload:-1}", "{payload:+1}", "{payload:x}", "{payload:99999999999999999999999}"];
        for bad in numbers.into_iter().chain(["{payload", "{payloads}", "{payload 1}", "{payload{payload}"]) {
            assert!(pieces(bad).is_err(), "{bad}");
        }
    }
}
