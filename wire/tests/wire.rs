//! The shapes as they stand on the wire, and the table of codes.

use baton_wire::*;
use serde_json::{Value, json};

#[test]
fn heartbeat_example_is_read_and_null_equals_absent() {
    let full: HeartbeatRequest = serde_json::from_value(json!({"member_epoch":0,"incarnation":"9f0c","predecessor_dead":null,"instance_id":null,"rack":null,"capacity":null,
        "rebalance_timeout_ms":60000,"subscribed_topics":["orders"],"subscribed_regex":null,"assignor":null,
        "owned":[{"topic":"orders","partitions":[0,3]}],"assignment_revision":17,"wait_ms":null,"timeout_ms":3000})).unwrap();
    assert_eq!(full.owned, Some(vec![Owned { topic: "orders".into(), partitions: vec![0, 3] }]));
    assert_eq!((full.assignment_revision, full.wait_ms, full.predecessor_dead), (Some(17), 0, false));
    let short: HeartbeatRequest = serde_json::from_value(json!({"member_epoch":0,"incarnation":"9f0c","rebalance_timeout_ms":60000,"subscribed_topics":["orders"],
        "owned":[{"topic":"orders","partitions":[0,3]}],"assignment_revision":17,"timeout_ms":3000})).unwrap();
    assert_eq!(full, short);
    assert_eq!(serde_json::from_value::<HeartbeatRequest>(serde_json::to_value(&full).unwrap()).unwrap(), full);
}

#[test]
fn requests_refuse_unknown_fields_and_answers_do_not() {
    fn refused<T: serde::de::DeserializeOwned>(v: Value) { assert!(serde_json::from_value::<T>(v).err().expect("refused").to_string().contains("unknown field `x`")); }
    refused::<HeartbeatRequest>(json!({"member_epoch":0,"incarnation":"","x":1}));
    refused::<Owned>(json!({"topic":"t","partitions":[],"x":1}));
    refused::<CommitRequest>(json!({"offsets":[],"x":1}));
    refused::<CommitOffset>(json!({"topic":"t","partition":0,"offset":0,"x":1}));
    refused::<TopicRequest>(json!({"partitions":1,"x":1}));
    refused::<GroupConfigPatch>(json!({"x":1}));
    let p: TopicPartitions = serde_json::from_value(json!({"topic":"t","partitions":[1],"later":true})).unwrap();
    assert_eq!(p.partitions, [1]);
}

#[test]
fn heartbeat_answer_has_the_documented_shape() {
    let shape = json!({"member_id":"w3","member_epoch":7,"group_epoch":7,"member_state":"unrevoked_partitions","heartbeat_interval_ms":1000,"session_timeout_ms":15000,
        "lease_ms":12750,"assignment_revision":18,"assignment":[{"topic":"orders","topic_id":hex128(5),"partitions":[{"partition":0,"token":4182}]}],
        "pending_revocation":[{"topic":"orders","partitions":[3]}],"taken":[],"waited_at_most_ms":0});
    let read: HeartbeatResponse = serde_json::from_value(shape.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), shape);
}

#[test]
fn a_config_patch_tells_null_from_absent() {
    let p: GroupConfigPatch = serde_json::from_value(json!({"consumer.session.timeout.ms":9000,"consumer.heartbeat.interval.ms":null})).unwrap();
    assert_eq!((p.session_timeout_ms, p.heartbeat_interval_ms, p.pending_interval_ms), (Some(Some(9000)), Some(None), None));
    assert_eq!(serde_json::to_value(&p).unwrap(), json!({"consumer.session.timeout.ms":9000,"consumer.heartbeat.interval.ms":null}));
}

#[test]
fn ids_are_exactly_32_hexadecimal_digits() {
    for v in [0, 1, u128::MAX, 0x9f0c] { assert_eq!(parse_hex128(&hex128(v)), Some(v)); }
    for bad in ["", "9f0c", &"g".repeat(32), &"0".repeat(33), &format!("+{}", "0".repeat(31))] { assert_eq!(parse_hex128(bad), None, "{bad}"); }
}

#[test]
fn every_code_is_unique_complete_and_makes_a_problem() {
    let mut seen = std::collections::BTreeSet::new();
    for row in code::TABLE {
        assert!(seen.insert(row.code), "{} twice", row.code);
        assert!((400..600).contains(&row.status) && !row.title.is_empty() && row.action.ends_with('.'), "{row:?}");
        assert_eq!(row.retriable, row.status == 503 || matches!(row.code, code::REQUEST_TIMEOUT | code::MEMBER_ID_IN_USE | code::GROUP_DRAINING), "{row:?}");
        let p = Problem::new(row.code, "what happened").after(5).at_limit("x");
        assert_eq!((p.code.as_str(), p.status, p.retriable), (row.code, row.status, row.retriable));
        let v = serde_json::to_value(&p).unwrap();
        let keys: Vec<&str> = v.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["action", "code", "detail", "limit", "retriable", "retry_after_ms", "status", "title", "type"]);
        assert_eq!(serde_json::from_value::<Problem>(v).unwrap(), p);
    }
    for c in code::COMMIT { assert!(code::row(c).is_none(), "{c} belongs inside an answer"); }
    assert_eq!(Problem::new("NO_SUCH_CODE", "").code, code::INTERNAL);
}
