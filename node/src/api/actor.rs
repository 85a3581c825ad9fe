//! Who asks. Owns the name that the log shows beside a change; never says what somebody may do.

use std::fmt;

/// The header in which the command line says which user of its machine asks.
pub(crate) const HEADER: &str = "x-upswarm-user";
const MAX_NAME: usize = 64;

/// A person or a program with a credential, as the log names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Actor {
    name: String,
    from: String,
}

impl Actor {
    /// Whoever shows the admin token. The user's name is what that side claims: it explains, and proves nothing.
    /// Where the request came from, the door has seen.
    pub(crate) fn with_token(user: Option<&str>, from: &str) -> Self {
        let name: String = user
            .unwrap_or_default()
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || "-_.@".contains(*c))
            .take(MAX_NAME)
            .collect();
        let name = if name.is_empty() { "admin token".to_owned() } else { format!("admin token ({name})") };
        Self { name, from: from.to_owned() }
    }

    /// A standing rule about a repository, which approvers signed.
    pub(crate) fn rule(number: u32) -> Self {
        Self { name: format!("rule r{number}"), from: "the coordinator".to_owned() }
    }

    /// What the coordinator does by itself.
    pub(crate) fn itself() -> Self {
        Self { name: "the coordinator".to_owned(), from: "the coordinator".to_owned() }
    }

    /// A verb that changes the directory of a coordinator that does not run.
    pub(crate) fn offline() -> Self {
        let name = "whoever can write the data directory".to_owned();
        Self { name, from: "this machine, while the coordinator was stopped".to_owned() }
    }

    /// Where the request came from.
    pub(crate) fn from(&self) -> &str {
        &self.from
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_name_cannot_forge_a_line_of_the_log() {
        assert_eq!(Actor::with_token(None, "").to_string(), "admin token");
        assert_eq!(Actor::with_token(Some("eve\n\u{202e}root)"), "").to_string(), "admin token (everoot)");
        assert_eq!(Actor::with_token(Some(&"x".repeat(1000)), "").to_string().len(), 64 + "admin token ()".len());
    }
}
