//! Texts cut to a length or to lines, and words counted.

use std::sync::LazyLock;

use minijinja::value::{Kwargs, Rest};
use minijinja::{Environment, Error, Value};
use regex::Regex;

use super::super::arguments::{bind, flag, length};
use super::super::values::{invalid, text};

pub(super) fn define(environment: &mut Environment<'_>) {
    environment.add_filter("truncate", truncate);
    environment.add_filter("wordwrap", wordwrap);
    environment.add_filter("wordcount", wordcount);
}

fn truncate(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let parameters = ["length", "killwords", "end", "leeway"];
    let [limit, killwords, end, leeway] = bind("truncate", parameters, &args, &kwargs)?;
    let limit = length("truncate", limit.as_ref())?.unwrap_or(255);
    let leeway = length("truncate", leeway.as_ref())?.unwrap_or(5);
    let end = end.as_ref().map(text).transpose()?.unwrap_or_else(|| "...".to_owned());
    let ending = end.chars().count();
    if limit < ending {
        return Err(invalid(format!("expected length >= {ending}, got {limit}")));
    }
    let text = text(value)?;
    if text.chars().count() <= limit + leeway {
        return Ok(text);
    }
    let cut: String = text.chars().take(limit - ending).collect();
    if flag(killwords.as_ref()) {
        return Ok(cut + &end);
    }
    let whole = cut.rsplit_once(' ').map_or(cut.as_str(), |(whole, _)| whole);
    Ok(whole.to_owned() + &end)
}

fn wordcount(value: &Value) -> Result<usize, Error> {
    static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").ok());
    let text = text(value)?;
    Ok(WORD.as_ref().map_or(0, |word| word.find_iter(&text).count()))
}

/// How lines are wrapped.
struct Wrapping {
    width: usize,
    break_long_words: bool,
    break_on_hyphens: bool,
}

fn wordwrap(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let parameters = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let [width, long, between, hyphens] = bind("wordwrap", parameters, &args, &kwargs)?;
    let or_true = |argument: Option<Value>| argument.is_none_or(|value| value.is_true());
    let wrapping = Wrapping {
        width: length("wordwrap", width.as_ref())?.unwrap_or(79),
        break_long_words: or_true(long),
        break_on_hyphens: or_true(hyphens),
    };
    if wrapping.width == 0 {
        return Err(invalid("invalid width 0 (must be > 0)"));
    }
    let between = between.filter(|between| !between.is_none());
    let between = between.as_ref().map(text).transpose()?.unwrap_or_else(|| "\n".to_owned());
    let text = text(value)?;
    let lines: Vec<String> = text.lines().map(|line| wrapping.wrap(line).join(&between)).collect();
    Ok(lines.join(&between))
}

impl Wrapping {
    /// The lines of a paragraph; white space is dropped where a line is broken.
    fn wrap(&self, paragraph: &str) -> Vec<String> {
        let mut chunks: Vec<String> = self.chunks(paragraph);
        chunks.reverse();
        let mut lines = Vec::new();
        while !chunks.is_empty() {
            let (mut line, mut len): (Vec<String>, usize) = (Vec::new(), 0);
            if !lines.is_empty() && chunks.last().is_some_and(|chunk| chunk.trim().is_empty()) {
                chunks.pop();
            }
            while let Some(chunk) = chunks.pop_if(|chunk| len + chunk.chars().count() <= self.width)
            {
                len += chunk.chars().count();
                line.push(chunk);
            }
            if let Some(chunk) = chunks.last()
                && chunk.chars().count() > self.width
            {
                self.take_part(&mut chunks, &mut line, len);
            }
            if line.last().is_some_and(|chunk| chunk.trim().is_empty()) {
                line.pop();
            }
            if !line.is_empty() {
                lines.push(line.concat());
            }
        }
        lines
    }

    /// What fits of a chunk that no line holds.
    fn take_part(&self, chunks: &mut Vec<String>, line: &mut Vec<String>, len: usize) {
        let room = self.width.saturating_sub(len).max(usize::from(self.width == 0));
        let Some(chunk) = chunks.pop() else { return };
        if !self.break_long_words {
            if line.is_empty() {
                line.push(chunk);
            } else {
                chunks.push(chunk);
            }
            return;
        }
        let mut end = room;
        if self.break_on_hyphens && chunk.chars().count() > room {
            let head: Vec<char> = chunk.chars().take(room).collect();
            let hyphen = head.iter().rposition(|c| *c == '-').filter(|at| *at > 0);
            if let Some(hyphen) = hyphen.filter(|at| head[..*at].iter().any(|c| *c != '-')) {
                end = hyphen + 1;
            }
        }
        let byte = chunk.char_indices().nth(end).map_or(chunk.len(), |(byte, _)| byte);
        line.push(chunk[..byte].to_owned());
        chunks.push(chunk[byte..].to_owned());
        if chunks.last().is_some_and(String::is_empty) {
            chunks.pop();
        }
    }

    /// Words, with their hyphens where lines are broken there, and the white space between them.
    fn chunks(&self, paragraph: &str) -> Vec<String> {
        let mut chunks: Vec<String> = Vec::new();
        let chars: Vec<char> = paragraph.chars().collect();
        let mut chunk = String::new();
        for (index, c) in chars.iter().enumerate() {
            let is_blank = c.is_ascii_whitespace();
            let begins = chunk
                .chars()
                .next_back()
                .is_some_and(|last| last.is_ascii_whitespace() != is_blank);
            if begins {
                chunks.push(std::mem::take(&mut chunk));
            }
            chunk.push(if is_blank { ' ' } else { *c });
            let letter = |at: Option<usize>| {
                at.and_then(|at| chars.get(at)).is_some_and(|c| c.is_alphabetic())
            };
            let is_hyphen = *c == '-' && letter(index.checked_sub(1)) && letter(Some(index + 1));
            if is_hyphen && self.break_on_hyphens {
                chunks.push(std::mem::take(&mut chunk));
            }
        }
        if !chunk.is_empty() {
            chunks.push(chunk);
        }
        chunks
    }
}
