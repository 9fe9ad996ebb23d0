//! `AgentService`: the streams that agents and proxies dial out with.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_proto::v1;
use fracas_proto::v1::agent_service_server::AgentService;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::control_plane::ControlPlane;
use super::session_proto;
use crate::controller::{Controller, Session};
use crate::node_registry::JoinError;
use crate::pace::Pace;
use crate::session::{FromNode, ToNode};

/// What a node may say: a proxy tells of each of its 1,000 faults once a second. What comes faster waits in the socket.
const MESSAGES_PER_SECOND: u32 = 4_000;
/// How long a node may take to say hello.
const HELLO_WITHIN: Duration = Duration::from_secs(5);

/// The service.
pub struct Agents(pub Arc<ControlPlane>);

impl From<JoinError> for Status {
    fn from(error: JoinError) -> Status {
        let message = error.to_string();
        match error {
            JoinError::Name(_) | JoinError::TooLong => Status::invalid_argument(message),
            JoinError::NameTaken(_) => Status::already_exists(message),
            JoinError::Version { .. } => Status::failed_precondition(message),
            JoinError::TooMany => Status::resource_exhausted(message),
        }
    }
}

#[tonic::async_trait]
impl AgentService for Agents {
    type JoinStream = Outgoing;

    async fn join(&self, request: Request<Streaming<v1::JoinRequest>>) -> Result<Response<Outgoing>, Status> {
        let peer = request.remote_addr().map(|address| address.to_string()).unwrap_or_default();
        let mut stream = request.into_inner();
        let first = tokio::time::timeout(HELLO_WITHIN, stream.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello within 5 s"))??;
        let hello = first
            .and_then(session_proto::hello)
            .ok_or_else(|| Status::failed_precondition("the first message must be a hello"))?;
        let name = hello.identity.name.clone();
        let (session, messages) = self.0.open(|controller, now| {
            controller.join(hello.identity, hello.role, peer, hello.carried, now).map(|session| session.0)
        })?;
        if !hello.proxies.is_empty() {
            let proxies = FromNode::Proxies(hello.proxies);
            self.0.tell(|controller, now| controller.on_message(&name, Session(session), proxies, now));
        }
        let heartbeat = self.0.read(|controller, _| controller.timings().heartbeat);
        let (outgoing, over) = oneshot::channel();
        let plane = self.0.clone();
        tokio::spawn(async move {
            // What is sent ends when another session takes the place of this one, or its node does not read.
            tokio::select! {
                () = listen(&plane, &name, session, stream) => {}
                _ = over => {}
            }
            plane.close(session);
            plane.tell(|controller, _| controller.left(&name, Session(session)));
        });
        let heartbeats = tokio::time::interval(heartbeat.max(Duration::from_millis(10)));
        Ok(Response::new(Outgoing { messages, heartbeats, _over: outgoing }))
    }
}

/// Takes in what a node says until its stream or its session ends.
async fn listen(plane: &Arc<ControlPlane>, name: &str, session: u64, mut stream: Streaming<v1::JoinRequest>) {
    let mut pace = Pace::per_second(MESSAGES_PER_SECOND);
    while let Ok(Some(message)) = stream.message().await {
        let wait = pace.wait(Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        // Results that nobody waits for are not even read.
        let run = session_proto::results_of(&message);
        if run.is_some_and(|run| !plane.read(|controller, _| controller.expects_results(name, &run))) {
            let heard = |controller: &mut Controller, now| {
                controller.on_message(name, Session(session), FromNode::Heartbeat, now)
            };
            if plane.tell(heard) {
                continue;
            }
            break;
        }
        let Ok(said) = read(message).await else { break };
        if !plane.tell(|controller, now| controller.on_message(name, Session(session), said, now)) {
            break;
        }
    }
}

/// Messages with more bytes are read on a thread that may take its time: a node that means harm can put a hundred thousand
/// histograms into one.
const READ_HERE_BYTES_MAX: usize = 64 * 1024;

/// Reads what a node said.
async fn read(message: v1::JoinRequest) -> Result<FromNode, String> {
    let arrived_at = Instant::now();
    if message.encoded_len() <= READ_HERE_BYTES_MAX {
        return session_proto::from_node(message, arrived_at);
    }
    let read = tokio::task::spawn_blocking(move || session_proto::from_node(message, arrived_at));
    read.await.map_err(|_| "the controller is shutting down".to_owned())?
}

/// What is sent in a session: messages as they come, heartbeats between. Each is stamped as it leaves.
pub struct Outgoing {
    messages: mpsc::Receiver<ToNode>,
    heartbeats: tokio::time::Interval,
    /// Dropped with the stream: it tells the one who listens.
    _over: oneshot::Sender<()>,
}

impl Stream for Outgoing {
    type Item = Result<v1::JoinResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let message = match self.messages.poll_recv(context) {
            Poll::Ready(message) => message,
            Poll::Pending => match self.heartbeats.poll_tick(context) {
                Poll::Ready(_) => Some(ToNode::Heartbeat),
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(message.map(|message| Ok(session_proto::to_node_proto(message, Instant::now()))))
    }
}
