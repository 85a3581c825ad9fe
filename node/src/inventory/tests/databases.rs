use super::*;

const STATUS: &str = "\
Package: libc6
Status: install ok installed
Priority: optional
Architecture: amd64
Multi-Arch: same
Source: glibc (2.36-9)
Version: 2.36-9+deb12u9
Description: GNU C Library
 Version: 9.9 in a description is no version
 .

Package: libc6
Status: install ok installed
Architecture: i386
Version: 2.36-9+deb12u9

Package: held
Status: hold ok installed
Architecture: all
Version: 1:2~rc1

Package: removed
Status: deinstall ok config-files
Architecture: all
Version: 3

Package: broken
Status: install ok half-configured
Architecture: amd64
Version: 4

Package: updated
Status: install ok installed
Architecture: amd64
Version: 5
";

#[test]
fn the_debian_database_with_its_journal() {
    let root = Fake::new();
    root.put("var/lib/dpkg/status", STATUS);
    root.put(
        "var/lib/dpkg/updates/0001",
        "Package: updated\nStatus: install ok unpacked\nArchitecture: amd64\nVersion: 6\n",
    );
    root.put("var/lib/dpkg/updates/0000", paragraph("updated", "5.5"));
    root.put("var/lib/dpkg/updates/tmp.i", "half a rec");
    let scan = root.scan();
    assert_eq!(
        packages(&scan.inventory),
        ["Deb held 1:2~rc1 all", "Deb libc6 2.36-9+deb12u9 amd64", "Deb libc6 2.36-9+deb12u9 i386"]
    );
    let sources: Vec<_> = scan.sources.iter().map(|(key, source)| format!("{} {source}", key.arch)).collect();
    assert_eq!(sources, ["amd64 glibc"]);
    assert_eq!(scan.notices.len(), 2, "{:?}", scan.notices);
    assert!(scan.notices[0].contains("broken 4 is half-configured") && scan.notices[0].contains("dpkg --configure -a"));
    assert!(scan.notices[1].contains("updated 6 is unpacked"));
}

#[test]
fn this_machine_as_dpkg_sees_it() {
    if !has("dpkg-query") {
        return skip("this machine has no dpkg-query");
    }
    let format = "${db:Status-Status} Deb ${Package} ${Version} ${Architecture} ${source:Package}\n";
    let told = run(Command::new("dpkg-query").args(["-W", "-f", format]));
    let mut told: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
    told.sort_unstable();
    let scan = scan(None, &[PackageKind::Deb]);
    let mut found: Vec<String> = scan
        .inventory
        .packages()
        .iter()
        .map(|(key, versions)| {
            let source = scan.sources.get(key).unwrap_or(&key.name);
            format!("Deb {} {} {} {source}", key.name, versions[0], key.arch)
        })
        .collect();
    found.sort_unstable();
    assert!(found.len() > 10 && found == told, "{} packages, dpkg-query tells {}", found.len(), told.len());
}

/// Builds a package and puts it into a database below the root, without its files.
fn install_rpm(root: &Fake, spec: &str) {
    let top = root.path().join("build");
    let spec_file = root.put("build/package.spec", spec);
    let define = format!("_topdir {}", top.display());
    run(Command::new("rpmbuild").args(["-bb", "--quiet", "--define", &define]).arg(spec_file));
    let architectures = fs::read_dir(top.join("RPMS")).expect("what was built");
    let packages = architectures.flat_map(|dir| fs::read_dir(dir.expect("a directory").path()).expect("packages"));
    let packages: Vec<PathBuf> = packages.map(|package| package.expect("a package").path()).collect();
    let database = root.path().join("var/lib/rpm");
    run(Command::new("rpm").arg("--dbpath").arg(database).args(["-i", "--justdb", "--nodeps"]).args(&packages));
    fs::remove_dir_all(top).expect("removed");
}

fn spec(head: &str) -> String {
    format!("{head}\nSummary: A trial\nLicense: MIT\n%description\nA trial.\n%files\n")
}

#[test]
fn a_real_rpm_database() {
    if !has("rpm") || !has("rpmbuild") {
        return skip("this machine has no rpm and rpmbuild (apt-get install rpm)");
    }
    let root = Fake::new();
    root.put("etc/os-release", "ID=fedora\nVERSION_ID=40\n");
    let plain = spec("Name: trial\nVersion: 1.0~rc1\nRelease: 2\nBuildArch: noarch");
    install_rpm(
        &root,
        &format!("{plain}\n%package -n trial-libs\nSummary: x\n%description -n trial-libs\nx\n%files -n trial-libs\n"),
    );
    install_rpm(&root, &spec("Name: Epochal\nEpoch: 3\nVersion: 2.0^git1\nRelease: 1\nBuildArch: noarch"));
    let scan = root.scan();
    assert_eq!(scan.notices, Vec::<String>::new());
    let expected = ["Rpm Epochal 3:2.0^git1-1 noarch", "Rpm trial 1.0~rc1-2 noarch", "Rpm trial-libs 1.0~rc1-2 noarch"];
    assert_eq!(packages(&scan.inventory), expected);
    let sources: Vec<&str> = scan.sources.values().map(|source| source.as_str()).collect();
    assert_eq!(sources, ["trial"]);
    let (key, versions) = scan.inventory.packages().first_key_value().expect("a package");
    let purl = scan.inventory.purl(key, &versions[0]);
    assert_eq!(purl, "pkg:rpm/fedora/Epochal@2.0%5Egit1-1?arch=noarch&distro=fedora-40&epoch=3");

    // A look does not change what the next look goes by, and an install does.
    let settle = || {
        for entry in fs::read_dir(root.path().join("var/lib/rpm")).expect("a database") {
            rest(&entry.expect("a file").path(), 60);
        }
    };
    settle();
    let mut scanner = Scanner::new(Some(root.path().to_owned()), &KINDS);
    assert!(scanner.rescan() && !scanner.rescan() && !scanner.rescan());
    assert_eq!(scanner.reads(), 1, "an unchanged database was read again");
    install_rpm(&root, &spec("Name: later\nVersion: 1\nRelease: 1\nBuildArch: noarch"));
    assert!(scanner.rescan());
    assert_eq!(scanner.last().inventory.packages().len(), 4);
}

#[test]
fn a_broken_rpm_database_is_a_notice() {
    let root = Fake::new();
    root.put("usr/lib/sysimage/rpm/rpmdb.sqlite", b"\x00\xff no database at all ".repeat(500));
    root.put("var/lib/dpkg/status", paragraph("kept", "1"));
    let scan = root.scan();
    assert_eq!(packages(&scan.inventory), ["Deb kept 1 amd64"]);
    assert_eq!(scan.notices.len(), 1, "{:?}", scan.notices);
    let cause = if has("rpm") { "rpmdb --rebuilddb" } else { "install it" };
    assert!(scan.notices[0].contains("usr/lib/sysimage/rpm") && scan.notices[0].contains(cause), "{:?}", scan.notices);
}

#[test]
fn real_flatpaks() {
    if !has("flatpak") {
        eprintln!("SKIPPED: this machine has no flatpak");
        return;
    }
    let root = Fake::new();
    let (repository, dir) = (root.path().join("repository"), root.path().join("var/lib/flatpak"));
    let flatpak = || {
        let mut command = Command::new("flatpak");
        command.env("FLATPAK_SYSTEM_DIR", &dir).current_dir(root.path());
        command
    };
    let arch = run(flatpak().arg("--default-arch")).trim().to_owned();
    root.put("runtime/metadata", "[Runtime]\nname=org.example.Platform\n");
    root.put(
        "app/metadata",
        format!("[Application]\nname=org.example.Hello\nruntime=org.example.Platform/{arch}/1.0\n"),
    );
    for (source, branch) in [("runtime", "1.0"), ("runtime", "2.0"), ("app", "stable")] {
        for made in ["files", "usr", "export"] {
            fs::create_dir_all(root.path().join(source).join(made)).expect("a directory");
        }
        let kind: &[&str] = if source == "runtime" { &["--runtime"] } else { &[] };
        let export = ["build-export", "--disable-sandbox"];
        run(flatpak().args(export).args(kind).arg(&repository).args([source, branch]));
    }
    let url = format!("file://{}", repository.display());
    run(flatpak().args(["--system", "remote-add", "--no-gpg-verify", "local", &url]));
    let install = |what: &str| {
        run(flatpak().args(["--system", "install", "--noninteractive", "--no-related", "local", what]));
    };
    install("org.example.Platform//1.0");
    install("org.example.Hello//stable");
    let mut scanner = Scanner::new(Some(root.path().to_owned()), &KINDS);
    scanner.rescan();
    assert_eq!(scanner.last().notices, Vec::<String>::new());
    let expected =
        [format!("Flatpak org.example.Hello stable {arch}"), format!("Flatpak org.example.Platform 1.0 {arch}")];
    assert_eq!(packages(&scanner.last().inventory), expected);
    install("org.example.Platform//2.0");
    assert!(scanner.rescan());
    assert_eq!(packages(&scanner.last().inventory)[2], format!("Flatpak org.example.Platform 2.0 {arch}"));
}

/// Plays snapd for one request.
fn snapd(root: &Fake, answer: &'static str) -> std::thread::JoinHandle<String> {
    let socket = root.path().join("run/snapd.socket");
    fs::create_dir_all(root.path().join("run")).expect("a directory");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(socket).expect("a socket");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a request");
            request.push(byte[0]);
        }
        // A client that has seen enough may be gone.
        let _ = stream.write_all(answer.as_bytes());
        String::from_utf8(request).expect("text")
    })
}

#[test]
fn snaps_from_snapd_and_without_it() {
    let root = Fake::new();
    root.put(
        "var/lib/snapd/state.json",
        r#"{"data":{"snaps":{"core22":{"active":true,"current":"9"},"off":{"active":false}}}}"#,
    );
    let server = snapd(
        &root,
        "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"type\":\"sync\",\"status-code\":200,\"result\":[\
         {\"name\":\"core22\",\"version\":\"20240111\",\"revision\":\"1122\",\"type\":\"base\",\"status\":\"active\"},\
         {\"name\":\"off\",\"version\":\"1\",\"status\":\"installed\"},{\"version\":\"7\",\"status\":\"active\"}]}",
    );
    let scan = root.scan();
    assert!(server.join().expect("it was asked").starts_with("GET /v2/snaps HTTP/1.0\r\n"));
    assert_eq!(packages(&scan.inventory), ["Snap core22 20240111 "]);
    assert_eq!(scan.notices.len(), 1, "{:?}", scan.notices);

    // Nobody listens any more: names without versions, and a notice.
    let scan = root.scan();
    assert_eq!(packages(&scan.inventory), ["Snap core22  "]);
    assert!(scan.notices[0].contains("does not tell the versions"), "{:?}", scan.notices);

    for answer in ["HTTP/1.0 403 Forbidden\r\n\r\n", "nonsense", "HTTP/1.0 200 OK\r\n\r\n{\"result\":"] {
        let server = snapd(&root, answer);
        assert_eq!(packages(&root.scan().inventory), ["Snap core22  "], "{answer}");
        server.join().expect("it was asked");
    }
    let server = snapd(&root, "HTTP/1.0 200 OK\r\n\r\n{\"result\":7}");
    let scan = root.scan();
    server.join().expect("it was asked");
    assert!(scan.inventory.packages().is_empty() && scan.notices[0].contains("without a list"), "{:?}", scan.notices);
    fs::remove_file(root.path().join("run/snapd.socket")).expect("removed");
    root.put("var/lib/snapd/state.json", "{ not json");
    let scan = root.scan();
    assert!(scan.notices[0].contains("state.json cannot be read"), "{:?}", scan.notices);
}
