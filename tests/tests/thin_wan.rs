//! A thin line that others use too: a download takes what they leave over, gives it back when they want it, and has nearly all of it when
//! it is alone.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use upswarm_tests::fleet::{Coordinator, Joining, Node, join_all, random_file};
use upswarm_tests::lab::{Lab, Rates, WAN_ADDRESS};
use upswarm_tests::wait;

const WITHIN: Duration = Duration::from_secs(90);
/// Mbit/s of the line.
const LINE: u32 = 8;

/// Somebody else's download by TCP, from the WAN to a machine of the site.
struct Other {
    bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Other {
    fn start(lab: &Lab, host: usize) -> Self {
        let listener = lab.wan.run(|| TcpListener::bind((WAN_ADDRESS, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        // Ends when the reader hangs up.
        std::thread::spawn(move || {
            let Ok((mut stream, _)) = listener.accept() else { return };
            while stream.write_all(&[7; 64 << 10]).is_ok() {}
        });
        let mut stream = lab.sites[0].hosts[host].namespace.run(|| TcpStream::connect(address).unwrap());
        let (bytes, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (bytes.clone(), stop.clone());
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while !stopped.load(Ordering::Relaxed) {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => return,
                    Ok(read) => drop(counted.fetch_add(read as u64, Ordering::Relaxed)),
                }
            }
        });
        Self { bytes, stop, reader: Some(reader) }
    }

    fn count(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.reader.take().map(JoinHandle::join);
    }
}

/// Bytes per second of what `count` counts, after so many seconds and over so many.
fn rate(count: impl Fn() -> u64, after: u64, over: u64) -> f64 {
    std::thread::sleep(Duration::from_secs(after)); // A rate takes time to settle, and time to be measured.
    let (from, began) = (count(), Instant::now());
    std::thread::sleep(Duration::from_secs(over));
    (count() - from) as f64 / began.elapsed().as_secs_f64()
}

#[test]
fn a_download_gives_way_on_a_thin_line_and_uses_it_alone() {
    let Some(lab) = Lab::new(&[2], Rates { wan_down: LINE, wan_up: LINE, lan: 1000 }) else { return };
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes.pop();
    // From its start on: what the way takes when the line is free must be seen before it is full.
    for node in &nodes {
        let path = node.dir.join("node.toml");
        let settings = std::fs::read_to_string(&path).expect("its settings");
        assert!(settings.contains("[limits]\n"), "{settings}");
        std::fs::write(path, settings.replace("[limits]\n", "[limits]\nyield = true\n")).expect("its settings");
    }
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let other = Other::start(&lab, 1);
    let alone = rate(|| other.count(), 3, 8);
    let payload = random_file(&lab.dir().join("payload"), 96 << 20, 23);
    let published = coordinator.publish("1.0", &payload);
    let limit = |state: &str| drop(coordinator.verb(&["limit", "set", "--site", "site-1", "--yield", state]).done());
    coordinator.approve(&published.release);
    let served = || coordinator.status().origin.payload_bytes;
    wait::until("the download to be under way", WITHIN, || match served() {
        bytes if bytes > 100_000 => Ok(()),
        bytes => Err(format!("{bytes}")),
    });
    let beside = rate(|| other.count(), 6, 15);
    limit("off");
    let against = rate(|| other.count(), 12, 10);
    limit("on");
    drop(other);
    let line = f64::from(LINE) * 1e6 / 8.0;
    let wan = || lab.sites[0].wan().rx;
    let whole = rate(wan, 12, 15) / line;
    println!(
        "LAB {{\"test\":\"thin-wan\",\"line_mbit\":{LINE},\"kept\":{:.3},\"kept_without_yield\":{:.3},\"alone\":{whole:.3}}}",
        beside / alone,
        against / alone
    );
    assert!(beside / alone >= 0.9, "another download keeps {:.3} of what it has alone", beside / alone);
    assert!(against < 0.95 * beside, "with --yield off it must share: {:.3}", against / alone);
    assert!(whole >= 0.8, "alone, it uses {whole:.3} of the line");
}
