//! What the handle tells of changes and leases: events in their order, generations, what ended rules did.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::time::Duration;

use fracas_dataplane::behavior::Rule;
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::leases::Term;
use fracas_dataplane::proxy::{
    EndReason, EventKind, LeaseRequest, ProxyError, ProxySpec, ProxyUpdate, RulesChange, Watcher,
};
use support::{HttpServer, Proxy, create, get, rules};

fn lease(mix: &str, term: Term) -> LeaseRequest {
    LeaseRequest { proxy: "test".into(), rules: rules(mix, &[]), owner: "a test".into(), term }
}

fn ttl(millis: u64) -> Term {
    Term { ttl: Some(Duration::from_millis(millis)), ..Term::default() }
}

/// What is told until an event with this beginning of its words has come.
fn told_until(watcher: &Watcher, last: &str) -> Vec<(EventKind, String)> {
    let mut told = Vec::new();
    loop {
        let events = watcher.recv_timeout(Duration::from_secs(60)).expect("it is told");
        told.extend(events.into_iter().map(|event| (event.kind, event.detail.to_string())));
        if told.iter().any(|(_, detail)| detail.starts_with(last)) {
            return told;
        }
    }
}

#[test]
fn changes_and_leases_are_told_in_their_order_with_what_they_are() {
    use EventKind::{Changed, LeaseAcquired, LeaseEnded, LeaseStarted};
    let server = HttpServer::start("hello");
    let proxy = Proxy::start(server.address, Protocol::Http, Vec::new());
    let handle = proxy.handle();
    let watcher = handle.watch(1024);
    create(&handle, "other", server.address, Protocol::Tcp, Vec::new());
    proxy.apply(rules("20:delay,5:error", &[]));
    let (given, _) = handle.acquire(lease("10:hang", ttl(60_000))).unwrap();
    handle.release(&given.id).unwrap();
    let pending = Term { starts_in: Duration::from_secs(3600), ..ttl(50) };
    handle.acquire(lease("abort", pending)).unwrap();
    let told = told_until(&watcher, "expired");
    let expected = [
        (Changed, "created: normal"),
        (Changed, "20:delay,5:error"),
        (LeaseAcquired, "10:hang"),
        (LeaseStarted, "10:hang"),
        (LeaseEnded, "released: 10:hang"),
        (LeaseAcquired, "abort"),
        (LeaseEnded, "expired: abort"),
    ];
    assert_eq!(told, expected.map(|(kind, detail)| (kind, detail.to_owned())));

    let window = Term { ttl: None, active_for: Some(Duration::from_millis(50)), ..Term::default() };
    handle.acquire(lease("hang", window)).unwrap();
    told_until(&watcher, "reached its end");
    handle.acquire(lease("hang", ttl(60_000))).unwrap();
    let applied = handle.reset(&["test".to_owned(), "test".to_owned()]).unwrap();
    assert_eq!((applied.proxies.len(), applied.proxies[0].leases_ended), (1, 1));
    let update = ProxyUpdate { enabled: Some(false), ..ProxyUpdate::default() };
    handle.update("other", update).unwrap();
    handle.acquire(lease("hang", ttl(60_000))).unwrap();
    let deleted = handle.delete("test", None).unwrap();
    assert_eq!(deleted.proxies[0].leases_ended, 1);
    let told = told_until(&watcher, "deleted");
    let expected = [
        (LeaseAcquired, "hang"),
        (LeaseStarted, "hang"),
        (LeaseEnded, "reset: hang"),
        (Changed, "reset: normal"),
        (Changed, "switched off"),
        (LeaseAcquired, "hang"),
        (LeaseStarted, "hang"),
        (LeaseEnded, "proxy deleted: hang"),
        (Changed, "deleted"),
    ];
    assert_eq!(told, expected.map(|(kind, detail)| (kind, detail.to_owned())));
    let reasons: Vec<EndReason> = handle.ended_leases().iter().map(|end| end.reason).collect();
    assert_eq!(
        reasons,
        [
            EndReason::Released,
            EndReason::Expired,
            EndReason::ReachedEnd,
            EndReason::Reset,
            EndReason::Deleted
        ]
    );
}

#[test]
fn every_change_is_a_generation_that_workers_apply_and_callers_can_expect() {
    let server = HttpServer::start("hello");
    let proxy = Proxy::start(server.address, Protocol::Http, Vec::new());
    let handle = proxy.handle();
    let mut client = proxy.connect();
    assert_eq!(get(&mut client, "/").unwrap().0, 200);
    let before = handle.get("test").unwrap().generation;
    let change = |expected| RulesChange {
        proxy: "test".into(),
        rules: rules("error", &[("error", "codes", "503")]),
        expected_generation: expected,
    };
    let applied = handle.apply(vec![change(Some(before))]).unwrap();
    assert_eq!(applied.generation, before + 1);
    let met = &applied.proxies[0];
    assert_eq!((met.previous_generation, met.connections), (before, 1));
    assert!(matches!(handle.apply(vec![change(Some(before))]), Err(ProxyError::Stale { .. })));
    let update = |expected| ProxyUpdate {
        connect_timeout: Some(Duration::from_secs(3)),
        expected_generation: expected,
        ..ProxyUpdate::default()
    };
    assert!(matches!(handle.update("test", update(Some(before))), Err(ProxyError::Stale { .. })));
    let (info, applied) = handle.update("test", update(Some(before + 1))).unwrap();
    assert_eq!(
        (info.generation, applied.generation, handle.generation()),
        (before + 2, before + 2, before + 2)
    );
    let workers: Vec<u64> = handle.stats().unwrap().workers.iter().map(|worker| worker.generation).collect();
    assert_eq!(workers, [before + 2; 2]);
    assert!(matches!(handle.delete("test", Some(before)), Err(ProxyError::Stale { .. })));
    let deleted = handle.delete("test", Some(before + 2)).unwrap();
    assert_eq!((deleted.generation, deleted.proxies[0].connections), (before + 3, 1));
}

#[test]
fn a_new_protocol_is_for_new_connections_unless_a_rule_needs_the_old_one() {
    let server = HttpServer::start("hello");
    let proxy = Proxy::start(server.address, Protocol::Tcp, Vec::new());
    let handle = proxy.handle();
    let mut earlier = proxy.connect();
    assert_eq!(get(&mut earlier, "/").unwrap().0, 200);
    let to = |protocol| ProxyUpdate { protocol: Some(protocol), ..ProxyUpdate::default() };
    handle.update("test", to(Protocol::Http)).unwrap();
    let mut by_path = rules("error", &[("error", "codes", "503")]);
    by_path[0].matcher.paths.push("/x".parse().unwrap());
    proxy.apply(by_path);
    let mut client = proxy.connect();
    assert_eq!(get(&mut client, "/y").unwrap().0, 200);
    assert_eq!(get(&mut client, "/x").unwrap().0, 503);
    assert_eq!(get(&mut earlier, "/x").unwrap().0, 200, "nobody knows where its messages begin");
    let refused = handle.update("test", to(Protocol::Tcp)).unwrap_err();
    assert!(matches!(refused, ProxyError::Rules { .. }), "{refused}");
    assert_eq!(handle.get("test").unwrap().spec.protocol, Protocol::Http, "and nothing is changed");
    // Back again: a live connection stays in step, and what comes now is plain.
    proxy.apply(Vec::new());
    handle.update("test", to(Protocol::Tcp)).unwrap();
    assert_eq!(get(&mut client, "/x").unwrap().0, 200);
    let mut plain = proxy.connect();
    assert_eq!(get(&mut plain, "/x").unwrap().0, 200);
}

#[test]
fn what_an_ended_lease_did_stays_until_the_rules_are_changed() {
    let server = HttpServer::start("hello");
    let base = rules("delay", &[("delay", "time", "1ms")]);
    let proxy = Proxy::start(server.address, Protocol::Http, base.clone());
    let handle = proxy.handle();
    let (given, _) = handle.acquire(lease("error", ttl(60_000))).unwrap();
    let mut client = proxy.connect();
    assert!(get(&mut client, "/").unwrap().0 >= 500);
    let info = handle.get("test").unwrap();
    assert_eq!(info.spec.rules, base, "the base rules are told apart from those in force");
    assert_eq!(info.rules.len(), 2);
    let stats = handle.stats().unwrap();
    let leases: Vec<_> = stats.proxies["test"].rules.iter().map(|rule| rule.lease.as_deref()).collect();
    assert_eq!(leases, [None, Some(given.id.as_str())]);
    let (end, _) = handle.release(&given.id).unwrap();
    assert_eq!((end.rules[0].matched, end.rules[0].acted, end.rules[0].injected), (1, 1, 1));
    let ended = handle.ended_rules("test").unwrap();
    assert_eq!((ended.len(), &*ended[0].name, ended[0].injected), (1, "lease-1/error", 1));
    proxy.apply(base);
    assert!(handle.ended_rules("test").unwrap().is_empty());

    let pending = Term { starts_in: Duration::from_secs(60), ..ttl(3_600_000) };
    let (given, _) = handle.acquire(lease("error", pending)).unwrap();
    let (end, _) = handle.release(&given.id).unwrap();
    assert_eq!((end.lease.began_at, end.rules[0].injected), (None, 0), "a rule that never acted is told too");
    assert_eq!(given.id, "0-2");
    handle.reset(&[]).unwrap();
    let (next, _) = handle.acquire(lease("error", ttl(60_000))).unwrap();
    assert_eq!(next.id, "0-3", "an id is never given twice");
    let slash = RulesChange {
        proxy: "test".into(),
        rules: vec![fracas_dataplane::behavior::Rule {
            name: "lease-3/error".into(),
            ..rules("error", &[])[0].clone()
        }],
        expected_generation: None,
    };
    assert!(matches!(handle.apply(vec![slash]), Err(ProxyError::RuleName { .. })));
}

#[test]
fn a_renewal_counts_from_now_and_an_end_stays_where_it_is() {
    let server = HttpServer::start("hello");
    let proxy = Proxy::start(server.address, Protocol::Http, Vec::new());
    let handle = proxy.handle();
    let term = Term { active_for: Some(Duration::from_secs(600)), ..ttl(60_000) };
    let (given, _) = handle.acquire(lease("error", term)).unwrap();
    assert_eq!(given.ttl, Some(Duration::from_secs(60)));
    assert_eq!(given.stops_at, Some(given.starts_at + Duration::from_secs(600)));
    assert_eq!(given.ends_at, given.acquired_at + Duration::from_secs(60));
    let renewed = handle.renew(&given.id, None).unwrap();
    assert!(renewed.ends_at > given.ends_at, "as long as before, from now");
    let renewed = handle.renew(&given.id, Some(Duration::from_secs(3600))).unwrap();
    assert_eq!((renewed.ttl, Some(renewed.ends_at)), (Some(Duration::from_secs(3600)), given.stops_at));
}

#[test]
fn leases_that_are_asked_for_at_once_are_all_in_force() {
    let server = HttpServer::start("hello");
    let proxy = Proxy::start(server.address, Protocol::Tcp, Vec::new());
    let handle = proxy.handle();
    for round in 0..30 {
        let gate = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    gate.wait();
                    handle.acquire(lease("1:delay", ttl(60_000))).unwrap();
                });
            }
        });
        assert_eq!(handle.get("test").unwrap().rules.len(), 8, "round {round}");
        handle.reset(&[]).unwrap();
    }
}

#[test]
fn neither_a_name_nor_a_group_can_pass_for_a_leases() {
    let server = HttpServer::start("hello");
    let proxy = Proxy::start(server.address, Protocol::Tcp, Vec::new());
    for mend in [
        |rule: &mut Rule| rule.name = "lease-1/x".into(),
        |rule: &mut Rule| {
            rule.group = Some("lease-1/x".into());
        },
    ] {
        let mut wrong = rules("10:delay", &[]);
        wrong.iter_mut().for_each(mend);
        let change = RulesChange { proxy: "test".into(), rules: wrong, expected_generation: None };
        assert!(matches!(proxy.handle().apply(vec![change]), Err(ProxyError::RuleName { .. })));
    }
}

#[test]
fn a_proxy_is_not_switched_on_where_another_listens() {
    let server = HttpServer::start("hello");
    let proxy = Proxy::start(server.address, Protocol::Tcp, Vec::new());
    let handle = proxy.handle();
    let switched = |on| ProxyUpdate { enabled: Some(on), ..ProxyUpdate::default() };
    handle.update("test", switched(false)).unwrap();
    handle.create(ProxySpec::new("other", proxy.address, server.address)).unwrap();
    let refused = handle.update("test", switched(true)).unwrap_err();
    assert!(matches!(refused, ProxyError::Listen { .. }), "{refused}");
    handle.delete("other", None).unwrap();
    // Its listener closes a few turns later, and `create` waits for that.
    handle.create(ProxySpec::new("third", proxy.address, server.address)).unwrap();
}

#[test]
fn a_deleted_proxy_tells_what_its_leases_did() {
    let server = HttpServer::start("hello");
    let proxy = Proxy::start(server.address, Protocol::Http, Vec::new());
    let handle = proxy.handle();
    handle.acquire(lease("100:error", ttl(60_000))).unwrap();
    assert!(get(&mut proxy.connect(), "/").unwrap().0 >= 500);
    handle.delete("test", None).unwrap();
    let ended = handle.ended_leases().pop().unwrap();
    assert_eq!((ended.reason, ended.rules[0].acted), (EndReason::Deleted, 1));
}
