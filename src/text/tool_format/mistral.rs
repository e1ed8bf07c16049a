//! Mistral: an array of calls behind a token; newer models write a token before each call, and one
//! between its name and its arguments. Both are read; what is asked for is the first.

use super::envelope::{Bit, Envelope};
use crate::text::answer::{Named, Shape};

const OPEN: &str = "[TOOL_CALLS]";

pub(super) const SHAPE: Shape = Shape {
    open: OPEN,
    open_is_text: false,
    after_content: true,
    separator: None,
    close: None,
    named: Some(Named { id: "[CALL_ID]", arguments: "[ARGS]" }),
};

pub(super) fn is_used_by(template: &str) -> bool {
    template.contains(OPEN)
}

pub(super) const ENVELOPE: Envelope = Envelope {
    start: &[Bit::Mark(OPEN), Bit::Text(" [")],
    before_call: &[],
    after_call: &[],
    between: ", ",
    end: &[Bit::Text("]")],
};
