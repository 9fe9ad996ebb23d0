//! For which host a request is: its target and its Host field (RFC 9112 §3.2), which must say the same.
//!
//! Two readers that take a request for different hosts are one more way to smuggle it past one of them.

/// Checks the target against the method and the Host field; a field whose value is no host was refused before.
///
/// | target | for | and Host |
/// |---|---|---|
/// | `/path?query` | any method | – |
/// | `http://host/path` | any method | is that host, if it is there |
/// | `host:port` | CONNECT | – |
/// | `*` | OPTIONS | – |
///
/// # Errors
/// What is wrong, in words.
pub(super) fn check_target(method: &str, target: &str, host: Option<&[u8]>) -> Result<(), &'static str> {
    const NO_TARGET: &str = "a request target that is none for its method";
    match (method, target.as_bytes()) {
        // RFC 9112 §3.2.3: the port cannot be left out.
        ("CONNECT", bytes) => match port_of(bytes) {
            Some((name, [_, ..])) if !name.is_empty() && is_host(bytes) => Ok(()),
            _ => Err(NO_TARGET),
        },
        (_, [b'/', ..]) => Ok(()),
        ("OPTIONS", b"*") => Ok(()),
        _ => {
            let (scheme, rest) = target.split_once("://").ok_or(NO_TARGET)?;
            let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
            let authority = &rest.as_bytes()[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
            if !is_scheme || authority.is_empty() || !is_host(authority) {
                return Err(NO_TARGET);
            }
            match host {
                Some(host) if !are_same(scheme, authority, host) => {
                    Err("a Host that is not the one in the request target")
                }
                _ => Ok(()),
            }
        }
    }
}

/// Whether a Host field may have this value: a host and perhaps a port, or nothing (RFC 9110 §7.2, RFC 3986 §3.2.2).
pub(super) fn is_host(value: &[u8]) -> bool {
    let (name, port) = port_of(value).unwrap_or((value, b""));
    if !port.iter().all(u8::is_ascii_digit) {
        return false;
    }
    match name {
        [b'[', inner @ .., b']'] => is_ip_literal(inner),
        _ => is_registered_name(name),
    }
}

/// What stands before the last colon outside of brackets, and what stands behind it.
fn port_of(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = value.iter().rposition(|byte| matches!(byte, b':' | b']'))?;
    (value[at] == b':').then(|| (&value[..at], &value[at + 1..]))
}

/// An IPv6 address, perhaps with a zone (RFC 6874), or one of a kind to come (`v1.x`).
fn is_ip_literal(inner: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(inner) else { return false };
    if let Some(future) = text.strip_prefix(['v', 'V']) {
        return future.split_once('.').is_some_and(|(version, address)| {
            !version.is_empty()
                && version.bytes().all(|byte| byte.is_ascii_hexdigit())
                && !address.is_empty()
                && address.bytes().all(|byte| byte == b':' || is_name_byte(byte))
        });
    }
    let (address, zone) = text.split_once("%25").unwrap_or((text, "x"));
    address.parse::<std::net::Ipv6Addr>().is_ok() && !zone.is_empty() && is_registered_name(zone.as_bytes())
}

fn is_registered_name(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        let fits = match byte {
            b'%' => {
                let mut is_hex = || bytes.next().is_some_and(u8::is_ascii_hexdigit);
                is_hex() && is_hex()
            }
            byte => is_name_byte(*byte),
        };
        if !fits {
            return false;
        }
    }
    true
}

/// RFC 3986 §2.2, §2.3: unreserved and sub-delims.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte)
}

/// Whether both name one host: in any case, and with or without the port that the scheme has anyway.
fn are_same(scheme: &str, authority: &[u8], host: &[u8]) -> bool {
    let usual: &[u8] = match scheme.len() {
        4 if scheme.eq_ignore_ascii_case("http") => b"80",
        5 if scheme.eq_ignore_ascii_case("https") => b"443",
        _ => b"",
    };
    let parts = |value| match port_of(value) {
        Some((name, b"")) => (name, usual),
        Some((name, port)) => (name, port),
        None => (value, usual),
    };
    let ((one, one_port), (other, other_port)) = (parts(authority), parts(host));
    one.eq_ignore_ascii_case(other) && one_port == other_port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for value in [
            "",
            "a",
            "a.example",
            "A_b-c.example:80",
            "a:",
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:80",
            "[::ffff:1.2.3.4]",
            "[fe80::1%25eth0]",
            "[v1.a:b]:1",
            "b%C3%BCcher.example",
            "a,b",
            "x!$&'()*+;=~",
        ] {
            assert!(is_host(value.as_bytes()), "{value:?}");
        }
        for value in [
            "a b",
            "a, b",
            "a/b",
            "a?b",
            "a#b",
            "user@a",
            "a:80:80",
            "a:x",
            "a:+80",
            "a:-1",
            "http://a",
            "[::1",
            "::1",
            "[::1]80",
            "[::1]]",
            "[]",
            "[a]",
            "[fe80::1%25]",
            "[fe80::1%eth0]",
            "[v1.]",
            "[v.a]",
            "[1.2.3.4]",
            "a%2",
            "a%zz",
            "a\\b",
            "a\"b",
            "<a>",
            "b\u{fc}cher.example",
            "a[::1]",
            "a\tb",
        ] {
            assert!(!is_host(value.as_bytes()), "{value:?}");
        }
    }

    #[test]
    fn a_target_has_one_of_four_forms_and_says_what_host_says() {
        for (method, target, host, fits) in [
            ("GET", "/", Some("a"), true),
            ("GET", "//b/", Some("a"), true),
            ("GET", "/http://b/", Some("a"), true),
            ("OPTIONS", "*", Some("a"), true),
            ("GET", "*", Some("a"), false),
            ("OPTIONS", "**", Some("a"), false),
            ("GET", "a", Some("a"), false),
            ("GET", "a/b", Some("a"), false),
            ("GET", "?x", Some("a"), false),
            ("GET", "\\", Some("a"), false),
            ("GET", "a:80", Some("a:80"), false),
            ("GET", "http:/a/", Some("a"), false),
            ("GET", "http:///", Some(""), false),
            ("GET", "://a/", Some("a"), false),
            ("GET", "1http://a/", Some("a"), false),
            ("GET", "http://a/", Some("a"), true),
            ("GET", "http://a/", None, true),
            ("GET", "HTTP://A?x", Some("a"), true),
            ("GET", "http://a:80/", Some("a"), true),
            ("GET", "https://a/", Some("a:443"), true),
            ("GET", "https://a/", Some("a:80"), false),
            ("GET", "ws://a/", Some("a:80"), false),
            ("GET", "http://a:/", Some("a:80"), true),
            ("GET", "http://[::1]:8/", Some("[::1]:8"), true),
            ("GET", "http://[::1]/", Some("[::1]"), true),
            ("GET", "http://a/", Some("b"), false),
            ("GET", "http://a/", Some(""), false),
            ("GET", "http://a:8/", Some("a"), false),
            ("GET", "http://a:8/", Some("a:9"), false),
            ("GET", "http://a@b/", Some("b"), false),
            ("GET", "http://a/@b", Some("a"), true),
            ("GET", "http://a#@b", Some("a"), true),
            ("CONNECT", "a:443", Some("a:443"), true),
            // Many clients leave out the port there, and no server looks.
            ("CONNECT", "a:443", Some("a"), true),
            ("CONNECT", "[::1]:443", Some("a"), true),
            ("CONNECT", "a", Some("a"), false),
            ("CONNECT", "a:", Some("a"), false),
            ("CONNECT", ":443", Some("a"), false),
            ("CONNECT", "/", Some("a"), false),
            ("CONNECT", "http://a/", Some("a"), false),
        ] {
            let found = check_target(method, target, host.map(str::as_bytes));
            assert_eq!(found.is_ok(), fits, "{method} {target} for {host:?}: {found:?}");
        }
    }
}
