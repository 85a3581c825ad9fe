//! Who asks. Owns the name that the log shows beside a change; never says what somebody may do.

use std::fmt;

/// The header in which the command line says which user of its machine asks.
pub(crate) const HEADER: &str = "x-upswarm-user";
const MAX_NAME: usize = 64;

/// A person or a program with a credential, as the log names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Actor(String);

impl Actor {
    /// Whoever shows the admin token. The user's name is what that side claims: it explains, and proves nothing.
    pub(crate) fn with_token(user: Option<&str>) -> Self {
        let name: String = user
            .unwrap_or_default()
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || "-_.@".contains(*c))
            .take(MAX_NAME)
            .collect();
        Self(if name.is_empty() { "admin token".to_owned() } else { format!("admin token ({name})") })
    }
}

impl Actor {
    /// A standing rule about a repository, which approvers signed.
    pub(crate) fn rule(number: u32) -> Self {
        Self(format!("rule r{number}"))
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_name_cannot_forge_a_line_of_the_log() {
        assert_eq!(Actor::with_token(None).to_string(), "admin token");
        assert_eq!(Actor::with_token(Some("eve\n\u{202e}root)")).to_string(), "admin token (everoot)");
        assert_eq!(Actor::with_token(Some(&"x".repeat(1000))).to_string().len(), 64 + "admin token ()".len());
    }
}
