//! What a store does when it opens: makes files and records agree, and hashes what was written but not noted.

use upswarm_protocol::chunk::Bitmap;
use upswarm_protocol::ids::PayloadId;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::error::StoreError;
use crate::files::{self, Files, Found, Generation};
use crate::index::{Index, Record};
use crate::os;
use crate::payload::Body;

/// Every payload that is on disk, with a record that is true, and the bytes it takes. Durable when this returns.
///
/// A record is trusted when it names the length and the stay that the files have. Where it says that the payload was
/// being written, chunks without a bit are hashed; without a trusted record, all chunks are.
pub(crate) fn recover(
    files: &Files,
    index: &Index,
    records: Vec<(PayloadId, Option<Record>)>,
    notices: &mut Vec<String>,
) -> Result<Vec<(PayloadId, Record, u64)>, StoreError> {
    let mut found = files.scan()?;
    let mut records: BTreeMap<PayloadId, Option<Record>> = records.into_iter().collect();
    for id in records.keys() {
        found.entry(*id).or_default();
    }
    let mut kept = Vec::with_capacity(found.len());
    let mut changed = false;
    for (id, found) in found {
        let known = records.contains_key(&id);
        let record = records.remove(&id).flatten();
        let outcome = match on_disk(files, id, found) {
            Ok((len, stay)) => match record {
                Some(record) if !record.writing && record.len == len && record.stay == stay => {
                    kept.push((id, record, files::on_disk(len, found.list.unwrap_or(0))));
                    continue;
                }
                record => rehash(files, index, id, record, (len, stay), found, notices),
            },
            Err(error) => Err(error),
        };
        changed = true;
        match outcome {
            Ok(payload) => kept.push(payload),
            Err(error) if is_refused(&error) => return Err(error),
            Err(error) => {
                // A name without bytes or without a list is what an abrupt stop leaves of a creation or a removal.
                if known && !matches!(error, StoreError::Unknown(_)) {
                    notices.push(format!("payload {} was removed from the store: {error}", id.short()));
                }
                files.remove(id)?;
                index.remove(id, &[])?;
            }
        }
    }
    if changed {
        files.sync_names()?;
        index.flush()?;
    }
    Ok(kept)
}

/// Length and stay of a payload on disk.
fn on_disk(files: &Files, id: PayloadId, found: Found) -> Result<(u64, Generation), StoreError> {
    match found {
        Found { data: Some(len), list: Some(_) } => Ok((len, files.stay(id)?)),
        _ => Err(StoreError::Unknown(id)),
    }
}

/// Hashes the chunks that the record does not vouch for, and writes a new record.
fn rehash(
    files: &Files,
    index: &Index,
    id: PayloadId,
    record: Option<Record>,
    on_disk: (u64, Generation),
    found: Found,
    notices: &mut Vec<String>,
) -> Result<(PayloadId, Record, u64), StoreError> {
    let (list, stay) = files.read_list(id)?;
    let chunks = list.chunks().len() as u32;
    let len = list.payload_len();
    let file = files.open_data(id)?;
    if on_disk.0 != len {
        file.set_len(len).map_err(|error| StoreError::io("mending the length of", files.data_path(id), error))?;
    }
    let blank = Record { pinned: false, writing: false, last_used: 0, len, stay, have: Bitmap::new(chunks) };
    let (known, mut record) = match record {
        Some(record) if (record.len, record.stay) == on_disk && record.have.len() == chunks => (true, record),
        Some(record) => (false, Record { pinned: record.pinned, last_used: record.last_used, ..blank }),
        None => (false, blank),
    };
    let body = Body::new(file, Arc::new(list));
    let mut buffer = Vec::new();
    let (mut kept, mut bytes) = (Vec::new(), 0);
    for position in record.have.missing() {
        let chunk = body.list.chunks()[position as usize];
        if !os::is_hole(&body.file, chunk.offset, u64::from(chunk.len)) && body.is_good(&chunk, &mut buffer) {
            kept.push(position);
            bytes += u64::from(chunk.len);
        }
    }
    for position in &kept {
        record.have.set(*position);
    }
    record.writing = false;
    os::sync(&body.file).map_err(|error| StoreError::io("syncing", files.data_path(id), error))?;
    index.add_chunks(id, kept.iter().map(|position| &body.list.chunks()[*position as usize]))?;
    index.put(id, &record)?;
    if !kept.is_empty() || !known {
        notices.push(format!(
            "payload {}: {} chunks ({bytes} bytes) {} were hashed and kept; it now has {} of {chunks}",
            id.short(),
            kept.len(),
            if known { "written just before an abrupt stop" } else { "without a trustworthy record in the index" },
            record.have.count(),
        ));
    }
    let list = found.list.unwrap_or(0);
    Ok((id, record, files::on_disk(len, list)))
}

/// Whether an error says that this process may not, rather than that the payload is damaged.
fn is_refused(error: &StoreError) -> bool {
    match error {
        StoreError::Index { .. } => true,
        StoreError::Io { source, .. } => {
            use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, StorageFull};
            matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem | StorageFull) || os::is_out_of_files(source)
        }
        _ => false,
    }
}
