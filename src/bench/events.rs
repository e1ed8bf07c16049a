//! Server-sent events, put together from whatever pieces the network delivers.
//!
//! Only the `data` lines are kept: OpenAI's streams carry one such line an event, and nothing else
//! that matters.

/// What ends a stream of OpenAI's.
pub const DONE: &str = "[DONE]";
/// No server's event is longer; one that is would fill the memory.
const MAX_LINE_BYTES: usize = 4 << 20;

/// A line that does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line of the stream is longer than {MAX_LINE_BYTES} bytes")]
pub struct TooLong;

/// Bytes whose line is not complete yet.
#[derive(Debug, Default)]
pub struct EventBuffer {
    rest: Vec<u8>,
}

impl EventBuffer {
    /// Takes a piece, and returns the data of every line that it completes.
    ///
    /// # Errors
    /// Where a line grows beyond every bound.
    pub fn push(&mut self, piece: &[u8]) -> Result<Vec<String>, TooLong> {
        self.rest.extend_from_slice(piece);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return if self.rest.len() > MAX_LINE_BYTES { Err(TooLong) } else { Ok(Vec::new()) };
        };
        let lines: Vec<u8> = self.rest.drain(..=end).collect();
        Ok(lines.split(|byte| *byte == b'\n').filter_map(data).collect())
    }
}

fn data(line: &[u8]) -> Option<String> {
    let data = line.strip_prefix(b"data:")?.trim_ascii();
    Some(String::from_utf8_lossy(data).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = ": ping\r\n\r\ndata: {\"text\":\"é\"}\r\n\r\nevent: x\ndata:[1]\n\n\
                          data: [DONE]\n\n";

    proptest! {
        #[test]
        fn however_it_is_cut_a_stream_holds_the_same_events(
            cuts in proptest::collection::vec(0..STREAM.len(), 0..8)
        ) {
            let mut cuts = cuts;
            cuts.extend([0, STREAM.len()]);
            cuts.sort_unstable();
            let mut buffer = EventBuffer::default();
            let mut events = Vec::new();
            for pair in cuts.windows(2) {
                events.extend(buffer.push(&STREAM.as_bytes()[pair[0]..pair[1]]).unwrap());
            }
            prop_assert_eq!(events, ["{\"text\":\"é\"}", "[1]", DONE]);
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut buffer = EventBuffer::default();
        assert_eq!(buffer.push(&vec![b'x'; MAX_LINE_BYTES]), Ok(Vec::new()));
        assert_eq!(buffer.push(b"x"), Err(TooLong));
    }
}
