//! Releases that are properly signed and name what no honest release names: none becomes part of the catalog.

mod common;

use common::*;
use upswarm_protocol::catalog::*;
use upswarm_protocol::codec::{self, Text};

/// Whether a catalog that names this release holds it then.
fn is_believed(world: &World, release: &Release) -> bool {
    let document = world.publish(release);
    let id = document.release;
    let mut trust = world.trust();
    let edition = world.edition(7, vec![document]);
    trust.offer_head(&edition.head, NOW).unwrap();
    edition.offer_index(&mut trust);
    edition.offer_documents(&mut trust);
    trust.catalog().releases().contains_key(&id)
}

/// Shapes around parts that lead elsewhere, of at most `limit` bytes.
fn shapes(parts: &[&str], limit: usize) -> Vec<String> {
    let mut all = Vec::new();
    for part in parts {
        for depth in 1..=8 {
            let way = format!("{part}/").repeat(depth);
            all.extend([format!("{way}passwd"), format!("/{way}passwd"), format!("a/{way}x"), format!("/a/b/{way}x")]);
            all.push(way.trim_end_matches('/').replace('/', "\\") + "\\x");
        }
    }
    all.retain(|name| name.len() <= limit);
    all.sort();
    all.dedup();
    all
}

#[test]
fn payload_names_that_lead_elsewhere_are_refused() {
    let world = World::new();
    assert!(is_believed(&world, &release("org.example.tool", 1)));
    let mut names = shapes(&["..", ".", "", "~", "etc", "...", "é"], 255);
    names.extend(
        ["", ".", "..", "/", "//", "\\", "C:", "C:x", "c:\\x", "x:stream", "\\\\host\\share\\x"].map(String::from),
    );
    assert!(names.len() >= 200, "{}", names.len());
    for name in &names {
        let odd = Payload { name: text(name), ..payload("tool") };
        let named = Release { payloads: list(vec![odd]), ..release("org.example.tool", 1) };
        assert!(!is_believed(&world, &named), "{name:?}");
    }
}

#[test]
fn paths_that_lead_elsewhere_are_refused_wherever_they_stand() {
    let world = World::new();
    let mut paths = shapes(&["..", ".", ""], 1024);
    paths.extend(["", "/", "//", "a", "./a", "~/a", "~root/a", "C:/a", "file:///a", "/a/", "/a//b"].map(String::from));
    paths.retain(|path| path != "/passwd" && !(path.starts_with('/') && path.contains('\\') && !path.contains("/../")));
    assert!(paths.len() >= 70, "{}", paths.len());
    let plain = release("org.example.tool", 1);
    for path in &paths {
        let path: Text<1024> = text(path);
        let placed = FilePlacement { payload: 0, path: path.clone(), mode: 0o644 };
        let hostile = [
            Release { install: Recipe::Files { files: list(vec![placed]) }, ..plain.clone() },
            Release { uninstall: Some(Recipe::RemoveFiles { paths: list(vec![path.clone()]) }), ..plain.clone() },
            Release { detect: list(vec![Detect::FileExists { path: path.clone() }]), ..plain.clone() },
            Release { applicability: list(vec![Applicability::FileExists { path: path.clone() }]), ..plain.clone() },
        ];
        for release in hostile {
            assert!(!is_believed(&world, &release), "{path:?}");
        }
    }
}

#[test]
fn names_with_control_characters_do_not_even_decode() {
    let mut controls: Vec<char> = ('\0'..='\u{1f}').collect();
    controls.extend('\u{7f}'..='\u{9f}');
    assert_eq!(controls.len(), 65);
    for control in controls {
        let name = format!("a{control}b.deb");
        assert!(Text::<255>::new(name.as_str()).is_err(), "{name:?}");
        // As a hostile publisher's encoder would write it.
        let bytes = codec::encode(&name, 300).unwrap();
        assert!(codec::decode::<Text<255>>(&bytes, 300).is_err(), "{name:?}");
    }
    let long = codec::encode(&"x".repeat(256), 300).unwrap();
    assert!(codec::decode::<Text<255>>(&long, 300).is_err());
}
