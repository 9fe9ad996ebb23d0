//! How fast the target has been at its best, which says what can still be answered in time. Arithmetic only.
//!
//! A request that waits for a connection until less of its timeout is left than any reply of the run has taken cannot be
//! saved by a connection. Sent all the same it would time out at the same instant and take its connection with it; the
//! next request would need a new one, and be too late by the time that takes. Where a connect and a reply take long
//! against connections ÷ rate, that never ends, however well the target is.

use std::time::Duration;

/// The shortest times of the run so far. They only become shorter, so that a target which has slowed down is still asked
/// by every request that is not older than that.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fastest {
    connect: Option<Duration>,
    reply: Option<Duration>,
}

impl Fastest {
    /// A connect took so long.
    pub(super) fn connected(&mut self, after: Duration) {
        self.connect = Some(self.connect.map_or(after, |least| least.min(after)));
    }

    /// A reply came so long after its request was sent on an open connection.
    pub(super) fn replied(&mut self, after: Duration) {
        self.reply = Some(self.reply.map_or(after, |least| least.min(after)));
    }

    /// No reply has come sooner over an open connection; 0 before the first.
    pub(super) fn over_open(self) -> Duration {
        self.reply.unwrap_or_default()
    }

    /// No reply has come sooner over one that had to be opened; 0 before the first.
    pub(super) fn over_new(self) -> Duration {
        self.reply.map_or(Duration::ZERO, |reply| reply + self.connect.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_of_each_counts_and_nothing_before_the_first_reply() {
        let ms = Duration::from_millis;
        let mut fastest = Fastest::default();
        let mut both = |connect: Option<u64>, reply: Option<u64>| {
            connect.into_iter().for_each(|connect| fastest.connected(ms(connect)));
            reply.into_iter().for_each(|reply| fastest.replied(ms(reply)));
            (fastest.over_open(), fastest.over_new())
        };
        assert_eq!(both(None, None), (ms(0), ms(0)));
        assert_eq!(both(Some(60), None), (ms(0), ms(0)), "who knows whether it replies in no time");
        assert_eq!(both(None, Some(80)), (ms(80), ms(140)));
        assert_eq!(both(Some(1_000), Some(500)), (ms(80), ms(140)), "slower than it has been");
        assert_eq!(both(Some(20), Some(70)), (ms(70), ms(90)));
    }
}
