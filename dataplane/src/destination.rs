//! Where traffic may be led: by default everywhere but to link-local addresses, to those at which clouds hand out
//! credentials, and to those that are not one machine's.
//!
//! An IPv6 address may be another way to write an IPv4 one, or lead to it by a translator or a tunnel: it is refused where
//! that is. A pattern allows the one as it allows the other.
//!
//! It is asked with addresses, after a name was looked up, and again whenever it is looked up again: a name may lead
//! anywhere. Pure; who looks up asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::behavior::ClientRange;

/// Never led to, unless a range that lies within one of these is allowed: link-local addresses (RFC 3927, RFC 4291
/// §2.5.6), among them the metadata services of EC2, Azure, GCP and OpenStack; those of Alibaba Cloud and of Oracle
/// Cloud; Azure's host; EC2, EKS and GCP over IPv6.
const DENIED: [&str; 8] = [
    "169.254.0.0/16",
    "fe80::/10",
    "100.100.100.200/32",
    "192.0.0.192/32",
    "168.63.129.16/32",
    "fd00:ec2::254/128",
    "fd00:ec2::23/128",
    "fd20:ce::254/128",
];
/// Patterns that one policy may have.
const PATTERNS_MAX: usize = 1_000;

/// What one pattern of a policy allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Addresses.
    Range(ClientRange),
    /// A host by its name, in lower case.
    Host(String),
    /// Every host whose name ends so: `.example.org`.
    Within(String),
}

impl FromStr for Pattern {
    type Err = String;
    fn from_str(text: &str) -> Result<Pattern, String> {
        let wrong = || format!("`{text}` is no destination; write 10.0.0.0/8, db.example or *.example");
        if let Ok(range) = text.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(Pattern::Range(range));
        }
        let (name, is_suffix) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let name = canonical(name);
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        // What ends in a number is an address that was mistyped.
        let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
        if name.is_empty()
            || name.len() > 253
            || !name.chars().all(fits)
            || name.split('.').next_back().is_some_and(is_number)
        {
            return Err(wrong());
        }
        Ok(if is_suffix { Pattern::Within(format!(".{name}")) } else { Pattern::Host(name) })
    }
}

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations {
    /// Nothing in it: everything that is not denied.
    allowed: Vec<Pattern>,
}

/// Why a destination is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Credentials are handed out there, or it means another machine on each link.
    #[error("{0} is a link-local or a cloud's metadata address, to which no traffic is led")]
    Denied(IpAddr),
    /// It means many machines, and TCP leads to one (RFC 9293 §3.9.2.3).
    #[error("{0} is a multicast or broadcast address, to which no connection leads")]
    Nowhere(IpAddr),
    /// Others are allowed.
    #[error("{0} is not among the destinations that are allowed")]
    NotAllowed(IpAddr),
}

impl Destinations {
    /// Only what one of `allowed` allows; nothing in it allows everything that is not denied.
    ///
    /// # Errors
    /// When there are too many.
    pub fn new(allowed: Vec<Pattern>) -> Result<Destinations, String> {
        if allowed.len() > PATTERNS_MAX {
            return Err(format!("{} destinations are too many; give at most {PATTERNS_MAX}", allowed.len()));
        }
        Ok(Destinations { allowed })
    }

    /// Checks what `host` was looked up to; every address must pass, because any of them may be dialled.
    ///
    /// # Errors
    /// For the first address that does not.
    pub fn check(&self, host: &str, addresses: &[SocketAddr]) -> Result<(), Refused> {
        let host = canonical(host);
        let by_name = self.allowed.iter().any(|pattern| match pattern {
            Pattern::Range(_) => false,
            Pattern::Host(name) => *name == host,
            Pattern::Within(suffix) => host.ends_with(suffix.as_str()),
        });
        addresses.iter().try_for_each(|address| self.check_address(address.ip(), by_name))
    }

    fn check_address(&self, address: IpAddr, by_name: bool) -> Result<(), Refused> {
        let meant = reached(address);
        if is_of_many(meant) {
            return Err(Refused::Nowhere(address));
        }
        let ranges = || {
            self.allowed.iter().filter_map(|pattern| match pattern {
                Pattern::Range(range) if range.contains(address) || range.contains(meant) => Some(range),
                _ => None,
            })
        };
        let ways = [address, meant].into_iter().chain(hidden(address));
        let ways: Vec<IpAddr> = ways.collect();
        let denied = denied().into_iter().find(|range| ways.iter().any(|way| range.contains(*way)));
        match denied {
            // Allowed with all the world is not meant so; allowed by itself is.
            Some(denied) => {
                let itself = |range: &ClientRange| address.to_string().parse() == Ok(*range);
                let meant = ranges().any(|range| range.is_within(&denied) || itself(range));
                if meant { Ok(()) } else { Err(Refused::Denied(address)) }
            }
            None if self.allowed.is_empty() || by_name || ranges().next().is_some() => Ok(()),
            None => Err(Refused::NotAllowed(address)),
        }
    }
}

fn denied() -> [ClientRange; DENIED.len()] {
    DENIED.map(|text| text.parse().expect("ranges as above"))
}

/// The address at which a connection arrives: the IPv4 one that an IPv6 one stands for, and loopback for the unspecified one,
/// which Linux connects to itself.
fn reached(address: IpAddr) -> IpAddr {
    match embedded(address).unwrap_or(address) {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

fn is_of_many(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// The IPv4 address that is reached by an IPv6 one: mapped or compatible (RFC 4291 §2.5.5), translated (RFC 2765 §2.1),
/// through NAT64 with the well-known prefix (RFC 6052 §2.1) or the shortest local one (RFC 8215), or through 6to4 (RFC 3056
/// §2).
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = address else { return None };
    let bits = match v6.segments() {
        // `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => return None,
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => v6.to_bits(),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => v6.to_bits(),
        [0x2002, ..] => v6.to_bits() >> 80,
        _ => return None,
    };
    Some(IpAddr::V4(Ipv4Addr::from_bits(bits as u32)))
}

/// The IPv4 addresses to which an IPv6 one leads where some machine on the way makes it so, which cannot be seen from here:
///
/// - through NAT64 with a prefix of the network's own, of 32, 40, 48, 56, 64 or 96 bits (RFC 6052 §2.2). The IPv4 address
///   follows the prefix, around the bits 64 to 71, which are zero; what comes after it is ignored by translators.
/// - through Teredo, to the server or to the client, whose bits are inverted (RFC 4380 §4).
/// - through ISATAP, in the lower half after `0:5efe` or `200:5efe` (RFC 5214 §6.1).
fn hidden(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let v6 = if let IpAddr::V6(v6) = address { Some(v6) } else { None };
    v6.into_iter().flat_map(|v6| {
        let (bits, segments) = (v6.to_bits(), v6.segments());
        let mut ways = Vec::new();
        if bits >> 56 & 0xff == 0 {
            // Without the eight bits that are zero, the address stands in one piece.
            let joined = bits >> 64 << 56 | bits & ((1 << 56) - 1);
            ways.extend([32, 40, 48, 56, 64].map(|prefix| (joined >> (88 - prefix)) as u32));
            ways.push(bits as u32);
        }
        if let [0x2001, 0, ..] = segments {
            ways.extend([(bits >> 64) as u32, !(bits as u32)]);
        }
        if let [_, _, _, _, 0 | 0x200, 0x5efe, ..] = segments {
            ways.push(bits as u32);
        }
        ways.into_iter().map(|way| IpAddr::V4(Ipv4Addr::from_bits(way)))
    })
}

/// A name as it is compared.
fn canonical(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(patterns: &[&str]) -> Destinations {
        Destinations::new(patterns.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
    }

    fn passes(policy: &Destinations, host: &str, addresses: &[&str]) -> bool {
        let addresses: Vec<SocketAddr> =
            addresses.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 80)).collect();
        policy.check(host, &addresses).is_ok()
    }

    #[test]
    fn link_local_and_metadata_addresses_are_refused_however_they_are_written() {
        for (address, allowed) in [
            ("169.254.169.254", false),
            ("169.254.1.1", false),
            ("::ffff:169.254.169.254", false),
            ("64:ff9b::169.254.169.254", false),
            ("64:ff9b:1::169.254.169.254", false),
            ("64:ff9b:1:2::169.254.169.254", false),
            ("::169.254.169.254", false),
            ("::ffff:0:169.254.169.254", false),
            ("2002:a9fe:a9fe::1", false),
            ("2002:a9ff::1", true),
            // NAT64 with prefixes of a network's own: 96, 64, 56, 48, 40 and 32 bits.
            ("64:ff9b:2::169.254.169.254", false),
            ("2001:db8:122:344::192.0.2.33", true),
            ("2001:db8:122:344::169.254.169.254", false),
            ("2001:db8:122:344:a9:fea9:fe00:0", false),
            ("2001:db8:122:344:a9:fea9:fe12:3456", false),
            ("2001:db8:122:3a9:fe:a9fe::", false),
            ("2001:db8:122:a9fe:a9:fe00::", false),
            ("2001:db8:1a9:fea9:fe::", false),
            ("2001:db8:a9fe:a9fe::", false),
            ("2001:db8:a9fe:a9fe::7", false),
            ("2001:db8:6464:64c8::", false),
            // Bits 64 to 71 are zero in all of them.
            ("2001:db8:a9fe:a9fe:100::", true),
            ("2001:db8:122:344:1234:5678:a9fe:a9fe", true),
            // Teredo: by the server, by the client, and neither.
            ("2001:0:a9fe:a9fe::", false),
            ("2001:0:102:304:8000:1234:5601:5601", false),
            ("2001:0:102:304:8000:1234:f5ff:fffe", true),
            // ISATAP.
            ("2001:db8::5efe:169.254.169.254", false),
            ("2001:db8::200:5efe:169.254.1.1", false),
            ("2001:db8::200:5efe:10.0.0.1", true),
            ("2002:6464:64c8::", false),
            ("2002:a00:1::1", true),
            // This machine, as 127.0.0.1 is.
            ("0.0.0.0", true),
            ("::", true),
            ("::ffff:0.0.0.0", true),
            // Nobody.
            ("255.255.255.255", false),
            ("224.0.0.1", false),
            ("239.255.255.250", false),
            ("ff02::1", false),
            ("::ffff:224.0.0.1", false),
            ("::ffff:255.255.255.255", false),
            ("64:ff9b::239.1.1.1", false),
            ("2002:e000:1::", false),
            ("fe80::1", false),
            ("febf::1", false),
            ("fd00:ec2::254", false),
            ("100.100.100.200", false),
            ("168.63.129.16", false),
            ("169.253.1.1", true),
            ("100.100.100.201", true),
            ("127.0.0.1", true),
            ("::1", true),
            ("10.0.0.1", true),
            ("fec0::1", true),
            ("64:ff9b::10.0.0.1", true),
        ] {
            assert_eq!(passes(&Destinations::default(), "x", &[address]), allowed, "{address}");
        }
        assert!(
            !passes(&Destinations::default(), "x", &["10.0.0.1", "169.254.169.254"]),
            "any may be dialled"
        );
    }

    #[test]
    fn a_list_allows_only_what_is_in_it() {
        let list = policy(&["10.0.0.0/8", "2001:db8::/32", "db.example", "*.svc.example"]);
        for (host, address, allowed) in [
            ("10.1.2.3", "10.1.2.3", true),
            ("anything", "10.1.2.3", true),
            ("anything", "::ffff:10.1.2.3", true),
            ("x", "2001:db8::1", true),
            ("x", "192.168.0.1", false),
            ("x", "127.0.0.1", false),
            ("db.example", "192.168.0.1", true),
            ("DB.example.", "192.168.0.1", true),
            ("a.db.example", "192.168.0.1", false),
            ("a.svc.example", "192.168.0.1", true),
            ("a.b.svc.example", "192.168.0.1", true),
            ("svc.example", "192.168.0.1", false),
            ("evilsvc.example", "192.168.0.1", false),
            // They are this machine.
            ("x", "0.0.0.0", false),
            ("x", "::", false),
            // A name that is allowed may be looked up to anything.
            ("db.example", "169.254.169.254", false),
        ] {
            assert_eq!(passes(&list, host, &[address]), allowed, "{host} {address}");
        }
    }

    #[test]
    fn what_is_denied_is_allowed_only_by_itself() {
        for (pattern, allowed) in [
            ("169.254.169.254", true),
            ("169.254.0.0/16", true),
            ("0.0.0.0/0", false),
            ("169.0.0.0/8", false),
            ("169.254.169.253", false),
        ] {
            assert_eq!(passes(&policy(&[pattern]), "x", &["169.254.169.254"]), allowed, "{pattern}");
        }
        for (pattern, address, allowed) in [
            ("::/0", "2001:db8:a9fe:a9fe::", false),
            ("2001:db8:a9fe:a9fe::/96", "2001:db8:a9fe:a9fe::", false),
            ("2001:db8:a9fe:a9fe::", "2001:db8:a9fe:a9fe::", true),
            ("127.0.0.0/8", "0.0.0.0", true),
            ("::1", "::", true),
            ("10.0.0.0/8", "0.0.0.0", false),
            // Nobody is reached, whatever is allowed.
            ("224.0.0.0/4", "224.0.0.1", false),
            ("0.0.0.0/0", "255.255.255.255", false),
        ] {
            assert_eq!(passes(&policy(&[pattern]), "x", &[address]), allowed, "{pattern} {address}");
        }
    }

    #[test]
    fn a_pattern_that_is_none_is_refused() {
        for text in ["", "*", "*.", "10.0.0.0/33", "10.0.0", "10.0.0.300", "a b", "http://x", "x:80"] {
            let error = text.parse::<Pattern>().unwrap_err();
            assert!(error.contains("is no destination; write"), "{error}");
        }
        assert!("[2001:db8::1]".parse::<Pattern>().is_ok());
        let many = vec![Pattern::Host("x".into()); PATTERNS_MAX + 1];
        assert!(Destinations::new(many).is_err());
    }
}
