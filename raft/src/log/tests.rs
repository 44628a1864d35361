use super::*;
use crate::{checkpoint::Failure, types::Payload};
use baton_storage::{
    SimDisk,
    wal::{Options, Wal},
};
use openraft::{EntryPayload, impls::leader_id_std::LeaderId, vote::RaftLeaderId};

fn id(term: u64, index: u64) -> LogId { LogId::new(LeaderId::new(term, 1).to_committed(), index) }
fn entry(index: u64) -> Entry { Entry { log_id: id(2, index), payload: EntryPayload::Normal(Payload(vec![index as u8].into())) } }
fn slot(which: u8, at: LogId) -> (u8, Vec<u8>) { (which, encode(&at).unwrap()) }
fn open(stored: &GroupLog) -> io::Result<GroupStore> {
    let (wal, _) = Wal::open(SimDisk::new(), Options::new(64 << 10, [7; 24])).unwrap();
    GroupStore::open(3, stored, LogWriter::start(wal, 4, Arc::<Failure>::default()).unwrap())
}
/// The entries `from` to 9, all of term 2, and some slots.
fn stored(from: u64, slots: &[(u8, Vec<u8>)]) -> GroupLog {
    GroupLog { purged: from, last: 10, entries: (from..10).map(|i| (i + 1, encode(&entry(i)).unwrap())).collect(), meta: slots.iter().cloned().collect() }
}

#[tokio::test]
async fn a_range_of_entries_is_what_its_ends_say() {
    let mut log = open(&stored(0, &[])).unwrap();
    use Bound::{Excluded, Included, Unbounded};
    for (range, expected) in [
        ((Unbounded, Unbounded), (0..10).collect::<Vec<u64>>()), ((Included(3), Excluded(5)), vec![3, 4]), ((Excluded(3), Included(5)), vec![4, 5]), ((Unbounded, Excluded(2)), vec![0, 1]), ((Included(8), Unbounded), vec![8, 9]),
        ((Included(5), Excluded(5)), vec![]), ((Included(6), Included(4)), vec![]), ((Included(9), Included(u64::MAX)), vec![9]),
    ] {
        let found = log.try_get_log_entries(range).await.unwrap();
        assert_eq!(found.iter().map(|e| e.log_id.index).collect::<Vec<_>>(), expected, "{range:?}");
    }
}

/// What a start may find of the state beside the log (`safety.md` 28).
#[tokio::test]
async fn a_state_that_this_log_cannot_have_led_to_is_refused() {
    let says = |log: &GroupStore, at: Option<LogId>| log.allows(at).expect_err("refused").to_string();
    let whole = open(&stored(0, &[])).unwrap();
    for at in [None, Some(id(2, 0)), Some(id(2, 9))] {
        assert!(whole.allows(at).is_ok(), "{at:?}");
    }
    assert!(says(&whole, Some(id(2, 10))).contains("the log ends with entry 10"));
    assert!(says(&whole, Some(id(1, 4))).contains("of term 1, but the log has that of term 2"));
    // A snapshot of the leader that was being installed may be beyond the end: just that one.
    let announced = open(&stored(0, &[slot(SLOT_INSTALL, id(3, 20))])).unwrap();
    assert!(announced.allows(Some(id(3, 20))).is_ok());
    assert!(says(&announced, Some(id(3, 19))).contains("the state on disk is at entry 20"));
    // What was purged has to be in the state.
    let purged = open(&stored(5, &[slot(SLOT_PURGED, id(2, 4))])).unwrap();
    assert!(purged.allows(Some(id(2, 4))).is_ok() && purged.allows(Some(id(2, 7))).is_ok());
    for at in [None, Some(id(2, 3))] {
        assert!(says(&purged, at).contains("the log begins after entry 5"), "{at:?}");
    }
}

#[tokio::test]
async fn a_log_is_used_by_a_vote_by_entries_or_by_what_was_purged() {
    let with = |slot: u8, body: Vec<u8>| GroupLog { meta: [(slot, body)].into(), ..GroupLog::default() };
    let vote = Vote::new(4, 2);
    let voted = with(SLOT_VOTE, encode(&vote).unwrap());
    let used = |stored: &GroupLog| open(stored).unwrap().is_used();
    assert_eq!([used(&GroupLog::default()), used(&voted), used(&with(SLOT_PURGED, encode(&id(1, 4)).unwrap())), used(&stored(9, &[]))], [false, true, true, true]);
    assert!(has_vote(&voted) && !has_vote(&GroupLog::default()));
    assert_eq!(open(&voted).unwrap().read_vote().await.unwrap(), Some(vote));
    assert!(open(&with(SLOT_VOTE, vec![1])).is_err(), "a vote that does not read");
    let misplaced = GroupLog { last: 1, entries: [(1, encode(&entry(1)).unwrap())].into(), ..GroupLog::default() };
    assert!(open(&misplaced).map(drop).is_err_and(|e| e.to_string().contains("entry 1 is stored at 1")));
}

#[tokio::test]
async fn entries_are_counted_when_found_and_when_brought() {
    let found = stored(4, &[slot(SLOT_PURGED, id(2, 3))]);
    let size = |of: std::ops::Range<u64>| of.map(|i| encode(&entry(i)).unwrap().len() as u64).sum::<u64>();
    let mut log = open(&found).unwrap();
    assert_eq!(log.appended(), size(4..10));
    log.append([entry(10), entry(11)], IOFlushed::noop()).await.unwrap();
    assert_eq!(log.appended(), size(4..12), "only grows, whatever is purged");
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(2, 3)), Some(id(2, 11))));
    log.truncate_after(Some(id(2, 10))).await.unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(2, 10)));
    log.purge(id(2, 10)).await.unwrap();
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id, log.appended()), (Some(id(2, 10)), Some(id(2, 10)), size(4..12)));
}

#[test]
fn a_mark_keeps_no_more_than_is_there_and_committed() {
    let vote = (SLOT_VOTE, encode(&Vote::new_committed(7, 2)).unwrap());
    let of = |last, committed: Option<u64>| {
        let m = mark(last, &committed.map(|i| slot(SLOT_COMMITTED, id(5, i))).into_iter().chain([vote.clone()]).collect()).unwrap();
        (m.term, m.last, m.kept)
    };
    assert_eq!([of(9, Some(3)), of(9, Some(30)), of(9, None)], [(7, 9, 4), (7, 9, 9), (7, 9, 0)]);
    assert_eq!(mark(0, &BTreeMap::new()).unwrap().term, 0);
}
