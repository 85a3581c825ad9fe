//! A PostgreSQL of a test's own: in a temporary directory, on loopback, run by a user without rights, ended with the test.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::database::Place;

const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const PASSWORD: &str = "a p@ss/word:%";

/// A running server.
pub(crate) struct Postgres {
    dir: tempfile::TempDir,
    server: Child,
    port: u16,
}

/// Where the programs lie; distributions keep most of them out of the path.
fn program(name: &str) -> Option<PathBuf> {
    let of_path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&of_path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    places.extend(versions.map(|version| version.path().join("bin")));
    places.into_iter().map(|place| place.join(name)).find(|path| path.is_file())
}

/// PostgreSQL refuses to run as root.
fn without_rights(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]).arg(program);
    command
}

fn is_root() -> bool {
    crate::sys::is_administrator()
}

impl Postgres {
    /// Starts one. None when PostgreSQL is not installed here, which is an error where everything must be tested.
    pub(crate) fn start() -> Option<Self> {
        let (Some(initdb), Some(postgres)) = (program("initdb"), program("postgres")) else {
            assert!(std::env::var_os("CI").is_none(), "PostgreSQL is missing: install the package postgresql");
            // Straight to the terminal: what a test prints is shown only if it fails.
            let skipped = b"SKIPPED: PostgreSQL is not installed, so the fleet store was tested on SQLite alone\n";
            std::io::stderr().write_all(skipped).unwrap();
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let password = dir.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        if is_root() {
            let owned = Command::new("chown").arg("-R").arg("nobody:nogroup").arg(dir.path()).status();
            assert!(owned.unwrap().success());
        }
        let data = dir.path().join("data");
        let mut made = without_rights(&initdb);
        made.args(["--username=upswarm", "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync", "--no-locale"]);
        made.arg("--pwfile").arg(&password).arg("-D").arg(&data).stdout(Stdio::null());
        assert!(made.status().unwrap().success(), "initdb");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self::run(&postgres, dir.path(), port);
        let server = Self { dir, server, port };
        server.wait();
        Some(server)
    }

    fn run(postgres: &Path, dir: &Path, port: u16) -> Child {
        let mut command = without_rights(postgres);
        command.arg("-D").arg(dir.join("data")).args(["-h", "127.0.0.1", "-p", &port.to_string(), "-k"]).arg(dir);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn wait(&self) {
        let begin = Instant::now();
        let ready = program("pg_isready").unwrap_or_else(|| PathBuf::from("pg_isready"));
        loop {
            let asked = Command::new(&ready).args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]).status();
            if asked.unwrap().success() {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "PostgreSQL has not started");
            std::thread::yield_now();
        }
    }

    /// The address of a database there.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("postgres://upswarm@127.0.0.1:{}/{name}", self.port)
    }

    /// The database that every server has.
    pub(crate) fn place(&self) -> Place {
        Place::named(&self.url("postgres"), Some(PASSWORD)).unwrap()
    }

    /// The same, through the socket in the file system.
    pub(crate) fn place_by_socket(&self) -> Place {
        let url = format!("postgres://upswarm@localhost:{}/postgres?host={}", self.port, self.dir.path().display());
        Place::named(&url, Some(PASSWORD)).unwrap()
    }

    /// Ends the server at once, as a power cut does.
    pub(crate) fn stop(&mut self) {
        let ended = program("pg_ctl").map(|pg_ctl| {
            let mut command = without_rights(&pg_ctl);
            command.args(["stop", "-m", "immediate", "-s", "-D"]).arg(self.dir.path().join("data")).status()
        });
        assert!(ended.is_some_and(|ended| ended.is_ok_and(|status| status.success())), "ending PostgreSQL");
        self.server.wait().unwrap();
    }

    /// Starts it again with what it has.
    pub(crate) fn start_again(&mut self) {
        self.server = Self::run(&program("postgres").unwrap(), self.dir.path(), self.port);
        self.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.server.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.stop();
        }
    }
}
