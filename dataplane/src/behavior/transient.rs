//! Fails the first calls like `error`, then passes: what a client with retries must survive.

use std::sync::atomic::{AtomicU64, Ordering};

use super::error_reply::{CODES, ErrorReply, INJECT, WARMUP};
use super::options::{OptionKind, OptionSpec, Options};
use super::{BehaviorError, ClientView, Effect, Kind, LiveChange, Misbehave, Place, Unit, When};
use crate::rng::Rng;

/// The row of the table of behaviors.
pub(super) const KIND: Kind = Kind {
    name: "transient",
    aliases: &[],
    summary: "fails the first calls like error, then passes",
    options: &[
        CODES,
        INJECT,
        WARMUP,
        OptionSpec {
            name: "agitate",
            aliases: &[],
            kind: OptionKind::Count,
            default: "1",
            doc: "calls that fail before all pass",
            example: "2",
        },
    ],
    built: true,
    client: ClientView::ERRORS,
    live_change: LiveChange { bytes: When::NextChunk, messages: When::NextMessage },
    lifted: "a reply that was decided already stays an error",
};

/// The settings of a transient error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transient {
    /// How a failing call fails.
    pub error: ErrorReply,
    /// Calls that fail after the warmup, counted over the whole proxy.
    pub agitate: u64,
}

impl Misbehave for Transient {
    fn parse(options: &Options<'_>) -> Result<Transient, BehaviorError> {
        Ok(Transient { error: ErrorReply::parse(options)?, agitate: options.count("agitate")? })
    }

    fn option_text(&self, option: &str) -> String {
        if option == "agitate" { self.agitate.to_string() } else { self.error.option_text(option) }
    }

    fn place(&self) -> Place {
        self.error.place()
    }

    fn decide(&self, unit: Unit, rng: &mut Rng, calls: &AtomicU64) -> Effect {
        let call = calls.fetch_add(1, Ordering::Relaxed) + 1;
        if self.fails(call) { self.error.fail(unit, rng) } else { Effect::Nothing }
    }

    fn rests(&self, calls: u64) -> bool {
        !self.fails(calls + 1)
    }

    fn is_over(&self, calls: u64) -> bool {
        calls >= self.error.warmup.saturating_add(self.agitate)
    }
}

impl Transient {
    /// Whether call number `call` (from 1) fails.
    fn fails(&self, call: u64) -> bool {
        self.error.fails(call) && call - self.error.warmup <= self.agitate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_pass_fail_and_pass_again() {
        let error = ErrorReply { codes: vec![500], inject: false, warmup: 1 };
        let transient = Transient { error, agitate: 2 };
        assert_eq!(
            (1..=6).map(|call| transient.fails(call)).collect::<Vec<_>>(),
            [false, true, true, false, false, false]
        );
        assert_eq!(
            (0..=4).map(|calls| transient.is_over(calls)).collect::<Vec<_>>(),
            [false, false, false, true, true]
        );
    }
}
