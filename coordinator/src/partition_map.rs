//! What a member has, partition by partition. Most members have a few, and a tree's node has room for eleven: few of them stand in one piece of just their size, in order; many in a tree.

use crate::ids::Partition;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{collections::BTreeMap, fmt, ops::Index};

/// So many stand in one piece: beyond it, a change in the middle would cost more than a tree's.
const FEW: usize = 16;

/// Partitions in order, each with a value. Written and read as a map.
#[derive(Clone)]
pub struct PartitionMap<V> {
    /// In order. Empty as soon as there are many.
    few: Vec<(Partition, V)>,
    many: BTreeMap<Partition, V>,
}

impl<V> PartitionMap<V> {
    pub fn len(&self) -> usize { self.few.len() + self.many.len() }
    pub fn is_empty(&self) -> bool { self.len() == 0 }
    pub fn contains_key(&self, p: &Partition) -> bool { self.get(p).is_some() }
    pub fn get(&self, p: &Partition) -> Option<&V> {
        match self.place(p) {
            Ok(at) => Some(&self.few[at].1),
            Err(_) => self.many.get(p),
        }
    }
    pub fn get_mut(&mut self, p: &Partition) -> Option<&mut V> {
        match self.place(p) {
            Ok(at) => Some(&mut self.few[at].1),
            Err(_) => self.many.get_mut(p),
        }
    }
    /// What was there before, if anything.
    pub fn insert(&mut self, p: Partition, value: V) -> Option<V> {
        match self.place(&p) {
            Ok(at) => Some(std::mem::replace(&mut self.few[at].1, value)),
            Err(at) if self.many.is_empty() && self.few.len() < FEW => {
                self.few.reserve_exact(1);
                self.few.insert(at, (p, value));
                None
            }
            Err(_) => {
                self.many.extend(std::mem::take(&mut self.few));
                self.many.insert(p, value)
            }
        }
    }
    pub fn remove(&mut self, p: &Partition) -> Option<V> {
        match self.place(p) {
            Ok(at) => Some(self.few.remove(at).1),
            Err(_) => self.many.remove(p),
        }
    }
    // One of the two is always empty.
    pub fn iter(&self) -> impl Iterator<Item = (&Partition, &V)> { self.few.iter().map(|(p, v)| (p, v)).chain(&self.many) }
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Partition, &mut V)> { self.few.iter_mut().map(|(p, v)| (&*p, v)).chain(&mut self.many) }
    pub fn keys(&self) -> impl Iterator<Item = &Partition> { self.iter().map(|(p, _)| p) }
    pub fn values(&self) -> impl Iterator<Item = &V> { self.iter().map(|(_, v)| v) }
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> { self.iter_mut().map(|(_, v)| v) }

    fn place(&self, p: &Partition) -> Result<usize, usize> { self.few.binary_search_by(|(x, _)| x.cmp(p)) }
}

impl<V> Default for PartitionMap<V> { fn default() -> Self { Self { few: Vec::new(), many: BTreeMap::new() } } }
impl<V: PartialEq> PartialEq for PartitionMap<V> { fn eq(&self, other: &Self) -> bool { self.iter().eq(other.iter()) } }
impl<V: fmt::Debug> fmt::Debug for PartitionMap<V> { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.debug_map().entries(self.iter()).finish() } }
impl<V> Index<&Partition> for PartitionMap<V> {
    type Output = V;
    fn index(&self, p: &Partition) -> &V { self.get(p).unwrap_or_else(|| panic!("{p} is not among them")) }
}
impl<V> FromIterator<(Partition, V)> for PartitionMap<V> {
    fn from_iter<I: IntoIterator<Item = (Partition, V)>>(i: I) -> Self {
        let mut map = Self::default();
        i.into_iter().for_each(|(p, v)| { map.insert(p, v); });
        map
    }
}
impl<V> IntoIterator for PartitionMap<V> {
    type Item = (Partition, V);
    type IntoIter = std::iter::Chain<std::vec::IntoIter<(Partition, V)>, std::collections::btree_map::IntoIter<Partition, V>>;
    fn into_iter(self) -> Self::IntoIter { self.few.into_iter().chain(self.many) }
}
impl<V: Serialize> Serialize for PartitionMap<V> { fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> { s.collect_map(self.iter()) } }
impl<'de, V: Deserialize<'de>> Deserialize<'de> for PartitionMap<V> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> { BTreeMap::deserialize(d).map(Self::from_iter) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(n: usize, value: u8) -> PartitionMap<u8> { (0..n as i32).map(|p| (Partition::new("t", p), value)).collect() }

    #[test]
    fn few_stand_in_one_piece_and_many_in_a_tree() {
        for (n, few, many) in [(1, 1, 0), (FEW, FEW, 0), (FEW + 1, 0, FEW + 1), (FEW + 9, 0, FEW + 9)] {
            let map = of(n, 1);
            assert_eq!((map.few.len(), map.many.len(), map.few.capacity()), (few, many, few), "of {n}");
        }
        let mut shrunk = of(FEW + 1, 1);
        shrunk.remove(&Partition::new("t", 0));
        shrunk.insert(Partition::new("u", 0), 2);
        assert_eq!((shrunk.few.len(), shrunk.many.len()), (0, FEW + 1), "many stay many");
    }
    #[test]
    fn it_is_compared_and_shown_by_what_is_in_it() {
        assert!(of(3, 1) == of(3, 1) && of(3, 1) != of(3, 2) && of(3, 1) != of(4, 1));
        assert_eq!(format!("{:?}", of(1, 7)), format!("{:?}", BTreeMap::from([(Partition::new("t", 0), 7)])));
    }

    proptest! {
        /// Few or many, it is a map in order.
        #[test]
        fn it_is_what_a_tree_would_be(steps in proptest::collection::vec((any::<bool>(), 0..40i32, any::<u8>()), 0..200)) {
            let (mut mine, mut tree) = (PartitionMap::default(), BTreeMap::new());
            for (add, n, value) in steps {
                let p = Partition::new("t", n);
                if add {
                    prop_assert_eq!(mine.insert(p.clone(), value), tree.insert(p, value));
                } else {
                    prop_assert_eq!((mine.get_mut(&p).copied(), mine.remove(&p)), (tree.get(&p).copied(), tree.remove(&p)));
                }
                prop_assert!(mine.iter().eq(&tree) && mine.len() == tree.len());
            }
            prop_assert!(tree.keys().all(|p| mine.contains_key(p) && mine.get(p) == tree.get(p)) && !mine.contains_key(&Partition::new("u", 0)));
            let bytes = bincode::serialize(&mine).unwrap();
            prop_assert_eq!(&bytes, &bincode::serialize(&tree).unwrap());
            prop_assert!(bincode::deserialize::<PartitionMap<u8>>(&bytes).unwrap() == mine);
            prop_assert!(mine.into_iter().eq(tree));
        }
    }
}
