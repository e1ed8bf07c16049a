//! Fixed texts, such as tags, found in a stream of characters.
//!
//! It holds back what may still become one of them and says what turned out to be none. A marker's
//! first character occurs in it only once, so that nothing is ever read twice.

/// Characters that may still become a marker.
#[derive(Debug, Clone, Default)]
pub(super) struct Markers {
    held: String,
}

/// What one more character led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// This marker is complete, and nothing is held.
    Whole(&'static str),
    /// The character is held. Those here were held before and are no part of a marker.
    Held(String),
    /// Neither the character nor those here, held before it, are part of a marker.
    Passed(String),
}

impl Markers {
    /// Reads `c`, looking for one of `markers`.
    pub(super) fn push(&mut self, c: char, markers: &[&'static str]) -> Match {
        self.held.push(c);
        if let Some(marker) = markers.iter().find(|marker| **marker == self.held) {
            self.held.clear();
            return Match::Whole(marker);
        }
        if self.is_open(markers) {
            return Match::Held(String::new());
        }
        self.held.pop();
        let before = std::mem::take(&mut self.held);
        self.held.push(c);
        if self.is_open(markers) {
            return Match::Held(before);
        }
        self.held.clear();
        Match::Passed(before)
    }

    /// True where nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What is held where the text ends.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    fn is_open(&self, markers: &[&'static str]) -> bool {
        markers.iter().any(|marker| marker.starts_with(&self.held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_found_and_its_beginning_alone_is_text() {
        let mut markers = Markers::default();
        let mut read = |text: &str| -> Vec<Match> {
            text.chars().map(|c| markers.push(c, &["<a>", "</a>"])).collect()
        };
        let held = |text: &str| Match::Held(text.to_owned());
        let passed = |text: &str| Match::Passed(text.to_owned());
        assert_eq!(read("<a>"), [held(""), held(""), Match::Whole("<a>")]);
        assert_eq!(read("</<b"), [held(""), held(""), held("</"), passed("<")]);
        assert_eq!(read("</a"), [held(""), held(""), held("")]);
        assert_eq!(markers.finish(), "</a");
    }
}
