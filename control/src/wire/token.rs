//! The shared secret of a fleet: read from a file or the environment, shown by callers, checked by servers.
//!
//! It never stands in an argument, which every user of the machine can read, and never in a log.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header, request};
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Code, Status};

use crate::grpc::refusal::refuse;

/// Where a token stands when no file is named.
pub const VARIABLE: &str = "FRACAS_TOKEN";
/// More than this is some other file.
const BYTES_MAX: usize = 4096;

/// What callers must know.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

/// It does not belong into a log.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Why there is no token where one was named.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file is not there, or not for us.
    #[error("cannot read the token from {}: {source}", file.display())]
    Unreadable {
        /// Which one.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing but white space.
    #[error("{0} is empty; put the token there, such as from `openssl rand -hex 32`")]
    Empty(String),
    /// Not one word of visible ASCII.
    #[error(
        "{0} is no token: it must be one line of visible ASCII without spaces, at most {BYTES_MAX} bytes"
    )]
    Malformed(String),
}

impl Token {
    /// The token in `file`, or else in the variable `FRACAS_TOKEN`; `None` when neither is named.
    ///
    /// # Errors
    /// When what is named holds no token: that is a mistake, never the wish to go without one.
    pub fn load(file: Option<&Path>) -> Result<Option<Token>, TokenError> {
        if let Some(file) = file {
            let unreadable = |source| TokenError::Unreadable { file: file.to_owned(), source };
            let mut bytes = Vec::new();
            let opened = std::fs::File::open(file).map_err(unreadable)?;
            opened.take(BYTES_MAX as u64 + 2).read_to_end(&mut bytes).map_err(unreadable)?;
            return Token::parse(&bytes, &file.display().to_string()).map(Some);
        }
        match std::env::var_os(VARIABLE) {
            Some(value) => Token::parse(value.as_encoded_bytes(), VARIABLE).map(Some),
            None => Ok(None),
        }
    }

    /// `place` is named in the error. White space around the token is no part of it: editors end a file with a newline.
    fn parse(bytes: &[u8], place: &str) -> Result<Token, TokenError> {
        let token = bytes.trim_ascii();
        if token.is_empty() {
            return Err(TokenError::Empty(place.to_owned()));
        }
        match std::str::from_utf8(token) {
            Ok(text) if text.len() <= BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Ok(Token(text.into()))
            }
            _ => Err(TokenError::Malformed(place.to_owned())),
        }
    }

    /// Whether `offered` is this token.
    ///
    /// It takes the same time wherever the first wrong byte is, so that a token cannot be found byte by byte; only its
    /// length can be timed. `subtle` rather than a loop of ours: it keeps the compiler from ending the loop early.
    fn is(&self, offered: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(offered).into()
    }

    /// Whether the headers of a call show this token.
    fn judge(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.as_bytes().split_at_checked(BEARER.len())?;
            scheme.eq_ignore_ascii_case(BEARER).then(|| token.trim_ascii())
        });
        match shown {
            None => Err(Refused::Missing),
            Some(token) if self.is(token) => Ok(()),
            Some(_) => Err(Refused::Wrong),
        }
    }
}

/// How the token is introduced in the header `authorization` (RFC 6750 §2.1).
const BEARER: &[u8] = b"Bearer ";

/// Why a call is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Missing,
    Wrong,
}

impl Refused {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Refused::Missing => "TOKEN_MISSING",
            Refused::Wrong => "TOKEN_WRONG",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Refused::Missing => {
                "a token is needed here: say --token-file FILE or set FRACAS_TOKEN (in gRPC and HTTP: authorization: Bearer TOKEN)"
            }
            Refused::Wrong => {
                "this is not the token that the server was started with: check --token-file or FRACAS_TOKEN"
            }
        }
    }

    /// As gRPC when a call of gRPC was made, as HTTP otherwise.
    pub(super) fn answer(self, headers: &HeaderMap) -> Response {
        let is_grpc = headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if is_grpc {
            return refuse(Code::Unauthenticated, self.reason(), self.message(), &[]).into_http();
        }
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        (StatusCode::UNAUTHORIZED, challenge, format!("{}\n", self.message())).into_response()
    }
}

/// Paths that need no token. A load balancer or an orchestrator asks them, has no secret, and learns from them
/// nothing but that the process is up; the same call tells our own clients whether they reach a server at all, before
/// they show their token to it. Not Health.Watch: a stranger could keep its streams for ever.
fn is_open(path: &str) -> bool {
    matches!(path, "/healthz" | "/grpc.health.v1.Health/Check")
}

/// Who makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Showed the token.
    Authenticated,
    /// Anybody who reaches a server without a token.
    Anybody,
    /// Asks for something that needs no token, of a server that has one.
    Stranger,
}

/// Who makes a call with this head, where `token` is wanted, if there is one.
///
/// # Errors
/// When it is not shown.
pub(super) fn judge(token: Option<&Token>, parts: &request::Parts) -> Result<Caller, Refused> {
    match token {
        None => Ok(Caller::Anybody),
        Some(token) => match token.judge(&parts.headers) {
            Ok(()) => Ok(Caller::Authenticated),
            Err(_) if is_open(parts.uri.path()) => Ok(Caller::Stranger),
            Err(refused) => Err(refused),
        },
    }
}

/// Shows the token with every call of a client.
#[derive(Clone, Debug, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// Shows `token`, if there is one.
    pub fn new(token: Option<&Token>) -> Bearer {
        Bearer(token.map(|Token(token)| {
            let mut value: MetadataValue<Ascii> =
                format!("Bearer {token}").parse().expect("a token is visible ASCII");
            value.set_sensitive(true);
            value
        }))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(token: &Token, authorization: &[&str]) -> Result<(), Refused> {
        let mut headers = HeaderMap::new();
        for value in authorization {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        token.judge(&headers)
    }

    #[test]
    fn the_newline_that_ends_a_file_is_no_part_of_the_token() {
        for text in ["s3cret", "s3cret\n", "  s3cret\r\n", "s3cret\n\n"] {
            assert_eq!(Token::parse(text.as_bytes(), "t").unwrap(), Token("s3cret".into()));
        }
    }

    #[test]
    fn a_file_without_a_token_is_named_with_what_to_do() {
        let long = "x".repeat(BYTES_MAX + 1);
        for (bytes, problem) in [
            (&b""[..], "token.txt is empty; put the token there"),
            (b"\n \n", "token.txt is empty; put the token there"),
            (b"two words", "token.txt is no token"),
            (b"two\nlines", "token.txt is no token"),
            (b"\xff\xfe", "token.txt is no token"),
            ("schlüssel".as_bytes(), "token.txt is no token"),
            (long.as_bytes(), "token.txt is no token"),
        ] {
            let line = Token::parse(bytes, "token.txt").unwrap_err().to_string();
            assert!(line.starts_with(problem) && line.lines().count() == 1, "{line}");
        }
        assert!(Token::parse(&long.as_bytes()[1..], "token.txt").is_ok());
        let line = Token::load(Some(Path::new("/nowhere/token"))).unwrap_err().to_string();
        assert!(line.starts_with("cannot read the token from /nowhere/token: "), "{line}");
    }

    #[test]
    fn a_token_is_never_printed() {
        assert_eq!(format!("{:?}", Token("s3cret".into())), "Token(…)");
        assert!(!format!("{:?}", Bearer::new(Some(&Token("s3cret".into())))).contains("s3cret"));
    }

    #[test]
    fn only_the_whole_token_is_the_token() {
        let token = Token("s3cret".into());
        assert_eq!(judged(&token, &["Bearer s3cret"]), Ok(()));
        assert_eq!(judged(&token, &["bearer s3cret"]), Ok(()), "RFC 9110 §11.1: the scheme has no case");
        for wrong in ["Bearer ", "Bearer s3cre", "Bearer s3crets", "Bearer S3CRET", "Bearer s3cret x"] {
            assert_eq!(judged(&token, &[wrong]), Err(Refused::Wrong), "{wrong}");
        }
        for missing in [&[][..], &["s3cret"], &["Basic s3cret"], &["Bearer"], &[""]] {
            assert_eq!(judged(&token, missing), Err(Refused::Missing), "{missing:?}");
        }
        assert_eq!(
            judged(&token, &["Bearer x", "Bearer s3cret"]),
            Err(Refused::Wrong),
            "the first one counts"
        );
    }

    #[test]
    fn what_a_client_shows_is_what_a_server_wants() {
        let token = Token::parse(b"a+b/c=.~_-!", "t").unwrap();
        let shown = Bearer::new(Some(&token)).call(tonic::Request::new(())).unwrap();
        assert_eq!(token.judge(&shown.metadata().clone().into_headers()), Ok(()));
        let silent = Bearer::new(None).call(tonic::Request::new(())).unwrap();
        assert_eq!(token.judge(&silent.metadata().clone().into_headers()), Err(Refused::Missing));
    }

    #[test]
    fn only_health_is_open() {
        assert!(is_open("/healthz") && is_open("/grpc.health.v1.Health/Check"));
        for path in [
            "/metrics",
            "/",
            "/healthz/..",
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            assert!(!is_open(path), "{path}");
        }
    }
}
