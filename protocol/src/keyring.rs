//! Who may sign: keys, the person or machine that holds each of them, and how many holders must.
//!
//! A threshold asks for persons, not for keys: two keys in one hand are one voice. So every key of the root names its holder,
//! and everything that compares signatures with a threshold counts distinct holders, here and nowhere else.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization as _;
use unicode_security::confusable_detection::skeleton;
use unicode_security::mixed_script::MixedScript as _;

use crate::codec::{Bounded, Text};
use crate::ids::PublicKey;

/// The longest name of a holder, in bytes.
pub const MAX_HOLDER: usize = 48;

/// A person's or a machine's name, as whoever signs roots writes it.
pub type Holder = Text<MAX_HOLDER>;

/// Whether this is a name that people can tell from others by looking: letters, digits and `.-_'@` in words with one space between,
/// all of one script, and more than punctuation.
pub fn is_holder(name: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || ".-_'@".contains(c);
    name.split(' ').all(|word| !word.is_empty() && word.chars().all(plain))
        && name.is_single_script()
        && !voice(name).is_empty()
}

/// Whether two names are one holder: what looks alike, or is written otherwise by case, accents, width, punctuation or spaces alone,
/// tells nobody from another.
pub fn is_same_holder(one: &str, other: &str) -> bool {
    voice(one) == voice(other)
}

/// What two names of one holder have in common: the skeleton of Unicode Technical Standard 39, section 4, without case, and of that
/// the letters and digits. Two persons whose names differ by less count as one: that is refused where a root is made, while one person
/// who counts as two would be noticed by nobody.
fn voice(holder: &str) -> String {
    // By way of capitals: `ß` and `SS` are one, and so are both small sigmas.
    let folded = |text: &str| -> String {
        text.nfkc().flat_map(char::to_uppercase).flat_map(char::to_lowercase).nfkc().collect()
    };
    let skeleton: String = skeleton(&folded(holder)).collect();
    folded(&skeleton).nfkd().filter(|c| c.is_alphanumeric()).collect()
}

/// A key and whoever holds its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldKey {
    /// The public key.
    pub key: PublicKey,
    /// In whose hand its secret is.
    pub holder: Holder,
}

/// A set of keys and how many of their holders must sign. Valid when `1 <= threshold <= number of distinct holders`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// Distinct public keys, with their holders.
    pub keys: Bounded<HeldKey, 16>,
    /// Signatures by distinct holders that are needed.
    pub threshold: u8,
}

impl Keys {
    /// One key, which signs alone.
    pub fn single(held: HeldKey) -> Self {
        Self { keys: Bounded::truncated(vec![held]), threshold: 1 }
    }

    /// Whether the key is one of these.
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.holder_of(key).is_some()
    }

    /// Who holds this key.
    pub fn holder_of(&self, key: &PublicKey) -> Option<&str> {
        self.keys.iter().find(|held| held.key == *key).map(|held| held.holder.as_str())
    }

    /// The keys without their holders.
    pub fn public(&self) -> impl Iterator<Item = PublicKey> + '_ {
        self.keys.iter().map(|held| held.key)
    }

    /// How many holders there are.
    pub fn holders(&self) -> usize {
        self.voices(|_| true)
    }

    /// How many distinct holders stand behind these signers.
    pub fn voices_of(&self, signers: &[PublicKey]) -> usize {
        self.voices(|key| signers.contains(key))
    }

    /// How many distinct holders have a key for which this is so.
    pub fn voices(&self, has: impl Fn(&PublicKey) -> bool) -> usize {
        // A key is one voice at most, whatever a list says of its holders.
        let mut seen = BTreeSet::new();
        let signed = self.keys.iter().filter(|held| has(&held.key) && seen.insert(held.key));
        signed.map(|held| voice(&held.holder)).collect::<BTreeSet<_>>().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(seed: u8, holder: &str) -> HeldKey {
        HeldKey { key: PublicKey([seed; 32]), holder: Text::lossy(holder) }
    }

    #[test]
    fn two_keys_in_one_hand_are_one_voice() {
        let keys =
            Keys { keys: Bounded::truncated(vec![held(1, "Anna"), held(2, "anna"), held(3, "Ben")]), threshold: 2 };
        let of = |seeds: &[u8]| keys.voices_of(&seeds.iter().map(|seed| PublicKey([*seed; 32])).collect::<Vec<_>>());
        assert_eq!(keys.holders(), 2);
        assert_eq!((of(&[]), of(&[1]), of(&[1, 2]), of(&[2, 3]), of(&[1, 2, 3]), of(&[4])), (0, 1, 1, 2, 2, 0));
        assert_eq!((keys.holder_of(&PublicKey([2; 32])), keys.contains(&PublicKey([4; 32]))), (Some("anna"), false));
    }

    #[test]
    fn a_holder_has_a_name_that_people_can_tell_from_others() {
        for good in ["Anna", "Anna Müller", "ops@example.org", "O'Neil", "safe-2", "李", "Анна Иванова"] {
            assert!(is_holder(good), "{good}");
        }
        for bad in [
            "",
            " ",
            " Anna",
            "Anna ",
            "Anna  Müller",
            "Anna\u{200b}",
            "An\u{202e}na",
            "Anna\u{a0}Müller",
            ".-",
            "M\u{430}llory",
            "Аnna",
        ] {
            assert!(!is_holder(bad), "{bad:?}");
        }
    }

    #[test]
    fn one_person_is_one_voice_however_the_name_is_written() {
        for (one, twin) in [
            ("Mallory", "mallory"),
            ("Mallory", "Mallory."),
            ("Mallory", "m.allory"),
            ("Anna Weiss", "anna-weiss"),
            ("Mallory", "Ｍａｌｌｏｒｙ"),
            ("Mallory", "Ma11ory"),
            ("Corn", "Com"),
            ("straße", "STRASSE"),
            ("Müller", "Muller"),
            ("Coco", "Сосо"),
            ("ΟΔΟΣ", "οδος"),
            ("O'Neil", "O\u{2bc}Neil"),
            ("羽", "\u{fa1e}"),
        ] {
            assert!(is_same_holder(one, twin), "{one} {twin}: {} {}", voice(one), voice(twin));
        }
        for (one, other) in [("Anna", "Anne"), ("root-1", "root-2"), ("李", "羽"), ("Анна", "Анне"), ("ann", "annn")]
        {
            assert!(!is_same_holder(one, other), "{one} {other}: {}", voice(one));
        }
        let names = ["Mallory", "mallory.", "Ｍａｌｌｏｒｙ"];
        let keys = (1..).zip(names).map(|(seed, name)| held(seed, name)).collect();
        assert_eq!(Keys { keys: Bounded::truncated(keys), threshold: 1 }.holders(), 1);
    }
}
