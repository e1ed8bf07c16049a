//! Llama 3: the whole answer is a call, or several with semicolons between them, with or without a
//! token before them.

use super::envelope::Envelope;
use crate::text::answer::Shape;

const OPEN: &str = "<|python_tag|>";

pub(super) const SHAPE: Shape = Shape {
    open: OPEN,
    open_is_text: false,
    after_content: false,
    separator: Some(';'),
    close: None,
    named: None,
};

pub(super) fn is_used_by(template: &str) -> bool {
    template.contains(OPEN) || template.contains("\"parameters\": ")
}

pub(super) const ENVELOPE: Envelope =
    Envelope { start: &[], before_call: &[], after_call: &[], between: "; ", end: &[] };
