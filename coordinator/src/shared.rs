//! Parts of the state that clones share. A draft copies its group, and so does replay: what neither changes costs a count then, not a copy.

use crate::ids::Partition;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

/// A value that clones share until one of them changes it. Written and read as the value itself.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Shared<T>(Arc<T>);

impl<T> Shared<T> {
    /// The value itself, copied only if somebody else has it too.
    pub fn take(self) -> T where T: Clone { Arc::unwrap_or_clone(self.0) }
}
impl<T> From<T> for Shared<T> { fn from(v: T) -> Self { Self(Arc::new(v)) } }
impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T { &self.0 }
}
impl<T: Clone> DerefMut for Shared<T> { fn deref_mut(&mut self) -> &mut T { Arc::make_mut(&mut self.0) } }
impl<T: fmt::Debug> fmt::Debug for Shared<T> { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) } }
impl<T: Serialize> Serialize for Shared<T> { fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> { (**self).serialize(s) } }
impl<'de, T: Deserialize<'de>> Deserialize<'de> for Shared<T> { fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> { T::deserialize(d).map(Self::from) } }

/// A set of partitions that is made once and never changed: in order, in one piece, shared by clones.
#[derive(Clone, PartialEq, Eq)]
pub struct PartitionSet(Arc<[Partition]>);

impl PartitionSet {
    pub fn contains(&self, p: &Partition) -> bool { self.0.binary_search(p).is_ok() }
    pub fn iter(&self) -> std::slice::Iter<'_, Partition> { self.0.iter() }
    pub fn len(&self) -> usize { self.0.len() }
    pub fn is_empty(&self) -> bool { self.0.is_empty() }
}
impl FromIterator<Partition> for PartitionSet {
    fn from_iter<I: IntoIterator<Item = Partition>>(i: I) -> Self {
        let mut all: Vec<Partition> = i.into_iter().collect();
        if !all.is_sorted_by(|a, b| a < b) {
            all.sort_unstable();
            all.dedup();
        }
        Self(all.into())
    }
}
impl<'a> IntoIterator for &'a PartitionSet {
    type Item = &'a Partition;
    type IntoIter = std::slice::Iter<'a, Partition>;
    fn into_iter(self) -> Self::IntoIter { self.iter() }
}
impl Default for PartitionSet { fn default() -> Self { Self::from_iter([]) } }
impl fmt::Debug for PartitionSet { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.debug_set().entries(self.iter()).finish() } }
impl Serialize for PartitionSet { fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> { s.collect_seq(self.iter()) } }
impl<'de> Deserialize<'de> for PartitionSet {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> { Vec::<Partition>::deserialize(d).map(Self::from_iter) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_goes_its_own_way_once_it_is_changed() {
        let a = Shared::from(vec![1]);
        let mut b = a.clone();
        assert!(std::ptr::eq(&*a, &*b), "shared");
        b.push(2);
        assert_eq!((&*a, &*b), (&vec![1], &vec![1, 2]));
    }

    #[test]
    fn a_set_has_each_partition_once_and_in_order_and_is_written_as_a_list() {
        let p = |n| Partition::new("t", n);
        let set = PartitionSet::from_iter([p(3), p(1), p(3)]);
        assert_eq!(set.iter().cloned().collect::<Vec<_>>(), [p(1), p(3)]);
        assert!(set.contains(&p(3)) && !set.contains(&p(2)));
        let bytes = bincode::serialize(&set).unwrap();
        assert_eq!(bytes, bincode::serialize(&std::collections::BTreeSet::from([p(1), p(3)])).unwrap());
        assert_eq!(bincode::deserialize::<PartitionSet>(&bytes).unwrap(), set);
    }
}
