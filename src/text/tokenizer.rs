//! Stub.
#[derive(Debug)]
pub struct Tokenizer(pub tokenizers::Tokenizer);
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TextError(pub String);
impl Tokenizer {
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TextError> {
        tokenizers::Tokenizer::from_bytes(bytes).map(Self).map_err(|e| TextError(e.to_string()))
    }
    pub fn encode(&self, text: &str, add: bool) -> Result<Vec<u32>, TextError> {
        self.0.encode(text, add).map(|e| e.get_ids().to_vec()).map_err(|e| TextError(e.to_string()))
    }
    pub fn decode(&self, ids: &[u32], skip: bool) -> Result<String, TextError> {
        self.0.decode(ids, skip).map_err(|e| TextError(e.to_string()))
    }
    pub fn token_text(&self, id: u32) -> String {
        self.0.id_to_token(id).unwrap_or_default()
    }
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let token = self.token_text(id);
        if id < 3 {
            return token.into_bytes();
        }
        token
            .chars()
            .map(|c| {
                let mut n = 0u32;
                for b in 0u32..=255 {
                    let same = (33..=126).contains(&b) || (161..=172).contains(&b) || b >= 174;
                    let mapped = if same {
                        b
                    } else {
                        n += 1;
                        255 + n
                    };
                    if mapped == c as u32 {
                        return b as u8;
                    }
                }
                b'?'
            })
            .collect()
    }
    pub fn vocab_size(&self) -> usize {
        self.0.get_vocab_size(true)
    }
}
