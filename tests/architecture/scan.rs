//! Reads Rust source as far as the architecture checks need it: tokens without comments, strings
//! and test code, and the paths they form. Not a parser: it knows no grammar beyond `use` trees,
//! attributes and braces.

use std::path::{Path, PathBuf};

/// One file of `src/`, without its comments, strings and test code.
#[derive(Debug)]
pub struct Module {
    /// Relative to `src/`, with forward slashes: `engine/handle.rs`.
    pub file: String,
    /// The module's path within the crate: `["engine", "handle"]`; `["main"]` for the binary.
    pub path: Vec<String>,
    /// True where the file opens with a module doc.
    pub documented: bool,
    /// Lines that are not blank and not test code.
    pub lines: usize,
    /// Identifiers and punctuation in order.
    pub tokens: Vec<Token>,
    /// What its strings say, as the compiler reads them; raw ones, which are code, left out.
    pub strings: Vec<Token>,
    /// Modules declared in it for tests only whose bodies are in other files: a name, or the file
    /// of a `#[path]`.
    pub test_modules: Vec<TestModule>,
}

/// A module for tests only, with its body in another file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TestModule {
    /// Where its name says: the path within the crate.
    Named(Vec<String>),
    /// Where a `#[path]` says: relative to `src/`.
    AtPath(String),
}

/// An identifier (or a number), or one character of punctuation; `::` is one token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its text.
    pub text: String,
    /// The line it stands on, from 1.
    pub line: usize,
}

/// A path as written in the source, made absolute where it is one of this crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePath {
    /// Its parts; the first is `crate` for one of this crate.
    pub parts: Vec<String>,
    /// The line of its first part.
    pub line: usize,
}

/// All modules below `src`, test-only files left out.
pub fn read_tree(src: &Path) -> Vec<Module> {
    let mut files = Vec::new();
    collect(src, &mut files);
    files.sort();
    let read = |file: &PathBuf| {
        let name = file.strip_prefix(src).expect("below src").to_string_lossy().replace('\\', "/");
        Module::parse(&name, &std::fs::read_to_string(file).expect("readable source"))
    };
    let mut modules: Vec<Module> = files.iter().map(read).collect();
    let test_only: Vec<TestModule> = modules.iter().flat_map(|m| m.test_modules.clone()).collect();
    modules.retain(|module| {
        !test_only.iter().any(|test| match test {
            TestModule::Named(path) => module.path.starts_with(path),
            TestModule::AtPath(file) => module.file == *file,
        })
    });
    modules
}

/// The text of every Rust file below `folder`, tests included.
pub fn text_of(folder: &Path) -> String {
    let mut files = Vec::new();
    collect(folder, &mut files);
    let read = |file: &PathBuf| std::fs::read_to_string(file).expect("readable source");
    files.iter().map(read).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

impl Module {
    /// Scans one file; `file` is relative to `src/`.
    pub fn parse(file: &str, source: &str) -> Self {
        let stem = file.trim_end_matches(".rs").trim_end_matches("/mod");
        let path = match stem {
            "lib" => Vec::new(),
            _ => stem.split('/').map(String::from).collect(),
        };
        let mut test_modules = Vec::new();
        let (tokens, test_lines) = without_tests(tokenise(source), &mut test_modules);
        let folder =
            file.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        let located = |(name, at): (String, Option<String>)| match at {
            Some(quoted) => TestModule::AtPath(folder.clone() + quoted.trim_matches('"')),
            None => TestModule::Named([&path[..], &[name]].concat()),
        };
        let test_modules = test_modules.into_iter().map(located).collect();
        let counts = |(index, line): &(usize, &str)| {
            !line.trim().is_empty()
                && !test_lines.iter().any(|&(from, to)| (from..=to).contains(&(index + 1)))
        };
        let first = source.lines().find(|line| !line.trim().is_empty());
        Self {
            file: file.into(),
            path,
            documented: first.is_some_and(|line| line.starts_with("//!")),
            lines: source.lines().enumerate().filter(counts).count(),
            strings: strings(source)
                .into_iter()
                .filter(|string| {
                    !test_lines.iter().any(|&(from, to)| (from..=to).contains(&string.line))
                })
                .collect(),
            tokens,
            test_modules,
        }
    }

    /// The line of each occurrence of the identifiers `names`.
    pub fn find(&self, names: &[&str]) -> Vec<(usize, String)> {
        let named = self.tokens.iter().filter(|token| names.contains(&token.text.as_str()));
        named.map(|token| (token.line, token.text.clone())).collect()
    }

    /// Every path that starts at `crate`, `self`, `super`, `sorsa` or `std`, `use` trees expanded.
    pub fn paths(&self) -> Vec<SourcePath> {
        let mut found = Vec::new();
        let mut here = self.path.clone();
        if here == ["main"] {
            here.clear();
        }
        // Inline modules that are open, with the depth of braces outside them.
        let (mut open, mut depth) = (Vec::new(), 0);
        for (index, token) in self.tokens.iter().enumerate() {
            match token.text.as_str() {
                "{" => {
                    if index >= 2 && self.tokens[index - 2].text == "mod" {
                        here.push(self.tokens[index - 1].text.clone());
                        open.push(depth);
                    }
                    depth += 1;
                }
                "}" => {
                    depth -= 1;
                    if open.last() == Some(&depth) {
                        open.pop();
                        here.pop();
                    }
                }
                "crate" | "self" | "super" | "std" | "sorsa" if self.starts_path(index) => {
                    let mut tails = Vec::new();
                    expand(&self.tokens, index, &[], &mut tails);
                    let absolute = |parts: Vec<String>| absolute(&here, parts);
                    found.extend(
                        tails
                            .into_iter()
                            .map(absolute)
                            .map(|p| SourcePath { parts: p, line: token.line }),
                    );
                }
                _ => {}
            }
        }
        found
    }

    /// True where the token opens a path and is not in the middle of one.
    fn starts_path(&self, index: usize) -> bool {
        let text = |i: usize| self.tokens.get(i).map(|token| token.text.as_str());
        // The library has its name only in the binary; elsewhere `sorsa` may be any module.
        let named = text(index) != Some("sorsa") || self.file == "main.rs";
        named && text(index + 1) == Some("::") && (index == 0 || text(index - 1) != Some("::"))
    }
}

/// Expands the `use` tree (or plain path) at `index`; returns the index behind it.
fn expand(
    tokens: &[Token],
    mut index: usize,
    prefix: &[String],
    out: &mut Vec<Vec<String>>,
) -> usize {
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text.as_str());
    let mut parts = prefix.to_vec();
    loop {
        if text(index) == "{" {
            index += 1;
            while !matches!(text(index), "}" | "") {
                index = expand(tokens, index, &parts, out);
                // Behind a renamed leaf stands `as name`.
                while !matches!(text(index), "," | "}" | "") {
                    index += 1;
                }
                index += usize::from(text(index) == ",");
            }
            return index + 1;
        }
        if !text(index).starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '*') {
            break;
        }
        parts.push(text(index).into());
        index += 1;
        if text(index) != "::" {
            break;
        }
        index += 1;
    }
    out.push(parts);
    index
}

/// `crate::…` for a path of this crate seen from module `here`; other paths as they are.
fn absolute(here: &[String], parts: Vec<String>) -> Vec<String> {
    let mut base = here.to_vec();
    let mut rest = parts.as_slice();
    match parts[0].as_str() {
        "crate" | "sorsa" => {
            base.clear();
            rest = &rest[1..];
        }
        "self" | "super" => {
            while let Some(step) = rest.first().filter(|p| matches!(p.as_str(), "self" | "super")) {
                if step == "super" {
                    base.pop();
                }
                rest = &rest[1..];
            }
        }
        _ => return parts,
    }
    let rest = rest.iter().filter(|part| *part != "self");
    std::iter::once("crate".to_owned()).chain(base).chain(rest.cloned()).collect()
}

/// Drops items under `#[cfg(test)]`; returns the remaining tokens and the dropped line ranges.
/// `test_modules` receives modules with a body elsewhere: their names and what a `#[path]` says.
fn without_tests(
    tokens: Vec<Token>,
    test_modules: &mut Vec<(String, Option<String>)>,
) -> (Vec<Token>, Vec<(usize, usize)>) {
    let (mut kept, mut ranges, mut index) = (Vec::new(), Vec::new(), 0);
    while index < tokens.len() {
        let Some(attribute_end) = test_attribute(&tokens, index) else {
            kept.push(tokens[index].clone());
            index += 1;
            continue;
        };
        let start = tokens[index].line;
        let end = item_end(&tokens, attribute_end);
        let item = &tokens[attribute_end..end];
        let body_elsewhere = item.last().is_some_and(|token| token.text == ";");
        if let Some(at) = item.iter().position(|t| t.text == "mod").filter(|_| body_elsewhere) {
            let file = item[..at].iter().find(|token| token.text.starts_with('"'));
            test_modules.push((item[at + 1].text.clone(), file.map(|token| token.text.clone())));
        }
        ranges.push((start, tokens[end - 1].line));
        index = end;
    }
    (kept, ranges)
}

/// Where a `#[cfg(…test…)]` opens at `index`, the index behind it. `cfg(not(test))` is no test code.
fn test_attribute(tokens: &[Token], index: usize) -> Option<usize> {
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text.as_str());
    if [text(index), text(index + 1), text(index + 2)] != ["#", "[", "cfg"] {
        return None;
    }
    let end = close(tokens, index + 1);
    let inside = &tokens[index..end];
    let has = |name: &str| inside.iter().any(|token| token.text == name);
    (has("test") && !has("not") && !has("any")).then_some(end)
}

/// The index behind the item that starts at `index`: behind its body's `}` or its `;`.
fn item_end(tokens: &[Token], mut index: usize) -> usize {
    while index < tokens.len() {
        match tokens[index].text.as_str() {
            ";" => return index + 1,
            "{" => return close(tokens, index),
            "(" | "[" => index = close(tokens, index),
            _ => index += 1,
        }
    }
    index
}

/// The index behind the bracket that closes the one at `index`.
fn close(tokens: &[Token], index: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(index) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// Identifiers and punctuation, without comments, strings, characters and lifetimes.
fn tokenise(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut tokens, mut index, mut line) = (Vec::<Token>::new(), 0, 1);
    while index < chars.len() {
        let start = index;
        let c = at(index);
        index = if let Some(end) = skipped(&chars, index) {
            end
        } else if c.is_alphanumeric() || c == '_' {
            let end = (index..).find(|&i| !(at(i).is_alphanumeric() || at(i) == '_'));
            end.expect("the text ends")
        } else {
            index + if c == ':' && at(index + 1) == ':' { 2 } else { 1 }
        };
        // The only string that says something about the structure is that of `#[path = "…"]`.
        let names_file =
            c == '"' && matches!(&tokens[..], [.., p, eq] if eq.text == "=" && p.text == "path");
        if names_file || (skipped(&chars, start).is_none() && !c.is_whitespace()) {
            tokens.push(Token { text: chars[start..index].iter().collect(), line });
        }
        line += chars[start..index].iter().filter(|&&c| c == '\n').count();
    }
    tokens
}

/// The texts of strings that are not raw: a backslash at the end of a line takes what is blank behind it
/// with it. Other escapes stay as they are written.
fn strings(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let (mut strings, mut index, mut line) = (Vec::new(), 0, 1);
    while index < chars.len() {
        let end = skipped(&chars, index).unwrap_or(index + 1);
        if chars[index] == '"' {
            let text: String = chars[index + 1..end - 1].iter().collect();
            let mut parts = text.split("\\\n");
            let first = parts.next().unwrap_or_default().to_owned();
            let text = parts.fold(first, |text, part| text + part.trim_start());
            strings.push(Token { text, line });
        }
        line += chars[index..end].iter().filter(|&&c| c == '\n').count();
        index = end;
    }
    strings
}

/// The index behind a comment, string, character or lifetime that starts at `index`.
fn skipped(chars: &[char], index: usize) -> Option<usize> {
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let find = |from: usize, end: &[char]| {
        let hit = (from..chars.len()).find(|&i| chars[i..].starts_with(end));
        hit.map_or(chars.len(), |i| i + end.len())
    };
    match (at(index), at(index + 1)) {
        ('/', '/') => Some(find(index, &['\n'])),
        ('/', '*') => Some(find(index + 2, &['*', '/'])),
        ('"', _) => Some(quoted_end(chars, index + 1)),
        ('b' | 'c', '"') if !in_word(chars, index) => Some(quoted_end(chars, index + 2)),
        ('r', '"' | '#') | ('b' | 'c', 'r') if !in_word(chars, index) => {
            let hashes_from = index + if at(index) == 'r' { 1 } else { 2 };
            let quote = (hashes_from..).find(|&i| at(i) != '#')?;
            let hashes = quote - hashes_from;
            let end: Vec<char> = std::iter::once('"').chain(vec!['#'; hashes]).collect();
            (at(quote) == '"').then(|| find(quote + 1, &end))
        }
        ('\'', '\\') => Some(find(index + 3, &['\''])),
        ('\'', _) if at(index + 2) == '\'' => Some(index + 3),
        ('\'', _) => (index + 1..).find(|&i| !(at(i).is_alphanumeric() || at(i) == '_')),
        _ => None,
    }
}

/// True where the character before `index` belongs to the same word.
fn in_word(chars: &[char], index: usize) -> bool {
    index > 0 && (chars[index - 1].is_alphanumeric() || chars[index - 1] == '_')
}

/// The index behind the quote that closes a string whose text starts at `index`.
fn quoted_end(chars: &[char], mut index: usize) -> usize {
    while index < chars.len() && chars[index] != '"' {
        index += if chars[index] == '\\' { 2 } else { 1 };
    }
    (index + 1).min(chars.len())
}
