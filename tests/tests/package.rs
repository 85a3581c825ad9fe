//! upswarm's own Debian package: built, installed on a copy of this machine, run, removed and purged.
//!
//! The copy is an overlay of `/` in mount and process namespaces of its own; nothing of it outlives the test.

use std::fs;
use std::path::Path;
use std::process::Command;

use upswarm_tests::program;

/// What is done on the copy. Each line that the test looks for begins with `##`.
const SCRIPT: &str = r###"
set -eu
work=$1 deb=$2
mount --make-rprivate /
mount -t tmpfs tmpfs "$work"
mkdir "$work/upper" "$work/scratch" "$work/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/scratch" "$work/root"
mount -t proc proc "$work/root/proc"
mount -t tmpfs tmpfs "$work/root/run"
mount -t tmpfs tmpfs "$work/root/tmp"
mount --rbind /dev "$work/root/dev"
cp "$deb" "$work/root/tmp/upswarm.deb"
inside() { chroot "$work/root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
# A copy of a machine that has a package of this name already begins without it.
if inside dpkg -s upswarm >/dev/null 2>&1; then inside dpkg --purge upswarm; fi
inside dpkg -i /tmp/upswarm.deb
echo "## version $(inside upswarm --version)"
echo "## user $(inside id -un upswarm)"
echo "## socket directory $(inside stat -c '%U %a' /run/upswarm)"
for link in $(inside find /etc/systemd/system -name 'upswarm*'); do echo "## enabled $link"; done
# Root pins, the unprivileged user runs: the installer listens, the user may talk to it, others may not.
hash=$(printf 'ab%.0s' $(seq 32))
inside upswarm installer pin --data-dir /var/lib/upswarm-installer --root-hash "$hash" --device "$hash"
inside upswarm installer run --data-dir /var/lib/upswarm-installer --socket /run/upswarm/installer.sock \
    --node-uid upswarm 2>/dev/null &
installer=$!
tries=0
until [ -S "$work/root/run/upswarm/installer.sock" ]; do
    tries=$((tries + 1)); [ $tries -lt 300 ]; sleep 0.1
done
echo "## socket $(inside stat -c '%U %a' /run/upswarm/installer.sock)"
echo "## pin $(inside stat -c '%U %a' /var/lib/upswarm-installer)"
kill "$installer"; wait "$installer" || true
# A node that has joined, as far as the package can tell.
inside install -d -o upswarm -m 700 /var/lib/upswarm
inside install -o upswarm -m 600 /dev/null /var/lib/upswarm/node.toml
inside dpkg -i /tmp/upswarm.deb
inside test -e /var/lib/upswarm/node.toml
inside dpkg --remove upswarm
inside test -e /var/lib/upswarm/node.toml && echo '## kept by remove'
inside dpkg --purge upswarm
for left in $(cd "$work/upper" && find . ! -type c | grep -i upswarm || true); do echo "## left $left"; done
inside getent passwd upswarm && echo '## left a user' || true
inside getent group upswarm && echo '## left a group' || true
inside dpkg --audit
echo '## the end'
"###;

#[test]
fn the_debian_package_comes_runs_and_goes() {
    let tools = ["dpkg-deb", "unshare", "objdump", "strip", "adduser"];
    let missing = tools.iter().find(|tool| !on_path(tool));
    if missing.is_some() || !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root and {tools:?}, and CI must not skip it");
        eprintln!("SKIPPED: a copy of this machine can be made by root only, with {tools:?}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/build-deb.sh");
    let built = Command::new(build).arg(program::path()).arg(dir.path()).output().unwrap();
    assert!(built.status.success(), "{built:?}");
    let package = String::from_utf8(built.stdout).unwrap().trim().to_owned();
    let fields = Command::new("dpkg-deb").args(["-f", &package, "Package", "Version"]).output().unwrap();
    let fields = String::from_utf8(fields.stdout).unwrap();
    assert_eq!(fields, format!("Package: upswarm\nVersion: {}\n", env!("CARGO_PKG_VERSION")));

    let work = dir.path().join("work");
    fs::create_dir(&work).unwrap();
    let args = ["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", SCRIPT, "sh"];
    let output = Command::new("unshare").args(args).arg(&work).arg(&package).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    let facts: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let version = format!("version upswarm {}", env!("CARGO_PKG_VERSION"));
    let expected = [
        version.as_str(),
        "user upswarm",
        "socket directory root 755",
        "socket upswarm 600",
        "pin root 700",
        "kept by remove",
        "the end",
    ];
    assert_eq!(facts, expected, "{said}\n{errors}");
}

/// The units are as closed as the README says: an exposure that grows is a decision, not an accident.
#[test]
fn the_units_are_as_closed_as_told() {
    if !on_path("systemd-analyze") {
        assert!(std::env::var_os("CI").is_none(), "this test needs systemd-analyze, and CI must not skip it");
        eprintln!("SKIPPED: this machine has no systemd-analyze");
        return;
    }
    for (unit, most) in [("upswarm-node.service", 1.5), ("upswarm-installer.service", 6.0)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(unit);
        let output = Command::new("systemd-analyze").args(["security", "--offline=yes"]).arg(path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let line = said.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_default();
        let level = line.split_whitespace().find_map(|word| word.parse::<f64>().ok());
        assert!(level.is_some_and(|level| level <= most), "{unit}: {line} {output:?}");
    }
}

fn on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(tool).exists())
}
