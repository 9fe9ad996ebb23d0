//! How one side of a connection is let go, without taking from it what it has not read yet.
//!
//! A close(2) with unread bytes sends a RST at once, and bytes that come after a close are answered by one; a RST
//! makes the other side's kernel drop what its program has not read. So a side that is closed in order gets its last
//! bytes and a FIN, and what it still says is read and dropped until it ends, too (RFC 9112 §9.6, a lingering close).
//!
//! ```text
//!             all sent: FIN                 its FIN came, or it failed
//!  Stays ─► Flushing ───────────► Draining ──────────────────────────► Cut ─► closed, once nothing is in flight
//!              │ it failed; time or bytes over: RST      │ time or bytes over ▲
//!              └─────────────────────────────────────────┴────────────────────┘
//! ```

/// Bytes that are read and dropped from one side that is being closed: about what the buffers of both kernels hold
/// (`tcp_rmem` and `tcp_wmem`), so that whoever stops writing when it sees the FIN is not reset.
pub const LINGER_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// How far one side has been let go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It is in use.
    #[default]
    Stays,
    /// What is queued for it goes first. So many bytes from it have been dropped meanwhile.
    Flushing { dropped: u32 },
    /// It has got its FIN; what it still says is dropped.
    Draining { dropped: u32 },
    /// Its socket is closed as soon as nothing is in flight on it.
    Cut,
}

/// What happened to a side that is being let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// All that was queued for it is with the kernel.
    Flushed,
    /// Its FIN came.
    Ended,
    /// Its connection failed.
    Failed,
    /// It said so many bytes.
    Said(usize),
    /// Its time is over.
    TimeOver,
}

/// What has to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    Nothing,
    /// Send a FIN.
    Fin,
    /// Close it: it has all that it will get.
    Close,
    /// Close it as a limit wants; it has all that it will get.
    CloseAtLimit,
    /// Send a RST, for it will not get all that was due to it.
    ResetAtLimit,
}

impl Leaving {
    /// What becomes of it; `ended` says whether its FIN has come before.
    pub fn hear(self, news: News, ended: bool) -> (Leaving, Duty) {
        let count =
            |dropped: u32, said: usize| dropped.saturating_add(u32::try_from(said).unwrap_or(u32::MAX));
        match (self, news) {
            (Leaving::Stays | Leaving::Cut, _) => (self, Duty::Nothing),
            (_, News::Failed) => (Leaving::Cut, Duty::Close),
            // close(2) sends the FIN, and nothing can be unread.
            (Leaving::Flushing { .. }, News::Flushed) if ended => (Leaving::Cut, Duty::Close),
            (Leaving::Flushing { dropped }, News::Flushed) => (Leaving::Draining { dropped }, Duty::Fin),
            (Leaving::Draining { .. }, News::Flushed) => (self, Duty::Nothing),
            (Leaving::Flushing { .. }, News::Ended) => (self, Duty::Nothing),
            (Leaving::Draining { .. }, News::Ended) => (Leaving::Cut, Duty::Close),
            (Leaving::Flushing { dropped }, News::Said(said)) => match count(dropped, said) {
                dropped @ ..=LINGER_BYTES_MAX => (Leaving::Flushing { dropped }, Duty::Nothing),
                _ => (Leaving::Cut, Duty::ResetAtLimit),
            },
            (Leaving::Draining { dropped }, News::Said(said)) => match count(dropped, said) {
                dropped @ ..=LINGER_BYTES_MAX => (Leaving::Draining { dropped }, Duty::Nothing),
                _ => (Leaving::Cut, Duty::CloseAtLimit),
            },
            (Leaving::Flushing { .. }, News::TimeOver) => (Leaving::Cut, Duty::ResetAtLimit),
            (Leaving::Draining { .. }, News::TimeOver) => (Leaving::Cut, Duty::CloseAtLimit),
        }
    }

    /// Whether it is read although its bytes go nowhere.
    pub fn reads_on(self) -> bool {
        matches!(self, Leaving::Flushing { .. } | Leaving::Draining { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_of_a_side_that_is_let_go() {
        use Duty::{Close, CloseAtLimit, Fin, Nothing, ResetAtLimit};
        use Leaving::{Cut, Draining, Flushing, Stays};
        const MAX: usize = LINGER_BYTES_MAX as usize;
        let (flushing, draining) = (Flushing { dropped: 7 }, Draining { dropped: 7 });
        for (state, news, ended, expected) in [
            (flushing, News::Flushed, false, (draining, Fin)),
            (flushing, News::Flushed, true, (Cut, Close)),
            (flushing, News::Ended, false, (flushing, Nothing)),
            (flushing, News::Failed, false, (Cut, Close)),
            (flushing, News::Said(3), false, (Flushing { dropped: 10 }, Nothing)),
            (flushing, News::Said(MAX - 7), false, (Flushing { dropped: LINGER_BYTES_MAX }, Nothing)),
            (flushing, News::Said(MAX - 6), false, (Cut, ResetAtLimit)),
            (flushing, News::TimeOver, false, (Cut, ResetAtLimit)),
            (draining, News::Flushed, false, (draining, Nothing)),
            (draining, News::Ended, false, (Cut, Close)),
            (draining, News::Failed, false, (Cut, Close)),
            (draining, News::Said(3), false, (Draining { dropped: 10 }, Nothing)),
            (draining, News::Said(MAX), false, (Cut, CloseAtLimit)),
            (draining, News::TimeOver, false, (Cut, CloseAtLimit)),
        ] {
            assert_eq!(state.hear(news, ended), expected, "{state:?} hears {news:?}");
        }
        for news in [News::Flushed, News::Ended, News::Failed, News::Said(MAX), News::TimeOver] {
            assert_eq!(Stays.hear(news, false), (Stays, Nothing), "it is in use");
            assert_eq!(Cut.hear(news, false), (Cut, Nothing), "it is as good as closed");
        }
    }
}
