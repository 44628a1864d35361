//! How loaded each member is, and how one topic's partitions are given to the least loaded, or moved to them from the most loaded.
//!
//! Picture the subscribers of a topic as columns sorted by height, those of equal height in ascending order of member. Giving fills the lowest columns
//! level by level, from left to right within a level; taking lowers the highest ones, from right to left.

use crate::assign::{spec::NOBODY, subscribers::Members};
use std::ops::Range;

/// Sorted by counting instead of by comparing while the heights lie within this many times the number of columns.
const COUNTING_SPREAD: usize = 4;

pub(super) struct Levels {
    /// Member → how many partitions it has.
    sizes: Vec<u32>,
    /// Size → how many members have it. Tells at a glance that a topic cannot get more even.
    with_size: Vec<u32>,
    /// The least size of all members.
    least: u32,
    /// The columns at hand.
    sorted: Vec<u32>,
    /// The topic's partitions, grouped by owner.
    grouped: Vec<(u32, u32)>,
    /// Member → its part of `grouped`; empty for all who own nothing of the topic.
    part: Vec<Range<u32>>,
    counts: Vec<u32>,
}

impl Levels {
    pub(super) fn new(sizes: Vec<u32>) -> Self {
        let mut with_size = vec![0; sizes.iter().max().map_or(0, |most| *most as usize) + 2];
        for s in &sizes {
            with_size[*s as usize] += 1;
        }
        let least = sizes.iter().min().copied().unwrap_or(0);
        Self { part: vec![0..0; sizes.len()], sizes, with_size, least, sorted: Vec::new(), grouped: Vec::new(), counts: Vec::new() }
    }

    /// Gives every partition without an owner, in ascending order, to the least loaded of `members` (not empty).
    pub(super) fn fill(&mut self, members: Members<'_>, partitions: Range<usize>, owners: &mut [u32]) {
        let free = owners[partitions.clone()].iter().filter(|o| **o == NOBODY).count();
        if free == 0 {
            return;
        }
        // Mostly the lowest level has room for all: no sorting, and often not even a look at every member.
        self.lowest(members, free);
        if free > self.sorted.len() {
            self.sort(members);
        }
        let mut low = Low::new();
        for p in partitions {
            if owners[p] == NOBODY {
                let member = low.next(&self.sorted, &self.sizes);
                owners[p] = member;
                self.raise(member);
            }
        }
    }

    /// Moves partitions of one topic from its most to its least loaded subscribers until they differ by at most one, or nobody above has any to give.
    /// Returns how many moved.
    pub(super) fn even_out(&mut self, members: Members<'_>, partitions: Range<usize>, owners: &mut [u32]) -> usize {
        // An owner can give if some subscriber would still be below it afterwards.
        let most = owners[partitions.clone()].iter().filter_map(|o| self.sizes.get(*o as usize)).max().copied().unwrap_or(0);
        if self.least + 1 >= most || !members.any(|m| self.sizes[m as usize] + 1 < most) {
            return 0;
        }
        self.sort(members);
        self.group(partitions, owners);
        let (mut low, mut high) = (Low::new(), High::new(self.sorted.len()));
        let mut moved = 0;
        while let Some(from) = self.giver(&mut high) {
            // Each member gives its last partition of the topic first.
            self.part[from as usize].end -= 1;
            let partition = self.grouped[self.part[from as usize].end as usize].1;
            let to = low.next(&self.sorted, &self.sizes);
            if high.level - low.level <= 1 {
                break;
            }
            owners[partition as usize] = to;
            self.lower(from);
            self.raise(to);
            moved += 1;
        }
        for (owner, _) in &self.grouped {
            self.part[*owner as usize] = 0..0;
        }
        moved
    }

    fn raise(&mut self, member: u32) {
        let size = &mut self.sizes[member as usize];
        self.with_size[*size as usize] -= 1;
        *size += 1;
        if self.with_size.len() == *size as usize {
            self.with_size.push(0);
        }
        self.with_size[*size as usize] += 1;
        // Ends at the raised member at the latest.
        while self.with_size[self.least as usize] == 0 {
            self.least += 1;
        }
    }

    fn lower(&mut self, member: u32) {
        let size = &mut self.sizes[member as usize];
        self.with_size[*size as usize] -= 1;
        *size -= 1;
        self.with_size[*size as usize] += 1;
        self.least = self.least.min(*size);
    }

    /// The next of the most loaded members that has a partition of the topic to give.
    fn giver(&mut self, high: &mut High) -> Option<u32> {
        loop {
            let member = high.next(&self.sorted, &self.sizes)?;
            if !self.part[member as usize].is_empty() {
                return Some(member);
            }
            high.exclude(&mut self.sorted);
        }
    }

    /// Leaves members of the lowest level in `sorted`: all of them, or as many as are wanted.
    fn lowest(&mut self, members: Members<'_>, wanted: usize) {
        let Self { sorted, sizes, least, .. } = self;
        sorted.clear();
        let mut level = u32::MAX;
        members.any(|m| {
            let size = sizes[m as usize];
            if size < level {
                level = size;
                sorted.clear();
            }
            if size > level {
                return false;
            }
            sorted.push(m);
            // Nobody is below the least of all.
            level == *least && sorted.len() == wanted
        });
    }

    fn spread(&self, members: Members<'_>) -> (u32, u32) {
        let (mut least, mut most) = (u32::MAX, 0);
        members.for_each(|m| {
            let size = self.sizes[m as usize];
            (least, most) = (least.min(size), most.max(size));
        });
        (least, most)
    }

    /// Leaves all members in `sorted`, by size, then by number.
    fn sort(&mut self, members: Members<'_>) {
        let (least, most) = self.spread(members);
        let spread = (most - least) as usize + 1;
        let Self { sorted, sizes, counts, .. } = self;
        sorted.clear();
        if spread > COUNTING_SPREAD * members.len() {
            members.for_each(|m| sorted.push(m));
            sorted.sort_unstable_by_key(|m| (sizes[*m as usize], *m));
            return;
        }
        counts.clear();
        counts.resize(spread, 0);
        members.for_each(|m| counts[(sizes[m as usize] - least) as usize] += 1);
        let mut start = 0;
        for count in counts.iter_mut() {
            start += std::mem::replace(count, start);
        }
        sorted.resize(members.len(), 0);
        members.for_each(|m| {
            let place = &mut counts[(sizes[m as usize] - least) as usize];
            sorted[*place as usize] = m;
            *place += 1;
        });
    }

    fn group(&mut self, partitions: Range<usize>, owners: &[u32]) {
        self.grouped.clear();
        self.grouped.extend(partitions.map(|p| (owners[p], p as u32)));
        self.grouped.sort_unstable();
        let mut start = 0;
        for run in self.grouped.chunk_by(|a, b| a.0 == b.0) {
            let end = start + run.len() as u32;
            self.part[run[0].0 as usize] = start..end;
            start = end;
        }
    }
}

/// Walks the lowest columns: all of one height once, then all that are of the next height by then.
struct Low {
    /// The columns before it take part.
    end: usize,
    level: i64,
    next: usize,
}
impl Low {
    fn new() -> Self { Self { end: 0, level: -1, next: 0 } }

    /// The next column to raise; the caller raises it. `sorted` is not empty.
    fn next(&mut self, sorted: &[u32], sizes: &[u32]) -> u32 {
        if self.next >= self.end {
            self.level = if self.end == 0 { i64::from(sizes[sorted[0] as usize]) } else { self.level + 1 };
            while sorted.get(self.end).is_some_and(|m| i64::from(sizes[*m as usize]) == self.level) {
                self.end += 1;
            }
            self.next = 0;
        }
        self.next += 1;
        sorted[self.next - 1]
    }
}

/// Walks the highest columns: all of one height once, then all that are of the next lower height by then. Columns that cannot be lowered are set aside.
struct High {
    /// The columns from it on take part …
    start: usize,
    /// … up to here; behind it are those set aside.
    end: usize,
    level: i64,
    /// One more than the next column.
    next: usize,
}
impl High {
    fn new(columns: usize) -> Self { Self { start: columns, end: columns, level: i64::MAX, next: columns } }

    /// The next column to lower; the caller lowers it or sets it aside. None when all are set aside.
    fn next(&mut self, sorted: &[u32], sizes: &[u32]) -> Option<u32> {
        if self.next <= self.start {
            match self.start.checked_sub(1) {
                // Everybody taking part was set aside: go on from the next column, whatever its height.
                Some(below) if self.end <= self.start => self.level = i64::from(sizes[sorted[below] as usize]),
                _ => self.level -= 1,
            }
            while self.start > 0 && i64::from(sizes[sorted[self.start - 1] as usize]) == self.level {
                self.start -= 1;
            }
            self.next = self.end;
        }
        self.next = self.next.checked_sub(1)?;
        Some(sorted[self.next])
    }

    /// Sets the column that was walked last aside.
    fn exclude(&mut self, sorted: &mut [u32]) {
        self.end -= 1;
        sorted.swap(self.next, self.end);
    }
}
