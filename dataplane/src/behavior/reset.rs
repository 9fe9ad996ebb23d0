//! Ends the connection with a true RST, at once or after a time or a number of bytes.

use std::time::Duration;

use super::options::{OptionKind, OptionSpec, Options};
use super::{BehaviorError, Kind, LiveChange, When, bytes_text, duration_text};

/// The row of the table of behaviors.
pub(super) const KIND: Kind = Kind {
    name: "reset",
    aliases: &["reset_peer"],
    summary: "ends the connection with a TCP RST, live ones too",
    options: &[
        OptionSpec {
            name: "after",
            aliases: &[("timeout", "ms")],
            kind: OptionKind::DurationOrBytes,
            default: "0",
            doc: "wait this long, or let this many bytes pass, first",
            example: "64KiB",
        },
        OptionSpec {
            name: "side",
            aliases: &[],
            kind: OptionKind::OneOf(&["downstream", "upstream", "both"]),
            default: "both",
            doc: "who gets the RST; the other side is closed in order",
            example: "downstream",
        },
    ],
    built: true,
    live_change: LiveChange { bytes: When::Now, messages: When::NextMessage },
    lifted: "a reset that waits for its time or its bytes is called off",
};

/// The settings of a reset; both bounds 0 mean at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Time from the decision to the RST.
    pub after_time: Duration,
    /// Bytes of both directions that pass between the decision and the RST.
    pub after_bytes: u64,
    /// Who gets the RST.
    pub side: ResetSide,
}

/// Which peer gets the RST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetSide {
    /// The client.
    Downstream,
    /// The backend.
    Upstream,
    /// Both.
    Both,
}

impl Reset {
    pub(super) fn parse(options: &Options<'_>) -> Result<Reset, BehaviorError> {
        let (after_time, after_bytes) = options.duration_or_bytes("after")?;
        let sides = [ResetSide::Downstream, ResetSide::Upstream, ResetSide::Both];
        Ok(Reset { after_time, after_bytes, side: options.one_of("side", &sides)? })
    }

    pub(super) fn option_text(&self, option: &str) -> String {
        match option {
            "after" if self.after_bytes > 0 => bytes_text(self.after_bytes),
            "after" => duration_text(self.after_time),
            "side" => self.side.word().to_owned(),
            other => unreachable!("`reset` has no option `{other}`"),
        }
    }
}

impl ResetSide {
    fn word(self) -> &'static str {
        match self {
            ResetSide::Downstream => "downstream",
            ResetSide::Upstream => "upstream",
            ResetSide::Both => "both",
        }
    }
}
