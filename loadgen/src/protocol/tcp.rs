//! Raw TCP echo (RFC 862): a reply is complete when as many bytes came back as were sent, all equal.

use super::{InvalidReply, Progress, Reply};

/// The message every request sends: `bytes` bytes of a fixed pattern in which no two windows of 256 match
/// in step, so that a lost or repeated chunk shows.
pub fn payload(bytes: u32) -> Vec<u8> {
    // 251 is prime: the pattern never lines up with a buffer size.
    (0..bytes).map(|i| (i % 251) as u8 ^ (i / 251) as u8).collect()
}

/// Compares an echo with what was sent, however it is cut.
#[derive(Clone, Debug, Default)]
pub struct EchoReader {
    received: usize,
}

impl EchoReader {
    /// Forgets the last reply.
    pub fn reset(&mut self) {
        self.received = 0;
    }

    /// Takes the next bytes of the reply to `sent`.
    pub fn advance(&mut self, sent: &[u8], bytes: &[u8]) -> Progress {
        let expected = &sent[self.received.min(sent.len())..];
        let consumed = expected.len().min(bytes.len());
        if bytes[..consumed] != expected[..consumed] {
            return Progress::Invalid(InvalidReply::Mismatch);
        }
        self.received += consumed;
        if self.received < sent.len() {
            return Progress::NeedMore;
        }
        self.received = 0;
        Progress::Done(Reply {
            status: 0,
            keep_alive: true,
            body_bytes: sent.len() as u64,
            consumed_bytes: consumed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_wrong_byte_is_a_mismatch() {
        let sent = payload(1000);
        let mut echo = sent.clone();
        echo[999] ^= 1;
        let mut reader = EchoReader::default();
        assert_eq!(reader.advance(&sent, &echo[..500]), Progress::NeedMore);
        assert_eq!(reader.advance(&sent, &echo[500..]), Progress::Invalid(InvalidReply::Mismatch));
    }

    #[test]
    fn bytes_beyond_the_echo_are_not_consumed() {
        let sent = payload(4);
        let Progress::Done(reply) = EchoReader::default().advance(&sent, &[0, 1, 2, 3, 9]) else { panic!() };
        assert_eq!((reply.consumed_bytes, reply.body_bytes), (4, 4));
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_reply(bytes in 1_u32..3000, cuts in proptest::collection::vec(1_usize..700, 1..8)) {
            let sent = payload(bytes);
            let mut reader = EchoReader::default();
            for _ in 0..2 {
                let mut rest = sent.as_slice();
                let mut cuts = cuts.iter().cycle();
                while !rest.is_empty() {
                    let (chunk, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                    rest = after;
                    let progress = reader.advance(&sent, chunk);
                    prop_assert_eq!(matches!(progress, Progress::Done(_)), rest.is_empty());
                }
            }
        }
    }
}
