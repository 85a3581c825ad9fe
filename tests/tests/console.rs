//! The admin's day in a real browser: look, search by keyboard alone, approve with a preview, watch it arrive, pause, find a failing
//! machine and its reason, export; and no page that a screen reader, a strict policy or a narrow window could not take.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use upswarm_tests::browser::{self, Browser, ENTER, TAB};
use upswarm_tests::{program, wait};

const WITHIN: Duration = Duration::from_secs(60);
/// From a file in its place on a machine until an open page shows it.
const VISIBLE_WITHIN: Duration = Duration::from_secs(5);
const AXE: &str = include_str!("../vendor/axe-core/axe.min.js");
/// Where pictures go; without it, to a directory that goes away.
const PICTURES: &str = "UPSWARM_PICTURES";

/// `upswarm demo --console` in a directory of its own.
struct Demo {
    child: Child,
    /// What it still says is read, or it would stand still.
    _said: BufReader<ChildStderr>,
    link: String,
    port: u16,
    home: tempfile::TempDir,
}

impl Demo {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let payload = home.path().join("payload.bin");
        std::fs::write(&payload, vec![7; 2 << 20]).unwrap();
        let payload = payload.display().to_string();
        let mut command = program::command(&[
            "demo",
            "--nodes",
            "4",
            "--kill",
            "0",
            "--payload",
            &payload,
            "--console",
            "127.0.0.1:0",
        ]);
        command.env("TMPDIR", home.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("upswarm");
        let mut said = BufReader::new(child.stderr.take().expect("its standard error"));
        let mut link = None;
        let mut line = String::new();
        while said.read_line(&mut line).expect("reading what it says") > 0 {
            link = link.or_else(|| line.find("http://").map(|at| line[at..].trim().to_owned()));
            if line.contains("the console stays") {
                break;
            }
            line.clear();
        }
        let link = link.unwrap_or_else(|| panic!("the demo has ended without a console: {line}"));
        let port = link.split(['/', ':']).nth(4).and_then(|port| port.parse().ok()).expect("a port");
        Self { child, _said: said, link, port, home }
    }

    fn directory(&self) -> PathBuf {
        let entries = std::fs::read_dir(self.home.path()).unwrap().flatten();
        let mut found = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("upswarm-demo-"));
        found.next().expect("the demo's directory").path()
    }

    fn page(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Where a machine has a file of an update of the demo.
    fn installed(&self, machine: &str, name: &str) -> PathBuf {
        self.directory().join(machine).join("root/opt").join(name).join(name)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It ends its own children when it is asked to.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        let _ = self.child.wait();
    }
}

fn pictures(temporary: &Path) -> PathBuf {
    let dir = std::env::var_os(PICTURES).map_or_else(|| temporary.join("pictures"), PathBuf::from);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// What axe-core finds wrong with the page as it is.
fn violations(browser: &Browser) -> Vec<String> {
    browser.run(&format!("if (!window.axe) {{ {AXE} }}"));
    let found = browser.run_async(
        "const done = arguments[0]; axe.run(document, { resultTypes: ['violations'] }).then(all => done(all.violations.map(one => \
         one.id + ': ' + one.help + ' at ' + one.nodes.slice(0, 3).map(node => node.target.join(' ')).join(', '))), error => \
         done(['axe: ' + error]));",
    );
    let all = found.as_array().cloned().unwrap_or_else(|| panic!("{found}"));
    all.iter().map(|one| one.as_str().unwrap_or_default().to_owned()).collect()
}

/// The part of a page that a person would read as the number beside a word.
fn tile(browser: &Browser, shape: &str) -> u64 {
    let script = format!("return document.querySelector('.tile.b-{shape} .n').textContent");
    browser.run(&script).as_str().and_then(|text| text.trim().parse().ok()).unwrap_or_else(|| panic!("{shape}"))
}

#[test]
fn the_admins_day_in_a_browser() {
    let Some(browser) = Browser::start() else { return };
    let begin = Instant::now();
    let demo = Demo::start();
    println!("the demo is up after {:?}", begin.elapsed());
    let pictures = pictures(demo.home.path());
    browser.look((1280, 860), false);

    // The link lets one browser in, once.
    browser.open(&demo.link);
    browser.wait_for("the overview", WITHIN, "return !!document.querySelector('.tiles')");
    let secret = demo.link.split_once("127.0.0.1").map(|(_, rest)| &rest[rest.find('/').unwrap()..]).unwrap();
    assert_eq!(browser::http(demo.port, "GET", secret, &[], "").unwrap().status, 401, "the link counts once");
    for path in ["/", "/devices", "/devices.csv", "/events", "/api/v1/status", "/metrics"] {
        assert_eq!(browser::http(demo.port, "GET", path, &[], "").unwrap().status, 401, "{path}");
    }

    // Together the tiles are the fleet. The driver's update fails somewhere, and its reason is there.
    browser.wait_for("a failure on the overview", WITHIN, "return document.querySelector('#s-failures .why')");
    let all =
        ["attention", "unknown", "pending", "approval", "exception", "current"].map(|shape| tile(&browser, shape));
    assert_eq!(all.iter().sum::<u64>(), 5, "{all:?}");
    assert!(browser.text().contains("kernel 6.12"), "{}", browser.text());
    browser.picture(&pictures.join("overview.png"));

    // By the keyboard alone: search, go to a machine, read why.
    browser.press(&["/"]);
    browser.press(&["n", "o", "d", "e", "-", "1", ENTER]);
    browser.wait_for("what was found", WITHIN, "return document.querySelector('main table tbody th a')");
    let to = "return document.activeElement && document.activeElement.closest('main tbody th a') !== null";
    wait::until("the focus on the machine", WITHIN, || {
        browser.press(&[TAB]);
        if browser.run(to) == Value::Bool(true) { Ok(()) } else { Err("not there yet".to_owned()) }
    });
    browser.press(&[ENTER]);
    browser.wait_for("the machine", WITHIN, "return document.querySelector('h1').textContent === 'node-1'");
    // Whether it has looked at what was published a moment ago is up to it; that is said either way.
    let said = browser.run("return document.querySelector('#s-open').innerText");
    let said = said.as_str().unwrap_or_default();
    let undecided = ["none of its groups has decided about it", "It has not told whether it needs Browser"];
    assert!(said.contains("org.example.browser") && undecided.iter().any(|words| said.contains(words)), "{said}");
    browser.picture(&pictures.join("device.png"));

    // A failing machine, from its reason.
    browser.open(&demo.page("/"));
    browser.click("#s-failures .line a");
    browser.click("main tbody th a");
    browser.wait_for(
        "why it fails",
        WITHIN,
        "return document.querySelector('#s-open').innerText.includes('kernel 6.12')",
    );

    // Approve with a preview, and watch it arrive in the open page.
    browser.open(&demo.page("/updates?q=browser"));
    browser.click("main tbody th a");
    browser.wait_for("the update", WITHIN, "return document.querySelector('#d-group')");
    browser.run("document.querySelector('#d-group').value = 'office'");
    browser.type_into("#d-note", "closes the hole");
    browser.click(".form .primary");
    browser.wait_for("the preview", WITHIN, "return document.querySelector('.words')");
    let said = browser.text();
    assert!(said.contains("Install, version 1") && said.contains("closes the hole"), "{said}");
    assert!(browser.run("return document.querySelectorAll('details tbody tr').length") == 4, "{said}");
    browser.picture(&pictures.join("preview.png"));
    browser.click(".form .primary");
    browser.wait_for(
        "the decision",
        WITHIN,
        "return document.querySelector('#s-decisions h3')?.textContent === 'office'",
    );
    browser.run("window.same = true");
    let seen = browser.wait_for(
        "four installs in the open page",
        WITHIN,
        "const badge = [...document.querySelectorAll('#s-states tr')].find(row => row.innerText.includes('Installed')); return \
         window.same && badge && badge.querySelector('td').innerText === '4' ? Date.now() : null",
    );
    let seen = SystemTime::UNIX_EPOCH + Duration::from_millis(seen.as_u64().unwrap_or_default());
    let places = (1..=4).map(|machine| demo.installed(&format!("node-{machine}"), "browser"));
    let last = places.map(|path| std::fs::metadata(path).unwrap().modified().unwrap()).max().unwrap();
    let took = seen.duration_since(last).unwrap_or_default();
    println!("an install is visible in an open page after {took:?}");
    assert!(took < VISIBLE_WITHIN, "{took:?}");

    // What another page has decided meanwhile is not undone by a page that does not know it.
    let stale = "return fetch('/act/draft', { method: 'POST', body: new URLSearchParams({ token: \
                 document.querySelector('input[name=token]').value, release: location.pathname.split('/').pop(), group: 'office', \
                 'seen.office': '0', intent: 'decline' }) }).then(answer => answer.status)";
    assert_eq!(browser.run(stale), 409);
    let forged = "return fetch('/act/hold', { method: 'POST', body: new URLSearchParams({ token: 'x', on: 'true' }) }).then(answer \
                  => answer.status)";
    assert_eq!(browser.run(forged), 403);

    // Pause everything; the page says so; and let it go on.
    browser.open(&demo.page("/rollouts"));
    browser.click(".head button");
    browser.wait_for("the hold", WITHIN, "return document.querySelector('#s-holds')?.innerText.includes('everything')");
    browser.click(".head button");
    browser.wait_for(
        "the end of the hold",
        WITHIN,
        "return !document.querySelector('#s-holds').innerText.includes('everything')",
    );

    // The list as a file.
    let csv = browser.run("return fetch('/devices.csv?group=office').then(answer => answer.text())");
    let lines: Vec<&str> = csv.as_str().unwrap_or_default().lines().collect();
    assert!(lines.len() == 5 && lines[0].starts_with("name,device,site"), "{lines:?}");

    println!("all but the look at every page took {:?}", begin.elapsed());
    every_page_is_fit_for_everyone(&browser, &demo, &pictures);
    println!("the day took {:?}", begin.elapsed());
}

/// axe-core finds nothing, nothing is wider than the window, and the browser has nothing to complain about.
fn every_page_is_fit_for_everyone(browser: &Browser, demo: &Demo, pictures: &Path) {
    browser.open(&demo.page("/devices?sort=standing"));
    let device = browser.run("return document.querySelector('tbody th a').getAttribute('href')");
    browser.open(&demo.page("/updates?q=browser"));
    let update = browser.run("return document.querySelector('tbody th a').getAttribute('href')");
    let (device, update) = (device.as_str().unwrap().to_owned(), update.as_str().unwrap().to_owned());
    browser.complaints();
    let pages = [
        ("overview", "/"),
        ("updates", "/updates"),
        ("update", &update),
        ("rollouts", "/rollouts"),
        ("devices", "/devices?sort=standing"),
        ("device", &device),
        ("sites", "/sites"),
        ("site", "/sites/office"),
        ("groups", "/groups"),
        ("repositories", "/repositories"),
        ("alarms", "/alarms?all=true"),
        ("audit", "/audit"),
        ("reports", "/reports"),
        ("rollout-report", "/reports?show=rollout"),
        ("search", "/search?q=o"),
        ("trouble", "/nothing"),
    ];
    let mut wrong = Vec::new();
    for (name, path) in pages {
        browser.look((1280, 860), false);
        browser.open(&demo.page(path));
        let looks = [("light", (1280, 860), false), ("dark", (1280, 860), true), ("narrow", (360, 740), false)];
        for (look, size, dark) in looks {
            browser.look(size, dark);
            if std::env::var_os(PICTURES).is_some() {
                browser.picture(&pictures.join(format!("{name}-{look}.png")));
            }
            let wide = browser.run("return document.documentElement.scrollWidth - innerWidth");
            if wide.as_i64() > Some(0) {
                wrong.push(format!("{name} {look}: {wide} pixels wider than the window"));
            }
            // Dark pages differ in their colours alone, narrow ones in their width: some of them stand for all.
            if look == "light" || look == "dark" && ["overview", "update", "device", "site"].contains(&name) {
                wrong.extend(violations(browser).into_iter().map(|one| format!("{name} {look}: {one}")));
            }
        }
    }
    // The page that is not there is one of the pages.
    let said = browser.complaints().into_iter().filter(|text| !text.contains("/nothing"));
    wrong.extend(said.map(|text| format!("the browser says: {text}")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
