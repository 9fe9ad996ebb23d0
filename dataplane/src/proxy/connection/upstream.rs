//! The way to the upstream: one address after another, each with a time limit.

use super::{Connection, UPSTREAM};
use crate::behavior::Direction;
use crate::proxy::event::Detail;
use crate::proxy::worker::{Context, ProxyState, What, is_shortage};
use crate::ring::{Errno, Ring};

/// Upstream addresses that are tried before a connection is given up.
const ATTEMPTS_MAX: usize = 8;

impl Connection {
    /// Opens the upstream socket and connects it.
    pub(in crate::proxy) fn connect<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        let address = proxy.upstream[usize::from(self.attempt) % proxy.upstream.len()];
        let sources = &proxy.source_addresses;
        let source = (!sources.is_empty()).then(|| sources[self.facts.ordinal as usize % sources.len()]);
        match cx.ring.connect(address, source, &cx.options, self.token(UPSTREAM)) {
            Ok(socket) => {
                self.upstream.socket = Some(socket);
                self.upstream.connecting = true;
                let due = cx.now + proxy.connect_timeout;
                self.connect_timer = Some(cx.timers.insert(due, self.timer(What::ConnectTimeout)));
            }
            Err(error) => {
                let errno = Errno(error.raw_os_error().unwrap_or(0));
                if !is_shortage(errno) {
                    return self.fail_to_connect(errno, cx, proxy);
                }
                // It connects as soon as a descriptor comes free, as far as its time allows.
                self.upstream.connecting = true;
                self.short = Some(errno);
                cx.shortage = errno;
                cx.short.push_back((self.slot, self.generation));
                if self.connect_timer.is_none() {
                    let due = cx.now + proxy.connect_timeout;
                    self.connect_timer = Some(cx.timers.insert(due, self.timer(What::ConnectTimeout)));
                }
            }
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
            self.fail_to_connect(errno, cx, proxy);
        }
    }

    fn fail_to_connect<R: Ring>(&mut self, errno: Errno, cx: &mut Context<R>, proxy: &mut ProxyState) {
        proxy.counters.connect_failures += 1;
        proxy.failed(self.facts.ordinal, Detail::Failed("connect", errno), cx);
        self.give_up_upstream(cx, proxy);
    }

    pub(in crate::proxy) fn on_connected<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        self.upstream.connecting = false;
        self.upstream.connected = true;
        self.connect_timer.take().map(|timer| cx.timers.cancel(timer));
        if self.closing {
            return self.settle(cx);
        }
        self.receive(Direction::Reply, cx, proxy);
        self.flush(Direction::Request, cx, proxy);
    }

    pub(in crate::proxy) fn on_connect_failed<R: Ring>(
        &mut self,
        errno: Errno,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        self.upstream.connecting = false;
        self.connect_timer.take().map(|timer| cx.timers.cancel(timer));
        if self.closing {
            return self.settle(cx);
        }
        if let Some(socket) = self.upstream.socket.take() {
            cx.ring.close(socket);
        }
        self.attempt += 1;
        if usize::from(self.attempt) < proxy.upstream.len().min(ATTEMPTS_MAX) {
            return self.connect(cx, proxy);
        }
        self.fail_to_connect(errno, cx, proxy);
    }

    /// There is no upstream: what is due to the client still goes, then it gets a FIN.
    pub(super) fn give_up_upstream<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        if self.reply.bytes() == 0 {
            return self.close(cx);
        }
        self.drop_queue(Direction::Request, cx);
        self.request.discard = true;
        self.finish_reply(cx, proxy);
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
        if self.upstream.connecting {
            proxy.counters.connect_timeouts += 1;
            proxy.failed(self.facts.ordinal, Detail::Words("connect: took longer than connect_timeout"), cx);
            self.close(cx);
        }
    }
}
