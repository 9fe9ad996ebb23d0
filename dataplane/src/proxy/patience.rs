//! How long a proxy waits for peers that say nothing.

use std::time::Duration;

/// How long a side may keep its socket open after everything due to it and a FIN, unless a proxy says otherwise.
const LINGER_DEFAULT: Duration = Duration::from_secs(5);
/// How long nothing may pass after one side has ended, unless a proxy says otherwise.
const HALF_CLOSE_DEFAULT: Duration = Duration::from_secs(60);
/// Silence after which a peer is asked whether it is there, unless a proxy says otherwise.
const KEEPALIVE_DEFAULT: Duration = Duration::from_secs(60);

/// The limits on silence of one proxy's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A connection on which no byte has passed for so long is closed in order. None: never.
    pub idle: Option<Duration>,
    /// How long a side may keep its socket open after it got everything that is due to it and a FIN, or may leave
    /// the last bytes of a connection that is being closed unread.
    pub linger: Duration,
    /// How long nothing may pass after one side has sent its FIN: the other may still be working on the answer.
    pub half_close: Duration,
    /// Silence after which the kernel asks a peer whether it is there ([`crate::ring::SocketOptions::keepalive`]).
    pub keepalive: Option<Duration>,
}

/// What to change on a proxy's patience; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatienceUpdate {
    /// [`Patience::idle`]; zero: never.
    pub idle: Option<Duration>,
    /// [`Patience::linger`].
    pub linger: Option<Duration>,
    /// [`Patience::half_close`].
    pub half_close: Option<Duration>,
    /// [`Patience::keepalive`]; zero: no probes.
    pub keepalive: Option<Duration>,
}

impl Patience {
    /// With what is changed.
    #[must_use]
    pub fn updated(self, update: &PatienceUpdate) -> Patience {
        let some = |time: Duration| Some(time).filter(|time| !time.is_zero());
        Patience {
            idle: update.idle.map_or(self.idle, some),
            linger: update.linger.unwrap_or(self.linger),
            half_close: update.half_close.unwrap_or(self.half_close),
            keepalive: update.keepalive.map_or(self.keepalive, some),
        }
    }
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            idle: None,
            linger: LINGER_DEFAULT,
            half_close: HALF_CLOSE_DEFAULT,
            keepalive: Some(KEEPALIVE_DEFAULT),
        }
    }
}
