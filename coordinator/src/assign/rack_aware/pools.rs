//! Partitions pooled by the zone of their owner and the set of their own zones, so that a partner for an exchange is found without a search.

/// Not in any pool.
const NONE: u32 = u32::MAX;

pub(super) struct Pools {
    sets: usize,
    lists: Vec<Vec<u32>>,
    /// Partition → its pool and its place there.
    place: Vec<(u32, u32)>,
}
impl Pools {
    pub(super) fn new(zones: usize, sets: usize, partitions: usize) -> Self { Self { sets, lists: vec![Vec::new(); zones * sets * 2], place: vec![(NONE, 0); partitions] } }

    fn number(&self, zone: usize, set: u32, kept: bool) -> usize { (zone * self.sets + set as usize) * 2 + usize::from(kept) }

    pub(super) fn put(&mut self, partition: usize, (zone, set, kept): (usize, u32, bool)) {
        let number = self.number(zone, set, kept);
        self.place[partition] = (number as u32, self.lists[number].len() as u32);
        self.lists[number].push(partition as u32);
    }

    pub(super) fn take(&mut self, partition: usize) {
        let (number, at) = std::mem::replace(&mut self.place[partition], (NONE, 0));
        let Some(list) = self.lists.get_mut(number as usize) else { return };
        list.swap_remove(at as usize);
        if let Some(moved) = list.get(at as usize) {
            self.place[*moved as usize].1 = at;
        }
    }

    /// Those first that were not with their owner before: they move without a loss.
    pub(super) fn candidates(&self, zone: usize, set: u32) -> impl Iterator<Item = usize> + '_ {
        [false, true].into_iter().flat_map(move |kept| self.lists[self.number(zone, set, kept)].iter().map(|p| *p as usize))
    }
}
