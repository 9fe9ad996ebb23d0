//! Which traffic a rule is about: clients by address range; HTTP requests by method, path and header.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::protocol::http::RequestHead;

/// What must hold for a rule to apply: within a list any may match, all lists must.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Address ranges of clients; empty: all.
    pub clients: Vec<ClientRange>,
    /// HTTP methods, upper case; empty: all.
    pub methods: Vec<String>,
    /// HTTP paths; empty: all.
    pub paths: Vec<PathPattern>,
    /// HTTP headers, all of which must match.
    pub headers: Vec<HeaderMatch>,
}

/// Entries that the match of one rule may have, all its lists together: each request may be compared with every one.
pub const MATCH_ENTRIES_MAX: usize = 128;
/// Bytes that those entries may have together.
pub const MATCH_BYTES_MAX: usize = 16 * 1024;

impl Match {
    /// How many entries its lists have, and how many bytes these have.
    pub fn size(&self) -> (usize, usize) {
        let Match { clients, methods, paths, headers } = self;
        let entries = clients.len() + methods.len() + paths.len() + headers.len();
        let header = |header: &HeaderMatch| header.name.len() + header.value.as_ref().map_or(0, String::len);
        let bytes = size_of_val(clients.as_slice())
            + methods.iter().map(String::len).sum::<usize>()
            + paths.iter().map(|path| path.text.len()).sum::<usize>()
            + headers.iter().map(header).sum::<usize>();
        (entries, bytes)
    }

    /// Whether a request must be seen to know.
    pub fn needs_request(&self) -> bool {
        !(self.methods.is_empty() && self.paths.is_empty() && self.headers.is_empty())
    }

    /// Whether connections of this client are meant.
    pub fn matches_client(&self, client: IpAddr) -> bool {
        self.clients.is_empty() || self.clients.iter().any(|range| range.contains(client))
    }

    /// Whether this request is meant; the client is not looked at.
    pub fn matches_request(&self, request: &RequestHead<'_>) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|method| method == request.method()))
            && (self.paths.is_empty() || self.paths.iter().any(|path| path.matches(request.path())))
            && self.headers.iter().all(|header| header.matches(request))
    }
}

/// A range of addresses in CIDR notation (RFC 4632, RFC 4291); an address alone is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientRange {
    base: u128,
    mask: u128,
    v4: bool,
}

impl ClientRange {
    /// Whether `client` lies in the range; an IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, client: IpAddr) -> bool {
        let (bits, v4) = address_bits(client);
        v4 == self.v4 && bits & self.mask == self.base
    }

    /// Whether every address of it lies in `other`.
    pub fn is_within(&self, other: &ClientRange) -> bool {
        self.v4 == other.v4 && self.mask | other.mask == self.mask && self.base & other.mask == other.base
    }
}

impl FromStr for ClientRange {
    type Err = String;
    fn from_str(text: &str) -> Result<ClientRange, String> {
        let wrong = || format!("`{text}` is not an address range; write 10.0.0.0/8 or 2001:db8::/32");
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let (bits, v4) = address_bits(address.trim().parse().map_err(|_| wrong())?);
        let width = if v4 { 32 } else { 128 };
        let length = length.unwrap_or(width);
        if length > width {
            return Err(wrong());
        }
        let host_bits = width - length;
        let mask = if host_bits == 128 { 0 } else { u128::MAX << host_bits };
        Ok(ClientRange { base: bits & mask, mask, v4 })
    }
}

impl fmt::Display for ClientRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.mask.count_ones();
        if self.v4 {
            let base = Ipv4Addr::from_bits(self.base as u32);
            // The mask of a range of IPv4 is as wide as one of IPv6, all upper bits set.
            write!(formatter, "{base}/{}", length - 96)
        } else {
            write!(formatter, "{}/{length}", Ipv6Addr::from_bits(self.base))
        }
    }
}

fn address_bits(address: IpAddr) -> (u128, bool) {
    match address.to_canonical() {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), true),
        IpAddr::V6(v6) => (v6.to_bits(), false),
    }
}

/// A pattern for the path of a request target, without its query, as sent (not percent-decoded).
///
/// `*` stands for any run of characters, `?` for one; without either the path must be equal. So `/api/*` is
/// a prefix, `/users/*/cart` a glob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    shape: Shape,
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The whole path.
    Exact,
    /// The beginning of the path.
    Prefix,
    /// With `*` for any run of characters and `?` for one.
    Glob,
}

impl PathPattern {
    /// Whether the pattern covers `path`.
    pub fn matches(&self, path: &str) -> bool {
        match self.shape {
            Shape::Exact => path == self.text,
            Shape::Prefix => path.starts_with(&self.text),
            Shape::Glob => glob(self.text.as_bytes(), path.as_bytes()),
        }
    }

    /// The pattern that exactly `path` meets, whatever characters it has.
    ///
    /// # Errors
    /// When no path can be so.
    pub fn exact(path: impl Into<String>) -> Result<PathPattern, String> {
        let text = path.into();
        if text == "*" || text.starts_with('/') {
            return Ok(PathPattern { text, shape: Shape::Exact });
        }
        Err(format!("path `{text}` matches nothing; begin it with /"))
    }

    /// The pattern that every path meets that begins with `beginning`, whatever characters it has.
    ///
    /// # Errors
    /// When no path can begin so.
    pub fn prefix(beginning: impl Into<String>) -> Result<PathPattern, String> {
        let text = beginning.into();
        if text.starts_with('/') {
            return Ok(PathPattern { text, shape: Shape::Prefix });
        }
        Err(format!("path `{text}` matches nothing; begin it with /"))
    }

    /// Which kind of pattern it is.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The path, its beginning or the pattern, by its [`Shape`].
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl FromStr for PathPattern {
    type Err = String;
    fn from_str(text: &str) -> Result<PathPattern, String> {
        if !text.starts_with(['/', '*']) {
            return Err(format!("path `{text}` matches nothing; begin it with / or *"));
        }
        let (text, shape) = match (text.find(['*', '?']), text.strip_suffix('*')) {
            (None, _) => (text, Shape::Exact),
            (Some(at), Some(beginning)) if at > 0 && at == beginning.len() => (beginning, Shape::Prefix),
            (Some(_), _) => (text, Shape::Glob),
        };
        Ok(PathPattern { text: text.to_owned(), shape })
    }
}

/// Matches in O(pattern × text) at worst and without recursion: on a mismatch, the last `*` takes one more.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == b'?' || pattern[p] == text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            star = Some((star_p, star_t + 1));
            p = star_p + 1;
            t = star_t + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// A header that must be there, with a value or with any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Field name, any case.
    pub name: String,
    /// The exact value of one field line; `None`: present is enough.
    pub value: Option<String>,
}

impl HeaderMatch {
    fn matches(&self, request: &RequestHead<'_>) -> bool {
        request.headers().any(|(name, value)| {
            name.eq_ignore_ascii_case(&self.name)
                && self.value.as_ref().is_none_or(|wanted| value == wanted.as_bytes())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_ranges_hold_what_they_say() {
        for (range, client, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("10.1.2.3/8", "10.9.9.9", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "10.0.0.1", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
        ] {
            let parsed: ClientRange = range.parse().unwrap();
            assert_eq!(parsed.contains(client.parse().unwrap()), expected, "{range} {client}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed), "{range} is written so that it reads back");
        }
        for wrong in ["10.0.0.0/33", "::/129", "10.0.0/8", "localhost", "", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(wrong.parse::<ClientRange>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn paths_match_exactly_by_prefix_or_by_glob() {
        for (pattern, path, expected) in [
            ("/api", "/api", true),
            ("/api", "/api/", false),
            ("/api/*", "/api/users", true),
            ("/api/*", "/api", false),
            ("/users/*/cart", "/users/7/cart", true),
            ("/users/*/cart", "/users/7/8/cart", true),
            ("/users/*/cart", "/users/7/cart/x", false),
            ("*.css", "/static/a.css", true),
            ("/v?/x", "/v2/x", true),
            ("/v?/x", "/v22/x", false),
            ("*", "/anything", true),
            ("/*a*b*", "/xxaxxbxx", true),
            ("/*a*b*", "/xxbxxaxx", false),
        ] {
            let parsed: PathPattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(path), expected, "{pattern} {path}");
        }
        assert!("api".parse::<PathPattern>().is_err());
        let (exact, prefix) = (PathPattern::exact("/a*b").unwrap(), PathPattern::prefix("/a*").unwrap());
        assert!(exact.matches("/a*b") && !exact.matches("/axb"), "a star is only a star here");
        assert!(prefix.matches("/a*/x") && !prefix.matches("/ab"));
        assert!(PathPattern::exact("api").is_err() && PathPattern::prefix("").is_err());
    }

    #[test]
    fn every_list_counts_into_the_size() {
        let size = |matcher: Match| matcher.size();
        assert_eq!(size(Match::default()), (0, 0));
        assert_eq!(size(Match { clients: vec!["10.0.0.0/8".parse().unwrap()], ..Match::default() }).0, 1);
        assert_eq!(size(Match { methods: vec!["GET".into(), "PUT".into()], ..Match::default() }), (2, 6));
        assert_eq!(size(Match { paths: vec!["/a/*/b".parse().unwrap()], ..Match::default() }), (1, 6));
        let header =
            |value: Option<&str>| HeaderMatch { name: "x-a".into(), value: value.map(str::to_owned) };
        assert_eq!(
            size(Match { headers: vec![header(None), header(Some("12"))], ..Match::default() }),
            (2, 8)
        );
    }

    #[test]
    fn a_hostile_glob_stays_cheap() {
        let pattern: PathPattern = format!("/{}b", "a*".repeat(200)).parse().unwrap();
        assert!(!pattern.matches(&format!("/{}", "a".repeat(20_000))));
    }
}
