//! The origin on one ring: reads requests, answers when it is time.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::OriginSettings;
use crate::behavior::duration;
use crate::clock::Instant;
use crate::protocol::http::{Event, RequestFramer, reason};
use crate::proxy::Size;
use crate::ring::{Chunk, Errno, Outcome, ReceiveEnd, Ring, SEND_CHUNKS_MAX, SLOT_LIMIT, Socket, Token};
use crate::timers::Timers;

const LISTENER: Token = Token { role: 0, slot: 0, generation: 0 };
const CONNECTION: u8 = 1;
/// Replies that may wait on one connection before it is no longer read.
const REPLIES_MAX: usize = 1024;
/// The largest body that `/bytes/N` gives.
const BODY_BYTES_MAX: usize = 64 << 20;
/// How long accepting rests when no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all workers of one origin share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Until when nothing is answered, in nanoseconds of the clock.
    frozen_until: AtomicU64,
    /// Requests answered, or bytes echoed.
    answered: AtomicU64,
}

impl Shared {
    /// Answers nothing for `length` from `now`; what is asked meanwhile is answered after it.
    pub fn freeze(&self, now: Instant, length: Duration) {
        self.frozen_until.fetch_max((now + length).as_nanos(), Ordering::Relaxed);
    }

    /// Requests answered so far; with echo, chunks.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

/// One thread of the origin. Drive it by [`OriginWorker::turn`].
pub struct OriginWorker<R: Ring> {
    ring: R,
    settings: OriginSettings,
    shared: Arc<Shared>,
    now: Instant,
    timers: Timers<Timer>,
    listener: Socket,
    connections: Vec<Option<Box<Connection>>>,
    generations: Vec<u16>,
    free: Vec<u32>,
    starved: Vec<(u32, u16)>,
    /// The reply to most requests, made once: whole, and how much of it is head.
    reply: Rc<[u8]>,
    reply_head_bytes: usize,
    woken: bool,
}

#[derive(Clone, Copy)]
enum Timer {
    Reply(u32, u16),
    Accept,
}

struct Connection {
    socket: Socket,
    framer: RequestFramer,
    wanted: Wanted,
    replies: VecDeque<(Instant, Chunk)>,
    size: Size,
    receiving: bool,
    sending: bool,
    timer: bool,
    /// The client sends no more.
    ended: bool,
    /// Ends after the replies that wait.
    last: bool,
    closing: bool,
}

impl<R: Ring> OriginWorker<R> {
    /// Listens on `settings.listen` by `ring`; returns the address in use.
    ///
    /// # Errors
    /// Those of bind(2) and listen(2).
    pub fn open(
        mut ring: R,
        settings: OriginSettings,
        shared: Arc<Shared>,
    ) -> io::Result<(OriginWorker<R>, SocketAddr)> {
        let (listener, address) = ring.listen(settings.listen, &settings.options)?;
        ring.accept(listener, LISTENER);
        let now = ring.now();
        let (reply, reply_head_bytes) = reply(200, settings.body_bytes);
        let worker = OriginWorker {
            ring,
            settings,
            shared,
            now,
            timers: Timers::new(now),
            listener,
            connections: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            starved: Vec::new(),
            reply: Rc::from(reply),
            reply_head_bytes,
            woken: false,
        };
        Ok((worker, address))
    }

    /// Waits for something to happen or to be due, and does what follows.
    ///
    /// # Errors
    /// Only what the ring cannot go on from.
    pub fn turn(&mut self) -> io::Result<()> {
        let deadline = self.timers.next_due();
        self.ring.wait_until(deadline)?;
        self.now = self.ring.now();
        while let Some(completion) = self.ring.next_completion() {
            match completion.outcome {
                Outcome::Woken => self.woken = true,
                Outcome::Accepted(socket) => self.on_accepted(socket),
                Outcome::AcceptEnded(Errno(libc::EMFILE | libc::ENFILE)) => {
                    self.timers.insert(self.now + ACCEPT_PAUSE, Timer::Accept);
                }
                Outcome::AcceptEnded(Errno(libc::ECANCELED)) => {}
                Outcome::AcceptEnded(_) => self.ring.accept(self.listener, LISTENER),
                outcome => self.on_connection(completion.token, outcome),
            }
        }
        while let Some((_, timer)) = self.timers.pop_due(self.now) {
            match timer {
                Timer::Accept => self.ring.accept(self.listener, LISTENER),
                Timer::Reply(slot, generation) => {
                    if let Some(connection) = self.find(slot, generation) {
                        connection.timer = false;
                        self.flush(slot);
                    }
                }
            }
        }
        for (slot, generation) in std::mem::take(&mut self.starved) {
            if self.find(slot, generation).is_some() {
                self.receive(slot);
            }
        }
        Ok(())
    }

    /// When something is due next.
    pub fn next_due(&mut self) -> Instant {
        self.timers.next_due()
    }

    /// Whether another thread has called since this was last asked.
    pub fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    /// Connections that are not closed yet.
    pub fn open_connections(&self) -> usize {
        self.connections.len() - self.free.len()
    }

    /// Stops listening and closes every connection.
    pub fn cut(&mut self) {
        self.ring.cancel_all(self.listener);
        self.ring.close(self.listener);
        for slot in 0..self.connections.len() as u32 {
            self.close(slot);
        }
    }

    fn find(&mut self, slot: u32, generation: u16) -> Option<&mut Connection> {
        if self.generations.get(slot as usize) != Some(&generation) {
            return None;
        }
        self.connections[slot as usize].as_deref_mut()
    }

    fn on_accepted(&mut self, socket: Socket) {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.connections.len() < SLOT_LIMIT as usize => {
                self.connections.push(None);
                self.generations.push(0);
                self.connections.len() as u32 - 1
            }
            None => return self.ring.close(socket),
        };
        self.connections[slot as usize] = Some(Box::new(Connection {
            socket,
            framer: RequestFramer::new(),
            wanted: Wanted::default(),
            replies: VecDeque::new(),
            size: Size::default(),
            receiving: false,
            sending: false,
            timer: false,
            ended: false,
            last: false,
            closing: false,
        }));
        self.receive(slot);
    }

    fn receive(&mut self, slot: u32) {
        let token = self.token(slot);
        let Some(connection) = &mut self.connections[slot as usize] else { return };
        if connection.receiving || connection.ended || connection.closing {
            return;
        }
        let size = connection.size.buffers();
        if !self.ring.has_buffers(size) {
            return self.starved.push((slot, token.generation));
        }
        connection.receiving = true;
        self.ring.receive(connection.socket, token, size, connection.size.credit());
    }

    fn token(&self, slot: u32) -> Token {
        Token { role: CONNECTION, slot, generation: self.generations[slot as usize] }
    }

    fn on_connection(&mut self, token: Token, outcome: Outcome) {
        let slot = token.slot;
        let Some(connection) = self.find(slot, token.generation) else { return };
        match outcome {
            Outcome::Received { chunk, armed } => {
                connection.receiving = armed;
                connection.size.observe(chunk.len());
                if !connection.closing {
                    self.on_bytes(slot, chunk);
                }
            }
            Outcome::Sent => connection.sending = false,
            Outcome::SendFailed(_) => {
                connection.sending = false;
                return self.close(slot);
            }
            Outcome::ReceiveEnded(end) => {
                connection.receiving = false;
                match end {
                    ReceiveEnd::Eof => connection.ended = true,
                    ReceiveEnd::Failed(_) => return self.close(slot),
                    ReceiveEnd::NoBuffers => self.starved.push((slot, token.generation)),
                    ReceiveEnd::Stopped => {}
                }
            }
            other => unreachable!("not a connection's: {other:?}"),
        }
        self.flush(slot);
    }

    fn on_bytes(&mut self, slot: u32, mut chunk: Chunk) {
        let frozen = Instant::from_nanos(self.shared.frozen_until.load(Ordering::Relaxed));
        let due = frozen.max(self.now + self.settings.delay);
        let Some(connection) = &mut self.connections[slot as usize] else { return };
        if self.settings.echo {
            self.shared.answered.fetch_add(1, Ordering::Relaxed);
            return connection.replies.push_back((due, chunk));
        }
        while !connection.last {
            let step = connection.framer.advance(&chunk);
            match step.event {
                Event::Head => {
                    let head = connection.framer.head(&chunk);
                    let wish = Wish::read(head.path());
                    if let Wish::Freeze(length) = wish {
                        self.shared.freeze(self.now, length);
                    }
                    let asked = head.asked();
                    connection.wanted = Wanted { wish, head_only: asked.head, last: !asked.keep_alive };
                    connection.framer.take_head_bytes();
                    chunk.advance(step.used);
                }
                Event::Body | Event::Interim => chunk.advance(step.used),
                Event::End => {
                    chunk.advance(step.used);
                    connection.answer(due, &self.reply, self.reply_head_bytes);
                    self.shared.answered.fetch_add(1, Ordering::Relaxed);
                }
                // An upgrade is not taken: the next request follows.
                Event::AwaitReply => connection.framer.resume(),
                Event::NeedMore => break,
                Event::Raw | Event::Invalid(_) => {
                    connection.last = true;
                    connection.replies.push_back((due, Chunk::from(reply(400, 0).0)));
                }
            }
        }
    }

    fn flush(&mut self, slot: u32) {
        let token = self.token(slot);
        let now = self.now;
        let Some(connection) = &mut self.connections[slot as usize] else { return };
        if connection.closing {
            return self.settle(slot);
        }
        if !connection.sending {
            let ready =
                connection.replies.iter().take(SEND_CHUNKS_MAX).take_while(|(due, _)| *due <= now).count();
            if ready > 0 {
                connection.sending = true;
                let replies = connection.replies.drain(..ready).map(|(_, chunk)| chunk);
                self.ring.send(connection.socket, token, replies);
            } else if let Some((due, _)) = connection.replies.front() {
                if !connection.timer {
                    connection.timer = true;
                    self.timers.insert(*due, Timer::Reply(slot, token.generation));
                }
            } else if connection.ended || connection.last {
                return self.close(slot);
            }
        }
        if !connection.receiving && connection.replies.len() < REPLIES_MAX {
            self.receive(slot);
        }
    }

    fn close(&mut self, slot: u32) {
        let Some(connection) = &mut self.connections[slot as usize] else { return };
        if !connection.closing {
            connection.closing = true;
            connection.replies.clear();
            if connection.receiving || connection.sending {
                self.ring.cancel_all(connection.socket);
            }
        }
        self.settle(slot);
    }

    fn settle(&mut self, slot: u32) {
        let place = &mut self.connections[slot as usize];
        let over =
            place.take_if(|connection| connection.closing && !connection.receiving && !connection.sending);
        if let Some(connection) = over {
            self.ring.close(connection.socket);
            self.generations[slot as usize] = self.generations[slot as usize].wrapping_add(1);
            self.free.push(slot);
        }
    }
}

impl Connection {
    fn answer(&mut self, due: Instant, plain: &Rc<[u8]>, plain_head: usize) {
        let Wanted { wish, head_only, last } = self.wanted;
        self.last |= last;
        let mut due = due;
        let cut = |mut bytes: Chunk, head: usize| if head_only { bytes.split_to(head) } else { bytes };
        let chunk = match wish {
            Wish::Plain | Wish::Freeze(_) => cut(Chunk::from(Rc::clone(plain)), plain_head),
            Wish::Delay(time) => {
                due += time;
                cut(Chunk::from(Rc::clone(plain)), plain_head)
            }
            Wish::Status(code) => {
                let (bytes, head) = reply(code, 0);
                cut(Chunk::from(bytes), head)
            }
            Wish::Bytes(count) => {
                let (bytes, head) = reply(200, count);
                cut(Chunk::from(bytes), head)
            }
        };
        // A connection answers in order: what is asked later is not answered earlier.
        let due = self.replies.back().map_or(due, |(last, _)| due.max(*last));
        self.replies.push_back((due, chunk));
    }
}

/// How the request that is being read is to be answered.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    wish: Wish,
    head_only: bool,
    last: bool,
}

/// What a path asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wish {
    #[default]
    Plain,
    Delay(Duration),
    Status(u16),
    Bytes(usize),
    Freeze(Duration),
}

impl Wish {
    fn read(path: &str) -> Wish {
        let mut parts = path.trim_start_matches('/').split(['/', '?']);
        let (what, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let wish = match what {
            "delay" => duration(value, "ms").map(Wish::Delay),
            "freeze" => duration(value, "ms").map(Wish::Freeze),
            "status" => value.parse().ok().filter(|code| (200..600).contains(code)).map(Wish::Status),
            "bytes" => value.parse().ok().filter(|count| *count <= BODY_BYTES_MAX).map(Wish::Bytes),
            _ => None,
        };
        wish.unwrap_or(Wish::Plain)
    }
}

/// A reply with a body of `body_bytes`, and how much of it is head.
fn reply(code: u16, body_bytes: usize) -> (Vec<u8>, usize) {
    let reason = reason(code);
    let length =
        if code == 204 || code == 304 { String::new() } else { format!("Content-Length: {body_bytes}\r\n") };
    let mut reply = format!(
        "HTTP/1.1 {code} {reason}\r\nServer: fracas-origin\r\nContent-Type: text/plain\r\n{length}\r\n"
    )
    .into_bytes();
    let head = reply.len();
    if !length.is_empty() {
        reply.extend(BODY.iter().cycle().take(body_bytes));
    }
    (reply, head)
}

const BODY: &[u8] = b"fracas origin\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_what_to_do() {
        for (path, wish) in [
            ("/", Wish::Plain),
            ("/delay/50ms", Wish::Delay(Duration::from_millis(50))),
            ("/delay/1.4s?x=1", Wish::Delay(Duration::from_millis(1400))),
            ("/freeze/2s", Wish::Freeze(Duration::from_secs(2))),
            ("/status/503", Wish::Status(503)),
            ("/status/99", Wish::Plain),
            ("/bytes/1000", Wish::Bytes(1000)),
            ("/bytes/999999999999", Wish::Plain),
        ] {
            assert_eq!(Wish::read(path), wish, "{path}");
        }
    }

    #[test]
    fn a_reply_has_the_length_it_says() {
        let (bytes, head) = reply(200, 100);
        assert_eq!(bytes.len() - head, 100);
        assert!(bytes.starts_with(b"HTTP/1.1 200 OK\r\n") && bytes[..head].ends_with(b"\r\n\r\n"));
        let (bytes, head) = reply(204, 100);
        assert_eq!(bytes.len(), head);
    }
}
