//! Addresses on the command line: every flag that takes `HOST:PORT` reads it here, so that `localhost:8080` and
//! `:8080` (this machine's loopback) are addresses everywhere.

use std::net::{SocketAddr, ToSocketAddrs};

use fracas_dataplane::address::Address;

/// `HOST:PORT` of a server to call or to connect to, for `value_parser`: not looked up yet.
///
/// # Errors
/// What to write instead.
pub fn remote(text: &str) -> Result<String, String> {
    Address::parse(text).map(|address| address.to_string()).map_err(|why| why.to_string())
}

/// `HOST:PORT` to listen on, for `value_parser`; a name is looked up, and port 0 takes a free one.
///
/// # Errors
/// What to write instead.
pub fn listen(text: &str) -> Result<SocketAddr, String> {
    let address = Address::parse_listen(text).map_err(|why| why.to_string())?;
    if let Some(literal) = address.literal() {
        return Ok(literal);
    }
    let found = (address.host.as_str(), address.port).to_socket_addrs();
    let mut found = found.map_err(|why| format!("cannot look up `{}`: {why}", address.host))?;
    found.next().ok_or_else(|| format!("`{}` has no address", address.host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_are_addresses() {
        assert_eq!(remote(":7401").unwrap(), "127.0.0.1:7401");
        assert_eq!(remote("localhost:7401").unwrap(), "localhost:7401");
        assert_eq!(listen(":0").unwrap().to_string(), "127.0.0.1:0");
        assert_eq!(listen("localhost:8080").unwrap().to_string(), "127.0.0.1:8080");
        assert_eq!(listen("[::1]:8080").unwrap().to_string(), "[::1]:8080");
        assert!(remote("nowhere").unwrap_err().contains("write HOST:PORT"));
    }
}
