//! What a node begins with: its journal, its configuration as the core takes it, and what it says of itself when it runs. Moves
//! nothing afterwards.

use jiff::tz::TimeZone;
use upswarm_protocol::schedule;
use upswarm_protocol::time::Wall;

use super::*;
use crate::config::Limits;

/// How long a machine that was off waits for word of its site before it installs what its disk says.
const ASK_FIRST: Duration = Duration::from_secs(10);

pub(super) fn load(path: &std::path::Path) -> anyhow::Result<(Journal, crate::agent::journal::Loaded, Vec<Vec<u8>>)> {
    let journal = Journal::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut loaded = journal.load().with_context(|| format!("cannot read {}", path.display()))?;
    let mut documents = Vec::new();
    for document in journal.docs()? {
        match document {
            Ok((_, bytes)) => documents.push(bytes),
            Err(notice) => loaded.notices.push(notice),
        }
    }
    Ok((journal, loaded, documents))
}

pub(super) fn node_config(config: &Config, key: &SigningKey) -> anyhow::Result<NodeConfig> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("the system gives no randomness: {error}"))?;
    let texts = |list: &[String]| list.iter().map(|text| Text::lossy(text)).collect::<Vec<_>>();
    Ok(NodeConfig {
        key: key.clone(),
        seed: u64::from_le_bytes(seed),
        label: config.label_or_host(),
        agent: Text::lossy(env!("CARGO_PKG_VERSION")),
        os: Text::lossy(&inventory::fact(inventory::FACT_OS_NAME).unwrap_or_else(|| std::env::consts::OS.into())),
        build_time: BUILD_TIME,
        coordinator: config.coordinator.device,
        coordinator_addresses: texts(&config.coordinator.addresses),
        peers: texts(&config.peers),
        origins: config.coordinator.origins.clone(),
        wan_weight: config.wan_weight.at_best(),
        machine: machine_rules(config),
        upload_slots: config.upload_slots,
        ask_first: ASK_FIRST,
        zone: time_zone(&config.time_zone)?,
        boot: Text::lossy(&inventory::fact(inventory::FACT_BOOT_ID).unwrap_or_default()),
    })
}

fn machine_rules(config: &Config) -> MachineRules {
    let wan_auto = config.wan_weight == WanWeight::Auto;
    MachineRules { wan_auto, battery_floor: config.battery_floor, restart_notice: config.restart.notice() }
}

/// What is installed, with the time zone that counts here.
pub(super) fn inventory_of(scan: inventory::Scan, config: &Config) -> Input {
    let mut inventory = scan.inventory;
    if !config.time_zone.is_empty() {
        // There is room: a machine has some tens of facts.
        let _ = inventory.set_fact(Text::lossy(inventory::FACT_TIME_ZONE), Some(Text::lossy(&config.time_zone)));
    }
    Input::Inventory { inventory: Arc::new(inventory) }
}

/// The rates that this machine's node.toml names, and those that are set.
pub(super) struct Rates {
    pub(super) limits: Limits,
    zone: TimeZone,
    /// WAN in, LAN out, LAN in.
    pub(super) set: [Option<u64>; 3],
}

impl Rates {
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let limits = config.limits.clone();
        let set = [limits.wan_down, limits.lan_up, limits.lan_down].map(|rate| rate.map(|rate| rate.0));
        Ok(Self { limits, zone: time_zone(&config.time_zone)?, set })
    }

    /// Those that count at this instant: WAN in, LAN out, LAN in.
    pub(super) fn at(&self, wall: Wall) -> [Option<u64>; 3] {
        let hours = self.limits.hours.iter().find(|hours| schedule::is_within(hours.when.0, &self.zone, wall));
        let rates = [
            hours.and_then(|hours| hours.wan_down).or(self.limits.wan_down),
            hours.and_then(|hours| hours.lan_up).or(self.limits.lan_up),
            hours.and_then(|hours| hours.lan_down).or(self.limits.lan_down),
        ];
        rates.map(|rate| rate.map(|rate| rate.0))
    }
}

pub(super) fn limiter(rate: Option<crate::config::Rate>) -> Limiter {
    match rate {
        // A burst of a quarter of a second is smooth enough and lets a whole block through.
        Some(rate) => Limiter::new(rate.0, (rate.0 / 4).max(64 << 10)),
        None => Limiter::unlimited(),
    }
}

pub(super) fn write_run_info(path: &std::path::Path, state: &NodeState, addresses: &[Text<128>]) -> anyhow::Result<()> {
    let device = state.device();
    let listen = useful(addresses).map(|address| address.to_string()).collect();
    let info = RunInfo { pid: std::process::id(), device, listen };
    sys::replace(path, &serde_json::to_vec(&info)?, Access::Everyone)
        .with_context(|| format!("cannot write {}", path.display()))
}
