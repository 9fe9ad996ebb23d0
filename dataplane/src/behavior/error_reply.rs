//! Answers with an error: a correct error reply where the protocol is known, else random bytes as Vaurien does.
//!
//! With a protocol the upstream is not contacted. On plain bytes the request passes, and each reply chunk is
//! replaced by 1000 random bytes or, with `inject`, gets 100 random bytes in its middle.

use std::sync::atomic::{AtomicU64, Ordering};

use rand::Rng as _;

use super::options::{OptionKind, OptionSpec, Options};
use super::{
    Action, BehaviorError, ClientView, Effect, Kind, LiveChange, Misbehave, Place, Side, Unit, When,
};
use crate::rng::Rng;

/// Random bytes that replace a reply chunk (Vaurien's figure).
pub const GARBAGE_REPLACE_BYTES: usize = 1000;
/// Random bytes inserted into a reply chunk with `inject` (Vaurien's figure).
pub const GARBAGE_INJECT_BYTES: usize = 100;

/// The row of the table of behaviors.
pub(super) const KIND: Kind = Kind {
    name: "error",
    aliases: &[],
    summary: "answers with a correct error of the protocol; on plain bytes with random bytes",
    options: &[CODES, INJECT, WARMUP],
    built: true,
    client: ClientView::ERRORS,
    live_change: LiveChange { bytes: When::NextChunk, messages: When::NextMessage },
    lifted: "a reply that was decided already stays an error",
};

pub(super) const CODES: OptionSpec = OptionSpec {
    name: "codes",
    aliases: &[],
    kind: OptionKind::Codes,
    default: "500,501,502,503",
    doc: "status codes to draw from (http)",
    example: "429,503",
};
pub(super) const INJECT: OptionSpec = OptionSpec {
    name: "inject",
    aliases: &[],
    kind: OptionKind::Bool,
    default: "false",
    doc: "insert 100 random bytes into the reply instead of replacing it (plain bytes)",
    example: "true",
};
pub(super) const WARMUP: OptionSpec = OptionSpec {
    name: "warmup",
    aliases: &[],
    kind: OptionKind::Count,
    default: "0",
    doc: "calls to let through before the first error",
    example: "12",
};

/// The settings of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorReply {
    /// Status codes to draw from, never empty.
    pub codes: Vec<u16>,
    /// Insert into the reply chunk instead of replacing it.
    pub inject: bool,
    /// Calls let through first, counted over the whole proxy.
    pub warmup: u64,
}

impl Misbehave for ErrorReply {
    fn parse(options: &Options<'_>) -> Result<ErrorReply, BehaviorError> {
        Ok(ErrorReply {
            codes: options.codes("codes")?,
            inject: options.bool("inject")?,
            warmup: options.count("warmup")?,
        })
    }

    fn option_text(&self, option: &str) -> String {
        match option {
            "codes" => self.codes.iter().map(u16::to_string).collect::<Vec<_>>().join(","),
            "inject" => self.inject.to_string(),
            "warmup" => self.warmup.to_string(),
            other => unreachable!("`error` has no option `{other}`"),
        }
    }

    fn place(&self) -> Place {
        Place::Units(Side::Reply)
    }

    fn decide(&self, unit: Unit, rng: &mut Rng, calls: &AtomicU64) -> Effect {
        let fails = self.warmup == 0 || self.fails(calls.fetch_add(1, Ordering::Relaxed) + 1);
        if fails { self.fail(unit, rng) } else { Effect::Nothing }
    }

    fn rests(&self, calls: u64) -> bool {
        self.warmup > 0 && !self.fails(calls + 1)
    }
}

impl ErrorReply {
    /// What a call that fails gets.
    pub(super) fn fail(&self, unit: Unit, rng: &mut Rng) -> Effect {
        Effect::Act(match unit {
            Unit::Connection => return Effect::Nothing,
            Unit::Exchange => {
                Action::ErrorReply { code: self.draw_code(rng.next_u64()), draw: rng.next_u64() }
            }
            Unit::Chunk(_) => Action::Garbage { inject: self.inject, draw: rng.next_u64() },
        })
    }

    /// Whether call number `call` (from 1) fails.
    pub(super) fn fails(&self, call: u64) -> bool {
        call > self.warmup
    }

    fn draw_code(&self, draw: u64) -> u16 {
        self.codes[(draw % self.codes.len() as u64) as usize]
    }
}

/// What random bytes do to a reply chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Garbage {
    /// The random bytes.
    pub bytes: Vec<u8>,
    /// Where in the reply chunk to insert them; `None`: they replace the whole chunk.
    pub insert_at: Option<usize>,
}

/// Makes the random bytes for a reply chunk of `reply_len` bytes; the same `draw` gives the same bytes.
pub fn garbage(draw: u64, inject: bool, reply_len: usize) -> Garbage {
    let mut bytes = vec![0; if inject { GARBAGE_INJECT_BYTES } else { GARBAGE_REPLACE_BYTES }];
    Rng::new(draw).fill_bytes(&mut bytes);
    Garbage { bytes, insert_at: inject.then_some(reply_len / 2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_has_vauriens_sizes_and_repeats_with_its_draw() {
        let replaced = garbage(7, false, 20);
        assert_eq!((replaced.bytes.len(), replaced.insert_at), (1000, None));
        let injected = garbage(7, true, 21);
        assert_eq!((injected.bytes.len(), injected.insert_at), (100, Some(10)));
        assert_eq!(garbage(7, false, 1), replaced);
        assert_ne!(garbage(8, false, 1), replaced);
    }

    #[test]
    fn every_code_is_drawn_and_warmup_calls_pass() {
        let error = ErrorReply { codes: vec![500, 501, 502, 503], inject: false, warmup: 12 };
        let mut rng = Rng::new(1);
        let mut seen: Vec<u16> = (0..200).map(|_| error.draw_code(rng.next_u64())).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, error.codes);
        assert_eq!((1..=14).filter(|call| error.fails(*call)).collect::<Vec<_>>(), [13, 14]);
    }
}
