//! `HOST:PORT` as people write it, read in one way everywhere: a listen address, an upstream, a target, an API.
//!
//! ```text
//! 127.0.0.1:8080   localhost:8080   [::1]:8080   db.internal:6379     as they say
//! :8080                                                               127.0.0.1:8080
//! ```
//!
//! Nothing is looked up here: that is I/O, and the caller's.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// A host and a port; the host is a name or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// A name, or an IP address; IPv6 without brackets.
    pub host: String,
    /// 0 only where a listener may choose.
    pub port: u16,
}

/// Why a text is no address, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// A URL where only host and port belong.
    #[error("`{0}` is a URL; write HOST:PORT, without `{1}` and without a path")]
    Url(String, &'static str),
    /// No colon.
    #[error("`{0}` has no port; write HOST:PORT, such as localhost:8080 or :8080")]
    NoPort(String),
    /// The part after the colon.
    #[error(
        "`{0}` has no port from 1 to 65535 after its last colon; write HOST:PORT, such as localhost:8080"
    )]
    Port(String),
    /// An IPv6 address whose colons cannot be told from the port's.
    #[error("`{0}`: write an IPv6 address in brackets, such as [::1]:8080")]
    Brackets(String),
    /// Letters that no host has.
    #[error("`{0}` has no usable host; write HOST:PORT, such as localhost:8080 or [::1]:8080")]
    Host(String),
}

impl Address {
    /// Reads `HOST:PORT`, or `:PORT` for this machine's loopback.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse(text: &str) -> Result<Address, AddressError> {
        Address::read(text, false)
    }

    /// The same for a listener, which may leave the port to the kernel with 0.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse_listen(text: &str) -> Result<Address, AddressError> {
        Address::read(text, true)
    }

    fn read(text: &str, may_choose: bool) -> Result<Address, AddressError> {
        let text = text.trim();
        let owned = || text.to_owned();
        for scheme in ["http://", "https://", "tcp://"] {
            if text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)) {
                return Err(AddressError::Url(owned(), scheme));
            }
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(|| AddressError::Host(owned()))?;
                host.parse::<Ipv6Addr>().map_err(|_| AddressError::Host(owned()))?;
                (host, after.strip_prefix(':').ok_or_else(|| AddressError::NoPort(owned()))?)
            }
            None => text.rsplit_once(':').ok_or_else(|| AddressError::NoPort(owned()))?,
        };
        if !text.starts_with('[') && host.contains(':') {
            return Err(AddressError::Brackets(owned()));
        }
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port: u16 = port.parse().ok().filter(|_| digits).ok_or_else(|| AddressError::Port(owned()))?;
        if port == 0 && !may_choose {
            return Err(AddressError::Port(owned()));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if !host.chars().all(fits) {
            return Err(AddressError::Host(owned()));
        }
        let host = if host.is_empty() { Ipv4Addr::LOCALHOST.to_string() } else { host.to_owned() };
        Ok(Address { host, port })
    }

    /// As a socket has it, when nothing has to be looked up: an IP address, or `localhost`, which is 127.0.0.1.
    pub fn literal(&self) -> Option<SocketAddr> {
        let ip = match self.host.as_str() {
            name if name.eq_ignore_ascii_case("localhost") => IpAddr::from(Ipv4Addr::LOCALHOST),
            host => host.parse().ok()?,
        };
        Some(SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for Address {
    /// `HOST:PORT`, with brackets around IPv6.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        Address::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read_and_written_back() {
        for (text, shown, literal) in [
            ("127.0.0.1:8080", "127.0.0.1:8080", true),
            ("localhost:8080", "localhost:8080", true),
            ("LOCALHOST:8080", "LOCALHOST:8080", true),
            (":8080", "127.0.0.1:8080", true),
            (" :1 ", "127.0.0.1:1", true),
            ("[::1]:80", "[::1]:80", true),
            ("0.0.0.0:65535", "0.0.0.0:65535", true),
            ("db-1.internal:6379", "db-1.internal:6379", false),
            ("my_service:80", "my_service:80", false),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.literal().is_some(), literal, "{text}");
            assert_eq!(shown.parse(), Ok(address));
        }
        assert_eq!(Address::parse(":7").unwrap().literal().unwrap().to_string(), "127.0.0.1:7");
    }

    #[test]
    fn a_listener_may_choose_its_port_and_nobody_else() {
        assert_eq!(Address::parse_listen("localhost:0").unwrap().port, 0);
        assert_eq!(Address::parse("localhost:0"), Err(AddressError::Port("localhost:0".into())));
    }

    #[test]
    fn what_is_no_address_is_told_what_one_is() {
        for (text, part) in [
            ("", "has no port"),
            ("localhost", "has no port"),
            ("8080", "has no port"),
            ("localhost:", "has no port from 1"),
            ("localhost:http", "has no port from 1"),
            ("localhost:+80", "has no port from 1"),
            ("localhost:65536", "has no port from 1"),
            ("::1:8080", "in brackets"),
            ("::1", "in brackets"),
            ("[::1]", "has no port"),
            ("[::1]8080", "has no port"),
            ("[nonsense]:80", "no usable host"),
            ("[::1:80", "no usable host"),
            ("user@host:80", "no usable host"),
            ("a b:80", "no usable host"),
            ("http://localhost:8080", "without `http://`"),
            ("HTTPS://localhost:8080/", "without `https://`"),
            ("localhost:8080/path", "has no port from 1"),
        ] {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
