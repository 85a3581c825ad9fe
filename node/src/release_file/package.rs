//! What a package file says of itself, and the release file that follows from it. Asked of the file by the tool of its kind
//! (`dpkg-deb`, `rpm`), never of a person; installs nothing, and runs nothing that the package brings.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use upswarm_protocol::catalog::{Classification, PackageKind, Severity};

use super::{Checked, ReleaseFileError, refuse};
use crate::sys::find;

/// What the head of a file must be.
const DEB: &[u8] = b"!<arch>\ndebian-binary";
const RPM: &[u8] = &[0xed, 0xab, 0xee, 0xdb];
/// The most of a title that a release holds.
const MAX_TITLE: usize = 255;

/// What a package file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) kind: PackageKind,
    pub(crate) name: String,
    /// With epoch and revision, as its database will say it.
    pub(crate) version: String,
    /// In the words of its kind: `amd64`, `x86_64`, `all`, `noarch`.
    pub(crate) architecture: String,
    /// One line.
    pub(crate) summary: String,
    /// The packages that it needs, as it writes them.
    pub(crate) needs: String,
}

/// What the admin says instead of the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    pub(crate) product: Option<String>,
    pub(crate) title: Option<String>,
    pub(crate) classification: Option<Classification>,
    pub(crate) severity: Option<Severity>,
}

/// The kind of a package file; `None` for any other file.
pub(crate) fn kind_of(path: &Path) -> Option<PackageKind> {
    let mut head = [0; DEB.len()];
    let read = File::open(path).and_then(|file| {
        let mut head = head.as_mut_slice();
        std::io::copy(&mut file.take(head.len() as u64), &mut head)
    });
    let head = head.get(..usize::try_from(read.ok()?).ok()?)?;
    match head {
        head if head.starts_with(DEB) => Some(PackageKind::Deb),
        head if head.starts_with(RPM) => Some(PackageKind::Rpm),
        _ => None,
    }
}

impl Facts {
    /// Asks a package file.
    pub(crate) fn of(path: &Path, kind: PackageKind) -> Checked<Self> {
        match kind {
            PackageKind::Deb => of_deb(path),
            PackageKind::Rpm => of_rpm(path),
            PackageKind::Flatpak | PackageKind::Snap => refuse("only .deb and .rpm files say what a release needs"),
        }
    }

    /// The program that reads packages of a kind, if it is here.
    pub(crate) fn tool(kind: PackageKind) -> Option<std::path::PathBuf> {
        find(if kind == PackageKind::Deb { "dpkg-deb" } else { "rpm" })
    }

    /// Its kind for people.
    pub(crate) fn what(&self) -> &'static str {
        if self.kind == PackageKind::Deb { "a Debian package" } else { "an RPM package" }
    }

    /// Its architecture in the words of a release; `None` for any.
    pub(crate) fn platform(&self) -> Option<&str> {
        match self.architecture.as_str() {
            "all" | "noarch" => None,
            "amd64" => Some("x86_64"),
            "arm64" => Some("aarch64"),
            "i386" | "i486" | "i586" | "i686" => Some("x86"),
            "armhf" | "armel" | "armv7hl" => Some("arm"),
            "ppc64el" | "ppc64le" => Some("powerpc64"),
            other => Some(other),
        }
    }

    /// The text of the release file that stands for this package file. `prefix` is the publisher's: names with a dot at the
    /// end, or nothing.
    pub(crate) fn release_file(&self, path: &Path, prefix: &str, overrides: &Overrides) -> String {
        let product = overrides.product.clone().unwrap_or_else(|| format!("{prefix}{}", self.name));
        let title = overrides.title.clone().unwrap_or_else(|| {
            let mut title = format!("{} {}", self.name, self.version);
            if !self.summary.is_empty() {
                // Formatting into a String cannot fail.
                let _ = write!(title, ": {}", self.summary);
            }
            while title.len() > MAX_TITLE {
                title.pop();
            }
            title
        });
        let classification = word(overrides.classification.unwrap_or(Classification::Update));
        let severity = word(overrides.severity.unwrap_or(Severity::Unspecified));
        let kind = if self.kind == PackageKind::Deb { "deb" } else { "rpm" };
        let needs = if self.needs.is_empty() {
            String::new()
        } else {
            format!("# The package needs, and its package manager sees to: {}\n", self.needs)
        };
        let quoted = |text: &str| toml::Value::from(text).to_string();
        format!(
            "product = {product}\nversion = {version}\ntitle = {title}\n\
             classification = {classification}    # security, critical, update, feature, definition, driver, application\n\
             severity = {severity}    # unspecified, low, moderate, important, critical\n\n\
             [platform]\nos = \"linux\"\narch = {arch}    # empty: any\n\n\
             {needs}[[payload]]\npath = {path}\n\n\
             [[detect]]    # installed when the package is there in this version or a later one\n\
             package = {{ kind = {kind}, name = {name}, version = {version} }}\n\n\
             [install]\n{kind_word} = true\n\n[uninstall]\n{kind_word} = [{name}]\n",
            product = quoted(&product),
            version = quoted(&self.version),
            title = quoted(&title),
            classification = quoted(&classification),
            severity = quoted(&severity),
            arch = quoted(self.platform().unwrap_or_default()),
            path = quoted(&path.display().to_string()),
            kind = quoted(kind),
            kind_word = kind,
            name = quoted(&self.name),
        )
    }
}

/// As release files spell it.
fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn of_deb(path: &Path) -> Checked<Facts> {
    let fields = ["Package", "Version", "Architecture", "Description", "Pre-Depends", "Depends"];
    let mut values = Vec::new();
    for field in fields {
        values.push(ask("dpkg-deb", "dpkg", path, &["--field"], &[field])?);
    }
    let line = |at: usize| values[at].lines().next().unwrap_or_default().trim().to_owned();
    let needs = [line(4), line(5)].into_iter().filter(|needs| !needs.is_empty()).collect::<Vec<_>>().join(", ");
    good(
        path,
        Facts {
            kind: PackageKind::Deb,
            name: line(0),
            version: line(1),
            architecture: line(2),
            summary: line(3),
            needs,
        },
    )
}

fn of_rpm(path: &Path) -> Checked<Facts> {
    let format = "--qf=%{NAME}\\n%{EPOCHNUM}\\n%{VERSION}-%{RELEASE}\\n%{ARCH}\\n%{SUMMARY}\\n[%{REQUIRENAME}, ]\\n";
    let said = ask("rpm", "rpm", path, &["--query", "--package", "--nosignature", "--nodigest", format], &[])?;
    let mut lines = said.lines().map(|line| line.trim().to_owned());
    let mut next = || lines.next().unwrap_or_default();
    let (name, epoch, version, architecture, summary, needs) = (next(), next(), next(), next(), next(), next());
    let version = if epoch == "0" { version } else { format!("{epoch}:{version}") };
    let needs = needs.trim_end_matches([',', ' ']).split(", ").filter(|name| !name.starts_with("rpmlib("));
    let needs = needs.collect::<Vec<_>>().join(", ");
    good(path, Facts { kind: PackageKind::Rpm, name, version, architecture, summary, needs })
}

fn good(path: &Path, facts: Facts) -> Checked<Facts> {
    if facts.name.is_empty() || facts.version.is_empty() {
        return refuse(format!("{} does not say its name and version; is it whole?", path.display()));
    }
    super::build::package_version(facts.kind, &facts.version)?;
    Ok(facts)
}

fn ask(program: &str, package: &str, path: &Path, before: &[&str], after: &[&str]) -> Checked<String> {
    let Some(tool) = find(program) else {
        return refuse(format!(
            "{program} is missing here, which reads {}; install {package}, or write a RELEASE.toml (upswarm publish --help)",
            path.display()
        ));
    };
    let output = Command::new(tool)
        .args(before)
        .arg(path)
        .args(after)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| ReleaseFileError(format!("{program}: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why").to_owned();
        return refuse(format!("{} cannot be read: {said}", path.display()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::super::ReleaseFile;
    use super::*;

    fn facts() -> Facts {
        Facts {
            kind: PackageKind::Deb,
            name: "demo".into(),
            version: "1:1.0~rc1+b2-1".into(),
            architecture: "amd64".into(),
            summary: "a \"demo\" for tests".into(),
            needs: "libc6 (>= 2.36)".into(),
        }
    }

    #[test]
    fn a_package_file_becomes_a_release_file_that_is_good_and_agrees_with_it() {
        let text = facts().release_file(Path::new("/root/demo_1.0_amd64.deb"), "org.example.", &Overrides::default());
        let file = ReleaseFile::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!((file.product(), file.version()), ("org.example.demo", "1:1.0~rc1+b2-1"));
        assert!(text.contains("arch = \"x86_64\"") && text.contains("libc6 (>= 2.36)"), "{text}");
        file.check_against("demo_1.0_amd64.deb", &facts()).unwrap();
        let overrides = Overrides {
            product: Some("com.example.other".into()),
            title: Some("Other".into()),
            classification: Some(Classification::Security),
            severity: Some(Severity::Critical),
        };
        let text = facts().release_file(Path::new("/x.deb"), "org.example.", &overrides);
        ReleaseFile::parse(&text).unwrap();
        for wanted in ["com.example.other", "\"Other\"", "\"security\"", "\"critical\""] {
            assert!(text.contains(wanted), "{text}");
        }
    }

    #[test]
    fn what_the_file_says_and_what_the_release_says_are_compared() {
        let text = facts().release_file(Path::new("/x.deb"), "", &Overrides::default());
        let file = ReleaseFile::parse(&text).unwrap();
        let said = |facts: Facts| file.check_against("x.deb", &facts).unwrap_err().to_string();
        assert!(said(Facts { version: "1:0.9-1".into(), ..facts() }).contains("never found"));
        assert!(said(Facts { architecture: "arm64".into(), ..facts() }).contains("is for aarch64"));
        assert!(said(Facts { kind: PackageKind::Rpm, ..facts() }).contains("does not install"));
    }
}
