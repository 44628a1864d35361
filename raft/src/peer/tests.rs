use super::*;
use crate::identity::{Claim, Identity};
use crate::marks::Marks;
use crate::writer::LogWriter;
use crate::{api::RaftConfig, checkpoint::Failure};
use baton_storage::SimDisk;
use baton_storage::wal::{Options, Rec, Wal};
use tokio::io::duplex;

/// Refuses whoever has directory 13, and notes what it hears.
#[derive(Debug, Default)]
struct Judge { directory: u128, heard: Mutex<Vec<String>>, reason: String }
impl Identity for Judge {
    fn claim(&self) -> Claim { Claim { cluster: 5, directory: self.directory } }
    fn judge(&self, _: NodeId, claim: &Claim) -> Result<(), String> { if claim.cluster == 5 && claim.directory == 13 { Err(self.reason.clone()) } else { Ok(()) } }
    fn refused(&self, by: NodeId, reason: &str) { self.heard.lock().unwrap().push(format!("{by} refused: {reason}")); }
    fn met(&self, peer: NodeId) { self.heard.lock().unwrap().push(format!("met {peer}")); }
}

struct Side { own: Own, judge: Arc<Judge>, writer: LogWriter, failure: Arc<Failure> }
fn side(node: NodeId, secret: &[u8], directory: u128) -> Side {
    let (wal, _) = Wal::open(SimDisk::new(), Options::new(64 << 10, [7; 24])).unwrap();
    let failure = Arc::<Failure>::default();
    let writer = LogWriter::start(wal, 4, failure.clone()).unwrap();
    let mut folder = [0; 24];
    folder[8..].copy_from_slice(&directory.to_be_bytes());
    let judge = Arc::new(Judge { directory, reason: "folder 13 is gone".into(), ..Judge::default() });
    let config = RaftConfig { node, secret: secret.to_vec(), identity: judge.clone(), ..RaftConfig::default() };
    Side { own: Own::of(&config, Marks::new(folder, writer.clone(), failure.clone())), judge, writer, failure }
}
/// What the connecting and the accepting side make of each other; `to` is whom the first one means.
async fn meet(a: &Side, b: &Side, to: NodeId) -> (Result<(), String>, Result<NodeId, String>) {
    let (mut x, mut y) = duplex(4096);
    let greets = async {
        let r = greet(&mut x, &a.own, to).await;
        drop(x);
        r
    };
    let welcomes = async {
        let r = welcome(&mut y, &b.own).await;
        drop(y);
        r
    };
    let (greeted, welcomed) = tokio::join!(greets, welcomes);
    (greeted.map_err(|e| e.to_string()), welcomed.map_err(|e| e.to_string()))
}

#[tokio::test]
async fn nodes_of_one_cluster_meet_whatever_their_numbers() {
    let (a, b) = (side(0x0102_0304_0506_0708, b"secret", 1), side(0xf0f1_0000_0000_0300, b"secret", 2));
    assert_eq!(meet(&a, &b, 0xf0f1_0000_0000_0300).await, (Ok(()), Ok(0x0102_0304_0506_0708)));
    assert_eq!(meet(&b, &a, 0x0102_0304_0506_0708).await, (Ok(()), Ok(0xf0f1_0000_0000_0300)));
    assert_eq!(*a.judge.heard.lock().unwrap(), [format!("met {}", 0xf0f1_0000_0000_0300u64)]);
}

#[tokio::test]
async fn whoever_does_not_belong_is_told_why_and_gets_nothing_through() {
    let (a, b) = (side(1, b"secret", 1), side(2, b"secret", 2));
    let (greeted, welcomed) = meet(&side(1, b"other", 1), &b, 2).await;
    assert!(greeted.unwrap_err().contains("the peer refused") && welcomed.unwrap_err().contains("wrong cluster secret"));
    let (greeted, welcomed) = meet(&a, &b, 3).await;
    assert!(greeted.is_err() && welcomed.unwrap_err().contains("meant for another node"));

    // A folder that the acceptor knows better, and one that the connecting side does.
    let old = side(1, b"secret", 13);
    let (greeted, welcomed) = meet(&old, &b, 2).await;
    assert_eq!((greeted, welcomed), (Err("node 2 refused: folder 13 is gone".into()), Err("node 1: folder 13 is gone".into())));
    assert_eq!(*old.judge.heard.lock().unwrap(), ["2 refused: folder 13 is gone"]);
    let (greeted, welcomed) = meet(&a, &side(2, b"secret", 13), 2).await;
    assert_eq!((greeted, welcomed), (Err("folder 13 is gone".into()), Ok(1)));
    assert!(a.judge.heard.lock().unwrap().is_empty(), "not met");

    // A reason that does not fit is cut.
    let mut long = side(2, b"secret", 2);
    long.judge = Arc::new(Judge { directory: 2, reason: "x".repeat(300), ..Judge::default() });
    let config = RaftConfig { node: 2, secret: b"secret".to_vec(), identity: long.judge.clone(), ..RaftConfig::default() };
    long.own = Own::of(&config, long.own.marks.clone());
    assert_eq!(meet(&old, &long, 2).await.0, Err(format!("node 2 refused: {}", "x".repeat(255))));
}

#[tokio::test]
async fn an_impostor_and_another_version_are_found_out() {
    let a = side(1, b"secret", 1);
    for (says, why) in [(&b"BATPEER2"[..], "another format version"), (b"BATPEER3", "does not know the cluster secret")] {
        let (mut x, mut y) = duplex(4096);
        let impostor = async {
            y.write_all(says).await.unwrap();
            y.write_all(&[9; 16]).await.unwrap();
            let mut said = vec![0; 8 + 8 + 8 + 16 + 32 + 32];
            if y.read_exact(&mut said).await.is_ok() {
                // Takes the claim, with a proof that it has made up.
                y.write_all(&[0; 32 + 2 + 32]).await.unwrap();
            }
        };
        let greets = async {
            let r = greet(&mut x, &a.own, 2).await;
            drop(x);
            r
        };
        let (greeted, ()) = tokio::join!(greets, impostor);
        let e = greeted.unwrap_err().to_string();
        assert!(e.contains(why), "{e}");
    }
    let (mut x, mut y) = duplex(4096);
    x.write_all(b"BATPEER2").await.unwrap();
    x.write_all(&[1; 8 + 8 + 16 + 32 + 32]).await.unwrap();
    assert!(welcome(&mut y, &a.own).await.unwrap_err().to_string().contains("another format version"));
}

#[test]
fn a_refusal_is_logged_once_in_ten_seconds() {
    let own = side(1, b"secret", 1).own;
    assert!(own.is_news("one") && !own.is_news("one") && own.is_news("two") && own.is_news("one"));
    own.age_the_last_refusal(Duration::from_millis(9_900));
    assert!(!own.is_news("one"));
    own.age_the_last_refusal(Duration::from_millis(200));
    assert!(own.is_news("one") && !own.is_news("one"));
}

/// Both compare what the other says that its disk holds.
async fn statements(a: &Side, b: &Side) -> (Result<(), String>, Result<(), String>) {
    let (mut x, mut y) = duplex(4096);
    let both = tokio::join!(compare(&mut x, &a.own.marks, b.own.node), compare(&mut y, &b.own.marks, a.own.node));
    (both.0.map_err(|e| e.to_string()), both.1.map_err(|e| e.to_string()))
}

#[tokio::test]
async fn a_folder_that_went_back_is_refused_by_whoever_saw_more_of_it() {
    let (a, b) = (side(1, b"secret", 1), side(2, b"secret", 2));
    let (tx, rx) = oneshot::channel();
    let body = crate::types::encode(&crate::types::Vote::new(7, 1)).unwrap();
    a.writer.submit(1, vec![Rec::Meta { group: 1, slot: 1, body }], crate::writer::Done::Reply(tx)).unwrap();
    rx.await.unwrap().unwrap();
    assert_eq!(statements(&a, &b).await, (Ok(()), Ok(())));
    let restored = side(1, b"secret", 1);
    let (mine, theirs) = statements(&restored, &b).await;
    assert_eq!(mine, Err("the peer refuses what is on this disk".into()));
    assert_eq!(theirs, Err("the peer's folder was restored from an old copy".into()));
    let why = timeout(Duration::from_secs(5), restored.failure.wait()).await.expect("the node hears of it");
    assert!(why.contains("node 2 refuses") && why.contains("was at 7 before"), "{why}");

    // No length is believed.
    let (mut x, mut y) = duplex(64);
    x.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    let (read, _) = tokio::join!(compare(&mut y, &b.own.marks, 9), async { tokio::time::sleep(Duration::from_millis(20)).await; drop(x) });
    assert!(read.is_err());
}

// ---- frames and connections

#[test]
fn frames_come_out_as_they_went_in_and_nonsense_is_refused() {
    let mut bytes = BytesMut::new();
    put_frame(&mut bytes, 0x0102_0304_0506_0708, 300, 6, b"body");
    put_frame(&mut bytes, 2, 1, PING, b"");
    let whole = bytes.clone();
    for cut in 0..4 + HEADER + 4 {
        assert!(take_frame(&mut BytesMut::from(&whole[..cut])).unwrap().is_none(), "{cut} bytes are no frame");
    }
    let first = take_frame(&mut bytes).unwrap().unwrap();
    assert_eq!((first.id, first.group, first.kind, &first.body[..]), (0x0102_0304_0506_0708, 300, 6, &b"body"[..]));
    let second = take_frame(&mut bytes).unwrap().unwrap();
    assert_eq!((second.id, second.group, second.kind, second.body.len()), (2, 1, PING, 0));
    assert!(take_frame(&mut bytes).unwrap().is_none() && bytes.is_empty());
    for length in [0, HEADER as u32 - 1, MAX_FRAME as u32 + 1, u32::MAX] {
        assert!(take_frame(&mut BytesMut::from(&length.to_be_bytes()[..])).is_err(), "{length}");
    }
    for length in [HEADER as u32, MAX_FRAME as u32] {
        assert!(take_frame(&mut BytesMut::from(&length.to_be_bytes()[..])).unwrap().is_none(), "{length}: to be continued");
    }
}

/// Takes connections of peers and answers what it is sent: "slow …" after 200 ms, "never" not at all.
async fn serves(side: &Side, closing: &Arc<AtomicBool>) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let node = side.own.node;
    let handler: Handler = Arc::new(move |from, group, kind, body| {
        Box::pin(async move {
            match &body[..] {
                b"never" => std::future::pending().await,
                b"slow" => tokio::time::sleep(Duration::from_millis(200)).await,
                _ => {}
            }
            [format!("{node} has from {from} in {group} of kind {kind}: ").as_bytes(), &body[..body.len().min(20)]].concat()
        })
    });
    (address, tokio::spawn(serve(listener, side.own.clone(), handler, closing.clone())))
}
async fn asks(peers: &Peers, body: &[u8], patience_ms: u64) -> Result<String, PeerError> {
    peers.call(2, 7, 5, body.to_vec(), false, Duration::from_millis(patience_ms)).await.map(|b| String::from_utf8(b).unwrap())
}

#[tokio::test]
async fn answers_find_their_questions_whatever_their_order_and_size() {
    let (a, b, closing) = (side(1, b"secret", 1), side(2, b"secret", 2), Arc::default());
    let (address, task) = serves(&b, &closing).await;
    let peers = Peers::new(a.own.clone(), BTreeMap::from([(1, "127.0.0.1:1".into()), (2, address), (3, "127.0.0.1:1".into())]));
    assert_eq!(peers.known(), [2, 3], "all but itself");
    let (slow, quick) = tokio::join!(asks(&peers, b"slow", 5_000), asks(&peers, b"quick", 5_000));
    assert_eq!((slow.unwrap(), quick.unwrap()), ("2 has from 1 in 7 of kind 5: slow".into(), "2 has from 1 in 7 of kind 5: quick".into()));
    assert_eq!(asks(&peers, &[b'x'; 24 << 20], 20_000).await.unwrap(), format!("2 has from 1 in 7 of kind 5: {}", "x".repeat(20)));
    match asks(&peers, &vec![0; MAX_FRAME - HEADER + 1], 5_000).await {
        Err(PeerError::NotSent(why)) => assert!(why.contains("too large"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(asks(&peers, b"never", 100).await, Err(PeerError::Unknown(why)) if why.contains("in time")));
    assert!(matches!(peers.call(9, 0, 5, vec![], false, Duration::from_secs(1)).await, Err(PeerError::NotSent(why)) if why.contains("no address")));
    let began = Instant::now();
    assert!(matches!(peers.call(3, 0, 5, vec![], false, Duration::from_secs(5)).await, Err(PeerError::NotSent(_))), "nobody listens there");
    assert!(began.elapsed() < Duration::from_secs(3));
    // It has moved; what is asked from now on goes there.
    let (elsewhere, second) = serves(&side(2, b"secret", 3), &closing).await;
    task.abort();
    peers.learn(2, &elsewhere);
    assert!(asks(&peers, b"quick", 5_000).await.is_ok());
    peers.close();
    assert!(asks(&peers, b"quick", 5_000).await.is_ok(), "a new connection");
    second.abort();
}

#[tokio::test]
async fn a_peer_that_works_for_long_is_waited_for_and_one_that_is_silent_is_not() {
    let (a, b, closing) = (side(1, b"secret", 1), side(2, b"secret", 2), Arc::default());
    let (address, task) = serves(&b, &closing).await;
    let peers = Peers::new(a.own.clone(), BTreeMap::from([(2, address)]));
    let began = Instant::now();
    assert!(matches!(asks(&peers, b"never", 1_600).await, Err(PeerError::Unknown(why)) if why.contains("in time")), "it gives signs of life: no reason to break the connection");
    assert!(began.elapsed() >= Duration::from_millis(1_600));
    task.abort();

    // This one opens as it should, and then only listens.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    peers.learn(2, &listener.local_addr().unwrap().to_string());
    let mute = async {
        let mut stream = listener.accept().await.unwrap().0;
        welcome(&mut stream, &b.own).await.unwrap();
        compare(&mut stream, &b.own.marks, 1).await.unwrap();
        let mut input = BytesMut::new();
        let mut kinds = Vec::new();
        while stream.read_buf(&mut input).await.is_ok_and(|n| n > 0) {
            while let Some(f) = take_frame(&mut input).unwrap() {
                kinds.push((f.kind, f.id));
            }
        }
        kinds
    };
    let began = Instant::now();
    let (answer, heard) = tokio::join!(asks(&peers, b"hello", 10_000), mute);
    let silent = began.elapsed();
    assert!(matches!(answer, Err(PeerError::Unknown(why)) if why.contains("broke")));
    assert_eq!(heard, [(5, 1), (PING, 0)], "the question, and one more for a sign of life");
    assert!(silent >= STALL && silent < STALL + Duration::from_millis(1_500), "{silent:?}");
}

#[tokio::test]
async fn a_node_that_stops_answers_nothing_more() {
    let (a, b, closing) = (side(1, b"secret", 1), side(2, b"secret", 2), Arc::new(AtomicBool::new(false)));
    let (address, task) = serves(&b, &closing).await;
    let peers = Peers::new(a.own.clone(), BTreeMap::from([(2, address)]));
    assert!(asks(&peers, b"quick", 5_000).await.is_ok());
    closing.store(true, Ordering::SeqCst);
    assert!(matches!(asks(&peers, b"quick", 5_000).await, Err(PeerError::Unknown(why)) if why.contains("broke")));
    task.abort();
}

/// One caller gave up before there was a connection: nothing of it is sent later.
#[tokio::test]
async fn what_its_caller_has_given_up_is_not_sent() {
    let (a, b) = (side(1, b"secret", 1), side(2, b"secret", 2));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peers = Peers::new(a.own.clone(), BTreeMap::from([(2, listener.local_addr().unwrap().to_string())]));
    // The handshake is not answered: the first call waits for it, the second behind it.
    let (first, second) = tokio::join!(asks(&peers, b"first", 100), asks(&peers, b"second", 200));
    assert!(matches!((first, second), (Err(PeerError::Unknown(_)), Err(PeerError::Unknown(_)))));
    let silent = listener.accept().await.unwrap().0;
    let again = async {
        tokio::time::sleep(HANDSHAKE + Duration::from_millis(300)).await;
        asks(&peers, b"third", 5_000).await
    };
    let serves = async {
        let mut stream = listener.accept().await.unwrap().0;
        welcome(&mut stream, &b.own).await.unwrap();
        compare(&mut stream, &b.own.marks, 1).await.unwrap();
        let mut input = BytesMut::new();
        let frame = loop {
            stream.read_buf(&mut input).await.unwrap();
            if let Some(f) = take_frame(&mut input).unwrap() { break f }
        };
        assert_eq!(&frame.body[..], b"third");
        let mut out = BytesMut::new();
        put_frame(&mut out, frame.id, 0, 0, b"done");
        write_out(&mut stream, &mut out).await.unwrap();
        assert!(out.is_empty());
    };
    let (answer, ()) = tokio::join!(again, serves);
    assert_eq!(answer.unwrap(), "done");
    drop(silent);
}
