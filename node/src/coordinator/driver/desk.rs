//! How the driver decides: a use-case at a desk, its command to the core, and what the log of decisions says of it. Owns that every
//! decision of a person has its entry, which is durable no later than what it speaks of.

use std::sync::Arc;

use upswarm_protocol::coordinator::{AlarmKind, Command, Done, Input, Refusal};

use super::Driver;
use crate::api::actor::Actor;
use crate::api::approvals::Accepted;
use crate::api::audit::{Deed, Topic};
use crate::api::groups::NewGroup;
use crate::api::invites::{InviteRequest, Invited};
use crate::coordinator::admin::groups::Made;
use crate::coordinator::admin::{self, Decision, Desk};
use crate::coordinator::audit_log;
use crate::coordinator::backup::restore::Note;
use crate::coordinator::directory::Change;
use crate::coordinator::requests::Reply;
use crate::coordinator::store::Write;
use crate::coordinator::store::names::Names;
use crate::coordinator::store::rules::Rules;
use crate::coordinator::store::view::View;

impl Driver {
    /// Runs a use-case that decides. Names that it adds are kept.
    pub(super) fn at_desk<T>(&mut self, use_case: impl FnOnce(&mut Desk<'_>) -> T) -> T {
        let (live, fleet) = (self.live(), self.store.snapshot());
        let mut names = (*self.names).clone();
        let view = View::new(&live, &fleet);
        let result = use_case(&mut Desk { state: &self.state, view: &view, names: &mut names });
        if *self.names != names {
            self.set_names(names);
        }
        result
    }

    /// Gives the core a decision's command; the answer follows when the core has agreed.
    pub(super) fn decide<T: Send + 'static>(
        &mut self,
        actor: &Actor,
        decision: Result<Decision<T>, Refusal>,
        reply: Reply<T>,
    ) {
        match decision {
            Err(refusal) => drop(reply.send(Err(refusal))),
            Ok(Decision { command, deed, answer }) => {
                self.command(command, Some((actor, &deed)), move |result| drop(reply.send(result.map(answer))));
            }
        }
    }

    /// Has the log say what was decided outside of the core; what follows waits until all of it is durable.
    pub(super) fn note(&mut self, actor: &Actor, deed: &Deed, then: impl FnOnce(Result<(), Refusal>) + Send + 'static) {
        self.command(Command::Note, Some((actor, deed)), move |result| then(result.map(|_| ())));
    }

    /// A new log says where it begins; one that is not what was written, what is wrong with it.
    pub(super) fn begin_log(&mut self, trouble: Option<String>, restored: Option<&Note>) {
        if let Some(note) = restored {
            self.deeds.push_back(Deed::new(Topic::Backup, note.words()));
            self.alarm_of(AlarmKind::Restored, note.words());
            self.changes.push(Write::File(Change::Remove(self.directory.restored())));
        }
        if let Some(trouble) = trouble {
            self.deeds.push_back(Deed::new(Topic::Log, trouble.clone()));
            self.alarm_of(AlarmKind::Audit, trouble);
        } else if self.state.audit().head.is_none() {
            let root = self.state.root_hash();
            let what = format!("the log of this coordinator begins; its newest root of trust is {root}");
            self.deeds.push_back(Deed::new(Topic::Log, what));
        }
    }

    /// The next thing that the coordinator has done by itself, as an input for the core.
    pub(super) fn next_deed(&mut self) -> Option<Input> {
        let deed = self.deeds.pop_front()?;
        self.next_request += 1;
        let entry = audit_log::entry(self.clock.now().wall, &Actor::itself(), &deed);
        Some(Input::Admin { request: self.next_request, command: Command::Note, entry: Some(entry) })
    }

    pub(super) fn command(
        &mut self,
        command: Command,
        deed: Option<(&Actor, &Deed)>,
        then: impl FnOnce(Result<Done, Refusal>) + Send + 'static,
    ) {
        let now = self.clock.now();
        let entry = deed.map(|(actor, deed)| audit_log::entry(now.wall, actor, deed));
        self.next_request += 1;
        self.rollouts.changed = true;
        self.answers.insert(self.next_request, Box::new(then));
        self.state.handle_input(Input::Admin { request: self.next_request, command, entry }, now);
    }

    pub(super) fn invite(&mut self, actor: &Actor, request: &InviteRequest, reply: Reply<Invited>) {
        let known = self.addresses.borrow().clone();
        let addresses = if request.addresses.is_empty() { &known } else { &request.addresses };
        let identity = (self.device, self.state.root_hash());
        let mut names = (*self.names).clone();
        // A machine that cannot be told of an origin still has the addresses.
        let origins = self.directory.origins().unwrap_or_default();
        match admin::invite::invite(&mut names, request, addresses, origins, identity, self.clock.now().wall) {
            Err(refusal) => drop(reply.send(Err(refusal))),
            Ok((invite, invited)) => {
                tracing::info!(%actor, group = request.group, site = request.site, uses = request.uses, "machines are invited");
                // Before the core's record of the invitation, which the answer waits for.
                self.set_names(names);
                let deed = admin::invite::deed(&invite, request);
                let then = move |result: Result<Done, Refusal>| drop(reply.send(result.map(|_| invited)));
                self.command(Command::Invite(invite), Some((actor, &deed)), then);
            }
        }
    }

    pub(super) fn add_group(&mut self, actor: &Actor, request: &NewGroup, reply: Reply<crate::api::groups::GroupMade>) {
        match self.at_desk(|desk| admin::groups::add(actor, desk, request)) {
            Err(refusal) => drop(reply.send(Err(refusal))),
            Ok(Made::Shown(made)) => drop(reply.send(Ok(made))),
            Ok(Made::Named(made)) => {
                // An old name is written again, so that the answer has something to wait for.
                self.changes.push(Write::File(Change::Put(self.directory.names(), self.names.to_bytes())));
                match admin::groups::made_deed(&made) {
                    Some(deed) => self.note(actor, &deed, move |noted| drop(reply.send(noted.map(|()| made)))),
                    None => self.saved.push(Box::new(move || drop(reply.send(Ok(made))))),
                }
            }
        }
    }

    pub(super) fn set_names(&mut self, names: Names) {
        let before = std::mem::replace(&mut self.names, Arc::new(names));
        let (old, new) = (before.retired(), self.names.retired());
        let gone = new.keys().filter(|device| !old.contains_key(device)).map(|device| Write::Counted(*device, false));
        let back = old.keys().filter(|device| !new.contains_key(device));
        let back = back.map(|device| Write::Counted(*device, !self.state.revoked().contains(device)));
        self.changes.extend(gone.chain(back));
        self.changes.push(Write::File(Change::Put(self.directory.names(), self.names.to_bytes())));
        self.project_catalog();
    }

    pub(super) fn accepted(&self) -> Accepted {
        Accepted { index_version: self.state.index_version() }
    }

    /// Writes what has changed of the rules, and then answers.
    pub(super) fn save_rules<T: Send + 'static>(
        &mut self,
        actor: &Actor,
        change: Result<(Rules, Deed, T), Refusal>,
        reply: Reply<T>,
    ) {
        let (rules, deed, answer) = match change {
            Err(refusal) => return drop(reply.send(Err(refusal))),
            Ok(change) => change,
        };
        let before = std::mem::replace(&mut self.rules, Arc::new(rules));
        if before.document() != self.rules.document() {
            self.changes.push(Write::File(Change::Put(self.directory.rules(), self.rules.document().to_vec())));
        }
        if before.repositories() != self.rules.repositories() {
            let bytes = self.rules.repositories().to_bytes();
            self.changes.push(Write::File(Change::Put(self.directory.repository_rules(), bytes)));
        }
        self.note(actor, &deed, move |noted| drop(reply.send(noted.map(|()| answer))));
    }
}
