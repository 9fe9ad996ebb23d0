//! A controller and nodes that are broken or mean harm: whatever they say, it goes on answering others, keeps little of it,
//! and refuses in one line.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use fracas_proto::v1;
use fracas_proto::v1::agent_service_client::AgentServiceClient;
use fracas_proto::v1::join_request::Message as Said;
use fracas_proto::v1::join_response::Message as Told;
use fracas_proto::v1::node_service_client::NodeServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// What a controller may grow by, whatever it is told.
const GROWTH_KIB_MAX: u64 = 96 << 10;

struct Controller {
    process: Child,
    channel: Channel,
    _out: tempfile::TempDir,
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A session that the test speaks in.
struct Session {
    say: mpsc::Sender<v1::JoinRequest>,
    told: Streaming<v1::JoinResponse>,
}

impl Controller {
    async fn start() -> Controller {
        let out = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fracas"));
        command.args(["controller", "--api", "127.0.0.1:0", "--out"]).arg(out.path());
        command.env_remove("FRACAS_TOKEN");
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let api = line.trim().strip_prefix("controller listens on ").unwrap();
        let channel = Channel::from_shared(format!("http://{api}")).unwrap().connect().await.unwrap();
        Controller { process, channel, _out: out }
    }

    async fn join(&self, hello: Said) -> Result<Session, Status> {
        let (say, said) = mpsc::channel(16);
        say.send(request(hello)).await.unwrap();
        let mut client = AgentServiceClient::new(self.channel.clone());
        let told = client.join(ReceiverStream::new(said)).await?.into_inner();
        Ok(Session { say, told })
    }

    /// The names of its nodes: it answers.
    async fn nodes(&self) -> Vec<String> {
        let mut client = NodeServiceClient::new(self.channel.clone());
        let request = v1::ListNodesRequest { page_size: 1_000, ..Default::default() };
        let nodes = client.list_nodes(request).await.unwrap().into_inner().nodes;
        nodes.into_iter().map(|node| node.name).collect()
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Session {
    async fn say(&self, message: Said) {
        // A closed channel is a session that the controller has ended.
        let _ = self.say.send(request(message)).await;
    }

    /// Reads until the controller ends the session.
    async fn ends(mut self) {
        while let Ok(Some(_)) = self.told.message().await {}
    }
}

fn request(message: Said) -> v1::JoinRequest {
    v1::JoinRequest { message: Some(message) }
}

fn identity(name: &str) -> Option<v1::NodeIdentity> {
    let (uid, version) = ("1".into(), env!("CARGO_PKG_VERSION").into());
    Some(v1::NodeIdentity { name: name.into(), uid, version, ..Default::default() })
}

fn hello(name: &str) -> Said {
    Said::Hello(v1::Hello { identity: identity(name), ..Default::default() })
}

#[tokio::test]
async fn names_that_are_none_are_refused_in_a_short_line() {
    let controller = Controller::start().await;
    for name in ["x".repeat(1 << 20), "\u{1b}[2J".to_owned(), "a\nb".to_owned(), String::new()] {
        let status = controller.join(hello(&name)).await.err().unwrap();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let message = status.message();
        assert!(message.len() < 512 && !message.contains(char::is_control), "{message:?}");
        assert!(message.contains("is not a node's name"), "{message}");
    }
    let mut nodes = NodeServiceClient::new(controller.channel.clone());
    let drain = v1::DrainNodeRequest { node: "\n".repeat(1 << 20), ..Default::default() };
    let status = nodes.drain_node(drain).await.unwrap_err();
    assert!(status.message().len() < 512 && !status.message().contains(char::is_control), "{status}");
}

#[tokio::test]
async fn joins_without_end_under_one_name_leave_one_session() {
    let controller = Controller::start().await;
    let first = controller.join(hello("a")).await.unwrap();
    let mut others = Vec::new();
    for _ in 0..40 {
        others.push(controller.join(hello("a")).await.unwrap());
    }
    let last = others.pop().unwrap();
    first.ends().await;
    for other in others {
        other.ends().await;
    }
    let resident_kib = controller.resident_kib();
    for _ in 0..3_000 {
        let session = controller.join(hello("a")).await.unwrap();
        drop(session);
    }
    assert_eq!(controller.nodes().await, ["a"]);
    let grown_kib = controller.resident_kib().saturating_sub(resident_kib);
    assert!(grown_kib < GROWTH_KIB_MAX, "{grown_kib} KiB");
    last.ends().await;
}

#[tokio::test]
async fn storms_of_messages_about_nothing_cost_little_and_others_are_answered() {
    let controller = Controller::start().await;
    let mut session = controller.join(hello("a")).await.unwrap();
    assert!(matches!(session.told.message().await.unwrap().unwrap().message, Some(Told::Welcome(_))));
    controller.nodes().await;
    let resident_kib = controller.resident_kib();
    let long = "x".repeat(2_000_000);
    let seconds =
        v1::Interval { run_id: "none".into(), interval_v1: vec![0; 2_000_000], ..Default::default() };
    let duration = prost_types::Duration { seconds: i64::MIN, nanos: i32::MIN };
    let worker = v1::WorkerUsage {
        user_time: Some(duration),
        cpu_ratio: f64::NAN,
        busy_ratio: f64::NEG_INFINITY,
        ..Default::default()
    };
    for number in 0..10_000_u64 {
        session.say(Said::Heartbeat(v1::Heartbeat { monotonic_ns: number })).await;
        let window = v1::FaultWindow {
            fault_id: format!("none-{number}"),
            proxy: number.to_string(),
            started_at_ns: i64::MIN,
            ended_at_ns: i64::MAX,
            injected: u64::MAX,
            ..Default::default()
        };
        session.say(Said::FaultWindow(window)).await;
    }
    for _ in 0..20 {
        session.say(Said::Interval(seconds.clone())).await;
        session
            .say(Said::Ready(v1::Ready { run_id: long.clone(), reason: long.clone(), ..Default::default() }))
            .await;
        let finished = v1::Finished {
            run_id: "none".into(),
            reasons: vec!["x".repeat(1_000); 1_000],
            workers: vec![worker; 10_000],
            ended_at_ns: u64::MAX,
            last_sequence: u64::MAX,
            ..Default::default()
        };
        session.say(Said::Finished(finished)).await;
        session
            .say(Said::FaultAccepted(v1::FaultAccepted { fault_id: long.clone(), ..Default::default() }))
            .await;
        session.say(Said::Error(v1::SessionError { message: long.clone(), ..Default::default() })).await;
        let proxies = (0..100_000).map(|number| number.to_string()).collect();
        session.say(Said::ProxyHello(v1::ProxyHello { proxies, ..Default::default() })).await;
        let pong =
            v1::ClockPong { controller_sent_ns: u64::MAX, agent_sent_ns: u64::MAX, ..Default::default() };
        session.say(Said::ClockPong(pong)).await;
        assert_eq!(controller.nodes().await, ["a"]);
    }
    let second = controller.join(hello("b")).await.unwrap();
    assert_eq!(controller.nodes().await, ["a", "b"]);
    let grown_kib = controller.resident_kib().saturating_sub(resident_kib);
    assert!(grown_kib < GROWTH_KIB_MAX, "{grown_kib} KiB");
    session.say(hello("c")).await;
    session.ends().await;
    drop(second);
}
