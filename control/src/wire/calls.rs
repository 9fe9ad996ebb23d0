//! Receives one request: is it one that we take, who asks, is there such a call, and how long may it take.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use tonic::Code;
use tonic::transport::server::TcpConnectInfo;
use tower::ServiceExt;

use super::Guard;
use super::figures::Figures;
use super::server::Place;
use super::token::{self, Caller};
use super::visitor::{self, Arrival};
use crate::grpc::refusal::refuse;

/// When a call is given up that has not begun to answer. Streams live as long as their clients want.
pub const CALL_MAX: Duration = Duration::from_secs(30);
/// What a call may carry that needs no token and shows none, and how long it may take to say it.
const STRANGER_BYTES_MAX: usize = 1024;
const STRANGER_WITHIN: Duration = Duration::from_secs(5);
/// A service sees that its time is over a little before, and can say what of.
const CALL_GRACE: Duration = Duration::from_secs(2);

/// The calls of a server, and whom to ask for the others.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    /// Full name of a service → names of its methods.
    services: Arc<BTreeMap<String, Vec<String>>>,
    /// Full name of a service → who serves it, in words.
    elsewhere: Arc<[(&'static str, &'static str)]>,
}

impl Calls {
    /// Serves `services`; others are served as `elsewhere` says.
    pub fn new(
        services: BTreeMap<String, Vec<String>>,
        elsewhere: impl IntoIterator<Item = (&'static str, &'static str)>,
    ) -> Calls {
        Calls { services: Arc::new(services), elsewhere: elsewhere.into_iter().collect() }
    }

    /// Why there is no call of this path, if there is none.
    fn lack(&self, path: &str) -> Option<String> {
        let path = path.trim_start_matches('/');
        let (service, method) = path.split_once('/').unwrap_or((path, ""));
        match self.services.get(service) {
            Some(methods) if methods.iter().any(|known| known == method) => None,
            Some(methods) => Some(format!("{service} has no call `{method}`; it has {}", methods.join(", "))),
            None => Some(match self.elsewhere.iter().find(|(name, _)| *name == service) {
                Some((_, place)) => format!("{service} is not served here; ask {place}"),
                None => {
                    let names: Vec<&str> = self.services.keys().map(String::as_str).collect();
                    format!("there is no service `{service}` here; served are {}", names.join(", "))
                }
            }),
        }
    }
}

/// Answers whoever asks for a page that there is none.
pub async fn no_page() -> Response {
    (StatusCode::NOT_FOUND, "served here are /metrics, /healthz and calls of gRPC\n").into_response()
}

/// What every request of a connection is received with.
pub(super) struct Reception {
    pub guard: Guard,
    pub calls: Calls,
    pub router: Router,
    pub figures: Arc<Figures>,
    pub place: Arc<Place>,
    /// Calls of the connection so far.
    pub calls_begun: AtomicU64,
    pub arrival: Arrival,
    pub peer: SocketAddr,
}

impl Reception {
    /// Answers a request.
    pub(super) async fn receive(&self, request: Request) -> Response {
        let mut call = Call::begin(&self.place, self.calls_begun.fetch_add(1, Ordering::Relaxed));
        let (mut parts, body) = request.into_parts();
        if let Err(refused) = visitor::judge(&parts, self.arrival, &self.guard.names) {
            self.figures.refused(refused.reason());
            return refused.answer(&parts);
        }
        let caller = match token::judge(self.guard.token.as_ref(), &parts) {
            Ok(caller) => caller,
            Err(refused) => {
                self.figures.refused(refused.reason());
                return refused.answer(&parts.headers);
            }
        };
        let body = match caller {
            Caller::Stranger => match short(body).await {
                Some(body) => body,
                None => return too_long(),
            },
            _ => {
                self.place.let_in();
                body
            }
        };
        match self.calls.lack(parts.uri.path()) {
            Some(why) if parts.method == Method::POST => {
                self.figures.refused("CALL_NOT_SERVED");
                return refuse(Code::Unimplemented, "CALL_NOT_SERVED", why, &[]).into_http();
            }
            None if parts.method != Method::POST => {
                return (
                    StatusCode::METHOD_NOT_ALLOWED,
                    [(header::ALLOW, "POST")],
                    "this is a call of gRPC\n",
                )
                    .into_response();
            }
            _ => {}
        }
        parts.extensions.insert(caller);
        parts
            .extensions
            .insert(TcpConnectInfo { local_addr: Some(self.arrival.local), remote_addr: Some(self.peer) });
        let within = time_of(&parts.headers).unwrap_or(CALL_MAX).min(CALL_MAX) + CALL_GRACE;
        let is_call = parts.method == Method::POST;
        let answer = self.router.clone().oneshot(Request::from_parts(parts, body));
        match tokio::time::timeout(within, answer).await {
            Ok(Ok(response)) => {
                call.awaits_client();
                response.map(|body| Body::new(Counted { body, call }))
            }
            Ok(Err(never)) => match never {},
            Err(_) if is_call => {
                refuse(Code::DeadlineExceeded, "TOO_SLOW", "the call took longer than it may", &[])
                    .into_http()
            }
            Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    }
}

/// What somebody says who has shown no token: little, and at once, so that he takes no memory.
async fn short(body: Body) -> Option<Body> {
    let read = axum::body::to_bytes(body, STRANGER_BYTES_MAX);
    let bytes = tokio::time::timeout(STRANGER_WITHIN, read).await.ok()?.ok()?;
    Some(Body::from(bytes))
}

fn too_long() -> Response {
    refuse(Code::ResourceExhausted, "TOO_LONG", "who shows no token may say little, and at once", &[])
        .into_http()
}

/// The deadline that a client sets: at most eight digits and a unit (gRPC over HTTP/2, “Timeout”).
fn time_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// A call under way; dropping it ends it.
///
/// It is under way while its service works. While its answer waits for the client to take more of it, the client is as
/// idle as one without a call: else it could hold a place for ever by not reading. Who takes nothing for too long is cut.
struct Call {
    place: Arc<Place>,
    number: u64,
    is_under_way: bool,
}

impl Call {
    fn begin(place: &Arc<Place>, number: u64) -> Call {
        place.call_began();
        Call { place: place.clone(), number, is_under_way: true }
    }

    /// A part of the answer is there for the client, which takes it or does not.
    fn awaits_client(&mut self) {
        self.awaits_service();
        self.is_under_way = false;
        self.place.awaits_client(self.number);
    }

    /// The client has taken all that there is.
    fn awaits_service(&mut self) {
        if !self.is_under_way {
            self.is_under_way = true;
            self.place.call_began();
            self.place.was_taken(self.number);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.is_under_way {
            self.place.call_ended();
        } else {
            self.place.was_taken(self.number);
        }
    }
}

/// A body that keeps its call until it was sent or given up. It is asked for more only when the client has room for more.
struct Counted {
    body: Body,
    call: Call,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Pending => self.call.awaits_service(),
            Poll::Ready(_) => self.call.awaits_client(),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_read_with_its_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("999999999n", None),
            ("1", None),
            ("S", None),
            ("", None),
            ("1é", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", axum::http::HeaderValue::from_bytes(text.as_bytes()).unwrap());
            assert_eq!(time_of(&headers), expected, "{text}");
        }
    }

    #[test]
    fn a_call_that_is_not_served_is_told_from_one_that_is() {
        let services = BTreeMap::from([("a.B".to_owned(), vec!["Get".to_owned(), "Put".to_owned()])]);
        let calls = Calls::new(services, [("a.C", "the other one")]);
        for (path, lack) in [
            ("/a.B/Get", None),
            ("/a.B/Gte", Some("a.B has no call `Gte`; it has Get, Put")),
            ("/a.C/Get", Some("a.C is not served here; ask the other one")),
            ("/a.D/Get", Some("there is no service `a.D` here; served are a.B")),
            ("/", Some("there is no service `` here; served are a.B")),
        ] {
            assert_eq!(calls.lack(path).as_deref(), lack, "{path}");
        }
    }
}
