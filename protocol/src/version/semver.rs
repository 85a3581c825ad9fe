//! Semantic Versioning 2.0.0, section 11, made total.
//!
//! Valid versions compare as specified; build metadata does not count. For other texts: a leading `v` is dropped, a
//! missing or empty number is 0 (`1.2` is `1.2.0`, and `1.2.0.0` too), more than three numbers are allowed, a word where a
//! number is due sorts after numbers, and leading zeros do not count.

use core::cmp::Ordering;

use super::compare_digits;

/// Compares two versions.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let ((core_a, pre_a), (core_b, pre_b)) = (split(a), split(b));
    compare_core(core_a, core_b).then_with(|| match (pre_a, pre_b) {
        (Some(a), Some(b)) => compare_pre_release(a, b),
        // A pre-release comes before its release.
        (a, b) => a.is_none().cmp(&b.is_none()),
    })
}

/// The numbers, and the pre-release if there is one.
fn split(text: &str) -> (&str, Option<&str>) {
    let text = text.strip_prefix('v').unwrap_or(text);
    let text = text.split_once('+').map_or(text, |(version, _build)| version);
    text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)))
}

fn compare_core(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        let (next_a, next_b) = (a.next(), b.next());
        if next_a.is_none() && next_b.is_none() {
            return Ordering::Equal;
        }
        let order = compare_identifier(next_a.unwrap_or("0"), next_b.unwrap_or("0"));
        if order.is_ne() {
            return order;
        }
    }
}

fn compare_pre_release(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        let order = match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (Some(a), Some(b)) => compare_identifier(a, b),
            // More fields are later, when all before them are equal.
            (a, b) => a.is_some().cmp(&b.is_some()),
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Numbers by value, words by ASCII, numbers before words. The empty text is the number 0.
fn compare_identifier(a: &str, b: &str) -> Ordering {
    let is_word = |text: &str| !text.bytes().all(|byte| byte.is_ascii_digit());
    match (is_word(a), is_word(b)) {
        (false, false) => compare_digits(a.as_bytes(), b.as_bytes()),
        (true, true) => a.cmp(b),
        (a, b) => a.cmp(&b),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_specification_s_example_and_loose_texts() {
        let ascending = [
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "v1.0.1",
            "1.2",
            "1.2.0.1",
            "1.10",
            "1.x",
            "2",
        ];
        for pair in ascending.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
        assert_eq!(compare("v1.2", "1.2.0+build.7"), Ordering::Equal);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// The crate that cargo uses is the reference for everything that is valid.
        #[test]
        fn valid_versions_compare_as_in_the_semver_crate(
            a in "[0-2]\\.(0|1|10)\\.[0-2](-(a|b|[1-9]|1a|-)(\\.(a|b|[1-9]|1a|-)){0,2})?(\\+[a1]{1,2})?",
            b in "[0-2]\\.(0|1|10)\\.[0-2](-(a|b|[1-9]|1a|-)(\\.(a|b|[1-9]|1a|-)){0,2})?(\\+[a1]{1,2})?",
        ) {
            let reference = |text: &str| ::semver::Version::parse(text).expect("a valid version");
            prop_assert_eq!(compare(&a, &b), reference(&a).cmp_precedence(&reference(&b)), "{} {}", a, b);
        }
    }
}
