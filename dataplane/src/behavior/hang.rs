//! Reads and discards what the client sends and never answers; the connection stays open.

use super::{Kind, LiveChange, When};

/// The row of the table of behaviors.
pub(super) const KIND: Kind = Kind {
    name: "hang",
    aliases: &[],
    summary: "reads and discards, never answers, keeps the connection open",
    options: &[],
    built: true,
    live_change: LiveChange { bytes: When::Now, messages: When::NextMessage },
    lifted: "connections that hung are closed, so that clients come again",
};
