//! One call written as a JSON object: `{"name": "f", "arguments": {…}}`, read a character at a time; or
//! the arguments alone, of a function whose name was read before.
//!
//! Of the object itself it checks the form; of the arguments, only where they end: they are passed
//! on as the model wrote them. `parameters` means `arguments`. An object that names no function that
//! was offered is no call.

use super::parsed::Parsed;

/// Brackets that may be open at once.
const MAX_DEPTH: usize = 256;

/// What one more character led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// More is needed.
    Open,
    /// The object is complete.
    Closed,
    /// This is no call, or the arguments are broken. The character was not read.
    Failed,
}

/// A call that is being read.
#[derive(Debug, Clone, Default)]
pub(super) struct CallObject {
    state: State,
    /// All that was read, until it is certain that it is a call.
    raw: String,
    key: String,
    /// The inside of the string, or the number or word, that is being read.
    text: String,
    name: Option<String>,
    arguments: Arguments,
    /// Closing brackets that are due within the value that is being read.
    due: Vec<char>,
    started: bool,
    /// Whether there are only arguments, which end it.
    is_bare: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Object,
    FirstKey,
    Key,
    Colon,
    Value,
    Text {
        is_key: bool,
        escaped: bool,
    },
    Nested(Inside),
    Word,
    Comma,
}

/// Where in an object or array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    Brackets,
    Text,
    Escape,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Arguments {
    #[default]
    Absent,
    /// Being read; kept where the name is not known yet.
    Open(String),
    /// Read; kept likewise.
    Complete(String),
}

impl CallObject {
    /// The call of the function `name`, of which only the arguments are to come.
    pub(super) fn of(name: String) -> Self {
        let (state, key) = (State::Value, "arguments".to_owned());
        Self { state, key, name: Some(name), is_bare: true, ..Self::default() }
    }

    /// True once the call has been announced.
    pub(super) fn is_started(&self) -> bool {
        self.started
    }

    /// True where the arguments are cut off.
    pub(super) fn is_cut(&self) -> bool {
        !matches!(self.arguments, Arguments::Complete(_))
    }

    /// What was read of an object that is no call.
    pub(super) fn into_text(self) -> String {
        self.raw
    }

    /// Reads `c`. Functions that may be called are `names`.
    pub(super) fn push(&mut self, c: char, names: &[String], parsed: &mut Parsed) -> Progress {
        let Some(progress) = self.step(c, names, parsed) else { return Progress::Failed };
        if self.started {
            parsed.skip(1);
        } else {
            self.raw.push(c);
        }
        if self.is_bare && self.state == State::Comma { Progress::Closed } else { progress }
    }

    /// `None` where `c` cannot stand here.
    fn step(&mut self, c: char, names: &[String], parsed: &mut Parsed) -> Option<Progress> {
        self.state = match (self.state, c) {
            (State::Text { is_key, escaped: true }, _) => {
                self.text.push(c);
                State::Text { is_key, escaped: false }
            }
            (State::Text { is_key: true, .. }, '"') => {
                self.key = decoded(&self.text)?;
                State::Colon
            }
            (State::Text { .. }, '"') => {
                let text = decoded(&self.text)?;
                self.take_text(text, names, parsed)?;
                State::Comma
            }
            (State::Text { is_key, .. }, _) => {
                self.text.push(c);
                State::Text { is_key, escaped: c == '\\' }
            }
            (State::Nested(inside), _) => self.nested(c, inside, parsed)?,
            (State::Word, 'a'..='z' | 'E' | '0'..='9' | '+' | '-' | '.') => {
                self.text.push(c);
                State::Word
            }
            (State::Word, _) => {
                self.take_word(parsed)?;
                self.state = State::Comma;
                return self.step(c, names, parsed);
            }
            (state, ' ' | '\n' | '\r' | '\t') => state,
            (State::Object, '{') => State::FirstKey,
            (State::FirstKey | State::Key, '"') => {
                self.text.clear();
                State::Text { is_key: true, escaped: false }
            }
            (State::Colon, ':') => State::Value,
            (State::Value, _) => self.value(c, parsed)?,
            (State::Comma, ',') => State::Key,
            (State::Comma | State::FirstKey, '}') => {
                self.close(parsed)?;
                return Some(Progress::Closed);
            }
            _ => return None,
        };
        Some(Progress::Open)
    }

    fn is_arguments(&self) -> bool {
        matches!(self.key.as_str(), "arguments" | "parameters")
            && !matches!(self.arguments, Arguments::Complete(_))
    }

    /// The first character of a value.
    fn value(&mut self, c: char, parsed: &mut Parsed) -> Option<State> {
        self.text.clear();
        match c {
            '"' => Some(State::Text { is_key: false, escaped: false }),
            _ if self.is_bare && c != '{' => None,
            '{' | '[' if self.key != "name" => {
                if self.is_arguments() {
                    if c == '[' {
                        return None;
                    }
                    self.arguments = Arguments::Open(String::new());
                    self.start(parsed);
                    self.argue(c, parsed);
                }
                self.due = vec![closing(c)];
                Some(State::Nested(Inside::Brackets))
            }
            'a'..='z' | '0'..='9' | '-' if self.key != "name" => {
                self.text.push(c);
                Some(State::Word)
            }
            _ => None,
        }
    }

    /// A character within an object or array.
    fn nested(&mut self, c: char, inside: Inside, parsed: &mut Parsed) -> Option<State> {
        let state = match (inside, c) {
            (Inside::Escape, _) => State::Nested(Inside::Text),
            (Inside::Text, '\\') => State::Nested(Inside::Escape),
            (Inside::Text, '"') => State::Nested(Inside::Brackets),
            (Inside::Text, _) | (Inside::Brackets, '"') => State::Nested(Inside::Text),
            (Inside::Brackets, '{' | '[') => {
                if self.due.len() == MAX_DEPTH {
                    return None;
                }
                self.due.push(closing(c));
                State::Nested(Inside::Brackets)
            }
            (Inside::Brackets, '}' | ']') => {
                if self.due.pop() != Some(c) {
                    return None;
                }
                if self.due.is_empty() { State::Comma } else { State::Nested(Inside::Brackets) }
            }
            (Inside::Brackets, _) => State::Nested(Inside::Brackets),
        };
        if self.is_arguments() {
            self.argue(c, parsed);
            if state == State::Comma
                && let Arguments::Open(kept) = &mut self.arguments
            {
                self.arguments = Arguments::Complete(std::mem::take(kept));
            }
        }
        Some(state)
    }

    /// A string as a value.
    fn take_text(&mut self, text: String, names: &[String], parsed: &mut Parsed) -> Option<()> {
        if self.key == "name" && self.name.is_none() {
            if !names.contains(&text) {
                return None;
            }
            self.name = Some(text);
            if self.arguments != Arguments::Absent {
                self.start(parsed);
            }
        } else if self.is_arguments() {
            // Some models write the arguments as a string of JSON.
            serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text).ok()?;
            self.arguments = Arguments::Complete(text);
            self.start(parsed);
        }
        Some(())
    }

    /// A number, a boolean or `null` as a value.
    fn take_word(&mut self, parsed: &mut Parsed) -> Option<()> {
        if self.is_arguments() {
            if self.text != "null" {
                return None;
            }
            self.arguments = Arguments::Complete("{}".to_owned());
            self.start(parsed);
        }
        Some(())
    }

    /// The object's end.
    fn close(&mut self, parsed: &mut Parsed) -> Option<()> {
        self.name.as_ref()?;
        if self.arguments == Arguments::Absent {
            self.arguments = Arguments::Complete("{}".to_owned());
        }
        self.start(parsed);
        Some(())
    }

    /// Announces the call, once its name is known, with what is known of its arguments.
    fn start(&mut self, parsed: &mut Parsed) {
        let Some(name) = self.name.as_ref().filter(|_| !self.started) else { return };
        parsed.call(name);
        parsed.skip(self.raw.chars().count());
        self.raw.clear();
        self.started = true;
        if let Arguments::Open(kept) | Arguments::Complete(kept) = &mut self.arguments {
            let kept = std::mem::take(kept);
            if !kept.is_empty() {
                parsed.arguments(&kept);
            }
        }
    }

    /// A character of the arguments.
    fn argue(&mut self, c: char, parsed: &mut Parsed) {
        if self.started {
            parsed.arguments(c.encode_utf8(&mut [0; 4]));
        } else if let Arguments::Open(kept) = &mut self.arguments {
            kept.push(c);
        }
    }
}

fn closing(bracket: char) -> char {
    if bracket == '{' { '}' } else { ']' }
}

/// The inside of a JSON string.
fn decoded(inside: &str) -> Option<String> {
    serde_json::from_str(&format!("\"{inside}\"")).ok()
}
