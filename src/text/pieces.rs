//! What each token of a vocabulary stands for, in one table made once at load.
//!
//! It knows the two ways in which vocabularies spell text: the byte-level alphabet (each byte is
//! one printable character) and SentencePiece pieces (`▁` for a space, `<0xNN>` for a raw byte).
//! Any other decoder is refused by name. It holds no state of a text being decoded.

use serde_json::Value;

/// A decoder of `tokenizer.json` that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecoderError {
    /// `decoder` is null.
    #[error("the tokenizer has no decoder")]
    Missing,
    /// A type of decoder, or an option of one, that is not supported.
    #[error("the tokenizer's decoder {0} is not supported")]
    Unsupported(String),
}

/// How a piece is spelt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// One character a byte.
    ByteLevel,
    /// Plain text; `<0xNN>` is a byte where the flag is set.
    SentencePiece { byte_fallback: bool },
}

/// What happens where a decoded text begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Nothing.
    Keep,
    /// Up to `count` leading `content`s are removed.
    Strip {
        /// The character.
        content: char,
        /// How many of it at most.
        count: usize,
    },
    /// The first token loses every occurrence of this character of its vocabulary form.
    DropFromFirst(char),
}

/// The decoder of a `tokenizer.json`, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decoding {
    spelling: Spelling,
    replacements: Vec<(String, String)>,
    start: Start,
}

/// How the bytes of a piece join the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceKind {
    /// Whole characters: a character left open before it is broken for good.
    Text,
    /// Bytes, which may begin or continue a character.
    Bytes,
}

/// A token's share of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) kind: PieceKind,
    pub(super) special: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: usize,
    end: usize,
    kind: PieceKind,
    special: bool,
}

/// The pieces of a vocabulary, by token id.
#[derive(Debug)]
pub(super) struct PieceTable {
    bytes: Vec<u8>,
    entries: Vec<Option<Entry>>,
    decoding: Decoding,
}

impl Decoding {
    /// Understands the `decoder` of a `tokenizer.json`.
    pub(super) fn parse(decoder: &Value) -> Result<Self, DecoderError> {
        let mut steps = Vec::new();
        flatten(decoder, &mut steps);
        let mut decoding = Self {
            spelling: Spelling::SentencePiece { byte_fallback: false },
            replacements: Vec::new(),
            start: Start::Keep,
        };
        let mut fused = false;
        let alone = steps.len() == 1;
        for step in &steps {
            match step["type"].as_str() {
                Some("ByteLevel") if alone => decoding.spelling = Spelling::ByteLevel,
                Some("Replace") if !fused => decoding.add_replacement(step)?,
                Some("ByteFallback") if !fused => {
                    decoding.spelling = Spelling::SentencePiece { byte_fallback: true };
                }
                Some("Metaspace") if !fused => decoding.add_metaspace(step)?,
                Some("Fuse") => fused = true,
                Some("Strip") if fused => decoding.add_strip(step)?,
                _ => return Err(unsupported(step)),
            }
        }
        if steps.is_empty() { Err(DecoderError::Missing) } else { Ok(decoding) }
    }

    fn add_replacement(&mut self, step: &Value) -> Result<(), DecoderError> {
        match (step["pattern"]["String"].as_str(), step["content"].as_str()) {
            (Some(pattern), Some(content)) if !pattern.is_empty() => {
                self.replacements.push((pattern.to_owned(), content.to_owned()));
                Ok(())
            }
            _ => Err(unsupported(step)),
        }
    }

    fn add_metaspace(&mut self, step: &Value) -> Result<(), DecoderError> {
        let replacement = single_char(&step["replacement"]).ok_or_else(|| unsupported(step))?;
        self.replacements.push((replacement.to_string(), " ".to_owned()));
        if step["prepend_scheme"] != "never" {
            self.set_start(step, Start::DropFromFirst(replacement))?;
        }
        Ok(())
    }

    fn add_strip(&mut self, step: &Value) -> Result<(), DecoderError> {
        let content = single_char(&step["content"]).ok_or_else(|| unsupported(step))?;
        let count = step["start"].as_u64().and_then(|count| usize::try_from(count).ok());
        match (count, step["stop"].as_u64()) {
            (Some(count), Some(0)) => self.set_start(step, Start::Strip { content, count }),
            _ => Err(unsupported(step)),
        }
    }

    fn set_start(&mut self, step: &Value, start: Start) -> Result<(), DecoderError> {
        if self.start != Start::Keep {
            return Err(unsupported(step));
        }
        self.start = start;
        Ok(())
    }

    fn piece(&self, token: &str) -> (Vec<u8>, PieceKind) {
        match self.spelling {
            Spelling::ByteLevel => (byte_level_bytes(token), PieceKind::Bytes),
            Spelling::SentencePiece { byte_fallback } => {
                let byte = if byte_fallback { raw_byte(token) } else { None };
                match byte {
                    Some(byte) => (vec![byte], PieceKind::Bytes),
                    None => (self.replace(token).into_bytes(), PieceKind::Text),
                }
            }
        }
    }

    fn replace(&self, token: &str) -> String {
        self.replacements
            .iter()
            .fold(token.to_owned(), |text, (pattern, content)| text.replace(pattern, content))
    }
}

impl PieceTable {
    /// `tokens` yields id, vocabulary form and whether the token is special.
    pub(super) fn new(
        decoding: Decoding,
        tokens: impl IntoIterator<Item = (u32, String, bool)>,
    ) -> Self {
        let mut table = Self { bytes: Vec::new(), entries: Vec::new(), decoding };
        for (id, token, special) in tokens {
            let (bytes, kind) = table.decoding.piece(&token);
            let start = table.bytes.len();
            table.bytes.extend(bytes);
            let entry = Entry { start, end: table.bytes.len(), kind, special };
            let index = id as usize;
            if index >= table.entries.len() {
                table.entries.resize(index + 1, None);
            }
            table.entries[index] = Some(entry);
        }
        table
    }

    /// One more than the largest id.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The piece of a token, `None` for an id that is no token.
    pub(super) fn get(&self, id: u32) -> Option<Piece<'_>> {
        let Entry { start, end, kind, special } = (*self.entries.get(id as usize)?)?;
        Some(Piece { bytes: &self.bytes[start..end], kind, special })
    }

    /// What happens where a text begins.
    pub(super) fn start(&self) -> Start {
        self.decoding.start
    }

    /// The text of a token that begins a text and loses `dropped` ([`Start::DropFromFirst`]).
    pub(super) fn first_text(&self, token: &str, dropped: char) -> String {
        self.decoding.replace(&token.replace(dropped, ""))
    }

    /// True where an ill-formed byte sequence becomes one U+FFFD a byte, as SentencePiece does;
    /// false where it becomes a single one, as a byte-level decoder does.
    pub(super) fn replaces_each_byte(&self) -> bool {
        self.decoding.spelling != Spelling::ByteLevel
    }
}

/// The steps of a decoder in order; sequences may nest.
fn flatten<'a>(decoder: &'a Value, steps: &mut Vec<&'a Value>) {
    match decoder["decoders"].as_array() {
        Some(decoders) if decoder["type"] == "Sequence" => {
            decoders.iter().for_each(|decoder| flatten(decoder, steps));
        }
        _ if decoder.is_null() => {}
        _ => steps.push(decoder),
    }
}

fn unsupported(step: &Value) -> DecoderError {
    DecoderError::Unsupported(step.to_string())
}

fn single_char(value: &Value) -> Option<char> {
    let mut chars = value.as_str()?.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// `<0xNN>`: the spelling of a raw byte in SentencePiece vocabularies.
pub(super) fn raw_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let two_digits = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if two_digits { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// A token with a character outside the alphabet (an added token) stands for its own text.
fn byte_level_bytes(token: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The byte that a character of GPT-2's byte-level alphabet stands for: printable Latin-1 is
/// itself, the 68 other bytes follow in order from U+0100 on.
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_byte_level_alphabet_is_a_bijection() {
        let mut bytes: Vec<u8> =
            (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of('日'), None);
    }

    #[test]
    fn a_raw_byte_has_two_digits() {
        assert_eq!(raw_byte("<0x0A>"), Some(10));
        assert_eq!(raw_byte("<0xff>"), Some(255));
        for token in ["<0xA>", "<0x0AA>", "<0x+A>", "<0xéé>", "0x0A", "<0x0A"] {
            assert_eq!(raw_byte(token), None, "{token}");
        }
    }

    #[test]
    fn other_decoders_are_refused_by_name() {
        assert_eq!(Decoding::parse(&Value::Null), Err(DecoderError::Missing));
        for decoder in [
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "CTC"}]}),
            json!({"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""}),
            json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}),
            json!({"type": "Sequence", "decoders": [
                {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 1}]}),
            json!({"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "Fuse"}]}),
        ] {
            let error = Decoding::parse(&decoder).unwrap_err();
            assert!(matches!(error, DecoderError::Unsupported(_)), "{error}");
        }
        let ctc = Decoding::parse(&json!({"type": "CTC"})).unwrap_err();
        assert_eq!(ctc.to_string(), r#"the tokenizer's decoder {"type":"CTC"} is not supported"#);
    }
}
