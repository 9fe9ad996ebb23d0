//! Closes the connection at once; nothing is forwarded.

use super::{Kind, LiveChange, When};

/// The row of the table of behaviors.
pub(super) const KIND: Kind = Kind {
    name: "blackout",
    aliases: &[],
    summary: "closes at once, forwards nothing",
    options: &[],
    built: true,
    live_change: LiveChange { bytes: When::Now, messages: When::NextMessage },
    lifted: "nothing is under way; the next connection or message passes",
};
