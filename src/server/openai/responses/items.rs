//! The items of a response, and what a stream tells of them.

use serde::Serialize;
use utoipa::ToSchema;

use super::super::types::ChatLogprob;
use super::object::ResponseObject;

/// How far an item, or a response, has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ResponseStatus)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// There is more to come.
    InProgress,
    /// It is whole.
    Completed,
    /// It was cut off.
    Incomplete,
    /// It came to nothing.
    Failed,
}

/// An item of a response.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    /// What the model thought.
    Reasoning {
        /// Unique.
        id: String,
        /// Always empty: thoughts are given as they are.
        summary: Vec<Part>,
        /// The thoughts.
        content: Vec<Part>,
        /// How far they have come.
        status: Status,
    },
    /// What it said.
    Message {
        /// Unique.
        id: String,
        /// How far it has come.
        status: Status,
        /// `assistant`.
        role: &'static str,
        /// One part.
        content: Vec<Part>,
    },
    /// A function it calls.
    FunctionCall {
        /// Unique.
        id: String,
        /// How far it has come.
        status: Status,
        /// What its result will be known by.
        call_id: String,
        /// The function's name.
        name: String,
        /// JSON as the model wrote it.
        arguments: String,
    },
}

/// A part of an item.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    /// Of a message.
    OutputText {
        /// What is said.
        text: String,
        /// Always empty.
        #[schema(value_type = Vec<Object>)]
        annotations: [(); 0],
        /// Its tokens, where they were asked for, else empty.
        logprobs: Vec<ChatLogprob>,
    },
    /// Of thoughts.
    ReasoningText {
        /// What is thought.
        text: String,
    },
}

/// Something that happened to a response, as a stream tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The event's name.
    pub name: &'static str,
    /// What it says.
    pub what: What,
}

/// The fields of an event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum What {
    /// An item begins or ends.
    Item {
        /// Its place.
        output_index: usize,
        /// As it is now.
        item: OutputItem,
    },
    /// A part begins or ends.
    Part {
        /// The item's.
        #[serde(flatten)]
        at: PartPlace,
        /// As it is now.
        part: Part,
    },
    /// More of a part's text.
    TextDelta {
        /// The part's.
        #[serde(flatten)]
        at: PartPlace,
        /// What is new; nothing where only tokens are.
        delta: String,
        /// Of messages: the tokens that are new, where they were asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<Vec<ChatLogprob>>,
    },
    /// A part's text is whole.
    TextDone {
        /// The part's.
        #[serde(flatten)]
        at: PartPlace,
        /// All of it.
        text: String,
        /// Of messages: its tokens, where they were asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<Vec<ChatLogprob>>,
    },
    /// More of a call's arguments.
    ArgumentsDelta {
        /// The call's.
        item_id: String,
        /// The call's.
        output_index: usize,
        /// What is new.
        delta: String,
    },
    /// A call's arguments are whole.
    ArgumentsDone {
        /// The call's.
        item_id: String,
        /// The call's.
        output_index: usize,
        /// The function's.
        name: String,
        /// All of them.
        arguments: String,
    },
}

/// An event of a response's stream, for the description of the API. Which fields beside the first
/// two there are depends on its type.
#[derive(Debug, ToSchema)]
pub struct ResponseEvent {
    /// The event's name.
    pub r#type: String,
    /// Its place in the stream.
    pub sequence_number: u64,
    /// The whole response: where it begins and ends.
    pub response: Option<ResponseObject<'static>>,
    /// The item's place.
    pub output_index: Option<usize>,
    /// The item's id.
    pub item_id: Option<String>,
    /// The part's place in the item.
    pub content_index: Option<usize>,
    /// The item, where it begins or ends.
    pub item: Option<OutputItem>,
    /// The part, where it begins or ends.
    pub part: Option<Part>,
    /// What is new of a text or of arguments.
    pub delta: Option<String>,
    /// All of a text.
    pub text: Option<String>,
    /// The name of the function that is called.
    pub name: Option<String>,
    /// All of a call's arguments.
    pub arguments: Option<String>,
    /// Tokens of a message's text, where they were asked for.
    pub logprobs: Option<Vec<ChatLogprob>>,
}

/// Which part of which item. Every item has one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartPlace {
    /// The item.
    pub item_id: String,
    /// The item's place.
    pub output_index: usize,
    /// The part's.
    pub content_index: usize,
}

impl OutputItem {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Reasoning { id, .. }
            | Self::Message { id, .. }
            | Self::FunctionCall { id, .. } => id,
        }
    }

    /// Sets how far it has come.
    pub fn set_status(&mut self, to: Status) {
        match self {
            Self::Reasoning { status, .. }
            | Self::Message { status, .. }
            | Self::FunctionCall { status, .. } => *status = to,
        }
    }

    /// Its part, where it has one.
    #[must_use]
    pub fn part(&self) -> Option<&Part> {
        match self {
            Self::Reasoning { content, .. } | Self::Message { content, .. } => content.first(),
            Self::FunctionCall { .. } => None,
        }
    }

    /// Adds to the text of its part, and to the tokens of a message's.
    pub fn extend(&mut self, more: &str, more_logprobs: &[ChatLogprob]) {
        let (Self::Reasoning { content, .. } | Self::Message { content, .. }) = self else {
            return;
        };
        match content.first_mut() {
            Some(Part::OutputText { text, logprobs, .. }) => {
                text.push_str(more);
                logprobs.extend_from_slice(more_logprobs);
            }
            Some(Part::ReasoningText { text }) => text.push_str(more),
            None => {}
        }
    }

    /// As it is told first: its part follows.
    #[must_use]
    pub fn without_parts(&self) -> Self {
        let mut item = self.clone();
        if let Self::Reasoning { content, .. } | Self::Message { content, .. } = &mut item {
            content.clear();
        }
        item
    }
}
