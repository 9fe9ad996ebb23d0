//! What a request must look like before anything is asked of a service: HTTP/2 for gRPC, a host that is served here,
//! and nothing that a page of another site has sent.
//!
//! A browser on this machine reaches every loopback address, and runs what pages tell it to. It cannot forge `Host`
//! and `Origin`, though, and cannot send `application/grpc` over HTTP/2 in the clear. So three questions keep pages
//! out: is the host one of ours (else a name of theirs was bound to our address, “DNS rebinding”), is the origin ours
//! (RFC 6454), and is it gRPC as RFC 9113 carries it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, Version, header, request};
use axum::response::{IntoResponse, Response};
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::server::ParsedCertificate;
use tonic::Code;

use crate::grpc::refusal::refuse;

/// The names under which a server is asked, beside the addresses that it has.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Given by `--allow-host`, in lower case.
    pub allowed: Arc<[String]>,
    /// The one that it proves itself with: every name in it is one of its own.
    pub certificate: Option<CertificateDer<'static>>,
}

impl Names {
    /// Whether `host`, as a request names it, is this server, which was reached at `local`.
    fn serve(&self, host: &str, local: SocketAddr) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            let address = address.to_canonical();
            let is_ours = address == local.ip().to_canonical()
                // Loopback in either family, and the address that means "here" when it is dialled.
                || (address.is_loopback() || address.is_unspecified()) && local.ip().to_canonical().is_loopback();
            return is_ours || self.is_allowed(bare) || self.is_certified(bare);
        }
        let is_loopback = host == "localhost" && local.ip().to_canonical().is_loopback();
        is_loopback || self.is_allowed(&host) || self.is_certified(&host)
    }

    fn is_allowed(&self, host: &str) -> bool {
        self.allowed.iter().any(|name| name == host)
    }

    fn is_certified(&self, host: &str) -> bool {
        let Some(certificate) = &self.certificate else { return false };
        let (Ok(certificate), Ok(name)) =
            (ParsedCertificate::try_from(certificate), ServerName::try_from(host.to_owned()))
        else {
            return false;
        };
        verify_server_name(&certificate, &name).is_ok()
    }
}

/// How a request came.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Our end of its connection.
    pub local: SocketAddr,
    /// Whether that is under TLS.
    pub is_tls: bool,
}

/// Why a request is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It names no host, or several, or something that is none.
    NoHost,
    /// It is for somebody else.
    Host(String),
    /// A page of this origin has sent it.
    Origin(String),
    /// A page of another site has sent it, which says no more than that.
    CrossSite,
    /// Not a method that is served in this version of HTTP.
    Method(Method),
    /// A call that is not gRPC.
    NotGrpc,
}

impl Refused {
    /// The reason in an `ErrorInfo`, and the label in figures.
    pub fn reason(&self) -> &'static str {
        match self {
            Refused::NoHost => "HOST_MISSING",
            Refused::Host(_) => "HOST_NOT_SERVED",
            Refused::Origin(_) | Refused::CrossSite => "ORIGIN_REFUSED",
            Refused::Method(_) => "METHOD_NOT_SERVED",
            Refused::NotGrpc => "NOT_GRPC",
        }
    }

    fn message(&self) -> String {
        match self {
            Refused::NoHost => {
                "name one host: the Host header or :authority is missing, or there are two".into()
            }
            Refused::Host(host) => format!(
                "this server does not go by the name `{host}`: ask it by its address, or start it with --allow-host {host}"
            ),
            Refused::Origin(origin) => {
                format!("requests of web pages are refused, this one is of the origin `{origin}`")
            }
            Refused::CrossSite => "requests of other sites' web pages are refused".into(),
            Refused::Method(_) => {
                "only GET and HEAD are served so; calls of gRPC are POST over HTTP/2".into()
            }
            Refused::NotGrpc => "calls are gRPC: POST over HTTP/2 with content-type: application/grpc".into(),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Refused::NoHost => StatusCode::BAD_REQUEST,
            // RFC 9110 §15.5.20.
            Refused::Host(_) => StatusCode::MISDIRECTED_REQUEST,
            Refused::Origin(_) | Refused::CrossSite => StatusCode::FORBIDDEN,
            Refused::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Refused::NotGrpc => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }

    /// As gRPC when a call of gRPC was made, as HTTP otherwise.
    pub fn answer(&self, parts: &request::Parts) -> Response {
        let message = self.message();
        if parts.version == Version::HTTP_2 && is_grpc(&parts.headers) {
            let host = if let Refused::Host(host) = self { host.clone() } else { String::new() };
            let metadata = [("host", host)];
            let metadata = if metadata[0].1.is_empty() { &[][..] } else { &metadata[..] };
            return refuse(Code::PermissionDenied, self.reason(), message, metadata).into_http();
        }
        let mut answer = (self.status(), format!("{message}\n")).into_response();
        if matches!(self, Refused::Method(_)) {
            answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        }
        // Whatever else it has sent is not read.
        if parts.version < Version::HTTP_2 {
            answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        answer
    }
}

/// Judges the head of a request.
///
/// # Errors
/// The first reason to refuse it.
pub fn judge(parts: &request::Parts, arrival: Arrival, names: &Names) -> Result<(), Refused> {
    let host = host(parts)?;
    if !names.serve(host.host(), arrival.local) {
        return Err(Refused::Host(host.host().to_owned()));
    }
    check_origin(&parts.headers, &host, arrival)?;
    match (&parts.method, parts.version) {
        (&Method::GET | &Method::HEAD, _) => Ok(()),
        (&Method::POST, Version::HTTP_2) if is_grpc(&parts.headers) => Ok(()),
        (&Method::POST, Version::HTTP_2) => Err(Refused::NotGrpc),
        (method, _) => Err(Refused::Method(method.clone())),
    }
}

/// The one host that a request names; `:authority` (or an absolute target) and `Host` must agree.
fn host(parts: &request::Parts) -> Result<Authority, Refused> {
    let mut named = parts.headers.get_all(header::HOST).iter();
    let from_header = named.next().map(|value| {
        let text = value.to_str().map_err(|_| Refused::NoHost)?;
        text.parse::<Authority>().map_err(|_| Refused::NoHost)
    });
    if named.next().is_some() {
        return Err(Refused::NoHost);
    }
    let host = match (parts.uri.authority().cloned(), from_header.transpose()?) {
        (Some(target), Some(header)) if target != header => return Err(Refused::NoHost),
        (Some(host), _) | (None, Some(host)) => host,
        (None, None) => return Err(Refused::NoHost),
    };
    // Who writes a user's name before it wants to be taken for somebody else.
    if host.as_str().contains('@') || host.host().is_empty() { Err(Refused::NoHost) } else { Ok(host) }
}

/// A browser says `Origin` with everything but plain GETs, and of those it says where they are from (Fetch Metadata).
fn check_origin(headers: &HeaderMap, host: &Authority, arrival: Arrival) -> Result<(), Refused> {
    for origin in headers.get_all(header::ORIGIN) {
        let text = origin.to_str().unwrap_or("?");
        if !is_own(text, host, arrival.is_tls) {
            return Err(Refused::Origin(text.chars().take(200).collect()));
        }
    }
    let is = |name: &str, words: &[&str]| {
        headers.get(name).is_some_and(|value| words.iter().any(|word| value.as_bytes() == word.as_bytes()))
    };
    let is_foreign =
        headers.contains_key("sec-fetch-site") && !is("sec-fetch-site", &["same-origin", "none"]);
    // Somebody may follow a link to the figures: the page that has it learns nothing.
    let is_visit = is("sec-fetch-mode", &["navigate"]) && is("sec-fetch-dest", &["document"]);
    if is_foreign && !is_visit { Err(Refused::CrossSite) } else { Ok(()) }
}

/// Whether an origin is that of the server itself, as the request names it.
fn is_own(origin: &str, host: &Authority, is_tls: bool) -> bool {
    let (scheme, port) = if is_tls { ("https", 443) } else { ("http", 80) };
    let Some((said, authority)) = origin.split_once("://") else { return false };
    let Ok(theirs) = authority.parse::<Authority>() else { return false };
    said == scheme
        && theirs.host().eq_ignore_ascii_case(host.host())
        && theirs.port_u16().unwrap_or(port) == host.port_u16().unwrap_or(port)
        && !authority.contains('@')
}

/// Whether it is a call of gRPC by its content type; gRPC-Web is another protocol.
fn is_grpc(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(kind), None) = (kinds.next(), kinds.next()) else { return false };
    match kind.as_bytes().strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    const LOOPBACK: &str = "127.0.0.1:7401";

    fn names(allowed: &[&str]) -> Names {
        Names { allowed: allowed.iter().map(|name| (*name).to_owned()).collect(), certificate: None }
    }

    fn parts(method: &str, version: Version, target: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().method(method).version(version).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn get(headers: &[(&str, &str)]) -> request::Parts {
        parts("GET", Version::HTTP_11, "/metrics", headers)
    }

    fn arrival(local: &str, is_tls: bool) -> Arrival {
        Arrival { local: local.parse().unwrap(), is_tls }
    }

    #[test]
    fn only_hosts_of_this_server_are_served() {
        for (local, host, served) in [
            (LOOPBACK, "127.0.0.1:7401", true),
            (LOOPBACK, "127.0.0.1", true),
            (LOOPBACK, "127.9.9.9:7401", true),
            (LOOPBACK, "localhost:7401", true),
            (LOOPBACK, "LocalHost.:1", true),
            (LOOPBACK, "[::1]:7401", true),
            (LOOPBACK, "0.0.0.0:7401", true),
            (LOOPBACK, "allowed.example:7401", true),
            (LOOPBACK, "ALLOWED.example", true),
            (LOOPBACK, "evil.example:7401", false),
            (LOOPBACK, "localhost.evil.example:7401", false),
            (LOOPBACK, "127.0.0.1.evil.example", false),
            (LOOPBACK, "10.0.0.5:7401", false),
            (LOOPBACK, "2130706433", false),
            (LOOPBACK, "127.1", false),
            ("10.0.0.5:7401", "10.0.0.5:7401", true),
            ("[::ffff:10.0.0.5]:7401", "10.0.0.5", true),
            ("[2001:db8::5]:7401", "[2001:db8::5]:7401", true),
            ("10.0.0.5:7401", "allowed.example", true),
            ("10.0.0.5:7401", "localhost:7401", false),
            ("10.0.0.5:7401", "10.0.0.6:7401", false),
        ] {
            let judged = judge(&get(&[("host", host)]), arrival(local, false), &names(&["allowed.example"]));
            assert_eq!(judged.is_ok(), served, "{host} at {local}: {judged:?}");
        }
    }

    #[test]
    fn a_name_in_the_certificate_is_a_name_of_the_server() {
        let pair =
            rcgen::generate_simple_self_signed(["*.load.example".to_owned(), "10.0.0.9".into()]).unwrap();
        let names = Names { certificate: Some(pair.cert.der().clone()), ..names(&[]) };
        for (host, served) in [
            ("api.load.example:7401", true),
            ("10.0.0.9", true),
            ("load.example", false),
            ("evil.example", false),
        ] {
            let judged = judge(&get(&[("host", host)]), arrival("10.0.0.5:7401", true), &names);
            assert_eq!(judged.is_ok(), served, "{host}");
        }
    }

    #[test]
    fn a_request_names_one_host() {
        for (version, target, headers) in [
            (Version::HTTP_11, "/", &[][..]),
            (Version::HTTP_11, "/", &[("host", "")]),
            (Version::HTTP_11, "/", &[("host", "127.0.0.1"), ("host", "127.0.0.1")]),
            (Version::HTTP_11, "http://127.0.0.1/", &[("host", "evil.example")]),
            (Version::HTTP_11, "/", &[("host", "a@127.0.0.1:7401")]),
            (Version::HTTP_2, "/", &[]),
            (Version::HTTP_2, "http://127.0.0.1:7401/", &[("host", "evil.example")]),
        ] {
            let judged =
                judge(&parts("GET", version, target, headers), arrival(LOOPBACK, false), &names(&[]));
            assert_eq!(judged, Err(Refused::NoHost), "{target} {headers:?}");
        }
        let absolute = parts("GET", Version::HTTP_11, "http://evil.example/metrics", &[]);
        let judged = judge(&absolute, arrival(LOOPBACK, false), &names(&[]));
        assert_eq!(judged, Err(Refused::Host("evil.example".into())));
    }

    #[test]
    fn an_origin_must_be_the_servers_own() {
        for (is_tls, host, origin, own) in [
            (false, "localhost:7401", "http://localhost:7401", true),
            (true, "127.0.0.1:7401", "https://127.0.0.1:7401", true),
            (false, "localhost", "http://localhost:80", true),
            (false, "localhost:7401", "https://localhost:7401", false),
            (false, "localhost:7401", "http://localhost:3000", false),
            (false, "localhost:7401", "http://127.0.0.1:7401", false),
            (false, "localhost:7401", "http://localhost", false),
            (false, "localhost:7401", "https://evil.example", false),
            (false, "localhost:7401", "null", false),
            (false, "localhost:7401", "", false),
            (false, "localhost:7401", "http://x@localhost:7401", false),
        ] {
            let request = get(&[("host", host), ("origin", origin)]);
            let judged = judge(&request, arrival(LOOPBACK, is_tls), &names(&[]));
            assert_eq!(judged.is_ok(), own, "{origin} at {host}: {judged:?}");
        }
        let two =
            [("host", "localhost:7401"), ("origin", "http://localhost:7401"), ("origin", "http://evil")];
        assert!(judge(&get(&two), arrival(LOOPBACK, false), &names(&[])).is_err());
    }

    #[test]
    fn what_a_page_asks_for_without_an_origin_is_refused_too() {
        for (site, mode, dest, served) in [
            ("none", "navigate", "document", true),
            ("same-origin", "no-cors", "image", true),
            ("cross-site", "navigate", "document", true),
            ("cross-site", "no-cors", "image", false),
            ("cross-site", "no-cors", "script", false),
            ("cross-site", "navigate", "iframe", false),
            ("same-site", "cors", "empty", false),
        ] {
            let headers = [
                ("host", "localhost:7401"),
                ("sec-fetch-site", site),
                ("sec-fetch-mode", mode),
                ("sec-fetch-dest", dest),
            ];
            let judged = judge(&get(&headers), arrival(LOOPBACK, false), &names(&[]));
            assert_eq!(judged.is_ok(), served, "{site} {mode} {dest}");
        }
    }

    #[test]
    fn calls_are_grpc_over_http_2_alone() {
        let grpc = Some("application/grpc");
        for (method, version, kind, expected) in [
            ("POST", Version::HTTP_2, grpc, Ok(())),
            ("POST", Version::HTTP_2, Some("application/grpc+proto"), Ok(())),
            ("POST", Version::HTTP_2, Some("application/grpc;x"), Ok(())),
            ("GET", Version::HTTP_2, None, Ok(())),
            ("HEAD", Version::HTTP_11, None, Ok(())),
            ("GET", Version::HTTP_10, None, Ok(())),
            ("POST", Version::HTTP_2, Some("application/grpc-web"), Err(Refused::NotGrpc)),
            ("POST", Version::HTTP_2, Some("text/plain"), Err(Refused::NotGrpc)),
            ("POST", Version::HTTP_2, None, Err(Refused::NotGrpc)),
            ("POST", Version::HTTP_11, grpc, Err(Refused::Method(Method::POST))),
            ("POST", Version::HTTP_11, Some("text/plain"), Err(Refused::Method(Method::POST))),
            ("POST", Version::HTTP_10, None, Err(Refused::Method(Method::POST))),
            ("PUT", Version::HTTP_2, grpc, Err(Refused::Method(Method::PUT))),
            ("OPTIONS", Version::HTTP_11, None, Err(Refused::Method(Method::OPTIONS))),
        ] {
            let mut headers = vec![];
            headers.extend(kind.map(|kind| ("content-type", kind)));
            let target = if version == Version::HTTP_2 { "http://localhost:7401/a/b" } else { "/a/b" };
            if version < Version::HTTP_2 {
                headers.push(("host", "localhost:7401"));
            }
            let judged =
                judge(&parts(method, version, target, &headers), arrival(LOOPBACK, false), &names(&[]));
            assert_eq!(judged, expected, "{method} {version:?} {kind:?}");
        }
    }
}
