//! An agent and a controller that is broken or means harm: whatever it says, the agent goes on listening, refuses in one
//! line what it cannot hold, and gives back what it took.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fracas_dataplane::origin::{Origin, OriginSettings};
use fracas_proto::v1;
use fracas_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use fracas_proto::v1::join_request::Message as Said;
use fracas_proto::v1::join_response::Message as Told;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Far above what anything here takes, so that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);
/// What an agent may grow by, whatever it is told: a few of the longest messages.
const GROWTH_KIB_MAX: u64 = 64 << 10;

type Answer = Result<v1::JoinResponse, Status>;

/// What a call of an agent gets.
enum Welcome {
    /// A stream that the test writes.
    Stream,
    /// Nothing, not even headers.
    Silence,
    /// A status with this text.
    Refusal(String),
}

/// One call of an agent.
struct Session {
    say: mpsc::Sender<Answer>,
    heard: Streaming<v1::JoinRequest>,
    passed_over: Vec<Said>,
}

struct Fake {
    joined: mpsc::UnboundedSender<Session>,
    welcomes: std::sync::Mutex<std::collections::VecDeque<Welcome>>,
}

#[tonic::async_trait]
impl AgentService for Fake {
    type JoinStream = ReceiverStream<Answer>;

    async fn join(
        &self,
        request: Request<Streaming<v1::JoinRequest>>,
    ) -> Result<Response<ReceiverStream<Answer>>, Status> {
        let (say, said) = mpsc::channel(16);
        let session = Session { say, heard: request.into_inner(), passed_over: Vec::new() };
        let welcome = self.welcomes.lock().unwrap().pop_front().unwrap_or(Welcome::Stream);
        let _ = self.joined.send(session);
        match welcome {
            Welcome::Stream => Ok(Response::new(ReceiverStream::new(said))),
            Welcome::Silence => std::future::pending().await,
            Welcome::Refusal(text) => Err(Status::unavailable(text)),
        }
    }
}

/// An agent that does not outlive its test, and the controller that it has joined.
struct Fleet {
    agent: Child,
    joined: mpsc::UnboundedReceiver<Session>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

impl Fleet {
    /// An agent of a controller that meets its first calls with `welcomes`.
    async fn of(welcomes: Vec<Welcome>) -> Fleet {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (joined, sessions) = mpsc::unbounded_channel();
        let fake = Fake { joined, welcomes: std::sync::Mutex::new(welcomes.into()) };
        let (_, health) = tonic_health::server::health_reporter();
        let server = tonic::transport::Server::builder()
            .add_service(health)
            .add_service(AgentServiceServer::new(fake))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        let mut agent = Command::new(env!("CARGO_BIN_EXE_fracas"));
        agent.args(["agent", "--threads", "1", "--name", "a", "--join", &address.to_string()]);
        agent.env_remove("FRACAS_TOKEN").stdout(Stdio::piped()).stderr(Stdio::piped());
        Fleet { agent: agent.spawn().unwrap(), joined: sessions }
    }

    /// The next call of the agent, without a welcome.
    async fn call(&mut self) -> Session {
        let joined = tokio::time::timeout(PATIENCE, self.joined.recv()).await;
        let mut session = joined.expect("the agent dials again").unwrap();
        let hello = session.hear().await;
        assert!(matches!(hello, Said::Hello(_)), "{hello:?}");
        session
    }

    /// The next session of the agent, which bears with a controller that says nothing while a name is looked up.
    async fn session(&mut self) -> Session {
        let session = self.call().await;
        session.tell(welcome(60_000, 90_000)).await;
        session
    }

    /// Descriptors that the agent has open.
    fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.agent.id())).unwrap().count()
    }

    /// What it has of memory.
    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.agent.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits until the agent has given its descriptors back.
    async fn wait_for_files(&self, most: usize) {
        for _ in 0..600 {
            if self.files() <= most {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} descriptors are open, {most} before", self.files());
    }
}

fn duration(ms: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: ms / 1_000, nanos: (ms % 1_000) as i32 * 1_000_000 })
}

fn welcome(lost_after_ms: i64, orphan_timeout_ms: i64) -> Told {
    Told::Welcome(v1::Welcome {
        session_id: "1".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        heartbeat: duration(100),
        lost_after: duration(lost_after_ms),
        orphan_timeout: duration(orphan_timeout_ms),
        interval: duration(1_000),
        runs: Vec::new(),
    })
}

fn prepare(run: &str, plan_json: Vec<u8>) -> Told {
    Told::Prepare(v1::Prepare {
        run_id: run.into(),
        attempt: 1,
        plan_json,
        shard_index: 0,
        shard_count: 1,
        seed: 1,
        ready_within: duration(10_000),
    })
}

fn start(run: &str, start_at_ns: u64) -> Told {
    Told::Start(v1::Start { run_id: run.into(), attempt: 1, start_at_ns, clock_error_ns: 0 })
}

fn cancel(run: &str, reason: &str) -> Told {
    Told::Cancel(v1::Cancel { run_id: run.into(), attempt: 1, reason: reason.into() })
}

/// A plan against `target` with these keys of its JSON set otherwise.
fn plan(target: &str, changes: &[(&str, Value)]) -> Vec<u8> {
    let text = format!(
        "name: n\ntarget: {target}\nconnections: 4\nphases: [{{rate: 100/s, for: 600s}}]\nconnect_timeout: 2s\n"
    );
    let plan = fracas_loadgen::scenario::parse("f.yml", &text).unwrap();
    let mut plan = serde_json::to_value(plan).unwrap();
    for (key, value) in changes {
        plan[*key] = value.clone();
    }
    serde_json::to_vec(&plan).unwrap()
}

impl Session {
    async fn tell(&self, message: Told) {
        let told = v1::JoinResponse { epoch: 1, message: Some(message) };
        // A closed channel is a session that the agent has ended.
        let _ = self.say.send(Ok(told)).await;
    }

    /// The next thing that the agent says.
    async fn hear(&mut self) -> Said {
        let message = tokio::time::timeout(PATIENCE, self.heard.message()).await;
        message.expect("the agent says something").unwrap().unwrap().message.unwrap()
    }

    async fn hear_until<T>(&mut self, mut is_it: impl FnMut(Said) -> Option<T>) -> T {
        // The agent does several things at a time: what comes before it, another call may ask for.
        for place in 0..self.passed_over.len() {
            if let Some(found) = is_it(self.passed_over[place].clone()) {
                self.passed_over.remove(place);
                return found;
            }
        }
        let found = async {
            loop {
                let said = self.hear().await;
                if let Some(found) = is_it(said.clone()) {
                    return found;
                }
                self.passed_over.push(said);
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("the agent answers")
    }

    /// The node's clock, by a ping: it listens.
    async fn ping(&mut self, id: u64) -> u64 {
        self.tell(Told::ClockPing(v1::ClockPing { id, controller_sent_ns: 1 })).await;
        self.hear_until(|said| match said {
            Said::ClockPong(pong) if pong.id == id => Some(pong.agent_received_ns),
            _ => None,
        })
        .await
    }

    /// The answer to a Prepare of `run`.
    async fn ready(&mut self, run: &str) -> Result<(), String> {
        self.hear_until(|said| match said {
            Said::Ready(ready) if ready.run_id == run => {
                Some(if ready.ok { Ok(()) } else { Err(ready.reason) })
            }
            _ => None,
        })
        .await
    }

    async fn error(&mut self) -> String {
        self.hear_until(|said| if let Said::Error(error) = said { Some(error.message) } else { None }).await
    }
}

#[tokio::test]
async fn a_plan_that_the_agent_cannot_hold_is_refused_in_one_line() {
    let origin = Origin::start(OriginSettings::default()).unwrap();
    let target = format!("http://{}/", origin.local_addr());
    let echo = format!("tcp://{}", origin.local_addr());
    let mut fleet = Fleet::of(Vec::new()).await;
    let mut session = fleet.session().await;
    session.tell(prepare("first", plan(&target, &[]))).await;
    assert_eq!(session.ready("first").await, Ok(()));
    session.tell(cancel("first", "")).await;
    session.ping(1).await;
    let (files, resident_kib) = (fleet.files(), fleet.resident_kib());
    let huge_rate = json!([{"rate": "1000000000000/s", "for": "600s"}]);
    let wrong = |json: &str| json.as_bytes().to_vec();
    for (number, (bytes, says)) in [
        (plan(&target, &[("connections", json!(1_000_000_000))]), "connections"),
        (plan(&target, &[("connections", json!(3_000_000))]), "connections"),
        (plan(&target, &[("connections", json!(1_000_000_000_000_u64))]), "understand the plan"),
        (plan(&target, &[("phases", huge_rate)]), "rate"),
        (plan(&echo, &[("payload", json!("4294967295B"))]), "payload"),
        (plan(&target, &[("connect_timeout", json!("100000h"))]), "connect_timeout"),
        (plan(&target, &[("connections", json!(5_000)), ("connect_rate", json!("1/h"))]), "connect_rate"),
        (plan("http://no-such-name.invalid/", &[]), "no-such-name.invalid"),
        (plan("http://169.254.169.254/", &[]), "refused"),
        (plan("http://[fe80::1]/", &[]), "refused"),
        (plan("http://[64:ff9b::a9fe:a9fe]/", &[]), "refused"),
        (plan(&target, &[("threads", json!(100_000))]), "threads"),
        (wrong(""), "understand the plan"),
        (wrong("{}"), "understand the plan"),
        ("[".repeat(2 << 20).into_bytes(), "understand the plan"),
        (vec![0xff; 4_000_000], "understand the plan"),
    ]
    .into_iter()
    .enumerate()
    {
        let run = format!("r{number}");
        session.tell(prepare(&run, bytes)).await;
        session.ping(number as u64 + 2).await;
        let refusal = session.ready(&run).await.unwrap_err();
        assert!(refusal.contains(says), "{number}: {refusal}");
        assert!(refusal.len() < 1_024 && !refusal.contains(char::is_control), "{number}: {refusal}");
    }
    let mut shard = prepare("shard", plan(&target, &[]));
    if let Told::Prepare(prepare) = &mut shard {
        (prepare.shard_index, prepare.shard_count) = (5, 2);
    }
    session.tell(shard).await;
    assert!(session.ready("shard").await.unwrap_err().contains("shard 5 of 2"));
    fleet.wait_for_files(files).await;
    let grown_kib = fleet.resident_kib().saturating_sub(resident_kib);
    assert!(grown_kib < GROWTH_KIB_MAX, "{grown_kib} KiB");
}

#[tokio::test]
async fn an_agent_that_opens_connections_hears_everything_else() {
    let origin = Origin::start(OriginSettings::default()).unwrap();
    let target = format!("http://{}/", origin.local_addr());
    let mut fleet = Fleet::of(Vec::new()).await;
    let mut session = fleet.session().await;
    session.ping(1).await;
    let files = fleet.files();
    // Opens one connection every two seconds.
    let slow = [("connections", json!(4)), ("connect_rate", json!("1800/h"))];
    session.tell(prepare("slow", plan(&target, &slow))).await;
    session.tell(prepare("slow", plan(&target, &slow))).await;
    session.tell(prepare("other", plan(&target, &[]))).await;
    assert!(session.ready("other").await.unwrap_err().contains("another run"), "while the first is opened");
    session.tell(start("slow", u64::MAX)).await;
    assert!(session.error().await.contains("not prepared"));
    session.tell(cancel("slow", "lunch")).await;
    session.tell(prepare("next", plan(&target, &[]))).await;
    session.tell(prepare("third", plan(&target, &[]))).await;
    assert!(session.ready("third").await.is_err(), "one waits, not many");
    session.ping(2).await;
    let next =
        session.hear_until(|said| if let Said::Ready(ready) = said { Some(ready) } else { None }).await;
    assert_eq!((next.run_id.as_str(), next.ok), ("next", true), "nothing is said of what was cancelled");
    session.tell(cancel("next", "")).await;
    fleet.wait_for_files(files).await;
}

#[tokio::test]
async fn a_start_that_makes_no_sense_is_refused_and_its_connections_are_closed() {
    let origin = Origin::start(OriginSettings::default()).unwrap();
    let target = format!("http://{}/", origin.local_addr());
    let mut fleet = Fleet::of(Vec::new()).await;
    let mut session = fleet.session().await;
    session.tell(start("r", 1)).await;
    assert!(session.error().await.contains("not prepared"));
    let clock = session.ping(1).await;
    let files = fleet.files();
    for (start_at_ns, says) in
        [(0, "too late"), (clock, "too late"), (u64::MAX, "too far"), (clock + 3_600_000_000_000, "too far")]
    {
        session.tell(prepare("r", plan(&target, &[]))).await;
        assert_eq!(session.ready("r").await, Ok(()));
        session.tell(prepare("r", plan(&target, &[]))).await;
        assert_eq!(session.ready("r").await, Ok(()), "a repeat is answered as before");
        session.tell(start("r", start_at_ns)).await;
        let error = session.error().await;
        assert!(error.contains(says), "{error}");
        fleet.wait_for_files(files).await;
    }
}

#[tokio::test]
async fn storms_of_messages_cost_neither_memory_nor_the_session() {
    let mut fleet = Fleet::of(Vec::new()).await;
    let mut session = fleet.session().await;
    session.ping(1).await;
    let (files, resident_kib) = (fleet.files(), fleet.resident_kib());
    let long = "x".repeat(4_000_000);
    for number in 0..20_000 {
        session.tell(cancel(&number.to_string(), "no")).await;
    }
    for _ in 0..100 {
        session.tell(cancel("r", &long)).await;
        session.tell(Told::RevokeFault(v1::RevokeFault { fault_id: long.clone() })).await;
    }
    for _ in 0..1_000 {
        let _ = session.say.send(Ok(v1::JoinResponse { epoch: 0, message: None })).await;
        session.tell(Told::IntervalAck(v1::IntervalAck { sequence: u64::MAX, ..Default::default() })).await;
        session.tell(Told::ApplyFault(v1::ApplyFault::default())).await;
        session.tell(Told::Drain(v1::Drain::default())).await;
    }
    session.ping(2).await;
    fleet.wait_for_files(files).await;
    let grown_kib = fleet.resident_kib().saturating_sub(resident_kib);
    assert!(grown_kib < GROWTH_KIB_MAX, "{grown_kib} KiB");
}

#[tokio::test]
async fn a_controller_that_reads_no_answer_loses_its_session_and_an_agent_that_is_alone_its_load() {
    let origin = Origin::start(OriginSettings::default()).unwrap();
    let target = format!("http://{}/", origin.local_addr());
    let mut fleet = Fleet::of(Vec::new()).await;
    let mut session = fleet.call().await;
    session.tell(welcome(60_000, 1_000)).await;
    let files = fleet.files();
    session.tell(prepare("r", plan(&target, &[]))).await;
    assert_eq!(session.ready("r").await, Ok(()));
    let clock = session.ping(1).await;
    session.tell(start("r", clock + 500_000_000)).await;
    while origin.answered() == 0 {
        session.ping(2).await;
    }
    // Each wants an answer, and none is read.
    let unread = session;
    for _ in 0..20_000 {
        unread.tell(start("unknown", 1)).await;
        if unread.say.is_closed() {
            break;
        }
    }
    let again = fleet.joined.recv();
    let mut again = tokio::time::timeout(PATIENCE, again).await.expect("the agent dials again").unwrap();
    let Said::Hello(hello) = again.hear().await else { panic!("no hello") };
    assert_eq!(hello.run_id, "r", "its load goes on without a session");
    // Nobody says anything any more: its load ends by the orphan timeout.
    fleet.wait_for_files(files + 4).await;
}

#[tokio::test]
async fn a_controller_that_falls_silent_or_never_answers_is_dialled_again() {
    let mut fleet = Fleet::of(vec![Welcome::Silence, Welcome::Stream]).await;
    let unanswered = fleet.call().await;
    let silent = fleet.call().await;
    silent.tell(welcome(500, 30_000)).await;
    let wordless = fleet.call().await;
    let mut session = fleet.session().await;
    session.ping(1).await;
    drop((unanswered, silent, wordless));
}

#[tokio::test]
async fn a_session_must_begin_with_one_welcome() {
    let mut fleet = Fleet::of(Vec::new()).await;
    let rude = fleet.call().await;
    rude.tell(prepare("r", Vec::new())).await;
    let twice = fleet.session().await;
    twice.tell(welcome(10_000, 30_000)).await;
    let mut session = fleet.session().await;
    session.ping(1).await;
}

#[tokio::test]
async fn times_out_of_all_measure_stop_nothing() {
    let mut fleet = Fleet::of(Vec::new()).await;
    for (seconds, nanos) in
        [(i64::MAX, 999_999_999), (-1, 0), (0, 0), (i64::MIN, i32::MIN), (0, 1), (1, i32::MAX)]
    {
        let session = fleet.call().await;
        let time = Some(prost_types::Duration { seconds, nanos });
        let strange = v1::Welcome {
            heartbeat: time,
            lost_after: time,
            orphan_timeout: time,
            interval: time,
            runs: vec![v1::RunAttempt::default(); 1_000],
            ..Default::default()
        };
        session.tell(Told::Welcome(strange)).await;
    }
    let mut session = fleet.session().await;
    session.ping(1).await;
}

#[tokio::test]
async fn sessions_that_break_again_and_again_leave_nothing_behind_and_the_load_goes_on() {
    let origin = Origin::start(OriginSettings::default()).unwrap();
    let target = format!("http://{}/", origin.local_addr());
    let mut fleet = Fleet::of(Vec::new()).await;
    let mut session = fleet.session().await;
    session.tell(prepare("r", plan(&target, &[]))).await;
    assert_eq!(session.ready("r").await, Ok(()));
    let clock = session.ping(1).await;
    session.tell(start("r", clock + 500_000_000)).await;
    while origin.answered() == 0 {
        session.ping(2).await;
    }
    let files = fleet.files();
    drop(session);
    for _ in 0..20 {
        drop(fleet.session().await);
    }
    let mut session = fleet.session().await;
    session.ping(3).await;
    let answered = origin.answered();
    while origin.answered() == answered {
        session.ping(4).await;
    }
    assert!(fleet.files() <= files, "{} descriptors, {files} before", fleet.files());
    session.tell(cancel("r", "enough\n\u{1b}[2J")).await;
    let end = session.hear_until(|said| if let Said::Finished(end) = said { Some(end) } else { None }).await;
    assert!(end.cancelled && end.reasons.iter().all(|reason| !reason.contains(char::is_control)), "{end:?}");
}

#[tokio::test]
async fn what_a_controller_says_stays_on_its_line() {
    let welcomes = ["one\ntwo\u{1b}[2J", &"x".repeat(1 << 14)].map(|text| Welcome::Refusal(text.to_owned()));
    let mut fleet = Fleet::of(Vec::from(welcomes)).await;
    for _ in 0..2 {
        fleet.call().await;
    }
    fleet.session().await.ping(1).await;
    fleet.agent.kill().unwrap();
    let mut told = String::new();
    std::io::Read::read_to_string(&mut fleet.agent.stderr.take().unwrap(), &mut told).unwrap();
    let refusals: Vec<&str> = told.lines().filter(|line| line.contains("trying again")).collect();
    assert_eq!(refusals.len(), told.lines().count(), "{told}");
    assert!(refusals.iter().all(|line| line.len() < 4_096), "{told}");
}
