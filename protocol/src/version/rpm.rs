//! rpm's order: `[epoch:]version[-release]`, each part by `rpmvercmp` (rpm's manual, "Dependencies", rpm-version(7)).
//!
//! An absent epoch counts as 0. An absent release comes before every release, so that a rule that names only a version
//! is met by each of its releases. Bytes that are neither letters, digits, `~` nor `^` only separate.

use core::cmp::Ordering;

use super::{compare_digits, split_while};

/// Compares two rpm versions with epoch and release.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let ((epoch_a, version_a, release_a), (epoch_b, version_b, release_b)) = (split(a), split(b));
    compare_digits(epoch_a, epoch_b).then_with(|| compare_part(version_a, version_b)).then_with(|| {
        match (release_a, release_b) {
            (Some(a), Some(b)) => compare_part(a, b),
            (a, b) => a.is_some().cmp(&b.is_some()),
        }
    })
}

fn split(text: &str) -> (&[u8], &[u8], Option<&[u8]>) {
    let (epoch, rest) = match text.split_once(':') {
        Some((epoch, rest)) if epoch.bytes().all(|byte| byte.is_ascii_digit()) => (epoch, rest),
        _ => ("", text),
    };
    match rest.rsplit_once('-') {
        Some((version, release)) => (epoch.as_bytes(), version.as_bytes(), Some(release.as_bytes())),
        None => (epoch.as_bytes(), rest.as_bytes(), None),
    }
}

/// One piece of a part. The order of the variants is rpm's: a tilde before the end, a caret just after it, then letters,
/// then numbers.
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Piece<'a> {
    Tilde,
    End,
    Caret,
    Letters(&'a [u8]),
    Number(&'a [u8]),
}

fn compare_part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    loop {
        let (piece_a, piece_b) = (next_piece(&mut a), next_piece(&mut b));
        let order = match (piece_a, piece_b) {
            (Piece::End, Piece::End) => return Ordering::Equal,
            (Piece::Number(a), Piece::Number(b)) => compare_digits(a, b),
            (a, b) => a.cmp(&b),
        };
        if order.is_ne() {
            return order;
        }
    }
}

fn next_piece<'a>(rest: &mut &'a [u8]) -> Piece<'a> {
    let (_, text) = split_while(rest, |byte| !byte.is_ascii_alphanumeric() && byte != b'~' && byte != b'^');
    let (piece, tail) = match text.first() {
        None => (Piece::End, text),
        Some(b'~') => (Piece::Tilde, &text[1..]),
        Some(b'^') => (Piece::Caret, &text[1..]),
        Some(byte) if byte.is_ascii_digit() => {
            let (digits, tail) = split_while(text, |byte| byte.is_ascii_digit());
            (Piece::Number(digits), tail)
        }
        Some(_) => {
            let (letters, tail) = split_while(text, |byte| byte.is_ascii_alphabetic());
            (Piece::Letters(letters), tail)
        }
    };
    *rest = tail;
    piece
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tilde_end_caret_letters_numbers() {
        let ascending = ["1.0~rc1", "1.0", "1.0^git1", "1.0a", "1.0.1", "1.1", "1:0", "2:0-1"];
        for pair in ascending.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
        for (a, b, order) in [
            ("1.0", "1_0", Ordering::Equal),
            ("1.05", "1.5", Ordering::Equal),
            ("0:1.0-1", "1.0-1", Ordering::Equal),
            (":1.0", "1.0", Ordering::Equal),
            ("1.0", "1.0-1.el9", Ordering::Less),
            ("2.0.1a", "2.0.1", Ordering::Greater),
            ("1.0^", "1.0^git", Ordering::Less),
        ] {
            assert_eq!(compare(a, b), order, "{a} {b}");
        }
    }
}
