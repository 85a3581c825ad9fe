//! What the coordinator has asked to see of what programs printed here. Owns the way of one log to it: piece by piece, the last one
//! first, repeated until each is acknowledged. Where logs lie is the driver's matter.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use super::{NodeState, Output, Reason};
use crate::codec::Bounded;
use crate::envelope::{Envelope, Kind, Role};
use crate::ids::ReleaseId;
use crate::report::{DeviceMessage, LogOrder, LogReport, MAX_LOG, MAX_LOG_PART};
use crate::time::{Mono, Now, Wall};

/// Pieces that wait for their acknowledgement at one time.
const WINDOW: usize = 8;
/// A piece that is neither waiting nor acknowledged after this was pushed out of the outbox.
const LOST_AFTER: Duration = Duration::from_secs(20);

/// The log that is asked for; one at a time, the last that was.
#[derive(Debug, Default)]
pub(super) struct Logs {
    transfer: Option<Transfer>,
}

#[derive(Debug)]
struct Transfer {
    order: LogOrder,
    found: bool,
    /// Empty while it is being read.
    pieces: Vec<Bounded<u8, MAX_LOG_PART>>,
    waiting: VecDeque<u16>,
    sent: BTreeMap<u64, u16>,
    moved: Mono,
}

/// The end of a text, in pieces.
fn pieces(text: &[u8]) -> Vec<Bounded<u8, MAX_LOG_PART>> {
    let end = &text[text.len().saturating_sub(MAX_LOG)..];
    let pieces: Vec<_> = end.chunks(MAX_LOG_PART).map(|piece| Bounded::truncated(piece.to_vec())).collect();
    if pieces.is_empty() { vec![Bounded::default()] } else { pieces }
}

impl NodeState {
    /// The coordinator asks. The bearer of the news could not have made this up; the privileged installer looks at the order itself.
    pub(super) fn log_ordered(&mut self, bytes: &[u8], now: Now) {
        let Ok(envelope) = Envelope::parse(bytes, Kind::LogOrder, Role::Online) else { return };
        let Ok(verified) = envelope.verify(&self.trust.root().online) else { return };
        let Ok(order) = verified.decode::<LogOrder>() else { return };
        let known = self.logs.transfer.as_ref().is_some_and(|transfer| transfer.order == order);
        if order.device != self.cx.me || known {
            return;
        }
        let (pieces, waiting, sent) = (Vec::new(), VecDeque::new(), BTreeMap::new());
        self.logs.transfer = Some(Transfer { order, found: false, pieces, waiting, sent, moved: now.mono });
        self.cx.out.push_back(Output::ReadLog { release: order.release, ordered: order.issued, order: bytes.to_vec() });
    }

    /// The driver has read it. The error says why there is none.
    pub(super) fn log_read(&mut self, release: ReleaseId, ordered: Wall, result: Result<Vec<u8>, String>, now: Now) {
        let asked = |transfer: &&mut Transfer| (transfer.order.release, transfer.order.issued) == (release, ordered);
        let Some(transfer) = self.logs.transfer.as_mut().filter(asked) else { return };
        if !transfer.pieces.is_empty() {
            return;
        }
        transfer.found = result.is_ok();
        transfer.pieces = pieces(&result.unwrap_or_else(String::into_bytes));
        // At most `MAX_LOG_PARTS`.
        transfer.waiting = (0..transfer.pieces.len() as u16).rev().collect();
        self.report_log(now);
    }

    pub(super) fn log_acknowledged(&mut self, seq: u64, now: Now) {
        let Some(transfer) = &mut self.logs.transfer else { return };
        if transfer.sent.remove(&seq).is_some() {
            transfer.moved = now.mono;
            self.report_log(now);
        }
    }

    /// Sends what comes next.
    pub(super) fn report_log(&mut self, now: Now) {
        let Some(mut transfer) = self.logs.transfer.take() else { return };
        if transfer.pieces.is_empty() {
            // It is being read.
            self.logs.transfer = Some(transfer);
            return;
        }
        if now.mono.since(transfer.moved) >= LOST_AFTER {
            let lost: Vec<u64> = transfer.sent.keys().copied().filter(|seq| !self.reports.is_waiting(*seq)).collect();
            transfer.waiting.extend(lost.into_iter().filter_map(|seq| transfer.sent.remove(&seq)));
            transfer.moved = now.mono;
        }
        if transfer.waiting.is_empty() && transfer.sent.is_empty() {
            // Everything was taken. If it was lost there, the order comes again.
            return self.cx.timers.remove(&Reason::Log);
        }
        let mut any = false;
        while transfer.sent.len() < WINDOW
            && let Some(part) = transfer.waiting.pop_front()
        {
            let seq = self.next_report(now);
            transfer.sent.insert(seq, part);
            let report = LogReport {
                device: self.cx.me,
                seq,
                issued: now.wall,
                release: transfer.order.release,
                ordered: transfer.order.issued,
                part,
                parts: transfer.pieces.len() as u16,
                found: transfer.found,
                text: transfer.pieces[usize::from(part)].clone(),
            };
            self.encrypt_report(DeviceMessage::Log(Box::new(report)));
            any = true;
        }
        self.logs.transfer = Some(transfer);
        if any {
            self.persist_counters();
        }
        self.timer(Reason::Log, now.mono + LOST_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::MAX_LOG_PARTS;

    #[test]
    fn of_a_long_log_the_end_goes_in_pieces_that_fit() {
        assert_eq!(pieces(b""), [Bounded::default()]);
        assert_eq!(pieces(b"E: no"), [Bounded::truncated(b"E: no".to_vec())]);
        let mut long = vec![b'a'; MAX_LOG + 9];
        long.extend(b"the end");
        let pieces = pieces(&long);
        assert_eq!(pieces.len(), usize::from(MAX_LOG_PARTS));
        let whole: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
        assert!(whole.len() == MAX_LOG && whole.ends_with(b"the end"));
    }
}
