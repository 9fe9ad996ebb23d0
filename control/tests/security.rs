//! TLS and the token, between real processes on loopback: who is let in, who is not, and what each is told.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use fracas_dataplane::origin::{Origin, OriginSettings};
use fracas_proto::v1;
use fracas_proto::v1::agent_service_client::AgentServiceClient;
use fracas_proto::v1::node_service_client::NodeServiceClient;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_types::StatusExt;

const FRACAS: &str = env!("CARGO_BIN_EXE_fracas");
/// Far above what anything here takes, so that only a hang reaches it.
const PATIENCE: u32 = 600;
/// Flags of a server under TLS with a token, and of a client that has what it takes.
const SERVED: [&str; 6] = ["--tls-cert", "cert.pem", "--tls-key", "key.pem", "--token-file", "token"];
const LET_IN: [&str; 4] = ["--tls-ca", "ca.pem", "--token-file", "token"];

/// A child that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server and where its API listens.
struct Server {
    api: String,
    /// What it said until then.
    said: String,
    _process: Process,
}

/// A directory with a CA, a certificate that it signed for 127.0.0.1, a CA of somebody else, and tokens.
struct House(tempfile::TempDir);

impl House {
    fn new() -> House {
        let house = House(tempfile::tempdir().unwrap());
        let ca = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            (params.self_signed(&key).unwrap(), Issuer::new(params, key))
        };
        let (ours, issuer) = ca("ours");
        let (stranger, _) = ca("stranger");
        let key = KeyPair::generate().unwrap();
        let names = ["127.0.0.1".to_owned(), "load.example".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        for (name, text) in [
            ("ca.pem", ours.pem()),
            ("stranger.pem", stranger.pem()),
            ("cert.pem", certificate.pem()),
            ("key.pem", key.serialize_pem()),
            ("other-key.pem", KeyPair::generate().unwrap().serialize_pem()),
            ("token", "s3cret\n".to_owned()),
            ("wrong", "s3cred\n".to_owned()),
            ("empty", "\n".to_owned()),
        ] {
            std::fs::write(house.path().join(name), text).unwrap();
        }
        house
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, args: &[&str], more: &[&str]) -> Command {
        let mut command = Command::new(FRACAS);
        command.args(args).args(more).current_dir(self.path()).env_remove("FRACAS_TOKEN");
        command
    }

    /// Runs a command to its end. What it says is short, so that no pipe fills while it is waited for.
    fn fracas(&self, args: &[&str], more: &[&str]) -> Output {
        let mut command = self.command(args, more);
        let mut process = Process(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        for _ in 0..PATIENCE {
            if let Some(status) = process.0.try_wait().unwrap() {
                let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
                process.0.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
                process.0.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
                return Output { status, stdout, stderr };
            }
            sleep(Duration::from_millis(50));
        }
        panic!("{args:?} {more:?} does not end");
    }

    /// What a command says that must succeed.
    fn says(&self, args: &[&str], more: &[&str]) -> String {
        let output = self.fracas(args, more);
        assert!(output.status.success(), "{args:?} {more:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// The one line of a command that must fail with `code`.
    fn fails(&self, code: i32, args: &[&str], more: &[&str]) -> String {
        let output = self.fracas(args, more);
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?} {more:?}: {line}");
        assert_eq!(line.lines().count(), 1, "{line}");
        line
    }

    /// Starts a server and waits for the line with `before` its address.
    fn start(&self, mut command: Command, before: &str) -> Server {
        let mut process = Process(command.stdout(Stdio::piped()).spawn().unwrap());
        let (mut said, mut lines) = (String::new(), BufReader::new(process.0.stdout.take().unwrap()));
        while lines.read_line(&mut said).unwrap() > 0 {
            if let Some((_, rest)) = said.split_once(before) {
                let end = rest.find([' ', ',', '\n']).unwrap();
                return Server { api: rest[..end].to_owned(), said, _process: process };
            }
        }
        panic!("it ended and had said only: {said}");
    }

    fn controller(&self, flags: &[&str]) -> Server {
        self.start(self.command(&["controller", "--api", "127.0.0.1:0"], flags), "controller listens on ")
    }

    fn proxy(&self, upstream: &str, flags: &[&str]) -> Server {
        let args = ["proxy", "--listen", "127.0.0.1:0", "--upstream", upstream, "--protocol", "http"];
        let api = ["--api", "127.0.0.1:0", "--threads", "1"];
        self.start(self.command(&[&args[..], &api].concat(), flags), ", API ")
    }

    /// Waits until as many nodes of `controller` stand in its list.
    fn wait_for_nodes(&self, controller: &Server, count: usize) -> String {
        for _ in 0..PATIENCE {
            let list = self.says(&["node", "list", "--api", &controller.api], &LET_IN);
            if list.matches(" idle ").count() == count {
                return list;
            }
            sleep(Duration::from_millis(50));
        }
        panic!("not {count} nodes have joined");
    }

    /// A connection under TLS that offers `protocols`, and the one that the server chose.
    fn tls(&self, api: &str, protocols: &[&str]) -> (StreamOwned<ClientConnection, TcpStream>, String) {
        let ca = CertificateDer::from_pem_file(self.path().join("ca.pem")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ca).unwrap();
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let session = ClientConnection::new(Arc::new(config), "127.0.0.1".try_into().unwrap()).unwrap();
        let mut stream = StreamOwned::new(session, TcpStream::connect(api).unwrap());
        stream.conn.complete_io(&mut stream.sock).unwrap();
        let chosen = stream.conn.alpn_protocol().map(|name| String::from_utf8(name.to_vec()).unwrap());
        (stream, chosen.unwrap_or_default())
    }

    /// What a GET under TLS is answered.
    fn get(&self, api: &str, path: &str, token: Option<&str>) -> String {
        let (mut stream, _) = self.tls(api, &["http/1.1"]);
        let token = token.map_or(String::new(), |token| format!("authorization: Bearer {token}\r\n"));
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n{token}connection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn with_the_token_agents_and_proxies_join_and_a_run_goes_through() {
    let house = House::new();
    let controller = house.controller(&SERVED);
    assert!(controller.said.contains("(TLS, token)"), "{}", controller.said);
    let join = ["agent", "--threads", "1", "--name", "a", "--join", &controller.api];
    let mut agent = house.command(&join, &LET_IN);
    let _agent = Process(agent.stdout(Stdio::null()).spawn().unwrap());
    let origin = Origin::start(OriginSettings::default()).unwrap();
    let flags = [&SERVED[..], &["--join", &controller.api, "--tls-ca", "ca.pem"]].concat();
    let _proxy = house.proxy(&origin.local_addr().to_string(), &flags);
    let nodes = house.wait_for_nodes(&controller, 2);
    assert!(nodes.contains("default"), "the proxy has joined: {nodes}");

    let target = origin.local_addr();
    let file = format!("target: http://{target}/\nconnections: 2\nphases:\n  - {{rate: 100/s, for: 1s}}\n");
    std::fs::write(house.path().join("run.yml"), file).unwrap();
    let submit = ["run", "submit", "run.yml", "--wait", "--json", "--api", &controller.api];
    let output = house.fracas(&submit, &LET_IN);
    let run: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // On a busy machine the verdict may be invalid for lateness; that the stream was followed to its end is the point.
    let ended = [("passed", 0), ("invalid", 111)].map(|(state, code)| (Some(state), Some(code)));
    assert!(ended.contains(&(run["state"].as_str(), output.status.code())), "{run}");
    assert_eq!(run["counts"]["planned"], 100, "{run}");
}

#[test]
fn the_api_of_a_proxy_takes_changes_and_streams_events_under_tls() {
    let house = House::new();
    let origin = Origin::start(OriginSettings::default()).unwrap();
    let proxy = house.proxy(&origin.local_addr().to_string(), &SERVED);
    assert!(proxy.said.contains("(TLS, token)"), "{}", proxy.said);
    let set = ["behavior", "set", "default", "100:delay", "--delay-time", "1ms", "--api", &proxy.api];
    assert!(house.says(&set, &LET_IN).contains("generation"));
    let listen = proxy.said.split("listens on ").nth(1).unwrap().split(' ').next().unwrap();
    let url = format!("http://{listen}/");
    let load = ["load", &url, "-n", "20", "--json", "--out", "results", "--via", &proxy.api];
    let output = house.fracas(&load, &LET_IN);
    assert!(matches!(output.status.code(), Some(0 | 111)), "{}", text(&output.stderr));
    let events = std::fs::read_to_string(house.path().join("results/events.jsonl")).unwrap();
    assert!(events.lines().any(|line| line.contains("\"delay\"")), "{events}");
}

#[test]
fn whoever_is_not_let_in_is_told_what_to_do() {
    let house = House::new();
    let guarded = house.controller(&SERVED);
    let open = house.controller(&[]);
    let token = ["--token-file", "token"];
    for (api, flags, code, line) in [
        (
            &guarded,
            &["--tls-ca", "ca.pem"][..],
            1,
            "a token is needed here: say --token-file FILE or set FRACAS_TOKEN",
        ),
        (
            &guarded,
            &["--tls-ca", "ca.pem", "--token-file", "wrong"],
            1,
            "this is not the token that the server",
        ),
        (&guarded, &token, 1, "speaks TLS: say --tls-ca FILE"),
        (&guarded, &[], 1, "speaks TLS: say --tls-ca FILE"),
        (
            &guarded,
            &["--tls-ca", "stranger.pem"],
            1,
            "is from a CA that is not trusted here: say --tls-ca FILE",
        ),
        (
            &guarded,
            &["--tls-ca", "ca.pem", "--tls-domain", "other.example"],
            1,
            "is for 127.0.0.1, load.example, not for other.example: dial it by such a name, or say --tls-domain",
        ),
        (
            &guarded,
            &["--tls-ca", "ca.pem", "--tls-domain", "no name"],
            2,
            "--tls-domain: `no name` is no name",
        ),
        (&guarded, &["--tls-ca", "missing.pem"], 2, "cannot read missing.pem"),
        (&guarded, &["--tls-ca", "key.pem"], 2, "key.pem holds no certificate"),
        (
            &guarded,
            &["--tls-ca", "ca.pem", "--token-file", "empty"],
            2,
            "empty is empty; put the token there",
        ),
        (&open, &["--tls-ca", "ca.pem"], 1, "does not speak TLS: leave the --tls flags away"),
    ] {
        let list = ["node", "list", "--api", &api.api];
        let said = house.fails(code, &list, flags);
        assert!(said.contains(line), "{flags:?}: {said}");
    }
    house.says(&["node", "list", "--api", &open.api], &token);
    let named = ["--tls-ca", "ca.pem", "--tls-domain", "load.example", "--token-file", "token"];
    house.says(&["node", "list", "--api", &guarded.api], &named);
}

#[test]
fn an_agent_that_will_never_be_let_in_ends_with_one_line() {
    let house = House::new();
    let controller = house.controller(&SERVED);
    for (flags, line) in [
        (&["--tls-ca", "ca.pem"][..], "a token is needed here"),
        (&["--tls-ca", "ca.pem", "--token-file", "wrong"], "this is not the token"),
        (&["--tls-ca", "stranger.pem", "--token-file", "token"], "is not trusted here"),
        (&["--token-file", "token"], "speaks TLS"),
    ] {
        let said = house.fails(1, &["agent", "--name", "x", "--join", &controller.api], flags);
        assert!(said.contains(line), "{flags:?}: {said}");
    }
}

#[test]
fn the_token_may_come_from_the_environment() {
    let house = House::new();
    let mut controller = house.command(&["controller", "--api", "127.0.0.1:0"], &[]);
    controller.env("FRACAS_TOKEN", "s3cret");
    let controller = house.start(controller, "controller listens on ");
    let list = ["node", "list", "--api", &controller.api];
    for (value, status) in [("s3cret", 0), ("s3cred", 1), ("", 2)] {
        let output = house.command(&list, &[]).env("FRACAS_TOKEN", value).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "`{value}`: {}", text(&output.stderr));
    }
    house.says(&list, &["--token-file", "token"]);
    let output =
        house.command(&list, &["--token-file", "token"]).env("FRACAS_TOKEN", "s3cred").output().unwrap();
    assert!(output.status.success(), "a file that is named comes first");
}

/// The reason in a refusal.
fn reason(status: &Status) -> (Code, String) {
    (
        status.code(),
        status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default(),
    )
}

#[tokio::test]
async fn every_service_but_health_asks_for_the_token_and_says_why() {
    let house = House::new();
    let controller = house.controller(&["--token-file", "token"]);
    let proxy = house.proxy("127.0.0.1:1", &["--token-file", "token"]);
    for api in [&controller.api, &proxy.api] {
        let channel = Channel::from_shared(format!("http://{api}")).unwrap().connect().await.unwrap();
        let health =
            HealthClient::new(channel.clone()).check(tonic_health::pb::HealthCheckRequest::default()).await;
        assert_eq!(health.unwrap().into_inner().status, 1, "serving, and open");
        let long = tonic_health::pb::HealthCheckRequest { service: "x".repeat(2_000) };
        let refused = HealthClient::new(channel.clone()).check(long).await.unwrap_err();
        assert_eq!(
            reason(&refused),
            (Code::ResourceExhausted, "TOO_LONG".to_owned()),
            "strangers say little"
        );
        for (shown, wanted) in [
            (None, Err("TOKEN_MISSING")),
            (Some("Basic s3cret"), Err("TOKEN_MISSING")),
            (Some("Bearer s3cred"), Err("TOKEN_WRONG")),
            (Some("Bearer s3cret"), Ok(())),
        ] {
            let mut answers = Vec::new();
            let ask = |request: Request<()>| {
                let mut request = request;
                if let Some(shown) = shown {
                    request.metadata_mut().insert("authorization", shown.parse().unwrap());
                }
                request
            };
            let with = |request| Ok::<_, Status>(ask(request));
            let reflect = tonic_reflection::pb::v1::ServerReflectionRequest::default();
            let mut reflection = ServerReflectionClient::with_interceptor(channel.clone(), with);
            let reflected = reflection.server_reflection_info(tokio_stream::iter([reflect])).await;
            answers.push(("reflection", reflected.map(drop)));
            if api == &controller.api {
                let mut nodes = NodeServiceClient::with_interceptor(channel.clone(), with);
                answers.push(("nodes", nodes.list_nodes(v1::ListNodesRequest::default()).await.map(drop)));
                let mut agents = AgentServiceClient::with_interceptor(channel.clone(), with);
                // One that is let in is told that it did not say hello.
                let joined = agents.join(tokio_stream::iter([v1::JoinRequest::default()])).await.map(drop);
                let joined = joined.or_else(|why| match why.code() {
                    Code::FailedPrecondition => Ok(()),
                    _ => Err(why),
                });
                answers.push(("join", joined));
            } else {
                let mut proxies =
                    v1::proxy_service_client::ProxyServiceClient::with_interceptor(channel.clone(), with);
                let listed = proxies.list_proxies(v1::ListProxiesRequest::default()).await.map(drop);
                answers.push(("proxies", listed));
                let watched = proxies.watch_events(v1::WatchEventsRequest::default()).await.map(drop);
                answers.push(("watch", watched));
            }
            for (service, answer) in answers {
                let wanted = wanted.map_err(|reason| (Code::Unauthenticated, reason.to_owned()));
                assert_eq!(
                    answer.as_ref().copied().map_err(reason),
                    wanted,
                    "{service}, {shown:?}: {answer:?}"
                );
            }
        }
    }
}

#[test]
fn metrics_ask_for_the_token_and_health_does_not() {
    let house = House::new();
    let proxy = house.proxy("127.0.0.1:1", &SERVED);
    for (path, token, status) in [
        ("/metrics", None, "HTTP/1.1 401 "),
        ("/metrics", Some("s3cred"), "HTTP/1.1 401 "),
        ("/metrics", Some("s3cret"), "HTTP/1.1 200 "),
        ("/nothing", None, "HTTP/1.1 401 "),
        ("/healthz", None, "HTTP/1.1 200 "),
    ] {
        let answer = house.get(&proxy.api, path, token);
        assert!(answer.starts_with(status), "{path} {token:?}: {answer}");
        assert_eq!(
            answer.contains("fracas_proxy_injected_total"),
            status.contains("200") && path == "/metrics"
        );
        let challenged = answer.to_lowercase().contains("www-authenticate: bearer");
        assert_eq!(challenged, status.contains("401"), "{answer}");
    }
}

#[test]
fn a_limit_that_the_process_cannot_keep_is_refused() {
    let house = House::new();
    for (flags, line) in [
        (&["--api-connections", "100000000"][..], "--api-connections: at most "),
        (&["--api-connections", "0"], "--api-connections"),
        (&["--allow-host", "http://x"], "--allow-host: `http://x` is no host name"),
    ] {
        let said = house.fails(2, &["controller", "--api", "127.0.0.1:0"], flags);
        assert!(said.contains(line), "{said}");
    }
}

#[test]
fn both_versions_of_http_are_negotiated_where_both_are_served() {
    let house = House::new();
    let proxy = house.proxy("127.0.0.1:1", &SERVED);
    assert_eq!(house.tls(&proxy.api, &["h2", "http/1.1"]).1, "h2");
    assert_eq!(house.tls(&proxy.api, &["http/1.1"]).1, "http/1.1");
    let controller = house.controller(&SERVED);
    assert_eq!(house.tls(&controller.api, &["http/1.1", "h2"]).1, "h2", "only gRPC is served there");
}

#[test]
fn handshakes_that_stall_stop_no_other_client() {
    let house = House::new();
    let controller = house.controller(&SERVED);
    let list = ["node", "list", "--api", &controller.api];
    let mut stalled = Vec::new();
    // The second time it is more than the server keeps at a time.
    for count in [10, 300] {
        for index in 0..count {
            let mut client = TcpStream::connect(&controller.api).unwrap();
            // Every other one says the head of a record, whose rest never comes.
            if index % 2 == 0 {
                client.write_all(&[22, 3, 1, 2, 0]).unwrap();
            }
            stalled.push(client);
        }
        house.says(&list, &LET_IN);
    }
    assert_eq!(stalled[0].read(&mut [0; 1]).unwrap_or(0), 0, "the oldest was cut");
}

/// The status of a request through a proxy; 0 if there is no reply.
fn status_of(listen: &str) -> u16 {
    let Ok(mut stream) = TcpStream::connect(listen) else { return 0 };
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// A proxy that may have 256 files open, and where it listens.
fn proxy_of_256_files(house: &House, upstream: &str) -> (Server, String) {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 256 && exec \"$@\"", "sh", FRACAS]);
    command.args(["proxy", "--listen", "127.0.0.1:0", "--upstream", upstream, "--protocol", "http"]);
    command.args(["--api", "127.0.0.1:0", "--threads", "1"]).args(SERVED);
    command.current_dir(house.path()).env_remove("FRACAS_TOKEN");
    let proxy = house.start(command, ", API ");
    let listen = proxy.said.split("listens on ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    (proxy, listen)
}

#[test]
fn clients_of_the_api_that_say_nothing_stop_neither_the_data_nor_the_api() {
    let house = House::new();
    let origin = Origin::start(OriginSettings::default()).unwrap();
    let (proxy, listen) = proxy_of_256_files(&house, &origin.local_addr().to_string());
    let get = ["behavior", "get", "--api", &proxy.api];
    let (mut silent, mut shaken) = (Vec::new(), Vec::new());
    for index in 0..243 {
        match index % 3 {
            // Shakes hands, and then says nothing.
            0 => shaken.push(house.tls(&proxy.api, &["h2"])),
            1 => silent.push(TcpStream::connect(&proxy.api).unwrap()),
            _ => {
                let mut client = TcpStream::connect(&proxy.api).unwrap();
                client.write_all(&[22, 3, 1, 2, 0]).unwrap();
                silent.push(client);
            }
        }
    }
    let mut held: Vec<TcpStream> = Vec::new();
    for _ in 0..20 {
        held.push(TcpStream::connect(&listen).unwrap());
        assert_eq!(status_of(&listen), 200);
    }
    assert!(house.says(&get, &LET_IN).contains("default"));
    let figures = house.get(&proxy.api, "/metrics", Some("s3cret"));
    assert!(figures.contains("fracas_api_connections_limit 64"), "a quarter of 256: {figures}");
    let crowded = figures.lines().find(|line| line.contains("reason=\"crowded_out\"")).unwrap();
    let crowded: u32 = crowded.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(crowded >= 243 - 64, "{crowded}");
    drop((silent, shaken));
}

#[test]
fn traffic_that_takes_every_descriptor_does_not_stop_the_api() {
    let house = House::new();
    let origin = Origin::start(OriginSettings::default()).unwrap();
    let (proxy, listen) = proxy_of_256_files(&house, &origin.local_addr().to_string());
    // Who is turned away by a RST may hear of it before its connect has returned.
    let crowd: Vec<TcpStream> = (0..400).filter_map(|_| TcpStream::connect(&listen).ok()).collect();
    assert!(crowd.len() >= 64, "{} of 400 connected", crowd.len());
    assert!(house.says(&["behavior", "get", "--api", &proxy.api], &LET_IN).contains("default"));
    drop(crowd);
}

#[test]
fn an_address_for_others_needs_tls_and_a_token() {
    let house = House::new();
    // An address for documentation (RFC 5737), which no machine has: what is not refused cannot be bound.
    let controller = ["controller", "--api", "192.0.2.1:7400"];
    let proxy = ["proxy", "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", "--api", "192.0.2.1:7401"];
    for server in [&controller[..], &proxy] {
        for (flags, line) in [
            (&[][..], "lacks TLS and a token: add --tls-cert FILE, --tls-key FILE and --token-file FILE"),
            (&SERVED[..4], "lacks a token, without which everybody is let in: add --token-file FILE"),
            (&SERVED[4..], "lacks TLS, without which the token can be read on the way: add --tls-cert FILE"),
        ] {
            let said = house.fails(2, server, flags);
            assert!(said.contains(line) && said.contains("--insecure"), "{said}");
        }
        for flags in [&SERVED[..], &["--insecure"]] {
            let said = house.fails(1, server, flags);
            assert!(said.contains("cannot listen on 192.0.2.1"), "{said}");
        }
    }
}

#[test]
fn files_that_do_not_fit_end_the_start_with_one_line() {
    let house = House::new();
    let controller = ["controller", "--api", "127.0.0.1:0"];
    for (flags, line) in [
        (
            &["--tls-cert", "cert.pem", "--tls-key", "other-key.pem"][..],
            "the private key in other-key.pem does not belong to the certificate in cert.pem",
        ),
        (&["--tls-cert", "cert.pem"], "--tls-key"),
        (&["--token-file", "empty"], "empty is empty; put the token there"),
        (&["--token-file", "missing"], "cannot read the token from missing"),
    ] {
        let said = house.fails(2, &controller, flags);
        assert!(said.contains(line), "{flags:?}: {said}");
    }
    let proxy = ["proxy", "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1"];
    let said = house.fails(2, &proxy, &["--tls-ca", "ca.pem"]);
    assert!(said.contains("about the controller of --join"), "{said}");
    let said = house.fails(2, &["load", "http://127.0.0.1:1/"], &["--tls-ca", "ca.pem"]);
    assert!(said.contains("say where that is with --via"), "{said}");
}
