//! What members want, by name and by regular expression, and what that does to the group's epoch. Used for members of every protocol.

use super::*;
use crate::regexes;

/// What a change of a member's wish asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// Names or expression changed.
    pub subscription: bool,
    /// The group epoch is to be bumped for it.
    pub bump: bool,
    /// It says an expression that nobody has said before.
    pub unresolved: bool,
}

/// Takes over what a member wants now. Only a changed subscription bumps; assignor, rack, timeouts and client are only remembered (KIP-848).
pub fn take_wish(draft: &mut Draft, id: &MemberId, before: &Wish, now: &Wish) -> Result<Change, GroupError> {
    let regex = before.regex != now.regex;
    // One that somebody says already has been read: a crowd that says the same is not made to wait for it again and again.
    let said = |r: &String| draft.group().is_some_and(|g| g.members_with_regex(r) > 0);
    if let (true, Some(r)) = (regex, now.regex.as_ref().filter(|r| !said(r))) {
        regexes::compile(r).map_err(|detail| GroupError::InvalidRegex { detail })?;
    }
    let names = before.subscribed != now.subscribed;
    if before != now {
        draft.put(Record::Subscribed { member: id.clone(), wish: Box::new(now.clone()) });
    }
    let mut change = Change { subscription: names || regex, bump: names, unresolved: false };
    let Some(g) = draft.group() else { return Ok(change) };
    if regex {
        match &now.regex {
            // KAFKA-19899: no expression any more is a change too.
            None => change.bump |= !seeded::on(36),
            Some(r) if g.members_with_regex(r) == 1 => change.unresolved = true,
            Some(r) => change.bump |= g.regexes.contains_key(r),
        }
    }
    forget_regex(draft, before.regex.as_ref().filter(|_| regex));
    Ok(change)
}

/// An expression that nobody says any more stands for nothing.
pub fn forget_regex(draft: &mut Draft, regex: Option<&String>) {
    let Some(r) = regex else { return };
    if draft.group().is_some_and(|g| g.regexes.contains_key(r) && g.members_with_regex(r) == 0) {
        draft.put(Record::Regex { regex: r.clone(), resolved: None });
    }
}

/// What was resolved when a command began.
pub struct LookedAt { resolved: usize, revision: u64 }
impl LookedAt {
    pub fn of(draft: &Draft) -> LookedAt {
        let regexes = draft.group().map(|g| &g.regexes);
        LookedAt { resolved: regexes.map_or(0, BTreeMap::len), revision: regexes.and_then(|r| r.values().map(|r| r.revision).min()).unwrap_or(0) }
    }
}

/// What is subscribed to before a command changes it; empty if the group has seen the image already. A walk over all members: only for those who ask for it.
pub fn wanted_so_far(draft: &Draft) -> BTreeSet<TopicName> { draft.group().filter(|_| !draft.context.facts_seen).map(Group::subscribed_topics).unwrap_or_default() }

/// Asks for the group's expressions to be resolved, beside the request, if there is reason to: one is new, there are new topics, or it is long ago.
pub fn look(draft: &mut Draft, before: &LookedAt, unresolved: bool) {
    let (image, c) = (draft.context.metadata, &draft.context);
    let Some(g) = draft.group() else { return };
    let now = c.now_ms;
    let last = c.regexes_at.filter(|_| before.resolved > 0);
    if g.said.is_empty() || c.resolving || last.is_some_and(|at| now <= at + regexes::REFRESH_MIN_MS) {
        return;
    }
    let reason = unresolved || g.said.len() != before.resolved || before.revision < image.topics_made_at || last.is_some_and(|at| now > at + regexes::REFRESH_MS);
    if reason {
        draft.resolve = Some(g.said.keys().cloned().collect());
    }
}

/// What the expressions were found to stand for. Taken for those that are still said.
pub fn resolved(draft: &mut Draft, group: &GroupId, revision: u64, found: &BTreeMap<String, BTreeSet<TopicName>>) {
    let mut changed = false;
    for (regex, topics) in found {
        let Some(g) = draft.group() else { return };
        if g.members_with_regex(regex) == 0 {
            continue;
        }
        let before = g.regexes.get(regex);
        changed |= before.map_or(!topics.is_empty(), |b| b.topics != *topics);
        let resolved = ResolvedRegex { topics: topics.clone(), revision };
        if before != Some(&resolved) {
            draft.put(Record::Regex { regex: regex.clone(), resolved: Some(resolved) });
        }
    }
    // Also what was left behind, by a member that took another expression, is counted now.
    let image = draft.context.metadata;
    changed |= !draft.image_is_behind() && draft.group().is_some_and(|g| facts(image, &g.subscribed_topics()) != g.topics);
    if changed {
        draft.bump("subscription", "regular expressions match other topics than before".into(), None);
        refresh_metadata(draft, group, Bump::Done);
    } else if draft.group().is_some_and(|g| g.members.values().any(|m| m.classic.is_some())) {
        convert::leave_nothing_out(draft, false);
    }
    if draft.group().is_some_and(Group::has_conforming) {
        retarget(draft);
    }
}

/// A static member is back: what its place has assigned is the new process's, as new grants.
pub fn come_back(draft: &mut Draft, group: &GroupId, old: &MemberId, new: &MemberId, incarnation: Incarnation) {
    let Some(m) = draft.group().and_then(|g| g.members.get(old)) else { return };
    let revision = AssignmentRevision(draft.draw(0));
    let tokens = m.assigned.keys().enumerate().map(|(i, p)| (p.clone(), FencingToken(draft.draw(1 + i as u64)))).collect();
    let session_ms = draft.context.metadata.config_of(group).session_timeout_ms;
    draft.put(Record::Replaced(Box::new(Replaced { old: old.clone(), new: new.clone(), incarnation, revision, tokens, session_ms })));
    if seeded::on(41) {
        draft.bump("returned", format!("{new} is back"), Some(new));
    }
    draft.note("returned", format!("{new} is back in the place of {old}"), Some(new), Vec::new());
}
