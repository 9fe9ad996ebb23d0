//! How a connection ends: half-closes handed on behind the last byte, failures told apart, both sockets closed.

use super::Connection;
use crate::behavior::Direction;
use crate::proxy::event::{Detail, Limit};
use crate::proxy::pipe::End;
use crate::proxy::worker::{Context, ProxyState};
use crate::ring::{Errno, ReceiveEnd, Ring};

impl Connection {
    pub(in crate::proxy) fn on_send_failed<R: Ring>(
        &mut self,
        direction: Direction,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let (pipe, _, sink) = self.parts(direction);
        sink.sending = false;
        sink.broken = true;
        pipe.in_flight_bytes = 0;
        let ended = sink.ended;
        if self.closing {
            return self.settle(cx);
        }
        self.drop_queue(direction, cx);
        self.pipe(direction).discard = true;
        let end = self.pipe(direction).end;
        if end == End::Rst {
            // Both sides are gone.
            return self.close(cx);
        }
        if ended && self.pipe(direction.opposite()).end != End::Rst {
            // Its FIN was told before the RST that followed it.
            self.broke_off(direction.opposite(), Errno(libc::EPIPE), cx, proxy);
        }
        if ended || end == End::Fin {
            // Nothing follows here any more. What the sink said before still goes to the other side.
            self.pipe(direction).end = End::Sent;
            if self.pipe(direction.opposite()).end == End::Sent {
                return self.close(cx);
            }
        }
        // A source that could not write on might never come to read.
        self.regulate(direction, cx, proxy);
    }

    pub(in crate::proxy) fn on_receive_ended<R: Ring>(
        &mut self,
        direction: Direction,
        end: ReceiveEnd,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        self.source(direction).receiving = false;
        self.pipe(direction).cancelling = false;
        if self.closing {
            return self.settle(cx);
        }
        match end {
            ReceiveEnd::Eof if !self.source(direction).broken => {
                self.source(direction).ended = true;
                if self.hung {
                    return self.on_end_while_hung(direction, cx);
                }
                if direction == Direction::Reply {
                    self.on_upstream_end(cx, proxy);
                }
                self.pipe(direction).end = End::Fin;
                self.flush(direction, cx, proxy);
            }
            ReceiveEnd::Eof | ReceiveEnd::Failed(_) => {
                self.source(direction).ended = true;
                if self.hung {
                    // Whoever gives up on a connection that hangs does what the rule asked for.
                    return self.on_end_while_hung(direction, cx);
                }
                let errno = match end {
                    ReceiveEnd::Failed(errno) => errno,
                    // A send to it failed before.
                    _ => Errno(libc::EPIPE),
                };
                self.broke_off(direction, errno, cx, proxy);
                self.pipe(direction).end = End::Rst;
                // Nothing can be sent to a socket that failed.
                self.drop_queue(direction.opposite(), cx);
                let back = self.pipe(direction.opposite());
                back.discard = true;
                back.end = if back.end == End::Fin { End::Sent } else { back.end };
                self.flush(direction, cx, proxy);
            }
            ReceiveEnd::NoBuffers => {
                proxy.counters.no_buffers += 1;
                cx.no_buffers += 1;
                self.limit_reached(Limit::NoBuffers, cx, proxy);
                self.pipe(direction).starved = true;
                cx.starved.push((self.slot, self.generation, direction));
            }
            ReceiveEnd::Stopped => self.regulate(direction, cx, proxy),
        }
    }

    /// Counts that the source of `direction` broke off, and tells of it.
    pub(super) fn broke_off<R: Ring>(
        &self,
        direction: Direction,
        errno: Errno,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let (who, count) = match direction {
            Direction::Request => ("client", &mut proxy.counters.client_resets),
            Direction::Reply => ("upstream", &mut proxy.counters.upstream_resets),
        };
        *count += 1;
        proxy.failed(self.facts.ordinal, Detail::Failed(who, errno), cx);
    }

    /// A client that leaves is done with; one whose upstream leaves goes on hanging.
    pub(super) fn on_end_while_hung<R: Ring>(&mut self, direction: Direction, cx: &mut Context<R>) {
        if direction == Direction::Request {
            self.close(cx);
        }
    }

    /// The queue is empty: hands on the end of the source, if it has come.
    pub(super) fn end_pipe<R: Ring>(&mut self, direction: Direction, cx: &mut Context<R>) {
        let (pipe, _, sink) = self.parts(direction);
        if !pipe.queue.is_empty() {
            return;
        }
        match pipe.end {
            End::Open | End::Sent => return,
            End::Rst => {
                if sink.connected
                    && let Some(socket) = sink.socket
                {
                    cx.ring.reset(socket);
                }
                return self.close(cx);
            }
            End::Fin => {
                pipe.end = End::Sent;
                match sink.socket {
                    Some(socket) => cx.ring.shutdown_write(socket),
                    // Never connected: nobody will answer, so the reply direction ends too.
                    None => self.reply.end = End::Fin,
                }
            }
        }
        if direction == Direction::Request && self.upstream.socket.is_none() && !self.downstream.sending {
            return self.end_pipe(Direction::Reply, cx);
        }
        if self.request.end == End::Sent && self.reply.end == End::Sent {
            self.close(cx);
        }
    }

    /// No more replies will come after those that are queued: ends the reply direction with a FIN.
    pub(in crate::proxy) fn finish_reply<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        self.reply.end = if self.reply.end == End::Open { End::Fin } else { self.reply.end };
        self.flush(Direction::Reply, cx, proxy);
    }

    /// Ends the connection: cancels what is in flight, then closes both sockets.
    pub(in crate::proxy) fn close<R: Ring>(&mut self, cx: &mut Context<R>) {
        if self.closing {
            return;
        }
        self.closing = true;
        for direction in [Direction::Request, Direction::Reply] {
            self.drop_queue(direction, cx);
            self.pipe(direction).timer.take().map(|(timer, _)| cx.timers.cancel(timer));
        }
        self.connect_timer.take().map(|timer| cx.timers.cancel(timer));
        self.reset.take().and_then(|reset| reset.timer).map(|timer| cx.timers.cancel(timer));
        self.exchanges = None;
        for peer in [&mut self.downstream, &mut self.upstream] {
            if let Some(socket) = peer.socket
                && peer.is_busy()
            {
                cx.ring.cancel_all(socket);
            }
        }
        self.settle(cx);
    }

    /// Closes the sockets on which nothing is in flight any more.
    pub(super) fn settle<R: Ring>(&mut self, cx: &mut Context<R>) {
        for peer in [&mut self.downstream, &mut self.upstream] {
            if !peer.is_busy()
                && let Some(socket) = peer.socket.take()
            {
                cx.ring.close(socket);
            }
        }
    }

    pub(super) fn drop_queue<R: Ring>(&mut self, direction: Direction, cx: &mut Context<R>) {
        let bytes = self.pipe(direction).clear();
        cx.let_go(self.proxy, bytes);
    }
}
