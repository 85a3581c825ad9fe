//! Which of two versions is the later one, by the rules of the package database they come from.
//!
//! Every order here is total: any two texts compare, nothing panics, and the order is antisymmetric and transitive, so
//! that it can sort. What a database would not accept is given a place too; each module says which.

mod dpkg;
mod rpm;
mod semver;

use core::cmp::Ordering;

use crate::catalog::PackageKind;

/// Compares two version texts by the rules of `kind`. `Equal` does not mean the same text: `1.0` and `1.00` are equal.
///
/// | kind | order |
/// | --- | --- |
/// | `Deb` | deb-version(7), Debian policy 5.6.12 |
/// | `Rpm` | rpm's `rpmvercmp` on epoch, version, release |
/// | `Snap` | as `Deb`, which is how snapd compares |
/// | `Flatpak` | Semantic Versioning 2.0.0; Flatpak itself has no order |
pub fn compare(kind: PackageKind, a: &str, b: &str) -> Ordering {
    match kind {
        PackageKind::Deb | PackageKind::Snap => dpkg::compare(a, b),
        PackageKind::Rpm => rpm::compare(a, b),
        PackageKind::Flatpak => semver::compare(a, b),
    }
}

/// Compares two runs of decimal digits by value, whatever their length.
fn compare_digits(a: &[u8], b: &[u8]) -> Ordering {
    let (a, b) = (without_leading_zeros(a), without_leading_zeros(b));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

fn without_leading_zeros(digits: &[u8]) -> &[u8] {
    &digits[digits.iter().take_while(|digit| **digit == b'0').count()..]
}

/// Splits after the leading bytes that satisfy `belongs`.
fn split_while(bytes: &[u8], belongs: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.iter().take_while(|byte| belongs(**byte)).count())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [PackageKind; 4] = [PackageKind::Deb, PackageKind::Rpm, PackageKind::Flatpak, PackageKind::Snap];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// A small alphabet, so that equal and nearly equal texts are frequent.
        #[test]
        fn the_order_is_total(texts in prop::collection::vec("[01a~^.:+-]{0,7}", 3)) {
            for kind in KINDS {
                let order = |x: usize, y: usize| compare(kind, &texts[x], &texts[y]);
                prop_assert_eq!(order(0, 0), Ordering::Equal);
                prop_assert_eq!(order(0, 1), order(1, 0).reverse());
                if order(0, 1) == Ordering::Equal {
                    prop_assert_eq!(order(0, 2), order(1, 2), "{:?}: equals must be interchangeable", kind);
                }
                if order(0, 1).is_le() && order(1, 2).is_le() {
                    prop_assert!(order(0, 2).is_le(), "{kind:?}: not transitive");
                }
            }
        }

        #[test]
        fn any_text_compares(a in any::<String>(), b in any::<String>()) {
            for kind in KINDS {
                prop_assert_eq!(compare(kind, &a, &b), compare(kind, &b, &a).reverse());
            }
        }
    }
}
