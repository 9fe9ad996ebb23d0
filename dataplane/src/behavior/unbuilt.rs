//! The behaviors that are named and documented but not built yet; asking for one says so in one line.

use super::options::{OptionKind, OptionSpec};
use super::{ClientView, Kind, LiveChange, When};

const fn kind(
    name: &'static str,
    aliases: &'static [&'static str],
    summary: &'static str,
    options: &'static [OptionSpec],
    bytes: When,
) -> Kind {
    Kind {
        name,
        aliases,
        summary,
        options,
        built: false,
        client: ClientView::NOTHING,
        live_change: LiveChange { bytes, messages: bytes },
        lifted: "",
    }
}

const fn option(
    name: &'static str,
    aliases: &'static [(&'static str, &'static str)],
    kind: OptionKind,
    default: &'static str,
    doc: &'static str,
    example: &'static str,
) -> OptionSpec {
    OptionSpec { name, aliases, kind, default, doc, example }
}

pub(super) const SLOW_CLOSE: Kind = kind(
    "slow_close",
    &[],
    "delays the FIN",
    &[option("time", &[("delay", "ms")], OptionKind::Duration, "1s", "how long", "2s")],
    When::Now,
);
pub(super) const TIMEOUT: Kind = kind(
    "timeout",
    &[],
    "discards everything and closes after a time",
    &[option("time", &[("timeout", "ms")], OptionKind::Duration, "0", "when to close; 0 is never", "5s")],
    When::Now,
);
pub(super) const STALL: Kind = kind(
    "stall",
    &[],
    "a packet loss as TCP shows it: bytes late by one or more retransmission times, none missing",
    &[
        option("share", &[], OptionKind::Percent, "1%", "segments lost", "0.1%"),
        option("rto", &[], OptionKind::Duration, "200ms", "first retransmission time; doubles", "300ms"),
    ],
    When::NextChunk,
);
pub(super) const CORRUPT: Kind = kind(
    "corrupt",
    &[],
    "flips bits",
    &[option("share", &[], OptionKind::Percent, "1%", "bytes that are changed", "0.1%")],
    When::NextChunk,
);
pub(super) const REFUSE: Kind = kind(
    "refuse",
    &[],
    "acts on new connections before they are accepted",
    &[option(
        "how",
        &[],
        OptionKind::OneOf(&["reset", "silence", "late"]),
        "reset",
        "RST, no answer, or a late accept",
        "silence",
    )],
    When::NextConnection,
);
pub(super) const SLOW_READ: Kind = kind(
    "slow_read",
    &[],
    "a peer that barely reads: the window closes",
    &[option("rate", &[], OptionKind::Rate, "1kB/s", "how fast it reads", "100B/s")],
    When::Now,
);
pub(super) const SCRIPT: Kind = kind(
    "script",
    &[],
    "a behavior written by the user in Luau",
    &[option("file", &[], OptionKind::File, "", "the Luau file", "flaky.luau")],
    When::NextMessage,
);
