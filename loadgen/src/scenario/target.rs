//! Where the load goes.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use fracas_dataplane::address::Address;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// `http://host:port/path` or `tcp://host:port`; names are resolved by the runner. Without a scheme it is HTTP:
/// `localhost:8080/path`, `:8080`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// HTTP/1.1 in plain text.
    Http {
        /// Name or address; IPv6 without brackets.
        host: String,
        /// 80 unless said.
        port: u16,
        /// Origin form, RFC 9112 §3.2.1: path and query, from `/`.
        path: String,
    },
    /// A server that sends back what it got (RFC 862).
    Tcp {
        /// Name or address; IPv6 without brackets.
        host: String,
        /// Always said.
        port: u16,
    },
}

/// Why a target was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No scheme, or an unknown one.
    #[error(
        "`{0}` is not a target; write http://HOST:PORT/PATH or HOST:PORT, or tcp://HOST:PORT for an echo server"
    )]
    Scheme(String),
    /// TLS.
    #[error("`{0}`: https is not built yet; use http:// towards a TLS terminator")]
    Https(String),
    /// The authority part.
    #[error("`{0}` has no usable host and port; write HOST:PORT, or [ADDRESS]:PORT for IPv6")]
    Authority(String),
    /// The path.
    #[error("`{0}` has a space or a control character in its path; percent-encode it, such as %20")]
    Path(String),
    /// A path where none belongs.
    #[error("`{0}`: a tcp target is only HOST:PORT; remove the path")]
    TcpPath(String),
}

impl Target {
    /// The host, for the resolver.
    pub fn host(&self) -> &str {
        match self {
            Target::Http { host, .. } | Target::Tcp { host, .. } => host,
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Target::Http { port, .. } | Target::Tcp { port, .. } => *port,
        }
    }

    /// `host:port` with brackets around IPv6 and no port 80: the HTTP Host header (RFC 9110 §7.2).
    pub fn authority(&self) -> String {
        let host = self.host();
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        match self {
            Target::Http { port: 80, .. } => host,
            _ => format!("{host}:{}", self.port()),
        }
    }
}

impl Target {
    /// Whether a load on it goes to a socket that listens there, as far as can be told without a look-up: a name may be
    /// that of any machine.
    pub fn may_lead_to(&self, listen: SocketAddr) -> bool {
        let address = Address { host: self.host().to_owned(), port: self.port() };
        let is_same_host = address.literal().is_none_or(|target| {
            let (target, listen) = (target.ip(), listen.ip());
            target == listen || listen.is_unspecified() || target.is_loopback() && listen.is_loopback()
        });
        is_same_host && address.port == listen.port()
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Target, TargetError> {
        let text = text.trim();
        let (scheme, rest) = match text.split_once("://") {
            Some(parts) => parts,
            // `localhost:8080` and `:8080/path` can be nothing else; a bare word may be a file's name.
            None if Address::parse(text.split(['/', '?']).next().unwrap_or_default()).is_ok() => {
                ("http", text)
            }
            None => return Err(TargetError::Scheme(text.into())),
        };
        let default_port = match scheme.to_ascii_lowercase().as_str() {
            "http" => Some(80),
            "tcp" => None,
            "https" => return Err(TargetError::Https(text.into())),
            _ => return Err(TargetError::Scheme(text.into())),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) =
            split_authority(authority, default_port).ok_or_else(|| TargetError::Authority(text.into()))?;
        if default_port.is_none() {
            return match path {
                "" | "/" => Ok(Target::Tcp { host, port }),
                _ => Err(TargetError::TcpPath(text.into())),
            };
        }
        if path.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(TargetError::Path(text.into()));
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Target::Http { host, port, path })
    }
}

fn split_authority(authority: &str, default_port: Option<u16>) -> Option<(String, u16)> {
    let after_host = authority.rfind(']').map_or(authority, |end| &authority[end..]);
    let address = match default_port {
        Some(port) if !after_host.contains(':') && !authority.is_empty() => {
            Address::parse(&format!("{authority}:{port}"))
        }
        _ => Address::parse(authority),
    };
    address.ok().map(|address| (address.host, address.port))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Http { path, .. } => write!(f, "http://{}{path}", self.authority()),
            Target::Tcp { .. } => write!(f, "tcp://{}", self.authority()),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Target, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_written_back() {
        for (text, shown) in [
            ("http://10.0.3.7:8080/", "http://10.0.3.7:8080/"),
            ("http://host", "http://host/"),
            ("HTTP://host:80/a?b=c#d", "http://host/a?b=c"),
            ("http://host?x=1", "http://host/?x=1"),
            ("http://[::1]:8080/x", "http://[::1]:8080/x"),
            ("tcp://127.0.0.1:7", "tcp://127.0.0.1:7"),
            ("tcp://[::1]:80", "tcp://[::1]:80"),
            ("tcp://:7", "tcp://127.0.0.1:7"),
            ("localhost:8080", "http://localhost:8080/"),
            ("localhost:8080/a?b", "http://localhost:8080/a?b"),
            (":8080", "http://127.0.0.1:8080/"),
            (":8080?x=1", "http://127.0.0.1:8080/?x=1"),
            ("[::1]:8080", "http://[::1]:8080/"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.to_string(), shown);
            assert_eq!(shown.parse(), Ok(target));
        }
    }

    #[test]
    fn a_target_leads_to_who_listens_at_its_port() {
        for (target, listen, expected) in [
            ("http://127.0.0.1:8081/", "127.0.0.1:8081", true),
            ("localhost:8081", "127.0.0.1:8081", true),
            ("http://shop.test:8081/", "10.0.0.7:8081", true),
            ("tcp://10.0.0.7:8081", "0.0.0.0:8081", true),
            ("http://127.0.0.1:8080/", "127.0.0.1:8081", false),
            ("http://10.0.0.8:8081/", "10.0.0.7:8081", false),
        ] {
            let target: Target = target.parse().unwrap();
            assert_eq!(target.may_lead_to(listen.parse().unwrap()), expected, "{target} {listen}");
        }
    }

    #[test]
    fn what_cannot_be_a_target_is_refused_with_the_reason() {
        type Make = fn(String) -> TargetError;
        let cases: [(&str, Make); 15] = [
            ("localhost", TargetError::Scheme),
            ("8080", TargetError::Scheme),
            ("nonsense", TargetError::Scheme),
            ("http://::1:80/", TargetError::Authority),
            ("ftp://x", TargetError::Scheme),
            ("https://x/", TargetError::Https),
            ("http://", TargetError::Authority),
            ("http://user@host/", TargetError::Authority),
            ("http://host:0/", TargetError::Authority),
            ("http://host:99999/", TargetError::Authority),
            ("http://host:+80/", TargetError::Authority),
            ("http://[::1/", TargetError::Authority),
            ("tcp://host", TargetError::Authority),
            ("http://host/a b", TargetError::Path),
            ("tcp://host:7/path", TargetError::TcpPath),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Target>(), Err(error(text.into())), "{text}");
        }
    }
}
