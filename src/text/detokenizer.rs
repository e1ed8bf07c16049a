//! Stub.
use super::tokenizer::{TextError, Tokenizer};
use std::sync::Arc;
#[derive(Debug)]
pub struct Detokenizer {
    t: Arc<Tokenizer>,
    skip: bool,
    bytes: Vec<u8>,
}
impl Detokenizer {
    pub fn new(t: Arc<Tokenizer>, skip: bool) -> Self {
        Self { t, skip, bytes: vec![] }
    }
    pub fn push(&mut self, id: u32) -> Result<String, TextError> {
        if id < 3 && self.skip {
            return Ok(String::new());
        }
        self.bytes.extend(self.t.token_bytes(id));
        let n = match std::str::from_utf8(&self.bytes) {
            Ok(s) => s.len(),
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            Err(_) => self.bytes.len(),
        };
        let out: Vec<u8> = self.bytes.drain(..n).collect();
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
    pub fn finish(&mut self) -> Result<String, TextError> {
        Ok(String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned())
    }
}
