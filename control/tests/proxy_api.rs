//! `ProxyService` of a real `fracas proxy`: what is read can be applied again, and each field that is promised is there.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use fracas_dataplane::config::limits;
use fracas_proto::v1;
use fracas_proto::v1::EventKind;
use support::{Client, FRACAS, Proxy, get};
use tonic::{Code, Status};
use tonic_types::StatusExt;

fn mix(text: &str) -> Option<v1::RuleSet> {
    Some(v1::RuleSet { mix: text.to_owned(), ..v1::RuleSet::default() })
}

async fn apply(client: &mut Client, rules: Option<v1::RuleSet>) -> v1::ApplyRulesResponse {
    let changes = vec![v1::ProxyRules { proxy: "default".into(), rules, ..Default::default() }];
    client.apply_rules(v1::ApplyRulesRequest { changes, ..Default::default() }).await.unwrap().into_inner()
}

async fn proxy(client: &mut Client) -> v1::Proxy {
    let request = v1::GetProxyRequest { name: "default".into() };
    client.get_proxy(request).await.unwrap().into_inner().proxy.unwrap()
}

async fn stats(client: &mut Client) -> v1::ProxyStats {
    let request = v1::GetProxyStatsRequest { proxy: "default".into() };
    client.get_proxy_stats(request).await.unwrap().into_inner().stats.unwrap()
}

async fn lease(client: &mut Client, text: &str) -> v1::Lease {
    let request = v1::AcquireLeaseRequest {
        proxy: "default".into(),
        rules: mix(text),
        ttl: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        owner: "a test".into(),
        ..Default::default()
    };
    client.acquire_lease(request).await.unwrap().into_inner().lease.unwrap()
}

#[tokio::test]
async fn rules_that_are_read_can_be_applied_again_and_leases_are_not_among_them() {
    let fracas = Proxy::start();
    let mut client = fracas.client().await;
    let options = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    };
    let path = |path| v1::PathMatch { path: Some(path) };
    let rules = vec![
        v1::Rule {
            name: "slow".into(),
            behavior: "latency".into(),
            options: options(&[("latency", "200"), ("side", "reply")]),
            share_percent: Some(12.5),
            r#match: Some(v1::Match {
                client_cidrs: vec!["127.0.0.0/8".into()],
                methods: vec!["GET".into()],
                paths: vec![
                    path(v1::path_match::Path::Exact("/a*b".into())),
                    path(v1::path_match::Path::Prefix("/api/".into())),
                    path(v1::path_match::Path::Glob("/u/*/x".into())),
                ],
                headers: vec![v1::HeaderMatch { name: "x-test".into(), value: None }],
            }),
            ..Default::default()
        },
        v1::Rule {
            behavior: "throttle".into(),
            options: options(&[("rate", "8Mbit/s")]),
            ..Default::default()
        },
    ];
    let answer = apply(&mut client, Some(v1::RuleSet { rules, ..Default::default() })).await;
    lease(&mut client, "5:hang").await;
    let read = proxy(&mut client).await;
    assert_eq!(read.rules, answer.results[0].rules, "base rules only, as the change left them");
    let names: Vec<&str> = read.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["slow", "throttle-2"]);
    assert_eq!(read.rules[0].options, options(&[("jitter", "0"), ("side", "reply"), ("time", "200ms")]));
    assert_eq!(read.rules[1].options["rate"], "1MB/s");
    assert_eq!(read.rules[0].r#match.as_ref().unwrap().paths.len(), 3);
    let again =
        apply(&mut client, Some(v1::RuleSet { rules: read.rules.clone(), ..Default::default() })).await;
    assert_eq!(again.results[0].rules, read.rules);
    assert_eq!((again.results[0].previous_generation, again.results[0].leases), (read.generation, 1));
    let held = &proxy(&mut client).await.leases[0].rules[0];
    assert_eq!((held.name.as_str(), held.behavior.as_str(), held.share_percent), ("hang", "hang", Some(5.0)));
}

#[tokio::test]
async fn figures_tell_what_met_each_rule_and_ended_leases_stay_until_the_rules_change() {
    let fracas = Proxy::start();
    let mut client = fracas.client().await;
    apply(&mut client, mix("50:delay")).await;
    let options = BTreeMap::from([(
        "delay".to_owned(),
        v1::BehaviorOptions { values: BTreeMap::from([("time".to_owned(), "2ms".to_owned())]) },
    )]);
    apply(&mut client, Some(v1::RuleSet { options, ..mix("50:delay").unwrap() })).await;
    for _ in 0..40 {
        assert_eq!(get(&fracas.listen), 200);
    }
    let figures = stats(&mut client).await;
    let rule = &figures.rules[0];
    assert_eq!((rule.rule.as_str(), rule.lease_id.as_str(), rule.matched), ("delay", "", 40));
    assert_eq!((rule.acted, rule.acted), (rule.injected, figures.injected["delay"]));
    // σ = 3.2; within 5 σ.
    assert!((4..=36).contains(&rule.acted), "{}", rule.acted);
    let (asked, lateness) = (rule.asked.as_ref().unwrap(), rule.lateness.as_ref().unwrap());
    assert_eq!((asked.count, lateness.count), (rule.acted, rule.acted));
    assert!((2_000_000..2_003_000).contains(&asked.p50_ns), "{}", asked.p50_ns);

    let held = lease(&mut client, "error").await;
    assert!(get(&fracas.listen) >= 500);
    let request = v1::ReleaseLeaseRequest { lease_id: held.id.clone(), ..Default::default() };
    let released = client.release_lease(request).await.unwrap().into_inner();
    assert_eq!((released.rules[0].matched, released.rules[0].acted, released.rules[0].injected), (1, 1, 1));
    let figures = stats(&mut client).await;
    let ended = figures.rules.iter().find(|rule| rule.lease_id == held.id).unwrap();
    assert_eq!((ended.rule.as_str(), ended.acted), ("lease-1/error", 1));
    apply(&mut client, mix("normal")).await;
    assert!(stats(&mut client).await.rules.iter().all(|rule| rule.lease_id.is_empty()));

    let all = client.get_stats(v1::GetStatsRequest {}).await.unwrap().into_inner();
    assert_eq!(all.generation, proxy(&mut client).await.generation);
    assert!(all.workers.iter().all(|worker| worker.turns > 0 && worker.generation == all.generation));
}

#[tokio::test]
async fn a_lease_tells_when_it_was_acquired_expires_and_ends() {
    let fracas = Proxy::start();
    let mut client = fracas.client().await;
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let request = v1::AcquireLeaseRequest {
        proxy: "default".into(),
        rules: mix("hang"),
        ttl: seconds(60),
        starts_in: seconds(100),
        active_for: seconds(10),
        ..Default::default()
    };
    let held = client.acquire_lease(request.clone()).await.unwrap().into_inner().lease.unwrap();
    let of = |time: &Option<prost_types::Timestamp>| {
        let time = time.as_ref().unwrap();
        time.seconds * 1_000_000_000 + i64::from(time.nanos)
    };
    let acquired = of(&held.acquired_at);
    assert_eq!(held.state(), v1::LeaseState::Pending);
    assert_eq!(held.ttl, seconds(60));
    assert_eq!(of(&held.starts_at) - acquired, 100_000_000_000);
    assert_eq!(of(&held.expires_at) - acquired, 60_000_000_000, "unless it is renewed it never begins");
    assert_eq!(of(&held.ends_at) - acquired, 110_000_000_000);
    let renew = v1::RenewLeaseRequest { lease_id: held.id.clone(), ttl: seconds(3600), ..Default::default() };
    let renewed = client.renew_lease(renew).await.unwrap().into_inner().lease.unwrap();
    assert_eq!((renewed.ttl, renewed.state), (seconds(3600), held.state));
    // The wall clock may be set in between; the two instants are one on the monotonic clock.
    assert!((of(&renewed.expires_at) - of(&renewed.ends_at)).abs() < 1000);
    for _ in 0..11 {
        client.acquire_lease(request.clone()).await.unwrap();
    }
    let mut ids = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListLeasesRequest { page_size: 5, page_token, ..Default::default() };
        let page = client.list_leases(request).await.unwrap().into_inner();
        ids.extend(page.leases.into_iter().map(|lease| lease.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let expected: Vec<String> = (1..=12).map(|number| format!("0-{number}")).collect();
    assert_eq!(ids, expected, "oldest first, whatever the digits");
    let none = v1::AcquireLeaseRequest { rules: None, ..request };
    assert_eq!(client.acquire_lease(none).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn events_of_the_kinds_that_were_asked_for_come_and_no_others() {
    let fracas = Proxy::start();
    let mut client = fracas.client().await;
    let watch = |kinds: &[EventKind]| v1::WatchEventsRequest {
        kinds: kinds.iter().map(|kind| i32::from(*kind)).collect(),
        ..Default::default()
    };
    let few = [EventKind::NaturalFailure, EventKind::Changed];
    let mut few_of_them = client.watch_events(watch(&few)).await.unwrap().into_inner();
    let mut all = client.watch_events(watch(&[])).await.unwrap().into_inner();
    for stream in [&mut few_of_them, &mut all] {
        assert!(stream.message().await.unwrap().unwrap().events.is_empty(), "the stream stands");
    }
    let held = lease(&mut client, "error").await;
    assert!(get(&fracas.listen) >= 500);
    client
        .release_lease(v1::ReleaseLeaseRequest { lease_id: held.id.clone(), ..Default::default() })
        .await
        .unwrap();
    // Nobody listens there: the next connection fails by itself.
    let update = v1::UpdateProxyRequest {
        name: "default".into(),
        upstream: Some("127.0.0.1:1".into()),
        ..Default::default()
    };
    let updated = client.update_proxy(update).await.unwrap().into_inner();
    assert_eq!(updated.proxy.unwrap().generation, updated.change.unwrap().generation);
    get(&fracas.listen);
    let mut told = Vec::new();
    while !told.iter().any(|event: &v1::Event| event.kind() == EventKind::NaturalFailure) {
        told.extend(all.message().await.unwrap().unwrap().events);
    }
    told.sort_by_key(|event| event.monotonic_ns);
    let kinds: Vec<EventKind> = told.iter().map(v1::Event::kind).collect();
    use EventKind::{Changed, Injected, LeaseAcquired, LeaseEnded, LeaseStarted, NaturalFailure};
    assert_eq!(kinds, [LeaseAcquired, LeaseStarted, Injected, LeaseEnded, Changed, NaturalFailure]);
    let injected = &told[2];
    assert_eq!((injected.connection, injected.exchange), (1, 1), "both count from 1");
    assert_eq!((injected.rule.as_str(), &injected.lease_id), ("lease-1/error", &held.id));
    assert!(injected.detail.starts_with("replied 50"), "{}", injected.detail);
    assert!(injected.generation > 0 && injected.asked.is_none());
    assert_eq!(told[3].detail, "released: error");
    assert_eq!(told[4].detail, "upstream 127.0.0.1:1");
    assert_eq!((told[5].connection, told[5].detail.as_str()), (2, "connect: refused"));
    let figures = stats(&mut client).await;
    assert_eq!((figures.natural_failures["connect_failures"], figures.injected["error"]), (1, 1));

    let mut told = Vec::new();
    while told.len() < 2 {
        told.extend(
            few_of_them.message().await.unwrap().unwrap().events.into_iter().map(|event| event.kind()),
        );
    }
    assert_eq!(told, [Changed, NaturalFailure]);
    let wrong = v1::WatchEventsRequest { kinds: vec![99], ..Default::default() };
    assert_eq!(client.watch_events(wrong).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_changed_protocol_and_a_stale_generation_are_answered_as_promised() {
    let fracas = Proxy::start();
    let mut client = fracas.client().await;
    let before = proxy(&mut client).await;
    let update = |protocol: &str, expected_generation| v1::UpdateProxyRequest {
        name: "default".into(),
        protocol: Some(protocol.into()),
        expected_generation,
        ..Default::default()
    };
    let updated = client.update_proxy(update("tcp", Some(before.generation))).await.unwrap().into_inner();
    assert_eq!(updated.proxy.unwrap().protocol, "tcp");
    let stale = client.update_proxy(update("http", Some(before.generation))).await.unwrap_err();
    assert_eq!(stale.code(), Code::Aborted);
    assert_eq!(client.update_proxy(update("smtp", None)).await.unwrap_err().code(), Code::InvalidArgument);
    let deleted =
        client.delete_proxy(v1::DeleteProxyRequest { name: "default".into(), ..Default::default() });
    let change = deleted.await.unwrap().into_inner().change.unwrap();
    assert_eq!(change.generation, before.generation + 2, "every change is a generation of its own");
}

#[tokio::test]
async fn behaviors_say_which_options_are_needed_and_what_lifting_them_does() {
    let fracas = Proxy::start();
    let mut client = fracas.client().await;
    let kinds =
        client.list_behavior_kinds(v1::ListBehaviorKindsRequest::default()).await.unwrap().into_inner();
    let kind = |name: &str| kinds.behavior_kinds.iter().find(|kind| kind.name == name).unwrap();
    let needed: Vec<&str> = kind("throttle")
        .options
        .iter()
        .filter(|option| option.required)
        .map(|option| option.name.as_str())
        .collect();
    assert_eq!(needed, ["rate"]);
    assert!(kind("delay").options.iter().all(|option| !option.required));
    assert_eq!(kind("delay").live_effect_detail, "what is held leaves when it was due");
    let rules = v1::RuleSet {
        rules: vec![v1::Rule { behavior: "throttle".into(), ..Default::default() }],
        ..Default::default()
    };
    let changes = vec![v1::ProxyRules { proxy: "default".into(), rules: Some(rules), ..Default::default() }];
    let refused =
        client.apply_rules(v1::ApplyRulesRequest { changes, ..Default::default() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "as `required` says");
}

#[tokio::test]
async fn behavior_get_shows_options_and_what_each_rule_met() {
    let fracas = Proxy::start();
    let run = |args: &[&str]| {
        let output =
            std::process::Command::new(FRACAS).args(args).args(["--api", &fracas.api]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["behavior", "set", "default", "100:delay", "--delay-time", "3ms"]);
    assert_eq!(get(&fracas.listen), 200);
    let text = run(&["behavior", "get", "default"]);
    assert!(text.contains("  100 % delay time=3ms: acted on 1 of 1 (100.00 %), 1 injected"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&run(&["behavior", "get", "--json"])).unwrap();
    let rule = &json[0]["rules"][0];
    assert_eq!((&rule["options"]["time"], &rule["options"]["side"]), (&"3ms".into(), &"request".into()));
    assert_eq!((&rule["matched"], &rule["acted"], &rule["injected"]), (&1.into(), &1.into(), &1.into()));
}

#[tokio::test]
async fn a_proxy_has_the_limits_on_silence_that_it_was_given_or_those_of_the_manual() {
    let fracas = Proxy::start();
    let mut client = fracas.client().await;
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let create = |name: &str, given: v1::Proxy| v1::CreateProxyRequest {
        proxy: Some(v1::Proxy {
            name: name.into(),
            listen: "127.0.0.1:0".into(),
            upstream: "127.0.0.1:1".into(),
            ..given
        }),
        ..Default::default()
    };
    let limits = |proxy: &v1::Proxy| {
        [proxy.idle_timeout, proxy.linger, proxy.half_close, proxy.keepalive, proxy.resolve]
    };
    let made = client.create_proxy(create("silent", v1::Proxy::default())).await.unwrap().into_inner();
    assert_eq!(limits(&made.proxy.unwrap()), [None, seconds(5), seconds(60), seconds(60), seconds(30)]);
    let given = v1::Proxy {
        idle_timeout: seconds(600),
        linger: seconds(0),
        half_close: seconds(1),
        keepalive: seconds(0),
        resolve: seconds(2),
        ..Default::default()
    };
    let made = client.create_proxy(create("given", given.clone())).await.unwrap().into_inner();
    assert_eq!(limits(&made.proxy.unwrap()), limits(&given));
    let changed = v1::UpdateProxyRequest {
        name: "silent".into(),
        idle_timeout: seconds(60),
        linger: seconds(3),
        half_close: seconds(2),
        keepalive: seconds(0),
        resolve: seconds(0),
        ..Default::default()
    };
    let updated = client.update_proxy(changed).await.unwrap().into_inner().proxy.unwrap();
    assert_eq!(limits(&updated), [seconds(60), seconds(3), seconds(2), seconds(0), seconds(0)]);
    let one =
        v1::UpdateProxyRequest { name: "silent".into(), idle_timeout: seconds(0), ..Default::default() };
    let updated = client.update_proxy(one).await.unwrap().into_inner().proxy.unwrap();
    assert_eq!(limits(&updated), [None, seconds(3), seconds(2), seconds(0), seconds(0)], "the others stay");
}

#[tokio::test]
async fn the_times_of_a_proxy_have_the_bounds_that_flags_and_config_have() {
    let fracas = Proxy::start();
    let mut client = fracas.client().await;
    let time = |time: Duration| Some(prost_types::Duration::try_from(time).unwrap());
    let negative = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let nonsense = Some(prost_types::Duration { seconds: i64::MAX, nanos: i32::MAX });
    for limit in [
        limits::CONNECT_TIMEOUT,
        limits::RESOLVE,
        limits::IDLE_TIMEOUT,
        limits::LINGER,
        limits::HALF_CLOSE,
        limits::KEEPALIVE,
    ] {
        let just = Duration::from_nanos(1);
        let mut cases = vec![
            (time(Duration::ZERO), limit.takes_zero),
            (time(limit.min), true),
            (time(limit.min - just), false),
            (time(limit.max), true),
            (time(limit.max + just), false),
            (negative, false),
            (nonsense, false),
        ];
        cases.dedup();
        for (given, fits) in cases {
            let [connect_timeout, resolve, idle_timeout, linger, half_close, keepalive] =
                ["connect_timeout", "resolve", "idle_timeout", "linger", "half_close", "keepalive"]
                    .map(|name| given.filter(|_| name == limit.name));
            let proxy = v1::Proxy {
                name: "other".into(),
                listen: "127.0.0.1:0".into(),
                upstream: "127.0.0.1:1".into(),
                connect_timeout,
                resolve,
                idle_timeout,
                linger,
                half_close,
                keepalive,
                ..Default::default()
            };
            let update = v1::UpdateProxyRequest {
                name: "default".into(),
                connect_timeout,
                resolve,
                idle_timeout,
                linger,
                half_close,
                keepalive,
                ..Default::default()
            };
            let create = v1::CreateProxyRequest { proxy: Some(proxy), ..Default::default() };
            let created = client.create_proxy(create).await.map(drop).map_err(|why| field(&why));
            let updated = client.update_proxy(update).await.map(drop).map_err(|why| field(&why));
            let refused = |path: &str| Err((Code::InvalidArgument, format!("{path}{}", limit.name)));
            assert_eq!(created, if fits { Ok(()) } else { refused("proxy.") }, "{} {given:?}", limit.name);
            assert_eq!(updated, if fits { Ok(()) } else { refused("") }, "{} {given:?}", limit.name);
            if fits {
                let delete = v1::DeleteProxyRequest { name: "other".into(), ..Default::default() };
                client.delete_proxy(delete).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_though_its_upstream_is_not_found_any_more() {
    let fracas = Proxy::start();
    let mut client = fracas.client().await;
    let create = |upstream: &str| v1::CreateProxyRequest {
        proxy: Some(v1::Proxy {
            name: "other".into(),
            listen: "127.0.0.1:0".into(),
            upstream: upstream.into(),
            ..Default::default()
        }),
        request_id: "create".into(),
        ..Default::default()
    };
    let update = |upstream: &str| v1::UpdateProxyRequest {
        name: "other".into(),
        upstream: Some(upstream.into()),
        request_id: "update".into(),
        ..Default::default()
    };
    // No port: it is not found without a resolver.
    let (found, lost) = ("127.0.0.1:1", "127.0.0.1");
    let created = client.create_proxy(create(found)).await.unwrap().into_inner();
    assert_eq!(client.create_proxy(create(lost)).await.unwrap().into_inner(), created);
    let updated = client.update_proxy(update(found)).await.unwrap().into_inner();
    assert_eq!(client.update_proxy(update(lost)).await.unwrap().into_inner(), updated);
    let anew = v1::UpdateProxyRequest { request_id: String::new(), ..update(lost) };
    assert_eq!(client.update_proxy(anew).await.unwrap_err().code(), Code::InvalidArgument);
}

/// The field that a refusal blames.
fn field(refusal: &Status) -> (Code, String) {
    let details = refusal.get_error_details();
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    (refusal.code(), violations.first().map(|violation| violation.field.clone()).unwrap_or_default())
}

#[tokio::test]
async fn a_refusal_names_the_field_that_is_wrong() {
    let fracas = Proxy::start_with(&["--insecure"]);
    let mut client = fracas.client().await;
    let blames = |path: &str| (Code::InvalidArgument, path.to_owned());
    let rules = |name: &str, count: usize| {
        let rules = (0..count).map(|index| v1::Rule {
            name: format!("{name}{index}"),
            behavior: "hang".into(),
            share_percent: Some(1.0),
            ..Default::default()
        });
        Some(v1::RuleSet { rules: rules.collect(), ..Default::default() })
    };
    let create = |listen: &str, rules| v1::CreateProxyRequest {
        proxy: Some(v1::Proxy {
            name: "other".into(),
            listen: listen.into(),
            upstream: "127.0.0.1:1".into(),
            enabled: Some(true),
            ..Default::default()
        }),
        rules,
        ..Default::default()
    };
    for (listen, rules, path) in [
        ("127.0.0.1:0", rules("hang", 65), "rules"),
        ("127.0.0.1:0", rules("a/b", 1), "rules"),
        // An address for documentation (RFC 5737), which no machine has.
        ("192.0.2.1:1", None, "proxy.listen"),
    ] {
        let refused = client.create_proxy(create(listen, rules)).await.unwrap_err();
        assert_eq!(field(&refused), blames(path), "{refused}");
    }
    for (path, spoil) in [
        ("proxy.name", (|proxy: &mut v1::Proxy| proxy.name = "a\nb".into()) as fn(&mut v1::Proxy)),
        ("proxy.name", |proxy: &mut v1::Proxy| proxy.name.clear()),
        ("proxy.connect_timeout", |proxy: &mut v1::Proxy| proxy.connect_timeout = Some(Default::default())),
    ] {
        let mut request = create("127.0.0.1:0", None);
        request.proxy.iter_mut().for_each(spoil);
        let refused = client.create_proxy(request).await.unwrap_err();
        assert_eq!(field(&refused), blames(path), "{refused}");
    }
    let mut scoped = rules("hang", 1);
    scoped.iter_mut().for_each(|set| set.rules[0].scope = 99);
    let refused = client.create_proxy(create("127.0.0.1:0", scoped)).await.unwrap_err();
    assert_eq!(field(&refused), blames("rules.rules[0].scope"), "{refused}");
    client.create_proxy(create("127.0.0.1:0", None)).await.unwrap();
    for wrong in [rules("hang", 65), rules("a/b", 1)] {
        let change = |proxy: &str, rules| v1::ProxyRules { proxy: proxy.into(), rules, ..Default::default() };
        let changes = vec![change("default", rules("hang", 1)), change("other", wrong)];
        let request = v1::ApplyRulesRequest { changes, ..Default::default() };
        let refused = client.apply_rules(request).await.unwrap_err();
        assert_eq!(field(&refused), blames("changes[1].rules"), "{refused}");
    }
    let held =
        v1::AcquireLeaseRequest { proxy: "default".into(), rules: rules("lease", 1), ..Default::default() };
    client.acquire_lease(held).await.unwrap();
    let changes =
        vec![v1::ProxyRules { proxy: "default".into(), rules: rules("hang", 64), ..Default::default() }];
    let refused =
        client.apply_rules(v1::ApplyRulesRequest { changes, ..Default::default() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "only with its lease are they too many: {refused}");
}

#[tokio::test]
async fn a_page_token_is_of_its_list_alone() {
    let fracas = Proxy::start();
    let mut client = fracas.client().await;
    for text in ["5:hang", "6:hang"] {
        lease(&mut client, text).await;
    }
    let kinds = v1::ListBehaviorKindsRequest { page_size: 1, ..Default::default() };
    let token = client.list_behavior_kinds(kinds).await.unwrap().into_inner().next_page_token;
    assert!(!token.is_empty());
    let leases = |page_token: &str, proxy: &str| v1::ListLeasesRequest {
        page_size: 1,
        page_token: page_token.into(),
        proxy: proxy.into(),
    };
    let of_leases = client.list_leases(leases("", "")).await.unwrap().into_inner().next_page_token;
    assert_eq!(client.list_leases(leases(&of_leases, "")).await.unwrap().into_inner().leases.len(), 1);
    let proxies =
        |page_token: &str| v1::ListProxiesRequest { page_token: page_token.into(), ..Default::default() };
    for refused in [
        client.list_proxies(proxies(&token)).await.map(drop),
        client.list_proxies(proxies(&of_leases)).await.map(drop),
        client.list_leases(leases(&token, "")).await.map(drop),
        client.list_leases(leases(&of_leases, "default")).await.map(drop),
    ] {
        let status = refused.unwrap_err();
        let reason = status.get_error_details().error_info().unwrap().reason.clone();
        assert_eq!((status.code(), reason.as_str()), (Code::InvalidArgument, "INVALID_PAGE_TOKEN"));
    }
}

#[test]
fn behaviors_are_listed_without_a_proxy() {
    let fracas = Proxy::start();
    let list = |api: &[&str]| {
        let output =
            std::process::Command::new(FRACAS).args(["behavior", "list"]).args(api).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, alone) = list(&[]);
    assert_eq!(code, Some(0));
    assert!(alone.contains("delay") && alone.contains("--delay-time"), "{alone}");
    assert_eq!(list(&["--api", &fracas.api]), (Some(0), alone), "the same table");
    assert_eq!(list(&["--api", "127.0.0.1:1"]).0, Some(1));
}
