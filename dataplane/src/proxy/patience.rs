//! How long a proxy waits for peers that say nothing.

use std::time::Duration;

use crate::config::{HALF_CLOSE_DEFAULT, KEEPALIVE_DEFAULT, LINGER_DEFAULT};

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
