//! Finds the calls in what a model says, in the form that a [`Shape`] describes.
//!
//! What looks like a call and is none, as it is no JSON or names a function that was not offered, is
//! content, as it was written. White space around calls is not. Once a call has been announced its
//! arguments are passed on as they come: where they are broken, they end with the call's mark, or
//! with the text.

use std::sync::Arc;

use super::call_object::{CallObject, Progress};
use super::markers::{Markers, Match};
use super::parsed::Parsed;

/// How a model writes calls around their objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Opens one or several calls.
    pub open: &'static str,
    /// Whether `open` is text: shown again where no call follows it.
    pub open_is_text: bool,
    /// Whether calls may follow content. Otherwise an answer begins with a call or has none, and an
    /// object opens one without `open`.
    pub after_content: bool,
    /// Stands between two objects.
    pub separator: Option<char>,
    /// Closes what `open` opened.
    pub close: Option<&'static str>,
    /// Where a call may be written without an object around it too: behind the function's name.
    pub named: Option<Named>,
}

impl Shape {
    /// The marks that may be tokens of their own.
    pub fn marks(self) -> impl Iterator<Item = &'static str> {
        let named = self.named.into_iter().flat_map(|named| [named.id, named.arguments]);
        [Some(self.open), self.close].into_iter().flatten().chain(named)
    }
}

/// A call written as a name, perhaps an id, and arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// Stands before an id, which says nothing here.
    pub id: &'static str,
    /// Stands before the arguments, an object.
    pub arguments: &'static str,
}

/// The longest name, with an id, that is read: what is longer is no call.
const MAX_NAME_CHARS: usize = 160;

/// The calls of one answer.
#[derive(Debug, Clone)]
pub(super) struct CallParser {
    shape: Shape,
    /// Functions that may be called.
    names: Arc<[String]>,
    /// Whether the answer ends with its first call.
    only_one: bool,
    state: State,
    markers: Markers,
    /// Read, and not known yet to be content or to belong to a call.
    pending: String,
    calls: usize,
}

#[derive(Debug, Clone)]
enum State {
    /// Nothing but white space was read.
    Beginning,
    /// Content, or what stands between calls.
    Content,
    /// An object or an array of objects is due.
    Opened,
    /// The name of a call without an object around it.
    Name(String),
    /// A call.
    Call { object: Box<CallObject>, in_array: bool },
    /// A comma or the end of the array is due.
    InArray,
    /// The next object of the array is due.
    NextInArray,
    /// The rest of arguments that are broken.
    Broken,
    /// Nothing can be a call any more.
    Plain,
    /// Nothing counts any more.
    Ended,
}

impl CallParser {
    pub(super) fn new(shape: Shape, names: Arc<[String]>, only_one: bool) -> Self {
        Self {
            shape,
            names,
            only_one,
            state: State::Beginning,
            markers: Markers::default(),
            pending: String::new(),
            calls: 0,
        }
    }

    /// Reads `c`.
    pub(super) fn push(&mut self, c: char, parsed: &mut Parsed) {
        match &mut self.state {
            State::Beginning | State::Content => self.content(c, parsed),
            State::Opened | State::InArray | State::NextInArray => self.around(c, parsed),
            State::Name(_) => self.name(c, parsed),
            State::Call { .. } => self.call(c, parsed),
            State::Broken => self.broken(c, parsed),
            State::Plain => parsed.content(c.encode_utf8(&mut [0; 4])),
            State::Ended => parsed.skip(1),
        }
    }

    /// Ends the text.
    pub(super) fn finish(&mut self, parsed: &mut Parsed) {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Call { object, .. } if !object.is_started() => {
                self.pending.push_str(&object.into_text());
            }
            State::Call { .. } => {}
            State::Broken => {
                let held = self.markers.finish();
                parsed.skip(held.chars().count());
                parsed.arguments(&held);
            }
            State::InArray => self.drop_pending(parsed),
            _ => {}
        }
        self.pending.push_str(&self.markers.finish());
        if self.calls > 0 && self.pending.trim().is_empty() {
            self.drop_pending(parsed);
        }
        self.show_pending(parsed);
    }

    fn content(&mut self, c: char, parsed: &mut Parsed) {
        let at_beginning = matches!(self.state, State::Beginning);
        let mut known = Vec::with_capacity(2);
        if self.shape.after_content || at_beginning {
            known.push(self.shape.open);
        }
        if self.calls > 0 {
            known.extend(self.shape.close);
        }
        match self.markers.push(c, &known) {
            Match::Whole(marker) => {
                self.drop_pending(parsed);
                if marker == self.shape.open {
                    self.open(marker, parsed);
                } else {
                    parsed.skip(marker.chars().count());
                }
            }
            Match::Held(before) => self.add_content(&before, parsed),
            Match::Passed(before) => {
                self.add_content(&before, parsed);
                let follows = Some(c) == self.shape.separator && self.calls > 0;
                if c == '{' && !self.shape.after_content && before.is_empty() {
                    self.begin_call(false);
                    self.call(c, parsed);
                } else if follows && self.pending.trim().is_empty() {
                    self.pending.push(c);
                    self.state = State::Opened;
                } else if c.is_whitespace() {
                    self.pending.push(c);
                } else {
                    self.add_content(c.encode_utf8(&mut [0; 4]), parsed);
                }
            }
        }
    }

    /// Adds what is certainly content, with the white space before it.
    fn add_content(&mut self, text: &str, parsed: &mut Parsed) {
        if text.is_empty() {
            return;
        }
        self.show_pending(parsed);
        parsed.content(text);
        self.state = if self.shape.after_content { State::Content } else { State::Plain };
    }

    fn open(&mut self, marker: &str, parsed: &mut Parsed) {
        if self.shape.open_is_text {
            self.pending.push_str(marker);
        } else {
            parsed.skip(marker.chars().count());
        }
        self.state = State::Opened;
    }

    fn begin_call(&mut self, in_array: bool) {
        self.state = State::Call { object: Box::default(), in_array };
    }

    /// Before, between and after the objects of an array, and before an object of its own.
    fn around(&mut self, c: char, parsed: &mut Parsed) {
        match (&self.state, c) {
            (State::Opened, '{') => {
                self.begin_call(false);
                self.call(c, parsed);
            }
            (State::NextInArray, '{') => {
                self.begin_call(true);
                self.call(c, parsed);
            }
            (State::Opened, '[') | (State::InArray, ',') => {
                self.pending.push(c);
                self.state = State::NextInArray;
            }
            (State::InArray, ']') => {
                self.drop_pending(parsed);
                parsed.skip(1);
                self.state = State::Content;
            }
            (State::Opened, _) if self.shape.named.is_some() && is_of_name(c) => {
                self.state = State::Name(String::new());
                self.name(c, parsed);
            }
            _ if c.is_whitespace() => self.pending.push(c),
            _ => self.give_up(c, parsed),
        }
    }

    /// Within a call's name, up to its arguments.
    fn name(&mut self, c: char, parsed: &mut Parsed) {
        let (State::Name(name), Some(marks)) = (&mut self.state, self.shape.named) else { return };
        match self.markers.push(c, &[marks.arguments, self.shape.open]) {
            Match::Whole(mark) if mark == marks.arguments => {
                self.pending.push_str(mark);
                let name = name.split(marks.id).next().unwrap_or_default().to_owned();
                if self.names.contains(&name) {
                    let object = Box::new(CallObject::of(name));
                    self.state = State::Call { object, in_array: false };
                } else {
                    self.show_pending(parsed);
                    self.state = State::Content;
                }
            }
            Match::Whole(mark) => {
                self.show_pending(parsed);
                self.open(mark, parsed);
            }
            Match::Held(before) => {
                name.push_str(&before);
                self.pending.push_str(&before);
            }
            Match::Passed(before) => {
                name.push_str(&before);
                self.pending.push_str(&before);
                if is_of_name(c) && name.len() < MAX_NAME_CHARS {
                    name.push(c);
                    self.pending.push(c);
                } else {
                    self.give_up(c, parsed);
                }
            }
        }
    }

    fn call(&mut self, c: char, parsed: &mut Parsed) {
        let State::Call { object, in_array } = &mut self.state else { return };
        let (was_started, in_array) = (object.is_started(), *in_array);
        // What led to the call is not content once there is one.
        let lead = self.pending.chars().count();
        let progress = object.push(c, &self.names, parsed);
        if object.is_started() && !was_started {
            self.calls += 1;
            self.pending.clear();
            parsed.skip(lead);
        }
        match progress {
            Progress::Open => {}
            Progress::Closed => self.end_call(in_array, parsed),
            Progress::Failed if !object.is_started() => {
                let text = std::mem::take(object).into_text();
                self.pending.push_str(&text);
                self.give_up(c, parsed);
            }
            Progress::Failed if object.is_cut() => {
                self.state = State::Broken;
                self.broken(c, parsed);
            }
            // Only the object's own end is missing.
            Progress::Failed => {
                self.end_call(in_array, parsed);
                self.push(c, parsed);
            }
        }
    }

    fn end_call(&mut self, in_array: bool, parsed: &mut Parsed) {
        self.state = if self.only_one {
            parsed.ended = true;
            State::Ended
        } else if in_array {
            State::InArray
        } else {
            State::Content
        };
    }

    /// What is pending was no call; `c` comes after it.
    fn give_up(&mut self, c: char, parsed: &mut Parsed) {
        self.show_pending(parsed);
        self.state = if self.shape.after_content { State::Content } else { State::Plain };
        self.push(c, parsed);
    }

    fn broken(&mut self, c: char, parsed: &mut Parsed) {
        let close: Vec<_> = self.shape.close.into_iter().collect();
        match self.markers.push(c, &close) {
            Match::Whole(marker) => {
                parsed.skip(marker.chars().count());
                self.end_call(false, parsed);
            }
            Match::Held(before) => {
                parsed.skip(before.chars().count());
                parsed.arguments(&before);
            }
            Match::Passed(before) => {
                parsed.skip(before.chars().count() + 1);
                parsed.arguments(&before);
                parsed.arguments(c.encode_utf8(&mut [0; 4]));
            }
        }
    }

    fn show_pending(&mut self, parsed: &mut Parsed) {
        parsed.content(&std::mem::take(&mut self.pending));
    }

    fn drop_pending(&mut self, parsed: &mut Parsed) {
        parsed.skip(self.pending.chars().count());
        self.pending.clear();
    }
}

/// Of a function's name, or of the mark before an id behind it.
fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '[' | ']')
}
