//! Hermes, Qwen, SmolLM: each call between tags of its own.

use crate::text::answer::Shape;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

pub(super) const SHAPE: Shape = Shape {
    open: OPEN,
    open_is_text: true,
    after_content: true,
    separator: None,
    close: Some(CLOSE),
};

/// Some models of the family write functions in XML within the same tags: those are others.
pub(super) fn is_used_by(template: &str) -> bool {
    template.contains(OPEN) && !template.contains("<function=") && !template.contains("<arg_key>")
}

pub(super) fn write(objects: &[String]) -> String {
    let calls: Vec<String> =
        objects.iter().map(|object| format!("{OPEN}\n{object}\n{CLOSE}")).collect();
    calls.join("\n")
}
