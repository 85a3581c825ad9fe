//! Conditions on an inventory, as an admin writes them: `os.id=debian`, `package:nginx>=1.20`, `!package:telnetd`.
//!
//! ```text
//! FACT                 the machine tells the fact       !FACT             it does not
//! FACT=VALUE           it has this value                FACT!=VALUE       it is told and has another
//! FACT>=VALUE          and <=, <, >: numbers in it compare by value, so that 9 comes before 10
//! package:NAME         installed, in any version        !package:NAME     not installed
//! package:NAME>=V      and =, !=, <=, <, >: by the version order of the package's own database
//! package:KIND/NAME    only in one database: deb, rpm, flatpak or snap
//! ```
//! Several conditions must all hold, those on one package for one and the same installed version. A machine whose inventory
//! does not tell a fact fulfils no comparison with it.

use core::cmp::Ordering;
use core::fmt;
use core::str::FromStr;
use std::collections::BTreeMap;

use super::{FactName, Inventory, Name, PackageKey, SharedInventory, Version};
use crate::catalog::PackageKind;
use crate::codec::Text;
use crate::version::compare;

/// The most conditions that are taken together.
pub const MAX_CONDITIONS: usize = 16;
/// DeviceMessage of every machine, although it is no fact of its own: `yes` or `no`.
pub const FACT_RESTART_PENDING: &str = "restart.pending";

/// How two values compare.
type Order = dyn Fn(&str, &str) -> Ordering;

const PACKAGE: &str = "package:";
const KINDS: [(PackageKind, &str); 4] = [
    (PackageKind::Deb, "deb"),
    (PackageKind::Rpm, "rpm"),
    (PackageKind::Flatpak, "flatpak"),
    (PackageKind::Snap, "snap"),
];

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    subject: Subject,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Fact(FactName),
    /// Without a kind, of any.
    Package(Option<PackageKind>, Name),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Present,
    Absent,
    Is(Relation, Version),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Equal,
    NotEqual,
    Less,
    AtMost,
    More,
    AtLeast,
}

/// Longer signs first: `<=` is no `<`.
const RELATIONS: [(Relation, &str); 6] = [
    (Relation::NotEqual, "!="),
    (Relation::AtMost, "<="),
    (Relation::AtLeast, ">="),
    (Relation::Equal, "="),
    (Relation::Less, "<"),
    (Relation::More, ">"),
];

/// Why conditions are not taken; says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// It cannot be read.
    #[error("the condition {given:?} is not understood: {what}")]
    Malformed {
        /// The condition.
        given: String,
        /// What is wrong, and what to write.
        what: String,
    },
    /// None at all.
    #[error("no condition is given; write for example os.id=debian or package:nginx>=1.20")]
    None,
    /// More than [`MAX_CONDITIONS`].
    #[error("{0} conditions are given, at most {MAX_CONDITIONS} are taken")]
    TooMany(usize),
    /// No machine can fulfil them.
    #[error("no machine can fulfil {0}; leave one of them out, or make two groups")]
    Contradiction(String),
}

/// What conditions ask of a machine.
pub trait Machine {
    /// Whether it wants a restart.
    fn pending_restart(&self) -> bool;
    /// The value of a fact.
    fn fact(&self, name: &str) -> Option<&str>;
    /// Installed packages of this name, of every kind and architecture, with their versions.
    fn named<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = (&'a PackageKey, &'a [Version])>;
}

impl Machine for SharedInventory {
    fn pending_restart(&self) -> bool {
        self.pending_restart()
    }

    fn fact(&self, name: &str) -> Option<&str> {
        self.fact(name)
    }

    fn named<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = (&'a PackageKey, &'a [Version])> {
        self.named(name)
    }
}

impl Machine for Inventory {
    fn pending_restart(&self) -> bool {
        self.pending_restart
    }

    fn fact(&self, name: &str) -> Option<&str> {
        self.fact(name)
    }

    fn named<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = (&'a PackageKey, &'a [Version])> {
        KINDS.iter().flat_map(move |(kind, _)| self.of_name(*kind, name))
    }
}

/// Conditions that must all hold; at least one, and not contradictory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conditions(Vec<Condition>);

impl Conditions {
    /// Reads conditions as an admin writes them. One that is given twice counts once.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, ConditionError> {
        let mut all: Vec<Condition> = Vec::new();
        for text in texts {
            let condition: Condition = text.as_ref().parse()?;
            if !all.contains(&condition) {
                all.push(condition);
            }
        }
        match all.len() {
            0 => return Err(ConditionError::None),
            1..=MAX_CONDITIONS => {}
            many => return Err(ConditionError::TooMany(many)),
        }
        let conditions = Self(all);
        conditions.can_hold()?;
        Ok(conditions)
    }

    /// The conditions.
    pub fn iter(&self) -> impl Iterator<Item = &Condition> {
        self.0.iter()
    }

    /// Facts that they speak of.
    pub fn facts(&self) -> impl Iterator<Item = &FactName> {
        self.0.iter().filter_map(|condition| match &condition.subject {
            Subject::Fact(name) => Some(name),
            Subject::Package(..) => None,
        })
    }

    /// Whether a machine fulfils them all.
    pub fn hold(&self, machine: &impl Machine) -> bool {
        self.by_subject().into_iter().all(|(subject, tests)| match subject {
            Subject::Fact(name) => {
                let found = if name.as_str() == FACT_RESTART_PENDING {
                    Some(if machine.pending_restart() { "yes" } else { "no" })
                } else {
                    machine.fact(name)
                };
                tests.iter().all(|test| match (test, found) {
                    (Test::Present, found) => found.is_some(),
                    (Test::Absent, found) => found.is_none(),
                    (Test::Is(..), None) => false,
                    (Test::Is(relation, value), Some(found)) => relation.holds(by_fact(found, value)),
                })
            }
            Subject::Package(kind, name) => {
                let of_kind = |found: PackageKind| kind.is_none_or(|kind| kind == found);
                let mut installed = machine
                    .named(name)
                    .filter(|(key, _)| of_kind(key.kind))
                    .flat_map(|(key, versions)| versions.iter().map(move |version| (key.kind, version)))
                    .peekable();
                if tests.contains(&&Test::Absent) {
                    return installed.peek().is_none();
                }
                installed.any(|(kind, version)| {
                    tests.iter().all(|test| match test {
                        Test::Is(relation, wanted) => relation.holds(compare(kind, version, wanted)),
                        Test::Present | Test::Absent => true,
                    })
                })
            }
        })
    }

    fn by_subject(&self) -> BTreeMap<&Subject, Vec<&Test>> {
        let mut grouped: BTreeMap<&Subject, Vec<&Test>> = BTreeMap::new();
        for condition in &self.0 {
            grouped.entry(&condition.subject).or_default().push(&condition.test);
        }
        grouped
    }

    fn can_hold(&self) -> Result<(), ConditionError> {
        let refuse = |of: &dyn Fn(&Subject) -> bool| {
            let these: Vec<String> = self.0.iter().filter(|c| of(&c.subject)).map(Condition::to_string).collect();
            Err(ConditionError::Contradiction(these.join(" and ")))
        };
        let grouped = self.by_subject();
        for (subject, tests) in &grouped {
            let absent = tests.contains(&&Test::Absent);
            let orders: Vec<&Order> = match subject {
                Subject::Fact(name) if name.as_str() == FACT_RESTART_PENDING && absent => {
                    return refuse(&|other| other == *subject);
                }
                Subject::Fact(_) => vec![&by_fact],
                Subject::Package(kind, _) => KINDS
                    .iter()
                    .filter(|(known, _)| kind.is_none_or(|kind| kind == *known))
                    .map(|(known, _)| order_of(*known))
                    .collect(),
            };
            let possible =
                if absent { tests.len() == 1 } else { orders.iter().any(|order| satisfiable(tests, *order)) };
            if !possible {
                return refuse(&|other| other == *subject);
            }
            // Not there in any database, and there in one.
            if let Subject::Package(None, name) = subject
                && absent
            {
                let same = |other: &Subject| matches!(other, Subject::Package(_, named) if named == name);
                let elsewhere = grouped
                    .iter()
                    .any(|(other, tests)| *other != *subject && same(other) && !tests.contains(&&Test::Absent));
                if elsewhere {
                    return refuse(&same);
                }
            }
        }
        Ok(())
    }
}

/// Whether some value passes all tests, in an order in which there is always another value between two.
fn satisfiable(tests: &[&Test], order: &Order) -> bool {
    let relations: Vec<(Relation, &str)> = tests
        .iter()
        .filter_map(|test| match test {
            Test::Is(relation, value) => Some((*relation, value.as_str())),
            Test::Present | Test::Absent => None,
        })
        .collect();
    let passes = |value: &str| relations.iter().all(|(relation, wanted)| relation.holds(order(value, wanted)));
    if let Some((_, value)) = relations.iter().find(|(relation, _)| *relation == Relation::Equal) {
        return passes(value);
    }
    let bounds = |of: [Relation; 2]| relations.iter().filter(move |(relation, _)| of.contains(relation));
    let lower = bounds([Relation::More, Relation::AtLeast]);
    lower.into_iter().all(|(least, low)| {
        bounds([Relation::Less, Relation::AtMost]).all(|(most, high)| match order(low, high) {
            Ordering::Less => true,
            Ordering::Equal => *least == Relation::AtLeast && *most == Relation::AtMost && passes(low),
            Ordering::Greater => false,
        })
    })
}

/// Facts are equal when their texts are; otherwise numbers in them compare by value, as in Debian's versions.
fn by_fact(a: &str, b: &str) -> Ordering {
    if a == b { Ordering::Equal } else { compare(PackageKind::Deb, a, b).then_with(|| a.cmp(b)) }
}

fn order_of(kind: PackageKind) -> &'static Order {
    match kind {
        PackageKind::Deb => &|a, b| compare(PackageKind::Deb, a, b),
        PackageKind::Rpm => &|a, b| compare(PackageKind::Rpm, a, b),
        PackageKind::Flatpak => &|a, b| compare(PackageKind::Flatpak, a, b),
        PackageKind::Snap => &|a, b| compare(PackageKind::Snap, a, b),
    }
}

impl Relation {
    fn holds(self, found: Ordering) -> bool {
        match self {
            Relation::Equal => found.is_eq(),
            Relation::NotEqual => found.is_ne(),
            Relation::Less => found.is_lt(),
            Relation::AtMost => found.is_le(),
            Relation::More => found.is_gt(),
            Relation::AtLeast => found.is_ge(),
        }
    }
}

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(given: &str) -> Result<Self, ConditionError> {
        let refuse = |what: &str| ConditionError::Malformed { given: given.to_owned(), what: what.to_owned() };
        let text = given.trim();
        for (wrong, right) in [("==", "="), ("=>", ">="), ("=<", "<="), ("<>", "!="), ("=~", "=")] {
            if text.contains(wrong) {
                return Err(refuse(&format!("write {right} instead of {wrong}")));
            }
        }
        if [" and ", " or ", "&&", "||"].iter().any(|word| text.contains(word)) {
            return Err(refuse("give each condition a --where of its own; all of them must hold"));
        }
        let at = text.find(['=', '<', '>']).map(|at| if text[..at].ends_with('!') { at - 1 } else { at });
        let (left, test) = match at {
            None => match text.strip_prefix('!') {
                Some(rest) => (rest, Test::Absent),
                None => (text, Test::Present),
            },
            Some(at) => {
                let sign = RELATIONS.iter().find(|(_, sign)| text[at..].starts_with(sign));
                let (relation, sign) = sign.ok_or_else(|| refuse("write =, !=, <, <=, > or >="))?;
                let value = text[at + sign.len()..].trim();
                if value.is_empty() {
                    return Err(refuse("write the value to compare with behind the sign, for example os.id=debian"));
                }
                let value = Version::new(value)
                    .map_err(|_| refuse("a value has at most 255 bytes without control characters"))?;
                (&text[..at], Test::Is(*relation, value))
            }
        };
        let left = left.trim();
        if left.starts_with('!') {
            return Err(refuse("write != between the name and the value, or ! before a name alone"));
        }
        let subject = match left.strip_prefix(PACKAGE) {
            Some(name) => package(name.trim()).map_err(refuse)?,
            None => fact(left).map_err(|what| refuse(&what))?,
        };
        if matches!(subject, Subject::Package(..))
            && let Test::Is(_, version) = &test
            && version.contains(char::is_whitespace)
        {
            return Err(refuse("a version holds no blanks"));
        }
        Ok(Self { subject, test })
    }
}

fn package(text: &str) -> Result<Subject, &'static str> {
    let kind =
        text.split_once('/').and_then(|(before, rest)| Some((KINDS.iter().find(|(_, word)| *word == before)?.0, rest)));
    let (kind, name) = kind.map_or((None, text), |(kind, rest)| (Some(kind), rest));
    if name.is_empty() {
        return Err("name the package, for example package:nginx");
    }
    if name.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err("a package's name has no blank and no slash; a database is named before it: package:deb/nginx");
    }
    Name::new(name).map(|name| Subject::Package(kind, name)).map_err(|_| "the package's name is too long")
}

fn fact(text: &str) -> Result<Subject, String> {
    if text.is_empty() {
        return Err("name a fact or a package, for example os.id=debian or package:nginx".to_owned());
    }
    if let Some((word, rest)) = text.split_once(':') {
        let name = rest.rsplit('/').next().unwrap_or(rest);
        return Err(format!("nothing is called {word}:; packages are written package:{name}"));
    }
    if text.contains(char::is_whitespace) {
        return Err("a fact's name has no blank; write for example os.id=debian".to_owned());
    }
    FactName::new(text).map(Subject::Fact).map_err(|_| "a fact's name has at most 64 bytes".to_owned())
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.test == Test::Absent {
            f.write_str("!")?;
        }
        match &self.subject {
            Subject::Fact(name) => f.write_str(name)?,
            Subject::Package(kind, name) => {
                let word = KINDS.iter().find(|(known, _)| Some(*known) == *kind).map(|(_, word)| *word);
                let slash = if word.is_some() { "/" } else { "" };
                write!(f, "{PACKAGE}{}{slash}{}", word.unwrap_or_default(), name.as_str())?;
            }
        }
        match &self.test {
            Test::Present | Test::Absent => Ok(()),
            Test::Is(relation, value) => {
                let sign = RELATIONS.iter().find(|(known, _)| known == relation).map_or("", |(_, sign)| sign);
                write!(f, "{sign}{}", value.as_str())
            }
        }
    }
}

impl Condition {
    /// As an admin writes it; at most 64 + 255 + 16 bytes more or less, which a [`Text`] of 600 holds.
    pub fn to_text(&self) -> Text<600> {
        Text::lossy(&self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Inventory, PackageKey, SharedEntries};
    use super::*;

    fn machine(packages: &[(PackageKind, &str, &str)], facts: &[(&str, &str)]) -> Inventory {
        let mut inventory = Inventory::default();
        for (kind, name, version) in packages {
            let key = PackageKey { kind: *kind, name: Text::lossy(name), arch: Text::lossy("amd64") };
            inventory.insert(key, Text::lossy(version)).unwrap();
        }
        for (name, value) in facts {
            inventory.set_fact(Text::lossy(name), Some(Text::lossy(value))).unwrap();
        }
        inventory
    }

    fn parse(texts: &[&str]) -> Result<Conditions, String> {
        Conditions::parse(texts).map_err(|error| error.to_string())
    }

    #[test]
    fn conditions_hold_for_the_machines_that_they_describe() {
        use PackageKind::{Deb, Rpm};
        let mut inventory = machine(
            &[
                (Deb, "nginx", "1.22.1-9"),
                (Deb, "linux", "6.1"),
                (Deb, "linux", "5.10"),
                (Rpm, "rpmtool", "1.0^git1-1"),
            ],
            &[("os.id", "debian"), ("os.version", "12"), ("memory.mib", "16000"), ("os.name", "Debian GNU/Linux 12")],
        );
        inventory.pending_restart = true;
        let mut shared = SharedEntries::default();
        let shelved = shared.put(&inventory);
        for (texts, wanted) in [
            (&["os.id=debian"][..], true),
            (&["os.id = debian", "os.version>=9"], true),
            (&["os.version<9"], false),
            (&["os.id!=ubuntu"], true),
            (&["os.id!=debian"], false),
            (&["os.codename!=trixie"], false),
            (&["!os.codename", "os.id"], true),
            (&["memory.mib<8192"], false),
            (&["memory.mib>8192"], true),
            (&["os.name=Debian GNU/Linux 12"], true),
            (&["restart.pending=yes"], true),
            (&["restart.pending=no"], false),
            (&["package:nginx"], true),
            (&["package:deb/nginx>=1.20"], true),
            (&["package:rpm/nginx"], false),
            (&["package:nginx>=1.23"], false),
            // In Debian's order a tilde comes before the end.
            (&["package:nginx>1.22.1-9~bpo1"], true),
            // In rpm's a caret comes after it.
            (&["package:rpmtool>1.0-1"], true),
            (&["!package:apache2"], true),
            (&["!package:nginx"], false),
            (&["package:apache2!=2"], false),
            // One and the same version.
            (&["package:linux>=6", "package:linux<7"], true),
            (&["package:linux>5.10", "package:linux<6.1"], false),
        ] {
            assert_eq!(parse(texts).unwrap().hold(&*shelved), wanted, "{texts:?}");
        }
    }

    #[test]
    fn conditions_print_as_they_are_written() {
        for text in ["os.id", "!os.id", "os.id=a", "package:deb/x>=1:2~3", "!package:y", "disk.size_mib./home<9"] {
            let condition: Condition = text.parse().unwrap();
            assert_eq!((condition.to_string(), condition.to_text().as_str()), (text.to_owned(), text));
        }
        assert_eq!(parse(&["a = b", "a=b"]).unwrap().iter().count(), 1);
    }

    #[test]
    fn what_is_not_understood_says_what_to_write() {
        for (text, hint) in [
            ("", "name a fact"),
            ("os.id==debian", "write = instead"),
            ("a=>3", "write >= instead"),
            ("os.id=", "behind the sign"),
            ("package:", "name the package"),
            ("pkg:deb/debian/nginx", "package:nginx"),
            ("package:a b>1", "no blank"),
            ("package:a>1 2", "no blanks"),
            ("os id=debian", "os.id=debian"),
            ("os.id=debian and os.version=12", "--where of its own"),
            ("!os.id=debian", "write != between"),
            ("os.id!debian", "os.id!"),
        ] {
            match text.parse::<Condition>() {
                Err(error) => assert!(error.to_string().contains(hint), "{text}: {error}"),
                // A name may hold an exclamation mark; that no machine tells it is noticed where the machines are known.
                Ok(condition) => assert_eq!(condition.to_string(), "os.id!debian"),
            }
        }
        assert!(parse(&[]).unwrap_err().contains("no condition"));
        let many: Vec<String> = (0..17).map(|n| format!("a{n}=1")).collect();
        assert!(Conditions::parse(&many).unwrap_err().to_string().contains("17"));
    }

    #[test]
    fn contradictions_are_refused_and_nothing_else() {
        for (texts, possible) in [
            (&["os.id=debian", "os.id=ubuntu"][..], false),
            (&["os.id=debian", "os.id!=debian"], false),
            (&["os.id", "!os.id"], false),
            (&["os.id=debian", "!os.id"], false),
            (&["os.version>=13", "os.version<12"], false),
            (&["os.version>=12", "os.version<=12"], true),
            (&["os.version>=12", "os.version<=12", "os.version!=12"], false),
            (&["os.version>12", "os.version<=12"], false),
            (&["os.version=11", "os.version>=12"], false),
            (&["package:a>=2", "package:a<1"], false),
            (&["package:a", "!package:a"], false),
            (&["package:deb/a", "!package:a"], false),
            (&["!package:deb/a", "package:a"], true),
            (&["!package:a", "!package:deb/a"], true),
            (&["package:a=1.0", "package:a=1.00"], true),
            (&["package:a=1", "package:a=2"], false),
            (&["package:a>1", "package:b<1"], true),
            (&["restart.pending=yes", "restart.pending=no"], false),
            (&["!restart.pending"], false),
        ] {
            let found = parse(texts);
            assert_eq!(found.is_ok(), possible, "{texts:?}: {found:?}");
            if let Err(error) = found {
                assert!(error.contains("no machine can fulfil") && error.contains(texts[0]), "{error}");
            }
        }
    }
}
