//! Mistral: an array of calls behind a token.

use crate::text::answer::Shape;

const OPEN: &str = "[TOOL_CALLS]";

pub(super) const SHAPE: Shape =
    Shape { open: OPEN, open_is_text: false, after_content: true, separator: None, close: None };

pub(super) fn is_used_by(template: &str) -> bool {
    template.contains(OPEN)
}

pub(super) fn write(objects: &[String]) -> String {
    format!("{OPEN} [{}]", objects.join(", "))
}
