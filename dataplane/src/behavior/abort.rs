//! Lets the request reach the upstream, then closes both sides without a reply.

use super::{Kind, LiveChange, When};

/// The row of the table of behaviors.
pub(super) const KIND: Kind = Kind {
    name: "abort",
    aliases: &[],
    summary: "the request reaches the upstream, then both sides close without a reply",
    options: &[],
    built: true,
    live_change: LiveChange { bytes: When::NextChunk, messages: When::NextMessage },
    lifted: "a request that was read before still aborts; a connection that lost a part of its reply is closed",
};
