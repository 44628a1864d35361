//! The account: how many of each kind, and who is left.

use crate::{Task, list::Mutant, run::{self, Outcome}, switch::Dropped};
use anyhow::Result;
use std::{collections::{BTreeMap, BTreeSet}, fmt::Write, fs};

pub fn print(task: &Task, mutants: &BTreeMap<u32, Mutant>, dropped: &[Dropped]) -> Result<()> {
    let verdicts = run::verdicts(task)?;
    let unviable: BTreeMap<u32, &Dropped> = dropped.iter().filter(|d| d.unviable).map(|d| (d.id, d)).collect();
    let left: BTreeMap<u32, &Dropped> = dropped.iter().filter(|d| !d.unviable).map(|d| (d.id, d)).collect();
    let genres: BTreeSet<&str> = mutants.values().map(|m| m.genre.as_str()).collect();
    println!("| {} | listed | unviable | left to cargo mutants | killed | timed out | survived | of them never reached | share |", task.package);
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for genre in genres.into_iter().map(Some).chain([None]) {
        let of = |id: &u32| genre.is_none_or(|g| mutants.get(id).is_some_and(|m| m.genre == g));
        let count = |o: Outcome| verdicts.values().filter(|v| of(&v.id) && v.outcome == o).count();
        let (killed, timeout, survived) = (count(Outcome::Killed), count(Outcome::Timeout), count(Outcome::Survived));
        let never = verdicts.values().filter(|v| of(&v.id) && v.outcome == Outcome::Survived && !v.reached).count();
        let n = |all: &BTreeMap<u32, &Dropped>| all.keys().filter(|id| of(id)).count();
        let run = killed + timeout + survived;
        let share = if run == 0 { "-".into() } else { format!("{:.1} %", (killed + timeout) as f64 * 100.0 / run as f64) };
        println!("| {} | {} | {} | {} | {killed} | {timeout} | {survived} | {never} | {share} |", genre.unwrap_or("all"), mutants.keys().filter(|id| of(id)).count(), n(&unviable), n(&left));
    }
    let mut by: BTreeMap<&str, usize> = BTreeMap::new();
    verdicts.values().filter_map(|v| v.rung.as_deref()).for_each(|r| *by.entry(r).or_default() += 1);
    println!("killed by: {}", by.iter().map(|(r, n)| format!("{r} {n}")).collect::<Vec<_>>().join(", "));
    let mut text = String::new();
    for v in verdicts.values().filter(|v| v.outcome == Outcome::Survived) {
        writeln!(text, "{}\t{}\t{}", v.id, if v.reached { "reached" } else { "never reached" }, mutants[&v.id].name)?;
    }
    fs::write(task.file("survivors.txt"), text)?;
    let rest = |all: &BTreeMap<u32, &Dropped>| all.values().map(|d| format!("{}\t{}\t{}\n", d.id, mutants[&d.id].name, d.why)).collect::<String>();
    fs::write(task.file("unviable.txt"), rest(&unviable))?;
    fs::write(task.file("left.txt"), rest(&left))?;
    println!("survivors.txt, unviable.txt and left.txt are in {}", task.dir.join(&task.folder).display());
    Ok(())
}
