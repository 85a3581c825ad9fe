//! A real node on 127.0.0.1 that is asked over its real socket.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Client, Local, MAX_CONNECTIONS, MAX_REQUEST, Request};
use crate::agent::driver;
use crate::api::invites::InviteRequest;
use crate::cli;
use crate::config::{Config, NodeDir};
use crate::coordinator::client::Client as Admin;
use crate::coordinator::directory::Directory;
use crate::coordinator::run::{self, Options, Running};
use crate::coordinator::setup;
use crate::error::CliError;

const RELEASE: &str = r#"
product = "org.example.tool"
version = "1"
title = "Tool 1"
classification = "update"
[[payload]]
path = "tool.bin"
[[detect]]
file = "/opt/tool"
payload = "tool.bin"
[install]
files = [{ payload = "tool.bin", path = "/opt/tool" }]
"#;

/// A coordinator and one node.
struct Office {
    dir: tempfile::TempDir,
    coordinator: Running,
    stop: CancellationToken,
    node: JoinHandle<anyhow::Result<()>>,
}

impl Office {
    async fn open() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let admin = dir.path().join("admin");
        setup::init(&admin, None).unwrap();
        let options = Options::on_loopback();
        let started = run::start(Directory::existing(&admin).unwrap(), options, CancellationToken::new()).await;
        let coordinator = started.unwrap_or_else(|error| panic!("{error}"));
        let request =
            InviteRequest { group: "office".into(), site: "berlin".into(), ttl_s: 600, uses: 1, addresses: Vec::new() };
        let token = Admin::of(&admin).unwrap().invite(&request).await.unwrap().token;
        let pc = dir.path().join("pc").display().to_string();
        let listen = "/ip4/127.0.0.1/tcp/0";
        verb(&["node", "join", &token, "--data-dir", &pc, "--listen", listen, "--no-mdns", "--label", "pc-1"])
            .await
            .unwrap();
        let node_dir = NodeDir::new(Path::new(&pc));
        let mut config = Config::read(&node_dir.config()).unwrap();
        config.install_root = Some(dir.path().join("root"));
        // What a node that was killed leaves behind.
        drop(std::os::unix::net::UnixListener::bind(Path::new(&pc).join("control.sock")).unwrap());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let node = tokio::spawn(async move { driver::run(&node_dir, config, stopped.cancelled_owned()).await });
        Self { dir, coordinator, stop, node }
    }

    fn pc(&self) -> PathBuf {
        self.dir.path().join("pc")
    }

    async fn ask(&self, request: Request) -> Result<Value, CliError> {
        let pc = self.pc();
        tokio::task::spawn_blocking(move || Client::connect(&pc)?.ask(&request)).await.unwrap()
    }

    async fn status_when(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut last = None;
        while Instant::now() < deadline {
            match self.ask(Request::Status {}).await {
                Ok(status) if wanted(&status) => return status,
                other => last = Some(other),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not within 30 seconds; last: {last:?}");
    }

    /// Ends the node, and shows that its socket is gone.
    async fn close(self) {
        self.stop.cancel();
        self.node.await.unwrap().unwrap();
        assert!(!self.dir.path().join("pc/control.sock").exists());
        self.coordinator.finish().await;
    }
}

/// Runs a verb as its own thread, as it would be its own process.
async fn verb(args: &[&str]) -> Result<(), CliError> {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let work = move || cli::try_run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn reason(result: Result<impl std::fmt::Debug, CliError>) -> String {
    match result {
        Err(CliError::Refused(reason)) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

fn explain(subject: &str) -> Request {
    Request::Explain { subject: Some(subject.to_owned()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_node_tells_how_it_stands_and_why() {
    let office = Office::open().await;
    let status = office.status_when(|status| status["coordinator"] == true).await;
    assert_eq!((status["label"].as_str(), status["members"].as_u64()), (Some("pc-1"), Some(1)));
    assert!(status["install_root"].as_str().is_some_and(|root| root.ends_with("/root")), "{status}");
    let mode = std::fs::metadata(office.pc().join("control.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let told = reason(office.ask(explain("org.example.tool")).await);
    assert!(told.contains("nothing here is called") && told.contains("none yet"), "{told}");

    let (file, admin) = (office.dir.path().join("tool.toml"), office.dir.path().join("admin").display().to_string());
    std::fs::write(office.dir.path().join("tool.bin"), vec![7; 300_000]).unwrap();
    std::fs::write(&file, RELEASE).unwrap();
    verb(&["publish", &file.display().to_string(), "--data-dir", &admin]).await.unwrap();
    let unapproved = |status: &Value| status["index_version"].as_u64() > Some(2);
    office.status_when(unapproved).await;
    let told = office.ask(explain("org.example.tool")).await.unwrap();
    let sentence = &told["sections"][0]["sentences"][0];
    assert!(sentence["text"].as_str().unwrap().contains("no approval names a group of this device"), "{told}");
    assert!(sentence["because"].as_str().unwrap().contains("index version"), "{told}");
    let put_off = Request::Defer { release: "org.example.tool".into(), seconds: 60 };
    assert!(reason(office.ask(put_off.clone()).await).contains("nothing to put off"));

    verb(&["approve", "org.example.tool@1", "--group", "office", "--data-dir", &admin]).await.unwrap();
    let installed = |status: &Value| status["deployments"][0]["state"] == "Installed";
    let status = office.status_when(installed).await;
    assert_eq!(status["bytes"]["origin"], 300_000);
    assert_eq!(
        (&status["releases"][0]["title"], &status["downloads"][0]["name"]),
        (&"Tool 1".into(), &"tool.bin".into())
    );
    let told = office.ask(explain("org.example.tool@1")).await.unwrap();
    assert!(told["sections"][0]["sentences"][0]["text"].as_str().unwrap().contains("is installed"), "{told}");
    let all = office.ask(Request::Explain { subject: None }).await.unwrap().to_string();
    assert!(
        all.contains("The coordinator is connected") && all.contains("292.9 KiB (100 %) came over the WAN"),
        "{all}"
    );
    assert!(reason(office.ask(put_off).await).contains("nothing is to be installed"));

    let pc = office.pc().display().to_string();
    for args in [
        &["top", "--once"][..],
        &["top", "--json"],
        &["node", "status"],
        &["explain"],
        &["explain", "org.example.tool"],
    ] {
        let args: Vec<&str> = args.iter().copied().chain(["--data-dir", &pc]).collect();
        verb(&args).await.unwrap_or_else(|error| panic!("{args:?}: {error}"));
    }
    assert!(reason(verb(&["explain", "nobody", "--data-dir", &pc]).await).contains("org.example.tool@1"));
    office.close().await;
}

/// Fails until a file is there, which it then takes as a sign that all is well.
fn stubborn(dir: &Path) -> String {
    let ready = dir.join("ready").display().to_string();
    let found = format!("command = [\"/usr/bin/test\", \"-e\", {ready:?}]");
    let wanted = format!("exec = [\"/usr/bin/test\", \"-e\", {ready:?}]");
    RELEASE
        .replace("file = \"/opt/tool\"\npayload = \"tool.bin\"", &found)
        .replace("files = [{ payload = \"tool.bin\", path = \"/opt/tool\" }]", &wanted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_is_tried_again_once_when_somebody_asks_for_it() {
    let office = Office::open().await;
    office.status_when(|status| status["coordinator"] == true).await;
    let admin = office.dir.path().join("admin").display().to_string();
    let file = office.dir.path().join("tool.toml");
    std::fs::write(office.dir.path().join("tool.bin"), vec![7; 3000]).unwrap();
    std::fs::write(&file, stubborn(office.dir.path())).unwrap();
    verb(&["publish", &file.display().to_string(), "--data-dir", &admin]).await.unwrap();
    let retry = ["retry", "org.example.tool@1", "--data-dir", &*admin];
    assert!(reason(verb(&retry).await).contains("is not approved"));
    verb(&["approve", "org.example.tool@1", "--group", "office", "--data-dir", &admin]).await.unwrap();
    let tried = |times: usize| {
        move |status: &Value| {
            let state = &status["deployments"][0]["state"];
            state == "Failed" && status["deployments"][0]["since"].is_number() && attempts(status) == times
        }
    };
    let first = office.status_when(tried(1)).await;
    let log = |office: &Office| std::fs::read_dir(office.pc().join("install/logs")).unwrap().count();
    assert_eq!(log(&office), 1, "{first}");

    // The admin asks for everybody, for this machine, for this group; each time it is tried once.
    refused_for(&admin, &["--device", "nobody"], "no device is named").await;
    refused_for(&admin, &["--group", "nobody"], "no group").await;
    verb(&[&retry[..], &["--device", "pc-1"]].concat()).await.unwrap();
    wait_for(|| log(&office) == 2).await;
    office.status_when(tried(1)).await;
    // On the machine itself, when the cause is gone.
    std::fs::write(office.dir.path().join("ready"), "").unwrap();
    let pc = office.pc().display().to_string();
    let here = ["node", "retry", "org.example.tool", "--data-dir", &*pc];
    verb(&here).await.unwrap();
    office.status_when(|status| status["deployments"][0]["state"] == "Installed").await;
    assert!(reason(verb(&here).await).contains("nothing to try again"));
    wait_until_refused(&retry, "nothing to try again").await;
    office.close().await;
}

fn attempts(status: &Value) -> usize {
    status["attempts"].as_array().map_or(0, Vec::len)
}

async fn refused_for(admin: &str, flags: &[&str], cause: &str) {
    let line = [&["retry", "org.example.tool@1", "--data-dir", admin], flags].concat();
    let said = reason(verb(&line).await);
    assert!(said.contains(cause), "{said}");
}

async fn wait_for(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 30 seconds");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The coordinator hears a moment later how the machine stands.
async fn wait_until_refused(line: &[&str], cause: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match verb(line).await {
            Err(CliError::Refused(reason)) if reason.contains(cause) => return,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A socket without a node behind it: requests pile up, unanswered.
fn silent() -> (tempfile::TempDir, Local, NodeDir) {
    let dir = tempfile::tempdir().unwrap();
    let node = NodeDir::new(dir.path());
    let local = Local::start(&node);
    (dir, local, node)
}

fn connect(dir: &tempfile::TempDir) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(dir.path().join("control.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    BufReader::new(stream)
}

fn line(stream: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    line
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_a_request_is_refused_and_costs_little() {
    let (dir, local, _) = silent();
    let work = move || {
        let mut stream = connect(&dir);
        for bad in ["hello\n", "{}\n", "{\"do\":\"reboot\"}\n", "{\"do\":\"status\",\"x\":1}\n", "\0\0\n", "[[[[[[[[\n"]
        {
            stream.get_mut().write_all(bad.as_bytes()).unwrap();
            let answer = line(&mut stream);
            assert!(answer.contains("not a request"), "{bad:?}: {answer}");
        }
        let mut long = connect(&dir);
        long.get_mut().write_all(&vec![b'x'; MAX_REQUEST]).unwrap();
        let answer = line(&mut long);
        assert!(answer.contains("at most 4096 bytes"), "{answer}");
        assert_eq!(long.read(&mut [0]).unwrap(), 0, "and the connection ends");
        dir
    };
    let dir = tokio::task::spawn_blocking(work).await.unwrap();
    drop(local);
    assert!(!dir.path().join("control.sock").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_are_told_so_and_room_comes_back() {
    let (dir, mut local, _) = silent();
    let ask = b"{\"do\":\"status\"}\n";
    let work = move || {
        let mut all: Vec<_> = (0..MAX_CONNECTIONS).map(|_| connect(&dir)).collect();
        all.iter_mut().for_each(|stream| stream.get_mut().write_all(ask).unwrap());
        let answer = line(&mut connect(&dir));
        assert!(answer.contains("8 programs are asking"), "{answer}");
        (dir, all)
    };
    let (dir, all) = tokio::task::spawn_blocking(work).await.unwrap();
    // The node ends every conversation by not answering.
    for _ in 0..MAX_CONNECTIONS {
        drop(local.next().await);
    }
    drop(all);
    let deadline = Instant::now() + Duration::from_secs(10);
    let asked = tokio::task::spawn_blocking(move || {
        while Instant::now() < deadline {
            let mut stream = connect(&dir);
            let sent = stream.get_mut().write_all(b"nonsense\n");
            let mut answer = String::new();
            if sent.is_ok() && stream.read_line(&mut answer).is_ok() && answer.contains("not a request") {
                return true;
            }
        }
        false
    });
    assert!(asked.await.unwrap(), "room comes back");
}

#[test]
fn nobody_there_is_said_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |dir: &Path| reason(Client::connect(dir));
    assert!(refused(dir.path()).contains("upswarm node join"));
    std::fs::write(dir.path().join("node.toml"), "").unwrap();
    assert!(refused(dir.path()).contains("upswarm node run"));
    // What a killed node leaves.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("control.sock")).unwrap());
    assert!(refused(dir.path()).contains("no node is running"));
}
