//! A static origin: files that any web server can serve.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use upswarm_protocol::catalog::walk::everything;
use upswarm_protocol::catalog::{Index, Release};
use upswarm_protocol::codec;
use upswarm_protocol::coordinator::CatalogRecord;
use upswarm_protocol::envelope::{Envelope, Kind, Role};
use upswarm_protocol::ids::DocHash;

use super::directory::Directory;
use crate::sys::{self, Access};

/// What an export wrote.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Exported {
    /// Payloads in the target, copied now or before.
    pub(crate) payloads: u64,
    /// Bytes of them.
    pub(crate) bytes: u64,
    /// Documents in the target.
    pub(crate) documents: u64,
    /// Version of the index that the exported head names.
    pub(crate) index_version: u64,
}

/// Writes `payload/<hex>`, `doc/<hex>`, `root/<n>` and `head` under `target`. What is there already stays; the head comes
/// last, so that a server may serve the target all the while. `moved` is told of bytes as they are copied.
pub(crate) fn export(directory: &Directory, target: &Path, mut moved: impl FnMut(u64)) -> anyhow::Result<Exported> {
    if target.exists() && fs::canonicalize(target).ok() == fs::canonicalize(directory.path()).ok() {
        bail!("the target is the data directory itself, which holds secrets; name another directory");
    }
    // The catalog is read first: everything it names was on disk before it.
    let catalog = directory.catalog();
    let damaged = || format!("{} is damaged; restore it from a copy", catalog.display());
    let bytes = fs::read(&catalog).with_context(|| format!("reading {}", catalog.display()))?;
    let record = CatalogRecord::decode(&bytes).with_context(damaged)?;
    let index: Index = body(&record.index, Kind::Index, Role::Online).with_context(damaged)?;
    for room in ["payload", "doc", "root"] {
        fs::create_dir_all(target.join(room)).with_context(|| format!("creating {}", target.join(room).display()))?;
    }
    let mut exported = Exported { index_version: index.version, ..Exported::default() };
    let doc = |hash: DocHash| target.join("doc").join(hash.to_string());
    let read = |hash: &DocHash| -> anyhow::Result<Vec<u8>> {
        let path = directory.doc(hash);
        fs::read(&path).with_context(|| format!("reading {}", path.display()))
    };
    let named = everything(&index, read).with_context(damaged)?;
    for page in &named.pages {
        copy(&directory.doc(page), &doc(*page), &mut |_| {})?;
        exported.documents += 1;
    }
    for entry in named.documents.values() {
        copy(&directory.doc(&entry.hash), &doc(entry.hash), &mut |_| {})?;
        exported.documents += 1;
        if entry.kind != Kind::Release {
            continue;
        }
        let path = directory.doc(&entry.hash);
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let release: Release = body(&bytes, Kind::Release, Role::Publisher).with_context(damaged)?;
        for payload in &release.payloads {
            copy(&directory.doc(&payload.chunk_list), &doc(payload.chunk_list), &mut |_| {})?;
            exported.documents += 1;
            // Bytes that stay at their vendor are not ours to copy.
            if payload.urls.is_empty() {
                let to = target.join("payload").join(payload.id.to_string());
                exported.bytes += copy(&directory.payload(&payload.id), &to, &mut moved)?;
                exported.payloads += 1;
            }
        }
    }
    let (root, _) = directory.newest_root()?;
    for version in 1..=root.version {
        copy(&directory.root(version), &target.join("root").join(version.to_string()), &mut |_| {})?;
    }
    // By hash as well: a join token names the root of its day.
    for bytes in directory.chain(root.version)? {
        let path = doc(DocHash::of(&bytes));
        sys::replace(&path, &bytes, Access::Everyone).with_context(|| format!("writing {}", path.display()))?;
        exported.documents += 1;
    }
    sys::replace(&doc(DocHash::of(&record.index)), &record.index, Access::Everyone).context("writing the index")?;
    exported.documents += 1;
    let head = target.join("head");
    sys::replace(&head, &record.head, Access::Everyone).with_context(|| format!("writing {}", head.display()))?;
    Ok(exported)
}

/// Copies a file whose name is its hash, unless it is there with the same length. Returns its length.
fn copy(from: &Path, to: &Path, moved: &mut dyn FnMut(u64)) -> anyhow::Result<u64> {
    let place = || format!("copying {} to {}", from.display(), to.display());
    let mut source = fs::File::open(from).with_context(place)?;
    let len = source.metadata().with_context(place)?.len();
    if fs::metadata(to).is_ok_and(|there| there.len() == len) {
        moved(len);
        return Ok(len);
    }
    let beside = to.with_extension("new");
    let mut file = fs::File::create(&beside).with_context(place)?;
    let mut piece = vec![0; 1 << 20];
    loop {
        let count = io::Read::read(&mut source, &mut piece).with_context(place)?;
        if count == 0 {
            break;
        }
        io::Write::write_all(&mut file, &piece[..count]).with_context(place)?;
        moved(count as u64);
    }
    file.sync_all().with_context(place)?;
    sys::rename(&beside, to).with_context(place)?;
    Ok(len)
}

/// What a document of our own directory says; who reads the export verifies it.
fn body<T: DeserializeOwned>(bytes: &[u8], kind: Kind, role: Role) -> anyhow::Result<T> {
    Ok(codec::decode(Envelope::parse(bytes, kind, role)?.unverified_body(), kind.cap())?)
}

/// Bytes of every payload in the store: at most this much is copied.
pub(crate) fn payload_bytes(directory: &Directory) -> anyhow::Result<u64> {
    Ok(directory.payloads()?.values().sum())
}
