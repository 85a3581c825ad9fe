//! Which groups a device belongs to, as signed documents, and how each reaches its device and nobody else.
//!
//! One that is here is sent its assignment. One that reaches this coordinator through neighbours gets it, and a certificate, with
//! the acknowledgement of a report, concealed from them. This file never decides who belongs where.

use std::time::Duration;

use super::devices::{CERTIFICATE_LIFE, Device, later};
use super::documents::open_online;
use super::io::{DeviceRecord, Refusal};
use super::{After, CoordinatorState};
use crate::catalog::Assignment;
use crate::codec::Bounded;
use crate::envelope::{self, ASSIGNMENT_CAP, EnvelopeError, Kind, Role};
use crate::ids::{DeviceId, GroupId};
use crate::report::{News, Papers};
use crate::time::{Now, Wall};
use crate::wire::Message;

/// The part of that life after which one that a device cannot come for is made anew: it comes for it at two thirds.
const OLD_AFTER: Duration = Duration::from_secs(70 * 24 * 3600);
/// Peers of a site through which a device is called when nobody knows its neighbours.
const CALLED_THROUGH: usize = 8;

impl CoordinatorState {
    /// Puts a device into these groups and no others. Its new assignment goes to it at once if it is here, else with the
    /// acknowledgement of the report that it is asked for.
    pub(super) fn assign(&mut self, peer: DeviceId, groups: Bounded<GroupId, 64>, now: Now) -> Result<(), Refusal> {
        let record = &self.devices.get(&peer).ok_or(Refusal::UnknownDevice(peer))?.record;
        if self.documents.revoked.contains(&peer) {
            return Err(Refusal::Request("the device is revoked: it belongs to no group any more".to_owned()));
        }
        if record.groups == groups && !self.lacks_ways(record) {
            return Ok(());
        }
        let mut record = record.clone();
        record.assigned = later(now.wall, Some(record.assigned));
        record.assignment = self.sign_assignment(peer, groups.clone(), record.assigned)?;
        record.groups = groups;
        self.remember(record, now);
        self.when_durable(After::Assigned { device: peer });
        Ok(())
    }

    /// Sends a device its assignment, or has it called by a machine of its site that is here.
    pub(super) fn send_assignment(&mut self, device: DeviceId) {
        let Some(known) = self.devices.get(&device) else { return };
        if known.record.assignment.is_empty() {
            return;
        }
        if self.is_here(&device) {
            return self.send(device, &Message::Assignment(known.record.assignment.clone()));
        }
        self.call(device);
    }

    /// Asks a device for a report, whose acknowledgement brings it what there is for it: itself, or through machines of its site.
    pub(super) fn call(&mut self, device: DeviceId) {
        let Some(known) = self.devices.get(&device) else { return };
        if self.is_here(&device) {
            return self.send(device, &Message::Call { device });
        }
        let (bearer, site) = (known.bearer.filter(|bearer| self.is_here(bearer)), known.record.site);
        let through: Vec<DeviceId> = match bearer {
            Some(bearer) => vec![bearer],
            None => self.of_site(site, device).take(CALLED_THROUGH).copied().collect(),
        };
        through.into_iter().for_each(|peer| self.send(peer, &Message::Call { device }));
    }

    /// A device shows which assignment it holds.
    pub(super) fn assignment_shown(&mut self, peer: DeviceId, bytes: &[u8], now: Now) {
        let shown = open_online::<Assignment>(&self.root, bytes, Kind::Assignment).ok();
        let shown = shown.filter(|shown| shown.device == peer);
        let held = shown.as_ref().map(|shown| shown.issued).unwrap_or_default();
        let Some(device) = self.devices.get_mut(&peer) else { return };
        let certificate = device.papers.map(|papers| papers.certificate).unwrap_or_default();
        device.papers = Some(Papers { certificate, assignment: held });
        let assigned = device.record.assigned;
        match shown.filter(|_| held > assigned) {
            // Signed here once, and no longer remembered: the data directory is an old copy, and the later word counts.
            Some(shown) => {
                let record = DeviceRecord {
                    groups: shown.groups,
                    assignment: Bounded::truncated(bytes.to_vec()),
                    assigned: held,
                    ..device.record.clone()
                };
                self.remember(record, now);
            }
            None if held < assigned => self.when_durable(After::Assigned { device: peer }),
            None => {}
        }
    }

    /// What a device should have, and does not have by its own word; and what it is asked for.
    pub(super) fn news_for(&self, device: &Device) -> News {
        let record = &device.record;
        let mut news = News { log: self.log_order(&record.device), ..News::default() };
        let Some(papers) = device.papers.filter(|_| !self.is_here(&record.device)) else { return news };
        if papers.assignment < record.assigned {
            news.assignment = record.assignment.clone();
        }
        if papers.certificate < record.certified {
            news.certificate = record.certificate.clone();
        }
        news
    }

    /// One that reaches this coordinator through its neighbours alone cannot ask for what is about to expire.
    pub(super) fn renew_from_afar(&mut self, device: DeviceId, now: Now) {
        let Some(known) = self.devices.get(&device).filter(|_| !self.is_here(&device)) else { return };
        let signed = known.record.certified.min(known.record.assigned.max(known.record.enrolled));
        // It has the new root, or will have it before it can use this: its neighbours tell it of both.
        let former = known.record.invited && !self.is_of_today(&known.record.certificate);
        if (former || now.wall.since(signed) > OLD_AFTER)
            && let Err(error) = self.sign_anew(device, now)
        {
            self.alarm(format!("cannot renew the certificate of {device}: {error}"));
        }
    }

    /// A new certificate, and a new assignment to the same groups as far as they are known.
    pub(super) fn sign_anew(&mut self, peer: DeviceId, now: Now) -> Result<(), EnvelopeError> {
        let Some(device) = self.devices.get(&peer) else { return Ok(()) };
        let mut record = device.record.clone();
        // Of two certificates the later counts.
        record.certified = later(now.wall, Some(record.certified));
        record.certificate = self.certify(peer, record.role, record.site, record.certified)?;
        if record.assigned > Wall::default() {
            record.assigned = later(now.wall, Some(record.assigned));
            record.assignment = self.sign_assignment(peer, record.groups.clone(), record.assigned)?;
        }
        self.remember(record, now);
        Ok(())
    }

    /// Whether its assignment does not show that it is in the lists that it is in today.
    pub(super) fn lacks_ways(&self, record: &DeviceRecord) -> bool {
        let ways = self.dynamic.ways_of(&record.device, &record.groups);
        let held = || open_online::<Assignment>(&self.root, &record.assignment, Kind::Assignment).ok();
        !ways.is_empty() && held().is_none_or(|held| held.ways != ways)
    }

    pub(super) fn sign_assignment(
        &self,
        device: DeviceId,
        groups: Bounded<GroupId, 64>,
        issued: Wall,
    ) -> Result<Bounded<u8, ASSIGNMENT_CAP>, EnvelopeError> {
        let ways = self.dynamic.ways_of(&device, &groups);
        let assignment = Assignment { device, groups, ways, issued, expires: issued + CERTIFICATE_LIFE };
        envelope::sign(Kind::Assignment, Role::Online, &assignment, &[&self.online]).map(Bounded::truncated)
    }
}
