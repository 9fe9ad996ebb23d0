//! Keeps one session with the controller: dials, says hello, answers pings at once, dials again.

use std::sync::Arc;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::rng::Rng;
use fracas_proto::v1;
use fracas_proto::v1::agent_service_client::AgentServiceClient;
use fracas_proto::v1::join_response::Message as Told;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::backoff;
use crate::grpc::session_proto::{self, line};
use crate::pace::Pace;
use crate::session::{FromNode, Timings, ToNode};
use crate::wire::dial::{Dial, DialError};
use crate::wire::server::MESSAGE_BYTES_MAX;

/// Messages that may wait for a slow link: all faults of a proxy at once, and some. A controller that is further behind
/// loses its session. Of results, the large ones, the outbox lets only a few be on their way.
const OUTGOING_MAX: usize = 2_048;
/// How long a controller may take to answer the call, and then to say its welcome.
const WELCOME_WITHIN: Duration = Duration::from_secs(5);

/// What a controller may say, far above what a fleet needs; what comes faster waits in the socket.
const MESSAGES_PER_SECOND: u32 = 10_000;

/// Where to say things in a session.
#[derive(Clone, Debug)]
pub struct Say {
    sender: mpsc::Sender<v1::JoinRequest>,
    hang_up: Arc<Notify>,
}

impl Say {
    /// Says messages, as far as the session stands; it never waits. A controller that does not read loses its session.
    pub fn all(&self, messages: impl IntoIterator<Item = FromNode>) {
        for message in messages {
            match self.sender.try_send(session_proto::from_node_proto(message, Instant::now())) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => return self.hang_up.notify_one(),
                Err(TrySendError::Closed(_)) => return,
            }
        }
    }
}

/// What happened to the session.
#[derive(Debug)]
pub enum LinkEvent {
    /// It stands; say things here until it is down.
    Up(Say),
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
        End { reason: line(reason.into()), welcomed, refused: false }
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
        End { refused, ..End::because(status.message(), welcomed) }
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
    let hang_up = Arc::new(Notify::new());
    let say = Say { sender: say, hang_up: hang_up.clone() };
    let mut client = AgentServiceClient::new(caller).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut stream = match tokio::time::timeout(WELCOME_WITHIN, client.join(ReceiverStream::new(said))).await
    {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return End::of(&status, false),
        Err(_) => return End::because("the controller does not answer", false),
    };
    let mut timings = Timings::default();
    let mut heartbeat = tokio::time::interval(timings.heartbeat);
    let mut silent_at = tokio::time::Instant::now() + WELCOME_WITHIN;
    let mut pace = Pace::per_second(MESSAGES_PER_SECOND);
    let mut welcomed = false;
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            _ = heartbeat.tick() => {
                let beat = session_proto::from_node_proto(FromNode::Heartbeat, Instant::now());
                // A full queue says more than a heartbeat would.
                let _ = say.sender.try_send(beat);
                continue;
            }
            () = tokio::time::sleep_until(silent_at) => {
                return End::because("the controller fell silent", welcomed);
            }
            () = hang_up.notified() => {
                return End::because("the controller does not read what it is told", welcomed);
            }
            () = events.closed() => return End::because("the node stops", welcomed),
        };
        let received_at = Instant::now();
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return End::because("the controller closed the session", welcomed),
            Err(status) => return End::of(&status, welcomed),
        };
        if welcomed == matches!(message.message, Some(Told::Welcome(_))) {
            return End::because("a session of the controller must begin with one welcome", welcomed);
        }
        if let Some(Told::ClockPing(ping)) = &message.message {
            let pong = session_proto::pong(ping, received_at, Instant::now());
            let _ = say.sender.try_send(pong);
        }
        if let Some(told) = session_proto::to_node(message) {
            if let ToNode::Welcome { timings: theirs, .. } = &told {
                timings = *theirs;
                heartbeat = tokio::time::interval(timings.heartbeat);
                welcomed = true;
                if events.send(LinkEvent::Up(say.clone())).await.is_err() {
                    return End::because("the node stops", welcomed);
                }
            }
            if events.send(LinkEvent::Told(told)).await.is_err() {
                return End::because("the node stops", welcomed);
            }
        }
        silent_at = tokio::time::Instant::now() + timings.lost_after;
        let wait = pace.wait(Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}
