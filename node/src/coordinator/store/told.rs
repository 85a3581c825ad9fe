//! What devices told last, as rows. Owns how they are packed there; never judges what they say.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use futures::TryStreamExt as _;
use sqlx::{AnyConnection, Connection as _, Row as _};
use upswarm_protocol::ids::{DeviceId, DocHash};

use super::database::{Place, Session};
use super::known::Said;
use super::old_log;
use super::rows::{Value, write};
use crate::sys;

/// The first byte of a packed status, which is followed by LZ4 of its JSON.
const PACKED: u8 = 1;
/// A status is far shorter: deployments and their reasons are bounded.
const MAX_STATUS: usize = 16 << 20;

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// How the device is.
    Status = 0,
    /// What is installed on it.
    Inventory = 1,
    /// What it is missing.
    Scan = 2,
}

impl Kind {
    /// Every kind.
    pub(crate) const ALL: [Kind; 3] = [Kind::Status, Kind::Inventory, Kind::Scan];

    pub(super) fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as i64 == number)
    }
}

/// The device and kind of a row.
pub(crate) type Key = (DeviceId, Kind);

/// Everything that devices told last.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// How each device is.
    pub(crate) said: BTreeMap<DeviceId, Said>,
    /// Records for the core.
    pub(crate) inventory_bases: Vec<(DocHash, Vec<u8>)>,
    pub(crate) inventories: Vec<(DeviceId, Vec<u8>)>,
    pub(crate) scans: Vec<(DeviceId, Vec<u8>)>,
}

impl Told {
    /// Reads the database at a start. What an earlier program kept in the file `old` comes first into the database, once; the file is
    /// then put aside.
    pub(crate) async fn load(place: &Place, old: &Path) -> anyhow::Result<Self> {
        let mut session = Session::open(place).await?;
        session.import(old).await?;
        let told = session.told().await?;
        session.close().await;
        Ok(told)
    }
}

impl Session {
    async fn import(&mut self, old: &Path) -> anyhow::Result<()> {
        let Some(records) = old_log::read(old)? else { return Ok(()) };
        let held = sqlx::query("SELECT COUNT(*) FROM told").fetch_one(&mut self.connection).await;
        let held: i64 = held.and_then(|row| row.try_get(0)).map_err(|error| self.explain(error))?;
        // After a stop between the import and the renaming below it is in already.
        if held == 0 {
            let rows = records.iter().map(|((device, kind), bytes)| {
                let bytes = if *kind == Kind::Status { pack(bytes) } else { bytes.clone() };
                ((*device, *kind), Some(bytes))
            });
            let rows = rows.collect();
            let written = async {
                let mut transaction = self.connection.begin().await?;
                keep(&mut transaction, rows).await?;
                transaction.commit().await
            };
            written.await.map_err(|error| self.explain(error)).context("importing what devices told")?;
            tracing::info!(records = records.len(), "what devices told is in the database now");
        }
        let aside = old.with_extension("imported");
        sys::rename(old, &aside).with_context(|| format!("putting {} aside", old.display()))
    }

    async fn told(&mut self) -> anyhow::Result<Told> {
        let mut told = Told::default();
        let bases = sqlx::query("SELECT digest, content FROM inventory_base").fetch_all(&mut self.connection).await;
        for row in bases.map_err(|error| self.explain(error)).context("reading what inventories have in common")? {
            let read = (row.try_get::<Vec<u8>, _>(0).map(TryInto::try_into), row.try_get::<Vec<u8>, _>(1));
            // Inventories over one that is damaged are told anew.
            if let (Ok(Ok(digest)), Ok(content)) = read {
                told.inventory_bases.push((DocHash(digest), content));
            }
        }
        let mut failed = None;
        let mut rows = sqlx::query("SELECT device, kind, content FROM told").fetch(&mut self.connection);
        loop {
            let row = match rows.try_next().await {
                Ok(Some(row)) => row,
                Ok(None) => break,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            };
            let read = (row.try_get::<Vec<u8>, _>(0), row.try_get::<i64, _>(1), row.try_get::<Vec<u8>, _>(2));
            let (Ok(device), Ok(kind), Ok(content)) = read else {
                tracing::warn!("a row of what devices told is damaged and left out; its device tells again");
                continue;
            };
            let (Ok(device), Some(kind)) = (device.try_into().map(DeviceId), Kind::from_number(kind)) else { continue };
            match kind {
                Kind::Inventory => told.inventories.push((device, content)),
                Kind::Scan => told.scans.push((device, content)),
                Kind::Status => match unpack(&content).and_then(|json| Said::restore(&json)) {
                    Some(said) => drop(told.said.insert(device, said)),
                    // Status heals by itself: the device reports again.
                    None => tracing::warn!(%device, "a device's stored status is damaged and left out"),
                },
            }
        }
        drop(rows);
        match failed {
            Some(error) => Err(self.explain(error)).context("reading what devices told"),
            None => Ok(told),
        }
    }
}

/// The row of a status.
pub(super) fn status(said: &Said) -> Vec<u8> {
    pack(&said.to_bytes())
}

/// Puts rows into the place of those before, or with `None` takes them out.
pub(super) async fn keep(
    connection: &mut AnyConnection,
    records: BTreeMap<Key, Option<Vec<u8>>>,
) -> Result<(), sqlx::Error> {
    let mut rows = Vec::new();
    for ((device, kind), content) in records {
        let (device, kind) = (Value::Bytes(device.0.to_vec()), Value::Int(kind as i64));
        match content {
            Some(content) => rows.push(vec![device, kind, Value::Bytes(content)]),
            None => {
                let gone = sqlx::query("DELETE FROM told WHERE device = $1 AND kind = $2");
                kind.bind_to(device.bind_to(gone)).execute(&mut *connection).await.map(drop)?;
            }
        }
    }
    let taken = "ON CONFLICT (device, kind) DO UPDATE SET content = excluded.content";
    write(connection, "told (device, kind, content)", taken, rows).await
}

/// Puts bases in, or with no bytes takes them out.
pub(super) async fn keep_bases(
    connection: &mut AnyConnection,
    bases: BTreeMap<DocHash, Vec<u8>>,
) -> Result<(), sqlx::Error> {
    let (gone, new): (Vec<_>, Vec<_>) = bases.into_iter().partition(|(_, content)| content.is_empty());
    for (digest, _) in gone {
        let delete = sqlx::query("DELETE FROM inventory_base WHERE digest = $1").bind(digest.0.to_vec());
        delete.execute(&mut *connection).await?;
    }
    let rows = new.into_iter().map(|(digest, content)| vec![Value::Bytes(digest.0.to_vec()), Value::Bytes(content)]);
    let taken = "ON CONFLICT (digest) DO UPDATE SET content = excluded.content";
    write(connection, "inventory_base (digest, content)", taken, rows.collect()).await
}

fn pack(json: &[u8]) -> Vec<u8> {
    let mut packed = vec![PACKED];
    packed.extend(lz4_flex::compress_prepend_size(json));
    packed
}

fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let (version, rest) = packed.split_first()?;
    let (len, _) = rest.split_first_chunk::<4>()?;
    if *version != PACKED || u32::from_le_bytes(*len) as usize > MAX_STATUS {
        return None;
    }
    lz4_flex::decompress_size_prepended(rest).ok()
}
