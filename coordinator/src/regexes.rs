//! Subscriptions by regular expression, in the syntax and with the meaning of RE2: an expression matches a topic's *whole* name, in time linear in
//! its length. Resolved beside the request path (`work`), never in it; what an expression stood for is state, shared by all members that say it.

use crate::{ids::TopicName, metadata::Metadata};
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use std::collections::BTreeSet;

/// Bytes of an expression.
pub const LENGTH_MAX: usize = 1_024;
/// Bytes of the program that it may become.
const PROGRAM_MAX: usize = 256 << 10;
/// How deep its parentheses may go.
const DEPTH_MAX: u32 = 64;
/// Topics are not looked through more often than this.
pub const REFRESH_MIN_MS: u64 = 10_000;
/// They are looked through this often although nothing is known to have changed.
pub const REFRESH_MS: u64 = 600_000;

/// Reads an expression. The error says what is wrong with it.
pub fn compile(expression: &str) -> Result<Regex, String> {
    if expression.len() > LENGTH_MAX {
        return Err(format!("it has {} bytes, {LENGTH_MAX} are allowed", expression.len()));
    }
    // First by itself: else `a)(b` would be made whole by the parentheses around it.
    let body = translated(expression)?;
    let says = |e: String| e.lines().last().unwrap_or("it is not one").trim_start_matches("error: ").to_string();
    ParserBuilder::new().utf8(false).nest_limit(DEPTH_MAX).build().parse(&body).map_err(|e| says(e.to_string()))?;
    let whole = RegexBuilder::new(&format!(r"\A(?:{body})\z")).size_limit(PROGRAM_MAX).dfa_size_limit(PROGRAM_MAX).nest_limit(DEPTH_MAX).build();
    whole.map_err(|e| says(e.to_string()))
}

/// The topics whose whole name it matches.
pub fn resolve(expression: &str, image: &Metadata) -> BTreeSet<TopicName> {
    // What was accepted once compiles again; were it not so, it would stand for nothing.
    let Ok(regex) = compile(expression) else { return BTreeSet::new() };
    image.topics.keys().filter(|t| regex.is_match(t.as_str().as_bytes())).cloned().collect()
}

/// Where RE2 and the engine differ: `\Q…\E` quotes, and in a class `[`, `&&`, `--` and `~~` have no meaning of their own.
fn translated(expression: &str) -> Result<String, String> {
    let mut out = String::with_capacity(expression.len() + 8);
    let mut rest = expression;
    let mut in_class = false;
    while let Some(c) = rest.chars().next() {
        if let Some(quoted) = rest.strip_prefix(r"\Q") {
            let (text, after) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
            out.push_str(&regex::escape(text));
            rest = after;
            continue;
        }
        let taken = match c {
            '\\' => 1 + rest[1..].chars().next().ok_or("it ends with a single backslash")?.len_utf8(),
            '[' if in_class && rest.starts_with("[:") => rest.find(":]").map_or(1, |end| end + 2),
            _ => c.len_utf8(),
        };
        let (token, after) = rest.split_at(taken);
        match token {
            "[" if in_class => out.push_str(r"\["),
            "&" | "~" if in_class => out.extend(['\\', c]),
            // A range's dash stays; the second of two is itself.
            "-" if in_class && out.ends_with('-') => out.push_str(r"\-"),
            "[" => {
                in_class = true;
                out.push('[');
                // A bracket right at the start of a class is itself.
                let negated = after.strip_prefix('^');
                if let Some(tail) = negated.unwrap_or(after).strip_prefix(']') {
                    out.push_str(if negated.is_some() { r"^\]" } else { r"\]" });
                    rest = tail;
                    continue;
                }
            }
            "]" => {
                in_class = false;
                out.push(']');
            }
            other => out.push_str(other),
        }
        rest = after;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(expression: &str, name: &str) -> bool { compile(expression).expect("an expression").is_match(name.as_bytes()) }

    #[test]
    fn whole_names_only() {
        assert!(matches("t.*", "t1") && matches("^t.*$", "topic") && matches("a|b", "b"));
        assert!(!matches("^topic", "topic-1") && !matches("opi", "topic") && !matches("a|b", "ab"));
        assert!(!matches("(?m)^a$", "a\nb"));
    }
    #[test]
    fn what_means_something_else_in_other_engines() {
        assert!(matches(r"\Qa.b\E.", "a.bc") && !matches(r"\Qa.b\E", "axb") && matches(r"\Qa+", "a+"));
        assert!(matches("[[a]x", "[x") && matches("[a&&b]", "&") && matches("[a~~b]", "~") && matches("[]a]", "]") && !matches("[^]a]", "]"));
        assert!(matches("[[:alpha:]_]+", "ab_c") && matches(r"[a\]]+", "a]") && matches("[+--]", ","));
        // A bracket behind a backslash neither begins nor ends a class, and one in a class begins none, whatever follows.
        assert!(matches(r"[\]&&a]", "&") && matches(r"\[&&]", "[&&]") && matches("[[a]b:]", "[b:]"));
        assert!(matches(r"\d{2,3}", "42") && matches("(?i)ORDERS", "orders") && matches("(?P<x>a)b", "ab"));
    }
    #[test]
    fn what_is_not_one_is_refused() {
        for bad in ["[", "(", "a)(b", "*", r"a\", r"(a)\1", "(?=a)", "a{1001}{1001}", &"a".repeat(LENGTH_MAX + 1), &"(".repeat(200)] {
            assert!(compile(bad).is_err_and(|why| !why.is_empty()), "{bad}");
        }
    }
}
