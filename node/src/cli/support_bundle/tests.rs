use std::io::Read as _;

use flate2::read::GzDecoder;

use super::*;
use crate::coordinator::setup;

/// The files of an archive: what tar would list.
fn files(path: &Path) -> Vec<(String, String)> {
    let mut bytes = Vec::new();
    GzDecoder::new(fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    let (mut found, mut at) = (Vec::new(), 0);
    while bytes[at] != 0 {
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8_lossy(&bytes[range]).trim_end_matches(['\0', ' ']).to_owned()
        };
        let len = usize::from_str_radix(&text(at + 124..at + 136), 8).unwrap();
        found.push((text(at..at + 100), String::from_utf8_lossy(&bytes[at + 512..at + 512 + len]).into_owned()));
        at += 512 + len.next_multiple_of(512);
    }
    found
}

#[test]
fn a_bundle_lists_what_it_holds_and_holds_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("d");
    setup::init(&data, None).unwrap();
    let directory = Directory::new(&data);
    let token = directory.token().unwrap().to_string();
    let key: serde_json::Value =
        serde_json::from_slice(&fs::read(directory.keys().join("online-1.key")).unwrap()).unwrap();
    let secret = key["secret"].as_str().unwrap().to_owned();
    // Whoever wrote secrets where they do not belong has them taken out there too.
    fs::write(data.join("run.json"), format!("{{\"http\":\"{token}\",\"x\":\"{secret}\",\"pid\":7}}")).unwrap();
    let file = dir.path().join("bundle.tar.gz");
    let run = |file: &Path| super::run(Args { file: file.to_owned(), data_dir: data.clone() }, Common::default());
    run(&file).unwrap();
    let files = files(&file);
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["CONTENTS.txt", "doctor.json", "machine.txt", "files.txt", "run.json", "status.json"] {
        assert!(names.contains(&format!("upswarm-support/{name}").as_str()), "{name}: {names:?}");
    }
    for (name, text) in &files {
        assert!(!text.contains(&token) && !text.contains(&secret), "{name} holds a secret");
    }
    let part = |name: &str| &files.iter().find(|(known, _)| known.ends_with(name)).unwrap().1;
    assert!(part("CONTENTS.txt").contains("files.txt: names and sizes"));
    assert!(part("files.txt").contains("keys/online-1.key") && part("run.json").contains("\"pid\":7"));
    assert!(part("status.json").contains("not running"), "what could not be had says why");
    assert!(run(&file).unwrap_err().to_string().contains("not overwritten"));
    let reason = super::run(Args { file, data_dir: dir.path().to_owned() }, Common::default()).unwrap_err();
    assert!(reason.to_string().contains("neither a coordinator nor a node"), "{reason}");
}

#[test]
fn a_bundle_is_bounded_and_keeps_the_end_of_what_is_long() {
    let mut bundle = Bundle { redactor: Redactor::default(), parts: Vec::new(), bytes: 0 };
    let long = format!("{}the end", "é".repeat(3 << 20));
    for number in 0..12 {
        bundle.add(&number.to_string(), "long", Ok(long.clone()));
    }
    assert!(bundle.bytes <= MAX_ALL && bundle.parts[0].text.len() <= MAX_PART);
    assert!(bundle.parts[0].text.ends_with("the end") && bundle.parts[0].cut > 0);
    assert!(bundle.contents().contains("are cut"));
}
