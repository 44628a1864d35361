//! Every refusal as a problem document. The one place where a core error meets a code and a status.

use crate::backend::Refused;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use baton_coordinator::{command::GroupError as G, metadata::MetaError as M};
use baton_wire::{LEADER_HEADER, PROBLEM_JSON, Problem, code};

/// How long a caller should wait where nothing better is known.
const AGAIN_MS: u64 = 200;
/// A limit is seldom lifted soon.
const LIMIT_AGAIN_MS: u64 = 10_000;

/// The problem that tells of a refusal.
pub fn problem_of(refused: &Refused) -> Problem {
    match refused {
        Refused::Group(e) => group_problem(e),
        Refused::Meta(e) => meta_problem(e),
        Refused::Unavailable { reason, retry_after_ms, .. } => {
            let mut p = Problem::new(code::UNAVAILABLE, reason).after(*retry_after_ms);
            if baton_coordinator::seeded::on(111) { p.status = 409; }
            p
        }
    }
}

fn group_problem(e: &G) -> Problem {
    let of = |c: &str| Problem::new(c, e.to_string());
    match e {
        G::UnknownGroup { .. } => of(code::UNKNOWN_GROUP),
        G::UnknownMember { .. } => of(code::UNKNOWN_MEMBER),
        G::FencedMemberEpoch { .. } => of(code::FENCED_MEMBER_EPOCH),
        G::FencedIncarnation => of(code::FENCED_INCARNATION),
        G::FencedRemoved { .. } => of(code::FENCED_REMOVED),
        G::MemberIdInUse { remaining_ms } => of(code::MEMBER_ID_IN_USE).after(*remaining_ms),
        G::UnreleasedInstanceId { .. } => of(code::UNRELEASED_INSTANCE_ID),
        G::FencedInstanceId { .. } => of(code::FENCED_INSTANCE_ID),
        G::StaleMemberEpoch { .. } => of(code::STALE_MEMBER_EPOCH),
        G::GroupFull { .. } => of(code::LIMIT_REACHED).at_limit("members of the group").after(LIMIT_AGAIN_MS),
        G::InvalidRegex { .. } | G::UnsupportedVersion { .. } => of(code::INVALID_FIELD),
        G::StaleLeave => of(code::STALE_LEAVE),
        G::NonEmptyGroup { .. } => of(code::NON_EMPTY_GROUP),
        G::GroupDraining { remaining_ms, .. } => of(code::GROUP_DRAINING).after(*remaining_ms),
        G::SubscribedToTopic { .. } => of(code::GROUP_SUBSCRIBED_TO_TOPIC),
        G::UnsupportedAssignor { .. } => of(code::UNSUPPORTED_ASSIGNOR),
        G::Invalid { .. } => of(code::INVALID_FIELD),
        G::LimitReached { limit, .. } => of(code::LIMIT_REACHED).at_limit(limit).after(LIMIT_AGAIN_MS),
        G::Classic { .. } | G::NotConvertible { .. } => of(code::INCONSISTENT_GROUP_PROTOCOL),
        G::Quarantined { .. } => of(code::GROUP_QUARANTINED).after(LIMIT_AGAIN_MS),
        G::NotQuarantined => of(code::NOT_QUARANTINED),
        G::Loading { .. } | G::Unavailable { .. } => of(code::UNAVAILABLE).after(AGAIN_MS),
    }
}

fn meta_problem(e: &M) -> Problem {
    let of = |c: &str| Problem::new(c, e.to_string());
    match e {
        M::UnknownTopic { .. } => of(code::UNKNOWN_TOPIC),
        M::TopicCannotShrink { .. } => of(code::TOPIC_CANNOT_SHRINK),
        M::Invalid { .. } => of(code::INVALID_FIELD),
        M::LimitReached { limit, .. } => of(code::LIMIT_REACHED).at_limit(limit).after(LIMIT_AGAIN_MS),
        M::OtherDirectory { .. } => of(code::NODE_ID_USED),
        M::ClusterExists => of(code::CLUSTER_EXISTS),
    }
}

/// A problem on its way out. Boxed: it travels in every handler's `Result`.
#[derive(Debug)]
pub(crate) struct Failure(Box<(Problem, Option<String>)>);

impl Failure {
    pub fn new(code: &str, detail: impl Into<String>) -> Failure { Problem::new(code, detail).into() }
    /// A field of a request that is wrong.
    pub fn field(name: &str, detail: impl std::fmt::Display) -> Failure { Failure::new(code::INVALID_FIELD, format!("{name}: {detail}")) }
    /// The node answered something that does not fit the question.
    pub fn misfit() -> Failure { Failure::new(code::INTERNAL, "the node's answer does not fit the request") }
}
impl From<Problem> for Failure {
    fn from(p: Problem) -> Failure { Failure(Box::new((p, None))) }
}
impl From<Refused> for Failure {
    fn from(r: Refused) -> Failure {
        let problem = problem_of(&r);
        let leader = if let Refused::Unavailable { leader_http, .. } = r { leader_http } else { None };
        Failure(Box::new((problem, leader)))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (problem, leader) = *self.0;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, serde_json::to_vec(&problem).unwrap_or_default()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(ms) = problem.retry_after_ms { headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000).max(1))); }
        if let Some(value) = leader.and_then(|l| HeaderValue::try_from(l).ok()) { headers.insert(LEADER_HEADER, value); }
        response
    }
}
