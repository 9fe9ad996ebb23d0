//! Closes the connection at once; nothing is forwarded.

use std::sync::atomic::AtomicU64;

use super::options::Options;
use super::{
    Action, After, BehaviorError, ClientView, Effect, Finish, Kind, LiveChange, Misbehave, Place, Unit, When,
};
use crate::rng::Rng;

/// The row of the table of behaviors.
pub(super) const KIND: Kind = Kind {
    name: "blackout",
    aliases: &[],
    summary: "closes at once, forwards nothing",
    options: &[],
    built: true,
    client: ClientView::CUT,
    live_change: LiveChange { bytes: When::Now, messages: When::NextMessage },
    lifted: "nothing is under way; the next connection or message passes",
};

/// Has no settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blackout;

impl Misbehave for Blackout {
    fn parse(_: &Options<'_>) -> Result<Blackout, BehaviorError> {
        Ok(Blackout)
    }

    fn option_text(&self, option: &str) -> String {
        unreachable!("`blackout` has no option `{option}`")
    }

    fn place(&self) -> Place {
        Place::Whole
    }

    fn decide(&self, _: Unit, _: &mut Rng, _: &AtomicU64) -> Effect {
        Effect::Act(Action::End { after: After::Nothing, how: Finish::Close })
    }
}
