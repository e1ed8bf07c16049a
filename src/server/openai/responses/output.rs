//! What a response consists of, as it grows: thoughts, messages and calls, one item after another.
//! A stream tells every change; a whole response is what is left at the end, so both are the same.

use uuid::Uuid;

use super::super::types::ChatLogprob;
use super::items::{Change, OutputItem, Part, PartPlace, Status, What};
use crate::server::choice::{CallDelta, CallHead, Delta};

/// The two kinds of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
}

/// The items of one response. The last one is open until another begins.
#[derive(Debug, Default)]
pub struct Output {
    items: Vec<OutputItem>,
    is_open: bool,
    /// Tokens whose text is still held back, or was told before.
    logprobs: Vec<ChatLogprob>,
}

impl Output {
    /// The items.
    #[must_use]
    pub fn items(&self) -> &[OutputItem] {
        &self.items
    }

    /// Adds what a piece of the answer brings; `logprobs` are those of the tokens that are said.
    pub fn add(&mut self, delta: Delta, logprobs: Vec<ChatLogprob>) -> Vec<Change> {
        let mut changes = Vec::new();
        self.logprobs.extend(logprobs);
        self.add_text(Kind::Reasoning, &delta.reasoning, &mut changes);
        self.add_text(Kind::Message, &delta.text, &mut changes);
        for call in delta.calls {
            self.add_call(call, &mut changes);
        }
        changes
    }

    /// Ends the last item. A whole answer that said nothing is an empty message.
    pub fn finish(&mut self, status: Status) -> Vec<Change> {
        let mut changes = Vec::new();
        let only_thoughts =
            self.items.iter().all(|item| matches!(item, OutputItem::Reasoning { .. }));
        if self.items.is_empty() || (only_thoughts && status == Status::Completed) {
            self.open(Kind::Message.item(), &mut changes);
        }
        self.close(status, &mut changes);
        changes
    }

    fn add_text(&mut self, kind: Kind, more: &str, changes: &mut Vec<Change>) {
        if more.is_empty() {
            return;
        }
        let is_open = self.is_open && self.items.last().is_some_and(|item| kind.is_of(item));
        if !is_open {
            self.open(kind.item(), changes);
        }
        self.extend(kind, more, changes);
    }

    /// Adds to the last item, a text of this kind.
    fn extend(&mut self, kind: Kind, more: &str, changes: &mut Vec<Change>) {
        let at = self.part_place();
        let logprobs = (kind == Kind::Message).then(|| std::mem::take(&mut self.logprobs));
        if let Some(item) = self.items.last_mut() {
            item.extend(more, logprobs.as_deref().unwrap_or_default());
        }
        let what = What::TextDelta { at, delta: more.to_owned(), logprobs };
        changes.push(Change { name: kind.names().delta, what });
    }

    fn add_call(&mut self, call: CallDelta, changes: &mut Vec<Change>) {
        if let Some(CallHead { id: call_id, name }) = call.head {
            let id = new_id("fc");
            let (status, arguments) = (Status::InProgress, String::new());
            self.open(OutputItem::FunctionCall { id, status, call_id, name, arguments }, changes);
        }
        let output_index = self.items.len().saturating_sub(1);
        if let Some(OutputItem::FunctionCall { id, arguments, .. }) = self.items.last_mut()
            && !call.arguments.is_empty()
        {
            arguments.push_str(&call.arguments);
            let (item_id, delta) = (id.clone(), call.arguments);
            changes.push(Change {
                name: "response.function_call_arguments.delta",
                what: What::ArgumentsDelta { item_id, output_index, delta },
            });
        }
    }

    /// Begins an item, and ends the one before it.
    fn open(&mut self, item: OutputItem, changes: &mut Vec<Change>) {
        self.close(Status::Completed, changes);
        let output_index = self.items.len();
        let part = item.part().cloned();
        let what = What::Item { output_index, item: item.without_parts() };
        changes.push(Change { name: "response.output_item.added", what });
        self.items.push(item);
        self.is_open = true;
        if let Some(part) = part {
            let what = What::Part { at: self.part_place(), part };
            changes.push(Change { name: "response.content_part.added", what });
        }
    }

    fn close(&mut self, status: Status, changes: &mut Vec<Change>) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        let is_message = self.items.last().is_some_and(|item| Kind::Message.is_of(item));
        if is_message && !self.logprobs.is_empty() {
            self.extend(Kind::Message, "", changes);
        }
        let (at, output_index) = (self.part_place(), self.items.len() - 1);
        let Some(item) = self.items.last_mut() else { return };
        item.set_status(status);
        match item {
            OutputItem::FunctionCall { name, arguments, .. } => changes.push(Change {
                name: "response.function_call_arguments.done",
                what: What::ArgumentsDone {
                    item_id: at.item_id,
                    output_index,
                    name: name.clone(),
                    arguments: arguments.clone(),
                },
            }),
            item => {
                if let Some(part) = item.part().cloned() {
                    let (kind, text, logprobs) = match part.clone() {
                        Part::OutputText { text, logprobs, .. } => {
                            (Kind::Message, text, Some(logprobs))
                        }
                        Part::ReasoningText { text } => (Kind::Reasoning, text, None),
                    };
                    let what = What::TextDone { at: at.clone(), text, logprobs };
                    changes.push(Change { name: kind.names().done, what });
                    let what = What::Part { at, part };
                    changes.push(Change { name: "response.content_part.done", what });
                }
            }
        }
        if let Some(item) = self.items.last().cloned() {
            let what = What::Item { output_index, item };
            changes.push(Change { name: "response.output_item.done", what });
        }
    }

    /// The part of the last item.
    fn part_place(&self) -> PartPlace {
        PartPlace {
            item_id: self.items.last().map(OutputItem::id).unwrap_or_default().to_owned(),
            output_index: self.items.len().saturating_sub(1),
            content_index: 0,
        }
    }
}

/// The names of a text's events.
struct Names {
    delta: &'static str,
    done: &'static str,
}

impl Kind {
    fn names(self) -> Names {
        match self {
            Self::Reasoning => Names {
                delta: "response.reasoning_text.delta",
                done: "response.reasoning_text.done",
            },
            Self::Message => {
                Names { delta: "response.output_text.delta", done: "response.output_text.done" }
            }
        }
    }

    fn is_of(self, item: &OutputItem) -> bool {
        match item {
            OutputItem::Reasoning { .. } => self == Self::Reasoning,
            OutputItem::Message { .. } => self == Self::Message,
            OutputItem::FunctionCall { .. } => false,
        }
    }

    /// A new item with nothing in it.
    fn item(self) -> OutputItem {
        let (status, text) = (Status::InProgress, String::new());
        match self {
            Self::Reasoning => OutputItem::Reasoning {
                id: new_id("rs"),
                summary: Vec::new(),
                content: vec![Part::ReasoningText { text }],
                status,
            },
            Self::Message => OutputItem::Message {
                id: new_id("msg"),
                status,
                role: "assistant",
                content: vec![Part::OutputText { text, annotations: [], logprobs: Vec::new() }],
            },
        }
    }
}

fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", Uuid::new_v4().simple())
}
