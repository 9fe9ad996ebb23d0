//! Lets the request reach the upstream, then closes both sides without a reply.

use std::sync::atomic::AtomicU64;

use super::options::Options;
use super::{Action, BehaviorError, ClientView, Effect, Kind, LiveChange, Misbehave, Place, Unit, When};
use crate::rng::Rng;

/// The row of the table of behaviors.
pub(super) const KIND: Kind = Kind {
    name: "abort",
    aliases: &[],
    summary: "the request reaches the upstream, then both sides close without a reply",
    options: &[],
    built: true,
    client: ClientView::CUT,
    live_change: LiveChange { bytes: When::NextChunk, messages: When::NextMessage },
    lifted: "a request that was read before still aborts; a connection that lost a part of its reply is closed",
};

/// Has no settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort;

impl Misbehave for Abort {
    fn parse(_: &Options<'_>) -> Result<Abort, BehaviorError> {
        Ok(Abort)
    }

    fn option_text(&self, option: &str) -> String {
        unreachable!("`abort` has no option `{option}`")
    }

    fn place(&self) -> Place {
        Place::Whole
    }

    fn decide(&self, _: Unit, _: &mut Rng, _: &AtomicU64) -> Effect {
        Effect::Act(Action::Abort)
    }
}
