//! What the bytes of one connection must pass before they leave ([`crate::behavior::Passage`]).

use std::sync::Arc;

use crate::behavior::{Deed, Direction, Finish, Gate, GatePlan, Passage};
use crate::clock::Instant;
use crate::proxy::figures::Rules;
use crate::proxy::telling::Cause;

/// The gates of a connection, in the order of their rules; those that an exchange put there come last.
pub(super) struct Gates {
    standing: Vec<Standing>,
    /// What has been asked for at the front of each direction's queue, and when it may leave.
    asked: [Option<Asked>; 2],
}

struct Standing {
    cause: Cause,
    gate: Gate,
    /// What it has done was told.
    is_told: bool,
    /// The rules of the connection as a whole put it there, and not what was decided on one exchange.
    is_planned: bool,
}

#[derive(Clone, Copy)]
struct Asked {
    bytes: usize,
    leaves: Instant,
}

/// How many bytes may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// So many, now.
    Now(usize),
    /// None before this instant; never, if it is the end of time.
    At(Instant),
    /// No byte more: [`Gates::finish`] says what comes instead.
    Never,
}

/// The end that a gate brings.
pub(super) struct GateEnd {
    pub cause: Cause,
    pub how: Finish,
    /// What it is told as.
    pub deed: Option<Deed>,
}

impl Gates {
    /// What stands after a change: the gates that the rules `figures` have planned, and of those that exchanges put there
    /// the ones whose rule is still in force. A gate that was there goes on where it is.
    pub fn change(plans: Vec<GatePlan>, figures: &Rules, earlier: Option<Box<Gates>>) -> Option<Box<Gates>> {
        let Some(earlier) = earlier else {
            if plans.is_empty() {
                return None;
            }
            let standing = plans.into_iter().map(|plan| Standing::planned(plan, figures)).collect();
            return Some(Box::new(Gates { standing, asked: [None; 2] }));
        };
        let Gates { standing: mut left, asked } = *earlier;
        let had = left.len();
        let mut standing = Vec::with_capacity(plans.len());
        let mut in_order = true;
        for plan in plans {
            let mut new = Standing::planned(plan, figures);
            let same = left.iter().position(|old| old.is_planned && new.gate.goes_on_from(&old.gate));
            in_order &= same == Some(0);
            if let Some(old) = same.map(|place| left.remove(place)) {
                new.is_told = old.is_told && Arc::ptr_eq(&old.cause.rule, &new.cause.rule);
            }
            standing.push(new);
        }
        let is_in_force = |cause: &Cause| figures.iter().any(|rule| Arc::ptr_eq(rule, &cause.rule));
        standing.extend(left.into_iter().filter(|old| !old.is_planned && is_in_force(&old.cause)));
        if standing.is_empty() {
            return None;
        }
        // What has been paid for is not paid for again, as long as the same gates ask.
        let asked = if in_order && standing.len() == had { asked } else { [None; 2] };
        Some(Box::new(Gates { standing, asked }))
    }

    /// Puts up another one, which an exchange or a rule about the whole connection has asked for.
    pub fn add(gates: &mut Option<Box<Gates>>, cause: Cause, gate: Gate) {
        let gates = gates.get_or_insert_with(|| Box::new(Gates { standing: Vec::new(), asked: [None; 2] }));
        gates.standing.push(Standing { cause, gate, is_told: false, is_planned: false });
    }

    /// Takes those away that are of no use while the connection is being closed.
    pub fn leave(gates: &mut Option<Box<Gates>>) {
        if let Some(some) = gates {
            some.standing.retain(|it| it.gate.stays_to_the_end());
            if some.standing.is_empty() {
                *gates = None;
            }
        }
    }

    /// Whether an end waits for bytes, by what was decided and not planned.
    pub fn await_an_end(&self) -> bool {
        self.standing.iter().any(|it| !it.is_planned)
    }

    fn of(&self, direction: Direction) -> impl Iterator<Item = &Standing> {
        self.standing.iter().filter(move |it| it.gate.covers(direction))
    }

    fn of_mut(&mut self, direction: Direction) -> impl Iterator<Item = &mut Standing> {
        self.standing.iter_mut().filter(move |it| it.gate.covers(direction))
    }

    /// Bytes that may wait in a direction before reading stops, if one says so.
    pub fn queue_bytes(&self, direction: Direction) -> Option<usize> {
        self.of(direction).filter_map(|it| it.gate.queue_bytes()).min()
    }

    /// Whether bytes of this direction may have to wait.
    pub fn delay(&self, direction: Direction) -> bool {
        self.of(direction).any(|it| it.gate.delays())
    }

    /// Whether what passes at once must leave in a send of its own.
    pub fn separate(&self, direction: Direction) -> bool {
        self.of(direction).any(|it| it.gate.is_alone())
    }

    /// The next gate that has done something and was not told of yet.
    pub fn next_done(&mut self) -> Option<(Cause, Deed)> {
        let (it, deed) = self.standing.iter_mut().filter(|it| !it.is_told).find_map(|it| {
            let deed = it.gate.done()?;
            Some((it, deed))
        })?;
        it.is_told = true;
        Some((it.cause.clone(), deed))
    }

    /// Asks for the next `waiting` bytes in this direction, which came at `came`; those that may leave now have passed.
    pub fn pass(&mut self, direction: Direction, waiting: usize, came: Instant, now: Instant) -> Pass {
        let most = self.of_mut(direction).map(|it| it.gate.most(direction, waiting)).min();
        let most = most.unwrap_or(waiting);
        if most == 0 {
            return Pass::Never;
        }
        let asked = match self.asked[direction as usize] {
            Some(asked) => asked,
            None => {
                let leaves = self.of_mut(direction).map(|it| it.gate.leaves(direction, most, came, now));
                let leaves = leaves.max().unwrap_or(now);
                *self.asked[direction as usize].insert(Asked { bytes: most, leaves })
            }
        };
        if asked.leaves > now {
            return Pass::At(asked.leaves);
        }
        self.asked[direction as usize] = None;
        let bytes = asked.bytes.min(most);
        self.of_mut(direction).for_each(|it| it.gate.passed(direction, bytes, now));
        Pass::Now(bytes)
    }

    /// How the connection ends once what has passed in this direction is with the kernel, if nothing more will pass.
    pub fn finish(&self, direction: Direction) -> Option<GateEnd> {
        self.of(direction).find_map(|it| {
            let how = it.gate.finish(direction)?;
            Some(GateEnd { cause: it.cause.clone(), how, deed: it.gate.end() })
        })
    }
}

impl Standing {
    fn planned(plan: GatePlan, figures: &Rules) -> Standing {
        let cause = Cause { rule: Arc::clone(&figures[usize::from(plan.rule)]), exchange: 0 };
        Standing { cause, gate: plan.gate, is_told: false, is_planned: true }
    }
}
