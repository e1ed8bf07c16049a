//! How models write function calls: one file a format, each with the mark around a call, how a call
//! is written, and how the mark is told from a chat template.
//!
//! Reading calls out of an answer is [`super::answer`]'s, from the format's [`Shape`].

mod envelope;
pub mod forced;
mod hermes;
mod llama3_json;
mod mistral;
pub mod plain;

use serde_json::Value;

use envelope::Envelope;

use super::answer::Shape;
use super::json_dumps::{DumpOptions, json_dumps};

/// A format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{…}</tool_call>`: Hermes, Qwen, SmolLM.
    Hermes,
    /// `{"name": …, "parameters": {…}}` as the whole answer: Llama 3.
    Llama3Json,
    /// `[TOOL_CALLS] [{…}]`: Mistral.
    Mistral,
}

impl ToolFormat {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Hermes, Self::Llama3Json, Self::Mistral];

    /// The format a chat template writes past calls in, and asks the model for.
    #[must_use]
    pub fn detect(template: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| match format {
            Self::Hermes => hermes::is_used_by(template),
            Self::Llama3Json => llama3_json::is_used_by(template),
            Self::Mistral => mistral::is_used_by(template),
        })
    }

    /// Its name, as flags have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hermes => "hermes",
            Self::Llama3Json => "llama3_json",
            Self::Mistral => "mistral",
        }
    }

    /// How calls stand in an answer.
    #[must_use]
    pub fn shape(self) -> Shape {
        match self {
            Self::Hermes => hermes::SHAPE,
            Self::Llama3Json => llama3_json::SHAPE,
            Self::Mistral => mistral::SHAPE,
        }
    }

    /// True where ids of calls must be nine letters and digits.
    #[must_use]
    pub fn has_short_ids(self) -> bool {
        self == Self::Mistral
    }

    /// The key under which a call's object has its arguments.
    #[must_use]
    pub fn arguments_key(self) -> &'static str {
        match self {
            Self::Hermes | Self::Mistral => "arguments",
            Self::Llama3Json => "parameters",
        }
    }

    fn envelope(self) -> Envelope {
        match self {
            Self::Hermes => hermes::ENVELOPE,
            Self::Llama3Json => llama3_json::ENVELOPE,
            Self::Mistral => mistral::ENVELOPE,
        }
    }

    /// Calls, objects already written as JSON, as the model itself would write them.
    #[must_use]
    pub fn write(self, objects: &[String]) -> String {
        self.envelope().write(objects)
    }
}

/// JSON as models were trained on it: with a space after commas and colons.
#[must_use]
pub fn spaced_json(value: Value) -> String {
    let value = minijinja::Value::from(minijinja::value::Serde(value));
    // What was read from JSON can be written as such.
    json_dumps(&value, &DumpOptions::default(), usize::MAX).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_show_their_format() {
        let cases = [
            ("{{ '<tool_call>\\n{\"name\": \"' }}", Some(ToolFormat::Hermes)),
            (
                "{{ '{\"name\": \"' + call.name + '\", \"parameters\": ' }}",
                Some(ToolFormat::Llama3Json),
            ),
            ("{%- if x %}<|python_tag|>{% endif %}", Some(ToolFormat::Llama3Json)),
            ("{{ '[TOOL_CALLS] [' }}", Some(ToolFormat::Mistral)),
            ("{{ '<tool_call>\\n<function=' }}", None),
            ("{{ messages[0].content }}", None),
        ];
        for (template, format) in cases {
            assert_eq!(ToolFormat::detect(template), format, "{template}");
        }
    }

    #[test]
    fn calls_are_written_as_the_models_write_them() {
        let calls = ["{1}".to_owned(), "{2}".to_owned()];
        let written = ToolFormat::ALL.map(|format| format.write(&calls));
        let hermes = "<tool_call>\n{1}\n</tool_call>\n<tool_call>\n{2}\n</tool_call>";
        assert_eq!(written, [hermes, "{1}; {2}", "[TOOL_CALLS] [{1}, {2}]"]);
    }
}
