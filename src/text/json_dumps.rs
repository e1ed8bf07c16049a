//! JSON as Python's `json.dumps` writes it, which is what a chat template's `tojson` prints.
//!
//! Nothing is escaped for HTML; a model was trained on `", "` and `": "` between items.

use std::io;

use serde_json::Value;
use serde_json::ser::{CharEscape, Formatter, Serializer};

/// The arguments of `json.dumps` that templates use.
#[derive(Debug, Clone, Default)]
pub(super) struct DumpOptions {
    /// Write characters beyond printable ASCII as `\uNNNN`.
    pub(super) ensure_ascii: bool,
    /// The indentation of one level; `None` writes one line.
    pub(super) indent: Option<String>,
    /// Between items and after keys; `None` is Python's choice for `indent`.
    pub(super) separators: Option<(String, String)>,
    /// Order the keys of every object.
    pub(super) sort_keys: bool,
}

/// Writes `value`.
///
/// # Errors
/// Where the writer of JSON fails, which a string in memory does not make it do.
pub(super) fn json_dumps(
    mut value: Value,
    options: &DumpOptions,
) -> Result<String, serde_json::Error> {
    if options.sort_keys {
        value.sort_all_objects();
    }
    let (item, key) = match &options.separators {
        Some((item, key)) => (item.as_str(), key.as_str()),
        None if options.indent.is_some() => (",", ": "),
        None => (", ", ": "),
    };
    let formatter = PythonFormatter {
        ensure_ascii: options.ensure_ascii,
        indent: options.indent.as_deref(),
        item,
        key,
        depth: 0,
        has_value: false,
    };
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, formatter);
    serde::Serialize::serialize(&value, &mut serializer)?;
    String::from_utf8(text).map_err(serde::ser::Error::custom)
}

struct PythonFormatter<'a> {
    ensure_ascii: bool,
    indent: Option<&'a str>,
    item: &'a str,
    key: &'a str,
    depth: usize,
    /// False until the innermost container has got a value: an empty one has no line of its own.
    has_value: bool,
}

impl PythonFormatter<'_> {
    fn open<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.has_value = false;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.has_value {
            self.new_line(writer)?;
        }
        self.has_value = true;
        writer.write_all(bracket)
    }

    fn separate<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.new_line(writer)
    }

    fn new_line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        let Some(indent) = self.indent else { return Ok(()) };
        writer.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| writer.write_all(indent.as_bytes()))
    }
}

impl Formatter for PythonFormatter<'_> {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(python_float(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if !self.ensure_ascii {
            return writer.write_all(fragment.as_bytes());
        }
        for c in fragment.chars() {
            // Python takes DEL for a character to escape, too.
            if matches!(c, ' '..='~') {
                write!(writer, "{c}")?;
            } else {
                let units = &mut [0; 2];
                c.encode_utf16(units)
                    .iter()
                    .try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?;
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        match escape {
            CharEscape::Quote => writer.write_all(b"\\\""),
            CharEscape::ReverseSolidus => writer.write_all(b"\\\\"),
            CharEscape::Solidus => writer.write_all(b"/"),
            CharEscape::Backspace => writer.write_all(b"\\b"),
            CharEscape::FormFeed => writer.write_all(b"\\f"),
            CharEscape::LineFeed => writer.write_all(b"\\n"),
            CharEscape::CarriageReturn => writer.write_all(b"\\r"),
            CharEscape::Tab => writer.write_all(b"\\t"),
            CharEscape::AsciiControl(byte) => write!(writer, "\\u{byte:04x}"),
        }
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.separate(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.separate(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }
}

/// A float as Python's `repr`: like Rust's, but with a sign and two digits in the exponent.
fn python_float(value: f64) -> String {
    let text = format!("{value:?}");
    match text.split_once('e') {
        None => text,
        Some((mantissa, exponent)) => {
            let (sign, digits) = match exponent.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', exponent),
            };
            format!("{mantissa}e{sign}{digits:0>2}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // The expected texts are what CPython's json.dumps prints for the same value.
    fn sample() -> Value {
        json!({"b": [1, 2.0, 1e-5, 1.5e16, {}, []], "a": {"<é>&'": "\u{1}\n\"🙂\u{7f}/", "n": null, "t": true}})
    }

    #[test]
    fn one_line() {
        let text = json_dumps(sample(), &DumpOptions::default()).unwrap();
        assert_eq!(
            text,
            "{\"b\": [1, 2.0, 1e-05, 1.5e+16, {}, []], \
             \"a\": {\"<é>&'\": \"\\u0001\\n\\\"🙂\u{7f}/\", \"n\": null, \"t\": true}}"
        );
    }

    #[test]
    fn indented_sorted_and_ascii() {
        let options = DumpOptions {
            ensure_ascii: true,
            indent: Some("  ".to_owned()),
            sort_keys: true,
            separators: None,
        };
        let text = json_dumps(sample(), &options).unwrap();
        let expected = r#"{
  "a": {
    "<\u00e9>&'": "\u0001\n\"\ud83d\ude42\u007f/",
    "n": null,
    "t": true
  },
  "b": [
    1,
    2.0,
    1e-05,
    1.5e+16,
    {},
    []
  ]
}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn given_separators() {
        let separators = Some((",".to_owned(), ":".to_owned()));
        let options = DumpOptions { separators, ..DumpOptions::default() };
        assert_eq!(json_dumps(json!({"a": [1, 2]}), &options).unwrap(), r#"{"a":[1,2]}"#);
    }
}
