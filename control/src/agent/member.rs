//! A node's part in a run, without I/O: what the controller says and the passing of time come in, what to say and what to
//! open goes out. A run outlives a broken session, and stops by itself when its controller stays away.
//!
//! ```text
//!        Prepare          opened           Start           over
//! free ──────────▶ opening ─────▶ prepared ─────▶ loading ─────▶ over
//!                     │ Cancel                                    │ Prepare of another, or Cancel
//!                     ▼                                           ▼
//!                  leaving: what it opens is closed, one Prepare may wait
//! ```
//!
//! What each message does in each state (`Start` and `Cancel` of another run than the node's: an error, and nothing):
//!
//! |                  | free        | opening     | leaving           | prepared              | loading     | over        |
//! |------------------|-------------|-------------|-------------------|-----------------------|-------------|-------------|
//! | Prepare, its own | –           | –           | waits             | ready again           | not ready   | not ready   |
//! | Prepare, another | opening     | not ready   | waits; a second: not ready | closed, opening | not ready | opening     |
//! | opened           | –           | prepared, ready | free, or opens what waits | –             | –           | –           |
//! | could not open   | –           | free, not ready | free, or opens what waits | –             | –           | –           |
//! | Start            | error       | error       | error             | loading               | –           | –           |
//! | Start, too late or too far | error | error | error             | closed, error         | –           | –           |
//! | Cancel           | –           | leaving     | –                 | closed                | stops, over | free        |
//! | no controller    | –           | leaving     | –                 | closed                | stops, over | –           |
//! | session is back  | –           | –           | –                 | ready again           | results again | results and end again |

mod held;

use std::sync::Arc;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_loadgen::arrival::Shard;
use fracas_loadgen::scenario::Plan;

use self::held::{Held, Stage};
use super::load::Prepared;
use crate::session::{Attempt, FromNode, Timings, ToNode};

/// How far ahead a start may be: the controller sets it as soon as all nodes are ready, some round trips ahead.
const START_WITHIN: Duration = Duration::from_secs(60);

/// A node that makes load.
pub struct Member {
    timings: Timings,
    is_up: bool,
    last_heard: Instant,
    opening: Option<Opening>,
    /// To be opened as soon as nothing else is.
    waiting: Option<Order>,
    held: Option<Held>,
}

/// What is being opened; that cannot be broken off, so it may be for nobody any more.
struct Opening {
    attempt: Attempt,
    is_wanted: bool,
}

/// A shard of a plan whose connections are to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The run.
    pub attempt: Attempt,
    /// The whole plan, as it came.
    pub plan_json: Arc<[u8]>,
    /// Of this node, from 0.
    pub shard_index: u32,
    /// How many there are.
    pub shard_count: u32,
    /// The controller waits this long for the answer.
    pub ready_within: Duration,
}

/// What was opened for an [`Order`].
pub type Opened = (Plan, Shard, Box<dyn Prepared>);

impl Member {
    /// Has no run and no session.
    pub fn new(now: Instant) -> Member {
        Member {
            timings: Timings::default(),
            is_up: false,
            last_heard: now,
            opening: None,
            waiting: None,
            held: None,
        }
    }

    /// The run that it has, for the next hello.
    pub fn carried(&self) -> Option<&Attempt> {
        let held = self.held.as_ref().map(|held| &held.attempt);
        let opening = || self.opening.as_ref().filter(|opening| opening.is_wanted).map(|it| &it.attempt);
        held.or_else(opening).or_else(|| self.waiting.as_ref().map(|order| &order.attempt))
    }

    /// Whether load is on.
    pub fn is_loading(&self) -> bool {
        self.held.as_ref().is_some_and(|held| matches!(held.stage, Stage::Loading(_)))
    }

    /// A session stands: everything that was not acknowledged is said again.
    pub fn on_up(&mut self, now: Instant) -> Vec<FromNode> {
        (self.is_up, self.last_heard) = (true, now);
        let Some(held) = &mut self.held else { return Vec::new() };
        if matches!(held.stage, Stage::Prepared(_)) {
            return vec![FromNode::Ready { attempt: held.attempt.clone(), result: Ok(()) }];
        }
        held.say_again()
    }

    /// The session broke off.
    pub fn on_down(&mut self) {
        self.is_up = false;
    }

    /// The controller said something.
    pub fn on_told(&mut self, told: ToNode, now: Instant) -> Vec<FromNode> {
        self.last_heard = now;
        match told {
            ToNode::Welcome { timings, .. } => self.timings = timings,
            ToNode::Prepare { attempt, plan_json, shard_index, shard_count, ready_within, .. } => {
                let order = Order { attempt, plan_json, shard_index, shard_count, ready_within };
                return self.prepare(order);
            }
            ToNode::Start { attempt, start_at, .. } => return self.start(&attempt, start_at, now),
            ToNode::Cancel { attempt, reason } => self.cancel(&attempt, reason),
            ToNode::IntervalAck { attempt, sequence } => {
                if let Some(held) = self.held.as_mut().filter(|held| held.attempt == attempt) {
                    held.outbox.on_ack(sequence);
                    if self.is_up {
                        return held.flush();
                    }
                }
            }
            ToNode::Heartbeat
            | ToNode::ClockPing { .. }
            | ToNode::ApplyFault(_)
            | ToNode::RevokeFault { .. }
            | ToNode::Error { .. } => {}
        }
        Vec::new()
    }

    /// What to open now, if anything; [`Member::on_opened`] is to be told how that went.
    pub fn take_order(&mut self) -> Option<Order> {
        if self.opening.is_some() {
            return None;
        }
        let order = self.waiting.take()?;
        self.opening = Some(Opening { attempt: order.attempt.clone(), is_wanted: true });
        Some(order)
    }

    /// The connections of an order are open, or there is a reason why not.
    pub fn on_opened(&mut self, opened: Result<Opened, String>, now: Instant) -> Vec<FromNode> {
        // What nobody wants any more is closed here.
        let Some(Opening { attempt, is_wanted: true }) = self.opening.take() else { return Vec::new() };
        let result = opened.map(|(plan, shard, prepared)| {
            self.held = Some(Held::new(attempt.clone(), plan, shard, prepared, now));
        });
        vec![FromNode::Ready { attempt, result }]
    }

    /// Time has passed; to be called a few times a second.
    pub fn on_tick(&mut self, now: Instant) -> Vec<FromNode> {
        let is_orphan = now.since(self.last_heard) >= self.timings.orphan_timeout;
        if is_orphan {
            self.waiting = None;
            if let Some(opening) = &mut self.opening {
                opening.is_wanted = false;
            }
        }
        let Some(held) = &mut self.held else { return Vec::new() };
        match &mut held.stage {
            Stage::Prepared(_) | Stage::Moving if is_orphan => {
                self.held = None;
                return Vec::new();
            }
            Stage::Prepared(_) | Stage::Moving => return Vec::new(),
            Stage::Loading(load) => {
                if is_orphan && held.stopped.is_none() {
                    load.stop();
                    let seconds = self.timings.orphan_timeout.as_secs_f64();
                    held.stopped = Some(format!("heard no controller for {seconds} s"));
                }
                if !load.is_over() && now.since(held.taken_at) < self.timings.interval {
                    return Vec::new();
                }
                held.take(now);
            }
            Stage::Over(_) => {}
        }
        if self.is_up { held.flush() } else { Vec::new() }
    }

    fn prepare(&mut self, order: Order) -> Vec<FromNode> {
        let is_its = |attempt: &Attempt| *attempt == order.attempt;
        let is_opened = self.opening.as_ref().is_some_and(|opening| opening.is_wanted);
        if (is_opened || self.waiting.is_some()) && self.carried().is_some_and(is_its) {
            // One answer is on its way already.
            return Vec::new();
        }
        let result = match &self.held {
            Some(held) if is_its(&held.attempt) => match held.stage {
                Stage::Prepared(_) => Ok(()),
                _ => Err("it has had this attempt already"),
            },
            Some(held) if matches!(held.stage, Stage::Loading(_)) => Err("it still carries another run"),
            _ if is_opened || self.waiting.is_some() => Err("it is getting ready for another run"),
            _ => {
                // What is prepared or over is of no use to a controller that goes on with something else.
                (self.held, self.waiting) = (None, Some(order));
                return Vec::new();
            }
        };
        vec![FromNode::Ready { attempt: order.attempt, result: result.map_err(str::to_owned) }]
    }

    fn start(&mut self, attempt: &Attempt, start_at: Instant, now: Instant) -> Vec<FromNode> {
        let refuse = |message: String| vec![FromNode::Error { attempt: Some(attempt.clone()), message }];
        let Some(held) = self.held.as_mut().filter(|held| held.attempt == *attempt) else {
            return refuse("it was told to start a run that it has not prepared".to_owned());
        };
        if !matches!(held.stage, Stage::Prepared(_)) {
            return Vec::new();
        }
        if start_at < now {
            let late = now.since(start_at).as_secs_f64() * 1e3;
            self.held = None;
            return refuse(format!("it heard of the start {late:.1} ms too late"));
        }
        if start_at > now + START_WITHIN {
            let (ahead, most) = (start_at.since(now).as_secs(), START_WITHIN.as_secs());
            self.held = None;
            return refuse(format!("it was told to start too far ahead, in {ahead} s; at most {most} s"));
        }
        held.start(start_at);
        Vec::new()
    }

    fn cancel(&mut self, attempt: &Attempt, reason: String) {
        if self.waiting.as_ref().is_some_and(|order| order.attempt == *attempt) {
            self.waiting = None;
        }
        if let Some(opening) = self.opening.as_mut().filter(|opening| opening.attempt == *attempt) {
            opening.is_wanted = false;
        }
        let Some(held) = self.held.as_mut().filter(|held| held.attempt == *attempt) else { return };
        match &mut held.stage {
            Stage::Loading(load) => {
                load.stop();
                held.stopped.get_or_insert(reason);
            }
            // The controller is done with it: nothing is to be said.
            Stage::Prepared(_) | Stage::Over(_) | Stage::Moving => self.held = None,
        }
    }
}

#[cfg(test)]
mod tests;
