//! What neighbours mention of members, and the records that are asked for, given and taken in.

use super::*;

impl Site<'_> {
    fn ask_records(&mut self, cx: &mut Cx, peer: DeviceId, members: Vec<MemberKey>) {
        if !members.is_empty() {
            cx.timer(Reason::Pull, cx.now.mono + PULL_WITHIN);
        }
        for part in members.chunks(wire::MAX_IDS) {
            self.send(peer, Message::Ask(Bounded::truncated(part.to_vec())));
        }
    }
}

impl Exchange {
    pub(in crate::node::peers) fn handle_known(
        &mut self,
        cx: &mut Cx,
        site: &mut Site<'_>,
        peer: DeviceId,
        mentions: &[Mention],
    ) {
        let mut ask: BTreeMap<DeviceId, Vec<MemberKey>> = BTreeMap::new();
        let mut newer = Vec::new();
        for mention in mentions {
            if let Some(from) = self.member_mentioned(cx, site, peer, mention, &mut newer) {
                ask.entry(from).or_default().push(mention.member);
            }
        }
        ask.into_iter().for_each(|(from, members)| site.ask_records(cx, from, members));
        site.mention(peer, newer);
    }

    /// A neighbour mentions a member. Returns of whom its record is to be asked, if it is.
    fn member_mentioned(
        &mut self,
        cx: &mut Cx,
        site: &mut Site<'_>,
        peer: DeviceId,
        mention: &Mention,
        newer: &mut Vec<Mention>,
    ) -> Option<DeviceId> {
        let key = mention.member;
        let known = site.members.mention(&key);
        if key == MemberKey::from(&cx.me) {
            if mention.issued > self.issued {
                self.doubted_unproven(cx, mention.issued);
            } else if mention.issued < self.issued && !self.news.contains_key(&key) {
                newer.extend(known);
            }
            return None;
        }
        let is_known = known.is_some_and(|known| known.says_what(mention));
        if is_known && let Some(told) = self.news.get_mut(&key) {
            told.insert(peer);
        }
        if let Some(known) = known.filter(|known| known.issued >= mention.issued) {
            if known.issued > mention.issued && !self.news.contains_key(&key) {
                newer.push(known);
            }
            // Of two that nobody has signed one stands everywhere.
            if known.issued > mention.issued || known.has_record || (!is_known && known > *mention) {
                return None;
            }
        }
        if let Some(issued) = site.members.gone_since(cx.now.mono, &key, mention.issued) {
            site.send(peer, Message::Suspects(Bounded::truncated(vec![(key, issued)])));
            return None;
        }
        if let Some(pull) = self.pulls.get_mut(&key).filter(|pull| pull.mention.issued >= mention.issued) {
            let source = mention.has_record && pull.from != peer && !pull.others.contains(&peer);
            if source && pull.others.len() < MAX_SOURCES {
                pull.others.push(peer);
            }
            return None;
        }
        if self.useless.contains(mention) || !membership::plausible(mention.issued, cx.now.wall) {
            return None;
        }
        let neighbour = connected_member(site.connected, &key);
        let source = if mention.has_record { Some(peer) } else { neighbour };
        let wanted = neighbour.is_some() || site.members.wants(mention, self.pulls.len());
        if let Some(from) = source.filter(|_| wanted) {
            if self.pulls.len() >= MAX_MEMBERS {
                return None;
            }
            self.pulls.insert(key, Pull { mention: *mention, from, since: cx.now.mono, others: Vec::new() });
            return Some(from);
        }
        // What a member has to say, or had, is not believed unseen.
        if is_known || mention.speaks || known.is_some_and(|known| known.has_record && known.speaks) {
            return None;
        }
        if let Some(change) = site.members.noted(cx.now.mono, *mention) {
            self.member_is_news(cx, site, key, Some(peer), change);
        }
        None
    }

    /// Something has changed with a member: the neighbours are to hear of it.
    fn member_is_news(
        &mut self,
        cx: &mut Cx,
        site: &mut Site<'_>,
        member: MemberKey,
        from: Option<DeviceId>,
        change: Change,
    ) {
        let urgent = !change.payloads.is_empty() || change.left;
        self.is_news(cx, site, member, from, urgent);
        if change.left {
            cx.timer(Reason::Members, cx.now.mono + LEAVING_FOR);
        }
        site.effects.push(Effect::Moved(change));
        cx.timer(Reason::Dial, cx.now.mono + Duration::from_millis(20));
        if site.may_be_uplink {
            // Whose part it is to be the uplink can be told as soon as the site is known.
            let soon = KNOWN_AFTER + cx.rng.jitter(KNOWN_AFTER / 2);
            cx.timer(Reason::Uplink, cx.now.mono + soon);
        }
    }

    /// Records that did not come are asked of the next that has named them.
    pub(in crate::node::peers) fn handle_pull(&mut self, cx: &mut Cx, site: &mut Site<'_>) {
        let mut ask: BTreeMap<DeviceId, Vec<MemberKey>> = BTreeMap::new();
        let mut next: Option<Mono> = None;
        let connected = site.connected;
        self.pulls.retain(|key, pull| {
            if connected.contains_key(&pull.from) && cx.now.mono < pull.since + PULL_WITHIN {
                next = Some(next.map_or(pull.since, |next| next.min(pull.since)));
                return true;
            }
            pull.others.retain(|other| connected.contains_key(other));
            let Some(other) = pull.others.pop() else { return false };
            (pull.from, pull.since) = (other, cx.now.mono);
            ask.entry(other).or_default().push(*key);
            true
        });
        if let Some(since) = next {
            cx.timer(Reason::Pull, since + PULL_WITHIN);
        }
        ask.into_iter().for_each(|(peer, members)| site.ask_records(cx, peer, members));
    }

    pub(in crate::node::peers) fn handle_ask(
        &mut self,
        cx: &mut Cx,
        site: &mut Site<'_>,
        peer: DeviceId,
        members: &[MemberKey],
    ) {
        let account = self.account(peer, cx.now.mono);
        let room = MAX_GIVEN.saturating_sub(account.records).min(members.len());
        account.records += room;
        let records: Vec<_> = members[..room].iter().filter_map(|key| site.members.record(key)).collect();
        let mut frames = Vec::new();
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let (packed, count) = wire::Records::pack(rest.iter().copied());
            frames.push(packed);
            rest = &rest[count..];
        }
        for packed in frames {
            site.send(peer, Message::Members(packed));
        }
    }

    /// Records from a neighbour.
    pub(in crate::node::peers) fn handle_records(
        &mut self,
        cx: &mut Cx,
        site: &mut Site<'_>,
        peer: DeviceId,
        records: &[Vec<u8>],
    ) {
        for bytes in records {
            if !self.record_heard(cx, site, peer, bytes) {
                return site
                    .effects
                    .push(Effect::Ban(peer, "it passed on a presence record that does not verify".into()));
            }
        }
    }

    /// Takes in a record. Returns `false` for one that no honest neighbour passes on.
    fn record_heard(&mut self, cx: &mut Cx, site: &mut Site<'_>, peer: DeviceId, bytes: &[u8]) -> bool {
        let Ok((signer, presence)) = open_presence(bytes) else { return false };
        if signer == cx.me {
            self.doubted(cx, presence.issued);
            return true;
        }
        let key = MemberKey::from(&signer);
        let asked = self.pulls.remove(&key).map(|pull| pull.mention);
        if !membership::plausible(presence.issued, cx.now.wall) || site.trust.catalog().is_revoked(&signer) {
            asked.into_iter().for_each(|mention| self.is_useless(mention));
            return true;
        }
        // A certificate that is known byte for byte was verified when it came.
        let hash = DocHash::of(&presence.certificate);
        let certificate = match site.members.get(&signer).filter(|member| member.certificate_hash == hash) {
            Some(member) => member.certificate.clone(),
            None => match site.trust.check_certificate(&presence.certificate, cx.now.wall) {
                Ok(certificate) if certificate.device == signer => certificate,
                Ok(_) => return false,
                // Of another root, or out of date by this clock: no fault of the neighbour's.
                Err(_) => {
                    asked.into_iter().for_each(|mention| self.is_useless(mention));
                    return true;
                }
            },
        };
        match site.members.heard(cx.now.mono, (certificate, hash), presence, bytes.to_vec()) {
            Heard::Useless => asked.into_iter().for_each(|mention| self.is_useless(mention)),
            // It was asked for because something later was mentioned, which does not come.
            Heard::Older(known) => match asked.filter(|asked| asked.issued > known.issued) {
                Some(asked) => self.is_useless(asked),
                None => site.mention(peer, vec![known]),
            },
            Heard::Gone(issued) => site.send(peer, Message::Suspects(Bounded::truncated(vec![(key, issued)]))),
            Heard::News(change) => self.member_is_news(cx, site, key, Some(peer), change),
        }
        true
    }
}

/// Opens a record that a device signed with its own key; whose key that is, the certificate inside must tell.
fn open_presence(bytes: &[u8]) -> Result<(DeviceId, Presence), EnvelopeError> {
    let envelope = Envelope::parse(bytes, Kind::Presence, Role::Device)?;
    let signer: PublicKey =
        envelope.claimed_signers().next().ok_or(EnvelopeError::Threshold { valid: 0, threshold: 1 })?;
    Ok((DeviceId(signer.0), envelope.verify_one(&[signer])?.decode()?))
}
