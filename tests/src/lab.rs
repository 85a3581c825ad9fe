//! Network namespaces, links and their shaping.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::watch::Flow;

/// Every namespace of a lab begins with this, its process id and its number in the process.
const PREFIX: &str = "upswarm-";
/// One lab at a time: they share the cores, and figures are read from them.
static TURN: Mutex<()> = Mutex::new(());
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// With this in the environment, a lab's directory is kept also when its test holds.
const KEEP: &str = "UPSWARM_LAB_KEEP";

/// Where coordinator and origin are.
pub const WAN_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);

/// Rates of the WAN link of each site and of each host's LAN link, in Mbit/s on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// To the site.
    pub wan_down: u32,
    /// From the site.
    pub wan_up: u32,
    /// Each host, both ways.
    pub lan: u32,
}

impl Default for Rates {
    fn default() -> Self {
        Self { wan_down: 100, wan_up: 20, lan: 1000 }
    }
}

/// Bytes that an interface has taken and given since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Received.
    pub rx: u64,
    /// Sent.
    pub tx: u64,
}

impl core::ops::Sub for Counted {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { rx: self.rx - earlier.rx, tx: self.tx - earlier.tx }
    }
}

/// A network namespace that goes away with this value.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    fn new(name: String) -> anyhow::Result<Self> {
        let namespace = Self::with_ipv6(name)?;
        // Addresses that nobody planned would only blur the counters.
        namespace
            .run(|| fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"))
            .or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        Ok(namespace)
    }

    /// One whose interfaces get link-local IPv6 addresses by themselves, as everywhere.
    pub(crate) fn with_ipv6(name: String) -> anyhow::Result<Self> {
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        ip(&["-n", &namespace.name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name, for `ip -n`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Does `work` on a thread that lives in this namespace. Sockets that it opens and processes that it starts stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        run_in(&self.name, work)
    }

    /// What an interface of this namespace has counted.
    pub fn counted(&self, interface: &str) -> Counted {
        counted(&self.name, interface)
    }

    fn forward(&self) -> anyhow::Result<()> {
        self.run(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1")).context("cannot switch on forwarding")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("lab: {error:#}");
        }
    }
}

/// A site: its router and its hosts.
#[derive(Debug)]
pub struct Site {
    router: Namespace,
    /// Its machines.
    pub hosts: Vec<Host>,
}

impl Site {
    /// What the site's end of the WAN link has counted: `rx` came over the WAN.
    pub fn wan(&self) -> Counted {
        self.router.counted("wan")
    }

    /// Looks from now on at how the bytes come over the WAN.
    pub fn watch_wan(&self) -> Flow {
        let name = self.router.name.clone();
        Flow::watch(move || counted(&name, "wan").rx)
    }

    /// From now on the router swallows what goes to the WAN, as when the line is broken behind it: nobody is told.
    pub fn cut_wan(&self) -> anyhow::Result<()> {
        ip(&["-n", &self.router.name, "route", "replace", "blackhole", "default", "metric", "0"])
    }

    /// Pulls the cable of a machine, counted from 0: nobody is told.
    pub fn unplug(&self, host: usize) -> anyhow::Result<()> {
        ip(&["-n", &self.router.name, "link", "set", &format!("port{}", host + 1), "down"])
    }
}

/// A machine of a site.
#[derive(Debug)]
pub struct Host {
    /// Where its processes run.
    pub namespace: Namespace,
    /// Its address.
    pub address: Ipv4Addr,
}

impl Host {
    /// What its LAN interface has counted.
    pub fn lan(&self) -> Counted {
        self.namespace.counted("eth0")
    }
}

/// The whole network, and a directory for what runs in it.
#[derive(Debug)]
pub struct Lab {
    /// Outside of every site.
    pub wan: Namespace,
    /// In the order asked for.
    pub sites: Vec<Site>,
    /// As built.
    pub rates: Rates,
    dir: Option<tempfile::TempDir>,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// Builds a lab with so many hosts at each site. `None` where labs cannot be built, after saying so; in continuous
    /// integration (`CI` is set) that is a failure.
    pub fn new(hosts: &[u8], rates: Rates) -> Option<Self> {
        let turn = turn()?;
        Some(Self::build(hosts, rates, turn).unwrap_or_else(|error| panic!("cannot build the lab: {error:#}")))
    }

    fn build(hosts: &[u8], rates: Rates, turn: MutexGuard<'static, ()>) -> anyhow::Result<Self> {
        let name = names();
        let wan = Namespace::new(name("wan"))?;
        ip(&["-n", &wan.name, "address", "add", &format!("{WAN_ADDRESS}/32"), "dev", "lo"])?;
        // Sites can reach each other: that they do not is for upswarm to see to.
        wan.forward()?;
        let mut sites = Vec::new();
        for (at, hosts) in hosts.iter().enumerate() {
            let s = at + 1;
            let router = Namespace::new(name(&format!("r{s}")))?;
            router.forward()?;
            let outside = format!("site{s}");
            link(&wan, &outside, &router, "wan")?;
            configure(&wan, &outside, Some(&format!("10.78.{s}.1/24")))?;
            configure(&router, "wan", Some(&format!("10.78.{s}.2/24")))?;
            shape(&wan, &outside, rates.wan_down)?;
            shape(&router, "wan", rates.wan_up)?;
            ip(&["-n", &router.name, "route", "add", "default", "via", &format!("10.78.{s}.1")])?;
            ip(&["-n", &wan.name, "route", "add", &format!("10.77.{s}.0/24"), "via", &format!("10.78.{s}.2")])?;
            ip(&["-n", &router.name, "link", "add", "lan", "type", "bridge"])?;
            configure(&router, "lan", Some(&format!("10.77.{s}.1/24")))?;
            let mut site = Site { router, hosts: Vec::new() };
            for h in 1..=*hosts {
                let namespace = Namespace::new(name(&format!("s{s}h{h}")))?;
                let port = format!("port{h}");
                link(&site.router, &port, &namespace, "eth0")?;
                ip(&["-n", &site.router.name, "link", "set", &port, "master", "lan"])?;
                configure(&site.router, &port, None)?;
                let address = Ipv4Addr::new(10, 77, s as u8, 10 + h);
                configure(&namespace, "eth0", Some(&format!("{address}/24")))?;
                ip(&["-n", &namespace.name, "route", "add", "default", "via", &format!("10.77.{s}.1")])?;
                shape(&site.router, &port, rates.lan)?;
                shape(&namespace, "eth0", rates.lan)?;
                site.hosts.push(Host { namespace, address });
            }
            sites.push(site);
        }
        let dir = tempfile::Builder::new().prefix("upswarm-lab-").tempdir().context("cannot make a directory")?;
        Ok(Self { wan, sites, rates, dir: Some(dir), _turn: turn })
    }

    /// A directory that is kept only if the test fails, or on request ([`KEEP`]).
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("only dropping takes it").path()
    }

    /// The shortest time in seconds in which so many payload bytes can cross a site's WAN link.
    pub fn wan_limit_s(&self, bytes: u64) -> f64 {
        bytes as f64 * 8.0 / (f64::from(self.rates.wan_down) * 1e6)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if (std::thread::panicking() || std::env::var_os(KEEP).is_some())
            && let Some(dir) = self.dir.take()
        {
            let kept: PathBuf = dir.keep();
            eprintln!("lab: logs and directories are kept in {}", kept.display());
        }
    }
}

/// This lab's turn. `None` where labs cannot be built, after saying so; in continuous integration (`CI` is set) that is a
/// failure.
pub(crate) fn turn() -> Option<MutexGuard<'static, ()>> {
    if let Err(reason) = can_build() {
        assert!(std::env::var_os("CI").is_none(), "the lab cannot be built: {reason}");
        eprintln!("\n*** SKIPPED: the lab cannot be built: {reason} ***\n");
        return None;
    }
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    remove_stale();
    Some(turn)
}

/// Names for the namespaces of one lab.
pub(crate) fn names() -> impl Fn(&str) -> String {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    move |what| format!("{PREFIX}{}-{number}-{what}", std::process::id())
}

/// Does `work` on a thread that lives in the namespace of this name.
fn run_in<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    let path = Path::new("/run/netns").join(name);
    std::thread::scope(|scope| {
        let inside = scope.spawn(move || {
            let link = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network))
                .unwrap_or_else(|error| panic!("cannot enter {}: {error}", path.display()));
            work()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn counted(namespace: &str, interface: &str) -> Counted {
    let read = || fs::read_to_string("/proc/thread-self/net/dev");
    let text = run_in(namespace, read).expect("the kernel's interface counters");
    let line = text.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
    let numbers: Vec<u64> = line
        .unwrap_or_else(|| panic!("{namespace} has no interface {interface}"))
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    Counted { rx: numbers[0], tx: numbers[8] }
}

fn can_build() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("it needs root, for network namespaces".into());
    }
    for tool in ["ip", "tc"] {
        if Command::new(tool).arg("-V").output().is_err() {
            return Err(format!("{tool} is missing; install iproute2"));
        }
    }
    Ok(())
}

/// Ends and removes what runs that are no more have left behind.
fn remove_stale() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_none_or(|pid| Path::new("/proc").join(pid.to_string()).exists()) {
            continue;
        }
        // Only that run's own processes can be in its namespaces.
        let pids = Command::new("ip").args(["netns", "pids", &name]).output().map(|output| output.stdout);
        for pid in String::from_utf8_lossy(&pids.unwrap_or_default()).split_whitespace() {
            if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = ip(&["netns", "del", &name]);
    }
}

pub(crate) fn ip(args: &[&str]) -> anyhow::Result<()> {
    command("ip", args)
}

fn command(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(args).output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

pub(crate) fn link(one: &Namespace, interface: &str, other: &Namespace, peer: &str) -> anyhow::Result<()> {
    let add =
        ["link", "add", interface, "netns", &one.name, "type", "veth", "peer", "name", peer, "netns", &other.name];
    ip(&add)
}

fn configure(namespace: &Namespace, interface: &str, address: Option<&str>) -> anyhow::Result<()> {
    if let Some(address) = address {
        ip(&["-n", &namespace.name, "address", "add", address, "dev", interface])?;
    }
    ip(&["-n", &namespace.name, "link", "set", interface, "up"])
}

/// Holds what leaves by an interface to a rate. The bucket holds a large segment at least, and what the rate brings in 2 ms.
fn shape(namespace: &Namespace, interface: &str, mbit: u32) -> anyhow::Result<()> {
    let burst = (mbit * 250).max(70_000).to_string();
    let rate = format!("{mbit}mbit");
    let qdisc = ["-n", &namespace.name, "qdisc", "replace", "dev", interface, "root", "tbf", "rate", &rate];
    command("tc", &[&qdisc[..], &["burst", &burst, "latency", "50ms"]].concat())
}
