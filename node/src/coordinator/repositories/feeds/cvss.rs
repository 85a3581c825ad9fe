//! How bad a vulnerability is, from its CVSS vector: the base score of version 3 and its band. Source: CVSS v3.1 specification,
//! sections 7.1, 7.4 and 5, appendix A (rounding).

use upswarm_protocol::catalog::Severity;

/// The band of a vector's base score; nothing for one of another version, or that is none.
pub(super) fn severity(vector: &str) -> Option<Severity> {
    Some(match score(vector)? {
        score if score < 0.05 => Severity::Unspecified,
        score if score < 3.95 => Severity::Low,
        score if score < 6.95 => Severity::Moderate,
        score if score < 8.95 => Severity::Important,
        _ => Severity::Critical,
    })
}

fn score(vector: &str) -> Option<f64> {
    let metrics = vector.strip_prefix("CVSS:3.1/").or_else(|| vector.strip_prefix("CVSS:3.0/"))?;
    let of = |name: &str| metrics.split('/').find_map(|metric| metric.strip_prefix(name)?.strip_prefix(':'));
    let changed = match of("S")? {
        "C" => true,
        "U" => false,
        _ => return None,
    };
    let way = match of("AV")? {
        "N" => 0.85,
        "A" => 0.62,
        "L" => 0.55,
        "P" => 0.2,
        _ => return None,
    };
    let complexity = match of("AC")? {
        "L" => 0.77,
        "H" => 0.44,
        _ => return None,
    };
    let privileges = match (of("PR")?, changed) {
        ("N", _) => 0.85,
        ("L", false) => 0.62,
        ("L", true) => 0.68,
        ("H", false) => 0.27,
        ("H", true) => 0.5,
        _ => return None,
    };
    let person = match of("UI")? {
        "N" => 0.85,
        "R" => 0.62,
        _ => return None,
    };
    let mut spared = 1.0;
    for name in ["C", "I", "A"] {
        spared *= match of(name)? {
            "H" => 1.0 - 0.56,
            "L" => 1.0 - 0.22,
            "N" => 1.0,
            _ => return None,
        };
    }
    let part: f64 = 1.0 - spared;
    let impact = if changed { 7.52 * (part - 0.029) - 3.25 * (part - 0.02).powi(15) } else { 6.42 * part };
    if impact <= 0.0 {
        return Some(0.0);
    }
    let ease = 8.22 * way * complexity * privileges * person;
    let sum = if changed { 1.08 * (impact + ease) } else { impact + ease };
    Some(rounded_up(sum.min(10.0)))
}

/// To one place, upwards; small errors of binary fractions do not count.
fn rounded_up(score: f64) -> f64 {
    let whole = (score * 100_000.0).round();
    if whole % 10_000.0 == 0.0 { whole / 100_000.0 } else { ((whole / 10_000.0).floor() + 1.0) / 10.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_the_scores_that_the_specifications_examples_give() {
        // CVSS v3.1 examples document: CVE-2013-0375, -2014-3566, -2012-1516, -2014-0160, -2012-0384, -2015-8252, and others.
        for (vector, wanted) in [
            ("CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:C/C:L/I:L/A:N", 6.4),
            ("CVSS:3.1/AV:N/AC:H/PR:N/UI:R/S:U/C:L/I:N/A:N", 3.1),
            ("CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:C/C:H/I:H/A:H", 9.9),
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:N", 7.5),
            ("CVSS:3.0/AV:N/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H", 8.8),
            ("CVSS:3.1/AV:L/AC:L/PR:H/UI:N/S:U/C:L/I:L/A:L", 4.2),
            ("CVSS:3.1/AV:L/AC:L/PR:N/UI:R/S:U/C:H/I:H/A:H/E:P", 7.8),
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8),
            ("CVSS:3.1/AV:P/AC:H/PR:H/UI:R/S:U/C:N/I:N/A:N", 0.0),
        ] {
            assert_eq!(score(vector), Some(wanted), "{vector}");
        }
        for none in ["", "CVSS:4.0/AV:N/AC:L", "CVSS:3.1/AV:N", "CVSS:3.1/AV:X/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", "7.5"] {
            assert_eq!(score(none), None, "{none}");
        }
    }

    #[test]
    fn a_score_falls_into_the_band_of_the_specification() {
        for (vector, wanted) in [
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", Severity::Critical),
            ("CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H", Severity::Important),
            ("CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:C/C:L/I:L/A:N", Severity::Moderate),
            ("CVSS:3.1/AV:N/AC:H/PR:N/UI:R/S:U/C:L/I:N/A:N", Severity::Low),
            ("CVSS:3.1/AV:P/AC:H/PR:H/UI:R/S:U/C:N/I:N/A:N", Severity::Unspecified),
        ] {
            assert_eq!(severity(vector), Some(wanted), "{vector}");
        }
    }
}
