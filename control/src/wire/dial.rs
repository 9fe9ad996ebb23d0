//! Reaches a server: one way for every client, and one clear line for each way in which it can fail.
//!
//! ```text
//! TCP ─▶ TLS, if asked ─▶ HTTP/2 ─▶ a greeting (Health.Check, without the token) ─▶ calls, each with the token
//! ```
//!
//! The greeting is there because HTTP/2 in the clear hears of a server that speaks something else only at the first
//! call; and so that no token is said before somebody answers.

use std::error::Error;
use std::io;
use std::time::Duration;

use axum::http::uri::Authority;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, CertificateError};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use super::stream::Stream;
use super::token::{Bearer, Token};

/// How long each step to the first call may take: connect, handshake, greeting.
const DIAL_WITHIN: Duration = Duration::from_secs(5);
/// The first byte of a TLS alert (RFC 8446 §5.1): what a server under TLS answers to anything else.
pub const TLS_ALERT: u8 = 21;

/// A connection to a server, made anew when it breaks; it shows the token with every call.
pub type Caller = InterceptedService<Channel, Bearer>;

/// How servers are reached; by default in the clear and without a token.
#[derive(Clone, Default)]
pub struct Access {
    /// Speak TLS, and trust what it trusts.
    pub tls: Option<TlsConnector>,
    /// The name that the certificate must have, when it is not the address's.
    pub domain: Option<String>,
    /// What to show.
    pub token: Option<Token>,
    /// Show the token to other machines without TLS.
    pub insecure: bool,
}

/// Whom to dial, and how.
#[derive(Clone)]
pub struct Dial {
    /// `HOST:PORT`.
    pub address: String,
    /// How.
    pub access: Access,
}

/// Why a server cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Not an address.
    #[error("`{0}` is not HOST:PORT")]
    Address(String),
    /// No TCP connection.
    #[error("nobody answers at {address}: {reason}")]
    NoAnswer {
        /// Whom.
        address: String,
        /// Why.
        reason: String,
    },
    /// Somebody answers, but not as we do.
    #[error("what answers at {address} is no server of fracas: {reason}")]
    Stranger {
        /// Whom.
        address: String,
        /// Why.
        reason: String,
    },
    /// It answers to other names.
    #[error("{address}: {reason}")]
    OtherName {
        /// Whom.
        address: String,
        /// What it said.
        reason: String,
    },
    /// It wants TLS.
    #[error(
        "the server at {0} speaks TLS: say --tls-ca FILE with its CA, or --tls if a public CA has signed its certificate"
    )]
    WantsTls(String),
    /// It has none.
    #[error(
        "the server at {0} does not speak TLS: leave the --tls flags away, or start it with --tls-cert and --tls-key"
    )]
    HasNoTls(String),
    /// Signed by nobody whom we know.
    #[error(
        "the certificate of {0} is from a CA that is not trusted here: say --tls-ca FILE with the CA that has signed it"
    )]
    NotTrusted(String),
    /// A CA's own certificate, used as a server's.
    #[error(
        "the certificate of {0} is that of a CA, not of a server: give the server one with basicConstraints=CA:FALSE"
    )]
    IsCa(String),
    /// A certificate of somebody else.
    #[error(
        "the certificate of {address} is for {names}, not for {expected}: dial it by such a name, or say --tls-domain NAME"
    )]
    WrongName {
        /// Whom.
        address: String,
        /// Whom the certificate would have to name.
        expected: String,
        /// Whom it names.
        names: String,
    },
    /// Too old or too new.
    #[error("the certificate of {address} cannot be used now: {reason}")]
    NotNow {
        /// Whom.
        address: String,
        /// Why.
        reason: String,
    },
    /// Not a name that a certificate can have.
    #[error("--tls-domain: `{0}` is no name of a host")]
    Domain(String),
    /// Anything else about TLS.
    #[error("no TLS with {address}: {reason}")]
    Tls {
        /// Whom.
        address: String,
        /// Why.
        reason: String,
    },
    /// Everybody on the way could read it.
    #[error(
        "the token would be readable on the way to {0}: say --tls or --tls-ca FILE, or --insecure if that is wanted"
    )]
    TokenInTheClear(String),
}

impl DialError {
    /// Whether dialling again can help before somebody changes something.
    pub fn may_pass(&self) -> bool {
        matches!(self, DialError::NoAnswer { .. } | DialError::Stranger { .. } | DialError::Tls { .. })
    }
}

impl Dial {
    /// Somebody in this process or on this machine, who asks for nothing.
    pub fn in_the_clear(address: impl Into<String>) -> Dial {
        Dial { address: address.into(), access: Access::default() }
    }

    /// Dials, and greets.
    ///
    /// # Errors
    /// One line that says what to do.
    pub async fn connect(&self) -> Result<Caller, DialError> {
        let wrong = || DialError::Address(self.address.clone());
        let authority: Authority = self.address.parse().map_err(|_| wrong())?;
        if authority.port_u16().is_none() || self.address.contains('@') {
            return Err(wrong());
        }
        // The scheme is only said in the calls: the connector below decides about TLS.
        let scheme = if self.access.tls.is_some() { "https" } else { "http" };
        let origin = format!("{scheme}://{authority}").parse().map_err(|_| wrong())?;
        let endpoint =
            Endpoint::from_shared(format!("http://{authority}")).map_err(|_| wrong())?.origin(origin);
        let dial = self.clone();
        let connector = tower::service_fn(move |_| {
            let (dial, host) = (dial.clone(), authority.host().to_owned());
            async move { dial.open(&host).await.map(TokioIo::new) }
        });
        let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
            let ours = chain(&error).find_map(|error| error.downcast_ref::<DialError>());
            ours.cloned().unwrap_or_else(|| {
                self.stranger(&chain(&error).last().map_or_else(String::new, ToString::to_string))
            })
        })?;
        self.greet(channel.clone()).await?;
        Ok(InterceptedService::new(channel, Bearer::new(self.access.token.as_ref())))
    }

    /// Opens one connection.
    async fn open(&self, host: &str) -> Result<Stream, DialError> {
        let late = format!("not within {} s", DIAL_WITHIN.as_secs());
        let tcp = tokio::time::timeout(DIAL_WITHIN, TcpStream::connect(&self.address)).await;
        let tcp = tcp.map_err(|_| self.no_answer(&late))?.map_err(|why| self.no_answer(&why))?;
        let peer = tcp.peer_addr().map_err(|why| self.no_answer(&why))?;
        // A socket that cannot be told so works as well, a little slower.
        let _ = tcp.set_nodelay(true);
        let Some(tls) = &self.access.tls else {
            let stays_here = peer.ip().to_canonical().is_loopback();
            return match self.access.token.is_some() && !self.access.insecure && !stays_here {
                true => Err(DialError::TokenInTheClear(self.address.clone())),
                false => Ok(Stream::Clear(tcp)),
            };
        };
        // An IPv6 address stands in brackets in an address, and without them in a certificate.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = self.access.domain.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| DialError::Domain(name.to_owned()))?;
        match tokio::time::timeout(DIAL_WITHIN, tls.connect(name, tcp)).await {
            Ok(Ok(session)) => Ok(Stream::Tls(Box::new(session.into()))),
            Ok(Err(why)) => Err(self.no_tls(&why)),
            Err(_) => Err(DialError::Tls {
                address: self.address.clone(),
                reason: format!("no answer to the handshake within {} s", DIAL_WITHIN.as_secs()),
            }),
        }
    }

    /// Asks whether the server is well, which every server of ours answers to everybody.
    async fn greet(&self, channel: Channel) -> Result<(), DialError> {
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        request.set_timeout(DIAL_WITHIN);
        let Err(status) = HealthClient::new(channel).check(request).await else { return Ok(()) };
        let info = status.get_error_details().error_info().map(|info| info.reason.clone());
        if info.as_deref() == Some("HOST_NOT_SERVED") {
            let reason = status.message().to_owned();
            return Err(DialError::OtherName { address: self.address.clone(), reason });
        }
        if self.access.tls.is_none() && self.speaks_tls().await {
            return Err(DialError::WantsTls(self.address.clone()));
        }
        let reason = if status.message().is_empty() { status.code().description() } else { status.message() };
        Err(self.stranger(reason))
    }

    /// Whether the server answers to the opening of HTTP/2 with an alert of TLS.
    async fn speaks_tls(&self) -> bool {
        let asked = tokio::time::timeout(DIAL_WITHIN, async {
            let mut tcp = TcpStream::connect(&self.address).await?;
            tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
            tcp.read_u8().await
        });
        matches!(asked.await, Ok(Ok(TLS_ALERT)))
    }

    fn no_answer(&self, reason: &impl ToString) -> DialError {
        DialError::NoAnswer { address: self.address.clone(), reason: reason.to_string() }
    }

    fn stranger(&self, reason: &str) -> DialError {
        DialError::Stranger { address: self.address.clone(), reason: reason.to_owned() }
    }

    /// What a failed handshake means.
    fn no_tls(&self, why: &io::Error) -> DialError {
        let address = self.address.clone();
        let Some(error) = why.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            let reason = match why.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                    "it was closed in the handshake; does this server speak TLS?".to_owned()
                }
                _ => why.to_string(),
            };
            return DialError::Tls { address, reason };
        };
        match error {
            rustls::Error::InvalidMessage(_) => DialError::HasNoTls(address),
            rustls::Error::InvalidCertificate(certificate) => match certificate {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    DialError::NotTrusted(address)
                }
                CertificateError::NotValidForNameContext { expected, presented } => DialError::WrongName {
                    address,
                    expected: expected.to_str().into_owned(),
                    names: if presented.is_empty() { "nobody".to_owned() } else { names(presented) },
                },
                CertificateError::ExpiredContext { .. } | CertificateError::NotValidYetContext { .. } => {
                    DialError::NotNow { address, reason: certificate.to_string() }
                }
                // rustls keeps the error of its verifier only as text.
                CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
                    DialError::IsCa(address)
                }
                _ => DialError::Tls { address, reason: certificate.to_string() },
            },
            _ => DialError::Tls { address, reason: error.to_string() },
        }
    }
}

/// `DnsName("a.example")`, as the verifier writes it → `a.example`.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, rest)| rest.trim_end_matches(')'));
        inner.trim_matches('"').to_owned()
    };
    presented.iter().map(bare).collect::<Vec<_>>().join(", ")
}

/// An error and its causes, the deepest last.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_host_and_port_are_an_address() {
        for address in
            ["", "localhost", "127.0.0.1", "http://127.0.0.1:1", "a@127.0.0.1:1", "127.0.0.1:1/x", "::1"]
        {
            let error = Dial::in_the_clear(address).connect().await.err();
            assert_eq!(error, Some(DialError::Address(address.to_owned())), "{address}");
        }
    }

    /// Somebody who reads a little, says `answer` to everybody, and hangs up.
    async fn somebody_who_says(answer: &'static [u8]) -> String {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                let _ = tcp.read(&mut [0; 4096]).await;
                let _ = tcp.write_all(answer).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn somebody_else_behind_the_address_is_told_from_nobody() {
        let files = tempfile::tempdir().unwrap();
        let ca = files.path().join("ca.pem");
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&ca, pair.cert.pem()).unwrap();
        let trust = crate::wire::tls::connector(Some(&ca)).unwrap();
        let under_tls = |address: &str| {
            let access = Access { tls: Some(trust.clone()), ..Access::default() };
            Dial { address: address.to_owned(), access }
        };
        let web = somebody_who_says(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let error = Dial::in_the_clear(&web).connect().await.err().unwrap();
        assert!(matches!(error, DialError::Stranger { .. }), "{error:?}");
        let error = under_tls(&web).connect().await.err();
        assert_eq!(error, Some(DialError::HasNoTls(web)));

        let alert = somebody_who_says(&[TLS_ALERT, 3, 3, 0, 2, 2, 50]).await;
        let error = Dial::in_the_clear(&alert).connect().await.err();
        assert_eq!(error, Some(DialError::WantsTls(alert)));

        let silent = somebody_who_says(b"").await;
        let error = Dial::in_the_clear(&silent).connect().await.err().unwrap();
        assert!(matches!(error, DialError::Stranger { .. }), "{error:?}");
        let error = under_tls(&silent).connect().await.err().unwrap();
        assert!(
            error.to_string().ends_with("it was closed in the handshake; does this server speak TLS?"),
            "{error}"
        );

        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let nobody = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = under_tls(&nobody).connect().await.err().unwrap();
        assert!(matches!(error, DialError::NoAnswer { .. }), "{error:?}");
    }

    #[test]
    fn the_names_in_a_certificate_are_said_as_people_write_them() {
        let presented = ["DnsName(\"a.example\")", "IpAddress(10.0.0.5)", "odd"].map(str::to_owned);
        assert_eq!(names(&presented), "a.example, 10.0.0.5, odd");
    }

    #[test]
    fn only_what_may_pass_by_itself_is_tried_again() {
        let address = || "a:1".to_owned();
        assert!(DialError::NoAnswer { address: address(), reason: String::new() }.may_pass());
        for lasting in [
            DialError::NotTrusted(address()),
            DialError::WantsTls(address()),
            DialError::HasNoTls(address()),
            DialError::TokenInTheClear(address()),
        ] {
            assert!(!lasting.may_pass(), "{lasting}");
        }
    }
}
