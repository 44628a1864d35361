//! Every error code, with its status, whether the same request may succeed later, and what to do. Codes never change their meaning.

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    pub code: &'static str,
    /// HTTP status.
    pub status: u16,
    /// The same request, unchanged, may succeed later.
    pub retriable: bool,
    /// A short name of the kind of error.
    pub title: &'static str,
    /// What to do about it.
    pub action: &'static str,
}

macro_rules! codes {
    ($($name:ident $status:literal $retriable:literal $title:literal, $action:literal;)*) => {
        $(#[doc = $title] pub const $name: &str = stringify!($name);)*
        /// The whole table.
        pub const TABLE: &[Code] = &[$(Code { code: stringify!($name), status: $status, retriable: $retriable, title: $title, action: $action }),*];
    };
}

codes! {
    INVALID_JSON 400 false "The body is not JSON", "Send one JSON object in the shape that /openapi.json gives.";
    INVALID_FIELD 400 false "A field is unknown, missing or out of range", "Correct the field that the detail names.";
    INVALID_REQUEST 400 false "The request cannot be read", "Correct the request as the detail says.";
    UNSUPPORTED_ASSIGNOR 400 false "The assignor is not known", "Use uniform, range, rack-aware or weighted, or leave it out.";
    NOT_FOUND 404 false "No such path", "See /openapi.json for the paths.";
    METHOD_NOT_ALLOWED 405 false "The path does not take this method", "See /openapi.json for its methods.";
    REQUEST_TIMEOUT 408 true "The body did not arrive in time", "Send the body at once.";
    BODY_TOO_LARGE 413 false "The body is too large", "Split the request: a body holds at most 1 MiB.";
    HEADERS_TOO_LARGE 431 false "The headers are too large", "Send at most 16 KiB of headers.";
    UNKNOWN_GROUP 404 false "The group does not exist", "Check its name; a group exists from its first join or commit on.";
    UNKNOWN_MEMBER 404 false "The member is not in the group", "Stop using all partitions, then join again with member_epoch 0.";
    UNKNOWN_TOPIC 404 false "The topic does not exist", "Declare it first: PUT /v1/topics/{topic}.";
    FENCED_MEMBER_EPOCH 409 false "The member's epoch is not the group's", "Stop using all partitions, then join again with member_epoch 0.";
    FENCED_INCARNATION 409 false "This process has left or was replaced", "Stop for good. A new start takes a new incarnation.";
    FENCED_REMOVED 409 false "The member was removed from the group", "Stop using all partitions, then leave, or join again with member_epoch 0.";
    MEMBER_ID_IN_USE 409 true "Another process runs under this member id", "Wait until its session has passed, take another member id, or state predecessor_dead if it surely is.";
    UNRELEASED_INSTANCE_ID 409 false "The instance id belongs to another member", "Let its holder leave, or take another instance id.";
    INCONSISTENT_GROUP_PROTOCOL 409 false "The group speaks another protocol", "Use another group, or stop the members of the other protocol first.";
    STALE_LEAVE 409 false "The leave is older than the member's join", "Nothing was changed and nothing need be done.";
    NON_EMPTY_GROUP 409 false "The group has members", "Stop its members first.";
    GROUP_DRAINING 409 true "Partitions of removed members are still held", "Wait for as long as retry_after_ms says, or delete with force=true if those members surely are dead.";
    GROUP_SUBSCRIBED_TO_TOPIC 409 false "A live member subscribes to the topic", "Stop its subscribers first.";
    TOPIC_CANNOT_SHRINK 409 false "A topic never loses partitions", "Delete the topic and declare it again.";
    NODE_ID_USED 409 false "The node id belongs to another data directory", "Join with a new node id.";
    CLUSTER_EXISTS 409 false "The cluster exists already", "Join it instead of forming it.";
    LIMIT_REACHED 429 false "A limit is reached", "Stay within the limit that is named.";
    INTERNAL 500 false "A fault in the server", "Report it with the server's log.";
    FENCED_INSTANCE_ID 409 false "Another process has taken this instance's place", "Stop; start again only if the other one is gone.";
    STALE_MEMBER_EPOCH 409 false "The epoch is not the member's", "Heartbeat first.";
    NOT_QUARANTINED 409 false "The group is not quarantined", "Nothing is to be repaired.";
    GROUP_QUARANTINED 503 true "The group is quarantined after a fault", "Run `baton group repair --group GROUP`, or POST /v1/groups/{group}/repair.";
    UNAVAILABLE 503 true "No leader answered in time", "Try again after retry_after_ms; the outcome of this request is not known.";
    NOT_READY 503 true "The node cannot serve yet", "Wait, or ask another node.";
    TOO_MANY_CONNECTIONS 503 true "The node has no connection to spare", "Keep connections open and reuse them, or ask another node.";
}

/// Codes that a single offset of a commit is answered with, inside a 200.
pub const COMMIT: &[&str] = &[STALE_TOKEN, STALE_COMMIT, UNKNOWN_TOPIC_OR_PARTITION, OFFSET_METADATA_TOO_LARGE, INVALID_OFFSET];
/// The member does not hold the partition under this token.
pub const STALE_TOKEN: &str = "STALE_TOKEN";
/// A later commit under the same token has been carried out.
pub const STALE_COMMIT: &str = "STALE_COMMIT";
/// No such topic or partition.
pub const UNKNOWN_TOPIC_OR_PARTITION: &str = "UNKNOWN_TOPIC_OR_PARTITION";
/// The metadata is longer than 4,096 bytes.
pub const OFFSET_METADATA_TOO_LARGE: &str = "OFFSET_METADATA_TOO_LARGE";
/// The offset is negative.
pub const INVALID_OFFSET: &str = "INVALID_OFFSET";

/// The row of a code; None: a code of a newer server.
pub fn row(code: &str) -> Option<&'static Code> { TABLE.iter().find(|r| r.code == code) }
