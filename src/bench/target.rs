//! What a server under test says of itself: its models, and how it tokenises.

use serde_json::{Value, json};

use super::client::{Client, ClientError};
use super::workload::{PromptSource, WORDS};

/// The names a server answers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The model without an adapter: the first that has no parent.
    pub base: String,
    /// The models that have one.
    pub adapters: Vec<String>,
}

impl Names {
    /// Asks the server.
    ///
    /// # Errors
    /// Where it does not answer, or lists no model.
    pub async fn of(client: &Client) -> Result<Self, ClientError> {
        let path = "/v1/models";
        let answer = client.get(path).await?;
        Self::read(&answer).ok_or_else(|| ClientError::Unexpected {
            path: path.to_owned(),
            problem: "it lists no model".to_owned(),
        })
    }

    fn read(answer: &Value) -> Option<Self> {
        let cards = answer.get("data")?.as_array()?;
        let is_adapter = |card: &&Value| card.get("parent").is_some_and(|parent| !parent.is_null());
        let id = |card: &Value| card.get("id")?.as_str().map(str::to_owned);
        // A server of adapters only lists no base: its first adapter stands for it.
        let base = cards.iter().find(|card| !is_adapter(card)).or_else(|| cards.first())?;
        let adapters = cards.iter().filter(is_adapter).filter_map(id).collect();
        Some(Self { base: id(base)?, adapters })
    }
}

/// How prompts of an exact length are made for this server: of the ids of common words, where it
/// says what they are, else of the words themselves.
pub async fn prompt_source(client: &Client, model: &str) -> PromptSource {
    let words = WORDS.join(" ");
    // `prompt` is vLLM's and ours; `content` is llama.cpp's.
    let body = json!({
        "model": model, "prompt": words, "content": words, "add_special_tokens": false,
    });
    let answer = client.post("/tokenize", &body).await;
    let ids = answer.ok().and_then(|answer| read_ids(&answer));
    match ids {
        Some(ids) => PromptSource::Tokens(ids),
        None => PromptSource::Words,
    }
}

fn read_ids(answer: &Value) -> Option<Vec<u32>> {
    let ids = answer.get("tokens")?.as_array()?;
    let ids: Vec<u32> =
        ids.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect::<Option<_>>()?;
    (!ids.is_empty()).then_some(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_with_a_parent_is_an_adapter() {
        let answer = json!({"data": [
            {"id": "a", "parent": "base"}, {"id": "base", "parent": null}, {"id": "other"},
        ]});
        let names = Names::read(&answer).unwrap();
        assert_eq!(names, Names { base: "base".into(), adapters: vec!["a".into()] });
        let lone = json!({"data": [{"id": "a", "parent": "gone"}]});
        assert_eq!(Names::read(&lone).unwrap().base, "a");
        assert_eq!(Names::read(&json!({"data": []})), None);
        assert_eq!(Names::read(&json!({"error": "no"})), None);
    }

    #[test]
    fn ids_are_taken_whole_or_not_at_all() {
        assert_eq!(read_ids(&json!({"tokens": [1, 2]})), Some(vec![1, 2]));
        for wrong in [json!({}), json!({"tokens": []}), json!({"tokens": [1, "b"]})] {
            assert_eq!(read_ids(&wrong), None, "{wrong}");
        }
    }
}
