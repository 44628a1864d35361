//! The real folder and the key-value stores, and what the simulated disk does in a crash: the simulations are worth as much as that is true.

use baton_storage::{Crash, Disk, DiskFile, Kv, KvHome, KvOp, RealDisk, SimDisk, SimKv, SledHome, SledKv, wal::*};
use std::{io::ErrorKind::StorageFull, path::PathBuf};

fn folder(name: &str) -> PathBuf { std::env::temp_dir().join(format!("baton-{name}-{}", std::process::id())) }
fn put(k: &str) -> Vec<KvOp> { vec![KvOp::Put(k.into(), b"v".to_vec())] }

#[test]
fn a_real_folder_lists_its_files_and_tells_their_length() {
    let dir = folder("files");
    let disk = RealDisk::open(&dir).expect("opens");
    assert_eq!(disk.list().expect("listed"), Vec::<String>::new());
    let file = disk.create("a").expect("made");
    assert!(file.is_empty().expect("known"));
    file.write_at(600, b"xyz").expect("written");
    assert!(file.len().expect("known") == 603 && !file.is_empty().expect("known"));
    std::fs::create_dir(dir.join("a folder is no file")).expect("made");
    disk.create("b").and_then(|_| disk.rename("a", "c")).and_then(|()| disk.sync_dir()).expect("renamed");
    let mut names = disk.list().expect("listed");
    names.sort();
    assert_eq!(names, ["b", "c"]);
    let mut bytes = [9; 4];
    disk.open("c").expect("opens").read_at(599, &mut bytes).expect("read");
    assert_eq!(&bytes, b"\0xyz");
    assert!(file.read_at(601, &mut bytes).is_err(), "the whole buffer or an error");
    disk.remove("c").expect("removed");
    assert_eq!((disk.list().expect("listed"), disk.open("c").is_err()), (vec!["b".into()], true));
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn a_log_in_a_real_folder_is_read_back() {
    let dir = folder("log");
    let options = || Options::new(8192, *b"test-cluster-and-node-01");
    let (mut wal, _) = Wal::open(RealDisk::open(&dir).expect("opens"), options()).expect("opens");
    (1..=60).for_each(|index| wal.commit(&[Rec::Entry { group: 1, index, body: vec![index as u8; 400] }]).expect("committed"));
    wal.commit(&[Rec::Purge { group: 1, upto: 50 }]).expect("committed");
    drop(wal);
    let (_, logs) = Wal::open(RealDisk::open(&dir).expect("opens"), options()).expect("opens again");
    assert!(logs[&1].purged == 50 && logs[&1].entries.len() == 10 && logs[&1].entries[&60] == [60; 400]);
    let _ = std::fs::remove_dir_all(&dir);
}

/// A node sheds work by it, so it must be bytes: a machine that runs this has more than 16 MiB left, and 16 Mi blocks divided by their size it has not.
#[test]
fn the_free_room_of_a_store_is_told_in_bytes() {
    let dir = folder("free");
    assert!(SledKv::open(&dir).expect("opens").free().expect("known") > 16 << 20);
    let _ = std::fs::remove_dir_all(&dir);
}

/// Whatever is in the way is kept, under a name that is not taken yet.
#[test]
fn a_real_store_is_set_aside_under_a_new_name() {
    let dir = folder("aside");
    let home = SledHome(dir.join("state"));
    for n in 1..=2 {
        let kv = home.open().expect("opens");
        assert_eq!(kv.scan(b"").expect("read"), vec![], "an empty one");
        kv.write(put(&format!("of life {n}"))).and_then(|()| kv.flush()).expect("written");
        drop(kv);
        let name = home.set_aside().expect("set aside");
        assert_eq!(name, dir.join(format!("state.damaged-{n}")).display().to_string());
        let kept = SledKv::open(&PathBuf::from(&name)).expect("it is whole").scan(b"").expect("read");
        assert_eq!(kept[0].0, format!("of life {n}").into_bytes());
    }
    assert!(home.set_aside().is_err(), "nothing is there");
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn the_simulated_store_is_full_set_aside_and_taken_back_as_a_real_one() {
    let kv = SimKv::default();
    kv.write(put("a")).and_then(|()| kv.write(put("b"))).expect("written");
    assert_eq!(kv.unsynced(), 2);
    kv.flush().expect("flushed");
    assert_eq!(kv.unsynced(), 0);
    kv.set_full(true);
    assert_eq!((kv.write(put("c")).expect_err("full").kind(), kv.free().expect("known")), (StorageFull, 0));
    assert_eq!(kv.get(b"c").expect("read"), None);
    kv.set_full(false);
    assert_eq!((kv.write(put("c")).is_ok(), kv.free().expect("known")), (true, u64::MAX));
    kv.break_it();
    assert!(kv.open().is_err() && kv.set_aside_count() == 0);
    kv.set_aside().expect("set aside");
    assert_eq!(kv.open().expect("an empty one opens").scan(b"").expect("read"), vec![]);
    assert_eq!((kv.set_aside().expect("once more"), kv.set_aside_count()), ("the simulated store 2".into(), 2));
}

/// Three synced sectors of 1, each written over with 2, and three more behind them: with the crash and its random numbers, what is in each sector.
fn after(kind: Crash, random: fn(u64) -> u64) -> Vec<u8> {
    let disk = SimDisk::new();
    let file = disk.create("f").expect("made");
    file.write_at(0, &[1; 3 * 512]).and_then(|()| file.sync_data()).and_then(|()| disk.sync_dir()).expect("durable");
    file.write_at(0, &[2; 6 * 512]).expect("written");
    disk.crash(kind, &mut { random });
    let file = disk.mount().open("f").expect("its name is durable");
    let mut bytes = vec![0; file.len().expect("known") as usize];
    file.read_at(0, &mut bytes).expect("read");
    bytes.chunks(512).map(|s| s[0]).collect()
}
#[test]
fn a_crash_of_the_simulated_disk_keeps_what_its_kind_says() {
    assert_eq!(after(Crash::LoseUnsynced, |n| n - 1), [1, 1, 1]);
    assert_eq!(after(Crash::KeepAll, |_| 0), [2, 2, 2, 2, 2, 2]);
    assert_eq!(after(Crash::KeepPrefix, |n| 2.min(n - 1)), [2, 2, 1]);
    assert_eq!(after(Crash::KeepSuffix, |n| 2.min(n - 1)), [1, 1, 2]);
    // Of the growth (1,536 bytes) all of it, in whole sectors.
    assert_eq!(after(Crash::KeepSuffix, |n| if n == 1537 { 1536 } else { 4 }), [1, 1, 1, 0, 2, 2]);
    assert_eq!(after(Crash::KillProcess, |_| 0), [2, 2, 2, 2, 2, 2]);
}

/// What Linux does: after a failed sync the pages count as clean, so the next sync, of another sector, does not write them.
#[test]
fn a_failed_sync_of_the_simulated_disk_is_not_made_good_by_the_next() {
    let disk = SimDisk::new();
    let file = disk.create("f").expect("made");
    file.write_at(0, &[1; 1024]).and_then(|()| file.sync_data()).and_then(|()| disk.sync_dir()).expect("durable");
    disk.fail_syncs(1);
    file.write_at(0, &[2; 512]).expect("written");
    assert!(file.sync_data().is_err());
    file.write_at(512, &[3; 512]).and_then(|()| file.sync_data()).expect("synced");
    disk.crash(Crash::LoseUnsynced, &mut |_| 0);
    let mut bytes = [0; 1024];
    disk.mount().open("f").expect("opens").read_at(0, &mut bytes).expect("read");
    assert_eq!((bytes[0], bytes[512]), (1, 3));
}
