//! Debian's order: deb-version(7) and Debian policy 5.6.12, `[epoch:]upstream[-revision]`.
//!
//! An absent epoch or revision counts as 0. Texts that policy forbids: where the part before the first colon is not
//! a number, there is no epoch and the colon belongs to the upstream version; any other byte sorts like punctuation.

use core::cmp::Ordering;

use super::{compare_digits, split_while};

/// Compares two Debian versions.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let ((epoch_a, upstream_a, revision_a), (epoch_b, upstream_b, revision_b)) = (split(a), split(b));
    compare_digits(epoch_a, epoch_b)
        .then_with(|| compare_part(upstream_a, upstream_b))
        .then_with(|| compare_part(revision_a, revision_b))
}

fn split(text: &str) -> (&[u8], &[u8], &[u8]) {
    let (epoch, rest) = match text.split_once(':') {
        Some((epoch, rest)) if !epoch.is_empty() && epoch.bytes().all(|byte| byte.is_ascii_digit()) => (epoch, rest),
        _ => ("", text),
    };
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch.as_bytes(), upstream.as_bytes(), revision.as_bytes())
}

/// By turns a run of non-digits, byte by byte, and a run of digits, by value.
fn compare_part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let (words_a, rest_a) = split_while(a, |byte| !byte.is_ascii_digit());
        let (words_b, rest_b) = split_while(b, |byte| !byte.is_ascii_digit());
        let order = weights(words_a).cmp(weights(words_b));
        if order.is_ne() {
            return order;
        }
        let (digits_a, tail_a) = split_while(rest_a, |byte| byte.is_ascii_digit());
        let (digits_b, tail_b) = split_while(rest_b, |byte| byte.is_ascii_digit());
        let order = compare_digits(digits_a, digits_b);
        if order.is_ne() {
            return order;
        }
        (a, b) = (tail_a, tail_b);
    }
    Ordering::Equal
}

fn weights(words: &[u8]) -> impl Iterator<Item = u16> + '_ {
    words.iter().copied().map(weight).chain([END])
}

/// The end of a run of non-digits: after a tilde, before everything else.
const END: u16 = 1;

fn weight(byte: u8) -> u16 {
    match byte {
        b'~' => 0,
        b'a'..=b'z' | b'A'..=b'Z' => u16::from(byte),
        _ => 256 + u16::from(byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_policy_hold() {
        let ascending = ["~~", "~~a", "~", "", "a"];
        for pair in ascending.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
        for (a, b, order) in [
            ("1.0~rc1-1", "1.0-1", Ordering::Less),
            ("1.0-1", "1.0+b1-1", Ordering::Less),
            ("1:0.9", "2.0", Ordering::Greater),
            ("0:1.0", "1.0-0", Ordering::Equal),
            ("1.009", "1.9", Ordering::Equal),
            ("1.0a", "1.0+", Ordering::Less),
            ("1.2-3-4", "1.2-4", Ordering::Greater),
            ("99999999999999999999999:1", "99999999999999999999998:2", Ordering::Greater),
            ("x:1", "1:0", Ordering::Less),
        ] {
            assert_eq!(compare(a, b), order, "{a} {b}");
        }
    }
}
