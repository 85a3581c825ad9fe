//! Whom to connect to: neighbours of the site, and for some the coordinator.

use super::*;

impl Peers {
    /// Whether an address is remembered or has room; another that is not in use gives way to it.
    fn has_room_for(&mut self, address: &Text<512>) -> bool {
        if self.addresses.len() < MAX_ADDRESSES || self.addresses.contains_key(address) {
            return true;
        }
        let spare = |a: &Address| !a.permanent && a.dialling.is_none();
        let old = self.addresses.iter().find(|(_, a)| spare(a)).map(|(key, _)| key.clone());
        old.is_some_and(|old| self.addresses.remove(&old).is_some())
    }
}

impl NodeState {
    pub(in crate::node) fn start_peers(&mut self, now: Now) {
        let first = self.cx.rng.jitter(Duration::from_millis(50));
        self.timer(Reason::Dial, now.mono + first);
        // Of many that start together a few ask the coordinator early, and the others hear from them: the later of two draws
        // is rarely small.
        let spread = Duration::from_millis(900);
        let turn = self.cx.rng.jitter(spread).max(self.cx.rng.jitter(spread));
        let patience = Duration::from_millis(if self.cx.config.peers.is_empty() { 50 } else { 1500 });
        self.timer(Reason::Uplink, now.mono + patience + turn);
        let first = presence::COMPARE_FIRST;
        let first = first * 3 / 4 + self.cx.rng.jitter(first / 2);
        self.timer(Reason::Compare, now.mono + first);
        let renewal = self.renewal_due(now);
        self.timer(Reason::Renew, renewal);
    }

    pub(in crate::node) fn listening(&mut self, addresses: Vec<Text<128>>) {
        self.peers.listening = addresses;
        self.presence_changed();
    }

    pub(in crate::node) fn hint(&mut self, address: Text<512>, now: Now) {
        if !self.peers.has_room_for(&address) {
            return;
        }
        self.peers.addresses.entry(address).or_default();
        self.timer(Reason::Dial, now.mono + Duration::from_millis(20));
    }

    /// Whoever was refused because of the clock, or could not be reached before the machine slept, is tried again now.
    pub(in crate::node) fn dial_all_again(&mut self, now: Now) {
        self.peers.addresses.values_mut().for_each(|address| address.next = address.next.min(now.mono));
        self.peers.coordinator_next = self.peers.coordinator_next.min(now.mono);
        self.timer(Reason::Dial, now.mono);
        self.timer(Reason::Uplink, now.mono);
    }

    pub(in crate::node) fn dial_failed(&mut self, address: &Text<512>, reason: Text<200>, now: Now) {
        if self.cx.config.coordinator_addresses.contains(address) && self.peers.coordinator_dialling.is_some() {
            self.peers.coordinator_dialling = None;
            self.peers.coordinator_failures += 1;
            self.peers.coordinator_trouble = reason.clone();
            let wait = backoff(self.peers.coordinator_failures, Duration::from_secs(60));
            self.peers.coordinator_next = now.mono + wait + self.cx.rng.jitter(wait / 2);
            self.timer(Reason::Uplink, self.peers.coordinator_next);
        }
        if let Some(entry) = self.peers.addresses.get_mut(address) {
            entry.dialling = None;
            entry.failures += 1;
            entry.trouble = reason;
            entry.next = now.mono + backoff(entry.failures, Duration::from_secs(60));
            if entry.failures > 8 && !entry.permanent {
                self.peers.addresses.remove(address);
            }
        }
    }

    /// Keeps about [`NEIGHBOURS`] connections to the site: branch caches first, then at random.
    pub(in crate::node) fn dial_neighbours(&mut self, now: Now) {
        self.retime(Reason::Dial, now.mono + Duration::from_secs(2));
        for entry in self.peers.addresses.values_mut() {
            if entry.dialling.is_some_and(|since| now.mono.since(since) > DIAL_WITHIN) {
                (entry.dialling, entry.next) = (None, now.mono + DIAL_WITHIN);
            }
        }
        let uplink = self.uplink_to_dial();
        let mut room = MAX_DIALS.saturating_sub(self.peers.addresses.values().filter(|a| a.dialling.is_some()).count());
        let have = self.peers.members().count();
        let greeting = self.peers.connected.values().filter(|p| p.stage == Stage::Greeting).count();
        let mut lacking = NEIGHBOURS.saturating_sub(have + greeting);
        let mut wanted: Vec<(bool, Text<512>, Option<DeviceId>)> = Vec::new();
        let known: BTreeSet<DeviceId> = self.peers.connected.keys().copied().collect();
        let fits = |device: &DeviceId| {
            let here =
                self.membership.get(device).is_some_and(|member| !matches!(member.standing, Standing::Leaving { .. }));
            here && !known.contains(device) && !self.peers.banned.contains_key(device)
        };
        let caches = self.membership.caches().copied();
        // Where a random key comes to lie among the members, there is a random member; so it is with payloads.
        let somewhere = DeviceId(core::array::from_fn(|_| self.cx.rng.below(256) as u8));
        let holders = self.holders_of_what_is_lacking(PayloadId(somewhere.0));
        let urgent: BTreeSet<_> = caches.chain(uplink).chain(holders).filter(&fits).collect();
        let others = self.membership.iter_from(somewhere).map(|(device, _)| *device);
        let others = others.filter(|device| fits(device) && !urgent.contains(device));
        let others: Vec<_> = others.take(if lacking > 0 { 4 * NEIGHBOURS } else { 0 }).collect();
        for device in urgent.iter().chain(&others) {
            let addresses = self.membership.addresses(device).iter();
            wanted.extend(addresses.map(|address| (urgent.contains(device), Text::lossy(address), Some(*device))));
        }
        // A hint may be the address of somebody who is connected already: a dial would lead to nothing.
        let taken: BTreeSet<&str> =
            known.iter().flat_map(|device| self.membership.addresses(device)).map(|address| address.as_str()).collect();
        let named = self.peers.addresses.iter().filter(|(address, a)| {
            lacking > 0 && { a.device.is_none_or(|d| !known.contains(&d)) && !taken.contains(address.as_str()) }
        });
        wanted.extend(named.map(|(address, entry)| (entry.permanent && have == 0, address.clone(), entry.device)));
        self.cx.rng.shuffle(&mut wanted);
        wanted.sort_by_key(|(urgent, _, _)| !urgent);
        let mut chosen = BTreeSet::new();
        for (urgent, address, device) in wanted {
            if room == 0 || (lacking == 0 && !urgent) {
                break;
            }
            if device.is_some_and(|d| !chosen.insert(d)) || !self.peers.has_room_for(&address) {
                continue;
            }
            let entry = self.peers.addresses.entry(address.clone()).or_default();
            if entry.dialling.is_some() || entry.next > now.mono {
                continue;
            }
            (entry.dialling, entry.device) = (Some(now.mono), device.or(entry.device));
            self.cx.out.push_back(Output::Dial { address });
            (room, lacking) = (room - 1, lacking.saturating_sub(1));
        }
        let urgent =
            self.peers.addresses.values().filter(|a| a.dialling.is_none() && a.next > now.mono).map(|a| a.next).min();
        if let Some(next) = urgent.filter(|_| have == 0) {
            self.timer(Reason::Dial, next);
        }
    }

    /// The site's chosen uplinks, and machines that are alone, keep a connection to the coordinator.
    pub(in crate::node) fn look_after_uplink(&mut self, now: Now) {
        self.retime(Reason::Uplink, now.mono + Duration::from_secs(5));
        let alone = self.peers.members().next().is_none();
        let chosen = self.is_uplink();
        match self.peers.coordinator {
            Some(coordinator) if !alone && !chosen => {
                let held = self.peers.connected.get(&coordinator).map_or(Duration::ZERO, |p| now.mono.since(p.since));
                let others = self.membership.connected_uplinks().next().is_some();
                if held > Duration::from_secs(60) && others && self.reports.nothing_waits() {
                    self.drop_peer(coordinator, "others are the uplink now".into(), now);
                }
            }
            None if alone
                || chosen
                || self.reports.oldest_since().is_some_and(|at| now.mono.since(at) > REPORT_PATIENCE) =>
            {
                self.dial_coordinator(now);
            }
            _ => {}
        }
    }

    /// The uplink that this node should have as a neighbour, when it has none: by hash, so that they share the load.
    pub(super) fn uplink_to_dial(&self) -> Option<DeviceId> {
        if self.peers.coordinator.is_some() || self.uplink_neighbours().next().is_some() {
            return None;
        }
        let resting = |device: &DeviceId| {
            self.peers.addresses.values().any(|a| a.device == Some(*device) && (a.failures > 0 || a.dialling.is_some()))
        };
        let uplinks = self.membership.connected_uplinks().filter(|d| !resting(d)).map(|d| (*d, 1)).collect();
        lease::rank(self.cx.me.as_bytes(), &uplinks).into_iter().next()
    }

    /// Neighbours that say they are connected to the coordinator.
    pub(in crate::node) fn uplink_neighbours(&self) -> impl Iterator<Item = &DeviceId> {
        self.membership.connected_uplinks().filter(|device| self.peers.connected.contains_key(device))
    }

    pub(in crate::node) fn is_uplink(&self) -> bool {
        self.membership.is_uplink(self.wan_weight())
    }

    pub(super) fn dial_coordinator(&mut self, now: Now) {
        let addresses = &self.cx.config.coordinator_addresses;
        let under_way = self.peers.coordinator_dialling.is_some_and(|since| now.mono.since(since) < DIAL_WITHIN);
        if addresses.is_empty() || under_way || self.peers.coordinator_next > now.mono {
            return;
        }
        let address = addresses[self.peers.coordinator_failures as usize % addresses.len()].clone();
        self.peers.coordinator_dialling = Some(now.mono);
        self.cx.out.push_back(Output::Dial { address });
    }
}
