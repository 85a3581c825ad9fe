//! A coordinator and its machines, driven by the verbs that an admin uses.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use upswarm_protocol::chunk::ChunkList;

use crate::clock::FakeClock;
use crate::lab::{Host, Lab, WAN_ADDRESS};
use crate::process::{Process, Usage};
use crate::program::{self, Verb};
use crate::wait;

/// A process must be ready, and a machine must have reported, within this.
pub const READY_WITHIN: Duration = Duration::from_secs(40);
/// The group of every machine that a test does not say otherwise of.
pub const GROUP: &str = "office";
/// Where releases of the tests put their payload.
const PLACE: &str = "opt/lab/payload";

/// What `upswarm status --json` says, as far as tests look at it.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// Every device that was ever let in.
    pub devices: Vec<Device>,
    /// The coordinator's own origin.
    pub origin: OriginStatus,
}

/// The coordinator's own origin.
#[derive(Debug, Clone, Deserialize)]
pub struct OriginStatus {
    /// Payload bytes that it has served since it started.
    pub payload_bytes: u64,
}

/// A device of the status.
#[derive(Debug, Clone, Deserialize)]
pub struct Device {
    /// Its name for people.
    pub label: String,
    /// Its site's name.
    pub site: String,
    /// Seconds since its last report; nothing before the first.
    pub last_seen_s: Option<u64>,
    /// The version of the index that it acts on.
    pub index_version: u64,
    /// Payload bytes by source.
    pub bytes: Bytes,
    /// What an admin should look at.
    pub alarms: Vec<String>,
    /// Where it stands with each approved release.
    pub deployments: Vec<Deployment>,
}

/// Payload bytes of a device by source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "named as in the status")]
pub struct Bytes {
    pub origin: u64,
    pub cache: u64,
    pub lan_peer: u64,
    pub local_reuse: u64,
}

/// Where a device stands with a release.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "named as in the status")]
pub struct Deployment {
    pub release: String,
    pub state: String,
    pub sub_state: String,
    pub reason: String,
    pub done: u64,
    pub total: u64,
}

impl Status {
    /// The device with this label.
    pub fn device(&self, label: &str) -> Option<&Device> {
        self.devices.iter().find(|device| device.label == label)
    }

    /// Where a device stands with a release.
    pub fn deployment(&self, label: &str, release: &str) -> Option<&Deployment> {
        self.device(label)?.deployments.iter().find(|deployment| deployment.release == release)
    }
}

/// What `upswarm publish` has made.
#[derive(Debug, Clone, Deserialize)]
pub struct Published {
    /// The release's id.
    pub release: String,
    /// Its payloads.
    pub payloads: Vec<PublishedPayload>,
}

/// A payload of a release.
#[derive(Debug, Clone, Deserialize)]
pub struct PublishedPayload {
    /// BLAKE3, in hex.
    pub id: String,
    /// Bytes.
    pub len: u64,
}

/// The coordinator, in the `wan` namespace.
#[derive(Debug)]
pub struct Coordinator<'lab> {
    lab: &'lab Lab,
    /// Its data directory.
    pub dir: PathBuf,
    /// Base URLs of origins; empty for its own.
    pub origins: Vec<String>,
    /// Its wall clock, if it is not the right one.
    pub clock: Option<FakeClock>,
    /// More arguments of `coordinator run`.
    pub args: Vec<String>,
    /// Where machines connect, and where the origin listens.
    pub ports: (u16, u16),
    process: Option<Process>,
}

impl<'lab> Coordinator<'lab> {
    /// Sets one up with demo keys. It does not run yet.
    pub fn init(lab: &'lab Lab) -> Self {
        let dir = lab.dir().join("coordinator");
        program::verb(&lab.wan, &["coordinator", "init", "--demo-keys", "--data-dir", text(&dir)]).done();
        Self::of(lab, dir)
    }

    /// One whose directory is there. It does not run yet.
    pub fn of(lab: &'lab Lab, dir: PathBuf) -> Self {
        let ports = (4701, 4702);
        Self { lab, dir, origins: Vec::new(), clock: None, args: Vec::new(), ports, process: None }
    }

    /// Sets one up and runs it.
    pub fn new(lab: &'lab Lab) -> Self {
        let mut coordinator = Self::init(lab);
        coordinator.start();
        coordinator
    }

    /// Runs it, and waits until it answers.
    pub fn start(&mut self) {
        let (listen, http) =
            (format!("/ip4/{WAN_ADDRESS}/tcp/{}", self.ports.0), format!("{WAN_ADDRESS}:{}", self.ports.1));
        let mut args = vec!["coordinator", "run", "--data-dir", text(&self.dir), "--listen", &listen, "--http", &http];
        for origin in &self.origins {
            args.extend(["--origin-url", origin]);
        }
        args.extend(self.args.iter().map(String::as_str));
        let log = self.lab.dir().join("coordinator.log");
        let mut command = program::command(&args);
        self.clock.iter().for_each(|clock| clock.show(&mut command));
        let mut process = Process::start(&self.lab.wan, "coordinator", &mut command, &log);
        wait::until("the coordinator", READY_WITHIN, || {
            process.must_run();
            let verb = self.verb(&["status"]);
            if verb.code == 0 { Ok(()) } else { Err(verb.said) }
        });
        self.process = Some(process);
    }

    /// Ends it as an admin does.
    pub fn stop(&mut self) {
        let process = self.process.take().expect("the coordinator runs");
        let status = process.stop();
        assert!(status.success(), "the coordinator ended with {status}");
    }

    /// Its process, which must run.
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("the coordinator runs").id()
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) {
        self.process.take().expect("the coordinator runs").kill();
    }

    /// Runs a verb on its data directory.
    pub fn verb(&self, args: &[&str]) -> Verb {
        program::verb(&self.lab.wan, &[args, &["--data-dir", text(&self.dir)]].concat())
    }

    /// A join token for machines of [`GROUP`].
    pub fn invite(&self, site: &str, uses: usize) -> String {
        let uses = uses.to_string();
        let args = ["coordinator", "invite", "--group", GROUP, "--site", site, "--uses", &uses];
        self.verb(&args).done()["token"].as_str().expect("a token").to_owned()
    }

    /// Publishes a payload as a release that puts it in place.
    pub fn publish(&self, version: &str, payload: &Path) -> Published {
        self.publish_release(version, &[("payload".to_owned(), payload, PLACE.to_owned())])
    }

    /// Publishes many payloads as one release that puts them side by side.
    pub fn publish_many(&self, version: &str, payloads: &[PathBuf]) -> Published {
        let many = payloads.iter().enumerate();
        let many: Vec<_> =
            many.map(|(at, path)| (format!("part-{at}"), path.as_path(), format!("{PLACE}-{at}"))).collect();
        self.publish_release(version, &many)
    }

    /// Publishes payloads by name, file and place; that the first is there tells that the release is installed.
    fn publish_release(&self, version: &str, payloads: &[(String, &Path, String)]) -> Published {
        let release = self.lab.dir().join(format!("release-{version}.toml"));
        let (first, _, place) = &payloads[0];
        let tables: String =
            payloads.iter().map(|(name, path, _)| format!("[[payload]]\npath = {path:?}\nname = {name:?}\n")).collect();
        let file =
            |(name, _, place): &(String, &Path, String)| format!("{{ payload = {name:?}, path = \"/{place}\" }}");
        let files: Vec<_> = payloads.iter().map(file).collect();
        let content = format!(
            "product = \"org.example.lab\"\nversion = \"{version}\"\ntitle = \"Lab {version}\"\nclassification = \"update\"\n\
             {tables}[[detect]]\nfile = \"/{place}\"\npayload = {first:?}\n[install]\nfiles = [{}]\n",
            files.join(", ")
        );
        fs::write(&release, content).expect("a release file");
        serde_json::from_value(self.verb(&["publish", text(&release)]).done()).expect("what publish prints")
    }

    /// Approves a release for [`GROUP`].
    pub fn approve(&self, release: &str) {
        self.verb(&["approve", release, "--group", GROUP]).done();
    }

    /// The fleet as it reports.
    pub fn status(&self) -> Status {
        serde_json::from_value(self.verb(&["status"]).done()).expect("what status prints")
    }

    /// Waits until every one of these machines has reported.
    pub fn wait_for_reports(&self, nodes: &[Node<'_>]) {
        wait::until("the first report of every machine", READY_WITHIN, || {
            let status = self.status();
            let silent =
                |node: &&Node<'_>| status.device(&node.label).is_none_or(|device| device.last_seen_s.is_none());
            match nodes.iter().filter(silent).count() {
                0 => Ok(()),
                silent => Err(format!("{silent} of {} are silent", nodes.len())),
            }
        });
    }

    /// Waits until every one of these machines reports `Installed`, and returns that status.
    pub fn wait_for_installs(&self, nodes: &[Node<'_>], release: &str, within: Duration) -> Status {
        wait::until("every machine to report Installed", within, || {
            let status = self.status();
            let mut states = BTreeMap::<String, usize>::new();
            for node in nodes {
                let state = match status.deployment(&node.label, release) {
                    Some(found) => format!("{}/{} {}", found.state, found.sub_state, found.reason),
                    None => {
                        let index = status.device(&node.label).map_or(0, |device| device.index_version);
                        format!("not heard of it (index {index})")
                    }
                };
                *states.entry(state).or_default() += 1;
            }
            let all = states.keys().all(|state| state.starts_with("Installed/"));
            if all { Ok(status) } else { Err(format!("{states:?}")) }
        })
    }

    /// Waits until every machine has reported that it holds every byte, verified.
    pub fn wait_for_bytes(&self, nodes: &[Node<'_>], release: &str, within: Duration) {
        wait::until("every machine to hold every byte", within, || {
            let status = self.status();
            let holds = |node: &&Node<'_>| {
                status
                    .deployment(&node.label, release)
                    .is_some_and(|found| found.total > 0 && found.done == found.total)
            };
            let holding = nodes.iter().filter(holds).count();
            if holding == nodes.len() { Ok(()) } else { Err(format!("{holding} of {} do", nodes.len())) }
        });
    }

    /// The chunk list of a payload.
    pub fn chunk_list(&self, payload: &PublishedPayload) -> ChunkList {
        let entries = fs::read_dir(self.dir.join("doc")).expect("the coordinator's documents");
        let lists = entries.flatten().filter_map(|entry| {
            let hash = entry.file_name().to_string_lossy().parse().ok()?;
            ChunkList::parse(&fs::read(entry.path()).ok()?, hash).ok()
        });
        // Payloads of the tests differ in length.
        lists.into_iter().find(|list| list.payload_len() == payload.len).expect("the payload's chunk list")
    }
}

/// How a machine joins.
#[derive(Debug, Clone, Copy, Default)]
pub struct Joining {
    /// As a branch cache.
    pub cache: bool,
    /// Without multicast DNS: the coordinator's hints must do.
    pub no_mdns: bool,
}

/// A machine with its node.
#[derive(Debug)]
pub struct Node<'lab> {
    lab: &'lab Lab,
    /// Where it runs.
    pub host: &'lab Host,
    /// Its name in the status.
    pub label: String,
    /// Its data directory.
    pub dir: PathBuf,
    /// Its wall clock, if it is not the right one.
    pub clock: Option<FakeClock>,
    process: Option<Process>,
}

impl<'lab> Node<'lab> {
    /// Joins with a token. It does not run yet.
    pub fn join(lab: &'lab Lab, host: &'lab Host, token: &str, joining: Joining) -> Self {
        let label = format!("pc-{}", host.address.to_string().trim_start_matches("10.77.").replace('.', "-"));
        let dir = lab.dir().join(&label);
        let mut args = vec!["node", "join", token, "--data-dir", text(&dir), "--label", &label];
        args.extend(["--listen", "/ip4/0.0.0.0/tcp/4410"]);
        if joining.cache {
            args.extend(["--role", "cache"]);
        }
        if joining.no_mdns {
            args.push("--no-mdns");
        }
        program::verb(&host.namespace, &args).done();
        let root = dir.join("root").display().to_string();
        let node = Self { lab, host, label, dir, clock: None, process: None };
        node.configure(|config| {
            config.insert("install_root".into(), root.into());
        });
        node
    }

    /// Changes its `node.toml`.
    pub fn configure(&self, change: impl FnOnce(&mut toml::Table)) {
        let path = self.dir.join("node.toml");
        let read = fs::read_to_string(&path).expect("node.toml");
        let mut config: toml::Table = read.parse().expect("node.toml");
        change(&mut config);
        fs::write(&path, config.to_string()).expect("node.toml");
    }

    /// Runs it; it is ready a little later.
    pub fn start(&mut self) {
        let log = self.lab.dir().join(format!("{}.log", self.label));
        let mut command = program::command(&["node", "run", "--data-dir", text(&self.dir)]);
        self.clock.iter().for_each(|clock| clock.show(&mut command));
        self.process = Some(Process::start(&self.host.namespace, &self.label, &mut command, &log));
    }

    /// Runs `node run` to its end, which must come soon because it cannot work.
    pub fn start_in_vain(&self) -> Verb {
        program::verb(&self.host.namespace, &["node", "run", "--data-dir", text(&self.dir)])
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the node runs")
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.take().expect("the node runs").kill();
    }

    /// Ends it as the system does.
    pub fn stop(&mut self) {
        let status = self.process.take().expect("the node runs").stop();
        assert!(status.success(), "{} ended with {status}", self.label);
    }

    /// What its process has used.
    pub fn usage(&self) -> Usage {
        self.process.as_ref().expect("the node runs").usage()
    }

    /// Where the tests' releases put their payload on this machine.
    pub fn installed(&self) -> PathBuf {
        self.dir.join("root").join(PLACE)
    }

    /// Whether that file has the same bytes as another.
    pub fn has_installed(&self, payload: &Path) -> bool {
        same(&self.installed(), payload).unwrap_or(false)
    }

    /// What is in its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.lab.dir().join(format!("{}.log", self.label))).unwrap_or_default()
    }
}

/// Joins every host of a site, with tokens from the coordinator. None runs yet.
pub fn join_all<'lab>(
    coordinator: &Coordinator<'lab>,
    lab: &'lab Lab,
    site: usize,
    joining: Joining,
) -> Vec<Node<'lab>> {
    let hosts = &lab.sites[site].hosts;
    let token = coordinator.invite(&format!("site-{}", site + 1), hosts.len());
    hosts.iter().map(|host| Node::join(lab, host, &token, joining)).collect()
}

/// A file of bytes that do not repeat and do not compress, the same for the same seed.
pub fn random_file(path: &Path, len: u64, seed: u64) -> PathBuf {
    let mut state = seed;
    let mut file = std::io::BufWriter::with_capacity(1 << 20, File::create(path).expect("a file for the payload"));
    let mut left = len;
    while left > 0 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bytes = (mixed ^ (mixed >> 31)).to_le_bytes();
        let count = left.min(8) as usize;
        file.write_all(&bytes[..count]).expect("room for the payload");
        left -= count as u64;
    }
    file.flush().expect("room for the payload");
    path.to_owned()
}

fn same(one: &Path, other: &Path) -> std::io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = one.read(&mut a)?;
        other.read_exact(&mut b[..count])?;
        if count == 0 || a[..count] != b[..count] {
            return Ok(count == 0);
        }
    }
}

/// A path as an argument; the lab's are all plain text.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain text")
}
