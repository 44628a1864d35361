//! The materialised state of one group in the key-value store: a consistent cut at an applied index.
//!
//! A cut changes in one batch: the machine's pairs that changed, and the header with the index they stand for. The header
//! also has the number of pairs and a sum over them, so that a store that lost or kept a piece too much is found out at start.

use std::io;
use std::sync::Arc;

use baton_storage::{Kv, KvOp, Pair, Visitor};
use serde::{Deserialize, Serialize};

use crate::api::GroupNo;
use crate::types::{LogId, StoredMembership, decode, encode};

const FORMAT: u16 = 1;
/// What follows the group's number in a key.
const HEADER: u8 = 0;
const PAIR: u8 = 1;

/// Which node's store it is: cluster directory and node id.
pub type Ident = [u8; 24];

/// A machine's changes: its key, and the value or None where the key is gone.
pub type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// The pairs of one group, as its machine wrote them.
#[derive(Clone)]
pub struct Stored {
    kv: Arc<dyn Kv>,
    group: GroupNo,
}

impl Stored {
    fn key(&self, key: &[u8]) -> Vec<u8> {
        [&self.group.to_be_bytes()[..], &[PAIR], key].concat()
    }

    pub fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.kv.get(&self.key(key))
    }

    /// Shows the pairs whose key starts with `prefix` and is not below `from`, ascending.
    pub fn visit(&self, prefix: &[u8], from: &[u8], each: Visitor) -> io::Result<()> {
        self.kv.visit(&self.key(prefix), &self.key(from), &mut |k, v| each(&k[3..], v))
    }
}

/// Where a cut stands: what the header says, without the sums.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    pub last: Option<LogId>,
    pub membership: StoredMembership,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Header {
    format: u16,
    ident: Ident,
    last: Option<LogId>,
    membership: StoredMembership,
    pairs: u64,
    sum: u64,
}

/// A bug put back on purpose; only tests and simulations set one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CutBug {
    #[default]
    None,
    /// The header goes into a batch of its own, before the pairs.
    IndexApart,
    /// The log is not asked whether it is durable.
    AheadOfLog,
}

/// The writer of one group's cut.
pub struct GroupCut {
    stored: Stored,
    header: Header,
    pub bug: CutBug,
}

/// One pair's share of the sum: order does not matter, and a share can be taken back.
fn share(key: &[u8], value: &[u8]) -> u64 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), value);
    let mut z = (u64::from(crc) << 32 | (value.len() as u64 & 0xffff_ffff)) ^ (key.len() as u64) << 56;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl GroupCut {
    /// Opens a group's cut and checks it whole. The error is damage, or another node's store: the store must be set aside.
    pub fn open(kv: Arc<dyn Kv>, group: GroupNo, ident: Ident) -> io::Result<GroupCut> {
        let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("group {group}: {what}"));
        let stored = Stored { kv, group };
        let header = match stored.kv.get(&header_key(group))? {
            None => Header { format: FORMAT, ident, ..Header::default() },
            Some(bytes) => decode::<Header>(&bytes).map_err(|e| bad(format!("the header does not read: {e}")))?,
        };
        if header.format != FORMAT {
            return Err(bad(format!("format {}, this version knows {FORMAT}", header.format)));
        }
        if header.ident != ident {
            return Err(bad("it belongs to another node or data folder".into()));
        }
        let (mut pairs, mut sum) = (0u64, 0u64);
        stored.visit(&[], &[], &mut |k, v| {
            (pairs, sum) = (pairs + 1, sum.wrapping_add(share(k, v)));
            Ok(())
        })?;
        if (pairs, sum) != (header.pairs, header.sum) {
            return Err(bad(format!("{pairs} pairs do not add up to what the header says ({} pairs)", header.pairs)));
        }
        let bug = if baton_storage::seeded::on(100) { CutBug::AheadOfLog } else { CutBug::None };
        Ok(GroupCut { stored, header, bug })
    }

    pub fn stored(&self) -> Stored {
        self.stored.clone()
    }

    pub fn standing(&self) -> Standing {
        Standing { last: self.header.last, membership: self.header.membership.clone() }
    }

    /// Moves the cut on: pairs and index in one batch. After an error the store may be used no more.
    pub fn advance(&mut self, at: Standing, changes: Changes) -> io::Result<()> {
        let mut ops = Vec::with_capacity(changes.len() + 1);
        let mut header = Header { last: at.last, membership: at.membership, ..self.header.clone() };
        for (key, value) in changes {
            if let Some(old) = self.stored.get(&key)? {
                (header.pairs, header.sum) = (header.pairs - 1, header.sum.wrapping_sub(share(&key, &old)));
            } else if value.is_none() {
                continue;
            }
            let full = self.stored.key(&key);
            ops.push(match value {
                Some(new) => {
                    (header.pairs, header.sum) = (header.pairs + 1, header.sum.wrapping_add(share(&key, &new)));
                    KvOp::Put(full, new)
                }
                None => KvOp::Delete(full),
            });
        }
        self.write(ops, header)
    }

    /// Replaces everything, by what a snapshot has.
    pub fn replace(&mut self, at: Standing, pairs: Vec<Pair>) -> io::Result<()> {
        let mut ops = Vec::new();
        self.stored.visit(&[], &[], &mut |k, _| {
            ops.push(KvOp::Delete(self.stored.key(k)));
            Ok(())
        })?;
        let sum = pairs.iter().fold(0u64, |sum, (k, v)| sum.wrapping_add(share(k, v)));
        let header = Header { last: at.last, membership: at.membership, pairs: pairs.len() as u64, sum, ..self.header.clone() };
        ops.extend(pairs.into_iter().map(|(k, v)| KvOp::Put(self.stored.key(&k), v)));
        self.write(ops, header)
    }

    fn write(&mut self, mut ops: Vec<KvOp>, header: Header) -> io::Result<()> {
        let put = KvOp::Put(header_key(self.stored.group), encode(&header)?);
        if self.bug == CutBug::IndexApart {
            self.stored.kv.write(vec![put])?;
        } else {
            ops.push(put);
        }
        self.stored.kv.write(ops)?;
        self.header = header;
        Ok(())
    }

    pub fn free(&self) -> io::Result<u64> {
        self.stored.kv.free()
    }

    pub fn flush(&self) -> io::Result<()> {
        self.stored.kv.flush()
    }

    /// All pairs as a snapshot carries them.
    pub fn dump(&self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        self.stored.visit(&[], &[], &mut |k, v| {
            for part in [k, v] {
                out.extend_from_slice(&(part.len() as u32).to_be_bytes());
                out.extend_from_slice(part);
            }
            Ok(())
        })?;
        Ok(out)
    }
}

fn header_key(group: GroupNo) -> Vec<u8> {
    [&group.to_be_bytes()[..], &[HEADER]].concat()
}

/// Reads what [`GroupCut::dump`] wrote; None if it is something else.
pub fn undump(mut bytes: &[u8]) -> Option<Vec<Pair>> {
    fn part(bytes: &mut &[u8]) -> Option<Vec<u8>> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        *bytes = rest;
        Some(part.to_vec())
    }
    let mut pairs = Vec::new();
    while !bytes.is_empty() {
        pairs.push((part(&mut bytes)?, part(&mut bytes)?));
    }
    Some(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_storage::SimKv;

    /// The sum is on disk. Another way of adding would set every store aside after an upgrade.
    #[test]
    fn the_sum_of_a_store_is_that_of_earlier_versions() {
        assert_eq!([share(b"", b""), share(b"key", b"value"), share(&[1; 200], &[2; 70_000])], [0, 10_979_973_875_959_925_399, 8_592_305_164_762_768_677]);
    }

    #[test]
    fn what_is_dumped_is_read_again_and_nothing_else_is() {
        let mut cut = GroupCut::open(Arc::new(SimKv::default()), 300, [7; 24]).unwrap();
        let pairs: Vec<Pair> = vec![(b"a".to_vec(), vec![]), (b"b".to_vec(), vec![9; 300])];
        cut.replace(Standing::default(), pairs.clone()).unwrap();
        let dump = cut.dump().unwrap();
        assert_eq!(undump(&dump), Some(pairs));
        assert_eq!(undump(&[]), Some(vec![]));
        for end in 1..dump.len() {
            assert_eq!(undump(&dump[..end]).is_some(), end == 4 + 1 + 4, "{end} of {} bytes", dump.len());
        }
    }

    #[test]
    fn a_cut_that_does_not_add_up_or_is_anothers_is_refused() {
        let kv = Arc::new(SimKv::default());
        let mut cut = GroupCut::open(kv.clone(), 3, [7; 24]).unwrap();
        let put = |k: &[u8], v: &[u8]| (k.to_vec(), Some(v.to_vec()));
        cut.advance(Standing::default(), vec![put(b"a", b"1"), put(b"b", b"2"), (b"never".to_vec(), None)]).unwrap();
        cut.advance(Standing::default(), vec![put(b"a", b"3"), (b"b".to_vec(), None)]).unwrap();
        assert_eq!((cut.stored().get(b"a").unwrap(), cut.stored().get(b"b").unwrap()), (Some(b"3".to_vec()), None));
        assert!(GroupCut::open(kv.clone(), 3, [7; 24]).is_ok(), "it adds up");
        assert!(GroupCut::open(kv.clone(), 3, [8; 24]).is_err(), "another node's");
        assert!(GroupCut::open(kv.clone(), 4, [8; 24]).is_ok(), "another group's is empty");
        // A value that is another one, and a pair too many.
        for (key, value) in [(&b"a"[..], &b"4"[..]), (b"c", b"")] {
            let stored = cut.stored();
            let before = stored.get(key).unwrap();
            kv.write(vec![KvOp::Put(stored.key(key), value.to_vec())]).unwrap();
            assert!(GroupCut::open(kv.clone(), 3, [7; 24]).is_err(), "{key:?} was changed");
            kv.write(vec![before.map_or_else(|| KvOp::Delete(stored.key(key)), |v| KvOp::Put(stored.key(key), v))]).unwrap();
            assert!(GroupCut::open(kv.clone(), 3, [7; 24]).is_ok());
        }
    }
}
