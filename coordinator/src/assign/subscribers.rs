//! Subscriptions turned round: which members subscribe to a topic.

use super::spec::Spec;

/// Who subscribes to which topic. Topics with the same subscribers share one list.
pub(super) struct Subscribers {
    /// Topic → its class.
    class_of: Vec<u32>,
    /// Class → how many members it has.
    sizes: Vec<u32>,
    lists: Lists,
}

/// Class → its members, ascending.
enum Lists {
    /// One bit per member, and how many words each class has.
    Bits { words: usize, bits: Vec<u64> },
    /// The place of each list in `members`, and one more at the end.
    Numbers { start: Vec<u32>, members: Vec<u32> },
}

/// Up to here the lists stay in the cache as numbers, which are quicker to walk. With thousands of different subscriptions most of the time of turning
/// them round is that of memory that is written: bits are less of it …
const NUMBERS_MAX: usize = 1 << 18;
/// … where at least every so many-th one is set.
const BITS_PER_MEMBER: usize = 32;

impl Subscribers {
    pub(super) fn of(group: &Spec) -> Self {
        let (class_of, classes) = classes(group);
        // A subscription holds a class or nothing of it, so that one topic stands for all of its class.
        let mut first_of_class = vec![u32::MAX; classes];
        for (topic, class) in (0u32..).zip(&class_of) {
            first_of_class[*class as usize] = first_of_class[*class as usize].min(topic);
        }
        let stands = |topic: &&u32| first_of_class[class_of[**topic as usize] as usize] == **topic;
        let held: Vec<Vec<u32>> = if classes == group.topics() {
            Vec::new()
        } else {
            group.subscriptions().iter().map(|topics| topics.iter().filter(stands).copied().collect()).collect()
        };
        let topics_of = |m: u32| held.get(group.subscription_of(m) as usize).map_or_else(|| group.subscription(m), Vec::as_slice);
        let classes_of = |m: u32| topics_of(m).iter().map(|t| class_of[*t as usize] as usize);
        let pairs: usize = (0..group.members() as u32).map(|m| topics_of(m).len()).sum();
        let lists = if pairs > NUMBERS_MAX && pairs >= classes * group.members() / BITS_PER_MEMBER {
            Lists::bits(group.members(), classes, classes_of)
        } else {
            Lists::numbers(group.members(), classes, classes_of)
        };
        let sizes = (0..classes).map(|c| lists.of_class(c).len()).collect();
        Self { class_of, sizes, lists }
    }

    pub(super) fn of_topic(&self, topic: u32) -> Members<'_> {
        let class = self.class_of[topic as usize] as usize;
        Members { len: self.sizes[class], list: self.lists.of_class(class) }
    }
}

impl Lists {
    /// Made 64 members at a time: what these set lies in the cache meanwhile.
    fn bits<I: Iterator<Item = usize>>(members: usize, classes: usize, classes_of: impl Fn(u32) -> I) -> Self {
        let words = members.div_ceil(64);
        let mut bits = vec![0u64; words * classes];
        let mut at_hand = vec![0u64; classes];
        for word in 0..words {
            for (bit, m) in (word * 64..members.min(word * 64 + 64)).enumerate() {
                for class in classes_of(m as u32) {
                    at_hand[class] |= 1 << bit;
                }
            }
            for (class, set) in at_hand.iter_mut().enumerate() {
                bits[class * words + word] = std::mem::take(set);
            }
        }
        Self::Bits { words, bits }
    }

    fn numbers<I: Iterator<Item = usize>>(members: usize, classes: usize, classes_of: impl Fn(u32) -> I) -> Self {
        let mut start = vec![0u32; classes + 1];
        for class in (0..members as u32).flat_map(&classes_of) {
            start[class + 1] += 1;
        }
        for c in 0..classes {
            start[c + 1] += start[c];
        }
        let mut next = start.clone();
        let mut numbers = vec![0; start[classes] as usize];
        for m in 0..members as u32 {
            for class in classes_of(m) {
                numbers[next[class] as usize] = m;
                next[class] += 1;
            }
        }
        Self::Numbers { start, members: numbers }
    }

    fn of_class(&self, class: usize) -> List<'_> {
        match self {
            Self::Bits { words, bits } => List::Bits(&bits[class * words..(class + 1) * words]),
            Self::Numbers { start, members } => List::Numbers(&members[start[class] as usize..start[class + 1] as usize]),
        }
    }
}

/// The members who subscribe to one topic.
#[derive(Clone, Copy)]
pub(super) struct Members<'a> {
    len: u32,
    list: List<'a>,
}
#[derive(Clone, Copy)]
enum List<'a> {
    Bits(&'a [u64]),
    Numbers(&'a [u32]),
}
impl List<'_> {
    fn len(self) -> u32 {
        match self {
            Self::Bits(words) => words.iter().map(|w| w.count_ones()).sum(),
            Self::Numbers(members) => members.len() as u32,
        }
    }
}
impl Members<'_> {
    pub(super) fn len(self) -> usize { self.len as usize }

    /// Asks about each member in ascending order until one is it.
    pub(super) fn any(self, mut is_it: impl FnMut(u32) -> bool) -> bool {
        match self.list {
            List::Numbers(members) => members.iter().any(|m| is_it(*m)),
            List::Bits(words) => {
                for (first, word) in (0u32..).step_by(64).zip(words) {
                    let mut rest = *word;
                    while rest != 0 {
                        if is_it(first + rest.trailing_zeros()) {
                            return true;
                        }
                        rest &= rest - 1;
                    }
                }
                false
            }
        }
    }

    /// In ascending order.
    pub(super) fn for_each(self, mut each: impl FnMut(u32)) {
        self.any(|m| {
            each(m);
            false
        });
    }
}

/// Topic → its class, and how many there are. Two topics are of one class if every subscription holds both or neither: starting from one class, each
/// subscription splits those that it holds in part.
fn classes(group: &Spec) -> (Vec<u32>, usize) {
    let mut class_of = vec![0u32; group.topics()];
    let mut sizes = vec![group.topics() as u32];
    // Per class: how many of its topics the subscription holds, and into which class they go.
    let (mut held, mut split_to) = (vec![0u32], vec![u32::MAX]);
    let mut seen: Vec<u32> = Vec::new();
    for topics in group.subscriptions() {
        if sizes.len() == group.topics() {
            break;
        }
        for t in topics {
            let class = class_of[*t as usize];
            if held[class as usize] == 0 {
                seen.push(class);
            }
            held[class as usize] += 1;
        }
        for &class in &seen {
            if held[class as usize] < sizes[class as usize] {
                split_to[class as usize] = sizes.len() as u32;
                sizes[class as usize] -= held[class as usize];
                sizes.push(held[class as usize]);
                held.push(0);
                split_to.push(u32::MAX);
            }
        }
        for t in topics {
            let class = &mut class_of[*t as usize];
            if split_to[*class as usize] != u32::MAX {
                *class = split_to[*class as usize];
            }
        }
        for class in seen.drain(..) {
            (held[class as usize], split_to[class as usize]) = (0, u32::MAX);
        }
    }
    (class_of, sizes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(list: List<'_>) -> Vec<u32> {
        let mut out = Vec::new();
        Members { len: list.len(), list }.for_each(|m| out.push(m));
        assert_eq!(out.len(), list.len() as usize);
        out
    }

    #[test]
    fn bits_and_numbers_list_the_same_members() {
        for members in [0, 1, 63, 64, 65, 200] {
            let classes_of = |m: u32| (0..7).filter(move |c| (m as usize * 5 + c * 3).is_multiple_of(c + 2));
            let (bits, numbers) = (Lists::bits(members, 7, classes_of), Lists::numbers(members, 7, classes_of));
            for class in 0..7 {
                let expected: Vec<u32> = (0..members as u32).filter(|m| classes_of(*m).any(|c| c == class)).collect();
                assert_eq!(listed(bits.of_class(class)), expected, "{members} {class}");
                assert_eq!(listed(numbers.of_class(class)), expected, "{members} {class}");
            }
        }
    }

    /// Enough subscriptions for bits: an assignment from them is that of the same group in numbers.
    #[test]
    fn a_group_with_many_different_subscriptions_is_turned_round_as_bits() {
        let (members, topics) = (700u32, 1000u32);
        // One of two, with no two topics alike.
        let subscribes = |m: u32, t: u32| (m.wrapping_mul(2_654_435_761) ^ t.wrapping_mul(2_246_822_519)).wrapping_mul(3_266_489_917) >> 31 == 0;
        let subscriptions: Vec<Vec<u32>> = (0..members).map(|m| (0..topics).filter(|t| subscribes(m, *t)).collect()).collect();
        let group = Spec::new(&vec![1; topics as usize], subscriptions.clone(), (0..members).collect()).expect("a group");
        let subscribers = Subscribers::of(&group);
        assert!(matches!(subscribers.lists, Lists::Bits { .. }));
        for t in 0..topics {
            let expected: Vec<u32> = (0..members).filter(|m| subscriptions[*m as usize].binary_search(&t).is_ok()).collect();
            assert_eq!(listed(subscribers.of_topic(t).list), expected, "{t}");
            assert_eq!(subscribers.of_topic(t).len(), expected.len());
        }
    }
}
