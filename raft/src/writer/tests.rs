use super::*;
use baton_storage::{SimDisk, wal::Options};
use tokio::time::timeout;

const SEGMENT: u64 = 64 << 10;

fn start(disk: &SimDisk, pin_segments: u64) -> (LogWriter, Arc<Failure>) { start_with(disk, SEGMENT, pin_segments) }
fn start_with(disk: &SimDisk, segment: u64, pin_segments: u64) -> (LogWriter, Arc<Failure>) {
    let (wal, _) = Wal::open(disk.mount(), Options::new(segment, [7; 24])).unwrap();
    let failure = Arc::<Failure>::default();
    (LogWriter::start(wal, pin_segments, failure.clone()).unwrap(), failure)
}
fn entry(group: GroupNo, index: u64, bytes: usize) -> Rec { Rec::Entry { group, index, body: vec![7; bytes] } }
fn vote(group: GroupNo) -> Rec { Rec::Meta { group, slot: 9, body: vec![1] } }
fn submit(writer: &LogWriter, group: GroupNo, recs: Vec<Rec>) -> oneshot::Receiver<io::Result<()>> {
    let (tx, rx) = oneshot::channel();
    writer.submit(group, recs, Done::Reply(tx)).unwrap();
    rx
}
async fn write(writer: &LogWriter, group: GroupNo, recs: Vec<Rec>) -> io::Result<()> {
    timeout(Duration::from_secs(20), submit(writer, group, recs)).await.expect("the writer answers").expect("the writer lives")
}
async fn until(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} within 20 s");
}
/// So long nothing comes of what waits for room: less than the pause between two looks for it.
async fn waits(answer: &mut oneshot::Receiver<io::Result<()>>) -> bool { timeout(Duration::from_millis(50), answer).await.is_err() }

/// A disk that is full, and a log with no room left for entries; groups 1 and 2 have ten entries each.
async fn full(disk: &SimDisk) -> (LogWriter, Arc<Failure>, u64) {
    let (writer, failure) = start(disk, 4);
    for i in 1..=10 {
        write(&writer, 1, vec![entry(1, i, 100)]).await.unwrap();
        write(&writer, 2, vec![entry(2, i, 100)]).await.unwrap();
    }
    disk.set_full(true);
    let mut last = 10;
    loop {
        last += 1;
        let mut answer = submit(&writer, 1, vec![entry(1, last, 4_000)]);
        if waits(&mut answer).await {
            drop(answer);
            return (writer, failure, last);
        }
    }
}

#[tokio::test]
async fn a_full_disk_keeps_entries_waiting_and_what_is_small_goes_past_them() {
    let disk = SimDisk::new();
    let (writer, _, last) = full(&disk).await;
    until("it is known to be full", || writer.health().is_full()).await;
    timeout(Duration::from_secs(5), writer.health().changed.notified()).await.expect("whoever keeps the log small is told");
    let mut more = submit(&writer, 1, vec![entry(1, last + 1, 10)]);
    let mut behind = submit(&writer, 1, vec![]);
    let mut cut = submit(&writer, 1, vec![Rec::TruncateAfter { group: 1, after: last }]);
    let mut not_there_yet = submit(&writer, 1, vec![Rec::Purge { group: 1, upto: last }]);
    write(&writer, 1, vec![vote(1)]).await.expect("a vote goes past the entries of its own group");
    write(&writer, 2, vec![]).await.expect("nothing of this group waits");
    write(&writer, 2, vec![Rec::TruncateAfter { group: 2, after: 9 }]).await.expect("so its tail can be cut");
    write(&writer, 1, vec![Rec::Purge { group: 1, upto: 5 }]).await.expect("of what is on disk, a part may go");
    for (what, answer) in [("an entry", &mut more), ("a question for what is durable", &mut behind), ("a cut behind what waits", &mut cut), ("a purge of what is not there yet", &mut not_there_yet)] {
        assert!(waits(answer).await, "{what} waits");
    }
    // Of another group, the same question after an entry waits behind it.
    let mut other = submit(&writer, 2, vec![entry(2, 10, 4_000)]);
    assert!(waits(&mut other).await);
    disk.set_full(false);
    for answer in [more, behind, cut, not_there_yet, other] {
        timeout(Duration::from_secs(20), answer).await.expect("there is room again").unwrap().unwrap();
    }
    until("it is known that there is room", || !writer.health().is_full()).await;
    writer.stop().await;
    let (wal, logs) = Wal::open(disk.mount(), Options::new(SEGMENT, [7; 24])).unwrap();
    assert_eq!((wal.last(1), wal.last(2)), (last, 10), "in order, whatever went past");
    assert_eq!(logs[&1].meta[&9], vec![1]);
}

#[tokio::test]
async fn what_waits_when_the_node_stops_is_told_that_it_is_not_in_the_log() {
    let disk = SimDisk::new();
    let (writer, _, last) = full(&disk).await;
    let mut waiting = submit(&writer, 1, vec![entry(1, last + 1, 10)]);
    assert!(waits(&mut waiting).await);
    timeout(Duration::from_secs(5), writer.stop()).await.expect("a full disk does not hold up a stop");
    let e = waiting.await.unwrap().unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::StorageFull);
    assert!(e.to_string().contains("not in the log"), "{e}");
    until("it is known to have stopped", || writer.submit(1, vec![], Done::Nobody).is_err()).await;
    assert!(writer.marks().await.is_err());
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_written_any_more_and_everybody_is_told() {
    let disk = SimDisk::new();
    let (writer, failure) = start(&disk, 4);
    write(&writer, 1, vec![entry(1, 1, 100)]).await.unwrap();
    let (asked, marks) = writer.marks().await.unwrap();
    assert_eq!((asked, marks[&1].last), (1, 1));
    assert_eq!(writer.marks().await.unwrap().0, 2, "in the order in which they were asked for");
    disk.fail_syncs(1);
    assert!(write(&writer, 1, vec![entry(1, 2, 100)]).await.unwrap_err().to_string().contains("write-ahead log"));
    assert!(write(&writer, 2, vec![vote(2)]).await.is_err(), "the disk is well again, the log is not");
    assert!(writer.marks().await.is_err());
    let why = timeout(Duration::from_secs(5), failure.wait()).await.expect("the node is told");
    assert!(why.contains("start the node again"), "{why}");
    let before = disk.ops();
    assert!(write(&writer, 1, vec![entry(1, 2, 100)]).await.is_err());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(disk.ops(), before, "it leaves the disk alone");
    writer.stop().await;
}

#[tokio::test]
async fn the_next_segment_is_made_while_nothing_else_is_done() {
    let disk = SimDisk::new();
    let (writer, _) = start_with(&disk, 8 << 20, 4);
    write(&writer, 1, vec![entry(1, 1, 10)]).await.unwrap();
    let spare = || disk.list().unwrap().iter().any(|n| n == "spare.tmp").then(|| baton_storage::DiskFile::len(&disk.open("spare.tmp").unwrap()).unwrap());
    until("it is begun", || spare().is_some()).await;
    assert!(spare().is_some_and(|n| n < 8 << 20), "not all at once: {:?}", spare());
    until("the next segment is there", || spare() == Some(8 << 20)).await;
    let quiet = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = disk.ops();
        tokio::time::sleep(Duration::from_millis(300)).await;
        disk.ops() == before
    };
    assert!(quiet.await, "then it sleeps");
    writer.stop().await;
}

#[tokio::test]
async fn a_group_that_keeps_old_segments_is_named_and_a_log_that_is_too_large_makes_others_wait() {
    let disk = SimDisk::new();
    let (writer, _) = start(&disk, 1);
    let health = writer.health().clone();
    write(&writer, 3, vec![entry(3, 1, 10)]).await.unwrap();
    let first = health.bytes();
    assert_eq!(first, SEGMENT);
    let mut told = 0;
    for i in 1..=40 {
        write(&writer, 1, vec![entry(1, i, 8_000)]).await.unwrap();
        write(&writer, 1, vec![Rec::Purge { group: 1, upto: i }]).await.unwrap();
        told += u64::from(timeout(Duration::from_millis(1), health.changed.notified()).await.is_ok());
        // The round of the write has ended once the next question is answered.
        writer.marks().await.unwrap();
        let crowded = health.crowded.load(Ordering::Acquire);
        assert_eq!(crowded, health.bytes() >= 5 * SEGMENT, "{} bytes", health.bytes());
    }
    assert!(health.is_pinning(3) && !health.is_pinning(1));
    assert!(told >= 4, "told {told} times: once that somebody keeps old ones, and as the log grows on");
    let began = std::time::Instant::now();
    health.room().await;
    assert!(began.elapsed() >= Duration::from_millis(ROOM_WITHIN_MS), "it waits, not for ever");
    // Its snapshot lets it go.
    write(&writer, 3, vec![Rec::Purge { group: 3, upto: 1 }]).await.unwrap();
    for i in 41..=60 {
        write(&writer, 1, vec![entry(1, i, 8_000)]).await.unwrap();
        write(&writer, 1, vec![Rec::Purge { group: 1, upto: i }]).await.unwrap();
    }
    until("there is room", || !health.crowded.load(Ordering::Acquire)).await;
    assert!(!health.is_pinning(3));
    assert!(health.bytes() < 5 * SEGMENT);
    let began = std::time::Instant::now();
    health.room().await;
    assert!(began.elapsed() < Duration::from_millis(ROOM_WITHIN_MS));
    writer.stop().await;
}

#[tokio::test]
async fn much_at_once_is_written_in_parts_and_in_order() {
    let disk = SimDisk::new();
    let (writer, _) = start_with(&disk, 16 << 20, 4);
    let answers: Vec<_> = (1..=20).map(|i| submit(&writer, 1, vec![entry(1, i, 1 << 20)])).collect();
    for answer in answers {
        timeout(Duration::from_secs(20), answer).await.unwrap().unwrap().unwrap();
    }
    writer.stop().await;
    let (wal, logs) = Wal::open(disk.mount(), Options::new(16 << 20, [7; 24])).unwrap();
    assert_eq!((wal.last(1), logs[&1].entries.len()), (20, 20));
}
