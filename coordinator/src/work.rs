//! Work that would take too long in the shard's task: targets of large groups, and what regular expressions stand for. The shell runs it anywhere
//! (`Work::run` is pure) and hands the result back; the shard then decides on it as on a command, against the state it meets by then.

use crate::{assign, ids::*, metadata::Metadata, regexes, seeded};
use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// One piece of work for one group.
#[derive(Clone, Debug)]
pub struct Work {
    pub group: GroupId,
    /// Names this run: only the result of the newest one of its kind is taken.
    pub run: u64,
    pub task: Task,
}
#[derive(Clone, Debug)]
pub enum Task {
    /// Compute the target of `epoch`.
    Assign { assignor: String, epoch: Epoch, input: Box<assign::Input> },
    /// Find the topics that these expressions match.
    Resolve { expressions: BTreeSet<String>, image: Arc<Metadata> },
}
/// Which work of a group is out: one of a kind at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind { Assign, Resolve }

/// The result of a piece of work.
#[derive(Clone, Debug)]
pub struct Done {
    pub group: GroupId,
    pub run: u64,
    pub kind: Kind,
    /// The error is a sentence: the assignor failed, the old target stays in force.
    pub result: Result<Found, String>,
}
#[derive(Clone, Debug)]
pub enum Found {
    /// `instances`: the static members as they were when it began; one may be back under another id by now.
    Target { epoch: Epoch, assignment: assign::Assignment, instances: BTreeMap<MemberId, InstanceId> },
    Topics { revision: u64, topics: BTreeMap<String, BTreeSet<TopicName>> },
}

impl Task {
    pub fn kind(&self) -> Kind {
        match self {
            Task::Assign { .. } => Kind::Assign,
            Task::Resolve { .. } => Kind::Resolve,
        }
    }
}
impl Work {
    /// Does it. Takes as long as it takes.
    pub fn run(self) -> Done {
        let Work { group, run, task } = self;
        let kind = task.kind();
        let result = match task {
            Task::Assign { assignor, epoch, input } => assign(&assignor, &input).map(|assignment| Found::Target { epoch, assignment, instances: input.instances }),
            Task::Resolve { expressions, image } => {
                let topics = expressions.into_iter().map(|e| { let found = regexes::resolve(&e, &image); (e, found) }).collect();
                Ok(Found::Topics { revision: image.revision, topics })
            }
        };
        Done { group, run, kind, result }
    }
}

/// Runs an assignor. One that fails must not take the shard with it: the old target stays in force.
pub fn assign(assignor: &str, input: &assign::Input) -> Result<assign::Assignment, String> {
    let run = || {
        assert!(!seeded::on(32), "an assignor with a fault");
        assign::assign(assignor, input)
    };
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| format!("the assignor {assignor} failed"))
}
