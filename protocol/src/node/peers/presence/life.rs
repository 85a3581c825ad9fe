//! Who is lost sight of, doubted, or gone; and what this node says when somebody doubts it.

use super::*;

impl Exchange {
    /// The same without its proof: a time that lies ahead would be one that nobody believes.
    pub(super) fn doubted_unproven(&mut self, cx: &mut Cx, issued: Wall) {
        if issued < cx.now.wall + UNPROVEN {
            self.doubted(cx, issued);
        }
    }

    /// Somebody holds a record of this node against it: it makes a later one.
    pub(super) fn doubted(&mut self, cx: &mut Cx, issued: Wall) {
        if issued >= self.issued || self.said.is_none() {
            self.refutes = Some(self.refutes.unwrap_or_default().max(issued));
            self.after(cx, LOST_FOR);
        }
    }

    /// The connection to a member broke.
    pub(in crate::node::peers) fn handle_lost(&mut self, cx: &mut Cx, site: &mut Site<'_>, peer: &DeviceId) {
        self.accounts.remove(peer);
        if let Some(change) = site.members.suspect(cx.now.mono, &MemberKey::from(peer), false) {
            site.effects.push(Effect::Moved(change));
            cx.timer(Reason::Members, cx.now.mono + LOST_FOR);
        }
        cx.timer(Reason::Pull, cx.now.mono);
    }

    pub(in crate::node::peers) fn handle_suspects(
        &mut self,
        cx: &mut Cx,
        site: &mut Site<'_>,
        peer: DeviceId,
        suspects: &[(MemberKey, Wall)],
    ) {
        let (mut others, mut newer) = (Vec::new(), Vec::new());
        for (member, issued) in suspects {
            let account = self.account(peer, cx.now.mono);
            account.suspicions += 1;
            if account.suspicions > MAX_SUSPICIONS {
                break;
            }
            if *member == MemberKey::from(&cx.me) {
                self.doubted_unproven(cx, *issued);
                continue;
            }
            let Some(known) = site.members.mention(member) else { continue };
            if known.issued > *issued {
                newer.push(known);
            } else if let Some(neighbour) = connected_member(site.connected, member) {
                // It is here, and must say so itself.
                site.send(neighbour, Message::Suspects(Bounded::truncated(vec![(*member, *issued)])));
            } else if let Some(change) = site.members.suspect(cx.now.mono, member, true) {
                site.effects.push(Effect::Moved(change));
                others.push((*member, *issued));
            }
        }
        site.mention(peer, newer);
        site.tell_suspects(cx, others, Some(peer));
    }

    /// Members that are not here, or must not be: the neighbours are told of those that are lost, and after a while each is gone.
    pub(in crate::node::peers) fn handle_absent(&mut self, cx: &mut Cx, site: &mut Site<'_>) {
        site.forget_revoked(cx);
        let (mut lost, mut gone, mut next) = (Vec::new(), Vec::new(), None);
        for (member, issued, standing) in site.members.absent() {
            let at = match standing {
                Standing::Suspected { since, told: false } if since + LOST_FOR <= cx.now.mono => {
                    lost.push((member, issued));
                    since + SUSPECT_FOR
                }
                Standing::Suspected { since, told: false } => since + LOST_FOR,
                Standing::Suspected { since, told: true } => since + SUSPECT_FOR,
                Standing::Leaving { since } => since + LEAVING_FOR,
                Standing::Here => continue,
            };
            if at <= cx.now.mono {
                gone.push(member);
            } else {
                next = Some(next.map_or(at, |next: Mono| next.min(at)));
            }
        }
        if let Some(at) = next {
            cx.timer(Reason::Members, at);
        }
        lost.iter().for_each(|(member, _)| site.members.suspicion_told(member));
        site.tell_suspects(cx, lost, None);
        gone.iter().for_each(|member| site.forget_member(cx, member));
    }
}

impl Site<'_> {
    fn tell_suspects(&mut self, cx: &mut Cx, suspects: Vec<(MemberKey, Wall)>, except: Option<DeviceId>) {
        if suspects.is_empty() {
            return;
        }
        cx.timer(Reason::Members, cx.now.mono + SUSPECT_FOR);
        let mut neighbours: Vec<_> = self.neighbours().map(|(device, _)| *device).collect();
        neighbours.retain(|peer| Some(*peer) != except);
        cx.rng.shuffle(&mut neighbours);
        neighbours.truncate(FANOUT);
        for peer in neighbours {
            for part in suspects.chunks(256) {
                self.send(peer, Message::Suspects(Bounded::truncated(part.to_vec())));
            }
        }
    }

    pub(super) fn forget_member(&mut self, cx: &mut Cx, member: &MemberKey) {
        if let Some(change) = self.members.remove(cx.now.mono, member) {
            self.effects.push(Effect::Moved(change));
        }
    }

    /// Members whose certificates are good no longer are forgotten.
    fn forget_revoked(&mut self, cx: &mut Cx) {
        let revoked: Vec<_> = self.trust.catalog().revoked().to_vec();
        for device in revoked {
            self.forget_member(cx, &MemberKey::from(&device));
            self.effects.push(Effect::Drop(device, "its certificate was revoked".into()));
        }
    }
}
