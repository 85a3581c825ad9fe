//! Real packages, and roots to install them into.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fleet::{Coordinator, Published, random_file, text};

/// The package database that a package belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// dpkg.
    Deb,
    /// rpm.
    Rpm,
}

/// A package to build: a program of random bytes, a configuration file that says the version, and a script.
#[derive(Debug, Clone, Copy)]
pub struct Package<'a> {
    /// Which database.
    pub kind: Kind,
    /// Its name.
    pub name: &'a str,
    /// Its version, without a revision.
    pub version: u32,
    /// Bytes of the program.
    pub len: u64,
    /// What the maintainer's script does in the root after the files are there (deb: postinst, rpm: %post).
    pub after: &'a str,
    /// What it does before (preinst, %pre).
    pub before: &'a str,
    /// What it depends on; empty for nothing.
    pub depends: &'a str,
}

impl Package<'_> {
    /// Its version as the database says it.
    pub fn full_version(&self) -> String {
        format!("{}.0-1", self.version)
    }

    /// Its configuration file in a root.
    pub fn configuration(&self, root: &Path) -> PathBuf {
        root.join(format!("etc/{}.conf", self.name))
    }

    /// What its configuration file says when nobody has changed it.
    pub fn default_configuration(&self) -> String {
        format!("default = {}\n", self.version)
    }

    /// Its program in a root.
    pub fn program(&self, root: &Path) -> PathBuf {
        root.join(format!("opt/{}/program", self.name))
    }

    /// Builds it with the real tool; returns its file.
    pub fn build(&self, dir: &Path) -> PathBuf {
        fs::create_dir_all(dir).expect("a directory for packages");
        let built = match self.kind {
            Kind::Deb => self.build_deb(dir),
            Kind::Rpm => self.build_rpm(dir),
        };
        assert!(built.is_file(), "{} was not built", built.display());
        built
    }

    fn tree(&self, dir: &Path) -> PathBuf {
        let tree = dir.join(format!("{}-{}", self.name, self.version));
        for path in [self.program(&tree), self.configuration(&tree)] {
            fs::create_dir_all(path.parent().expect("it lies in a directory")).expect("a tree");
        }
        random_file(&self.program(&tree), self.len, u64::from(self.version));
        fs::write(self.configuration(&tree), self.default_configuration()).expect("a configuration");
        tree
    }

    fn build_deb(&self, dir: &Path) -> PathBuf {
        let tree = self.tree(dir);
        let control = tree.join("DEBIAN");
        fs::create_dir(&control).expect("a control directory");
        let depends = if self.depends.is_empty() { String::new() } else { format!("Depends: {}\n", self.depends) };
        let fields = format!(
            "Package: {}\nVersion: {}\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\n{depends}\
             Description: a test\n",
            self.name,
            self.full_version()
        );
        fs::write(control.join("control"), fields).expect("a control file");
        fs::write(control.join("conffiles"), format!("/etc/{}.conf\n", self.name)).expect("a list of conffiles");
        for (name, script) in [("preinst", self.before), ("postinst", self.after)] {
            let path = control.join(name);
            fs::write(&path, format!("#!/bin/sh\nset -e\n{script}\n")).expect("a script");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a script that runs");
        }
        let package = dir.join(format!("{}_{}_all.deb", self.name, self.full_version()));
        run(Command::new("dpkg-deb").args(["--root-owner-group", "-Znone", "--build"]).args([&tree, &package]));
        package
    }

    fn build_rpm(&self, dir: &Path) -> PathBuf {
        let tree = self.tree(dir);
        let depends = if self.depends.is_empty() { String::new() } else { format!("Requires: {}\n", self.depends) };
        let spec = format!(
            "Name: {name}\nVersion: {version}.0\nRelease: 1\nSummary: a test\nLicense: none\nBuildArch: noarch\n{depends}\
             %description\nA test.\n%install\ncp -a {tree}/. %{{buildroot}}/\n%pre\nset -e\n{before}\n%post\nset -e\n{after}\n\
             %files\n/opt/{name}/program\n%config(noreplace) /etc/{name}.conf\n",
            name = self.name,
            version = self.version,
            tree = tree.display(),
            before = self.before,
            after = self.after,
        );
        rpmbuild(dir, &format!("{}-{}", self.name, self.version), &spec);
        dir.join(format!("build/RPMS/noarch/{}-{}.noarch.rpm", self.name, self.full_version()))
    }

    /// Publishes a built package as a release of `org.example.NAME` that is detected by its name and version.
    pub fn publish(&self, coordinator: &Coordinator<'_>, file: &Path) -> Published {
        self.publish_detected_also_by(coordinator, file, "")
    }

    /// The same, with another rule that must hold.
    pub fn publish_detected_also_by(&self, coordinator: &Coordinator<'_>, file: &Path, rule: &str) -> Published {
        let kind = match self.kind {
            Kind::Deb => "deb",
            Kind::Rpm => "rpm",
        };
        let (name, major, version) = (self.name, self.version, self.full_version());
        let description = format!(
            "product = \"org.example.{name}\"\nversion = \"{major}\"\ntitle = \"{name} {major}\"\nclassification = \"update\"\n\
             [[payload]]\npath = {file:?}\n\
             [[detect]]\npackage = {{ kind = \"{kind}\", name = \"{name}\", version = \"{version}\" }}\n{rule}\
             [install]\n{kind} = true\ntimeout = \"2m\"\n[uninstall]\n{kind} = [\"{name}\"]\n"
        );
        let path = file.with_extension("toml");
        fs::write(&path, description).expect("a release file");
        serde_json::from_value(coordinator.verb(&["publish", text(&path)]).done()).expect("what publish prints")
    }
}

/// A small system below `root`: a shell for maintainers' scripts, and an empty database of dpkg.
pub fn make_debian_root(root: &Path) {
    for dir in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/rpm", "usr/bin", "etc", "tmp"] {
        fs::create_dir_all(root.join(dir)).expect("a root");
    }
    fs::write(root.join("var/lib/dpkg/status"), b"").expect("an empty database");
    fs::write(root.join("etc/os-release"), "ID=debian\nVERSION_ID=\"13\"\n").expect("a system's name");
    symlink("usr/bin", root.join("bin")).expect("a link");
    for program in ["/bin/sh", "/bin/sleep", "/bin/rm"] {
        let name = Path::new(program).file_name().expect("a program's name");
        fs::copy(program, root.join("usr/bin").join(name)).expect("a copy of a program");
        let libraries = Command::new("ldd").arg(program).output().expect("ldd");
        for library in
            String::from_utf8_lossy(&libraries.stdout).split_whitespace().filter(|word| word.starts_with('/'))
        {
            let copy = root.join(&library[1..]);
            fs::create_dir_all(copy.parent().expect("it lies in a directory")).expect("a root");
            fs::copy(library, copy).expect("a copy of a library");
        }
    }
}

/// The same, with an empty database of rpm too.
pub fn make_root(root: &Path) {
    make_debian_root(root);
    let base = root.join("tmp/base");
    fs::create_dir(&base).expect("a directory");
    // Scripts of RPM packages ask for it in the database.
    let spec = "Name: lab-base\nVersion: 1\nRelease: 1\nSummary: a shell\nLicense: none\nBuildArch: noarch\nProvides: /bin/sh\n\
                %description\nA shell.\n%files\n";
    rpmbuild(&base, "base", spec);
    let package = base.join("build/RPMS/noarch/lab-base-1-1.noarch.rpm");
    run(Command::new("rpm").args([&format!("--root={}", root.display()), "--dbpath=/var/lib/rpm", "-i"]).arg(package));
    fs::remove_dir_all(base).expect("an empty directory");
}

/// The tools that are missing here, in words; none when packages can be built and installed.
pub fn missing_tools() -> Option<String> {
    missing_of(&["dpkg", "dpkg-deb", "rpm", "rpmbuild", "ldd"])
}

/// The same for Debian packages alone.
pub fn missing_debian_tools() -> Option<String> {
    missing_of(&["dpkg", "dpkg-deb", "ldd"])
}

fn missing_of(tools: &[&str]) -> Option<String> {
    let missing = tools.iter().find(|tool| Command::new(tool).arg("--version").output().is_err());
    missing.map(|tool| format!("{tool} is missing"))
}

/// What dpkg finds wrong with the database of a root.
pub fn audit(root: &Path) -> String {
    let output = Command::new("dpkg").arg(format!("--root={}", root.display())).arg("--audit").output().expect("dpkg");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Every version of an RPM package in the database of a root.
pub fn rpm_versions(root: &Path, name: &str) -> Vec<String> {
    let args = [&format!("--root={}", root.display()), "--dbpath=/var/lib/rpm", "-q", "--qf", "%{VERSION}\\n", name];
    let output = Command::new("rpm").args(args).output().expect("rpm");
    let lines = String::from_utf8_lossy(&output.stdout);
    lines.lines().filter(|line| !line.contains("not installed")).map(str::to_owned).collect()
}

fn rpmbuild(dir: &Path, name: &str, spec: &str) {
    let path = dir.join(format!("{name}.spec"));
    fs::write(&path, spec).expect("a spec");
    let top = format!("_topdir {}", dir.join("build").display());
    let plain = ["-bb", "--define", &top, "--define", "_binary_payload w0.ufdio", "--define", "debug_package %{nil}"];
    run(Command::new("rpmbuild").args(plain).arg(&path));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
