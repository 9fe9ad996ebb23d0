//! Keeps one session with the controller: dials, says hello, answers pings at once, dials again.

use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::rng::Rng;
use fracas_proto::v1;
use fracas_proto::v1::agent_service_client::AgentServiceClient;
use fracas_proto::v1::join_response::Message as Told;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::backoff;
use crate::grpc::session_proto;
use crate::session::{FromNode, Timings, ToNode};
use crate::wire::dial::{Dial, DialError};

/// Messages that may wait for a slow link; the sender then waits, and results pile up in the outbox.
const OUTGOING_MAX: usize = 64;

/// What happened to the session.
#[derive(Debug)]
pub enum LinkEvent {
    /// It stands; say things here until it is down.
    Up(mpsc::Sender<v1::JoinRequest>),
    /// The controller said something.
    Told(ToNode),
    /// It broke off, or could not be had; the next try follows by itself. Why, in one line.
    Down(String),
    /// The controller will not have this node. Why, in one line. Nothing follows.
    Refused(String),
}

/// Keeps a session with `controller` until the receiver of `events` is gone. `hello` is what to say
/// first, as it is at that moment.
pub async fn keep(
    controller: Dial,
    hello: watch::Receiver<v1::JoinRequest>,
    events: mpsc::Sender<LinkEvent>,
    mut rng: Rng,
) {
    let mut failures = 0;
    let mut was_welcome = false;
    while !events.is_closed() {
        let hello = hello.borrow().clone();
        let end = session(&controller, hello, &events).await;
        was_welcome |= end.welcomed;
        failures = if end.welcomed { 1 } else { failures + 1 };
        let event = match end.refused && !was_welcome {
            true => LinkEvent::Refused(end.reason),
            false => LinkEvent::Down(end.reason),
        };
        let refused = matches!(event, LinkEvent::Refused(_));
        if events.send(event).await.is_err() || refused {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff::wait(failures, &mut rng)) => {}
            () = events.closed() => return,
        }
    }
}

struct End {
    reason: String,
    welcomed: bool,
    refused: bool,
}

impl End {
    fn because(reason: impl Into<String>, welcomed: bool) -> End {
        End { reason: reason.into(), welcomed, refused: false }
    }

    fn of(status: &tonic::Status, welcomed: bool) -> End {
        let refused = matches!(
            status.code(),
            Code::AlreadyExists
                | Code::FailedPrecondition
                | Code::InvalidArgument
                | Code::Unauthenticated
                | Code::PermissionDenied
                | Code::Unimplemented
        );
        End { reason: status.message().to_owned(), welcomed, refused }
    }
}

async fn session(controller: &Dial, hello: v1::JoinRequest, events: &mpsc::Sender<LinkEvent>) -> End {
    let caller = match controller.connect().await {
        Ok(caller) => caller,
        Err(DialError::NoAnswer { address, .. }) => {
            return End::because(format!("no controller answers at {address}"), false);
        }
        Err(error) => return End { refused: !error.may_pass(), ..End::because(error.to_string(), false) },
    };
    let (say, said) = mpsc::channel(OUTGOING_MAX);
    if say.send(hello).await.is_err() {
        return End::because("the session is over", false);
    }
    let mut client = AgentServiceClient::new(caller);
    let mut stream = match client.join(ReceiverStream::new(said)).await {
        Ok(response) => response.into_inner(),
        Err(status) => return End::of(&status, false),
    };
    let mut timings = Timings::default();
    let mut heartbeat = tokio::time::interval(timings.heartbeat);
    let mut welcomed = false;
    loop {
        let message = tokio::select! {
            message = tokio::time::timeout(timings.lost_after, stream.message()) => message,
            _ = heartbeat.tick() => {
                let beat = session_proto::from_node_proto(FromNode::Heartbeat, Instant::now());
                // A full queue says more than a heartbeat would.
                let _ = say.try_send(beat);
                continue;
            }
            () = events.closed() => return End::because("the node stops", welcomed),
        };
        let received_at = Instant::now();
        let message = match message {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return End::because("the controller closed the session", welcomed),
            Ok(Err(status)) => return End::of(&status, welcomed),
            Err(_) => return End::because("the controller fell silent", welcomed),
        };
        if let Some(Told::ClockPing(ping)) = &message.message {
            let pong = session_proto::pong(ping, received_at, Instant::now());
            let _ = say.try_send(pong);
        }
        let Some(told) = session_proto::to_node(message) else { continue };
        if let ToNode::Welcome { timings: theirs, .. } = &told {
            timings = *theirs;
            heartbeat = tokio::time::interval(timings.heartbeat.max(Duration::from_millis(10)));
            welcomed = true;
            if events.send(LinkEvent::Up(say.clone())).await.is_err() {
                return End::because("the node stops", welcomed);
            }
        }
        if events.send(LinkEvent::Told(told)).await.is_err() {
            return End::because("the node stops", welcomed);
        }
    }
}
