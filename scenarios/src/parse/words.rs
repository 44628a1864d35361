//! A line as words, and the mistake that names it.

use super::Mistake;
use crate::Ms;

/// The words of one line. A comma is a word of its own.
pub struct Words<'a> {
    file: &'a str,
    line: usize,
    text: &'a str,
    words: Vec<String>,
    at: usize,
}

impl<'a> Words<'a> {
    pub fn new(file: &'a str, line: usize, text: &'a str) -> Words<'a> {
        let words = text.replace(',', " , ").split_whitespace().map(String::from).collect();
        Words { file, line, text, words, at: 0 }
    }
    /// The mistake at the last word that was read.
    pub fn mistake(&self, expected: &str) -> Mistake {
        let found = match self.at.checked_sub(1).and_then(|i| self.words.get(i)) {
            Some(w) => format!("{w} (in: {})", self.text.trim()),
            None => self.text.trim().to_string(),
        };
        Mistake { file: self.file.into(), line: self.line, expected: expected.into(), found }
    }
    /// The mistake at a part of the line.
    pub fn mistake_at(&self, found: &str, expected: &str) -> Mistake { Mistake { file: self.file.into(), line: self.line, expected: expected.into(), found: found.trim().into() } }
    pub fn next(&mut self, expected: &str) -> Result<String, Mistake> {
        let word = self.words.get(self.at).cloned();
        self.at += 1;
        word.ok_or_else(|| Mistake { found: format!("nothing (after: {})", self.text.trim()), ..self.mistake(expected) })
    }
    /// This word and no other.
    pub fn word(&mut self, word: &str) -> Result<(), Mistake> {
        let found = self.next(&format!("`{word}`"))?;
        if found == word { Ok(()) } else { Err(self.mistake(&format!("`{word}`"))) }
    }
    /// Takes the word if it is next.
    pub fn take(&mut self, word: &str) -> bool {
        let next = self.words.get(self.at).is_some_and(|w| w == word);
        self.at += usize::from(next);
        next
    }
    pub fn number(&mut self, what: &str) -> Result<i32, Mistake> {
        let word = self.next(what)?;
        word.parse().map_err(|_| self.mistake(&format!("{what}, a whole number")))
    }
    pub fn duration(&mut self) -> Result<Ms, Mistake> {
        let word = self.next(TIME)?;
        duration(&word).ok_or_else(|| self.mistake(TIME))
    }
    pub fn end(&mut self) -> Result<(), Mistake> {
        match self.words.get(self.at) {
            None => Ok(()),
            Some(_) => {
                self.at += 1;
                Err(self.mistake("the end of the line"))
            }
        }
    }
    /// The line before and behind the first such character.
    pub fn split(&self, c: char) -> Option<(&'a str, &'a str)> { self.text.split_once(c) }
}

pub const TIME: &str = "a time such as 200ms, 3s, 1.5s or 2min";

/// `200ms`, `3s`, `1.5s`, `2min`.
pub fn duration(word: &str) -> Option<Ms> {
    let unit = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let factor = match unit {
        "ms" => 1.0,
        "s" => 1_000.0,
        "min" => 60_000.0,
        _ => return None,
    };
    let value: f64 = word[..word.len() - unit.len()].parse().ok()?;
    let ms = value * factor;
    (ms.fract() == 0.0 && ms <= 86_400_000.0).then_some(ms as Ms)
}

/// Names with commas between them.
pub fn names(text: &str) -> Vec<String> { text.split(',').map(|n| n.trim().to_string()).collect() }
