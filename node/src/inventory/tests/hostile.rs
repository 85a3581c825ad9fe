use super::*;

fn scan_status(content: impl AsRef<[u8]>) -> Scan {
    let root = Fake::new();
    root.put("var/lib/dpkg/status", content);
    root.scan()
}

#[test]
fn garbage_is_named_with_file_line_and_advice_and_the_rest_is_kept() {
    let good = paragraph("good", "1.0");
    for (content, line, what, kept) in [
        (b"\x00\xff\xfe\x01garbage".repeat(1000), 1, "neither a field", 0),
        (
            [good.as_bytes(), &b"\x00".repeat(5000), b"\n\n", paragraph("b", "2").as_bytes()].concat(),
            6,
            "neither a field",
            2,
        ),
        (format!("{good}Package: x\nVersion: 1\n\n").into(), 6, "no field Status", 1),
        (format!("{good}Status: install ok installed\nVersion: 1\n\n").into(), 6, "no field Package", 1),
        (format!("{good}Package: x\nStatus: install ok installed\n").into(), 6, "no field Version", 1),
        (format!("{good}Package: x\nStatus: install ok strange\nVersion: 1\n").into(), 6, "no state", 1),
        (format!("{good}{}", paragraph("../../etc", "1")).into(), 6, "no name", 1),
        (format!("{good}{}", paragraph("x", "1 2; rm")).into(), 6, "no version", 1),
        (format!("{good}{}", paragraph("x\x1b[2J", "1")).into(), 6, "no name", 1),
        (format!("{good}{}", paragraph(&"n".repeat(300), "1")).into(), 6, "too long", 1),
        (format!("{good}{}", paragraph("x", "1\nVersion: 2")).into(), 10, "twice", 2),
        (format!("{good}{good}").into(), 6, "stands there twice", 1),
        (Vec::new(), 0, "is empty", 0),
        (b"\n \n\t\n".to_vec(), 0, "is empty", 0),
    ] {
        let scan = scan_status(&content);
        assert_eq!(scan.inventory.packages().len(), kept, "{what}: {:?}", packages(&scan.inventory));
        let notice = scan.notices.first().unwrap_or_else(|| panic!("no notice about {what}"));
        assert!(notice.contains(what) && notice.contains("var/lib/dpkg/status"), "{notice}");
        assert!(line == 0 || notice.contains(&format!("line {line}:")), "{notice}");
        assert!(notice.contains("dpkg --audit") && !notice.contains('\x1b'), "{notice}");
    }
}

#[test]
fn a_line_of_a_hundred_megabytes() {
    let root = Fake::new();
    let path = root.put("var/lib/dpkg/status", format!("{}Package: long\nDescription: ", paragraph("before", "1")));
    let mut file = File::options().append(true).open(&path).expect("the file");
    let len = file.metadata().expect("its length").len();
    // A hole reads as zero bytes and takes no disk.
    file.set_len(len + (100 << 20)).expect("a hole");
    file.write_all(format!("\nStatus: install ok installed\nVersion: 1\n\n{}", paragraph("after", "1")).as_bytes())
        .expect("more");
    let scan = root.scan();
    assert_eq!(packages(&scan.inventory), ["Deb after 1 amd64", "Deb before 1 amd64", "Deb long 1 "]);
}

#[test]
fn a_flood_of_packages_and_of_errors_is_bounded() {
    let many: String = (0..70_000).map(|number| paragraph(&format!("p{number}"), "1")).collect();
    let scan = scan_status(many);
    assert_eq!(scan.inventory.packages().len(), 65_536);
    assert_eq!(scan.notices.len(), MAX_NOTICES + 1);
    assert!(scan.notices[0].contains("more than 65536 packages"), "{:?}", scan.notices[0]);
    let scan = scan_status("Version: 1\n\n".repeat(50_000));
    assert_eq!(scan.notices.last().map(String::as_str), Some("and 49980 more like these"));
}

/// Real content with random damage: no panic, and every name and version is one.
#[test]
fn random_damage() {
    let content: String = (0..200).map(|number| paragraph(&format!("lib{number}"), &format!("1:{number}-1"))).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let root = Fake::new();
    for _ in 0..300 {
        let mut bytes = content.clone().into_bytes();
        for _ in 0..1 + draw(40) {
            let at = draw(bytes.len());
            match draw(4) {
                0 => bytes[at] = draw(256) as u8,
                1 => bytes.truncate(at.max(1)),
                2 => drop(bytes.drain(at..(at + draw(60)).min(bytes.len()))),
                _ => bytes.insert(at, b"\n:\0 "[draw(4)]),
            }
            if bytes.is_empty() {
                bytes.push(b'\n');
            }
        }
        root.put("var/lib/dpkg/status", bytes);
        let scan = root.scan();
        for (key, versions) in scan.inventory.packages() {
            assert!(key.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+.-_".contains(&byte)), "{key:?}");
            assert!(versions.iter().all(|version| !version.is_empty() && version.is_ascii()), "{versions:?}");
        }
        assert!(scan.notices.len() <= MAX_NOTICES + 1);
    }
}

#[test]
fn links_of_another_root_do_not_lead_out_of_it() {
    let root = Fake::new();
    let outside = Fake::new();
    let status = outside.put("status", paragraph("outside", "1"));
    fs::create_dir_all(root.path().join("var/lib/dpkg")).expect("directories");
    symlink(&status, root.path().join("var/lib/dpkg/status")).expect("a link");
    fs::create_dir_all(root.path().join("etc")).expect("a directory");
    symlink("/usr/lib/os-release", root.path().join("etc/os-release")).expect("a link");
    root.put("usr/lib/os-release", "ID=inside\n");
    let scan = root.scan();
    assert!(scan.inventory.packages().is_empty(), "{:?}", packages(&scan.inventory));
    assert_eq!(scan.inventory.fact("os.id"), Some("inside"));
}

#[test]
fn what_is_no_plain_file_does_not_hold_a_scan_up() {
    let root = Fake::new();
    let dir = root.path().join("var/lib/dpkg");
    fs::create_dir_all(&dir).expect("directories");
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, dir.join("status"), rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
    let scan = root.scan();
    assert!(scan.notices[0].contains("not a plain file"), "{:?}", scan.notices);
    let nowhere = super::super::scan(Some(Path::new("/no/such/root")), &KINDS);
    assert!(nowhere.notices[0].contains("/no/such/root cannot be opened"), "{:?}", nowhere.notices);
}
