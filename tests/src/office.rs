//! Whole machines on one LAN, for what a person types on them: each has a root of its own (an overlay over this machine's, so
//! with its real apt and dpkg), its own `/tmp` and `/run`, and addresses of one family or of both.
//!
//! A machine's mounts live in a mount namespace that ends with the test, also when the test is killed.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::MutexGuard;

use anyhow::Context as _;

use crate::fleet::text;
use crate::lab::{self, Namespace, ip, link};
use crate::process::Process;
use crate::{program, wait};

/// A machine's root is there within this.
const ROOT_WITHIN: std::time::Duration = std::time::Duration::from_secs(20);
/// An interface has its link-local address within this.
const LINK_LOCAL_WITHIN: std::time::Duration = std::time::Duration::from_secs(20);

/// Which addresses a LAN has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Both.
    Both,
    /// Nothing but the link-local IPv6 addresses that interfaces give themselves.
    LinkLocal,
}

/// The LAN.
#[derive(Debug)]
pub struct Office {
    /// In the order asked for.
    pub machines: Vec<Machine>,
    _switch: Namespace,
    dir: Option<tempfile::TempDir>,
    _turn: MutexGuard<'static, ()>,
}

/// A machine of the LAN.
#[derive(Debug)]
pub struct Machine {
    /// Its network.
    pub namespace: Namespace,
    /// Its name, which the others know.
    pub name: String,
    /// Its own addresses; where the family has none, unspecified.
    pub v4: Ipv4Addr,
    /// The same for IPv6.
    pub v6: Ipv6Addr,
    holder: Child,
    logs: PathBuf,
    merged: PathBuf,
    environment: Vec<(String, String)>,
}

impl Office {
    /// Machines of these names. `None` where labs cannot be built.
    pub fn new(names: &[&str], family: Family) -> Option<Self> {
        let turn = lab::turn()?;
        Some(Self::build(names, family, turn).unwrap_or_else(|error| panic!("cannot build the office: {error:#}")))
    }

    fn build(names: &[&str], family: Family, turn: MutexGuard<'static, ()>) -> anyhow::Result<Self> {
        let name = lab::names();
        let dir = tempfile::Builder::new().prefix("upswarm-lab-").tempdir().context("cannot make a directory")?;
        let switch = Namespace::with_ipv6(name("switch"))?;
        ip(&["-n", switch.name(), "link", "add", "lan", "type", "bridge"])?;
        ip(&["-n", switch.name(), "link", "set", "lan", "up"])?;
        let mut machines = Vec::new();
        for (at, machine) in names.iter().enumerate() {
            let namespace = Namespace::with_ipv6(name(machine))?;
            let port = format!("port{at}");
            link(&switch, &port, &namespace, "eth0")?;
            ip(&["-n", switch.name(), "link", "set", &port, "master", "lan", "up"])?;
            let mut machine = Machine::new(namespace, machine, dir.path())?;
            machine.connect(family, at as u8 + 11)?;
            machines.push(machine);
        }
        if family == Family::LinkLocal {
            machines.iter().for_each(Machine::wait_for_link_local);
        }
        let hosts: String = machines.iter().flat_map(Machine::hosts_lines).collect();
        for machine in &machines {
            fs::write(machine.path("/etc/hosts"), format!("127.0.0.1 localhost\n::1 localhost\n{hosts}"))?;
        }
        Ok(Self { machines, _switch: switch, dir: Some(dir), _turn: turn })
    }

    /// The machine of this name.
    pub fn machine(&self, name: &str) -> &Machine {
        self.machines.iter().find(|machine| machine.name == name).expect("a machine of that name")
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            eprintln!("office: logs are kept in {}", dir.keep().display());
        }
    }
}

impl Machine {
    fn new(namespace: Namespace, name: &str, dir: &Path) -> anyhow::Result<Self> {
        let own = dir.join(name);
        let merged = own.join("root");
        fs::create_dir_all(&merged)?;
        // The layers lie in memory: no overlay stands on another, and package managers sync much.
        let script = format!(
            "set -e; cd {own}; mkdir m; mount -t tmpfs layers m; mkdir m/upper m/work; \
             mount -t overlay overlay -o lowerdir=/,upperdir=m/upper,workdir=m/work root; \
             for d in proc sys dev; do mount --rbind /$d root/$d; done; mount -t tmpfs run root/run; \
             touch root/usr/local/bin/upswarm; mount --bind {program} root/usr/local/bin/upswarm; \
             mount -t tmpfs tmp root/tmp; echo {name} > root/etc/hostname; touch root/run/machine-is-there; exec cat",
            own = text(&own),
            program = text(&program::path()),
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts", "--propagation", "private", "sh", "-c"]);
        command.arg(format!("hostname {name}; {script}")).stdin(Stdio::piped()).stdout(Stdio::null());
        let holder = command.spawn().context("cannot run unshare; install util-linux")?;
        let mut machine = Self {
            namespace,
            name: name.to_owned(),
            v4: Ipv4Addr::UNSPECIFIED,
            v6: Ipv6Addr::UNSPECIFIED,
            holder,
            logs: own,
            merged,
            environment: Vec::new(),
        };
        wait::until("the machine's root", ROOT_WITHIN, || {
            if let Ok(Some(status)) = machine.holder.try_wait() {
                panic!("the root of {name} cannot be made ({status})");
            }
            if machine.path("/run/machine-is-there").exists() { Ok(()) } else { Err("not yet".into()) }
        });
        Ok(machine)
    }

    fn connect(&mut self, family: Family, number: u8) -> anyhow::Result<()> {
        let on_eth0 = |args: &[&str]| ip(&[&["-n", self.namespace.name()], args, &["dev", "eth0"]].concat());
        if family == Family::V4 {
            self.namespace.run(|| fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"))?;
        }
        on_eth0(&["link", "set", "up"])?;
        if matches!(family, Family::V4 | Family::Both) {
            self.v4 = Ipv4Addr::new(10, 79, 0, number);
            on_eth0(&["address", "add", &format!("{}/24", self.v4)])?;
        }
        if matches!(family, Family::V6 | Family::Both) {
            self.v6 = Ipv6Addr::new(0xfd79, 0, 0, 0, 0, 0, 0, number.into());
            on_eth0(&["-6", "address", "add", &format!("{}/64", self.v6), "nodad"])?;
        }
        Ok(())
    }

    /// Waits until its interface has given itself a link-local address that nobody else has: a second or two after the cable.
    fn wait_for_link_local(&self) {
        wait::until("a link-local address", LINK_LOCAL_WITHIN, || {
            // It lists address, index, prefix, scope (20: link), flags (40: tentative), name.
            let listed =
                self.namespace.run(|| fs::read_to_string("/proc/thread-self/net/if_inet6")).unwrap_or_default();
            let ready = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|parts| {
                let tentative = |flags: &str| u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & 0x40 != 0);
                matches!(parts[..], [_, _, _, "20", flags, "eth0"] if !tentative(flags))
            });
            if ready { Ok(()) } else { Err(listed) }
        });
    }

    fn hosts_lines(&self) -> Vec<String> {
        let line = |ip: String| format!("{ip} {} {}.example.org\n", self.name, self.name);
        let v4 = (!self.v4.is_unspecified()).then(|| line(self.v4.to_string()));
        let v6 = (!self.v6.is_unspecified()).then(|| line(self.v6.to_string()));
        v4.into_iter().chain(v6).collect()
    }

    /// Where a path of the machine is for the test.
    pub fn path(&self, path: &str) -> PathBuf {
        let root = format!("/proc/{}/root{}", self.holder.id(), text(&self.merged));
        Path::new(&root).join(path.trim_start_matches('/'))
    }

    /// Sets a variable for everything that is run from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args([&format!("--target={}", self.holder.id()), "--mount", "--uts"]);
        command.arg("chroot").arg(&self.merged).args(["/bin/sh", "-c", line]).env_remove("UPSWARM_LOG");
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", "/root").envs(self.environment.iter().cloned());
        command
    }

    /// Types a line on the machine and waits for its end.
    pub fn run(&self, line: &str) -> Output {
        let mut command = self.command(line);
        command.stdin(Stdio::null());
        self.namespace.run(|| command.output()).unwrap_or_else(|error| panic!("cannot run {line}: {error}"))
    }

    /// The same for a line that must do what it says; returns what it printed.
    #[track_caller]
    pub fn done(&self, line: &str) -> String {
        let output = self.run(line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} $ {line}\n{said}", self.name);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The same for a line that must end with this code; returns what it said on standard error.
    #[track_caller]
    pub fn refused(&self, line: &str, code: i32) -> String {
        let output = self.run(line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{} $ {line}\n{said}", self.name);
        assert!(!said.contains("panicked"), "{} $ {line}\n{said}", self.name);
        said
    }

    /// Starts a line that goes on running.
    pub fn start(&self, line: &str) -> Process {
        self.start_in("/", line)
    }

    /// The same in a directory.
    pub fn start_in(&self, dir: &str, line: &str) -> Process {
        let mut command = self.command(&format!("cd {dir} && exec {line}"));
        let log = self.logs.join(format!("{}.log", line.split_whitespace().take(3).collect::<Vec<_>>().join("-")));
        Process::start(&self.namespace, &format!("{} $ {line}", self.name), &mut command, &log)
    }

    /// Changes its addresses or interfaces: `ip ARGS` in its namespace.
    pub fn ip(&self, args: &[&str]) {
        ip(&[&["-n", self.namespace.name()], args].concat()).unwrap_or_else(|error| panic!("{error:#}"));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
