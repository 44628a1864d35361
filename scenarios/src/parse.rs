//! The text of a scenario → what is to be played. Every mistake is told with its file, its line, and what was expected there.

mod member;
mod words;

use crate::Ms;
use baton_coordinator::config::Setting;
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;
use words::{Words, duration};

pub use member::{Protocol, Spec};

/// The line that begins the expected output.
pub const EXPECT: &str = "expect";

/// A mistake in a scenario file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{file}:{line}: expected {expected}, found {found:?}")]
pub struct Mistake {
    pub file: String,
    pub line: usize,
    pub expected: String,
    pub found: String,
}

/// A story.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub title: String,
    pub about: String,
    pub setup: Setup,
    /// In the order of time.
    pub steps: Vec<(Ms, Step)>,
    pub end: Ms,
    /// The lines below `expect`; empty: none yet.
    pub expect: String,
}

/// What is there before the story begins.
#[derive(Clone, Debug)]
pub struct Setup {
    pub topics: Vec<Topic>,
    /// The settings of the group, by their official names.
    pub settings: BTreeMap<Setting, u64>,
    /// `group.initial.rebalance.delay.ms`.
    pub initial_delay_ms: u64,
    /// One way between a member and the coordinator.
    pub network_ms: Ms,
    /// From the proposal of an entry to its commit.
    pub commit_ms: Ms,
    /// What happens before is only told as the state that it leads to.
    pub told_from: Option<Ms>,
    pub members: BTreeMap<String, Spec>,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    pub partitions: i32,
    /// How its partitions are called in the output: a prefix and the number of the first one.
    pub called: Option<(String, i32)>,
}

/// Something that happens at its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Member { name: String, act: Act },
    /// The topic is made, or grows.
    Topic(Topic),
    /// Another node leads the group's shard from now on.
    Failover,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Starts,
    /// Closes: gives up what it has and says so; a static one says that it will be back (a classic static one says nothing).
    Leaves,
    /// Closes and starts again as a new process, after a while and perhaps with another protocol.
    Restarts { after: Ms, protocol: Option<Protocol> },
    /// Stops at once and says nothing.
    Dies,
    /// None of its requests and answers arrive.
    CutOff,
    Reconnected,
    /// Its application does not come back for more work; its heartbeats go on.
    Stuck,
    GoesOn,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section { About, Setup, Steps, Expect }

const SETUP: &str = "`topic NAME has N partitions`, `group SETTING VALUE`, `network TIME`, `commit TIME`, `told from TIME`, `members NAME, NAME`, or `NAME: …`";

/// Reads a scenario.
pub fn parse(file: &str, text: &str) -> Result<Scenario, Mistake> {
    let setup = Setup { topics: Vec::new(), settings: BTreeMap::new(), initial_delay_ms: 0, network_ms: 5, commit_ms: 5, told_from: None, members: BTreeMap::new() };
    let mut s = Scenario { title: String::new(), about: String::new(), setup, steps: Vec::new(), end: 0, expect: String::new() };
    let (mut section, mut every, mut lines) = (Section::About, Spec::default(), 0);
    for (i, line) in text.lines().enumerate() {
        let w = Words::new(file, i + 1, line);
        lines = i + 1;
        if section == Section::Expect {
            s.expect.push_str(line.trim_end());
            s.expect.push('\n');
            continue;
        }
        match line.trim_end() {
            "setup" if section == Section::About => section = Section::Setup,
            "steps" if section == Section::Setup => section = Section::Steps,
            EXPECT if section == Section::Steps => section = Section::Expect,
            _ if section == Section::About => about(&mut s, line),
            blank if blank.is_empty() || blank.trim_start().starts_with('#') => {}
            _ if section == Section::Setup => setup_line(&mut s.setup, &mut every, w)?,
            _ => step_line(&mut s, w)?,
        }
    }
    let end = Words::new(file, lines, "the end of the file");
    match section {
        _ if s.title.is_empty() => return Err(end.mistake("a first line with the story's title")),
        Section::About => return Err(end.mistake("a line `setup`")),
        Section::Setup => return Err(end.mistake("a line `steps`")),
        Section::Steps | Section::Expect => {}
    }
    if s.end == 0 {
        return Err(end.mistake("a last step `until TIME`, such as `until 30s`"));
    }
    s.about = s.about.trim().to_string();
    Ok(s)
}

fn about(s: &mut Scenario, line: &str) {
    if s.title.is_empty() {
        s.title = line.trim().to_string();
    } else {
        s.about.push_str(line.trim());
        s.about.push('\n');
    }
}

fn setup_line(setup: &mut Setup, every: &mut Spec, mut w: Words) -> Result<(), Mistake> {
    if let Some((who, says)) = w.split(':') {
        if who.trim() == "every member" {
            return member::says(every, says, &w);
        }
        for name in words::names(who) {
            if name.contains(char::is_whitespace) {
                return Err(w.mistake("names of members before the colon, with commas between them, or `every member`"));
            }
            let mut spec = setup.members.get(&name).cloned().unwrap_or_else(|| every.clone());
            member::says(&mut spec, says, &w)?;
            spec.check(&w)?;
            setup.members.insert(name, spec);
        }
        return Ok(());
    }
    match w.next(SETUP)?.as_str() {
        "topic" => {
            let t = topic(&mut w)?;
            setup.topics.push(t);
        }
        "group" => setting(setup, &mut w)?,
        "members" => loop {
            let name = w.next("the name of a member")?;
            every.check(&w)?;
            setup.members.insert(name, every.clone());
            if !w.take(",") && !w.take("and") {
                break;
            }
        },
        "told" => {
            w.word("from")?;
            setup.told_from = Some(w.duration()?);
        }
        "network" => setup.network_ms = w.duration()?,
        "commit" => setup.commit_ms = w.duration()?,
        _ => return Err(w.mistake(SETUP)),
    }
    w.end()
}

/// `t has 6 partitions, called P1 to P6`
fn topic(w: &mut Words) -> Result<Topic, Mistake> {
    let name = w.next("the name of a topic")?;
    w.word("has")?;
    let partitions = w.number("the number of partitions")?;
    if !w.take("partitions") && !w.take("partition") {
        return Err(w.mistake("`partitions` behind the number"));
    }
    let mut called = None;
    if w.take(",") {
        w.word("called")?;
        let first = w.next("the name of the first partition, such as P1")?;
        let digits = first.trim_start_matches(|c: char| !c.is_ascii_digit());
        let number: i32 = digits.parse().map_err(|_| w.mistake("a name that ends with a number, such as P1"))?;
        called = Some((first[..first.len() - digits.len()].to_string(), number));
        w.word("to")?;
        let (last, expected) = (w.next("the name of the last partition")?, format!("{}{}", &first[..first.len() - digits.len()], number + partitions - 1));
        if last != expected {
            return Err(w.mistake(&format!("{expected}, since there are {partitions} partitions")));
        }
    }
    Ok(Topic { name, partitions, called })
}

fn setting(setup: &mut Setup, w: &mut Words) -> Result<(), Mistake> {
    const INITIAL: &str = "group.initial.rebalance.delay.ms";
    let name = w.next("the name of a setting")?;
    let value = u64::try_from(w.number("its value")?).map_err(|_| w.mistake("a value of 0 or more"))?;
    match Setting::named(&name) {
        Some(s) if s.range().contains(&value) => {
            setup.settings.insert(s, value);
        }
        Some(s) => return Err(w.mistake(&format!("a value from {} to {}", s.range().start(), s.range().end()))),
        None if name == INITIAL => setup.initial_delay_ms = value,
        None => {
            let known: Vec<&str> = Setting::ALL.iter().map(|s| s.name()).chain([INITIAL]).collect();
            return Err(w.mistake(&format!("one of the settings {}", known.join(", "))));
        }
    }
    Ok(())
}

fn step_line(s: &mut Scenario, mut w: Words) -> Result<(), Mistake> {
    let until = match w.next("`at TIME …` or `until TIME`")?.as_str() {
        "at" => false,
        "until" => true,
        _ => return Err(w.mistake("`at TIME …` or `until TIME`")),
    };
    let (at, before) = (w.duration()?, s.steps.last().map_or(0, |(at, _)| *at));
    if at < before || s.end > 0 {
        return Err(w.mistake("a time that is not before the step above, and `until` at the end"));
    }
    if until {
        s.end = at.max(1);
        return w.end();
    }
    if w.take("topic") {
        let t = topic(&mut w)?;
        s.steps.push((at, Step::Topic(t)));
        return w.end();
    }
    if w.take("the") {
        ["coordinator", "fails", "over"].iter().try_for_each(|x| w.word(x))?;
        s.steps.push((at, Step::Failover));
        return w.end();
    }
    let mut who = BTreeSet::new();
    loop {
        let name = w.next("the name of a member")?;
        if !s.setup.members.contains_key(&name) {
            let known: Vec<&str> = s.setup.members.keys().map(String::as_str).collect();
            return Err(w.mistake(&format!("a member of the setup ({}), `topic …` or `the coordinator fails over`", known.join(", "))));
        }
        who.insert(name);
        if !w.take(",") && !w.take("and") {
            break;
        }
    }
    let act = act(&mut w)?;
    s.steps.extend(who.into_iter().map(|name| (at, Step::Member { name, act })));
    w.end()
}

fn act(w: &mut Words) -> Result<Act, Mistake> {
    const ACTS: &str = "start(s), leave(s), restart(s) after TIME [as PROTOCOL], die(s), is cut off, is reconnected, gets stuck, or goes on";
    let verb = w.next(ACTS)?;
    Ok(match verb.as_str() {
        "starts" | "start" => Act::Starts,
        "leaves" | "leave" => Act::Leaves,
        "dies" | "die" => Act::Dies,
        "restarts" | "restart" => {
            w.word("after")?;
            let after = w.duration()?;
            let protocol = if w.take("as") { Some(Protocol::named(&w.next(Protocol::ALL)?).ok_or_else(|| w.mistake(Protocol::ALL))?) } else { None };
            Act::Restarts { after, protocol }
        }
        "is" | "are" if w.take("cut") => {
            w.word("off")?;
            Act::CutOff
        }
        "is" | "are" if w.take("reconnected") => Act::Reconnected,
        "gets" | "get" if w.take("stuck") => Act::Stuck,
        "goes" | "go" if w.take("on") => Act::GoesOn,
        _ => return Err(w.mistake(ACTS)),
    })
}

#[cfg(test)]
mod tests;
