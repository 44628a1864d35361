//! `uniform`, the default: all partitions of all topics together are spread evenly, and as much as possible stays where it was.
//! With equal subscriptions no two members differ by more than one. Balance goes before stickiness.

mod heterogeneous;
mod levels;

use super::{
    Assignor,
    spec::{NOBODY, Owners, Spec},
};

pub struct Uniform;

impl Assignor for Uniform {
    fn name(&self) -> &'static str { "uniform" }

    fn assign(&self, group: &Spec) -> Owners { from(group, group.previous()) }
}

/// As `Uniform`, with another target so far than the group's.
pub(super) fn from(group: &Spec, previous: &[u32]) -> Owners {
    if group.members() == 0 {
        Owners(vec![NOBODY; group.partitions()])
    } else if group.is_homogeneous() {
        homogeneous(group, previous)
    } else {
        heterogeneous::assign(group, previous)
    }
}

/// Equal subscriptions. Every member is due `floor` partitions, and `extras` members one more. Members keep their first partitions up to that, those
/// that had more than `floor` taking the extras first; what is left goes to the others in order, and the last of them get the extras that are left.
fn homogeneous(group: &Spec, previous: &[u32]) -> Owners {
    let members = group.members();
    let mut owners = vec![NOBODY; group.partitions()];
    let topics = group.subscription(0);
    let total: usize = topics.iter().map(|t| group.of_topic(*t).len()).sum();
    let floor = (total / members) as u32;
    let mut extras = (total % members) as u32;

    let mut had = vec![0u32; members];
    for p in topics.iter().flat_map(|t| group.of_topic(*t)) {
        if let Some(n) = had.get_mut(previous[p] as usize) {
            *n += 1;
        }
    }
    let quota: Vec<u32> = had
        .iter()
        .map(|had| {
            let extra = u32::from(*had > floor && extras > 0);
            extras -= extra;
            floor + extra
        })
        .collect();

    // Free partitions in the order in which they are given away: those without an owner, then what each member has too much.
    let mut free: Vec<u32> = Vec::new();
    let mut surplus: Vec<(u32, u32)> = Vec::new();
    let mut kept = vec![0u32; members];
    for p in topics.iter().flat_map(|t| group.of_topic(*t)) {
        let before = previous[p];
        match kept.get_mut(before as usize) {
            None => free.push(p as u32),
            Some(k) if *k < quota[before as usize] => {
                *k += 1;
                owners[p] = before;
            }
            Some(_) => surplus.push((before, p as u32)),
        }
    }
    surplus.sort_unstable();
    let mut free = free.into_iter().chain(surplus.into_iter().map(|(_, p)| p));

    let mut without_extra = kept.iter().filter(|k| **k <= floor).count() as u32;
    for (member, kept) in kept.iter().enumerate().filter(|(_, k)| **k <= floor) {
        let extra = u32::from(without_extra <= extras);
        extras -= extra;
        without_extra -= 1;
        for p in free.by_ref().take((floor + extra - kept) as usize) {
            owners[p as usize] = member as u32;
        }
    }
    Owners(owners)
}
