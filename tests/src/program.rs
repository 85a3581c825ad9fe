//! The program under test, as a user calls it.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::lab::Namespace;

/// Names the program under test; without it, the one that was built beside the tests.
pub const VARIABLE: &str = "UPSWARM_BIN";

/// What a verb did.
#[derive(Debug, Clone)]
pub struct Verb {
    /// Its exit code: 0 done, 1 failed, 2 wrong call, 3 refused.
    pub code: i32,
    /// The JSON object that it printed last; null if none.
    pub json: Value,
    /// What it said on standard error.
    pub said: String,
}

impl Verb {
    /// The JSON of a verb that must have done what it was asked for.
    #[track_caller]
    pub fn done(self) -> Value {
        assert_eq!(self.code, 0, "the verb failed: {}", self.said);
        self.json
    }

    /// The reason of a verb that must have ended with `code`: one line, the same on standard error and in the JSON.
    #[track_caller]
    pub fn refused(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}", self.said);
        let reason = self.json["reason"].as_str().unwrap_or_default().to_owned();
        assert!(!reason.is_empty() && self.said.contains(&reason), "{:?} {:?}", self.json, self.said);
        assert!(!self.said.contains("panicked"), "{}", self.said);
        reason
    }
}

/// Where the program is.
pub fn path() -> PathBuf {
    if let Some(path) = std::env::var_os(VARIABLE) {
        return path.into();
    }
    // target/PROFILE/deps/TEST-hash
    let test = std::env::current_exe().expect("the test's own path");
    let path = test.parent().and_then(|deps| deps.parent()).map(|profile| profile.join("upswarm")).unwrap_or_default();
    assert!(
        path.exists(),
        "{} is missing: cargo build --release -p upswarm-node, or name it in {VARIABLE}",
        path.display()
    );
    path
}

/// The program with arguments.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(path());
    command.args(args);
    command
}

/// Runs a verb with `--json` in a namespace.
pub fn verb(namespace: &Namespace, args: &[&str]) -> Verb {
    let mut command = command(args);
    command.arg("--json").env_remove("UPSWARM_LOG").stdin(std::process::Stdio::null());
    let output = namespace.run(|| command.output()).unwrap_or_else(|error| panic!("cannot run upswarm: {error}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("null");
    Verb {
        code: output.status.code().unwrap_or(-1),
        json: serde_json::from_str(last).unwrap_or(Value::Null),
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
