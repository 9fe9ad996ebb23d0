//! How the control side's bytes travel: who is let in, and what nobody on the way can read or change.
//!
//! ```text
//! dial (TCP, TLS, one greeting) ── stream ──▶ server (limits, handshakes) ──▶ visitor ──▶ token ──▶ services
//! ```
//!
//! Nothing here knows a service of ours; measured bytes never come by.

pub mod calls;
mod crowd;
pub mod dial;
pub mod figures;
pub mod server;
pub mod stream;
pub mod tls;
pub mod token;
pub mod visitor;

use std::fmt;

use self::server::Limits;
use self::tls::Acceptor;
use self::token::Token;
use self::visitor::Names;

/// What guards a server; with nothing in it, everybody who reaches the address is let in.
#[derive(Clone, Default)]
pub struct Guard {
    /// Proves who the server is, and hides what is said.
    pub tls: Option<Acceptor>,
    /// What callers must know.
    pub token: Option<Token>,
    /// The names by which it is asked.
    pub names: Names,
    /// What its clients may take.
    pub limits: Limits,
}

/// What a reader of the first lines wants to know after the address; nothing when there is nothing.
impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (&self.tls, &self.token) {
            (Some(_), Some(_)) => " (TLS, token)",
            (Some(_), None) => " (TLS)",
            (None, Some(_)) => " (token)",
            (None, None) => "",
        })
    }
}
