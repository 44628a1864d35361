//! Finds the mutants of one file in its syntax tree: which expression each one changes, and which parts it is made of.

use crate::list::{Mutant, Place};
use anyhow::{Context, Result};
use proc_macro2::LineColumn;
use std::{collections::{BTreeMap, BTreeSet}, ops::Range};
use syn::{Expr, spanned::Spanned, visit::Visit};

/// A part of the source that is written anew; parts lie in one another, they never cross.
#[derive(Debug)]
pub struct Node { pub range: Range<usize>, pub shape: Shape, pub ids: Vec<u32> }

#[derive(Debug)]
pub enum Shape {
    /// The start of a function's body: it returns something else.
    Head,
    Binary { lhs: Range<usize>, op: String, rhs: Range<usize>, literal: (bool, bool) },
    Unary { op: char, operand: Range<usize> },
    /// A guard that is always true or never; the arm may be taken away as well.
    Guard { deleted: Option<u32> },
    /// The end of the pattern of an arm without a guard: it is taken away.
    Arm,
    /// A field whose value is the base's.
    Field { name: String, value: Option<Range<usize>>, base: Range<usize>, of: Option<String> },
}

/// The parts of one file, and the mutants for which none was found, each with the reason.
pub struct Plan { pub nodes: Vec<Node>, pub lost: Vec<(u32, &'static str)> }

pub fn plan(source: &str, mutants: &[&Mutant]) -> Result<Plan> {
    let file = syn::parse_file(source).context("syn cannot read it")?;
    let mut at: BTreeMap<(&str, Place), Vec<&Mutant>> = BTreeMap::new();
    // Two ends of a function cannot be of two types without a name.
    let nameless = |m: &&&Mutant| m.genre == "FnValue" && m.function.as_ref().is_some_and(|f| f.return_type.contains("impl "));
    let nameless: Vec<u32> = mutants.iter().filter(nameless).map(|m| m.id).collect();
    for m in mutants.iter().filter(|m| !nameless.contains(&m.id)) {
        at.entry((&m.genre, m.span.start)).or_default().push(m);
    }
    let mut finder = Finder { source, lines: line_starts(source), at, nodes: Vec::new(), lost: nameless.into_iter().map(|id| (id, "its function gives an `impl`")).collect() };
    let heads: Vec<_> = finder.at.iter().filter(|((genre, _), _)| *genre == "FnValue").map(|((_, p), ms)| (*p, ms.iter().map(|m| m.id).collect())).collect();
    for (place, ids) in heads {
        let start = finder.offset(place.line, place.column - 1);
        finder.nodes.push(Node { range: start..start, shape: Shape::Head, ids });
    }
    finder.visit_file(&file);
    let Finder { mut nodes, mut lost, .. } = finder;
    // Outer parts first; what has no width stands before what begins at the same place.
    nodes.sort_by_key(|n| (n.range.start, !n.range.is_empty(), std::cmp::Reverse(n.range.end)));
    let found: BTreeSet<u32> = nodes.iter().flat_map(|n| n.ids.iter().copied().chain(deleted(n))).chain(lost.iter().map(|(id, _)| *id)).collect();
    lost.extend(mutants.iter().filter(|m| !found.contains(&m.id)).map(|m| (m.id, "not found in the syntax tree")));
    Ok(Plan { nodes, lost })
}

pub fn deleted(n: &Node) -> Option<u32> {
    match n.shape { Shape::Guard { deleted } => deleted, _ => None }
}

fn line_starts(source: &str) -> Vec<usize> { std::iter::once(0).chain(source.match_indices('\n').map(|(i, _)| i + 1)).collect() }

struct Finder<'a> { source: &'a str, lines: Vec<usize>, at: BTreeMap<(&'a str, Place), Vec<&'a Mutant>>, nodes: Vec<Node>, lost: Vec<(u32, &'static str)> }

impl Finder<'_> {
    /// The byte of a line (from 1) and a column (from 0, in characters).
    fn offset(&self, line: usize, column: usize) -> usize {
        let start = self.lines[line - 1];
        self.source[start..].char_indices().nth(column).map_or(self.source.len(), |(i, _)| start + i)
    }
    fn range(&self, s: impl Spanned) -> Range<usize> {
        let (a, b) = (s.span().start(), s.span().end());
        self.offset(a.line, a.column)..self.offset(b.line, b.column)
    }
    fn of(&self, genre: &'static str, p: LineColumn) -> Vec<&Mutant> {
        self.at.get(&(genre, Place { line: p.line, column: p.column + 1 })).cloned().unwrap_or_default()
    }
    fn ids(&self, genre: &'static str, p: LineColumn) -> Vec<u32> { self.of(genre, p).iter().map(|m| m.id).collect() }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_expr_binary(&mut self, b: &'ast syn::ExprBinary) {
        let ids = self.ids("BinaryOperator", b.op.span().start());
        if !ids.is_empty() && has_let(&b.left) | has_let(&b.right) {
            self.lost.extend(ids.into_iter().map(|id| (id, "in a chain with `let`, where only && may stand")));
        } else if !ids.is_empty() {
            let literal = |e: &Expr| matches!(e, Expr::Lit(_));
            let op = self.source[self.range(&b.op)].to_string();
            let shape = Shape::Binary { lhs: self.range(&b.left), op, rhs: self.range(&b.right), literal: (literal(&b.left), literal(&b.right)) };
            self.nodes.push(Node { range: self.range(b), shape, ids });
        }
        syn::visit::visit_expr_binary(self, b);
    }
    fn visit_expr_unary(&mut self, u: &'ast syn::ExprUnary) {
        let ids = self.ids("UnaryOperator", u.op.span().start());
        if !ids.is_empty() {
            let op = if matches!(u.op, syn::UnOp::Not(_)) { '!' } else { '-' };
            self.nodes.push(Node { range: self.range(u), shape: Shape::Unary { op, operand: self.range(&u.expr) }, ids });
        }
        syn::visit::visit_expr_unary(self, u);
    }
    fn visit_arm(&mut self, a: &'ast syn::Arm) {
        let deleted = self.ids("MatchArm", a.span().start()).first().copied();
        match &a.guard {
            Some((_, guard)) => {
                let ids = self.ids("MatchArmGuard", guard.span().start());
                if !ids.is_empty() || deleted.is_some() {
                    self.nodes.push(Node { range: self.range(guard), shape: Shape::Guard { deleted }, ids });
                }
            }
            None => if let Some(id) = deleted {
                let end = self.range(&a.pat).end;
                self.nodes.push(Node { range: end..end, shape: Shape::Arm, ids: vec![id] });
            },
        }
        syn::visit::visit_arm(self, a);
    }
    fn visit_expr_struct(&mut self, s: &'ast syn::ExprStruct) {
        for f in &s.fields {
            let ids = self.ids("StructField", f.span().start());
            if let (false, Some(rest)) = (ids.is_empty(), &s.rest) {
                let value = f.colon_token.as_ref().map(|_| self.range(&f.expr));
                let base = self.range(rest);
                // Where the base is made on the spot its type has to be said.
                let of = self.source[base.clone()].ends_with("default()").then(|| self.source[self.range(&s.path)].to_string());
                let name = self.source[self.range(&f.member)].to_string();
                self.nodes.push(Node { range: self.range(f), shape: Shape::Field { name, value, base, of }, ids });
            }
        }
        syn::visit::visit_expr_struct(self, s);
    }
}

/// Whether a chain of && holds a `let`.
fn has_let(e: &Expr) -> bool {
    match e {
        Expr::Let(_) => true,
        Expr::Binary(b) if matches!(b.op, syn::BinOp::And(_)) => has_let(&b.left) || has_let(&b.right),
        _ => false,
    }
}
