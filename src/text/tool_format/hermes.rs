//! Hermes, Qwen, SmolLM: each call between tags of its own.

use super::envelope::{Bit, Envelope};
use crate::text::answer::Shape;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

pub(super) const SHAPE: Shape = Shape {
    open: OPEN,
    open_is_text: true,
    after_content: true,
    separator: None,
    close: Some(CLOSE),
    named: None,
};

/// Some models of the family write functions in XML within the same tags: those are others.
pub(super) fn is_used_by(template: &str) -> bool {
    template.contains(OPEN) && !template.contains("<function=") && !template.contains("<arg_key>")
}

pub(super) const ENVELOPE: Envelope = Envelope {
    start: &[],
    before_call: &[Bit::Mark(OPEN), Bit::Text("\n")],
    after_call: &[Bit::Text("\n"), Bit::Mark(CLOSE)],
    between: "\n",
    end: &[],
};
