//! What waits to be sent on one socket: at most one send in flight, the rest gathered into the next.

use std::collections::VecDeque;
use std::os::fd::RawFd;

use crate::ring::{GATHER_MAX, Part, Ring};

/// The send queue of one socket.
#[derive(Debug, Default)]
pub struct Outbox {
    parts: VecDeque<Part>,
    sending: bool,
    gather: Option<u16>,
}

impl Outbox {
    /// Whether everything was sent.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether the kernel holds a send.
    pub fn is_sending(&self) -> bool {
        self.sending
    }

    /// Appends `part` and sends it unless a send is in flight.
    pub fn push(&mut self, part: Part, ring: &mut Ring, socket: RawFd, token: u64) {
        self.parts.push_back(part);
        self.send(ring, socket, token);
    }

    /// Takes in the result of a send and starts the next; an error throws the queue away.
    pub fn on_sent(&mut self, result: i32, ring: &mut Ring, socket: RawFd, token: u64) {
        self.sending = false;
        if let Some(gather) = self.gather.take() {
            ring.gathered(gather);
        }
        let Ok(mut sent) = usize::try_from(result) else {
            return self.discard(ring);
        };
        while let Some(part) = self.parts.front_mut() {
            let step = sent.min(part.len());
            part.advance(step);
            sent -= step;
            if part.len() > 0 {
                break;
            }
            if let Some(buffer) = part.buffer() {
                ring.give_back(buffer);
            }
            self.parts.pop_front();
        }
        self.send(ring, socket, token);
    }

    /// Gives back what waits, except while a send is in flight: its bytes are still the kernel's.
    pub fn discard(&mut self, ring: &mut Ring) {
        if self.sending {
            return;
        }
        for part in self.parts.drain(..) {
            if let Some(buffer) = part.buffer() {
                ring.give_back(buffer);
            }
        }
    }

    fn send(&mut self, ring: &mut Ring, socket: RawFd, token: u64) {
        if self.sending {
            return;
        }
        match self.parts.len() {
            0 => return,
            1 => ring.send(socket, &self.parts[0], token),
            _ => self.gather = Some(ring.send_gathered(socket, self.parts.iter().take(GATHER_MAX), token)),
        }
        self.sending = true;
    }
}
