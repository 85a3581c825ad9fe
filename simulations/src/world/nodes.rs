//! The driver of a node: hands inputs in, does what comes out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use upswarm_protocol::catalog::Action;
use upswarm_protocol::codec::Text;
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::ids::ReleaseId;
use upswarm_protocol::node::{
    Detection, Input, InstallOutcome, NodeConfig, NodeState, NodeStatus, Output, Record, Verdict,
};
use upswarm_protocol::report::receipt;
use upswarm_protocol::time::{Mono, Now};
use upswarm_protocol::wire::BlockWhat;

use super::connections::address;
use super::{Discovery, FLOOD, GROUP, Happening, Harm, STORM, Standing, World};
use crate::admin::START;

/// Microseconds until the transport gives up a connection whose other end is gone: a ping every 15 s, answered within 20 s.
const PING_FAILS: u64 = 35_000_000;

impl World {
    fn clock_of(&self, node: usize) -> Now {
        let right = self.clock();
        Now { mono: right.mono, wall: right.wall + self.machines[node].skew - self.params.skew }
    }

    /// Members of its site that a running machine knows to be here, itself included.
    pub fn members(&self, node: usize) -> usize {
        self.machines[node].state.as_ref().map_or(0, |state| state.members())
    }

    /// What a running machine says about itself.
    pub fn status(&self, node: usize) -> Option<NodeStatus> {
        self.machines[node].state.as_ref().map(|state| state.status(Mono(self.now)))
    }

    pub(super) fn started(&mut self, node: usize) {
        if self.machines[node].is_up() {
            return;
        }
        let hub = self.hub_number();
        let peers = match self.params.discovery {
            Discovery::Named(count) => {
                (0..count).filter(|other| *other != node).map(|other| Text::lossy(&address(other))).collect()
            }
            _ => Vec::new(),
        };
        let machine = &self.machines[node];
        let config = NodeConfig {
            key: machine.key.clone(),
            seed: self.params.seed ^ (node as u64) << 32 ^ u64::from(machine.life) << 20,
            label: Text::lossy(&format!("machine {node}")),
            agent: Text::lossy("sim"),
            os: Text::lossy("sim"),
            build_time: START - std::time::Duration::from_secs(86_400),
            coordinator: self.hub.device,
            coordinator_addresses: vec![Text::lossy(&address(hub))],
            peers,
            origins: vec!["http://origin".to_owned()],
            wan_weight: machine.weight,
            machine: Default::default(),
            upload_slots: 16,
            ask_first: Duration::from_secs(10),
            zone: jiff::tz::TimeZone::UTC,
            boot: Text::default(),
        };
        let now = self.clock_of(node);
        let state = match NodeState::new(config, machine.disk.restored(), now) {
            Ok(state) => state,
            Err(error) => self.broken(node, &format!("cannot start: {error}")),
        };
        let machine = &mut self.machines[node];
        machine.life += 1;
        machine.started.insert(self.now);
        machine.state = Some(Box::new(state));
        machine.wake = u64::MAX;
        (machine.up_free, machine.down_free, machine.flushing) = (0, 0, false);
        let (place, life) = (machine.place, machine.life);
        self.hostile_started(node);
        self.drain(node);
        self.input(node, Input::Listening { addresses: vec![Text::lossy(&address(node))] });
        self.scan(node);
        if self.params.discovery == Discovery::Mdns {
            for other in self.site(place) {
                let neighbour = &self.machines[other];
                if other == node || !neighbour.is_up() {
                    continue;
                }
                let other_life = neighbour.life;
                for (to, life, of) in [(node, life, other), (other, other_life, node)] {
                    let after = 20_000 + self.rng.u64(..100_000);
                    self.push(after, Happening::Hint { node: to, life, of });
                }
            }
        }
    }

    /// Ends a process at once. With `power_cut`, what was not yet durable is lost.
    pub fn kill(&mut self, node: usize, power_cut: bool) {
        self.end(node, power_cut, 50_000);
    }

    /// Takes a machine off the network: nothing tells its neighbours but that it does not answer their transport's pings.
    pub fn unplug(&mut self, node: usize) {
        self.end(node, true, PING_FAILS);
    }

    fn end(&mut self, node: usize, power_cut: bool, noticed_after: u64) {
        if self.machines[node].state.take().is_none() {
            return;
        }
        self.stop_wan(self.machines[node].place, |flow| flow.node == node);
        let machine = &mut self.machines[node];
        machine.fetches.clear();
        machine.serves.clear();
        if power_cut {
            machine.disk.power_cut();
        }
        let peers: Vec<_> = machine.connections.keys().copied().collect();
        for peer in peers {
            self.hang_up_after(node, peer, noticed_after);
            // Nothing that is on its way from here or to here arrives.
            self.machines[node].connections.remove(&peer);
        }
    }

    /// Ends a process as its user would.
    pub fn shut_down(&mut self, node: usize) {
        self.input(node, Input::Shutdown);
        self.run_for(std::time::Duration::from_millis(50));
        self.kill(node, false);
    }

    pub(super) fn woken(&mut self, node: usize) {
        // An earlier time-out has taken the place of the others that were asked for.
        if self.machines[node].wake != self.now {
            return;
        }
        self.machines[node].wake = u64::MAX;
        let now = self.clock_of(node);
        let Some(state) = &mut self.machines[node].state else { return };
        let Some((_, reason)) = state.poll_timeout().filter(|(at, _)| at.0 <= now.mono.0) else {
            return self.drain(node);
        };
        state.handle_timeout(now);
        self.counts.timeouts += 1;
        let instant = &mut self.machines[node].instant;
        *instant = if instant.0 == self.now { (self.now, instant.1 + 1) } else { (self.now, 1) };
        if instant.1 > STORM {
            self.broken(node, &format!("asks for time-outs without end, the last for {reason:?}"));
        }
        self.note([node as u64, 1, 0]);
        self.drain(node);
    }

    pub(super) fn input(&mut self, node: usize, input: Input) {
        let now = self.clock_of(node);
        let Some(state) = &mut self.machines[node].state else { return };
        let tag = match &input {
            Input::ChunkStored { chunk, .. } => 1000 + u64::from(*chunk),
            Input::Frame { bytes, .. } => 2 << 32 | bytes.len() as u64,
            Input::Gossip { id, .. } => 3 << 32 | id,
            Input::PeerUp { .. } => 4,
            Input::PeerDown { .. } => 5,
            Input::FetchEnded { fetch, .. } => 6 << 32 | u64::from(*fetch),
            _ => 7,
        };
        state.handle_input(input, now);
        self.counts.inputs += 1;
        self.note([node as u64, 2, tag]);
        self.drain(node);
    }

    fn drain(&mut self, node: usize) {
        let Some(mut state) = self.machines[node].state.take() else { return };
        let mut count = 0;
        while let Some(output) = state.poll_output() {
            count += 1;
            if count > FLOOD {
                self.broken(node, "floods its driver");
            }
            self.output(node, &state, output);
        }
        self.counts.most_outputs = self.counts.most_outputs.max(count);
        self.note([node as u64, 3, count as u64]);
        let due = state.poll_timeout();
        let machine = &mut self.machines[node];
        for (release, state, sub_state) in state.standings() {
            let known = machine.stands.get(&release);
            if known.is_none_or(|known| (known.state, known.sub_state) != (state, sub_state)) {
                machine.stands.insert(release, Standing { state, sub_state, since: self.now });
            }
        }
        machine.state = Some(state);
        if let Some((at, _)) = due {
            let at = at.0.max(self.now);
            if at < machine.wake {
                machine.wake = at;
                let life = machine.life;
                self.push(at - self.now, Happening::Wake { node, life });
            }
        }
    }

    fn output(&mut self, node: usize, state: &NodeState, output: Output) {
        let life = self.machines[node].life;
        let local = |input: Input| Happening::Local { node, life, input: Box::new(input) };
        let Some(output) = self.twist(node, output) else { return };
        match output {
            Output::Dial { address } => self.dial(node, address),
            Output::Disconnect { peer, .. } => {
                let peer = self.by_device.get(&peer).copied().unwrap_or(self.hub_number());
                self.hang_up(node, peer);
            }
            Output::Send { peer, frame } => {
                let peer = self.by_device.get(&peer).copied().unwrap_or(self.hub_number());
                self.send(node, peer, frame);
            }
            Output::Subscribe(_) => {}
            Output::Publish { topic, bytes } => self.publish_gossip(node, topic, bytes),
            Output::GossipVerdict { id, verdict, .. } => {
                if verdict == Verdict::Accept {
                    self.spread(node, id);
                }
            }
            Output::Serve { serve, what } => self.serve(node, serve, what),
            Output::Deny { serve, status } => self.deny(node, serve, status),
            Output::Fetch { fetch, from, payload, first, count } => {
                self.fetch(node, fetch, from, BlockWhat::Chunks { payload, first, count }, false);
            }
            Output::FetchDoc { fetch, from, what, .. } => self.fetch(node, fetch, from, what, true),
            Output::Cancel { fetch } => self.cancel(node, fetch),
            Output::Open { payload, list, .. } => {
                let result = Ok(self.machines[node].disk.open(payload, &list));
                self.push(3_000, local(Input::Opened { payload, result }));
            }
            Output::Unpin { .. } => {}
            Output::StoreDoc { hash, bytes } => {
                self.machines[node].disk.documents.insert(hash, bytes);
                let life = self.machines[node].life;
                let input = Box::new(Input::DocStored { hash, kept: true });
                self.push(500, Happening::Local { node, life, input });
            }
            Output::DropDoc { hash } => drop(self.machines[node].disk.documents.remove(&hash)),
            Output::Detect { release } => {
                let result = match self.releases.get(&release) {
                    Some(found) => {
                        let counter = self.machines[node].disk.installed.get(&found.release.product);
                        let there = counter.is_some_and(|counter| *counter >= found.release.counter);
                        if there { Detection::Present } else { Detection::Absent }
                    }
                    None => self.broken(node, "looks for a release that was never published"),
                };
                self.push(5_000, local(Input::Detected { release, result }));
            }
            Output::Install { release, action } => {
                self.check_install(node, state, release, action);
                self.push(self.params.recipe.as_micros() as u64, Happening::Installed { node, life, release, action });
            }
            // Installs of simulated machines want no restart.
            Output::Notice { .. } | Output::Restart { .. } => {}
            Output::ReadLog { release, ordered, .. } => {
                let result = Ok(format!("printed by {release}").into_bytes());
                self.push(5_000, local(Input::LogRead { release, ordered, result }));
            }
            Output::Encrypt { message, .. } => {
                self.counts.reports += 1;
                let seq = message.seq();
                let key = &self.machines[node].key;
                match envelope::sign(Kind::Report, Role::Device, &message, &[key]) {
                    Ok(bytes) => {
                        let receipt = receipt(&bytes);
                        self.push(200, local(Input::Encrypted { seq, bytes, receipt }));
                    }
                    Err(error) => self.broken(node, &format!("made a report that cannot be signed: {error}")),
                }
            }
            Output::Persist { token, record } => {
                if let Record::Trust(bytes) = &record
                    && bytes.is_empty()
                {
                    self.broken(node, "persists no trust");
                }
                self.push(2_000, Happening::Written { node, life, token, record });
            }
            Output::Alarm(text) => self.alarm(node, text),
        }
    }

    fn check_install(&mut self, node: usize, state: &NodeState, release: ReleaseId, action: Action) {
        self.counts.installs += 1;
        self.machines[node].begun.entry(release).or_insert(self.now);
        let now = self.clock_of(node);
        if !self.approved.contains(&(release, action)) {
            self.broken(node, "runs a recipe that nobody approved");
        }
        if let Err(blocked) = state.trust().may_install(&release, &GROUP, now.wall) {
            self.broken(node, &format!("runs a recipe although {blocked}"));
        }
        let Some(found) = self.releases.get(&release) else { self.broken(node, "runs an unknown recipe") };
        let complete =
            |payload| self.machines[node].disk.payloads.get(payload).is_some_and(|stored| stored.have.is_full());
        if action == Action::Install && !found.release.payloads.iter().all(|payload| complete(&payload.id)) {
            self.broken(node, "installs without the whole payload");
        }
    }

    pub(super) fn installed(&mut self, node: usize, release: ReleaseId, action: Action) {
        match self.harms.get(&release).and_then(|harms| harms.get(&node)) {
            Some(Harm::Fails) => {
                let outcome =
                    InstallOutcome::Failed { code: Some(1), reason: "this model is not supported".to_owned() };
                return self.input(node, Input::InstallEnded { release, action, outcome });
            }
            Some(Harm::Silences) => return self.kill(node, true),
            None => {}
        }
        let Some(found) = self.releases.get(&release) else { return };
        let product = found.release.product.clone();
        let counter = found.release.counter;
        let machine = &mut self.machines[node];
        match action {
            Action::Install => drop(machine.disk.installed.insert(product, counter)),
            Action::Uninstall => drop(machine.disk.installed.remove(&product)),
            Action::None => {}
        }
        machine.done.insert(release, self.now);
        let outcome = InstallOutcome::Done { restart: false, code: Some(0) };
        self.input(node, Input::InstallEnded { release, action, outcome });
    }

    /// Whether every one of these machines has done what was approved.
    pub fn all_done(&self, release: ReleaseId, nodes: impl IntoIterator<Item = usize>) -> bool {
        nodes.into_iter().all(|node| self.machines[node].done.contains_key(&release))
    }

    /// Installed releases of a machine, for comparisons.
    pub fn installed_on(&self, node: usize) -> &BTreeMap<Text<128>, u64> {
        &self.machines[node].disk.installed
    }

    /// Documents on a machine's disk.
    pub fn documents_on(&self, node: usize) -> impl Iterator<Item = &Arc<Vec<u8>>> {
        self.machines[node].disk.documents.values()
    }
}
