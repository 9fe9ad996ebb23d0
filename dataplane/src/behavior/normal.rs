//! Passes everything unchanged: the name for "the rest" in a mix.

use super::{Kind, LiveChange, When};

/// The row of the table of behaviors.
pub(super) const KIND: Kind = Kind {
    name: "normal",
    aliases: &["dummy", "noop"],
    summary: "passes everything unchanged",
    options: &[],
    built: true,
    live_change: LiveChange { bytes: When::NextChunk, messages: When::NextMessage },
    lifted: "",
};
