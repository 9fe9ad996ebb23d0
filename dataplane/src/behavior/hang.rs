//! Reads and discards what the client sends and never answers; the connection stays open.

use std::sync::atomic::AtomicU64;

use super::options::Options;
use super::{Action, BehaviorError, ClientView, Effect, Kind, LiveChange, Misbehave, Place, Unit, When};
use crate::rng::Rng;

/// The row of the table of behaviors.
pub(super) const KIND: Kind = Kind {
    name: "hang",
    aliases: &[],
    summary: "reads and discards, never answers, keeps the connection open",
    options: &[],
    built: true,
    client: ClientView::SILENCE,
    live_change: LiveChange { bytes: When::Now, messages: When::NextMessage },
    lifted: "connections that hung are closed, so that clients come again",
};

/// Has no settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hang;

impl Misbehave for Hang {
    fn parse(_: &Options<'_>) -> Result<Hang, BehaviorError> {
        Ok(Hang)
    }

    fn option_text(&self, option: &str) -> String {
        unreachable!("`hang` has no option `{option}`")
    }

    fn place(&self) -> Place {
        Place::Whole
    }

    fn decide(&self, _: Unit, _: &mut Rng, _: &AtomicU64) -> Effect {
        Effect::Act(Action::Hang)
    }
}
