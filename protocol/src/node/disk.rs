//! What this machine's disk does: what was read again of the payloads and what of it had rotted, and whether there is room
//! for the node's own records. Counts and tells; what is missing is the downloads' business.

use serde::Serialize;

use super::explain::Sentence;
use super::{NodeState, StoreError};
use crate::codec::Text;
use crate::ids::PayloadId;
use crate::report::Trouble;
use crate::time::{Now, Wall};
use crate::units::size;

/// How the disk keeps what is written, in this run of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DiskStatus {
    /// Bytes of payloads that were read from disk and hashed again in the background.
    pub scrubbed: u64,
    /// When everything had been read once more.
    pub round_ended: Option<Wall>,
    /// Chunks that had rotted. They come again from the site.
    pub rotten: u64,
    /// Why nothing can be written down, while that is so.
    pub trouble: Option<Text<200>>,
}

impl NodeState {
    pub(super) fn chunks_rotten(&mut self, payload: PayloadId, chunks: &[u32]) {
        self.disk.rotten += chunks.len() as u64;
        let text = format!("{} chunks of payload {} have rotted on disk", chunks.len(), payload.short());
        self.alarm(Trouble::Disk, text);
        let view = downloads_view!(self);
        self.downloads.chunks_lost(payload, chunks, &mut self.cx, view);
    }

    pub(super) fn disk_failed(&mut self, payload: PayloadId, reason: StoreError) {
        let text = match &reason {
            StoreError::NoSpace(text) | StoreError::Failed(text) => text,
        };
        self.alarm(Trouble::Disk, format!("the disk does not take payload {}: {text}", payload.short()));
        self.downloads.payload_failed(payload, reason, &mut self.cx);
    }

    pub(super) fn scrubbed(&mut self, bytes: u64, round_ended: bool, now: Now) {
        self.disk.scrubbed += bytes;
        if round_ended {
            self.disk.round_ended = Some(now.wall);
        }
    }

    pub(super) fn disk_trouble(&mut self, trouble: Option<Text<200>>) {
        if let Some(text) = &trouble {
            self.alarm(Trouble::Disk, text.to_string());
        }
        self.disk.trouble = trouble;
    }

    pub(super) fn explain_disk(&self) -> Vec<Sentence> {
        let mut sentences = Vec::new();
        if let Some(text) = &self.disk.trouble {
            sentences.push(Sentence::new(
                format!("Nothing begins here before there is room on the disk: {text}."),
                "what this node decides must survive a power cut before it acts; it goes on by itself",
            ));
        }
        if self.disk.scrubbed > 0 {
            let rotten = match self.disk.rotten {
                0 => "nothing had rotted".to_owned(),
                count => format!("{count} chunks had rotted and come again from the site"),
            };
            let round = match self.disk.round_ended {
                Some(at) => format!("the last round ended {at}"),
                None => "the first round of this run is under way".to_owned(),
            };
            sentences.push(Sentence::new(
                format!("{} of stored payloads were read again and hashed: {rotten}.", size(self.disk.scrubbed)),
                format!("in this run of the node, at the rate that [store] scrub of node.toml names; {round}"),
            ));
        }
        sentences
    }
}
