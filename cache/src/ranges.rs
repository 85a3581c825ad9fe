//! Reading payloads by byte instead of by chunk, for clients that know nothing of chunks. It uses the store, which knows nothing
//! of it.

use upswarm_protocol::ids::PayloadId;

use crate::error::StoreError;
use crate::store::Store;

impl Store {
    /// Bytes of a payload from `offset` on: at most `most`, and not beyond the chunk that holds the first of them, so at most
    /// [`upswarm_protocol::chunk::MAX_CHUNK`]. None at or after the payload's end. They are verified as by [`Store::read`], whose
    /// errors these are; [`StoreError::Missing`] when that chunk is not there yet.
    pub fn read_from(&self, id: PayloadId, offset: u64, most: u64) -> Result<Vec<u8>, StoreError> {
        let payload = self.payload(id).ok_or(StoreError::Unknown(id))?;
        let body = self.body(&payload)?;
        let after = body.list.chunks().partition_point(|chunk| chunk.offset <= offset);
        let position = u32::try_from(after).unwrap_or(u32::MAX).saturating_sub(1);
        let Some(chunk) = body.chunk(position).filter(|chunk| offset < chunk.offset + u64::from(chunk.len)) else {
            return Ok(Vec::new());
        };
        let skipped = usize::try_from(offset - chunk.offset).unwrap_or(usize::MAX);
        let mut bytes = self.read(id, position, 1)?;
        bytes.drain(..skipped.min(bytes.len()));
        bytes.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use upswarm_protocol::chunk::{ChunkList, ChunkSizes};
    use upswarm_protocol::ids::ChunkId;

    use super::*;
    use crate::store::StoreConfig;

    #[test]
    fn bytes_come_from_any_place_as_far_as_they_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig { reserve: 0, ..StoreConfig::default() }).unwrap();
        let pieces: [&[u8]; 3] = [b"alpha", b"be", b"gamma!"];
        let list =
            ChunkList::new(ChunkSizes::default(), pieces.iter().map(|piece| (ChunkId::of(piece), piece.len() as u32)))
                .unwrap();
        let id = PayloadId::of(&pieces.concat());
        assert!(matches!(store.read_from(id, 0, 9), Err(StoreError::Unknown(_))));
        store.open_payload(id, &Arc::new(list), false).unwrap();
        for position in [0, 2] {
            store.write_chunk(id, position, pieces[position as usize]).unwrap();
        }
        let read = |offset, most| store.read_from(id, offset, most).map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(read(0, 99).unwrap(), "alpha");
        assert_eq!(read(3, 99).unwrap(), "ha");
        assert_eq!(read(1, 2).unwrap(), "lp");
        assert!(matches!(read(5, 9), Err(StoreError::Missing { position: 1, .. })));
        assert!(matches!(read(6, 9), Err(StoreError::Missing { position: 1, .. })));
        assert_eq!(read(7, 1).unwrap(), "g");
        assert_eq!(read(12, 9).unwrap(), "!");
        assert_eq!(read(13, 9).unwrap(), "");
        assert_eq!(read(u64::MAX, 9).unwrap(), "");
        store.write_chunk(id, 1, pieces[1]).unwrap();
        let mut all = String::new();
        while all.len() < 13 {
            all += &read(all.len() as u64, 4).unwrap();
        }
        assert_eq!(all, "alphabegamma!");
    }
}
