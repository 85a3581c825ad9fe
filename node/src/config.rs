//! A node's directory and its `node.toml`.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::Window;
use upswarm_protocol::codec::Text;
use upswarm_protocol::ids::DeviceId;
use upswarm_protocol::node::MachineRules;
use upswarm_protocol::schedule;

use crate::inventory;
use crate::machine::{Metered, RestartConfig};
use crate::web::ProxyConfig;
use crate::{sys, units};

/// Where plain apt finds the update point.
pub(crate) const UPDATE_POINT_PORT: u16 = 8530;
/// Addresses that an update point listens on.
const MAX_LISTEN: usize = 8;
/// A `node.toml`, which has a few KiB.
const MAX_FILE: u64 = 1 << 20;
/// Between two rounds of the scrub, at most.
const MAX_SCRUB_EVERY_S: u64 = 366 * 86_400;
/// Entries of `[[limits.hours]]`.
const MAX_HOURS: usize = 32;

/// Everything of `node.toml`. Paths are relative to its directory. Sizes are bytes or carry a unit (`512KiB`, `20GiB`); rates carry one (`50mbit` per second).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Multiaddrs to listen on. QUIC addresses are used where the platform has it; TCP alone is enough.
    pub(crate) listen: Vec<String>,
    /// Multiaddrs of machines of the site to connect to. With mDNS or a reachable coordinator none is needed.
    pub(crate) peers: Vec<String>,
    /// Whether to look for machines of the site by multicast DNS.
    pub(crate) mdns: bool,
    /// The name that the admin sees; empty means the host's name.
    pub(crate) label: String,
    /// Time zone of maintenance windows and hours of work, for example `Europe/Berlin`; empty means the machine's own.
    pub(crate) time_zone: String,
    /// How willing this machine is to fetch over the WAN for its site; a machine is chosen in proportion to it. `"auto"` is 8 on
    /// mains power and cable, 1 on battery or Wi-Fi, 0 (never) on a metered link or a battery below `battery_floor`. A number
    /// counts in all conditions; a branch cache has 64.
    pub(crate) wan_weight: WanWeight,
    /// Whether the link to the WAN is paid by volume: `"auto"` (NetworkManager knows; without it mobile broadband is), `"yes"` or
    /// `"no"`. On such a link nothing is fetched over the WAN, and of payload bytes on the LAN only what is urgent: expedited, or
    /// past its deadline.
    pub(crate) metered: Metered,
    /// Percent of battery, 0 to 100, below which payload bytes wait and installs are on hold until the machine is on mains power
    /// again, except for what is urgent; 0 for never.
    pub(crate) battery_floor: u8,
    /// Block requests of neighbours that are answered at the same time; more are told "busy" and ask elsewhere. Each takes up
    /// to 1 MiB of memory.
    pub(crate) upload_slots: usize,
    /// Directory that stands in for `/`: detection looks below it and recipes install below it. For trials; an office machine
    /// has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) install_root: Option<PathBuf>,
    /// Socket of the privileged installer, which has the rights that this process then does not need (`upswarm installer run`);
    /// empty means that this process installs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) installer_socket: Option<PathBuf>,
    /// How the person at the machine is told of a restart, and how it is restarted. The privileged installer has flags of its own.
    pub(crate) restart: RestartConfig,
    /// Where payloads are kept.
    pub(crate) store: StoreConfig,
    /// How much of the network may be used.
    pub(crate) limits: Limits,
    /// Serves what is approved for this machine to plain apt and to scripts; without the section nobody is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) update_point: Option<UpdatePointConfig>,
    /// File with PEM certificates of authorities that are believed beside the system's, for origins behind `https://`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    /// How web servers are reached.
    #[serde(skip_serializing_if = "ProxyConfig::is_default")]
    pub(crate) proxy: ProxyConfig,
    /// The coordinator, as the join token named it.
    pub(crate) coordinator: Coordinator,
}

/// The payload store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StoreConfig {
    /// Bytes that payloads may take; beyond, those unused for longest go.
    pub(crate) quota: Size,
    /// Bytes that are left free on the disk, whatever the quota says.
    pub(crate) reserve: Size,
    /// Bytes per second of stored payloads that are read again in the background, to find what has rotted.
    pub(crate) scrub: Rate,
    /// Seconds from the beginning of one such round over everything to that of the next, at least.
    pub(crate) scrub_every_s: u64,
}

/// Rates; nothing means unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// Payload bytes per second from origins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wan_down: Option<Rate>,
    /// Payload bytes per second to neighbours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lan_up: Option<Rate>,
    /// Payload bytes per second from neighbours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lan_down: Option<Rate>,
    /// Whether fetches over the WAN give way to everything else on the line, and take what is left of it. Not by itself: on a machine whose
    /// processor is busy a line looks fuller than it is, and the site waits. What the coordinator
    /// orders for the site (`upswarm limit`) counts before this.
    #[serde(rename = "yield", skip_serializing_if = "std::ops::Not::not")]
    pub(crate) gives_way: bool,
    /// Other rates at some hours, at most 32 entries: the first that holds now counts, and what it does not name is as above.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hours: Vec<HourLimits>,
}

/// Rates at some hours: `[[limits.hours]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HourLimits {
    /// Days and hours in the machine's local time: `"mon-fri 08:00-18:00"`, `"daily 22:00-05:00"`.
    pub(crate) when: Hours,
    /// As in [`Limits`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wan_down: Option<Rate>,
    /// As in [`Limits`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lan_up: Option<Rate>,
    /// As in [`Limits`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lan_down: Option<Rate>,
}

/// Where the admin's coordinator is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Coordinator {
    /// Its device key, in hex.
    pub(crate) device: DeviceId,
    /// Its multiaddrs.
    pub(crate) addresses: Vec<String>,
    /// Base URLs of origins to use until the catalog names some.
    pub(crate) origins: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: [
                "/ip4/0.0.0.0/tcp/4410",
                "/ip6/::/tcp/4410",
                "/ip4/0.0.0.0/udp/4410/quic-v1",
                "/ip6/::/udp/4410/quic-v1",
            ]
            .map(str::to_owned)
            .into(),
            peers: Vec::new(),
            mdns: true,
            label: String::new(),
            time_zone: String::new(),
            wan_weight: WanWeight::default(),
            metered: Metered::default(),
            battery_floor: MachineRules::default().battery_floor,
            upload_slots: 8,
            install_root: None,
            installer_socket: None,
            restart: RestartConfig::default(),
            store: StoreConfig::default(),
            limits: Limits::default(),
            update_point: None,
            ca_file: None,
            proxy: ProxyConfig::default(),
            coordinator: Coordinator::default(),
        }
    }
}

/// The update point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UpdatePointConfig {
    /// Where it listens for HTTP.
    pub(crate) listen: Vec<SocketAddr>,
    /// Networks that may come in beside this machine, for example `10.1.0.0/16`; needed where it listens beyond loopback.
    pub(crate) allow: Vec<String>,
    /// Names by which clients may ask for it, beside its addresses and `localhost`.
    pub(crate) names: Vec<String>,
    /// Bytes that are fetched in a day because a client asks for them and the site does not have them.
    pub(crate) daily: Size,
}

impl Default for UpdatePointConfig {
    fn default() -> Self {
        let listen = vec![SocketAddr::from(([127, 0, 0, 1], UPDATE_POINT_PORT))];
        Self { listen, allow: Vec::new(), names: Vec::new(), daily: Size(2 << 30) }
    }
}

impl UpdatePointConfig {
    /// Who may come in beside this machine.
    pub(crate) fn networks(&self) -> Vec<IpNet> {
        self.allow.iter().filter_map(|network| network.parse().ok()).collect()
    }

    fn validate(&self) -> anyhow::Result<()> {
        if self.listen.is_empty() || self.listen.len() > MAX_LISTEN {
            bail!(
                "listen names {} addresses; name 1 to {MAX_LISTEN}, for example \"127.0.0.1:8530\"",
                self.listen.len()
            );
        }
        if let Some(bad) = self.allow.iter().find(|network| network.parse::<IpNet>().is_err()) {
            bail!("{bad:?} in allow is not a network; write for example \"10.1.0.0/16\"");
        }
        if let Some(open) = self.listen.iter().find(|address| !address.ip().is_loopback())
            && self.allow.is_empty()
        {
            bail!(
                "it is to listen on {open}, beyond this machine; name the networks that may come in: allow = [\"10.1.0.0/16\"]"
            );
        }
        Ok(())
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { quota: Size(20 << 30), reserve: Size(2 << 30), scrub: Rate(1_000_000 / 8), scrub_every_s: 86_400 }
    }
}

impl Config {
    /// Reads and checks a `node.toml`.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes =
            sys::read_settings_of_another(path, MAX_FILE).with_context(|| format!("cannot read {}", path.display()))?;
        let mut config = Self::parse(&bytes).with_context(|| format!("{} is not acceptable", path.display()))?;
        config.resolve(path)?;
        config.validate().with_context(|| format!("{} is not acceptable", path.display()))?;
        Ok(config)
    }

    /// An error names the line and never shows it: root reads files of others, and its errors go where others may read.
    fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(bytes).context("it is not UTF-8")?;
        toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map(|before| format!("line {}: ", before.matches('\n').count() + 1));
            anyhow!("{}{}", line.unwrap_or_default(), error.message())
        })
    }

    /// Makes its paths absolute: those in a file are relative to the file's directory.
    fn resolve(&mut self, file: &Path) -> anyhow::Result<()> {
        let file = std::path::absolute(file).with_context(|| format!("cannot find {}", file.display()))?;
        let base = file.parent().unwrap_or(Path::new("/"));
        let given =
            [&mut self.install_root, &mut self.installer_socket, &mut self.ca_file, &mut self.proxy.credentials_file];
        for path in given.into_iter().flatten() {
            *path = base.join(&path);
        }
        Ok(())
    }

    /// Writes a `node.toml` that explains itself.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let head = "# upswarm node. Every field is described in the README, chapter Configuration.\n\
                    # Sizes take KiB, MiB, GiB; rates take kbit, mbit, gbit per second.\n\n";
        let text = format!("{head}{}", toml::to_string(self)?);
        sys::replace(path, text.as_bytes(), sys::Access::Everyone)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn validate(&self) -> anyhow::Result<()> {
        if !(1..=256).contains(&self.upload_slots) {
            bail!("upload_slots is {}; it must be 1 to 256", self.upload_slots);
        }
        if self.battery_floor > 100 {
            bail!("battery_floor is {}; it is a percentage, 0 to 100", self.battery_floor);
        }
        if !(1..=MAX_SCRUB_EVERY_S).contains(&self.store.scrub_every_s) {
            bail!("store.scrub_every_s is {}; it must be 1 to {MAX_SCRUB_EVERY_S}", self.store.scrub_every_s);
        }
        if self.limits.hours.len() > MAX_HOURS {
            bail!("[[limits.hours]]: {} entries; at most {MAX_HOURS} are possible", self.limits.hours.len());
        }
        self.restart.validate().context("[restart]")?;
        self.proxy.validate().context("[proxy]")?;
        if let Some(update_point) = &self.update_point {
            update_point.validate().context("[update_point]")?;
        }
        if self.listen.is_empty() {
            bail!("listen is empty; name at least one multiaddr, for example \"/ip4/0.0.0.0/tcp/4410\"");
        }
        if self.coordinator.addresses.is_empty() && self.coordinator.origins.is_empty() {
            bail!("[coordinator] names no address; join with a token: upswarm node join TOKEN --data-dir DIR");
        }
        for text in self.peers.iter().chain(&self.coordinator.addresses).chain(&self.listen) {
            if !text.starts_with('/') || Text::<512>::new(text.as_str()).is_err() {
                bail!("{text:?} is not a multiaddr; they look like \"/ip4/192.0.2.7/tcp/4410\"");
            }
        }
        Text::<64>::new(self.label.as_str()).context("label")?;
        Ok(())
    }

    /// The name for people: as configured, or the host's.
    pub(crate) fn label_or_host(&self) -> Text<64> {
        if self.label.is_empty() { Text::lossy(&host_name()) } else { Text::lossy(&self.label) }
    }
}

/// What a node keeps where, below its data directory.
#[derive(Debug, Clone)]
pub(crate) struct NodeDir(PathBuf);

impl NodeDir {
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.0.join("node.toml")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.0.join("device.key")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    pub(crate) fn install(&self) -> PathBuf {
        self.0.join("install")
    }

    /// Every root since enrolment, by version, for the privileged installer.
    pub(crate) fn roots(&self) -> PathBuf {
        self.0.join("roots")
    }

    /// What the person at the machine should know of a restart; no file, nothing to know.
    pub(crate) fn notice(&self) -> PathBuf {
        self.0.join("notice")
    }

    /// Where a running node tells how to reach it.
    pub(crate) fn run_info(&self) -> PathBuf {
        self.0.join("run.json")
    }
}

/// What a running node tells local programs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunInfo {
    /// Process id.
    pub(crate) pid: u32,
    /// The device.
    pub(crate) device: DeviceId,
    /// Multiaddrs with the device's id, for `--peer` of others.
    pub(crate) listen: Vec<String>,
}

/// How willing a machine is to fetch over the WAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum WanWeight {
    /// As its power and link allow.
    #[default]
    Auto,
    /// This, whatever it runs on.
    Fixed(u8),
}

impl WanWeight {
    /// On mains power and cable.
    pub(crate) fn at_best(self) -> u8 {
        match self {
            WanWeight::Auto => 8,
            WanWeight::Fixed(weight) => weight,
        }
    }
}

impl Serialize for WanWeight {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            WanWeight::Auto => serializer.serialize_str("auto"),
            WanWeight::Fixed(weight) => serializer.serialize_u8(*weight),
        }
    }
}

impl<'de> Deserialize<'de> for WanWeight {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = WanWeight;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\" or a number from 0 to 255")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<WanWeight, E> {
                if text == "auto" {
                    Ok(WanWeight::Auto)
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
                }
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<WanWeight, E> {
                let weight = u8::try_from(number);
                weight.map(WanWeight::Fixed).map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(number), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Days and hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hours(pub(crate) Window);

impl std::str::FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        units::window(text).map(Self)
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

/// Bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rate(pub(crate) u64);

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        units::size(text).map(Self)
    }
}

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        units::rate(text).map(Self)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.iter().find(|(size, _)| self.0 >= *size && self.0.is_multiple_of(*size)) {
            Some((size, unit)) => write!(f, "{}{unit}", self.0 / size),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As in files, where it is one word: 50mbit.
        f.write_str(&units::rate_words(self.0).trim_end_matches("/s").replace(' ', "").to_lowercase())
    }
}

macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

as_text!(Hours);
as_text!(Size);
as_text!(Rate);

/// The zone with this name, the machine's own if the name is empty, or UTC when neither is known.
pub(crate) fn time_zone(name: &str) -> anyhow::Result<jiff::tz::TimeZone> {
    if !name.is_empty() {
        return schedule::zone(name)
            .with_context(|| format!("the time zone {name:?} is not known; write for example Europe/Berlin"));
    }
    let found = inventory::fact(inventory::FACT_TIME_ZONE);
    Ok(found.and_then(|name| schedule::zone(&name)).unwrap_or(jiff::tz::TimeZone::UTC))
}

/// The host's name, or `unnamed`.
pub(crate) fn host_name() -> String {
    let name = sys::host_name();
    if name.is_empty() { "unnamed".into() } else { name }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_config_survives_its_file_and_unknown_fields_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        let mut config = Config::default();
        config.coordinator.addresses = vec!["/ip4/127.0.0.1/tcp/1".into()];
        config.limits.wan_down = Some(Rate(12_500_000));
        config.limits.hours = vec![HourLimits {
            when: "mon-fri 8:00-18:00".parse().unwrap(),
            wan_down: Some(Rate(125_000)),
            lan_up: None,
            lan_down: None,
        }];
        config.write(&path).unwrap();
        assert_eq!(Config::read(&path).unwrap(), config);
        config.wan_weight = WanWeight::Fixed(64);
        (config.metered, config.battery_floor) = (Metered::Yes, 0);
        config.write(&path).unwrap();
        assert_eq!(Config::read(&path).unwrap(), config);
        let address = "[coordinator]\naddresses = [\"/ip4/127.0.0.1/tcp/1\"]\n";
        for bad in
            ["wan_weight = 256", "wan_weight = -1", "wan_weight = \"car\"", "battery_floor = 101", "metered = true"]
        {
            fs::write(&path, format!("{bad}\n{address}")).unwrap();
            let error = format!("{:#}", Config::read(&path).unwrap_err());
            assert!(error.contains("line 1: ") || error.contains("battery_floor"), "{error}");
        }
        fs::write(&path, "quota = 3\n").unwrap();
        let error = format!("{:#}", Config::read(&path).unwrap_err());
        assert!(error.contains("quota"), "{error}");
    }

    #[test]
    fn an_update_point_is_closed_to_the_network_unless_networks_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        let read = |section: &str| {
            let text = format!("[coordinator]\naddresses = [\"/ip4/127.0.0.1/tcp/1\"]\n{section}");
            fs::write(&path, text).unwrap();
            Config::read(&path).map(|config| config.update_point).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(read(""), Ok(None));
        let point = read("[update_point]\n").unwrap().unwrap();
        assert_eq!(point.listen, ["127.0.0.1:8530".parse().unwrap()]);
        assert!(read("[update_point]\nlisten = [\"0.0.0.0:8530\"]\n").unwrap_err().contains("allow"));
        assert!(read("[update_point]\nlisten = []\n").unwrap_err().contains("listen"));
        assert!(read("[update_point]\nallow = [\"10.1.0.0/40\"]\n").unwrap_err().contains("10.1.0.0/40"));
        let open = read("[update_point]\nlisten = [\"0.0.0.0:8530\"]\nallow = [\"10.1.0.0/16\"]\n").unwrap().unwrap();
        assert_eq!(open.networks(), ["10.1.0.0/16".parse().unwrap()]);
    }

    #[test]
    fn sizes_and_rates_read_as_people_write_them() {
        assert_eq!(Rate(6_250_000).to_string(), "50mbit");
        assert_eq!("20GiB".parse(), Ok(Size(20 << 30)));
        assert_eq!("100mbit".parse(), Ok(Rate(12_500_000)));
        assert_eq!("512KiB".parse(), Ok(Size(1 << 19)));
        assert!("fast".parse::<Rate>().is_err() && "0mbit".parse::<Rate>().is_err() && "-1".parse::<Size>().is_err());
        assert_eq!(Rate(12_500_000).to_string().parse(), Ok(Rate(12_500_000)));
    }
}
