use super::*;
use crate::inventory::system;

/// Facts of a machine that the test plays.
fn facts(files: &[(&str, &str)]) -> (Inventory, Fake) {
    let root = Fake::new();
    for (path, content) in files {
        root.put(path, content);
    }
    (root.scan().inventory, root)
}

#[test]
fn a_laptop() {
    let cpu = "processor\t: 0\nmodel name\t: Fast CPU\nphysical id\t: 0\ncore id\t: 0\nflags\t\t: fpu\n\n\
               processor\t: 1\nmodel name\t: Fast CPU\nphysical id\t: 0\ncore id\t: 0\n";
    let (inventory, root) = facts(&[
        (
            "etc/os-release",
            "ID=ubuntu\nVERSION_ID=\"24.04\"\nPRETTY_NAME=\"Ubuntu 24.04 LTS\"\nVERSION_CODENAME=noble\n",
        ),
        ("etc/hostname", "desk-7\n"),
        ("etc/timezone", "Europe/Berlin\n"),
        ("proc/cpuinfo", cpu),
        ("proc/meminfo", "MemTotal:       16303224 kB\nMemFree: 1 kB\n"),
        ("proc/sys/kernel/random/boot_id", "0a-1b\n"),
        ("proc/sys/kernel/osrelease", "6.8.0-31-generic\n"),
        ("sys/class/dmi/id/sys_vendor", "LENOVO\n"),
        ("sys/class/dmi/id/product_name", "ThinkPad\n"),
        ("sys/class/power_supply/AC/type", "Mains\n"),
        ("sys/class/power_supply/AC/online", "0\n"),
        ("sys/class/power_supply/BAT0/type", "Battery\n"),
        ("sys/class/power_supply/BAT0/status", "Discharging\n"),
        ("lib/modules/6.8.0-31-generic/kernel/x", ""),
        ("lib/modules/6.8.0-100-lowlatency/kernel/x", ""),
        ("lib/modules/6.8.0-99-generic/modules.dep", ""),
    ]);
    for (name, value) in [
        ("platform.os", "linux"),
        ("os.id", "ubuntu"),
        ("os.version", "24.04"),
        ("os.name", "Ubuntu 24.04 LTS"),
        ("os.codename", "noble"),
        ("hostname", "desk-7"),
        ("time.zone", "Europe/Berlin"),
        ("kernel", "6.8.0-31-generic"),
        ("boot.id", "0a-1b"),
        ("cpu.model", "Fast CPU"),
        ("cpu.cores", "1"),
        ("cpu.threads", "2"),
        ("memory.mib", "15921"),
        ("machine.vendor", "LENOVO"),
        ("machine.product", "ThinkPad"),
        ("machine.virtualisation", "none"),
        ("power.source", "battery"),
    ] {
        assert_eq!(inventory.fact(name), Some(value), "{name}");
    }
    // Another flavour and the remains of a removed kernel do not count.
    assert!(!inventory.pending_restart && inventory.fact("restart.reason").is_none());
    // Nothing about the machine that the test runs on.
    assert!(inventory.fact("platform.arch").is_none() && inventory.fact("disk.size_mib./").is_none());

    let mut scanner = Scanner::new(Some(root.path().to_owned()), &KINDS);
    assert!(scanner.rescan() && !scanner.rescan());
    root.put("sys/class/power_supply/AC/online", "1\n");
    root.put("lib/modules/6.8.0-100-generic/kernel/x", "");
    fs::remove_file(root.path().join("etc/timezone")).expect("removed");
    symlink("/usr/share/zoneinfo/Asia/Tokyo", root.path().join("etc/localtime")).expect("a link");
    assert!(scanner.rescan());
    let inventory = &scanner.last().inventory;
    assert_eq!((inventory.fact("power.source"), inventory.fact("time.zone")), (Some("mains"), Some("Asia/Tokyo")));
    let reason = "kernel 6.8.0-100-generic is installed, 6.8.0-31-generic is running";
    assert_eq!((inventory.pending_restart, inventory.fact("restart.reason")), (true, Some(reason)));

    root.put("run/reboot-required", "*** System restart required ***\n");
    root.put("run/reboot-required.pkgs", "linux-base\nlibc6\nlinux-base\na\nb\nc\nd\n");
    assert!(scanner.rescan());
    let reason = scanner.last().inventory.fact("restart.reason");
    assert_eq!(reason, Some("asked for by a, b, c, d, libc6 and 1 more"));
}

#[test]
fn virtual_machines_and_containers() {
    let flags = "processor : 0\nflags : fpu hypervisor sse\n";
    for (files, expected) in [
        (&[("sys/class/dmi/id/sys_vendor", "QEMU")][..], Some("kvm")),
        (&[("sys/class/dmi/id/sys_vendor", "VMware, Inc.")], Some("vmware")),
        (&[("sys/class/dmi/id/product_name", "VirtualBox")], Some("oracle")),
        (&[("proc/cpuinfo", flags)], Some("vm-other")),
        (&[("proc/cpuinfo", flags), ("sys/class/dmi/id/sys_vendor", "Amazon EC2")], Some("amazon")),
        (&[("proc/cpuinfo", "flags : fpu\n"), ("run/systemd/container", "lxc\n")], Some("lxc")),
        (&[(".dockerenv", "")], Some("docker")),
        (&[("proc/cpuinfo", "flags : fpu\n")], Some("none")),
        (&[("etc/hostname", "image")], None),
    ] {
        assert_eq!(facts(files).0.fact("machine.virtualisation"), expected, "{files:?}");
    }
}

#[test]
fn this_machine() {
    let inventory = scan(None, &[]).inventory;
    for name in ["platform.arch", "kernel", "hostname", "cpu.threads", "memory.mib", "time.zone", "link.metered"] {
        assert!(inventory.fact(name).is_some_and(|value| !value.is_empty()), "{name}");
    }
    assert_eq!(inventory.fact("platform.arch"), Some(std::env::consts::ARCH));
    let kernel = rustix::system::uname();
    assert_eq!(inventory.fact("kernel"), kernel.release().to_str().ok());
    assert!(uptime_s().is_some());
    // Nothing in it changes by itself.
    let mut scanner = Scanner::new(None, &[]);
    scanner.rescan();
    let before = scanner.last().inventory.clone();
    let deadline = Instant::now() + Duration::from_secs(10);
    // A busy disk can pass a step of its free space now; it does not do so all the time.
    while scanner.rescan() {
        assert!(Instant::now() < deadline, "changes without end: {before:?} {:?}", scanner.last().inventory);
    }
    assert!(system::read(&Root::open(None).expect("/")).facts.len() > 8);
}

/// A status file like a desktop's.
fn desktop(changed: usize) -> String {
    let stems = ["lib", "python3-", "gir1.2-", "fonts-", "gnome-", "x11-", "node-", "linux-", "perl-", "golang-"];
    let paragraphs = (0..3_000usize).map(|number| {
        let digest = upswarm_protocol::ids::DocHash::of(&(number / 3).to_le_bytes()).to_string();
        let name = format!("{}{}{number}", stems[number % stems.len()], &digest[..4 + number % 5]);
        let newer = if number % 150 == 0 && number / 150 < changed { "9" } else { "" };
        let version = format!("{newer}{}.{}.{}-{}", number % 11, number % 30, number % 8, 1 + number % 5);
        format!(
            "{}Description: x\n {}\n\n",
            paragraph(&name, &version).trim_end_matches('\n').to_owned() + "\n",
            "y".repeat(100)
        )
    });
    paragraphs.collect()
}

fn wire_bytes(delta: &InventoryDelta) -> usize {
    let parts = delta.parts().expect("a difference within bounds");
    parts.iter().map(|part| codec::encode(part, 4096).expect("a part").len()).sum()
}

#[test]
fn after_the_first_time_a_desktop_costs_a_few_kilobytes() {
    let root = Fake::new();
    root.put("var/lib/dpkg/status", desktop(0));
    root.put("etc/os-release", "ID=debian\nVERSION_ID=12\n");
    let mut scanner = Scanner::new(Some(root.path().to_owned()), &KINDS);
    let start = Instant::now();
    assert!(scanner.rescan());
    let first = start.elapsed();
    let before = scanner.last().inventory.clone();
    assert_eq!((before.packages().len(), scanner.reads()), (3_000, 1));

    let start = Instant::now();
    for _ in 0..100 {
        assert!(!scanner.rescan());
    }
    let idle = start.elapsed() / 100;
    assert_eq!(scanner.reads(), 1, "an unchanged database was read again");

    root.put("var/lib/dpkg/status", desktop(20));
    let start = Instant::now();
    assert!(scanner.rescan());
    let again = start.elapsed();
    let delta = InventoryDelta::between(&before, &scanner.last().inventory);
    assert_eq!((delta.packages.len(), delta.facts.len(), scanner.reads()), (20, 0, 2));
    let (full, delta) = (wire_bytes(&InventoryDelta::full(&before)), wire_bytes(&delta));
    println!("3,000 packages: {full} bytes in full, {delta} bytes for 20 updates");
    println!("first scan {first:?}, unchanged {idle:?}, after 20 updates {again:?}");
    assert!(full < 100_000 && delta < 2_048);
}

/// What a node that has nothing to do spends on its inventory.
#[test]
fn this_machine_unchanged() {
    let mut scanner = Scanner::new(None, &KINDS);
    let start = Instant::now();
    assert!(scanner.rescan());
    let first = start.elapsed();
    let start = Instant::now();
    for _ in 0..100 {
        scanner.rescan();
    }
    println!(
        "this machine, {} packages: first scan {first:?}, then {:?}",
        scanner.last().inventory.packages().len(),
        start.elapsed() / 100
    );
    assert!(!scanner.last().inventory.facts().is_empty());
}

#[test]
fn a_database_that_is_being_written_is_read_again() {
    let root = Fake::new();
    let path = root.put("var/lib/dpkg/status", paragraph("a", "1"));
    rest(&path, 0);
    let mut scanner = Scanner::new(Some(root.path().to_owned()), &KINDS);
    assert!(scanner.rescan() && !scanner.rescan());
    assert_eq!(scanner.reads(), 2, "a change in the same instant would be missed");
    rest(&path, 60);
    assert!(!scanner.rescan() && !scanner.rescan());
    assert_eq!(scanner.reads(), 3);
    fs::remove_file(path).expect("removed");
    assert!(scanner.rescan());
    assert!(scanner.last().inventory.packages().is_empty());
}

#[tokio::test]
async fn a_watch_tells_each_change_once_and_ends_with_its_owner() {
    let root = Fake::new();
    root.put("var/lib/dpkg/status", paragraph("a", "1"));
    let wait = Duration::from_secs(30);
    let mut watch = watch::InventoryWatch::every(Some(root.path().to_owned()), Duration::from_millis(10));
    let first = tokio::time::timeout(wait, watch.changed()).await.expect("in time").expect("a scan");
    assert_eq!(packages(&first.inventory), ["Deb a 1 amd64"]);
    root.put("var/lib/dpkg/status", paragraph("a", "2"));
    let second = tokio::time::timeout(wait, watch.changed()).await.expect("in time").expect("a scan");
    assert_eq!(packages(&second.inventory), ["Deb a 2 amd64"]);
    drop(watch);

    // A minute between looks, but one that is asked for comes at once.
    let mut watch = watch::InventoryWatch::start(Some(root.path().to_owned()));
    tokio::time::timeout(wait, watch.changed()).await.expect("in time").expect("a scan");
    root.put("var/lib/dpkg/status", paragraph("a", "3"));
    watch.rescan();
    let third = tokio::time::timeout(wait, watch.changed()).await.expect("in time").expect("a scan");
    assert_eq!(packages(&third.inventory), ["Deb a 3 amd64"]);
    let running = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(running(), 1);
    drop(watch);
    tokio::time::timeout(wait, async {
        while running() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the task ends");
}
