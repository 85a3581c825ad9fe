//! Names and passwords for mirrors, from the file `repositories/auth.conf` of the data directory, in the form of apt_auth.conf(5):
//!
//! ```text
//! machine packages.example.com/debian login company password secret
//! ```
//! It is read at each request, so that a change counts at once. Without `http://` before the name, an entry is for HTTPS alone. What it
//! says goes to that host and below that path, and to no other: not after a redirect to another host, and not into any log.

use std::io;
use std::path::{Path, PathBuf};

/// A longer file is none of this kind.
const MAX_FILE: u64 = 256 << 10;

/// The file, which may not be there.
#[derive(Debug, Clone, Default)]
pub(super) struct Credentials(Option<PathBuf>);

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) name: String,
    pub(super) password: String,
}

impl Credentials {
    pub(super) fn of(dir: &Path) -> Self {
        Self(Some(dir.join("auth.conf")))
    }

    /// Who asks for a URL; nobody in particular when no entry is for it. The error says what is wrong with the file.
    pub(super) async fn login(&self, url: &str) -> Result<Option<Login>, String> {
        let Some(path) = &self.0 else { return Ok(None) };
        let wrong = |what: String| format!("{}: {what}", path.display());
        match tokio::fs::metadata(path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(error.to_string())),
            Ok(found) if found.len() > MAX_FILE => return Err(wrong(format!("it has more than {MAX_FILE} bytes"))),
            Ok(_) => {}
        }
        let text = tokio::fs::read_to_string(path).await.map_err(|error| wrong(error.to_string()))?;
        login(&text, url).map_err(wrong)
    }
}

/// The first entry that is for a URL.
fn login(text: &str, url: &str) -> Result<Option<Login>, String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut words = lines.flat_map(str::split_ascii_whitespace).peekable();
    while let Some(word) = words.next() {
        if word != "machine" {
            return Err("write each entry as: machine HOST login NAME password PASSWORD".to_owned());
        }
        let place = words.next().ok_or("an entry without a host")?;
        let (mut name, mut password) = (None, None);
        while let Some(key) = words.next_if(|word| *word != "machine") {
            let value = words.next().map(str::to_owned);
            match key {
                "login" => name = value,
                "password" => password = value,
                _ => return Err(format!("the entry for {place} has something else than login and password")),
            }
        }
        let (Some(name), Some(password)) = (name, password) else {
            return Err(format!("the entry for {place} lacks a login or a password"));
        };
        if is_for(place, url) {
            return Ok(Some(Login { name, password }));
        }
    }
    Ok(None)
}

/// Whether a place, `HOST[:PORT][/PATH]` perhaps after a scheme, is where a URL leads.
fn is_for(place: &str, url: &str) -> bool {
    let (scheme, place) = place.split_once("://").unwrap_or(("https", place));
    let Some(rest) = url.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")) else { return false };
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let (authority, below) = rest.split_once('/').unwrap_or((rest, ""));
    let named = if host.contains(':') { authority } else { authority.split(':').next().unwrap_or_default() };
    let path = path.trim_end_matches('/');
    let within =
        path.is_empty() || below.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    host.eq_ignore_ascii_case(named) && within
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_for_its_host_and_path_and_for_https_unless_it_says_otherwise() {
        let text = "# mirrors\nmachine a.example/debian login x password 1\nmachine a.example\n  login y\n  password 2\n\
                    machine http://b.example:8080 login z password 3\n";
        let found = |url: &str| login(text, url).unwrap().map(|login| login.name + &login.password);
        for (url, who) in [
            ("https://a.example/debian/dists/x", Some("x1")),
            ("https://a.example/debian-security/dists/x", Some("y2")),
            ("https://A.example:8443/other", Some("y2")),
            ("http://a.example/debian/dists/x", None),
            ("https://a.example.evil.example/debian/x", None),
            ("http://b.example:8080/x", Some("z3")),
            ("http://b.example/x", None),
            ("https://b.example:8080/x", None),
        ] {
            assert_eq!(found(url).as_deref(), who, "{url}");
        }
        for bad in ["login x", "machine a login x", "machine a login x password", "machine a user x"] {
            assert!(login(bad, "https://a/").is_err(), "{bad}");
        }
    }
}
