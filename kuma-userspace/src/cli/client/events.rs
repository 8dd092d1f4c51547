//! Server-sent events as they arrive in pieces (the HTML standard, section 9.2). Pure. Keeps: an event is bounded.
//! Called by follow.

/// One resource, far below it.
const MAX_EVENT_BYTES: usize = 16 << 20;

/// A whole event.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) data: String,
}

/// The stream does not hold events that we could take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an event of more than {MAX_EVENT_BYTES} bytes")]
pub(super) struct TooLong;

/// What has arrived and is not used yet.
#[derive(Default)]
pub(super) struct Decoder {
    /// The beginning of a line.
    pending: Vec<u8>,
    event: Event,
    /// A line feed behind a carriage return ends no second line.
    after_return: bool,
}

impl Decoder {
    /// Takes a piece and gives the events that it completes.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        for line in piece.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let (text, end) = match line.split_last() {
                Some((end @ (b'\n' | b'\r'), text)) => (text, Some(*end)),
                _ => (line, None),
            };
            let second_half = self.after_return && text.is_empty() && end == Some(b'\n');
            self.after_return = end == Some(b'\r');
            if second_half {
                continue;
            }
            if self.pending.len() + self.event.data.len() + text.len() > MAX_EVENT_BYTES {
                return Err(TooLong);
            }
            self.pending.extend_from_slice(text);
            if end.is_some() {
                let line = std::mem::take(&mut self.pending);
                events.extend(self.line(&String::from_utf8_lossy(&line)));
            }
        }
        Ok(events)
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            // An event without data is none.
            return (!event.data.is_empty() || !event.name.is_empty()).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // Comments (an empty field), ids and whatever else there will be.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &str = ": hello\n\nevent: put\ndata: {\"a\":\ndata: 1}\n\nevent:synced\r\ndata: {}\r\n\r\nid: 7\nretry: 1\ndata\n\nevent: delete\rdata: ä\r\revent: put\ndata: cut";

    fn decode(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let mut decoder = Decoder::default();
        let events = pieces.iter().flat_map(|piece| decoder.push(piece).unwrap());
        events.map(|event| (event.name, event.data)).collect()
    }

    fn want() -> Vec<(String, String)> {
        [("put", "{\"a\":\n1}"), ("synced", "{}"), ("delete", "ä")]
            .map(|(name, data)| (name.to_owned(), data.to_owned()))
            .into()
    }

    #[test]
    fn events_are_read_with_every_line_end_and_comments_are_not() {
        assert_eq!(decode(&[STREAM.as_bytes()]), want());
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut decoder = Decoder::default();
        let piece = vec![b'x'; MAX_EVENT_BYTES / 2 + 1];
        assert_eq!(decoder.push(&piece), Ok(vec![]));
        assert_eq!(decoder.push(&piece), Err(TooLong));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_stream_is_cut(cuts in proptest::collection::vec(0..STREAM.len(), 0..20)) {
            let mut cuts = cuts;
            cuts.extend([0, STREAM.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &STREAM.as_bytes()[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode(&pieces), want());
        }

        #[test]
        fn no_octets_break_the_decoder(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _events = Decoder::default().push(&octets);
        }
    }
}
