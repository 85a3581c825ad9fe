//! Relations between packages, as far as they are read here: names, and one bound of the version. Source: Debian Policy 7.1.

use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::version;

/// A bound of a version.
pub(super) struct Bound<'a> {
    operator: &'a str,
    version: &'a str,
}

impl Bound<'_> {
    pub(super) fn holds(&self, version: &str) -> bool {
        let order = version::compare(PackageKind::Deb, version, self.version);
        match self.operator {
            ">=" => order.is_ge(),
            ">>" => order.is_gt(),
            "<=" => order.is_le(),
            "<<" => order.is_lt(),
            _ => order.is_eq(),
        }
    }
}

/// One name with its bound: `libc6:any (>= 2.36)`.
pub(super) fn relation(text: &str) -> Option<(&str, Option<Bound<'_>>)> {
    let (name, rest) = text.trim().split_once([' ', '(']).unwrap_or((text.trim(), ""));
    let name = name.split(':').next().filter(|name| !name.is_empty())?;
    let inside = rest.trim().trim_start_matches('(').split(')').next();
    let bound = inside.and_then(|inside| inside.trim().split_once(' '));
    Some((name, bound.map(|(operator, version)| Bound { operator, version: version.trim() })))
}

/// Every name of a field, alternatives too.
pub(super) fn all(field: &str) -> impl Iterator<Item = (&str, Option<Bound<'_>>)> {
    field.split([',', '|']).filter_map(relation)
}

/// The clauses of a field of which an alternative holds, as they are written.
pub(super) fn met(field: &str, holds: impl Fn(&str, Option<&Bound<'_>>) -> bool) -> String {
    let met = |clause: &&str| clause.split('|').filter_map(relation).any(|(name, bound)| holds(name, bound.as_ref()));
    field.split(',').map(str::trim).filter(met).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bounds_are_read_as_they_are_written() {
        let names: Vec<_> =
            all("libc6:any (>= 2.36), mta | exim4-daemon-light,perl(<< 6)").map(|(name, _)| name).collect();
        assert_eq!(names, ["libc6", "mta", "exim4-daemon-light", "perl"]);
        let holds = |text: &str, version: &str| relation(text).unwrap().1.unwrap().holds(version);
        assert!(holds("a (>= 1.0~rc1)", "1.0") && !holds("a (>> 1.0)", "1.0") && holds("a (= 1:2)", "1:2"));
        assert!(relation("a").unwrap().1.is_none() && relation(" ").is_none());
    }

    #[test]
    fn clauses_that_nothing_meets_are_left_out() {
        let installed =
            |name: &str, bound: Option<&Bound<'_>>| name == "b" && bound.is_none_or(|bound| bound.holds("2"));
        assert_eq!(met("a, b (>= 1), b (>= 3) | a, c | b", installed), "b (>= 1), c | b");
    }
}
