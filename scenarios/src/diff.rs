//! What differs between two texts, line by line: `-` was expected, `+` was produced.

/// None: they are equal.
pub fn lines(expected: &str, produced: &str) -> Option<String> {
    let (a, b): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), produced.lines().collect());
    if a == b {
        return None;
    }
    // The longest common subsequence of what is left of each: texts here have at most some hundred lines.
    let mut longest = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i][j] = if a[i] == b[j] { longest[i + 1][j + 1] + 1 } else { longest[i + 1][j].max(longest[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            out.push(format!("  {}", a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j >= b.len() || (i < a.len() && longest[i + 1][j] >= longest[i][j + 1]) {
            out.push(format!("- {}", a[i]));
            i += 1;
        } else {
            out.push(format!("+ {}", b[j]));
            j += 1;
        }
    }
    Some(around_changes(&out))
}

/// The changes with two lines around each.
fn around_changes(lines: &[String]) -> String {
    let changed = |i: usize| !lines[i].starts_with("  ");
    let near = |i: usize| (i.saturating_sub(2)..=(i + 2).min(lines.len() - 1)).any(changed);
    let mut out = String::new();
    let mut gap = false;
    for (i, line) in lines.iter().enumerate() {
        if near(i) {
            out.push_str(line);
            out.push('\n');
        } else if !gap {
            out.push_str("  …\n");
        }
        gap = !near(i);
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_changed_line_is_shown_with_its_neighbours() {
        assert_eq!(super::lines("a\nb\n", "a\nb"), None);
        assert_eq!(super::lines("1\n2\n3\n4\nx\n", "1\n2\n3\n4\ny\nz\n").as_deref(), Some("  …\n  3\n  4\n- x\n+ y\n+ z\n"));
    }
}
