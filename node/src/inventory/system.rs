//! Facts about the machine: its system, its hardware, and whether it wants a restart.
//!
//! A fact changes when something has happened, never by the mere passing of time: each change is sent to the coordinator.

use std::collections::BTreeMap;
use std::path::Path;

use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::inventory::{FACT_ARCH, FACT_OS, FACT_OS_ID, FACT_OS_VERSION, FACT_RESTART};
use upswarm_protocol::version;

use crate::sys::{self, Root};

/// Fact: `PRETTY_NAME` of os-release(5), for example `Debian GNU/Linux 12 (bookworm)`.
pub(crate) const FACT_OS_NAME: &str = "os.name";
/// Fact: `VERSION_CODENAME` of os-release(5), for example `bookworm`.
pub(crate) const FACT_OS_CODENAME: &str = "os.codename";
/// Fact: the running kernel's release, as `uname -r` prints it.
pub(crate) const FACT_KERNEL: &str = "kernel";
/// Fact: the machine's name.
pub(crate) const FACT_HOSTNAME: &str = "hostname";
/// Fact: a number that each start of the system draws anew.
pub(crate) const FACT_BOOT_ID: &str = "boot.id";
/// Fact: the time zone's name, for example `Europe/Berlin`.
pub(crate) const FACT_TIME_ZONE: &str = "time.zone";
/// Fact: the processor's name.
pub(crate) const FACT_CPU_MODEL: &str = "cpu.model";
/// Fact: cores.
pub(crate) const FACT_CPU_CORES: &str = "cpu.cores";
/// Fact: hardware threads.
pub(crate) const FACT_CPU_THREADS: &str = "cpu.threads";
/// Fact: memory in MiB.
pub(crate) const FACT_MEMORY: &str = "memory.mib";
/// Fact, with a mount point behind it (`disk.size_mib./home`): size of a local file system in MiB.
pub(crate) const FACT_DISK_SIZE: &str = "disk.size_mib.";
/// Fact, with a mount point behind it: what is free of it for anyone, in MiB, rounded down to two binary digits, so that it
/// changes seldom.
pub(crate) const FACT_DISK_FREE: &str = "disk.free_mib.";
/// Fact: who made the machine.
pub(crate) const FACT_VENDOR: &str = "machine.vendor";
/// Fact: what the vendor calls it.
pub(crate) const FACT_PRODUCT: &str = "machine.product";
/// Fact: `none`, or the kind of virtual machine or container as `systemd-detect-virt` calls it (`kvm`, `vmware`, `docker`).
pub(crate) const FACT_VIRTUALISATION: &str = "machine.virtualisation";
/// Fact: `mains` or `battery`.
pub(crate) const FACT_POWER: &str = "power.source";
/// Fact: whether the link to the WAN is paid by volume: `unknown`, as nothing that is always there tells.
pub(crate) const FACT_METERED: &str = "link.metered";

/// Every fact that a machine may tell, but those of its disks.
pub(crate) const KNOWN_FACTS: [&str; 20] = [
    FACT_OS,
    FACT_ARCH,
    FACT_OS_ID,
    FACT_OS_VERSION,
    FACT_OS_NAME,
    FACT_OS_CODENAME,
    FACT_KERNEL,
    FACT_HOSTNAME,
    FACT_BOOT_ID,
    FACT_TIME_ZONE,
    FACT_CPU_MODEL,
    FACT_CPU_CORES,
    FACT_CPU_THREADS,
    FACT_MEMORY,
    FACT_VENDOR,
    FACT_PRODUCT,
    FACT_VIRTUALISATION,
    FACT_POWER,
    FACT_RESTART,
    FACT_METERED,
];
/// What the others begin with.
pub(crate) const KNOWN_PREFIXES: [&str; 2] = [FACT_DISK_SIZE, FACT_DISK_FREE];

const MAX_FILE: u64 = 1 << 20;
const MAX_DISKS: usize = 16;
/// File systems with files of their own on a disk of this machine.
const LOCAL: [&str; 10] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "reiserfs", "jfs"];
const RESTART_REQUIRED: [&str; 2] = ["run/reboot-required", "var/run/reboot-required"];

/// What is known of the machine.
#[derive(Debug, Default)]
pub(super) struct System {
    pub(super) facts: BTreeMap<String, String>,
    pub(super) pending_restart: bool,
}

/// Reads everything. Of a root that is not the running system only what its files tell: no kernel, no hardware.
pub(super) fn read(root: &Root) -> System {
    let mut facts = Facts(BTreeMap::new());
    facts.set(FACT_OS, Some(std::env::consts::OS.into()));
    operating_system(root, &mut facts);
    facts.set(FACT_TIME_ZONE, time_zone(root));
    let kernel = root.value("proc/sys/kernel/osrelease");
    let reason = pending_restart(root, kernel.as_deref());
    if root.is_live() {
        facts.set(FACT_ARCH, Some(std::env::consts::ARCH.into()));
        facts.set(FACT_METERED, Some("unknown".into()));
        disks(root, &mut facts);
    }
    facts.set(FACT_KERNEL, kernel);
    facts.set(FACT_HOSTNAME, root.value("proc/sys/kernel/hostname").or_else(|| root.value("etc/hostname")));
    facts.set(FACT_BOOT_ID, root.value("proc/sys/kernel/random/boot_id"));
    facts.set(FACT_POWER, power(root));
    facts.set(FACT_RESTART, reason.clone());
    hardware(root, &mut facts);
    System { facts: facts.0, pending_restart: reason.is_some() }
}

/// Seconds since the running system was started; no fact, as it never stays the same.
pub(super) fn uptime_s(root: &Root) -> Option<u64> {
    let text = root.value("proc/uptime")?;
    text.split(['.', ' ']).next()?.parse().ok()
}

struct Facts(BTreeMap<String, String>);

impl Facts {
    fn set(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.0.insert(name.to_owned(), value);
        }
    }
}

fn operating_system(root: &Root, facts: &mut Facts) {
    let files = ["etc/os-release", "usr/lib/os-release"];
    let text = files.iter().find_map(|path| root.text(path, MAX_FILE).ok()).unwrap_or_default();
    for (fact, key) in [
        (FACT_OS_ID, "ID"),
        (FACT_OS_VERSION, "VERSION_ID"),
        (FACT_OS_NAME, "PRETTY_NAME"),
        (FACT_OS_CODENAME, "VERSION_CODENAME"),
    ] {
        facts.set(fact, Some(os_release_value(&text, key)));
    }
}

/// A value of os-release(5): the last assignment counts, quotes and backslashes as in a shell.
fn os_release_value(text: &str, key: &str) -> String {
    let assigned = |line: &'_ str| line.trim().strip_prefix(key)?.strip_prefix('=').map(str::to_owned);
    let raw = text.lines().filter_map(assigned).next_back().unwrap_or_default();
    let inner = ['"', '\''].iter().find_map(|quote| raw.strip_prefix(*quote)?.strip_suffix(*quote));
    let mut value = String::new();
    let mut chars = inner.unwrap_or(&raw).chars();
    while let Some(c) = chars.next() {
        value.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    value
}

fn time_zone(root: &Root) -> Option<String> {
    let linked = root.link("etc/localtime").and_then(|target| {
        let target = target.to_str()?.to_owned();
        target.split_once("zoneinfo/").map(|(_, zone)| zone.to_owned())
    });
    // Without the file, C libraries take UTC.
    let none = || (root.is_live() && root.link("etc/localtime").is_none()).then(|| "UTC".to_owned());
    linked.or_else(|| root.value("etc/timezone")).or_else(none)
}

/// Why a restart is pending: packages that asked for one, or a kernel that waits for it.
fn pending_restart(root: &Root, running: Option<&str>) -> Option<String> {
    if let Some(path) = RESTART_REQUIRED.iter().find(|path| root.exists(path)) {
        let text = root.text(&format!("{path}.pkgs"), MAX_FILE).unwrap_or_default();
        let mut packages: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        packages.sort_unstable();
        packages.dedup();
        let more = packages.len().saturating_sub(5);
        let mut named = packages.iter().take(5).copied().collect::<Vec<_>>().join(", ");
        if more > 0 {
            named.push_str(&format!(" and {more} more"));
        }
        return Some(if named.is_empty() { "an update asked for it".into() } else { format!("asked for by {named}") });
    }
    let running = running?;
    let newest = newest_kernel(root, running)?;
    (newest != running).then(|| format!("kernel {newest} is installed, {running} is running"))
}

/// The newest installed kernel of the running one's flavour. `None` if the running one is not among the installed ones: then
/// they are not this machine's (a container).
fn newest_kernel(root: &Root, running: &str) -> Option<String> {
    let dir = ["lib/modules", "usr/lib/modules"].into_iter().find(|dir| root.exists(dir))?;
    let flavour = |release: &str| release.chars().filter(char::is_ascii_alphabetic).collect::<String>();
    let wanted = flavour(running);
    // What a removed kernel leaves behind has no modules of its own.
    let kernels = root.names(dir).into_iter().filter(|name| root.exists(&format!("{dir}/{name}/kernel")));
    let kernels: Vec<String> = kernels.filter(|name| flavour(name) == wanted).collect();
    if !kernels.iter().any(|name| name == running) {
        return None;
    }
    kernels.into_iter().max_by(|a, b| version::compare(PackageKind::Deb, a, b))
}

/// Where the power comes from: `battery` when one is being emptied and no supply from the mains is on. A machine without a
/// battery is on mains.
fn power(root: &Root) -> Option<String> {
    let dir = "sys/class/power_supply";
    if !root.exists(dir) {
        return None;
    }
    let (mut mains, mut draining) = (false, false);
    for name in root.names(dir) {
        let value = |file: &str| root.value(&format!("{dir}/{name}/{file}")).unwrap_or_default();
        // A mouse has a battery too.
        if value("scope") == "Device" {
            continue;
        }
        match value("type").as_str() {
            "Battery" => draining |= value("status") == "Discharging",
            "Mains" | "USB" | "Wireless" => mains |= value("online") == "1",
            _ => {}
        }
    }
    Some(if draining && !mains { "battery" } else { "mains" }.into())
}

fn hardware(root: &Root, facts: &mut Facts) {
    let cpu = root.text("proc/cpuinfo", MAX_FILE).unwrap_or_default();
    processor(&cpu, facts);
    let memory = root.text("proc/meminfo", MAX_FILE).unwrap_or_default();
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).and_then(|rest| {
        let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some((kib >> 10).to_string())
    });
    facts.set(FACT_MEMORY, total);
    let dmi = |file: &str| root.value(&format!("sys/class/dmi/id/{file}"));
    let (vendor, product) = (dmi("sys_vendor"), dmi("product_name"));
    facts.set(FACT_VIRTUALISATION, virtualisation(root, &cpu, vendor.as_deref(), product.as_deref()));
    facts.set(FACT_VENDOR, vendor);
    facts.set(FACT_PRODUCT, product.or_else(|| root.value("proc/device-tree/model")));
}

fn processor(text: &str, facts: &mut Facts) {
    let field = |line: &str, name: &str| -> Option<String> {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    };
    let threads = text.lines().filter(|line| field(line, "processor").is_some()).count();
    let (mut cores, mut socket) = (std::collections::BTreeSet::new(), String::new());
    for line in text.lines() {
        if let Some(id) = field(line, "physical id") {
            socket = id;
        } else if let Some(core) = field(line, "core id") {
            cores.insert((socket.clone(), core));
        }
    }
    let model = ["model name", "Model", "Hardware", "cpu model", "cpu"]
        .iter()
        .find_map(|name| text.lines().find_map(|line| field(line, name)));
    facts.set(FACT_CPU_MODEL, model);
    if threads > 0 {
        facts.set(FACT_CPU_THREADS, Some(threads.to_string()));
        // Processors that do not tell their cores have one thread in each.
        facts.set(FACT_CPU_CORES, Some(if cores.is_empty() { threads } else { cores.len() }.to_string()));
    }
}

/// What the machine runs in; `None` when there is nothing to tell by.
fn virtualisation(root: &Root, cpu: &str, vendor: Option<&str>, product: Option<&str>) -> Option<String> {
    let container = root.value("run/systemd/container").or_else(|| {
        let signs = [(".dockerenv", "docker"), ("run/.containerenv", "podman")];
        signs.iter().find(|(file, _)| root.exists(file)).map(|(_, kind)| (*kind).to_owned())
    });
    if container.is_some() {
        return container;
    }
    if vendor.is_none() && product.is_none() && cpu.is_empty() {
        return None;
    }
    let (vendor, product) = (vendor.unwrap_or_default(), product.unwrap_or_default());
    let is_virtual = cpu.lines().any(|line| {
        let flags = line.strip_prefix("flags").and_then(|rest| rest.split_once(':'));
        flags.is_some_and(|(_, flags)| flags.split_ascii_whitespace().any(|flag| flag == "hypervisor"))
    });
    let kind = match (vendor, product) {
        ("QEMU", _) | (_, "KVM" | "OpenStack Nova" | "OpenStack Compute" | "Google Compute Engine") => "kvm",
        (vendor, _) if vendor.starts_with("VMware") => "vmware",
        ("innotek GmbH", _) | (_, "VirtualBox") => "oracle",
        ("Microsoft Corporation", "Virtual Machine") => "microsoft",
        ("Xen", _) => "xen",
        ("Amazon EC2", _) if is_virtual => "amazon",
        ("Parallels Software International Inc." | "Parallels International GmbH.", _) => "parallels",
        _ if is_virtual => "vm-other",
        _ => "none",
    };
    Some(kind.into())
}

fn disks(root: &Root, facts: &mut Facts) {
    let text = root.text("proc/self/mountinfo", MAX_FILE).unwrap_or_default();
    for point in mount_points(&text) {
        let Ok(space) = sys::space(Path::new(&point)) else { continue };
        let (size, free) = (space.total >> 20, space.free >> 20);
        facts.set(&format!("{FACT_DISK_SIZE}{point}"), Some(size.to_string()));
        facts.set(&format!("{FACT_DISK_FREE}{point}"), Some(coarse(free).to_string()));
    }
}

/// Where local file systems are mounted, each at its first place, from the text of proc_pid_mountinfo(5).
fn mount_points(text: &str) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    let mut points = Vec::new();
    for line in text.lines() {
        let Some((mount, kind)) = line.split_once(" - ") else { continue };
        let kind = kind.split(' ').next().unwrap_or_default();
        let mut fields = mount.split(' ').skip(2);
        let (Some(device), Some(_), Some(point)) = (fields.next(), fields.next(), fields.next()) else { continue };
        // A container's own root lies in a layer of another file system.
        let local = LOCAL.contains(&kind) || (point == "/" && kind == "overlay");
        let fits = point.len() + FACT_DISK_SIZE.len() <= 64 && !point.contains('\\');
        if local && fits && points.len() < MAX_DISKS && seen.insert(device) {
            points.push(point.to_owned());
        }
    }
    points
}

/// The two highest binary digits of a number: 1, 2, 3, 4, 6, 8, 12, 16, ...
fn coarse(number: u128) -> u128 {
    let drop = (u128::BITS - number.leading_zeros()).saturating_sub(2);
    number >> drop << drop
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_told_coarsely() {
        let found: Vec<u128> = [0, 1, 3, 5, 7, 1000, 1535, 1536, 2047, 2048].map(coarse).to_vec();
        assert_eq!(found, [0, 1, 3, 4, 6, 768, 1024, 1536, 1536, 2048]);
    }

    #[test]
    fn every_fact_is_known() {
        let root = Root::open(None).unwrap();
        let known = |name: &String| {
            KNOWN_FACTS.contains(&name.as_str()) || KNOWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        };
        assert_eq!(read(&root).facts.into_keys().find(|name| !known(name)), None);
    }

    #[test]
    fn each_local_file_system_counts_once() {
        let text = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 254:0 /home /mnt/again rw - ext4 /dev/vda rw
31 27 254:1 / /home rw - xfs /dev/vdb rw
32 27 0:50 / /net rw - nfs4 server:/x rw
33 27 254:2 / /a\\040b rw - ext4 /dev/vdc rw
garbage
34 27 254:3 - ext4
";
        assert_eq!(mount_points(text), ["/", "/home"]);
    }

    #[test]
    fn os_release_is_read_as_a_shell_would() {
        let text = "# ID=comment\nID=old\nNAME=\"A \\\"B\\\"\"\n  ID='debian'\nVERSION_ID=\"12\"\nID_LIKE=x\nEMPTY=\n";
        for (key, value) in [("ID", "debian"), ("VERSION_ID", "12"), ("NAME", "A \"B\""), ("EMPTY", ""), ("NONE", "")] {
            assert_eq!(os_release_value(text, key), value, "{key}");
        }
    }
}
