//! What many small payloads cost the store, beside plain files: `cargo run --release -p upswarm-cache --example many_payloads
//! [directory]`. 300 payloads of together 256 MiB, made durable every second; CPU seconds (user and system) and the memory that
//! is no file's.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use upswarm_cache::chunker::{ChunkedFile, chunk_file};
use upswarm_cache::{Store, StoreConfig};
use upswarm_protocol::chunk::ChunkSizes;

const PAYLOADS: u64 = 300;
const BYTES: u64 = 256 << 20;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = base.join(format!("upswarm-many-payloads-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let measured = measure(&dir);
    std::fs::remove_dir_all(&dir)?;
    measured
}

/// The content of one payload.
fn content(which: u64) -> Vec<u8> {
    let len = (BYTES / PAYLOADS) as usize;
    let mut state = which + 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        bytes.extend_from_slice(&(state ^ state >> 29).to_le_bytes());
    }
    bytes
}

fn measure(dir: &Path) -> Result<(), Failure> {
    let sizes = ChunkSizes::default();
    let cut: Vec<ChunkedFile> =
        (0..PAYLOADS).map(|which| chunk_file(content(which).as_slice(), sizes)).collect::<Result<_, _>>()?;
    // Making the content costs the same in both.
    let (start, idle) = (Instant::now(), cpu()?);
    (0..PAYLOADS).for_each(|which| drop(std::hint::black_box(content(which))));
    let making = cpu()? - idle;
    println!(
        "{PAYLOADS} payloads of together {} MiB; making them takes {:.2} s",
        BYTES >> 20,
        start.elapsed().as_secs_f64()
    );

    let (start, before) = (Instant::now(), cpu()?);
    for (which, cut) in (0..).zip(&cut) {
        let bytes = content(which);
        let mut file = File::create(dir.join(format!("plain-{which}")))?;
        for chunk in cut.list.chunks() {
            let piece = &bytes[chunk.offset as usize..][..chunk.len as usize];
            assert_eq!(blake3::hash(piece).as_bytes(), chunk.id.as_bytes());
            file.write_all(piece)?;
        }
        file.sync_data()?;
    }
    tell("plain files", start, cpu()? - before - making, None);

    let memory = anonymous()?;
    let store = Store::open(&dir.join("store"), StoreConfig { reserve: 0, ..StoreConfig::default() })?;
    let (start, before) = (Instant::now(), cpu()?);
    let mut flushed = Instant::now();
    for (which, cut) in (0..).zip(&cut) {
        let (bytes, list) = (content(which), Arc::new(cut.list.clone()));
        store.open_payload(cut.id, &list, true)?;
        for (position, chunk) in (0..).zip(list.chunks()) {
            store.write_chunk(cut.id, position, &bytes[chunk.offset as usize..][..chunk.len as usize])?;
        }
        if flushed.elapsed() > Duration::from_secs(1) {
            store.flush()?;
            flushed = Instant::now();
        }
    }
    store.flush()?;
    tell("store", start, cpu()? - before - making, Some(anonymous()?.saturating_sub(memory)));
    Ok(())
}

fn tell(what: &str, start: Instant, cpu: f64, memory: Option<u64>) {
    let memory = memory.map_or(String::new(), |kib| format!(", {:.1} MiB of memory", kib as f64 / 1024.0));
    let per_gib = cpu * (1u64 << 30) as f64 / BYTES as f64;
    println!("{what:<12}: {:.2} s, {cpu:.2} CPU s ({per_gib:.2} per GiB){memory}", start.elapsed().as_secs_f64());
}

/// Seconds of processor time of this process, in steps of a hundredth.
fn cpu() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / 100.0)
}

/// KiB of memory that no file backs.
fn anonymous() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
