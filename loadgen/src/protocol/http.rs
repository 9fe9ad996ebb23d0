//! HTTP/1.1, the client's side: one static request, an incremental reader of replies.
//!
//! ```text
//!  Head ──length──► Body(n) ─────────────┐
//!   ▲ │ ──chunked─► Chunked ─────────────┤
//!   │ │ ──neither─► UntilClose ──on_end──┼──► Done
//!   │ └───HEAD, 204, 304, length 0───────┘
//!  1xx (RFC 9110 §15.2: interim, skipped; 101 ends HTTP)
//! ```
//!
//! Message length follows RFC 9112 §6.3. The usual reply, whole in one slice, is read in place; only a
//! head that arrives in parts is copied, into a buffer that is kept for the next one.

mod chunked;
mod head;

use chunked::Chunk;
use head::{Framing, HEAD_BYTES_MAX, parse_head};

use super::{InvalidReply, Progress, Reply};
use crate::scenario::{Plan, Target};

/// Chunk extensions and trailers of one reply; they are skipped, so only their sum is bounded.
const CHUNK_EXTRA_BYTES_MAX: u32 = 64 * 1024;

/// The bytes that every request of a plan sends; empty for a target that does not speak HTTP.
pub fn request_bytes(plan: &Plan) -> Vec<u8> {
    let Target::Http { path, .. } = &plan.target else { return Vec::new() };
    let body = plan.body.as_bytes();
    let mut head = format!("{} {path} HTTP/1.1\r\n", plan.method);
    let has = |name: &str| plan.headers.iter().any(|(header, _)| header.eq_ignore_ascii_case(name));
    if !has("host") {
        head.push_str(&format!("Host: {}\r\n", plan.target.authority()));
    }
    if !has("user-agent") {
        head.push_str(concat!("User-Agent: fracas/", env!("CARGO_PKG_VERSION"), "\r\n"));
    }
    for (name, value) in &plan.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    // RFC 9110 §8.6: said with every body, and when the method usually has one.
    if !body.is_empty() || matches!(plan.method.as_str(), "POST" | "PUT" | "PATCH") {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    if !plan.keep_alive {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Reads one reply after another from one connection.
#[derive(Clone, Debug)]
pub struct ReplyReader {
    state: State,
    /// The part of a head that came so far; empty while heads come whole.
    head: Vec<u8>,
    status: u16,
    keep_alive: bool,
    body_bytes: u64,
    /// Replies to HEAD have no body whatever their headers say (RFC 9110 §9.3.2).
    to_head: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Body { left: u64 },
    Chunked(Chunk, u32),
    UntilClose,
}

impl ReplyReader {
    /// A reader of the replies to `method`.
    pub fn new(method: &str) -> ReplyReader {
        ReplyReader {
            state: State::Head,
            head: Vec::new(),
            status: 0,
            keep_alive: true,
            body_bytes: 0,
            to_head: method == "HEAD",
        }
    }

    /// Forgets a reply in progress: the connection is a new one.
    pub fn reset(&mut self) {
        self.state = State::Head;
        self.head.clear();
        self.body_bytes = 0;
    }

    /// True when no byte of a reply has come yet.
    pub fn is_idle(&self) -> bool {
        self.state == State::Head && self.head.is_empty()
    }

    /// Takes the next bytes. After `Done` the reader is ready for the next reply; after `Invalid` it wants
    /// [`ReplyReader::reset`].
    pub fn advance(&mut self, bytes: &[u8]) -> Progress {
        match self.read(bytes) {
            Ok(Some(consumed_bytes)) => self.finish(consumed_bytes),
            Ok(None) => Progress::NeedMore,
            Err(reason) => Progress::Invalid(reason),
        }
    }

    /// The peer closed: complete for a reply whose end is the close, too early for any other.
    pub fn on_end(&mut self) -> Progress {
        if self.state == State::UntilClose {
            self.finish(0)
        } else {
            Progress::Invalid(InvalidReply::EndedEarly)
        }
    }

    fn finish(&mut self, consumed_bytes: usize) -> Progress {
        let reply = Reply {
            status: self.status,
            keep_alive: self.keep_alive,
            body_bytes: self.body_bytes,
            consumed_bytes,
        };
        self.reset();
        Progress::Done(reply)
    }

    /// `Some(consumed)` when the reply ends within `bytes`.
    fn read(&mut self, bytes: &[u8]) -> Result<Option<usize>, InvalidReply> {
        let mut at = 0;
        loop {
            match self.state {
                State::Head => {
                    let Some(taken) = self.read_head(&bytes[at..])? else { return Ok(None) };
                    at += taken;
                    match self.state {
                        // An interim reply, or one with a body: go on behind the head.
                        State::Head if self.is_interim() => {}
                        State::Head => return Ok(Some(at)),
                        _ => {}
                    }
                }
                State::Body { left } => {
                    let taken = left.min((bytes.len() - at) as u64);
                    at += taken as usize;
                    if taken == left {
                        return Ok(Some(at));
                    }
                    self.state = State::Body { left: left - taken };
                    return Ok(None);
                }
                State::Chunked(chunk, extra) => return self.read_chunks(bytes, at, chunk, extra),
                State::UntilClose => {
                    self.body_bytes += (bytes.len() - at) as u64;
                    return Ok(None);
                }
            }
        }
    }

    fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// `Some(taken)` when the head ends within `bytes`; the state then says what follows.
    fn read_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, InvalidReply> {
        let head = if self.head.is_empty() {
            match parse_head(bytes, self.to_head)? {
                Some(head) => head,
                None => {
                    self.head.extend_from_slice(bytes);
                    return Ok(None);
                }
            }
        } else {
            // Never more than the limit is buffered, whatever one slice holds.
            let before = self.head.len();
            let added = bytes.len().min(HEAD_BYTES_MAX - before);
            self.head.extend_from_slice(&bytes[..added]);
            match parse_head(&self.head, self.to_head)? {
                Some(mut head) => {
                    self.head.clear();
                    head.bytes -= before;
                    head
                }
                None => return Ok(None),
            }
        };
        self.status = head.status;
        self.keep_alive = head.keep_alive;
        self.state = match head.framing {
            Framing::None | Framing::Length(0) => State::Head,
            Framing::Length(length) => {
                self.body_bytes = length;
                State::Body { left: length }
            }
            Framing::Chunked => State::Chunked(Chunk::Size { size: 0, digits: 0 }, 0),
            Framing::UntilClose => State::UntilClose,
        };
        Ok(Some(head.bytes))
    }

    fn read_chunks(
        &mut self,
        bytes: &[u8],
        mut at: usize,
        mut chunk: Chunk,
        mut extra: u32,
    ) -> Result<Option<usize>, InvalidReply> {
        while at < bytes.len() {
            if let Chunk::Data { left } = chunk {
                let taken = left.min((bytes.len() - at) as u64);
                at += taken as usize;
                chunk = if taken == left { Chunk::DataCr } else { Chunk::Data { left: left - taken } };
                continue;
            }
            let byte = bytes[at];
            at += 1;
            if chunk == Chunk::EndLf {
                return if byte == b'\n' { Ok(Some(at)) } else { Err(InvalidReply::Chunk) };
            }
            if matches!(chunk, Chunk::Extension { .. } | Chunk::TrailerLine) {
                extra += 1;
                if extra > CHUNK_EXTRA_BYTES_MAX {
                    return Err(InvalidReply::Chunk);
                }
            }
            let before = chunk;
            chunk = chunk.after(byte).ok_or(InvalidReply::Chunk)?;
            if let (Chunk::SizeLf { size }, Chunk::Data { .. }) = (before, chunk) {
                self.body_bytes = self.body_bytes.checked_add(size).ok_or(InvalidReply::Chunk)?;
            }
        }
        self.state = State::Chunked(chunk, extra);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(method: &str, text: &str) -> Progress {
        ReplyReader::new(method).advance(text.as_bytes())
    }

    fn done(method: &str, text: &str) -> (u16, bool, u64, usize) {
        match whole(method, text) {
            Progress::Done(reply) => (reply.status, reply.keep_alive, reply.body_bytes, reply.consumed_bytes),
            other => panic!("{other:?} for {text:?}"),
        }
    }

    #[test]
    fn the_request_is_what_the_plan_says() {
        let mut plan = Plan::for_target("http://127.0.0.1:8080/a?b=c".parse().unwrap());
        plan.headers.push(("X-A".into(), "b".into()));
        let text = |plan: &Plan| String::from_utf8(request_bytes(plan)).unwrap();
        let agent = concat!("User-Agent: fracas/", env!("CARGO_PKG_VERSION"), "\r\n");
        assert_eq!(
            text(&plan),
            format!("GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n{agent}X-A: b\r\n\r\n")
        );
        plan.method = "POST".into();
        plan.keep_alive = false;
        plan.headers = vec![("host".into(), "example".into()), ("User-agent".into(), "me".into())];
        assert!(text(&plan).ends_with("me\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"));
        assert!(!text(&plan).contains("Host: 127"));
        plan.body = b"abc".to_vec().into();
        assert!(text(&plan).ends_with("Content-Length: 3\r\nConnection: close\r\n\r\nabc"));
    }

    #[test]
    fn every_framing_of_rfc_9112_finds_its_end() {
        let ok = "HTTP/1.1 200 OK\r\n";
        for (method, text, expected) in [
            ("GET", format!("{ok}Content-Length: 5\r\n\r\nhello"), (200, true, 5, 0)),
            ("GET", format!("{ok}Content-Length: 0\r\n\r\n"), (200, true, 0, 0)),
            ("GET", format!("{ok}content-length: 5\r\nContent-Length:5\r\n\r\nhello"), (200, true, 5, 0)),
            ("GET", format!("{ok}Content-Length: 2\r\nConnection: x, Close\r\n\r\nhi"), (200, false, 2, 0)),
            ("HEAD", format!("{ok}Content-Length: 5\r\n\r\n"), (200, true, 0, 0)),
            ("HEAD", format!("{ok}Transfer-Encoding: chunked\r\n\r\n"), (200, true, 0, 0)),
            ("GET", "HTTP/1.1 204 No Content\r\n\r\n".into(), (204, true, 0, 0)),
            ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n".into(), (304, true, 0, 0)),
            (
                "GET",
                format!(
                    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n{ok}Content-Length: 1\r\n\r\nx"
                ),
                (200, true, 1, 0),
            ),
            ("GET", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".into(), (101, false, 0, 0)),
            (
                "GET",
                format!(
                    "{ok}Transfer-Encoding: gzip, Chunked\r\n\r\n4\r\nwiki\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nT: v\r\n\r\n"
                ),
                (200, true, 14, 0),
            ),
            ("GET", format!("{ok}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), (200, true, 0, 0)),
            ("GET", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx".into(), (200, false, 1, 0)),
            (
                "GET",
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx".into(),
                (200, true, 1, 0),
            ),
            ("GET", format!("HTTP/1.1 503 Busy\r\nContent-Length: 1\r\n\r\nx{ok}"), (503, true, 1, ok.len())),
        ] {
            let (status, keep_alive, body, extra) = expected;
            assert_eq!(done(method, &text), (status, keep_alive, body, text.len() - extra), "{text}");
        }
    }

    #[test]
    fn a_reply_without_a_length_ends_at_the_close() {
        let mut reader = ReplyReader::new("GET");
        assert_eq!(reader.advance(b"HTTP/1.1 200 OK\r\n\r\nsome"), Progress::NeedMore);
        assert_eq!(reader.advance(b"more"), Progress::NeedMore);
        let Progress::Done(reply) = reader.on_end() else { panic!() };
        assert_eq!((reply.body_bytes, reply.keep_alive), (8, false));
        assert_eq!(reader.on_end(), Progress::Invalid(InvalidReply::EndedEarly));
    }

    #[test]
    fn a_close_inside_a_reply_is_too_early() {
        for text in [
            "",
            "HTTP/1.1 2",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        ] {
            let mut reader = ReplyReader::new("GET");
            assert_eq!(reader.advance(text.as_bytes()), Progress::NeedMore);
            assert_eq!(reader.on_end(), Progress::Invalid(InvalidReply::EndedEarly), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let ok = "HTTP/1.1 200 OK\r\n";
        for (text, reason) in [
            ("SSH-2.0-OpenSSH\r\n".into(), InvalidReply::Head),
            ("HTTP/2 200\r\n\r\n".into(), InvalidReply::Head),
            (format!("{ok}Content-Length: +5\r\n\r\n"), InvalidReply::Length),
            (format!("{ok}Content-Length: 5\r\nContent-Length: 6\r\n\r\n"), InvalidReply::Length),
            (format!("{ok}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"), InvalidReply::Length),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(), InvalidReply::Length),
            (format!("{ok}Transfer-Encoding: chunked\r\n\r\nxyz"), InvalidReply::Chunk),
            (format!("{ok}Transfer-Encoding: chunked\r\n\r\n\r\n"), InvalidReply::Chunk),
            (format!("{ok}Transfer-Encoding: chunked\r\n\r\n1\r\nab"), InvalidReply::Chunk),
            (format!("{ok}Transfer-Encoding: chunked\r\n\r\n{}\r\n", "f".repeat(16)), InvalidReply::Chunk),
            (format!("{ok}X: {}\r\n\r\n", "y".repeat(70_000)), InvalidReply::HeadTooLong),
            (format!("{ok}{}\r\n", "X: y\r\n".repeat(129)), InvalidReply::HeadTooLong),
        ] {
            assert_eq!(whole("GET", &text), Progress::Invalid(reason), "{text:.80}");
        }
    }

    #[test]
    fn endless_trailers_are_refused() {
        let mut reader = ReplyReader::new("GET");
        assert_eq!(
            reader.advance(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"),
            Progress::NeedMore
        );
        let line = [b'x'; 1000];
        let last = (0..70).map(|_| reader.advance(&line)).find(|p| *p != Progress::NeedMore);
        assert_eq!(last, Some(Progress::Invalid(InvalidReply::Chunk)));
    }

    /// All outcomes of a stream, with where each reply ended.
    fn read_in_pieces(method: &str, bytes: &[u8], cuts: &[usize]) -> Vec<(usize, Progress)> {
        let mut reader = ReplyReader::new(method);
        let (mut outcomes, mut at) = (Vec::new(), 0);
        let mut cuts = cuts.iter().cycle();
        while at < bytes.len() {
            let end = (at + cuts.next().expect("cuts cycle")).min(bytes.len());
            while at < end {
                match reader.advance(&bytes[at..end]) {
                    Progress::NeedMore => at = end,
                    Progress::Done(reply) => {
                        at += reply.consumed_bytes;
                        outcomes.push((at, Progress::Done(Reply { consumed_bytes: 0, ..reply })));
                    }
                    invalid @ Progress::Invalid(_) => {
                        outcomes.push((0, invalid));
                        return outcomes;
                    }
                }
            }
        }
        outcomes
    }

    fn reply_text() -> impl Strategy<Value = Vec<u8>> {
        let body = proptest::collection::vec(any::<u8>(), 0..300);
        let plain = body.clone().prop_map(|body| {
            [
                format!("HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: {}\r\n\r\n", body.len())
                    .into_bytes(),
                body,
            ]
            .concat()
        });
        let chunked = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..60), 0..6)
            .prop_map(|chunks| {
                let mut all = b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                for chunk in chunks {
                    all.extend(format!("{:x};e=1\r\n", chunk.len()).bytes());
                    all.extend(chunk);
                    all.extend(b"\r\n");
                }
                all.extend(b"0\r\nTrailer: z\r\n\r\n");
                all
            });
        let interim = Just(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 None\r\n\r\n".to_vec());
        prop_oneof![plain, chunked, interim]
    }

    proptest! {
        #[test]
        fn any_split_of_replies_gives_the_same_replies(
            replies in proptest::collection::vec(reply_text(), 1..5),
            cuts in proptest::collection::vec(1_usize..80, 1..12),
        ) {
            let bytes = replies.concat();
            let whole = read_in_pieces("GET", &bytes, &[bytes.len()]);
            prop_assert_eq!(whole.len(), replies.len());
            prop_assert_eq!(&whole, &read_in_pieces("GET", &bytes, &cuts));
            prop_assert_eq!(&whole, &read_in_pieces("GET", &bytes, &[1]));
        }

        #[test]
        fn damaged_replies_never_panic_and_do_not_depend_on_the_split(
            mut bytes in reply_text(),
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cuts in proptest::collection::vec(1_usize..20, 1..6),
        ) {
            for (at, value) in flips {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            prop_assert_eq!(
                read_in_pieces("GET", &bytes, &[bytes.len()]),
                read_in_pieces("GET", &bytes, &cuts)
            );
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 1_usize..50) {
            let mut after_head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            after_head.extend_from_slice(&bytes);
            read_in_pieces("GET", &bytes, &[cut]);
            read_in_pieces("GET", &after_head, &[cut]);
        }
    }
}
