//! `truncate_prompt_tokens` and `truncation_side`: which part of a long prompt is read.

use super::super::fields::Fields;
use crate::server::error::ApiError;
use crate::text::tokenizer::{Added, Keep};

/// Where nobody said how much is generated, the room that is left for it.
const UNASKED_ROOM: usize = 16;

/// Tokens of a prompt that leave room for an answer of as many tokens as were `asked` for.
#[must_use]
pub fn room(asked: Option<usize>, max_model_len: usize) -> usize {
    max_model_len.saturating_sub(asked.unwrap_or(UNASKED_ROOM).max(1)).max(1)
}

/// Which part of a prompt is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncation {
    /// Tokens to read at most; `None` stands for what the context holds beside the answer.
    limit: Option<usize>,
    /// Leaves tokens out at the prompt's end instead of its beginning.
    at_end: bool,
}

impl Truncation {
    /// Takes both fields; `None` reads whole prompts.
    ///
    /// # Errors
    /// Where one is wrong.
    pub fn take(fields: &mut Fields, max_model_len: usize) -> Result<Option<Self>, ApiError> {
        let at_end = match fields.string("truncation_side")?.as_deref() {
            None | Some("left") => false,
            Some("right") => true,
            Some(_) => {
                let message = "`truncation_side` must be `left` or `right`";
                return Err(ApiError::invalid("truncation_side", message));
            }
        };
        let most = i64::try_from(max_model_len).unwrap_or(i64::MAX);
        match fields.integer("truncate_prompt_tokens", -1..=most)? {
            None => Ok(None),
            Some(-1) => Ok(Some(Self { limit: None, at_end })),
            Some(count @ 1..) => Ok(Some(Self { limit: usize::try_from(count).ok(), at_end })),
            Some(_) => {
                let message =
                    format!("`truncate_prompt_tokens` must be -1 or an integer from 1 to {most}");
                Err(ApiError::invalid("truncate_prompt_tokens", message))
            }
        }
    }

    /// Which tokens of a text are enough for [`Self::apply`]: one more than it keeps.
    #[must_use]
    pub fn keep(self, room: usize) -> Keep {
        let enough = self.limit.unwrap_or(room).saturating_add(1);
        if self.at_end { Keep::First(enough) } else { Keep::Last(enough) }
    }

    /// Leaves out what is too much of `tokens`, where the context has room for `room` of them. Those
    /// that the tokenizer `added` around the prompt stay, as long as there is room for more than them.
    /// True where something was left out.
    pub fn apply(self, tokens: &mut Vec<u32>, added: &mut Added, room: usize) -> bool {
        let limit = self.limit.unwrap_or(room);
        let Some(excess) = tokens.len().checked_sub(limit).filter(|excess| *excess > 0) else {
            return false;
        };
        if limit <= added.before + added.after {
            *added = Added::default();
        }
        let (first, last) = (added.before, tokens.len() - added.after);
        let left_out = if self.at_end { last - excess..last } else { first..first + excess };
        tokens.drain(left_out);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn taken(body: serde_json::Value) -> Result<Option<Truncation>, ApiError> {
        Truncation::take(&mut Fields::new(body.as_object().unwrap().clone()), 64)
    }

    fn kept(body: serde_json::Value, len: u32, added: Added, asked: Option<usize>) -> Vec<u32> {
        let (mut tokens, mut added) = ((0..len).collect(), added);
        taken(body).unwrap().unwrap().apply(&mut tokens, &mut added, room(asked, 64));
        tokens
    }

    #[test]
    fn the_side_says_where_tokens_are_left_out() {
        let none = Added::default();
        let of = |body| kept(body, 6, none, Some(4));
        assert_eq!(of(json!({"truncate_prompt_tokens": 2})), [4, 5]);
        assert_eq!(of(json!({"truncate_prompt_tokens": 2, "truncation_side": "left"})), [4, 5]);
        assert_eq!(of(json!({"truncate_prompt_tokens": 2, "truncation_side": null})), [4, 5]);
        assert_eq!(of(json!({"truncate_prompt_tokens": 2, "truncation_side": "right"})), [0, 1]);
        assert_eq!(of(json!({"truncate_prompt_tokens": 6, "truncation_side": "right"})).len(), 6);
        assert_eq!(taken(json!({"truncation_side": "right"})), Ok(None));
        for side in [json!("middle"), json!(""), json!(1), json!(true)] {
            assert!(taken(json!({ "truncation_side": side })).is_err(), "{side}");
        }
    }

    #[test]
    fn all_of_the_context_leaves_room_for_the_answer() {
        let all = json!({"truncate_prompt_tokens": -1});
        for (asked, left) in
            [(Some(10), 54), (Some(63), 1), (Some(64), 1), (Some(0), 63), (None, 48)]
        {
            let tokens = kept(all.clone(), 100, Added::default(), asked);
            assert_eq!((tokens.len(), tokens.last()), (left, Some(&99)), "{asked:?}");
        }
    }

    proptest! {
        #[test]
        fn what_the_tokenizer_added_stays_while_there_is_room_for_more(
            len in 0_u32..40, limit in 1_usize..40, before in 0_usize..3, after in 0_usize..3,
            at_end in any::<bool>(),
        ) {
            let len = len + (before + after) as u32;
            let all: Vec<u32> = (0..len).collect();
            let (mut tokens, mut added) = (all.clone(), Added { before, after });
            let truncation = Truncation { limit: Some(limit), at_end };
            let cut = truncation.apply(&mut tokens, &mut added, 1);
            prop_assert_eq!(cut, all.len() > limit);
            prop_assert_eq!(tokens.len(), all.len().min(limit));
            // In their order, none twice.
            prop_assert!(tokens.is_sorted_by(|a, b| a < b));
            let ends = |of: &[u32]| (of[..added.before].to_vec(), of[of.len() - added.after..].to_vec());
            prop_assert_eq!(ends(&tokens), ends(&all));
            if limit > before + after {
                prop_assert_eq!(added, Added { before, after });
            }
            let body = &tokens[added.before..tokens.len() - added.after];
            let whole = &all[added.before..all.len() - added.after];
            let expected = if at_end { &whole[..body.len()] } else { &whole[whole.len() - body.len()..] };
            prop_assert_eq!(body, expected);
        }
    }
}
