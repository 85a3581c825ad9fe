//! upswarm's own Debian package: built, installed on a copy of this machine, run as its units say while it installs, upgrades,
//! takes back and removes another package through apt, then removed and purged.
//!
//! The copy is an overlay of `/` in mount and process namespaces of its own; nothing of it outlives the test.

use std::fs;
use std::path::Path;
use std::process::Command;

use upswarm_tests::program;

/// What is done on the copy. Each line that the test looks for begins with `##`.
const SCRIPT: &str = r###"
set -eu
work=$1 deb=$2 releases=$3
mount --make-rprivate /
mount -t tmpfs tmpfs "$work"
mkdir "$work/upper" "$work/scratch" "$work/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/scratch" "$work/root"
mount -t proc proc "$work/root/proc"
mount -t tmpfs tmpfs "$work/root/run"
mount -t tmpfs tmpfs "$work/root/tmp"
mount --rbind /dev "$work/root/dev"
cp "$deb" "$work/root/tmp/upswarm.deb"
start() { exec chroot "$work/root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
inside() { (start "$@"); }
# A copy of a machine that has a package of this name already begins without it.
if inside dpkg -s upswarm >/dev/null 2>&1; then inside dpkg --purge upswarm; fi
inside dpkg -i /tmp/upswarm.deb
echo "## version $(inside upswarm --version)"
echo "## user $(inside id -un upswarm)"
echo "## socket directory $(inside stat -c '%U %a' /run/upswarm)"
for link in $(inside find /etc/systemd/system -name 'upswarm*'); do echo "## enabled $link"; done
# A coordinator, with which the machine joins; root pins what the installer is to believe.
cp -r "$releases" "$work/root/tmp/releases"
ip link set lo up
D=/var/lib/upswarm-coordinator
inside upswarm coordinator init --demo-keys --data-dir $D >/dev/null 2>&1
start upswarm coordinator run --data-dir $D --listen /ip4/127.0.0.1/tcp/4701 --http 127.0.0.1:4702 \
    >"$work/coordinator.log" 2>&1 &
coordinator=$!
tries=0
until inside upswarm status --data-dir $D >/dev/null 2>&1; do tries=$((tries + 1)); [ $tries -lt 200 ]; sleep 0.1; done
token=$(inside upswarm coordinator invite --group office --site here --data-dir $D --json | sed -n 's/.*"token":"\([^"]*\)".*/\1/p')
inside upswarm node join "$token" --data-dir /var/lib/upswarm --label pc --no-mdns --listen /ip4/127.0.0.1/tcp/0 \
    --installer-dir /var/lib/upswarm-installer --owner upswarm >/dev/null
echo "## pin $(inside stat -c '%U %a' /var/lib/upswarm-installer)"
echo "## node $(inside stat -c '%U %a' /var/lib/upswarm)"
# No systemd runs here: the units' own commands are started as the units say.
unit() { sed -n "s/^$2=//p" "$work/root/usr/lib/systemd/system/$1.service"; }
start $(unit upswarm-installer ExecStart) 2>"$work/installer.log" &
installer=$!
tries=0
until [ -S "$work/root/run/upswarm/installer.sock" ]; do tries=$((tries + 1)); [ $tries -lt 300 ]; sleep 0.1; done
echo "## socket $(inside stat -c '%U %a' /run/upswarm/installer.sock)"
user=$(unit upswarm-node User)
start setpriv --reuid "$user" --regid "$(unit upswarm-node Group)" --clear-groups --no-new-privs --bounding-set=-all \
    --inh-caps=-all $(unit upswarm-node ExecStart) 2>"$work/node.log" &
node=$!
said() { inside upswarm status --data-dir $D --json | tail -n 1 | tr '{}' '\n\n' | grep "\"release\":\"$1\"" | grep '"state"'; }
until_state() {
    tries=0
    until said "$1" | grep -q "\"state\":\"$2\""; do
        tries=$((tries + 1))
        if [ $tries -ge 300 ]; then said "$1" >&2; tail -n 30 "$work/node.log" "$work/installer.log" >&2; exit 1; fi
        sleep 0.2
    done
}
publish() { inside upswarm publish --data-dir $D "/tmp/releases/$1.toml" --json | tail -n 1 | sed -n 's/.*"release":"\([0-9a-f]*\)".*/\1/p'; }
approve() { inside upswarm approve --data-dir $D --group office --action "$2" "$1" >/dev/null; }
app() { inside dpkg-query -W -f '${db:Status-Abbrev}${Version}' upswarm-test-app; }
one=$(publish 1); approve "$one" install; until_state "$one" Installed
echo "## through apt: $(app), $(inside stat -c %U /opt/upswarm-test/file)"
two=$(publish 2); approve "$two" install; until_state "$two" Installed
echo "## upgraded: $(app)"
inside upswarm group sign office --list --yes --data-dir $D >/dev/null
approve "$two" uninstall; until_state "$two" Uninstalled; until_state "$one" Installed
echo "## taken back: $(app)"
three=$(publish 3); approve "$three" install; until_state "$three" Failed
tries=0
until [ "$(app)" = 'ii 1' ]; do tries=$((tries + 1)); [ $tries -lt 300 ]; sleep 0.2; done
echo "## after a failed upgrade: $(app)"
approve "$three" none
approve "$one" uninstall; until_state "$one" Uninstalled
inside test ! -e /opt/upswarm-test/file && echo '## gone'
kill "$node" "$installer" "$coordinator"
wait "$node" && echo '## the node ended well'
wait "$installer" && echo '## the installer ended well'
wait "$coordinator" || true
rm -r "$work/root$D"
inside dpkg --purge upswarm-test-app >/dev/null
# The package once more, on a machine that has joined.
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

/// Case 35: what an admin finds on the machine once the package is there.
#[test]
fn the_debian_package_comes_runs_and_goes() {
    let tools = ["dpkg-deb", "apt-get", "unshare", "setpriv", "ip", "objdump", "strip", "adduser"];
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
    let releases = dir.path().join("releases");
    for (version, script) in [(1, "exit 0"), (2, "exit 0"), (3, "echo it cannot start; exit 3")] {
        build_app(&releases, version, script);
    }
    let args = ["--mount", "--pid", "--net", "--fork", "--kill-child", "sh", "-c", SCRIPT, "sh"];
    let output = Command::new("unshare").args(args).args([&work, Path::new(&package), &releases]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    let facts: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let version = format!("version upswarm {}", env!("CARGO_PKG_VERSION"));
    let expected = [
        version.as_str(),
        "user upswarm",
        "socket directory root 755",
        "pin root 700",
        "node upswarm 700",
        "socket upswarm 600",
        "through apt: ii 1, root",
        "upgraded: ii 2",
        "taken back: ii 1",
        "after a failed upgrade: ii 1",
        "gone",
        "the node ended well",
        "the installer ended well",
        "kept by remove",
        "the end",
    ];
    assert_eq!(facts, expected, "{said}\n{errors}");
}

/// A package that upswarm is to install, and `VERSION.toml`, the release of it.
fn build_app(dir: &Path, version: u32, script: &str) {
    let tree = dir.join(format!("tree-{version}"));
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    fs::create_dir_all(tree.join("opt/upswarm-test")).unwrap();
    fs::write(tree.join("opt/upswarm-test/file"), version.to_string()).unwrap();
    let control = format!(
        "Package: upswarm-test-app\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\n\
         Description: a test\n"
    );
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let postinst = tree.join("DEBIAN/postinst");
    fs::write(&postinst, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(postinst, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let package = dir.join(format!("app-{version}.deb"));
    let args = ["--root-owner-group", "--build"];
    let built = Command::new("dpkg-deb").args(args).args([&tree, &package]).output().unwrap();
    assert!(built.status.success(), "{built:?}");
    let description = format!(
        "product = \"org.example.app\"\nversion = \"{version}\"\ntitle = \"App\"\nclassification = \"update\"\n\
         [[payload]]\npath = \"app-{version}.deb\"\n\
         [[detect]]\npackage = {{ kind = \"deb\", name = \"upswarm-test-app\", version = \"{version}\" }}\n\
         [install]\ndeb = true\n[uninstall]\ndeb = [\"upswarm-test-app\"]\n"
    );
    fs::write(dir.join(format!("{version}.toml")), description).unwrap();
}

/// The units are as closed as the README says: an exposure that grows is a decision, not an accident.
#[test]
fn the_units_are_as_closed_as_told() {
    if !on_path("systemd-analyze") {
        assert!(std::env::var_os("CI").is_none(), "this test needs systemd-analyze, and CI must not skip it");
        eprintln!("SKIPPED: this machine has no systemd-analyze");
        return;
    }
    let units =
        [("upswarm-node.service", 1.5), ("upswarm-coordinator.service", 1.5), ("upswarm-installer.service", 6.0)];
    for (unit, most) in units {
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
