//! Writes a file with all its mutants in it, each behind a switch: `crate::mutated(ID)`. Lines stay where they are, and nothing is written twice but the place of a
//! compound assignment and the base of a struct. An operator binds as the original one did: `a + b / c` becomes `a * (b / c)`.

use crate::{list::Mutant, plan::{Node, Shape}};
use std::{collections::{BTreeMap, BTreeSet}, ops::Range};

/// Where in the new file what stands: an error of the compiler there is an error of these mutants.
#[derive(Debug)]
pub struct Region { pub range: Range<usize>, pub ids: Vec<u32>, /** Only the new code of one mutant. */ pub own: bool }

pub struct Rendered { pub text: String, pub regions: Vec<Region> }

/// `dropped`: mutants that are not written.
pub fn render(source: &str, nodes: &[Node], mutants: &BTreeMap<u32, Mutant>, dropped: &BTreeSet<u32>) -> Rendered {
    let writer = Writer { source, nodes, mutants, dropped };
    strip(&writer.text(0..source.len(), 0))
}

const OPEN: char = '\u{1}';
const CLOSE: char = '\u{2}';
const END: char = '\u{3}';

fn mark(kind: char, ids: &[u32], text: &str) -> String {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    format!("{OPEN}{kind}{}{CLOSE}{text}{END}", ids.join(","))
}

/// Takes the marks out and notes where they were.
fn strip(marked: &str) -> Rendered {
    let (mut text, mut regions, mut open, mut chars) = (String::new(), Vec::new(), Vec::new(), marked.chars());
    while let Some(c) = chars.next() {
        match c {
            OPEN => {
                let head: String = chars.by_ref().take_while(|c| *c != CLOSE).collect();
                let ids = head[1..].split(',').filter_map(|i| i.parse().ok()).collect();
                open.push((text.len(), ids, head.starts_with('a')));
            }
            END => if let Some((start, ids, own)) = open.pop() {
                regions.push(Region { range: start..text.len(), ids, own });
            },
            c => text.push(c),
        }
    }
    Rendered { text, regions }
}

struct Writer<'a> { source: &'a str, nodes: &'a [Node], mutants: &'a BTreeMap<u32, Mutant>, dropped: &'a BTreeSet<u32> }

fn on(id: u32) -> String { format!("crate::mutated({id})") }

impl Writer<'_> {
    /// The text of a range; `from`: the first node that may lie in it.
    fn text(&self, range: Range<usize>, from: usize) -> String {
        let (mut out, mut at, mut i) = (String::new(), range.start, from);
        while let Some(n) = self.nodes.get(i).filter(|n| n.range.start < range.end) {
            i += 1;
            if n.range.start < at || n.range.end > range.end {
                continue;
            }
            out.push_str(&self.source[at..n.range.start]);
            out.push_str(&self.node(n, i));
            at = n.range.end;
        }
        out.push_str(&self.source[at..range.end]);
        out
    }
    fn node(&self, n: &Node, next: usize) -> String {
        let ids: Vec<u32> = n.ids.iter().copied().filter(|id| !self.dropped.contains(id)).collect();
        let gone = crate::plan::deleted(n).filter(|id| !self.dropped.contains(id));
        let inner = |r: &Range<usize>| if r.is_empty() { String::new() } else { self.text(r.clone(), next) };
        if ids.is_empty() && gone.is_none() {
            return inner(&n.range);
        }
        let new = |id: u32| self.mutants[&id].replacement.as_str();
        let text = match &n.shape {
            Shape::Head => ids.iter().map(|id| mark('a', &[*id], &format!("if {} {{ return {}; }} ", on(*id), new(*id)))).collect(),
            Shape::Binary { lhs, op, rhs, literal } => binary(&ids, &new, (&inner(lhs), op, &inner(rhs)), *literal),
            Shape::Unary { op: '!', operand } => format!("(({}) == {})", inner(operand), on(ids[0])),
            Shape::Unary { op, operand } => format!("(if {} {{ {} }} else {{ {op}{} }})", on(ids[0]), inner(operand), inner(operand)),
            Shape::Guard { .. } => {
                let mut text = inner(&n.range);
                for id in &ids {
                    text = if new(*id) == "true" { format!("({} || ({text}))", on(*id)) } else { format!("(!{} && ({text}))", on(*id)) };
                }
                gone.map_or(text.clone(), |id| format!("(!{} && ({text}))", on(id)))
            }
            Shape::Arm => format!(" if !{}", on(ids[0])),
            Shape::Field { name, value, base, of } => {
                let own = value.as_ref().map_or(name.clone(), &inner);
                let base = match of {
                    Some(path) => format!("{{ let base: {path} = {}; base.{name} }}", inner(base)),
                    None => format!("({}).{name}", inner(base)),
                };
                format!("{name}: if {} {{ {base} }} else {{ {own} }}", on(ids[0]))
            }
        };
        let all: Vec<u32> = ids.into_iter().chain(gone).collect();
        mark('n', &all, &text)
    }
}

fn binary<'m>(ids: &[u32], new: &dyn Fn(u32) -> &'m str, (l, op, r): (&str, &str, &str), literal: (bool, bool)) -> String {
    let first = on(ids[0]);
    let alternatives = |l: &str, r: &str| {
        let each: String = ids.iter().map(|id| format!("if {} {{ {} }} else ", on(*id), mark('a', &[*id], &format!("{l} {} {r}", new(*id))))).collect();
        format!("{each}{{ {l} {op} {r} }}")
    };
    match op {
        "&&" => format!("({{ let left: bool = {l}; if left != {first} {{ {r} }} else {{ left }} }})"),
        "||" => format!("({{ let left: bool = {l}; if left == {first} {{ {r} }} else {{ left }} }})"),
        // The one other operator is the negation.
        "==" | "!=" | ">=" | "<=" => format!("(({l} {op} {r}) != {first})"),
        // Operands are looked at, not taken. A literal stays where it is: its type comes from what it is compared with.
        "<" | ">" => match literal {
            (_, true) => format!("(match &({l}) {{ left => {} }})", alternatives("*left", r)),
            (true, _) => format!("(match &({r}) {{ right => {} }})", alternatives(l, "*right")),
            _ => format!("(match (&({l}), &({r})) {{ (left, right) => {} }})", alternatives("*left", "*right")),
        },
        _ if op.ends_with('=') => format!("(match {r} {{ right => {} }})", alternatives(l, "right")),
        _ => match literal {
            (_, true) => format!("(match {l} {{ left => {} }})", alternatives("left", r)),
            (true, _) => format!("(match {r} {{ right => {} }})", alternatives(l, "right")),
            _ => format!("(match ({l}, {r}) {{ (left, right) => {} }})", alternatives("left", "right")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{list::{Place, Span}, plan};

    fn mutant(id: u32, genre: &str, line: usize, column: usize, replacement: &str) -> Mutant {
        let place = Place { line, column };
        Mutant { id, name: String::new(), file: String::new(), genre: genre.into(), replacement: replacement.into(), span: Span { start: place, end: place }, function: None }
    }
    fn rendered(source: &str, all: Vec<Mutant>, dropped: &[u32]) -> Rendered {
        let p = plan::plan(source, &all.iter().collect::<Vec<_>>()).expect("it is Rust");
        assert!(p.lost.is_empty(), "{:?}", p.lost);
        render(source, &p.nodes, &all.into_iter().map(|m| (m.id, m)).collect(), &dropped.iter().copied().collect())
    }

    /// One operator in another, with a character of several bytes before them; a body; an arm.
    #[test]
    fn mutants_in_one_another_are_all_written() {
        let source = "fn f(é: u8) -> bool { é > 1 && !g(é) }\nfn g(n: u8) -> bool { match n { 3 => true, _ => false } }";
        let all = || vec![
            mutant(1, "FnValue", 1, 23, "true"), mutant(2, "BinaryOperator", 1, 25, "=="), mutant(3, "BinaryOperator", 1, 25, "<"),
            mutant(4, "BinaryOperator", 1, 29, "||"), mutant(5, "UnaryOperator", 1, 32, ""), mutant(6, "MatchArm", 2, 33, ""),
        ];
        let r = rendered(source, all(), &[]);
        assert_eq!(r.text, "fn f(é: u8) -> bool { if crate::mutated(1) { return true; } ({ let left: bool = (match &(é) { left => if crate::mutated(2) { *left == 1 } else \
            if crate::mutated(3) { *left < 1 } else { *left > 1 } }); if left != crate::mutated(4) { ((g(é)) == crate::mutated(5)) } else { left } }) }\n\
            fn g(n: u8) -> bool { match n { 3 if !crate::mutated(6) => true, _ => false } }");
        let own = r.regions.iter().find(|g| g.own && g.ids == [3]).expect("a mutant's own code is noted");
        assert_eq!(&r.text[own.range.clone()], "*left < 1");
        assert_eq!(rendered(source, all(), &[1, 2, 3, 4, 5, 6]).text, source, "all dropped: the source as it was");
    }
}
