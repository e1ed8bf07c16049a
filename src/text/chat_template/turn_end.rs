//! Which special token closes an assistant's turn, found out by rendering one.

use serde_json::json;

use super::super::tokenizer::Tokenizer;
use super::{ChatTemplate, RenderOptions};

/// A word that no template writes by itself.
const ANSWER: &str = "sorsa_probed_answer";

/// The special token that follows an answer, white space aside. `None` where something else follows,
/// and where what follows is only the beginning of another answer, as in templates that end with one
/// whether they are asked for it or not.
pub(super) fn turn_end(template: &ChatTemplate, tokenizer: &Tokenizer) -> Option<u32> {
    let messages = json!([
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": ANSWER},
    ]);
    let text = template.render(&messages, false, &RenderOptions::default()).ok()?;
    let (before, after) = text.rsplit_once(ANSWER)?;
    let after = after.trim();
    let ids = tokenizer.encode(after, false).ok()?;
    let special: Vec<u32> = ids.iter().copied().filter(|id| tokenizer.is_special(*id)).collect();
    let (first, end) = (ids.first()?, *special.first()?);
    let text = tokenizer.token_text(end)?;
    let opens_another = special.len() == 1 && after != text && before.trim_end().ends_with(after);
    (*first == end && after.starts_with(&text) && !opens_another).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::super::super::samples;
    use super::super::super::tokenizer_config::SpecialTokens;
    use super::*;

    /// The text of the end that is found.
    fn end(source: &str) -> Option<String> {
        let tokenizer = samples::chat();
        let eos_token = Some("<|endoftext|>".to_owned());
        let tokens = SpecialTokens { eos_token, ..SpecialTokens::default() };
        let template = ChatTemplate::new(source, tokens).unwrap();
        template.turn_end(&tokenizer).and_then(|id| tokenizer.token_text(id))
    }

    #[test]
    fn the_special_token_behind_an_answer_ends_the_turn() {
        let turns =
            |turn: &str, rest: &str| format!("{{% for m in messages %}}{turn}{{% endfor %}}{rest}");
        let chatml = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n";
        let found = Some("<|im_end|>".to_owned());
        let prompt = "<|im_start|>assistant\n";
        assert_eq!(end(&turns(chatml, "")), found);
        assert_eq!(end(&turns(chatml, prompt)), found);
        assert_eq!(end(&turns(chatml, "<|endoftext|>")), found);
        assert_eq!(
            end(&turns("{{ m.content }} {{ eos_token }}", "")).as_deref(),
            Some("<|endoftext|>")
        );
        // No end: nothing follows, ordinary text does, or the next turn.
        assert_eq!(end(&turns("{{ m.content }}", "")), None);
        assert_eq!(end(&turns("{{ m.content }}\n", "")), None);
        assert_eq!(end(&turns("{{ m.content }}</turn>", "")), None);
        assert_eq!(end(&turns("<|im_start|>{{ m.role }}\n{{ m.content }}\n", prompt)), None);
        // The template does not show answers, or fails.
        assert_eq!(end("<|im_end|>"), None);
        assert_eq!(end("{{ raise_exception('no') }}"), None);
    }
}
