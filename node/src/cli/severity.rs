//! Words for how bad something is: those of feeds and of releases, which mean the same.

use upswarm_protocol::catalog::Severity;

/// Reads one; `high` is important, `medium` is moderate.
pub(super) fn parse(text: &str) -> Result<Severity, String> {
    match text.to_ascii_lowercase().as_str() {
        "low" => Ok(Severity::Low),
        "moderate" | "medium" => Ok(Severity::Moderate),
        "important" | "high" => Ok(Severity::Important),
        "critical" => Ok(Severity::Critical),
        _ => Err(format!("{text:?} is none; say low, medium (or moderate), high (or important) or critical")),
    }
}

/// How it is shown; `-` where nobody has said.
pub(super) fn shown(severity: Option<Severity>) -> String {
    match severity {
        None | Some(Severity::Unspecified) => "-",
        Some(Severity::Low) => "low",
        Some(Severity::Moderate) => "medium",
        Some(Severity::Important) => "high",
        Some(Severity::Critical) => "critical",
    }
    .to_owned()
}

/// What `severity>=high` asks for; nothing for any other text.
pub(super) fn at_least(text: &str) -> Option<Result<Severity, String>> {
    let rest = text.trim().strip_prefix("severity")?.trim_start().strip_prefix(">=")?;
    Some(parse(rest.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_feeds_and_of_releases_mean_the_same() {
        for (text, wanted) in [
            ("high", Severity::Important),
            ("Important", Severity::Important),
            ("medium", Severity::Moderate),
            ("moderate", Severity::Moderate),
            ("low", Severity::Low),
            ("critical", Severity::Critical),
        ] {
            assert_eq!(parse(text), Ok(wanted));
            assert_eq!(parse(&shown(Some(wanted))), Ok(wanted), "what is shown is understood");
            assert_eq!(at_least(&format!("severity >= {text}")), Some(Ok(wanted)));
        }
        assert!(parse("unspecified").unwrap_err().contains("low, medium"));
        assert_eq!(at_least("openssl"), None);
        assert!(at_least("severity>=bad").unwrap().is_err());
    }
}
