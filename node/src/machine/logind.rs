//! What logind knows of the machine's shutdown: who holds it off, and whether it is under way. Asked over D-Bus by `busctl`; a machine
//! without logind holds nothing off, and says so by failing at once.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use upswarm_protocol::time::Wall;

use crate::sys::{Ended, Program, find};

const MANAGER: [&str; 3] = ["org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"];
/// It answers within this, or counts as absent.
const WITHIN: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 << 10;
/// Nothing is begun when the machine is to go down within this.
const NEAR: Duration = Duration::from_secs(15 * 60);

/// The way to logind.
#[derive(Debug, Clone)]
pub(crate) struct Logind {
    program: Option<PathBuf>,
}

impl Logind {
    /// This machine's.
    pub(crate) fn of_this_machine() -> Self {
        Self { program: find("busctl") }
    }

    #[cfg(test)]
    pub(crate) fn asked_by(program: PathBuf) -> Self {
        Self { program: Some(program) }
    }

    /// Who keeps the machine from being shut down or restarted, with the reason they gave; the first of several.
    pub(crate) fn held_off(&self) -> Option<String> {
        let answer = self.ask(&[&["call"], &MANAGER[..], &["ListInhibitors"]].concat())?;
        let list = answer.first()?.get("data")?.get(0)?.as_array()?.clone();
        list.iter().find_map(|entry| {
            let word = |at: usize| entry.get(at).and_then(Value::as_str).unwrap_or_default();
            let holds = word(0).split(':').any(|what| what == "shutdown") && word(3) == "block";
            holds.then(|| format!("{} holds off a restart: {}", word(1), word(2)))
        })
    }

    /// Why nothing may begin: the machine is going down, or will within a quarter of an hour.
    pub(crate) fn goes_down(&self, now: Wall) -> Option<String> {
        let properties = ["PreparingForShutdown", "ScheduledShutdown"];
        let answer = self.ask(&[&["get-property"], &MANAGER[..], &properties[..]].concat())?;
        if answer.first()?.get("data")?.as_bool()? {
            return Some("the machine is being shut down".to_owned());
        }
        let scheduled = answer.get(1)?.get("data")?;
        let (kind, micros) = (scheduled.get(0)?.as_str()?, scheduled.get(1)?.as_u64()?);
        let left = Wall(micros / 1000).since(now);
        // An empty kind, or the end of time: nothing is scheduled. A dry run changes nothing.
        let real = !kind.is_empty() && !kind.starts_with("dry-") && micros > 0 && micros != u64::MAX;
        (real && left < NEAR).then(|| format!("the machine is to go down in {} s ({kind})", left.as_secs()))
    }

    /// The values that `busctl` prints, one in a line.
    fn ask(&self, args: &[&str]) -> Option<Vec<Value>> {
        let path = self.program.as_ref()?;
        let args = ["--system", "--json=short", "--timeout=4"].iter().chain(args).map(Into::into).collect();
        let mut said = Vec::new();
        let mut keep =
            |bytes: &[u8]| said.extend_from_slice(&bytes[..bytes.len().min(MAX_ANSWER.saturating_sub(said.len()))]);
        match (Program { path, args, env: &[], timeout: WITHIN, cancel: None }.run(&mut keep)) {
            Ok(Ended::Code(0)) => {}
            other => {
                tracing::debug!("logind does not answer: {other:?}");
                return None;
            }
        }
        let lines = String::from_utf8_lossy(&said).into_owned();
        lines.lines().map(|line| serde_json::from_str(line).ok()).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;

    /// A logind that has these inhibitors, and these values of its two properties.
    pub(crate) fn says(dir: &Path, inhibitors: &str, properties: [&str; 2]) -> Logind {
        let path = dir.join("busctl");
        let script = format!(
            "#!/bin/sh\ncase \"$4\" in\ncall) echo '{{\"type\":\"a(ssssuu)\",\"data\":[[{inhibitors}]]}}';;\n\
             get-property) echo '{}'; echo '{}';;\n*) exit 1;;\nesac\n",
            properties[0], properties[1]
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Logind::asked_by(path)
    }

    const UP: [&str; 2] = [r#"{"type":"b","data":false}"#, r#"{"type":"(st)","data":["",0]}"#];

    #[test]
    fn who_holds_a_restart_off_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let lid = r#"["handle-lid-switch:shutdown","Desktop","closes the session","delay",0,1]"#;
        assert_eq!(says(dir.path(), lid, UP).held_off(), None, "a delay is no block");
        let sleep = r#"["sleep","Player","plays a film","block",1000,2]"#;
        assert_eq!(says(dir.path(), sleep, UP).held_off(), None, "sleep is no restart");
        let burns = r#"["sleep:shutdown","Brasero","burns a disc","block",1000,3]"#;
        let logind = says(dir.path(), &format!("{lid},{sleep},{burns}"), UP);
        assert_eq!(logind.held_off().as_deref(), Some("Brasero holds off a restart: burns a disc"));
        assert_eq!(Logind::asked_by(dir.path().join("missing")).held_off(), None);
        assert_eq!((Logind { program: None }).goes_down(Wall(0)), None);
    }

    #[test]
    fn a_machine_that_goes_down_is_told_from_one_that_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let now = Wall(1_800_000_000_000);
        let scheduled = |kind: &str, in_s: u64| {
            let micros = (now.0 + in_s * 1000) * 1000;
            let second = format!(r#"{{"type":"(st)","data":["{kind}",{micros}]}}"#);
            says(dir.path(), "", [UP[0], &second]).goes_down(now)
        };
        assert_eq!(says(dir.path(), "", UP).goes_down(now), None);
        let down = [r#"{"type":"b","data":true}"#, UP[1]];
        assert_eq!(says(dir.path(), "", down).goes_down(now).as_deref(), Some("the machine is being shut down"));
        assert_eq!(scheduled("reboot", 300).as_deref(), Some("the machine is to go down in 300 s (reboot)"));
        assert_eq!(scheduled("reboot", 3600), None, "in an hour there is time enough");
        assert_eq!(scheduled("dry-reboot", 300), None);
        let never = format!(r#"{{"type":"(st)","data":["",{}]}}"#, u64::MAX);
        assert_eq!(says(dir.path(), "", [UP[0], &never]).goes_down(now), None);
    }
}
