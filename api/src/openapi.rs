//! The description of the API that tools read. Written by hand; a test holds it against the routes and the wire types.

use crate::routes::ROUTES;
use baton_coordinator::config::Setting;
use serde_json::{Map, Value, json};

/// The document of `/openapi.json` (OpenAPI 3.1).
pub fn document() -> Value {
    let mut paths = Map::new();
    for (method, path) in ROUTES {
        let entry = paths.entry(path.to_string()).or_insert_with(|| json!({}));
        entry[*method] = operation(method, path);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Baton", "version": env!("CARGO_PKG_VERSION"), "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Consumer groups over HTTP. Any node answers; x-baton-leader names the one that answers directly. Absent means the same as null in requests."
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "headers": {"Leader": {"description": "host:port of the node that answers this directly, once it is known.", "schema": {"type": "string"}}},
            "responses": {"Problem": {
                "description": "Not carried out, or (503) not for certain. `code` says why, `action` what to do.",
                "headers": {
                    "x-baton-leader": {"$ref": "#/components/headers/Leader"},
                    "Retry-After": {"description": "Seconds; on 503 and 429, and wherever retry_after_ms is set.", "schema": {"type": "integer"}}
                },
                "content": {"application/problem+json": {"schema": reference("Problem")}}
            }}
        }
    })
}

fn reference(name: &str) -> Value { json!({"$ref": format!("#/components/schemas/{name}")}) }

/// What an operation is, takes and answers: (summary, request schema, answer schema or none for 204, query).
fn facts(method: &str, path: &str) -> (&'static str, Option<&'static str>, Option<&'static str>, Vec<Value>) {
    let q = |name: &str, kind: &str, what: &str| json!({"name": name, "in": "query", "required": false, "description": what, "schema": {"type": kind}});
    let needed = |name: &str, kind: &str, what: &str| json!({"name": name, "in": "query", "required": true, "description": what, "schema": {"type": kind}});
    let lists = || vec![q("prefix", "string", "Only names that start with this."), q("page", "string", "The next of the page before.")];
    match (method, path.rsplit('/').next().unwrap_or("")) {
        ("post", "heartbeat") => ("Join (member_epoch 0), renew the lease, confirm revocations, wait for news", Some("HeartbeatRequest"), Some("HeartbeatResponse"), vec![]),
        ("delete", "{member}") => ("Leave (incarnation and assignment_revision) or, as an administrator, remove a member (force)", None, None, vec![
            q("incarnation", "string", "Of the process that leaves."),
            q("assignment_revision", "integer", "The last assignment that it has fully applied."),
            q("force", "boolean", "An administrator's removal; then without the other two. The member's partitions are held until it must have stopped."),
        ]),
        ("put", "offsets") => ("Commit offsets, as a member or (on an empty group, without member fields) as an administrator", Some("CommitRequest"), Some("CommitResponse"), vec![]),
        ("get", "offsets") => ("Committed offsets", None, Some("OffsetsResponse"), vec![q("topic", "string", "Only of this topic."), q("partition", "integer", "Only of this partition of the topic.")]),
        ("delete", "offsets") => ("Forget the offsets of a topic", None, Some("DeleteOffsetsResponse"), vec![needed("topic", "string", "Whose offsets are forgotten.")]),
        ("get", "groups") => ("Groups, in the order of their names", None, Some("GroupPage"), {
            let mut all = vec![q("state", "string", "empty, assigning, reconciling, stable or dead."), q("type", "string", "consumer.")];
            all.extend(lists());
            all
        }),
        ("get", "{group}") => ("One group, its members, what is held and why it is not stable", None, Some("GroupView"), at_revision()),
        ("delete", "{group}") => ("Delete an empty group", None, None, vec![q("force", "boolean", "Also while partitions are held: gives up the promise of one owner for them.")]),
        ("post", "repair") => ("Lift the quarantine of a group after a fault", None, None, vec![]),
        ("get", "assignment") => ("Every partition with its owner and token", None, Some("AssignmentResponse"), at_revision()),
        ("get", "history") => ("Why and how the group changed, oldest first", None, Some("HistoryResponse"), vec![
            q("since", "integer", "From this revision on; the next of the answer before."),
            q("member", "string", "Only changes that are about this member."),
            q("partition", "string", "Only changes that move this partition: topic:number."),
        ]),
        ("get", "config") => ("The group's settings, whether it exists or not", None, Some("GroupConfig"), vec![]),
        ("patch", "config") => ("Change settings; null sets one back to its default", Some("GroupConfigPatch"), Some("GroupConfig"), vec![]),
        ("get", "topics") => ("Topics, in the order of their names", None, Some("TopicPage"), lists()),
        ("put", "{topic}") => ("Declare a topic or add partitions to it; idempotent", Some("TopicRequest"), Some("TopicView"), vec![]),
        ("get", "{topic}") => ("One topic", None, Some("TopicView"), vec![]),
        ("get", "layout") => ("What assignors may know of a topic's partitions: zones and weights", None, Some("TopicLayout"), vec![]),
        ("put", "layout") => ("Replace it; groups look at it when they next compute a target", Some("TopicLayout"), Some("TopicLayout"), vec![]),
        ("delete", "{topic}") => ("Delete a topic", None, None, vec![]),
        ("get", "cluster") => ("Nodes and shards as the answering node sees them", None, Some("ClusterView"), vec![]),
        ("get", "metrics") => ("Counters and gauges in the text format of Prometheus", None, Some("text"), vec![]),
        ("get", "healthz") => ("The process lives", None, Some("text"), vec![]),
        ("get", "readyz") => ("The node can serve", None, Some("text"), vec![]),
        ("get", "openapi.json") => ("This document", None, Some("any"), vec![]),
        _ => ("", None, None, vec![]),
    }
}

/// The revision of topics and settings that an answer must not be older than.
fn at_revision() -> Vec<Value> {
    vec![json!({"name": "min_meta_revision", "in": "query", "schema": {"type": "integer"}, "description": "Not older than this, which x-baton-meta-revision told at a change."})]
}

fn operation(method: &str, path: &str) -> Value {
    let (summary, body, answer, query) = facts(method, path);
    let mut parameters: Vec<Value> = vec![];
    for part in path.split('/').filter_map(|p| p.strip_prefix('{')?.strip_suffix('}')) {
        parameters.push(json!({"name": part, "in": "path", "required": true, "schema": {"type": "string"}}));
    }
    parameters.extend(query);
    let headers = json!({"x-baton-leader": {"$ref": "#/components/headers/Leader"}});
    let (status, fine) = match answer {
        None => ("204", json!({"description": "Done.", "headers": headers})),
        Some("text") => ("200", json!({"description": "Text.", "headers": headers, "content": {"text/plain": {"schema": {"type": "string"}}}})),
        Some("any") => ("200", json!({"description": "JSON.", "headers": headers, "content": {"application/json": {"schema": {"type": "object"}}}})),
        Some(schema) => ("200", json!({"description": "Done.", "headers": headers, "content": {"application/json": {"schema": reference(schema)}}})),
    };
    let mut op = json!({"summary": summary, "operationId": operation_id(method, path), "parameters": parameters,
        "responses": {status: fine, "default": {"$ref": "#/components/responses/Problem"}}});
    if let Some(schema) = body { op["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": reference(schema)}}}); }
    op
}

fn operation_id(method: &str, path: &str) -> String {
    let words: Vec<&str> = path.split(['/', '{', '}', '.']).filter(|w| !w.is_empty() && *w != "v1").collect();
    format!("{method}_{}", words.join("_"))
}

/// One object. A name that ends with `!` is required, one that ends with `?` may be null.
fn object(strict: bool, fields: &[(&str, Value)]) -> Value {
    let (mut properties, mut required) = (Map::new(), vec![]);
    for (name, schema) in fields {
        let plain = name.trim_end_matches(['!', '?']);
        if name.contains('!') { required.push(json!(plain)); }
        let schema = if name.contains('?') { json!({"anyOf": [schema, {"type": "null"}]}) } else { schema.clone() };
        properties.insert(plain.to_string(), schema);
    }
    let mut out = json!({"type": "object", "properties": properties, "required": required});
    if strict { out["additionalProperties"] = json!(false); }
    out
}

fn schemas() -> Value {
    let mut all = Map::new();
    for (name, schema) in request_schemas().into_iter().chain(member_schemas()).chain(group_schemas()).chain(other_schemas()) { all.insert(name.to_string(), schema); }
    Value::Object(all)
}

fn string() -> Value { json!({"type": "string"}) }
fn boolean() -> Value { json!({"type": "boolean"}) }
fn epoch() -> Value { json!({"type": "integer", "format": "int32"}) }
fn partition() -> Value { json!({"type": "integer", "format": "int32", "minimum": 0}) }
fn count() -> Value { json!({"type": "integer", "format": "int64", "minimum": 0}) }
fn id128() -> Value { json!({"type": "string", "pattern": "^[0-9a-fA-F]{32}$"}) }
fn list(of: Value) -> Value { json!({"type": "array", "items": of}) }
fn one_of(words: &[&str]) -> Value { json!({"type": "string", "enum": words}) }
fn told(mut schema: Value, what: &str) -> Value { schema["description"] = json!(what); schema }

fn request_schemas() -> Vec<(&'static str, Value)> {
    vec![
        ("HeartbeatRequest", object(true, &[
            ("member_epoch!", told(epoch(), "0 joins or rejoins; above 0: the member's epoch.")),
            ("incarnation!", told(id128(), "Drawn anew at every process start.")),
            ("predecessor_dead?", told(boolean(), "Your word that every earlier process under this member id is dead.")),
            ("instance_id?", string()),
            ("rack?", string()),
            ("capacity?", told(count(), "How much it can carry beside the others, 0 to 1,000,000; never said: 1. Looked at by weighted.")),
            ("rebalance_timeout_ms?", told(count(), "1,000 to 3,600,000; at a join by default 60,000.")),
            ("subscribed_topics?", told(list(string()), "At most 1,000; null: unchanged.")),
            ("subscribed_regex?", told(string(), "Topics whose whole name matches this RE2 expression, beside the named ones; an empty string takes it back.")),
            ("assignor?", told(string(), "uniform, range, rack-aware or weighted; the one that most members name is used.")),
            ("owned?", told(list(reference("TopicPartitions")), "What the member uses now; null confirms nothing.")),
            ("assignment_revision?", told(count(), "The last assignment that the member has fully applied.")),
            ("wait_ms?", told(count(), "Hold the answer until something changes, at most so long; capped at min(10,000, lease_ms / 3).")),
            ("timeout_ms?", told(count(), "How long you wait for the answer besides wait_ms; by default 5,000, at most 30,000.")),
        ])),
        ("CommitRequest", object(true, &[
            ("member_id?", told(string(), "The three member fields are given together, or none of them by an administrator.")),
            ("incarnation?", id128()),
            ("commit_seq?", told(count(), "Grows with every commit of one incarnation.")),
            ("timeout_ms?", count()),
            ("offsets!", told(list(reference("CommitOffset")), "At most 10,000.")),
        ])),
        ("CommitOffset", object(true, &[
            ("topic!", string()), ("partition!", partition()), ("token?", told(count(), "Of the grant; a member's commit needs it.")),
            ("offset!", count()), ("metadata?", told(string(), "At most 4,096 bytes.")), ("leader_epoch?", epoch()),
        ])),
        ("TopicLayout", object(true, &[
            ("zones?", told(list(list(string())), "By partition: the zones where it is near, at most 16. Looked at by rack-aware.")),
            ("weights?", told(list(json!({"type": "integer", "minimum": 1, "maximum": 1_000_000})), "By partition: its weight. Looked at by weighted.")),
        ])),
        ("TopicRequest", object(true, &[("partitions!", told(partition(), "1 to 100,000; a topic never shrinks."))])),
        ("GroupConfigPatch", object(true, &config_fields("?"))),
    ]
}

fn config_fields(mark: &str) -> [(&'static str, Value); 6] {
    let names = if mark == "?" {
        ["consumer.session.timeout.ms?", "consumer.heartbeat.interval.ms?", "consumer.heartbeat.interval.pending.ms?", "consumer.assignment.interval.ms?", "offsets.retention.minutes?", "consumer.assignment.moves.max?"]
    } else {
        ["consumer.session.timeout.ms!", "consumer.heartbeat.interval.ms!", "consumer.heartbeat.interval.pending.ms!", "consumer.assignment.interval.ms!", "offsets.retention.minutes!", "consumer.assignment.moves.max!"]
    };
    let range = |s: Setting| json!({"type": "integer", "minimum": s.range().start(), "maximum": s.range().end()});
    [
        (names[0], told(range(Setting::SessionTimeout), "At least three heartbeat intervals.")),
        (names[1], range(Setting::HeartbeatInterval)),
        (names[2], told(range(Setting::PendingInterval), "Asked of members with something pending; 0: off.")),
        (names[3], range(Setting::AssignmentInterval)),
        (names[4], told(range(Setting::OffsetsRetention), "How long an offset outlives its commit once nobody subscribes to its topic.")),
        (names[5], told(range(Setting::MovesMax), "How many partitions one computation of weighted may take from an owner that could keep them; 0: any number.")),
    ]
}

fn member_schemas() -> Vec<(&'static str, Value)> {
    let of_topics = || list(reference("TopicPartitions"));
    vec![
        ("MemberState", one_of(&["stable", "unrevoked_partitions", "unreleased_partitions"])),
        ("TopicPartitions", object(false, &[("topic!", string()), ("partitions!", list(partition()))])),
        ("HeartbeatResponse", object(false, &[
            ("member_id!", string()), ("member_epoch!", epoch()), ("group_epoch!", epoch()), ("member_state!", reference("MemberState")),
            ("heartbeat_interval_ms!", count()), ("session_timeout_ms!", count()),
            ("lease_ms!", told(count(), "How long the partitions may be used, counted from when the request was sent.")),
            ("assignment_revision!", count()),
            ("assignment!?", told(list(reference("AssignedTopic")), "The complete set; null only if the request's assignment_revision is current.")),
            ("pending_revocation!", told(of_topics(), "Stop these, then confirm with this assignment_revision.")),
            ("taken!", told(of_topics(), "Taken away one by one: stop these.")),
            ("waited_at_most_ms!", count()),
        ])),
        ("AssignedTopic", object(false, &[("topic!", string()), ("topic_id!", id128()), ("partitions!", list(reference("AssignedPartition")))])),
        ("AssignedPartition", object(false, &[("partition!", partition()), ("token!", told(count(), "Grows with every grant; below 2^53."))])),
        ("CommitResponse", object(false, &[("results!", list(reference("CommitResult")))])),
        ("CommitResult", object(false, &[("topic!", string()), ("partition!", partition()), ("code!?", one_of(baton_wire::code::COMMIT))])),
        ("OffsetsResponse", object(false, &[("offsets!", list(reference("CommittedOffset")))])),
        ("CommittedOffset", object(false, &[
            ("topic!", string()), ("partition!", partition()), ("offset!", count()), ("metadata!", string()), ("leader_epoch!?", epoch()), ("committed_at_ms!", count()),
        ])),
        ("DeleteOffsetsResponse", object(false, &[("count!", count())])),
    ]
}

fn group_schemas() -> Vec<(&'static str, Value)> {
    let of_topics = || list(reference("TopicPartitions"));
    let page = |of: &str| object(false, &[("items!", list(reference(of))), ("next!?", string()), ("as_of_index?", told(count(), "Set when this is one node's applied state."))]);
    vec![
        ("GroupState", one_of(&["empty", "assigning", "reconciling", "stable", "preparing_rebalance", "completing_rebalance", "dead"])),
        ("GroupType", one_of(&["consumer", "classic"])),
        ("GroupSummary", object(false, &[
            ("group!", string()), ("type!", reference("GroupType")), ("state!", reference("GroupState")), ("members!", count()), ("revision!", count()),
        ])),
        ("GroupPage", page("GroupSummary")),
        ("GroupView", object(false, &[
            ("group!", string()), ("type!", reference("GroupType")), ("state!", reference("GroupState")), ("group_epoch!", epoch()), ("target_epoch!", epoch()),
            ("assignor!", string()), ("members!", list(reference("MemberView"))), ("holds!", list(reference("HoldView"))), ("stuck_because!", list(reference("StuckView"))),
            ("quarantined!?", told(string(), "Why the group grants nothing until it is repaired.")),
            ("generation!?", told(epoch(), "Of a classic group, as the next two.")), ("protocol_type!?", string()), ("protocol!?", string()),
        ])),
        ("MemberView", object(false, &[
            ("member_id!", string()), ("instance_id!?", string()), ("incarnation!", id128()), ("member_epoch!", epoch()), ("member_state!", reference("MemberState")),
            ("assigned!", of_topics()), ("pending_revocation!", of_topics()), ("target!", of_topics()), ("session_remaining_ms!", count()),
        ])),
        ("HoldView", object(false, &[("topic!", string()), ("partition!", partition()), ("member_id!", string()), ("remaining_ms!", count())])),
        ("StuckView", object(false, &[("member_id!", string()), ("topic!", string()), ("partition!", partition()), ("since_ms!", count()), ("at_most_ms!", count())])),
        ("AssignmentResponse", object(false, &[("partitions!", list(reference("OwnerView")))])),
        ("OwnerView", object(false, &[
            ("topic!", string()), ("partition!", partition()), ("owner!?", string()), ("token!?", count()), ("state!", one_of(&["assigned", "pending_revocation", "held", "free"])),
        ])),
        ("HistoryResponse", object(false, &[("records!", list(reference("HistoryRecord"))), ("next!", told(count(), "Give it as since to get what is newer."))])),
        ("HistoryRecord", object(false, &[
            ("revision!", count()), ("at_ms!", count()), ("kind!", string()), ("cause!", string()), ("member_id!?", string()), ("moved!", list(reference("Moved"))), ("took_ms!?", count()),
        ])),
        ("Moved", object(false, &[("topic!", string()), ("partition!", partition()), ("from!?", string()), ("to!?", string())])),
        ("GroupConfig", object(false, &config_fields("!"))),
        ("TopicPage", page("TopicView")),
        ("TopicView", object(false, &[("topic!", string()), ("topic_id!", id128()), ("partitions!", partition())])),
    ]
}

fn other_schemas() -> Vec<(&'static str, Value)> {
    let codes: Vec<&str> = baton_wire::code::TABLE.iter().map(|r| r.code).collect();
    vec![
        ("ClusterView", object(false, &[
            ("cluster_id!?", id128()), ("node_id!", count()), ("meta_revision!", count()), ("nodes!", list(reference("NodeView"))),
            ("meta!", reference("ShardView")), ("shards!", list(reference("ShardView"))),
        ])),
        ("NodeView", object(false, &[("node_id!", count()), ("http!?", string()), ("peer!", string()), ("alive!", boolean()), ("draining!", boolean())])),
        ("ShardView", object(false, &[
            ("shard!", count()), ("leader!?", count()), ("term!", count()), ("applied!", told(count(), "The last log index applied on the answering node.")),
            ("last_log!", count()), ("voters!", list(count())), ("serving!", boolean()), ("stopped!?", told(string(), "Why the answering node has stopped applying.")),
        ])),
        ("Problem", object(false, &[
            ("type!", string()), ("title!", string()), ("status!", count()), ("code!", one_of(&codes)), ("detail!", string()), ("action!", told(string(), "What to do.")),
            ("retriable!", told(boolean(), "The same request, unchanged, may succeed later.")), ("retry_after_ms!?", count()), ("limit!?", told(string(), "The limit that was reached.")),
        ])),
    ]
}
