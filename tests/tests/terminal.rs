//! What a person at a machine sees: `top` in a real terminal (tmux), with real keys.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use upswarm_tests::fleet::{Coordinator, Joining, join_all, random_file, text};
use upswarm_tests::lab::{Lab, Rates};
use upswarm_tests::program;

/// A terminal of 80 by 24 that runs one program; ended when dropped.
struct Terminal {
    server: String,
}

impl Terminal {
    /// `None` without tmux, after saying so; in continuous integration (`CI` is set) that is a failure.
    fn open(program: &Command) -> Option<Self> {
        if !Command::new("tmux").arg("-V").output().is_ok_and(|output| output.status.success()) {
            assert!(std::env::var_os("CI").is_none(), "tmux is missing");
            eprintln!("\n*** SKIPPED: tmux is missing; apt-get install tmux ***\n");
            return None;
        }
        let terminal = Self { server: format!("upswarm-test-{}", std::process::id()) };
        let words = std::iter::once(program.get_program()).chain(program.get_args());
        let quoted: Vec<_> = words.map(|word| format!("'{}'", word.display())).collect();
        let shell = format!("{}; echo left with $?; exec cat", quoted.join(" "));
        let opened = terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", &shell]);
        assert!(opened.status.success(), "{opened:?}");
        Some(terminal)
    }

    fn tmux(&self, args: &[&str]) -> Output {
        Command::new("tmux").args(["-L", &self.server]).args(args).env("TERM", "xterm").output().expect("tmux runs")
    }

    fn press(&self, key: &str) {
        assert!(self.tmux(&["send-keys", key]).status.success());
    }

    /// The screen, once it is as wanted.
    fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let screen = String::from_utf8_lossy(&self.tmux(&["capture-pane", "-p"]).stdout).into_owned();
            if wanted(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "not within 20 seconds: {what}\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The screen, once it shows all of this.
    fn shows(&self, parts: &[&str]) -> String {
        self.until(&format!("{parts:?}"), |screen| parts.iter().all(|part| screen.contains(part)))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn top_follows_a_download_and_obeys_keys() {
    let Some(lab) = Lab::new(&[2], Rates::default()) else { return };
    let payload = random_file(&lab.dir().join("payload"), 16 << 20, 7);
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes.iter_mut().for_each(|node| node.start());
    coordinator.wait_for_reports(&nodes);
    let dir = text(&nodes[0].dir).to_owned();
    let Some(terminal) = Terminal::open(&program::command(&["top", "--data-dir", &dir])) else { return };
    terminal.shows(&[&nodes[0].label, "2 here", "nothing is approved for this device", "q leave"]);

    let published = coordinator.publish("1.0", &payload);
    coordinator.approve(&published.release);
    coordinator.wait_for_installs(&nodes, &published.release, Duration::from_secs(60));
    terminal.shows(&["Installed", "########## 100 %", "16M"]);
    terminal.press("Tab");
    terminal.shows(&["DEPLOYMENT", "Installed"]);
    terminal.press("6");
    let screen = terminal.shows(&["MEMBER", "here", "yes"]);
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    nodes[0].stop();
    terminal.shows(&["THE NODE DOES NOT ANSWER"]);
    nodes[0].start();
    terminal.press("1");
    terminal.until("the node answers again", |screen| screen.contains("2 here") && !screen.contains("DOES NOT ANSWER"));
    terminal.press("q");
    terminal.shows(&["left with 0"]);

    let told = program::verb(&nodes[0].host.namespace, &["explain", &published.release, "--data-dir", &dir]);
    let told = told.done().to_string();
    assert!(told.contains("is installed") && told.contains("every detection rule held"), "{told}");
}
