//! Where a message begins and ends, and what an error looks like, one file per protocol. No I/O.

use std::fmt;
use std::str::FromStr;

use crate::nearest::nearest;

pub mod http;

/// What a proxy understands of the bytes it carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Plain bytes.
    #[default]
    Tcp,
    /// HTTP/1.0 and HTTP/1.1 (RFC 9112).
    Http,
}

impl Protocol {
    /// The protocols that can be used.
    pub const BUILT: &[Protocol] = &[Protocol::Tcp, Protocol::Http];

    /// The name in config and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Http => "http",
        }
    }
}

/// Names that are planned; asking for one says so.
const NOT_BUILT: &[&str] =
    &["https", "http2", "grpc", "redis", "memcached", "memcache", "mysql", "postgres", "smtp"];

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a name is not a protocol that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The protocol is planned.
    #[error("protocol `{0}` is not built yet; use tcp, which carries any bytes, or http")]
    NotBuilt(String),
    /// No protocol has this name.
    #[error("unknown protocol `{name}`; {hint}")]
    Unknown {
        /// What was typed.
        name: String,
        /// The nearest name, or all.
        hint: String,
    },
}

impl FromStr for Protocol {
    type Err = ProtocolError;
    fn from_str(text: &str) -> Result<Protocol, ProtocolError> {
        let name = text.trim();
        if let Some(protocol) = Protocol::BUILT.iter().find(|protocol| protocol.name() == name) {
            return Ok(*protocol);
        }
        if NOT_BUILT.contains(&name) {
            return Err(ProtocolError::NotBuilt(name.to_owned()));
        }
        let known = Protocol::BUILT.iter().map(|protocol| protocol.name()).chain(NOT_BUILT.iter().copied());
        Err(ProtocolError::Unknown {
            name: name.to_owned(),
            hint: match nearest(name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "use tcp or http".to_owned(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_planned_ones_say_so() {
        assert_eq!("http".parse(), Ok(Protocol::Http));
        assert_eq!("tcp".parse(), Ok(Protocol::Tcp));
        for (text, expected) in [
            ("redis", "protocol `redis` is not built yet; use tcp, which carries any bytes, or http"),
            ("htpp", "unknown protocol `htpp`; did you mean `http`?"),
            ("carrier pigeon", "unknown protocol `carrier pigeon`; use tcp or http"),
        ] {
            assert_eq!(text.parse::<Protocol>().expect_err(text).to_string(), expected);
        }
    }
}
