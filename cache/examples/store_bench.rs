//! How fast the store is, beside a plain file that is hashed and written: `cargo run --release -p upswarm-cache --example
//! store_bench [directory]`. 256 MiB, made durable every second, best of three.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use upswarm_cache::chunker::chunk_file;
use upswarm_cache::{Store, StoreConfig};
use upswarm_protocol::chunk::{ChunkList, ChunkSizes};
use upswarm_protocol::ids::PayloadId;

const MIB: usize = 256;
const ROUNDS: usize = 3;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = base.join(format!("upswarm-store-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let measured = measure(&dir);
    std::fs::remove_dir_all(&dir)?;
    measured
}

fn measure(dir: &Path) -> Result<(), Failure> {
    let mut state = 1u64;
    let mut bytes = Vec::with_capacity(MIB << 20);
    while bytes.len() < MIB << 20 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        bytes.extend_from_slice(&(state ^ state >> 29).to_le_bytes());
    }
    let start = Instant::now();
    let cut = chunk_file(bytes.as_slice(), ChunkSizes::default())?;
    let list = Arc::new(cut.list);
    let chunks = list.chunks().len();
    println!("cut, BLAKE3 twice, SHA-256: {:>6.0} MiB/s, {chunks} chunks", speed(start.elapsed()));

    let (mut plain, mut store) = ([Duration::MAX; 2], [Duration::MAX; 2]);
    for _ in 0..ROUNDS {
        let rounds = [&mut plain, &mut store];
        for (best, now) in rounds.into_iter().zip([file(dir, &bytes, &list)?, stored(dir, cut.id, &bytes, &list)?]) {
            *best = [best[0].min(now[0]), best[1].min(now[1])];
        }
    }
    for (at, what) in ["hash, write, sync", "read"].iter().enumerate() {
        let (plain, store) = (plain[at], store[at]);
        println!(
            "{what:<17}: plain file {:>6.0} MiB/s, store {:>6.0} MiB/s, ratio {:.2}",
            speed(plain),
            speed(store),
            plain.as_secs_f64() / store.as_secs_f64()
        );
    }
    Ok(())
}

/// Every chunk hashed and written to a plain file, synced at the end; then read.
fn file(dir: &Path, bytes: &[u8], list: &ChunkList) -> Result<[Duration; 2], Failure> {
    let path = dir.join("plain");
    let start = Instant::now();
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    for chunk in list.chunks() {
        let piece = &bytes[chunk.offset as usize..][..chunk.len as usize];
        assert_eq!(blake3::hash(piece).as_bytes(), chunk.id.as_bytes());
        file.write_all_at(piece, chunk.offset)?;
    }
    file.sync_data()?;
    let written = start.elapsed();
    let start = Instant::now();
    for chunk in list.chunks() {
        let mut piece = vec![0; chunk.len as usize];
        file.read_exact_at(&mut piece, chunk.offset)?;
        std::hint::black_box(piece);
    }
    let read = start.elapsed();
    std::fs::remove_file(&path)?;
    Ok([written, read])
}

/// The same through a store, with another thread that flushes every second.
fn stored(dir: &Path, id: PayloadId, bytes: &[u8], list: &Arc<ChunkList>) -> Result<[Duration; 2], Failure> {
    let path = dir.join("store");
    let store = Store::open(&path, StoreConfig { reserve: 0, ..StoreConfig::default() })?;
    let done = AtomicBool::new(false);
    let start = Instant::now();
    store.open_payload(id, list, true)?;
    std::thread::scope(|scope| -> Result<(), Failure> {
        let flusher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_secs(1));
                store.flush()?;
            }
            Ok::<(), upswarm_cache::StoreError>(())
        });
        for (position, chunk) in (0..).zip(list.chunks()) {
            store.write_chunk(id, position, &bytes[chunk.offset as usize..][..chunk.len as usize])?;
        }
        done.store(true, Ordering::Relaxed);
        flusher.thread().unpark();
        flusher.join().map_err(|_| "the flushing thread panicked")??;
        Ok(())
    })?;
    let written = start.elapsed();
    let start = Instant::now();
    for position in 0..list.chunks().len() as u32 {
        std::hint::black_box(store.read(id, position, 1)?);
    }
    let read = start.elapsed();
    drop(store);
    std::fs::remove_dir_all(&path)?;
    Ok([written, read])
}

fn speed(time: Duration) -> f64 {
    MIB as f64 / time.as_secs_f64()
}
