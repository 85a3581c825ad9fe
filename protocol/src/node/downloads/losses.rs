//! What was here and is not any more: chunks that have rotted on disk, payloads that the disk does not take. Neighbours are
//! told, and what is missing comes again; never over the WAN for a payload that is only served.

use super::*;

impl Downloads {
    /// These chunks count as missing. Whoever was told that they are here is told again.
    pub(in crate::node) fn chunks_lost(&mut self, payload: PayloadId, chunks: &[u32], cx: &mut Cx, view: View<'_>) {
        let now = cx.now;
        // Of one that is being opened the store's answer says what is there.
        let Some(swarm) = self.map.get_mut(&payload).and_then(Download::swarm_mut) else { return };
        let lost: Vec<u32> = chunks.iter().copied().filter(|chunk| swarm.lost(*chunk)).collect();
        if lost.is_empty() {
            return;
        }
        self.news.lost(&payload, &lost);
        let settled = now.mono + SETTLE;
        if let Some(download) = self.map.get_mut(&payload) {
            download.heals = true;
            download.since = now.mono;
            download.leases.settle(settled);
        }
        self.refile(&payload, &mut cx.rng);
        self.offered_by_all(&payload, &mut cx.rng);
        self.tell_all_of(payload, cx);
        self.effects.push_back(Effect::Stake(payload));
        self.effects.push_back(Effect::Report);
        cx.timer(Reason::Lease(payload), settled);
        self.ask_neighbours(cx, view);
        self.effects.push_back(Effect::Moved(payload));
    }

    /// The disk does not take this payload. It is opened again after a while, and the store says then what is left of it.
    pub(in crate::node) fn payload_failed(&mut self, payload: PayloadId, reason: StoreError, cx: &mut Cx) {
        let now = cx.now;
        let Some(download) = self.map.get_mut(&payload) else { return };
        if download.swarm().is_none() {
            return;
        }
        let retry = now.mono + Duration::from_secs(60);
        download.phase = Phase::Failed { reason, retry };
        self.cancel_fetches_of(&payload, cx);
        self.drop_claims(&payload, cx);
        self.refile(&payload, &mut cx.rng);
        self.tell_nothing_of(payload, cx);
        self.effects.push_back(Effect::Stake(payload));
        self.effects.push_back(Effect::Report);
        cx.timer(Reason::Lease(payload), retry);
        self.effects.push_back(Effect::Moved(payload));
    }
}
