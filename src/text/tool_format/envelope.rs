//! What a model writes around the objects of its calls, in the one form that it is asked for.

/// A piece of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bit {
    /// A mark, which may be a token of its own.
    Mark(&'static str),
    /// Text.
    Text(&'static str),
}

/// Around, before, after and between the objects.
#[derive(Debug, Clone, Copy)]
pub(super) struct Envelope {
    pub(super) start: &'static [Bit],
    pub(super) before_call: &'static [Bit],
    pub(super) after_call: &'static [Bit],
    pub(super) between: &'static str,
    pub(super) end: &'static [Bit],
}

impl Envelope {
    /// Calls, whose objects are JSON already.
    pub(super) fn write(&self, objects: &[String]) -> String {
        let text = |bits: &[Bit]| -> String {
            let text = |bit: &Bit| match bit {
                Bit::Mark(text) | Bit::Text(text) => *text,
            };
            bits.iter().map(text).collect()
        };
        let (before, after) = (text(self.before_call), text(self.after_call));
        let calls: Vec<String> =
            objects.iter().map(|object| format!("{before}{object}{after}")).collect();
        format!("{}{}{}", text(self.start), calls.join(self.between), text(self.end))
    }
}
