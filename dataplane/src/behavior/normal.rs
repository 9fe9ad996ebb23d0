//! Passes everything unchanged: the name for "the rest" in a mix.

use super::options::Options;
use super::{BehaviorError, ClientView, Kind, LiveChange, Misbehave, Place, When};

/// The row of the table of behaviors.
pub(super) const KIND: Kind = Kind {
    name: "normal",
    aliases: &["dummy", "noop"],
    summary: "passes everything unchanged",
    options: &[],
    built: true,
    client: ClientView::NOTHING,
    live_change: LiveChange { bytes: When::NextChunk, messages: When::NextMessage },
    lifted: "",
};

/// Has no settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Normal;

impl Misbehave for Normal {
    fn parse(_: &Options<'_>) -> Result<Normal, BehaviorError> {
        Ok(Normal)
    }

    fn option_text(&self, option: &str) -> String {
        unreachable!("`normal` has no option `{option}`")
    }

    fn place(&self) -> Place {
        Place::Nowhere
    }
}
