//! Where the chunks of a fetch go: hashed, stored, told to the core.

use std::sync::Arc;

use tokio::sync::mpsc;
use upswarm_cache::Store;
use upswarm_protocol::chunk::ChunkList;
use upswarm_protocol::ids::PayloadId;
use upswarm_protocol::node::{FetchError, FetchId, Input, StoreError};

/// Where the chunks of one fetch go.
pub(super) struct ChunkSink {
    pub(super) store: Arc<Store>,
    pub(super) done: mpsc::Sender<Vec<Input>>,
    pub(super) fetch: FetchId,
    pub(super) payload: PayloadId,
    pub(super) list: Arc<ChunkList>,
}

impl ChunkSink {
    /// Hashes and stores one chunk, and tells the core.
    pub(super) async fn write(&self, chunk: u32, bytes: Vec<u8>) -> Result<(), FetchError> {
        let (store, payload) = (self.store.clone(), self.payload);
        let written = tokio::task::spawn_blocking(move || store.write_chunk(payload, chunk, &bytes)).await;
        let inputs = self.told(chunk, written.map_err(broke_off)?)?;
        let _ = self.done.send(inputs).await;
        Ok(())
    }

    /// Hashes and stores the chunks of a block, and ends the fetch.
    pub(super) async fn end_with_block(self, first: u32, len: u64, block: Result<Vec<u8>, FetchError>) {
        let block = match block {
            Ok(block) if block.len() as u64 == len => block,
            Ok(block) => {
                let text = format!("{} bytes instead of {len}", block.len());
                return self.end(block.len() as u64, Err(FetchError::Wrong(text))).await;
            }
            Err(error) => return self.end(0, Err(error)).await,
        };
        let done = self.done.clone();
        let fetch = self.fetch;
        let written = tokio::task::spawn_blocking(move || {
            let (mut inputs, mut at, mut chunk) = (Vec::new(), 0, first);
            let mut result = Ok(());
            while at < block.len() && result.is_ok() {
                let len = self.list.chunks()[chunk as usize].len as usize;
                let outcome = self.store.write_chunk(self.payload, chunk, &block[at..at + len]);
                match self.told(chunk, outcome) {
                    Ok(more) => inputs.extend(more),
                    Err(error) => result = Err(error),
                }
                (at, chunk) = (at + len, chunk + 1);
            }
            inputs.push(Input::FetchEnded { fetch: self.fetch, bytes: len, result });
            inputs
        });
        let inputs = written
            .await
            .unwrap_or_else(|error| vec![Input::FetchEnded { fetch, bytes: len, result: Err(broke_off(error)) }]);
        let _ = done.send(inputs).await;
    }

    pub(super) async fn end(self, bytes: u64, result: Result<(), FetchError>) {
        let _ = self.done.send(vec![Input::FetchEnded { fetch: self.fetch, bytes, result }]).await;
    }

    fn told(&self, chunk: u32, written: Result<Vec<u32>, upswarm_cache::WriteError>) -> Result<Vec<Input>, FetchError> {
        let (fetch, payload) = (self.fetch, self.payload);
        match written {
            Ok(news) => {
                let others = news.iter().copied().filter(|other| *other != chunk);
                let all = std::iter::once(chunk).chain(others);
                Ok(all.map(|chunk| Input::ChunkStored { fetch, payload, chunk }).collect())
            }
            Err(upswarm_cache::WriteError::WrongHash { .. }) => {
                Ok(vec![Input::ChunkRejected { fetch, payload, chunk }])
            }
            Err(error) => Err(FetchError::Store(StoreError::Failed(error.to_string()))),
        }
    }
}

fn broke_off(error: tokio::task::JoinError) -> FetchError {
    FetchError::Store(StoreError::Failed(format!("writing broke off: {error}")))
}
