//! What rules do to a whole connection: plans taken up and changed while it lives, a hang, a reset.

use std::sync::Arc;

use super::ending::Way;
use super::gates::Gates;
use super::{Connection, PendingEnd};
use crate::behavior::{
    Act, Action, After, Behavior, ConnectionPlan, Countdown, Direction, Finish, Gate, ResetSide, RuleMask,
    RuleSet,
};
use crate::proxy::event::{ABORTED, Detail, HUNG};
use crate::proxy::telling::Cause;
use crate::proxy::worker::{Context, ProxyState, What};
use crate::ring::Ring;

impl Connection {
    /// The rules have changed: what is said to act "now" on a live connection acts now.
    pub(in crate::proxy) fn on_rules_changed<R: Ring>(
        &mut self,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
        previous: &RuleSet,
    ) {
        if self.closing {
            return self.on_rules_changed_while_leaving(cx, proxy, previous);
        }
        let before = self.active;
        let plan = proxy.rules.on_change(&self.facts, previous, self.active);
        proxy.count(plan.drawn);
        let any = |is: fn(&Behavior) -> bool| {
            let mut active =
                proxy.rules.rules().iter().enumerate().filter(|(i, _)| plan.active >> i & 1 == 1);
            active.any(|(_, rule)| is(&rule.rule().behavior))
        };
        if self.hung {
            // What it swallowed cannot be answered any more: let the client come again.
            if !any(|behavior| matches!(behavior, Behavior::Hang(_))) {
                self.happens(HUNG, cx, proxy);
                self.close(cx);
            } else if let (Some(cause), Some(Act { rule, action: Action::Hang })) =
                (&mut self.armed, plan.act)
            {
                **cause = proxy.cause(rule, 0);
            }
            return;
        }
        // A request that was read before the change keeps what was decided about it.
        if self.abort && !any(|behavior| matches!(behavior, Behavior::Abort(_))) {
            if self.reply.discard && !self.framed {
                // Bytes of the reply are gone already: let the client come again.
                return self.close(cx);
            }
            (self.abort, self.armed) = (false, None);
        }
        let is_in_force = |cause: &Cause| proxy.rules_done.iter().any(|rule| Arc::ptr_eq(rule, &cause.rule));
        if let Some(end) = self.end.take_if(|end| !is_in_force(&end.cause)) {
            cx.timers.cancel(end.timer);
        }
        if let Some(exchanges) = &mut self.exchanges {
            exchanges.on_rules_changed(&proxy.rules, previous);
        }
        self.adopt(plan, Some((previous, before)), cx, proxy);
        if !self.closing {
            for direction in [Direction::Request, Direction::Reply] {
                self.flush(direction, cx, proxy);
            }
        }
        // The limits may have changed, and a queue that stopped the reading may be gone.
        for direction in [Direction::Request, Direction::Reply] {
            if !self.closing {
                self.regulate(direction, cx, proxy);
            }
        }
    }

    /// Nothing new happens to a connection that ends, but rates that hold its last bytes change with the rules.
    fn on_rules_changed_while_leaving<R: Ring>(
        &mut self,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
        previous: &RuleSet,
    ) {
        let Some(gates) = self.gates.take() else { return };
        let plan = proxy.rules.on_change(&self.facts, previous, self.active);
        self.active = plan.active;
        self.gates = Gates::change(plan.gates, &proxy.rules_done, Some(gates));
        self.changed_at = cx.now;
        for direction in [Direction::Request, Direction::Reply] {
            self.flush(direction, cx, proxy);
        }
        self.settle(cx);
    }

    /// Takes a plan; what it says of the whole connection is done unless it was under the same rule before.
    pub(super) fn adopt<R: Ring>(
        &mut self,
        plan: ConnectionPlan,
        before: Option<(&RuleSet, RuleMask)>,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        self.active = plan.active;
        let rules = Arc::clone(&proxy.rules);
        let is_new = |rule: u8| {
            before.is_none_or(|(previous, active)| {
                let rule = rules.rules()[usize::from(rule)].rule();
                let same = previous.rules().iter().position(|old| old.rule() == rule);
                same.is_none_or(|old| active >> old & 1 == 0)
            })
        };
        self.gates = Gates::change(plan.gates, &proxy.rules_done, self.gates.take());
        if let Some(act) = plan.act.filter(|act| is_new(act.rule)) {
            self.act(act, 0, cx, proxy);
        }
    }

    /// Does what a rule says to the connection, at this exchange of it (0: at none). What happens at once is counted
    /// now; what waits is counted when it happens, and never if it does not.
    ///
    /// | act | counted when |
    /// |---|---|
    /// | blackout, reset at once | now |
    /// | reset after a time or bytes | the RST goes |
    /// | hang | it drops the first byte or end, or closes the connection because it is lifted |
    /// | abort | it drops the first byte of the reply, or closes the connection |
    pub(in crate::proxy) fn act<R: Ring>(
        &mut self,
        act: Act,
        exchange: u64,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        if let Action::End { after: After::Time(_) | After::Bytes(_), .. } = act.action
            && (self.end.is_some() || self.gates.as_ref().is_some_and(|gates| gates.await_an_end()))
        {
            // The one that waits comes when it was to come: no later request puts it off.
            return;
        }
        let (cause, detail) = (proxy.cause(act.rule, exchange), Detail::of(&act.action));
        match act.action {
            Action::Hang => {
                let drops = self.request.bytes() + self.reply.bytes() > 0;
                self.hang(cx);
                self.armed = Some(Box::new(cause));
                if drops || exchange > 0 {
                    self.happens(HUNG, cx, proxy);
                }
            }
            Action::Abort => (self.abort, self.armed) = (true, Some(Box::new(cause))),
            Action::End { after: After::Nothing, how } => {
                proxy.injected(&cause, self.facts.ordinal, detail, cx);
                self.finish(how, cx);
            }
            Action::End { after: After::Time(time), how } => {
                let timer = cx.timers.insert(cx.now + time, self.timer(What::End));
                self.end = Some(Box::new(PendingEnd { how, cause, detail, timer }));
            }
            Action::End { after: After::Bytes(bytes), how } => {
                Gates::add(&mut self.gates, cause, Gate::Countdown(Countdown::new(bytes, how)));
            }
            // These act on messages and chunks, where the bytes are.
            Action::ErrorReply { .. } | Action::Garbage { .. } => {}
        }
    }

    /// The hang or the abort of the whole connection has met something; it is counted once.
    pub(in crate::proxy) fn happens<R: Ring>(
        &mut self,
        detail: Detail,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        if let Some(cause) = self.armed.take() {
            proxy.injected(&cause, self.facts.ordinal, detail, cx);
        }
    }

    /// Whose abort of the whole connection the next request meets.
    pub(in crate::proxy) fn armed(&self) -> Option<Cause> {
        self.armed.as_deref().cloned()
    }

    /// Closes both sides in place of a reply.
    pub(in crate::proxy) fn abort_now<R: Ring>(
        &mut self,
        cause: &Cause,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        proxy.injected(cause, self.facts.ordinal, ABORTED, cx);
        self.close(cx);
    }

    pub(super) fn hang<R: Ring>(&mut self, cx: &mut Context<R>) {
        self.hung = true;
        self.leave_messages(cx);
        for direction in [Direction::Request, Direction::Reply] {
            self.drop_queue(direction, cx);
            self.pipe(direction).discard = true;
        }
    }

    /// Ends both sides.
    pub(super) fn finish<R: Ring>(&mut self, how: Finish, cx: &mut Context<R>) {
        let (downstream, upstream) = match how {
            Finish::Close => return self.close(cx),
            Finish::Reset(ResetSide::Both) => (Way::Reset, Way::Reset),
            Finish::Reset(ResetSide::Downstream) => (Way::Reset, Way::InOrder),
            Finish::Reset(ResetSide::Upstream) => (Way::InOrder, Way::Reset),
        };
        self.leave(downstream, upstream, cx);
    }

    /// The time of an end is over.
    pub(in crate::proxy) fn on_end_due<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        if let Some(end) = self.end.take()
            && !self.closing
        {
            proxy.injected(&end.cause, self.facts.ordinal, end.detail, cx);
            self.finish(end.how, cx);
        }
    }
}
