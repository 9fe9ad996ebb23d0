//! The way to the upstream: one address after another, each with a time limit of its own.
//!
//! | what happens to an attempt | what follows |
//! |---|---|
//! | connected | the connection goes on |
//! | refused, unreachable, no source address of its family | the next address |
//! | silent for the connect timeout | it is told and counted; the next address |
//! | no descriptor | it waits for one, up to the connect timeout |
//! | there is no next address | the client gets what is due to it and a FIN |

use std::net::{IpAddr, SocketAddr};

use super::ending::Way;
use super::{Connection, UPSTREAM};
use crate::behavior::Direction;
use crate::proxy::event::Detail;
use crate::proxy::worker::{Context, ProxyState, What, is_shortage};
use crate::ring::{Errno, Ring};

/// Upstream addresses that are tried before a connection is given up.
const ATTEMPTS_MAX: usize = 8;

/// Addresses to connect from, by family: a socket of one cannot be bound to an address of the other.
#[derive(Clone, Debug, Default)]
pub(in crate::proxy) struct Sources {
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
}

impl Sources {
    pub(in crate::proxy) fn new(addresses: &[IpAddr]) -> Sources {
        let (v4, v6) = addresses.iter().partition(|address| address.is_ipv4());
        Sources { v4, v6 }
    }

    /// The address from which the connection number `ordinal` reaches `upstream`: none if the system chooses.
    ///
    /// # Errors
    /// `EAFNOSUPPORT` when there are addresses, but none of the family.
    fn choose(&self, ordinal: u64, upstream: SocketAddr) -> Result<Option<IpAddr>, Errno> {
        let family = if upstream.is_ipv4() { &self.v4 } else { &self.v6 };
        match family.len() as u64 {
            0 if self.v4.is_empty() && self.v6.is_empty() => Ok(None),
            0 => Err(Errno(libc::EAFNOSUPPORT)),
            count => Ok(Some(family[(ordinal % count) as usize])),
        }
    }
}

impl Connection {
    /// Opens the upstream socket and connects it, to the first address that can be tried.
    pub(in crate::proxy) fn connect<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        loop {
            // There may be fewer addresses than when it began.
            let place = usize::from(self.attempt).min(proxy.upstream.len().saturating_sub(1));
            let Some(&address) = proxy.upstream.get(place) else {
                let detail = Detail::Words("connect: the upstream's name has no address yet");
                return self.fail_to_connect(detail, cx, proxy);
            };
            let token = self.token(UPSTREAM);
            let source = proxy.sources.choose(self.facts.ordinal, address);
            let opened = source.and_then(|source| {
                let opened = cx.ring.connect(address, source, &proxy.options, token);
                opened.map_err(|error| Errno(error.raw_os_error().unwrap_or(0)))
            });
            match opened {
                Ok(socket) => {
                    self.upstream.socket = Some(socket);
                    self.upstream.connecting = true;
                    let due = cx.now + proxy.connect_timeout;
                    self.connect_timer = Some(cx.timers.insert(due, self.timer(What::ConnectTimeout)));
                    return;
                }
                Err(errno) if is_shortage(errno) => return self.wait_for_descriptor(errno, cx, proxy),
                Err(_) if self.has_next_address(proxy) => {}
                Err(errno) => return self.fail_to_connect(Detail::Failed("connect", errno), cx, proxy),
            }
        }
    }

    /// Goes on to the upstream's next address, if there is one.
    fn has_next_address(&mut self, proxy: &ProxyState) -> bool {
        let next = usize::from(self.attempt) + 1;
        let is_there = next < proxy.upstream.len().min(ATTEMPTS_MAX);
        if is_there {
            self.attempt += 1;
        }
        is_there
    }

    /// It connects as soon as a descriptor comes free, as far as its time allows.
    fn wait_for_descriptor<R: Ring>(&mut self, errno: Errno, cx: &mut Context<R>, proxy: &ProxyState) {
        self.upstream.connecting = true;
        self.short = Some(errno);
        cx.shortage = errno;
        cx.short.push_back((self.slot, self.generation));
        if self.connect_timer.is_none() {
            let due = cx.now + proxy.connect_timeout;
            self.connect_timer = Some(cx.timers.insert(due, self.timer(What::ConnectTimeout)));
        }
    }

    /// Whether it found no descriptor for its upstream and waits for one.
    pub(in crate::proxy) fn waits_for_descriptor(&self) -> bool {
        self.short.is_some() && !self.closing
    }

    /// Looks for a descriptor again.
    pub(in crate::proxy) fn connect_again<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        self.short = None;
        self.upstream.connecting = false;
        let timer = self.connect_timer.take();
        self.connect(cx, proxy);
        match timer {
            // It goes on waiting, and its time with it.
            Some(timer) if self.short.is_some() => {
                self.connect_timer.replace(timer).map(|new| cx.timers.cancel(new));
            }
            Some(timer) => {
                cx.timers.cancel(timer);
            }
            None => {}
        }
    }

    /// Leaves its descriptor to one that has waited longer.
    pub(in crate::proxy) fn give_up_descriptor<R: Ring>(
        &mut self,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        if let Some(errno) = self.short.take() {
            self.upstream.connecting = false;
            proxy.counters.connect_failures += 1;
            proxy.failed(self.facts.ordinal, Detail::Failed("connect", errno), cx);
            // Now, and not when the client has taken its leave: others wait for the descriptor.
            let way = if self.reply.bytes() == 0 { Way::AtOnce } else { Way::InOrder };
            self.leave(way, way, cx);
        }
    }

    fn fail_to_connect<R: Ring>(&mut self, detail: Detail, cx: &mut Context<R>, proxy: &mut ProxyState) {
        proxy.counters.connect_failures += 1;
        proxy.failed(self.facts.ordinal, detail, cx);
        // What is due to the client still goes, then it gets a FIN.
        self.close(cx);
    }

    pub(in crate::proxy) fn on_connected<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        self.upstream.connecting = false;
        self.upstream.connected = true;
        self.connect_timer.take().map(|timer| cx.timers.cancel(timer));
        if self.closing {
            return self.settle(cx);
        }
        self.receive(Direction::Reply, cx);
        self.flush(Direction::Request, cx, proxy);
    }

    pub(in crate::proxy) fn on_connect_failed<R: Ring>(
        &mut self,
        errno: Errno,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        self.upstream.connecting = false;
        if self.closing {
            return self.settle(cx);
        }
        if let Some(socket) = self.upstream.socket.take() {
            cx.ring.close(socket);
        }
        // A timer that is gone has cancelled the attempt.
        let timed_out = self.connect_timer.take().map(|timer| cx.timers.cancel(timer)).is_none();
        if timed_out {
            proxy.counters.connect_timeouts += 1;
            proxy.failed(self.facts.ordinal, Detail::Words("connect: took longer than connect_timeout"), cx);
        }
        if self.has_next_address(proxy) {
            self.connect(cx, proxy);
        } else if timed_out {
            self.close(cx);
        } else {
            self.fail_to_connect(Detail::Failed("connect", errno), cx, proxy);
        }
    }

    pub(in crate::proxy) fn on_connect_timeout<R: Ring>(
        &mut self,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        self.connect_timer = None;
        if self.short.is_some() {
            return self.give_up_descriptor(cx, proxy);
        }
        if self.upstream.connecting
            && let Some(socket) = self.upstream.socket
        {
            // Its end says what follows; it may still have succeeded.
            cx.ring.cancel_all(socket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_address_is_of_the_family_of_its_upstream() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (v4, v6): (SocketAddr, SocketAddr) =
            ("127.0.0.1:80".parse().unwrap(), "[::1]:80".parse().unwrap());
        let sources = Sources::new(&[address("127.0.0.2"), address("::1"), address("127.0.0.3")]);
        for (ordinal, upstream, expected) in
            [(0, v4, "127.0.0.2"), (1, v4, "127.0.0.3"), (2, v4, "127.0.0.2"), (0, v6, "::1"), (1, v6, "::1")]
        {
            assert_eq!(sources.choose(ordinal, upstream), Ok(Some(address(expected))));
        }
        assert_eq!(Sources::default().choose(7, v6), Ok(None), "the system chooses");
        assert_eq!(Sources::new(&[address("::1")]).choose(0, v4), Err(Errno(libc::EAFNOSUPPORT)));
    }
}
