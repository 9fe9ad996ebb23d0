//! How much one request may say: each list and each text that is kept has a limit, and whoever passes it is told which.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write;

use fracas_proto::v1;
use fracas_proto::v1::agent_service_client::AgentServiceClient;
use fracas_proto::v1::join_request::Message;
use fracas_proto::v1::node_service_client::NodeServiceClient;
use fracas_proto::v1::run_service_client::RunServiceClient;
use prost_types::Duration;
use support::{Controller, Proxy};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

/// What a refusal blames: the path before the first colon of its message.
fn blames<T>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.map(drop).unwrap_err();
    assert!(status.message().len() < 4_096 && !status.message().contains('\n'), "one short line");
    (status.code(), status.message().split(": ").next().unwrap_or_default().to_owned())
}

fn invalid(field: &str) -> (Code, String) {
    (Code::InvalidArgument, field.to_owned())
}

#[tokio::test]
async fn a_name_that_is_repeated_is_one_name_and_too_many_are_refused() {
    let fracas = Proxy::start();
    let mut client = fracas.client().await;
    let names = |count| vec!["default".to_owned(); count];
    let reset = |proxies| v1::ResetProxiesRequest { proxies, ..Default::default() };
    let done = client.reset_proxies(reset(names(4_096))).await.unwrap().into_inner();
    assert_eq!(done.proxies, ["default"]);
    assert_eq!(blames(client.reset_proxies(reset(names(300_000))).await), invalid("proxies"));
    let watch = |proxies| v1::WatchEventsRequest { proxies, ..Default::default() };
    assert!(client.watch_events(watch(names(4_096))).await.is_ok());
    assert_eq!(blames(client.watch_events(watch(names(4_097))).await), invalid("proxies"));
    let changes = vec![v1::ProxyRules { proxy: "default".into(), ..Default::default() }; 4_097];
    let apply = v1::ApplyRulesRequest { changes, ..Default::default() };
    assert_eq!(blames(client.apply_rules(apply).await), invalid("changes"));
}

#[tokio::test]
async fn rules_are_counted_before_they_are_read() {
    let fracas = Proxy::start();
    let mut client = fracas.client().await;
    let hang = || v1::Rule { behavior: "hang".into(), ..Default::default() };
    let long = "x".repeat(1 << 20);
    let options = |name: &str, text: &str| BTreeMap::from([(name.to_owned(), text.to_owned())]);
    let set = |rule: v1::Rule| v1::RuleSet { rules: vec![rule], ..Default::default() };
    let matching = |r#match| set(v1::Rule { r#match: Some(r#match), ..hang() });
    let many = |text: &str| vec![text.to_owned(); 100_000];
    for (rules, field) in [
        (v1::RuleSet { rules: vec![hang(); 100_000], ..Default::default() }, "rules"),
        (v1::RuleSet { mix: "0:delay,".repeat(400_000), ..Default::default() }, "rules.mix"),
        (set(v1::Rule { name: long.clone(), ..hang() }), "rules.rules[0].name"),
        (set(v1::Rule { name: "\u{1b}[2J".into(), ..hang() }), "rules.rules[0].name"),
        (set(v1::Rule { group: "a\nb".into(), ..hang() }), "rules.rules[0].group"),
        (
            set(v1::Rule {
                behavior: "delay".into(),
                options: options("time", &format!("1ms{}", " ".repeat(1 << 20))),
                ..Default::default()
            }),
            "rules.rules[0].options[time]",
        ),
        (
            set(v1::Rule { options: (0..65).map(|n| (n.to_string(), String::new())).collect(), ..hang() }),
            "rules.rules[0].options",
        ),
        (matching(v1::Match { methods: many("GET"), ..Default::default() }), "rules.rules[0].match"),
        (matching(v1::Match { client_cidrs: many("::/0"), ..Default::default() }), "rules.rules[0].match"),
    ] {
        let acquire =
            v1::AcquireLeaseRequest { proxy: "default".into(), rules: Some(rules), ..Default::default() };
        assert_eq!(blames(client.acquire_lease(acquire).await), invalid(field));
    }
    for owner in [long, "a\u{7}".to_owned()] {
        let acquire = v1::AcquireLeaseRequest {
            proxy: "default".into(),
            rules: Some(set(hang())),
            owner,
            ..Default::default()
        };
        assert_eq!(blames(client.acquire_lease(acquire).await), invalid("owner"));
    }
    let proxy = v1::Proxy {
        name: "other".into(),
        listen: "127.0.0.1:0".into(),
        upstream: "127.0.0.1:1".into(),
        source_addresses: many("127.0.0.2"),
        ..Default::default()
    };
    let create = v1::CreateProxyRequest { proxy: Some(proxy), ..Default::default() };
    assert_eq!(blames(client.create_proxy(create).await), invalid("proxy.source_addresses"));
}

#[tokio::test]
async fn a_run_that_says_too_much_is_refused_before_it_is_queued() {
    let controller = Controller::start_with(&[]);
    let mut client = RunServiceClient::connect(format!("http://{}", controller.api)).await.unwrap();
    let file = |more: &str| format!("target: http://127.0.0.1:1/\nphases: [{{rate: 1, for: 1s}}]\n{more}\n");
    let listed = |head: &str, count: usize, item: &dyn Fn(usize) -> String| {
        let mut text = head.to_owned();
        (0..count).for_each(|number| _ = writeln!(text, "  {}", item(number)));
        text
    };
    for (more, says) in [
        (listed("source_addresses:\n", 70_000, &|_| "- ::1".to_owned()), "70000 addresses are too many"),
        (listed("headers:\n", 40_000, &|number| format!("a{number}: b")), "40000 headers are too many"),
        (format!("headers: {{a: {}}}", "b".repeat(70_000)), "have 70001 bytes"),
        ("name: \"\\e[2J\"".to_owned(), "control character"),
    ] {
        let request = v1::SubmitRunRequest { file_text: file(&more), ..Default::default() };
        let status = client.submit_run(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(says) && !status.message().contains('\n'), "{}", status.message());
    }
    let submit = |request: v1::SubmitRunRequest| v1::SubmitRunRequest { file_text: file(""), ..request };
    let time = |seconds| Some(Duration { seconds, nanos: 0 });
    for (request, field) in [
        (v1::SubmitRunRequest { file_name: "\u{1b}]0;x\u{7}.yml".into(), ..Default::default() }, "file_name"),
        (v1::SubmitRunRequest { start_within: time(0), ..Default::default() }, "start_within"),
        (v1::SubmitRunRequest { start_within: time(-1), ..Default::default() }, "start_within"),
        (v1::SubmitRunRequest { start_within: time(30 * 86_400 + 1), ..Default::default() }, "start_within"),
        (
            v1::SubmitRunRequest { labels: [("a".into(), "\u{1b}".into())].into(), ..Default::default() },
            "labels[a]",
        ),
    ] {
        assert_eq!(blames(client.submit_run(submit(request)).await), invalid(field));
    }
    let runs = client.list_runs(v1::ListRunsRequest::default()).await.unwrap().into_inner().runs;
    assert_eq!(runs, [], "none of them is queued");
    let states = vec![v1::RunState::Queued.into(); 1_000_000];
    assert!(client.list_runs(v1::ListRunsRequest { states, ..Default::default() }).await.is_ok());
    let reason = "x".repeat(1_025);
    let cancel = v1::CancelRunRequest { run_id: "x".into(), reason, ..Default::default() };
    assert_eq!(blames(client.cancel_run(cancel).await), invalid("reason"));
}

#[tokio::test]
async fn a_message_of_a_node_that_is_long_is_read_and_one_that_is_none_ends_its_session() {
    let controller = Controller::start_with(&[]);
    let mut client = AgentServiceClient::connect(format!("http://{}", controller.api)).await.unwrap();
    let identity = v1::NodeIdentity {
        name: "a".into(),
        uid: "1".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..Default::default()
    };
    let say = |message| v1::JoinRequest { message: Some(message) };
    let hello = say(Message::Hello(v1::Hello { identity: Some(identity), ..Default::default() }));
    let long = "x".repeat(1 << 20);
    let error = say(Message::Error(v1::SessionError { message: long, ..Default::default() }));
    let interval_v1 = vec![0; 1 << 20];
    let of_no_run = say(Message::Interval(v1::Interval { interval_v1, ..Default::default() }));
    let none = v1::JoinRequest { message: None };
    let (said, words) = mpsc::channel(4);
    said.send(hello).await.unwrap();
    let mut told = client.join(ReceiverStream::new(words)).await.unwrap().into_inner();
    assert!(told.message().await.unwrap().is_some(), "welcome");
    said.send(error).await.unwrap();
    let mut nodes = NodeServiceClient::connect(format!("http://{}", controller.api)).await.unwrap();
    let listed = nodes.list_nodes(v1::ListNodesRequest::default()).await.unwrap().into_inner().nodes;
    assert_eq!(listed.len(), 1);
    said.send(of_no_run).await.unwrap();
    said.send(none).await.unwrap();
    while let Ok(Some(_)) = told.message().await {}
}
