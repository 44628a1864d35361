use super::*;
use baton_coordinator::record::{Batch, Record};
use baton_raft::Cuts;
use baton_storage::SimKv;
use std::time::Duration;
use tokio::time::timeout;

/// What a store would have of a machine's changes.
fn stored(changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Stored {
    let cuts = Cuts::open(&SimKv::default(), [7; 24], 0..2).unwrap();
    let mut cut = baton_raft::internal::cut(&cuts, 1).unwrap();
    cut.advance(cut.standing(), changes).unwrap();
    cut.stored()
}
fn created(group: &str, sequence: u64, term: Term) -> Vec<u8> {
    LogEntry { node: 1, term, base_sequence: sequence, time_ms: 5, batches: vec![Batch { group: group.into(), base_revision: 0, records: vec![Record::Created] }] }.encode()
}
fn shard() -> (Arc<ShardSlot>, ShardMachine) {
    let slot = ShardSlot::new(3, Limits::default());
    (slot.clone(), ShardMachine::new(slot))
}
fn groups(slot: &ShardSlot) -> Vec<String> { slot.shard().state().groups.keys().map(|g| g.to_string()).collect() }
async fn woken(n: &Notify) -> bool { timeout(Duration::from_millis(20), n.notified()).await.is_ok() }

#[tokio::test]
async fn a_shard_applies_what_was_decided_in_the_term_it_was_appended_in() {
    let (slot, mut machine) = shard();
    machine.apply(1, 3, &created("a", 0, 3));
    assert!(!woken(&slot.wake).await);
    machine.applied(1, 3);
    assert!(woken(&slot.wake).await, "the driver sees to it");
    machine.apply(2, 4, &created("late", 1, 3));
    machine.apply(3, 4, &created("b", 1, 4));
    machine.applied(3, 4);
    assert_eq!((groups(&slot), slot.applied(), slot.stopped()), (vec!["a".to_string(), "b".into()], 3, None));
}

#[tokio::test]
async fn a_shard_stops_at_what_it_does_not_understand_and_keeps_all_of_it() {
    let (slot, mut machine) = shard();
    machine.apply(1, 3, &created("a", 0, 3));
    let newer = [&9_999u16.to_be_bytes()[..], b"of a later version"].concat();
    machine.apply(2, 3, &newer);
    machine.apply(3, 3, &created("b", 1, 3));
    machine.applied(3, 3);
    let why = slot.stopped().expect("it stops");
    assert!(why.starts_with("entry 2: ") && why.contains("9999") && why.contains("install a version"), "{why}");
    assert_eq!((groups(&slot), slot.applied()), (vec!["a".to_string()], 3));

    // The kept entries go with the state, and are tried again where that is loaded.
    let changes = machine.freeze()();
    let (again, mut other) = shard();
    other.apply(1, 3, &created("gone", 0, 3));
    other.load(&stored(changes)).unwrap();
    assert_eq!((groups(&again), again.stopped()), (vec!["a".to_string()], Some(why)));
    assert!(woken(&again.wake).await);
    other.apply(4, 3, &created("c", 2, 3));
    assert_eq!(other.kept.iter().map(|k| k.0).collect::<Vec<_>>(), [2, 3, 4]);

    // A whole state takes the place of one that had stopped.
    let (_, mut well) = shard();
    well.apply(1, 3, &created("well", 0, 3));
    other.load(&stored(well.freeze()())).unwrap();
    assert_eq!((groups(&again), again.stopped(), other.kept.len()), (vec!["well".to_string()], None, 0));
}

#[test]
fn a_state_that_cannot_be_read_is_refused() {
    let (_, mut machine) = shard();
    machine.apply(1, 3, &created("a", 0, 3));
    let good = machine.freeze()();
    let with = |key: &[u8], value: Option<&[u8]>| {
        let mut changes = good.clone();
        changes.retain(|(k, _)| k != key);
        changes.push((key.to_vec(), value.map(<[u8]>::to_vec)));
        machine_says(stored(changes))
    };
    fn machine_says(stored: Stored) -> String { shard().1.load(&stored).err().unwrap_or_default() }
    assert_eq!(machine_says(stored(good.clone())), "");
    for (why, key, value) in [
        ("no head", HEAD, None), ("shorter than a feature level", HEAD, Some(&[1][..])), ("feature level 9999", HEAD, Some(&9_999u16.to_be_bytes()[..])),
        ("its head cannot be read", HEAD, Some(&FEATURE_LEVEL.to_be_bytes()[..])), ("group a cannot be read", b"ga", Some(b"nonsense")),
    ] {
        let said = with(key, value);
        assert!(said.contains(why), "{why}: {said}");
    }
}

/// Only what has changed is written; a group that is gone is deleted.
#[test]
fn a_cut_has_what_changed_since_the_last_one() {
    let (_, mut machine) = shard();
    machine.apply(1, 3, &created("a", 0, 3));
    machine.apply(2, 3, &created("b", 1, 3));
    let keys = |c: Vec<(Vec<u8>, Option<Vec<u8>>)>| c.into_iter().filter(|(k, _)| k.starts_with(GROUP)).map(|(k, v)| (String::from_utf8(k).unwrap(), v.is_some())).collect::<Vec<_>>();
    assert_eq!(keys(machine.freeze()()), [("ga".to_string(), true), ("gb".into(), true)]);
    assert_eq!(keys(machine.freeze()()), []);
    machine.apply(3, 3, &created("c", 2, 3));
    assert_eq!(keys(machine.freeze()()), [("gc".to_string(), true)]);
}

fn declare(name: &str) -> MetaCommand { MetaCommand::DeclareTopic { name: name.into(), partitions: 3, id_if_new: 7 } }
fn topics(slot: &MetaSlot) -> Vec<String> { slot.image().topics.keys().map(|t| t.to_string()).collect() }

#[tokio::test]
async fn a_change_of_metadata_is_told_to_everybody_and_a_refused_one_to_nobody() {
    let shards: Vec<_> = (0..2).map(|n| ShardSlot::new(n, Limits::default())).collect();
    let slot = MetaSlot::new(shards.clone());
    let mut machine = MetaMachine::new(slot.clone());
    let waits = tokio::spawn({ let slot = slot.clone(); async move { slot.wait(|m| m.topics.len() == 2).await.revision } });
    let first = decode_meta_reply(&machine.apply(1, 1, &encode_meta(&declare("a")))).unwrap().unwrap();
    for s in &shards {
        assert!(woken(&s.wake).await);
    }
    assert!(!waits.is_finished());
    let second = decode_meta_reply(&machine.apply(2, 1, &encode_meta(&declare("b")))).unwrap().unwrap();
    assert!(second > first);
    assert_eq!(timeout(Duration::from_secs(5), waits).await.unwrap().unwrap(), second);
    for s in &shards {
        assert!(woken(&s.wake).await);
    }
    let refused = decode_meta_reply(&machine.apply(3, 1, &encode_meta(&MetaCommand::DeclareTopic { name: "a".into(), partitions: 1, id_if_new: 7 }))).unwrap();
    assert!(refused.is_err(), "a topic does not shrink: {refused:?}");
    assert_eq!((slot.image().revision, slot.stopped()), (second, None));
    for s in &shards {
        assert!(!woken(&s.wake).await, "nothing has changed");
    }
}

#[test]
fn the_meta_group_stops_at_what_it_does_not_understand_and_keeps_all_of_it() {
    let slot = MetaSlot::new(vec![]);
    let mut machine = MetaMachine::new(slot.clone());
    machine.apply(1, 1, &encode_meta(&declare("a")));
    for (level, body, says) in [(9_999u16, &b""[..], "feature level 9999"), (META_LEVEL, b"", "cannot be read")] {
        assert!(decode_meta(&[&level.to_be_bytes()[..], body].concat()).unwrap_err().contains(says));
    }
    assert!(decode_meta(&[1]).unwrap_err().contains("shorter"));
    let reply = machine.apply(2, 1, &[0, 99]);
    assert!(decode_meta_reply(&reply).unwrap_err().contains("stopped"), "whoever proposed it hears that");
    assert!(decode_meta_reply(&machine.apply(3, 1, &encode_meta(&declare("b")))).is_err());
    let why = slot.stopped().expect("it stops");
    assert!(why.starts_with("entry 2: "), "{why}");
    assert_eq!(topics(&slot), ["a"]);
    let changes = machine.freeze()();
    let other = MetaSlot::new(vec![]);
    let mut again = MetaMachine::new(other.clone());
    again.load(&stored(changes)).unwrap();
    assert_eq!((topics(&other), other.stopped(), again.kept.len()), (vec!["a".to_string()], Some(why), 2));
    let well = MetaMachine::new(MetaSlot::new(vec![])).freeze()();
    again.load(&stored(well)).unwrap();
    assert_eq!((topics(&other), other.stopped(), again.kept.len()), (vec![], None, 0));
    assert!(again.load(&stored(vec![])).is_err());
}
