//! Package URLs.

use core::fmt::Write;

use super::{PackageKey, Version};
use crate::catalog::PackageKind;

/// `scheme:type/namespace/name@version?qualifiers`, in canonical form: qualifiers sorted by name, empty ones left out.
pub(super) fn purl(key: &PackageKey, version: &Version, os_id: Option<&str>, os_version: Option<&str>) -> String {
    let kind = match key.kind {
        PackageKind::Deb => "deb",
        PackageKind::Rpm => "rpm",
        PackageKind::Flatpak => "flatpak",
        PackageKind::Snap => "snap",
    };
    // Flatpaks and snaps come from no distribution.
    let os_id = os_id.filter(|id| !id.is_empty() && matches!(key.kind, PackageKind::Deb | PackageKind::Rpm));
    // The type `rpm` keeps the epoch in a qualifier, the type `deb` in the version.
    let (epoch, version) = match version.split_once(':') {
        Some((epoch, rest)) if key.kind == PackageKind::Rpm => (Some(epoch).filter(|epoch| *epoch != "0"), rest),
        _ => (None, version.as_str()),
    };
    let mut purl = format!("pkg:{kind}/");
    if let Some(id) = os_id {
        encode(&mut purl, &id.to_lowercase());
        purl.push('/');
    }
    match key.kind {
        PackageKind::Deb => encode(&mut purl, &key.name.to_lowercase()),
        _ => encode(&mut purl, &key.name),
    }
    if !version.is_empty() {
        purl.push('@');
        encode(&mut purl, version);
    }
    let distro = os_id.zip(os_version).map(|(id, version)| format!("{id}-{version}"));
    let arch = Some(key.arch.as_str());
    let mut separator = '?';
    for (name, value) in [("arch", arch), ("distro", distro.as_deref()), ("epoch", epoch)] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            purl.push(separator);
            purl.push_str(name);
            purl.push('=');
            encode(&mut purl, value);
            separator = '&';
        }
    }
    purl
}

/// Percent-encodes everything but letters, digits, `.`, `-`, `_`, `~` and the colon, which the specification exempts.
fn encode(purl: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => purl.push(char::from(byte)),
            // Writing to a string does not fail.
            _ => _ = write!(purl, "%{byte:02X}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Arch, Name};

    #[test]
    fn the_forms_of_the_specification() {
        let purl = |kind, name: &str, version: &str, arch: &str, os: Option<(&str, &str)>| {
            let key = PackageKey { kind, name: Name::lossy(name), arch: Arch::lossy(arch) };
            super::purl(&key, &Version::lossy(version), os.map(|os| os.0), os.map(|os| os.1))
        };
        let (debian, fedora) = (Some(("debian", "12")), Some(("Fedora", "40")));
        for (found, expected) in [
            (
                purl(PackageKind::Deb, "curl", "7.88.1-10", "amd64", debian),
                "pkg:deb/debian/curl@7.88.1-10?arch=amd64&distro=debian-12",
            ),
            (
                purl(PackageKind::Deb, "libstdc++6", "1:12.2.0-14+deb12u1~b", "amd64", debian),
                "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14%2Bdeb12u1~b?arch=amd64&distro=debian-12",
            ),
            (purl(PackageKind::Deb, "curl", "7", "", None), "pkg:deb/curl@7"),
            (
                purl(PackageKind::Rpm, "ImageMagick", "1:7.1^2-1.fc40", "x86_64", fedora),
                "pkg:rpm/fedora/ImageMagick@7.1%5E2-1.fc40?arch=x86_64&distro=Fedora-40&epoch=1",
            ),
            (purl(PackageKind::Rpm, "bash", "0:5.2-1", "noarch", None), "pkg:rpm/bash@5.2-1?arch=noarch"),
            (
                purl(PackageKind::Flatpak, "org.gnome.Maps", "46", "x86_64", debian),
                "pkg:flatpak/org.gnome.Maps@46?arch=x86_64",
            ),
            (purl(PackageKind::Snap, "a/b@c?d%é", "", "", None), "pkg:snap/a%2Fb%40c%3Fd%25%C3%A9"),
        ] {
            assert_eq!(found, expected);
        }
    }
}
