//! The demonstration: real processes of this program, real sockets on loopback, an origin held to a WAN's rate.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::api::status::{DeviceStatus, Status, StatusQuery};
use crate::cli::Common;
use crate::cli::output::word;
use crate::config::{Config, NodeDir, RunInfo};
use crate::coordinator::client::Client;
use crate::coordinator::directory::Directory;
use crate::error::CliError;
use crate::{sys, units};

use super::more;
use super::processes::{Process, Program};

/// How often the coordinator is asked how things stand.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A process must say that it is ready within this.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A killed node stays away for this long.
const AWAY: Duration = Duration::from_secs(3);

/// What to demonstrate.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: u16,
    pub(crate) payload: Option<PathBuf>,
    /// Bytes per second.
    pub(crate) wan: u64,
    pub(crate) kill: u16,
    pub(crate) keep: bool,
    /// Where the console listens, if it is wanted.
    pub(crate) console: Option<SocketAddr>,
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Outcome {
    nodes: u16,
    payload_bytes: u64,
    wan_payload_bytes: u64,
    /// Until the last machine was done that lived all the time.
    makespan: Duration,
    /// Until those that were killed were done too.
    with_killed: Duration,
    wan_limit: Duration,
    pub(crate) installed: u64,
    failed: u64,
    killed: Vec<String>,
    rows: Vec<Row>,
    kept: Option<PathBuf>,
}

/// One machine at the end.
#[derive(Debug, Clone, Default)]
struct Row {
    label: String,
    role: String,
    state: String,
    reason: String,
    done: u64,
    sources: [u64; 4],
}

impl Outcome {
    fn amplification(&self) -> f64 {
        self.wan_payload_bytes as f64 / self.payload_bytes.max(1) as f64
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "nodes": self.nodes,
            "payload_bytes": self.payload_bytes,
            "wan_payload_bytes": self.wan_payload_bytes,
            "amplification": (self.amplification() * 10_000.0).round() / 10_000.0,
            "makespan_s": (self.makespan.as_secs_f64() * 1000.0).round() / 1000.0,
            "with_killed_s": (self.with_killed.as_secs_f64() * 1000.0).round() / 1000.0,
            "wan_limit_s": (self.wan_limit.as_secs_f64() * 1000.0).round() / 1000.0,
            "installed": self.installed,
            "failed": self.failed,
            "killed": self.killed,
        })
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "\n{:<10} {:<6} {:<22} {:>11} {:>11} {:>11} {:>11}\n",
            "MACHINE", "ROLE", "STATE", "ORIGIN", "CACHE", "LAN", "REUSE"
        );
        for row in &self.rows {
            let [origin, cache, lan, reuse] = row.sources.map(units::size_words);
            text += &format!(
                "{:<10} {:<6} {:<22} {origin:>11} {cache:>11} {lan:>11} {reuse:>11}\n",
                row.label, row.role, row.state
            );
            if !row.reason.is_empty() {
                text += &format!("           {}\n", row.reason);
            }
        }
        let ratio = self.makespan.as_secs_f64() / self.wan_limit.as_secs_f64().max(1e-9);
        text += &format!(
            "\n{} of {} nodes installed {} each.\n\
             Over the WAN: {} for all of them, {:.3} copies (one download per machine would be {}).\n\
             Time{of}: {:.1} s; the WAN alone needs {:.1} s for one copy ({ratio:.2} x).\n",
            self.installed,
            self.nodes,
            units::size_words(self.payload_bytes),
            units::size_words(self.wan_payload_bytes),
            self.amplification(),
            self.nodes,
            self.makespan.as_secs_f64(),
            self.wan_limit.as_secs_f64(),
            of = if self.killed.is_empty() { "" } else { " of the machines that lived" },
        );
        if !self.killed.is_empty() {
            text += &format!(
                "Killed half way, started again {} s later: {}, done after {:.1} s.\n",
                AWAY.as_secs(),
                self.killed.join(", "),
                self.with_killed.as_secs_f64()
            );
        }
        text +=
            "The demo's signing keys all lay in one place; in earnest they do not (see the README, security model).";
        if let Some(kept) = &self.kept {
            text += &format!("\nEverything is kept in {}.", kept.display());
        }
        text
    }
}

/// One machine of the site while the demo runs.
struct Machine {
    label: String,
    dir: PathBuf,
    process: Process,
}

/// Runs the demonstration from an empty directory to the last report.
pub(crate) async fn run(plan: &Plan, common: Common) -> Result<Outcome, CliError> {
    let home = tempfile::Builder::new().prefix("upswarm-demo-").tempdir().context("cannot make a directory")?;
    let program = Program::this(home.path())?;
    let kept = if plan.keep { Some(home.path().to_owned()) } else { None };
    let stage = Stage { plan, common, home: home.path(), program };
    let outcome = tokio::select! {
        outcome = stage.play() => outcome,
        () = sys::asked_to_stop()? => Err(CliError::Failed(anyhow!("stopped by the user"))),
    };
    // Logs of a failure are worth more than a clean temporary directory.
    if plan.keep || outcome.is_err() {
        let path = home.keep();
        if outcome.is_err() {
            eprintln!("upswarm: logs are kept in {}", path.join("logs").display());
        }
    }
    outcome.map(|outcome| Outcome { kept, ..outcome })
}

struct Stage<'a> {
    plan: &'a Plan,
    common: Common,
    home: &'a Path,
    program: Program,
}

impl Stage<'_> {
    fn say(&self, text: &str) {
        if !self.common.is_json() {
            eprintln!("{text}");
        }
    }

    async fn play(&self) -> Result<Outcome, CliError> {
        let data_dir = self.home.join("coordinator");
        let data = data_dir.display().to_string();
        self.say("demo: every key lies in one directory; never do that in earnest");
        self.program.verb(&["coordinator", "init", "--data-dir", &data, "--demo-keys"]).await?;
        let rate = format!("{}bit", self.plan.wan * 8);
        let mut run = vec!["coordinator", "run", "--data-dir", &data, "--origin-rate", &rate];
        run.extend(["--listen", "/ip4/127.0.0.1/tcp/0", "--http", "127.0.0.1:0"]);
        let console = self.plan.console.map(|address| address.to_string());
        if let Some(console) = &console {
            run.extend(["--console", console]);
        }
        let _coordinator = self.program.start("coordinator", &run)?;
        let client = self.client(&data_dir).await?;
        if console.is_some() {
            let link = self.link(&data_dir).await?;
            eprintln!("demo: open this once, in one browser: {link}");
        }
        let cache = self.machine("cache", "caches", true, None, &data).await?;
        let entry = self.ready(&cache).await?.listen.into_iter().next().context("the cache listens nowhere")?;
        self.program.verb(&["group", "add", "office", "--data-dir", &data]).await?;
        let mut machines = Vec::new();
        for n in 1..=self.plan.nodes {
            machines.push(self.machine(&format!("node-{n}"), "office", false, Some(&entry), &data).await?);
        }
        for machine in &machines {
            self.ready(machine).await?;
        }
        machines.push(cache);
        self.everyone_heard(&client, machines.len()).await?;
        self.say(&format!("{} nodes and a branch cache are up", self.plan.nodes));
        let release_file = self.release_file()?;
        let published =
            self.program.verb(&["publish", "--data-dir", &data, &release_file.display().to_string()]).await?;
        let release = published["release"].as_str().context("publish printed no release id")?.to_owned();
        let lens = published["payloads"].as_array().into_iter().flatten().filter_map(|p| p["len"].as_u64());
        let payload_bytes: u64 = lens.sum();
        self.say(&format!("published {} ({})", &release[..8], units::size_words(payload_bytes)));
        let begin = Instant::now();
        self.program.verb(&["approve", "--data-dir", &data, &release, "--group", "office"]).await?;
        let outcome = self.watch(&client, &mut machines, &release, payload_bytes, begin).await?;
        if console.is_some() {
            more::to_look_at(&self.program, self.home, &data).await?;
            self.common.print(&outcome.json(), &outcome.text());
            self.say("demo: the console stays until you interrupt this");
            std::future::pending::<()>().await;
        }
        Ok(outcome)
    }

    /// The console's link, when it is there.
    async fn link(&self, data_dir: &Path) -> anyhow::Result<String> {
        let path = Directory::new(data_dir).console_link();
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            match std::fs::read_to_string(&path) {
                Ok(link) => return Ok(link.trim().to_owned()),
                Err(_) if Instant::now() < deadline => tokio::time::sleep(LOOK_EVERY / 5).await,
                Err(_) => bail!("the console does not start; see {}/logs/coordinator.log", self.home.display()),
            }
        }
    }

    async fn client(&self, data_dir: &Path) -> Result<Client, CliError> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            match Client::of(data_dir) {
                Ok(client) if client.status(&everything()).await.is_ok() => return Ok(client),
                Ok(_) | Err(_) if Instant::now() < deadline => tokio::time::sleep(LOOK_EVERY / 5).await,
                Ok(_) => return Err(CliError::Failed(anyhow!("the coordinator does not answer; see its log"))),
                Err(error) => return Err(error),
            }
        }
    }

    /// Invites, joins and starts one machine.
    async fn machine(
        &self,
        label: &str,
        group: &str,
        cache: bool,
        entry: Option<&str>,
        coordinator: &str,
    ) -> Result<Machine, CliError> {
        let invited = self
            .program
            .verb(&["coordinator", "invite", "--data-dir", coordinator, "--group", group, "--site", "office"])
            .await?;
        let token = invited["token"].as_str().context("invite printed no token")?;
        let dir = self.home.join(label);
        let text = dir.display().to_string();
        let mut join = vec![
            "node",
            "join",
            token,
            "--data-dir",
            &text,
            "--label",
            label,
            "--listen",
            "/ip4/127.0.0.1/tcp/0",
            "--no-mdns",
        ];
        if cache {
            join.extend(["--role", "cache"]);
        }
        if let Some(entry) = entry {
            join.extend(["--peer", entry]);
        }
        self.program.verb(&join).await?;
        let node = NodeDir::new(&dir);
        let mut config = Config::read(&node.config())?;
        config.install_root = Some(dir.join("root"));
        config.write(&node.config())?;
        let process = self.program.start(label, &["node", "run", "--data-dir", &text])?;
        Ok(Machine { label: label.to_owned(), dir, process })
    }

    async fn ready(&self, machine: &Machine) -> anyhow::Result<RunInfo> {
        let path = NodeDir::new(&machine.dir).run_info();
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let info = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            if let Some(info) = info {
                return Ok(info);
            }
            if Instant::now() > deadline {
                bail!("{} does not get ready; see its log in {}", machine.label, self.home.join("logs").display());
            }
            tokio::time::sleep(LOOK_EVERY / 5).await;
        }
    }

    /// Waits until every machine has reported once.
    async fn everyone_heard(&self, client: &Client, machines: usize) -> Result<(), CliError> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let status = client.status(&everything()).await?;
            let heard = status.devices.iter().filter(|device| device.last_seen_s.is_some()).count();
            if heard >= machines {
                return Ok(());
            }
            if Instant::now() > deadline {
                let text =
                    format!("only {heard} of {machines} machines have reported; see {}/logs", self.home.display());
                return Err(CliError::Failed(anyhow!(text)));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The RELEASE.toml that was named, or one for the file that was named, or for this program.
    fn release_file(&self) -> anyhow::Result<PathBuf> {
        let file = match &self.plan.payload {
            Some(path) if path.extension().is_some_and(|extension| extension == "toml") => return Ok(path.clone()),
            Some(path) => path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?,
            None => std::env::current_exe()?,
        };
        let name = file.file_name().context("the payload has no file name")?.to_string_lossy().into_owned();
        let release = json!({
            "product": "org.upswarm.demo",
            "version": "1.0",
            "title": format!("Demo of {name}"),
            "classification": "update",
            "severity": "moderate",
            "payload": [{ "path": file }],
            "detect": [{ "file": "/opt/upswarm-demo/payload", "payload": name }],
            "install": { "files": [{ "payload": name, "path": "/opt/upswarm-demo/payload", "mode": "0755" }] },
        });
        let path = self.home.join("release.toml");
        std::fs::write(&path, toml::to_string(&release)?).context("cannot write release.toml")?;
        Ok(path)
    }

    async fn watch(
        &self,
        client: &Client,
        machines: &mut [Machine],
        release: &str,
        payload_bytes: u64,
        begin: Instant,
    ) -> Result<Outcome, CliError> {
        let wan_limit = Duration::from_secs_f64(payload_bytes as f64 / self.plan.wan as f64);
        let patience = wan_limit * 6 + Duration::from_secs(120);
        let bars = Bars::new(self.common, machines, payload_bytes);
        let (mut killed, mut away): (Vec<String>, Vec<(usize, Instant)>) = (Vec::new(), Vec::new());
        let mut to_kill = usize::from(self.plan.kill);
        let mut lived: Option<Duration> = None;
        loop {
            let status = client.status(&everything()).await?;
            let rows = rows(&status, release);
            bars.show(&rows);
            let office = || rows.values().filter(|row| row.role == "node");
            let installed = office().filter(|row| row.state == "Installed").count() as u64;
            let failed = office().filter(|row| row.state == "Failed").count() as u64;
            let served = status.origin.payload_bytes;
            if to_kill > 0 && served * 2 >= payload_bytes {
                let mut busy: Vec<_> = (0..machines.len()).collect();
                busy.sort_by_key(|at| {
                    core::cmp::Reverse(rows.get(&machines[*at].label).map_or(0, |row| row.sources[0]))
                });
                for at in busy.into_iter().take(to_kill) {
                    let machine = &mut machines[at];
                    machine.process.kill()?;
                    bars.note(&format!(
                        "{} killed (kill -9) at {} of the WAN's bytes",
                        machine.label,
                        units::size_words(served)
                    ));
                    killed.push(machine.label.clone());
                    away.push((at, Instant::now()));
                }
                to_kill = 0;
            }
            for (at, _) in away.extract_if(.., |(_, since)| since.elapsed() > AWAY) {
                let machine = &mut machines[at];
                let dir = machine.dir.display().to_string();
                machine.process = self.program.start(&machine.label, &["node", "run", "--data-dir", &dir])?;
                bars.note(&format!("{} started again", machine.label));
            }
            let at_rest = |row: &Row| row.role != "node" || matches!(row.state.as_str(), "Installed" | "Failed");
            let mut survivors = machines.iter().filter(|machine| !killed.contains(&machine.label));
            // Nobody knows who is going to be killed until it has happened.
            if to_kill == 0 && survivors.all(|machine| rows.get(&machine.label).is_some_and(at_rest)) {
                lived.get_or_insert_with(|| begin.elapsed());
            }
            let nodes = u64::from(self.plan.nodes);
            if (installed + failed >= nodes && away.is_empty()) || begin.elapsed() > patience {
                bars.done();
                return Ok(Outcome {
                    nodes: self.plan.nodes,
                    payload_bytes,
                    wan_payload_bytes: served,
                    makespan: lived.unwrap_or_else(|| begin.elapsed()),
                    with_killed: begin.elapsed(),
                    wan_limit,
                    installed,
                    failed: nodes - installed,
                    killed,
                    rows: rows.into_values().collect(),
                    kept: None,
                });
            }
            for machine in machines.iter_mut() {
                if !killed.contains(&machine.label) && machine.process.has_ended()? {
                    let log = self.home.join("logs").join(format!("{}.log", machine.label));
                    return Err(CliError::Failed(anyhow!(
                        "{} has ended by itself; see {}",
                        machine.label,
                        log.display()
                    )));
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Every device with its deployments.
fn everything() -> StatusQuery {
    StatusQuery { devices: true, ..StatusQuery::default() }
}

/// How every machine stands with a release, by label.
fn rows(status: &Status, release: &str) -> BTreeMap<String, Row> {
    let row = |device: &DeviceStatus| {
        let deployment = device.deployments.iter().find(|known| known.release.to_string() == release);
        let bytes = device.bytes;
        let sources = [bytes.origin, bytes.cache, bytes.lan_peer, bytes.local_reuse];
        let row = Row {
            label: device.label.clone(),
            role: word(&device.role),
            state: deployment.map_or("-".to_owned(), |known| format!("{:?}", known.state)),
            reason: deployment.map(|known| known.reason.clone()).unwrap_or_default(),
            done: deployment.map_or_else(|| sources.iter().sum(), |known| known.done),
            sources,
        };
        (device.label.clone(), row)
    };
    status.devices.iter().map(row).collect()
}

/// A progress bar per machine where a person watches, a line now and then elsewhere.
struct Bars {
    bars: BTreeMap<String, ProgressBar>,
    quiet: bool,
    _all: MultiProgress,
}

impl Bars {
    fn new(common: Common, machines: &[Machine], payload_bytes: u64) -> Self {
        let all = MultiProgress::new();
        let visible = common.shows_progress();
        let bar = |machine: &Machine| {
            let bar = ProgressBar::new(payload_bytes);
            let bar = if visible { all.add(bar) } else { ProgressBar::hidden() };
            if let Ok(style) = ProgressStyle::with_template("{prefix:<10} [{bar:32}] {bytes:>11} {msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(machine.label.clone());
            (machine.label.clone(), bar)
        };
        Self { bars: machines.iter().map(bar).collect(), quiet: common.is_json(), _all: all }
    }

    fn show(&self, rows: &BTreeMap<String, Row>) {
        for (label, row) in rows {
            if let Some(bar) = self.bars.get(label) {
                bar.set_position(row.done);
                bar.set_message(row.state.clone());
            }
        }
    }

    fn note(&self, text: &str) {
        match self.bars.values().next() {
            Some(bar) if std::io::stderr().is_terminal() && !self.quiet => bar.println(text),
            _ if !self.quiet => eprintln!("{text}"),
            _ => {}
        }
    }

    fn done(&self) {
        self.bars.values().for_each(ProgressBar::finish_and_clear);
    }
}
