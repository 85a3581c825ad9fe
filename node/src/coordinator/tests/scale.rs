//! A fleet of many machines: what ingest, disk, memory and each page cost. 2,000 machines by default; the figures of the README:
//!
//! `UPSWARM_FLEET=100000 cargo test --release -p upswarm-node a_fleet_of_many -- --nocapture`

use std::fmt::Write as _;
use std::time::Instant;

use upswarm_protocol::catalog::{Action, PackageKind};
use upswarm_protocol::coordinator::{DeviceInventory, DeviceRecord};
use upswarm_protocol::ids::GroupId;
use upswarm_protocol::inventory::{Inventory, PackageKey, SharedEntries};
use upswarm_protocol::report::{DeploymentState, SubState};

use super::*;
use crate::api::reports::{Compliance, ReportQuery};
use crate::coordinator::database_setting;
use crate::coordinator::store::database::Session;
use crate::coordinator::store::known::Known;
use crate::coordinator::store::{self, Keeping, Write};

const PACKAGES: usize = 3_000;
const IMAGES: usize = 200;
const UPDATES: usize = 50;
/// Machines of a batch, as the driver would gather them.
const BATCH: usize = 256;
const DAYS: u64 = 30;
const DAY_MS: u64 = 86_400_000;

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// A machine made from one of the images, of whose packages 1 to 3 of a hundred have another version.
fn inventory(images: &[Inventory], machine: usize) -> Inventory {
    let mut made = images[machine % images.len()].clone();
    let differ = PACKAGES / 100 + machine % (PACKAGES / 50);
    for own in 0..differ {
        let key = key((machine * 31 + own * 97) % PACKAGES);
        made.remove(&key);
        made.insert(key, Text::lossy(&format!("2.{}-1", (machine + own) % 40))).unwrap();
    }
    made.set_fact(Text::lossy("hostname"), Some(Text::lossy(&format!("pc{machine}")))).unwrap();
    made
}

fn key(package: usize) -> PackageKey {
    let name = Text::lossy(&format!("lib{:x}-package-{package}", package * 2_654_435_761 % 65_536));
    PackageKey { kind: PackageKind::Deb, name, arch: Text::lossy("amd64") }
}

fn image(image: usize) -> Inventory {
    let mut made = Inventory::default();
    for package in 0..PACKAGES {
        // Images differ from each other in a tenth of the packages and many versions.
        let version = if (package * 13 + image * 7) % 3 == 0 { image } else { 0 };
        made.insert(key(package), Text::lossy(&format!("1.{version}-1"))).unwrap();
    }
    for (name, value) in [("os.id", "debian"), ("os.version", "12"), ("os.name", "Debian GNU/Linux 12")] {
        made.set_fact(Text::lossy(name), Some(Text::lossy(value))).unwrap();
    }
    made
}

fn device(machine: usize) -> DeviceId {
    DeviceId(*blake3::hash(&machine.to_le_bytes()).as_bytes())
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() >> 10
}

fn disk_mib(dir: &Path) -> f64 {
    let files = std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .filter(|file| file.file_name().to_string_lossy().starts_with("fleet.db"));
    files.map(|file| file.metadata().unwrap().len()).sum::<u64>() as f64 / 1024.0 / 1024.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_of_many_is_taken_in_kept_and_shown() {
    let machines = number("UPSWARM_FLEET", 2_000);
    let mut bench = Bench::start().await;
    bench.write("tool.bin", b"a tool");
    bench.verb(&["coordinator", "invite", "--group", "office"]).await.unwrap();
    for version in 0..UPDATES {
        let text = RELEASE.replace("version = \"1\"", &format!("version = \"{}\"", version + 1));
        let file = bench.write("tool.toml", text.as_bytes());
        bench.verb(&["publish", &file]).await.unwrap();
        let name = format!("org.example.tool@{}", version + 1);
        bench.verb(&["approve", &name, "--group", "office", "--allow-empty"]).await.unwrap();
    }
    let catalog = bench.client().catalog().await.unwrap();
    let group = catalog.groups["office"];
    let releases: Vec<_> = catalog.releases.iter().map(|known| known.release).collect();
    bench.stop().await;

    let mut figures = format!("{machines} machines x {PACKAGES} packages x {UPDATES} updates\n");
    let directory = Directory::existing(&bench.data()).unwrap();
    take_in(&directory, machines, group, &releases, &mut figures).await;

    let begin = Instant::now();
    bench.run().await;
    writeln!(figures, "start: {:.1} s", begin.elapsed().as_secs_f64()).unwrap();
    writeln!(figures, "memory of the coordinator: {} MiB", resident_mib()).unwrap();
    let compliance: Compliance = bench.client().report("compliance", &ReportQuery::default()).await.unwrap();
    let today = compliance.days.last().unwrap();
    assert_eq!((today.devices, today.approvals), (machines as u64, UPDATES as u64));
    assert_eq!(today.tally.expected, (machines * UPDATES) as u64);
    assert_eq!(today.tally.unknown, 0);
    let one = device(machines / 2);
    for page in [
        "overview",
        "machines?per=50",
        "machines?text=pc77&per=50",
        &format!("machine?device={one}"),
        "sites",
        "groups",
        "catalog",
        "inventory/package?name=lib0-package-0",
        "report/compliance",
        "report/rollout",
        "report/savings",
        "report/approvals",
    ] {
        let mut times = Vec::new();
        for _ in 0..6 {
            let begin = Instant::now();
            let answer =
                bench.ask(Method::GET, &format!("/admin/v1/{page}")).bearer_auth(bench.token()).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "{page}: {}", answer.text().await.unwrap());
            answer.bytes().await.unwrap();
            times.push(begin.elapsed().as_millis());
        }
        // The first one warms up.
        times.remove(0);
        times.sort_unstable();
        writeln!(figures, "{page}: {} ms, at most {} ms", times[2], times[4]).unwrap();
    }
    println!("{figures}");
    bench.stop().await;
}

/// A machine that was let in. Its file is written without a sync: enrolment is not what is measured.
fn enrolled(directory: &Directory, machine: usize, group: GroupId) -> (DeviceId, std::sync::Arc<Known>) {
    let record = DeviceRecord {
        device: device(machine),
        role: NodeRole::Node,
        label: Text::lossy(&format!("pc{machine}")),
        site: SiteId([(machine % 200) as u8; 16]),
        groups: Bounded::new(vec![group]).unwrap(),
        enrolled: Wall(0),
        invited: true,
        certificate: Bounded::default(),
        certified: Wall(0),
        assignment: Bounded::default(),
        assigned: Wall(0),
    };
    std::fs::write(directory.device(&device(machine)), codec::encode(&record, 1 << 16).unwrap()).unwrap();
    (device(machine), Known::new(record).into())
}

/// What machines told in a month, through the fleet store's own thread.
async fn take_in(
    directory: &Directory,
    machines: usize,
    group: GroupId,
    releases: &[upswarm_protocol::ids::ReleaseId],
    figures: &mut String,
) {
    let place = database_setting::place(directory).unwrap();
    let (written, mut done) = mpsc::channel(4);
    let keeping = Keeping { place: place.clone(), days: 400 };
    let fleet = (0..machines).map(|machine| enrolled(directory, machine, group)).collect();
    let (fleet, writer) = store::start(directory.clone(), keeping, fleet, written).await.unwrap();
    let mut shared = SharedEntries::default();
    let images: Vec<Inventory> = (0..IMAGES).map(image).collect();
    let mut bases = std::collections::BTreeSet::new();
    let today = crate::clock::wall().0 / DAY_MS;
    let (mut spent, mut told, mut inventories) = (Duration::ZERO, 0usize, Duration::ZERO);
    for first in (0..machines).step_by(BATCH) {
        let mut batches: Vec<Vec<Write>> = (0..2 + UPDATES / 4).map(|_| Vec::new()).collect();
        for machine in first..machines.min(first + BATCH) {
            let whole = inventory(&images, machine);
            let begin = Instant::now();
            let held = shared.put(&whole);
            let base = held.base().digest();
            let of = DeviceInventory::new(held, whole.digest(), 1, Wall(today * DAY_MS));
            let record = of.record().unwrap();
            if bases.insert(base)
                && let Some(base_record) = of.base_record()
            {
                batches[0].push(Write::InventoryBase(base, base_record));
            }
            inventories += begin.elapsed();
            batches[0].push(Write::Inventory(device(machine), of, record));
            for (at, some) in releases.chunks(4).enumerate() {
                let received = Wall((today - DAYS + (at as u64 * 2) % DAYS) * DAY_MS + machine as u64 * 50);
                let state = |release: usize| match (machine + release) % 20 {
                    0 => DeploymentState::Failed,
                    1 => DeploymentState::Pending,
                    _ => DeploymentState::Installed,
                };
                let deployments: Vec<DeploymentReport> = some
                    .iter()
                    .enumerate()
                    .map(|(of, release)| DeploymentReport {
                        release: *release,
                        group,
                        approval_version: 1,
                        action: Action::Install,
                        state: state(at * 4 + of),
                        sub_state: SubState::None,
                        code: Some(0),
                        reason: Text::lossy("dpkg said that it is done"),
                        since: received,
                        done: 1_000_000,
                        total: 1_000_000,
                        next_try: None,
                    })
                    .collect();
                let report = Report {
                    device: device(machine),
                    seq: at as u64 + 1,
                    issued: received,
                    site: SiteId([(machine % 200) as u8; 16]),
                    role: NodeRole::Node,
                    label: Text::lossy(&format!("pc{machine}")),
                    agent: Text::lossy("test"),
                    os: Text::lossy("Debian GNU/Linux 12"),
                    index_version: 2,
                    papers: Default::default(),
                    addresses: Bounded::default(),
                    bytes: BytesBySource { lan_peer: 900 * at as u64, origin: 100 * at as u64, ..Default::default() },
                    neighbours: 3,
                    alarms: Bounded::default(),
                    deployments: Bounded::new(deployments).unwrap(),
                };
                batches[1 + at].push(Write::Report(Box::new(report), received));
                told += 1;
            }
        }
        let begin = Instant::now();
        for batch in batches.into_iter().filter(|batch| !batch.is_empty()) {
            writer.write(batch).unwrap();
            let done = done.recv().await.unwrap();
            assert!(matches!(done, store::Written::Done), "{done:?}");
        }
        spent += begin.elapsed();
    }
    assert_eq!(fleet.snapshot().len(), machines);
    drop(fleet);
    writer.finish(Vec::new()).await.unwrap();
    // They were members all the while.
    let mut session = Session::open(&place).await.unwrap();
    sqlx::query("UPDATE member_day SET day = $1")
        .bind((today - DAYS) as i64)
        .execute(&mut session.connection)
        .await
        .unwrap();
    session.close().await;
    let seconds = (spent + inventories).as_secs_f64();
    let all = told + machines;
    writeln!(
        figures,
        "ingest: {all} messages, each acknowledged when durable, in {seconds:.1} s: {:.0} a second ({} bases)",
        all as f64 / seconds,
        bases.len()
    )
    .unwrap();
    writeln!(figures, "disk: {:.1} MiB", disk_mib(directory.path())).unwrap();
}
