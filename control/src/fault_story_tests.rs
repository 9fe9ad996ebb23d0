use fracas_loadgen::measure::Injection;

use super::*;

const START: u64 = 100_000_000_000;
const TIMEOUT: Duration = Duration::from_secs(30);

fn ms(at: u64) -> u64 {
    START + at * 1_000_000
}

fn event(kind: EventKind, at_ms: u64, generation: u64, detail: &str) -> Event {
    Event {
        kind: kind.into(),
        monotonic_ns: ms(at_ms),
        proxy: "p".into(),
        detail: detail.into(),
        generation,
        ..Event::default()
    }
}

fn lease(kind: EventKind, at_ms: u64, id: &str, detail: &str) -> Event {
    Event { lease_id: id.into(), ..event(kind, at_ms, 5, detail) }
}

fn injected(at_ms: u64, behavior: &str, lease: &str, generation: u64, detail: &str) -> Event {
    let rule = if lease.is_empty() { behavior.to_owned() } else { format!("{lease}/{behavior}") };
    Event {
        rule,
        behavior: behavior.into(),
        lease_id: lease.into(),
        ..event(EventKind::Injected, at_ms, generation, detail)
    }
}

fn delayed(at_ms: u64, lease: &str, generation: u64, late_us: i32) -> Event {
    let duration = |us: i32| Some(prost_types::Duration { seconds: 0, nanos: us * 1_000 });
    let event = injected(at_ms, "delay", lease, generation, "");
    Event { asked: duration(50_000), done: duration(50_000 + late_us), ..event }
}

fn proxy(rules: &[(&str, f64)]) -> v1::Proxy {
    let rule = |(behavior, share): &(&str, f64)| v1::Rule {
        behavior: (*behavior).into(),
        share_percent: Some(*share),
        ..v1::Rule::default()
    };
    v1::Proxy {
        name: "p".into(),
        listen: "127.0.0.1:8081".into(),
        enabled: Some(true),
        generation: 3,
        rules: rules.iter().map(rule).collect(),
        ..v1::Proxy::default()
    }
}

fn story(proxy: &v1::Proxy, events: &[Event]) -> Story {
    story_of(TIMEOUT, proxy, events)
}

fn story_of(timeout: Duration, proxy: &v1::Proxy, events: &[Event]) -> Story {
    let mut story = Story::of_load(timeout);
    story.begin(proxy);
    events.iter().for_each(|event| story.on(event));
    story
}

type Shown = (u64, u64, Option<u64>, String);

/// From, to and injected of each window of a run of 10 s, in milliseconds, with its behavior.
fn windows(story: &Story) -> Vec<Shown> {
    let faults = story.faults(START, 10_000_000_000, |_| true, &[]);
    let short = |w: FaultWindow| (w.start_ns / 1_000_000, w.end_ns / 1_000_000, w.injected, w.behavior);
    faults.windows.into_iter().map(short).collect()
}

fn window(from: u64, to: u64, injected: u64, behavior: &str) -> Shown {
    (from, to, Some(injected), behavior.to_owned())
}

#[test]
fn a_window_is_the_life_of_its_rules_on_every_path() {
    use EventKind::{Changed, LeaseAcquired, LeaseEnded, LeaseStarted};
    type Case = (&'static str, v1::Proxy, Vec<Event>, Vec<Shown>);
    let cases: Vec<Case> = vec![
        (
            "a lease that injects only at its beginning",
            proxy(&[]),
            vec![
                lease(LeaseAcquired, 900, "L", "hang"),
                lease(LeaseStarted, 1000, "L", "hang"),
                injected(1010, "hang", "L", 5, "hung"),
                injected(1050, "hang", "L", 5, "hung"),
                lease(LeaseEnded, 3000, "L", "expired: hang"),
            ],
            vec![window(1000, 3000, 2, "hang")],
        ),
        (
            "long pauses between faults",
            proxy(&[]),
            vec![
                lease(LeaseStarted, 1000, "L", "blackout"),
                injected(1001, "blackout", "L", 5, "closed"),
                injected(3500, "blackout", "L", 5, "closed"),
                lease(LeaseEnded, 4000, "L", "released: blackout"),
            ],
            vec![window(1000, 4000, 2, "blackout")],
        ),
        (
            "base rules set, set again and taken away by hand",
            proxy(&[]),
            vec![
                event(Changed, 1000, 4, "20:delay"),
                delayed(1500, "", 4, 10),
                event(Changed, 2000, 5, "20:delay,5:error"),
                injected(2500, "error", "", 5, "replied 500"),
                injected(2600, "error", "", 6, "replied 500"),
                event(Changed, 3000, 7, "reset: normal"),
            ],
            vec![window(1000, 2000, 1, "20:delay"), window(2000, 3000, 2, "20:delay,5:error")],
        ),
        (
            "rules that were there before and stay",
            proxy(&[("delay", 20.0), ("normal", 80.0)]),
            vec![event(Changed, 500, 3, "20:delay"), delayed(700, "", 3, 5)],
            vec![window(0, 10_000, 1, "20:delay")],
        ),
        (
            "a lease that was active before",
            v1::Proxy {
                leases: vec![v1::Lease {
                    id: "L".into(),
                    state: LeaseState::Active.into(),
                    rules: proxy(&[("reset", 100.0)]).rules,
                    ..v1::Lease::default()
                }],
                ..proxy(&[])
            },
            vec![lease(LeaseStarted, 10, "L", "reset"), lease(LeaseEnded, 700, "L", "expired: reset")],
            vec![window(0, 700, 0, "reset")],
        ),
        (
            "two leases at once, one never ended",
            proxy(&[]),
            vec![
                lease(LeaseStarted, 1000, "A", "hang"),
                lease(LeaseStarted, 2000, "B", "5:error"),
                lease(LeaseEnded, 3000, "A", "expired: hang"),
            ],
            vec![window(1000, 3000, 0, "hang"), window(2000, 10_000, 0, "5:error")],
        ),
        ("nothing but normal", proxy(&[("normal", 100.0)]), vec![event(Changed, 1, 4, "normal")], vec![]),
        (
            "switched off and on, and other settings",
            proxy(&[]),
            vec![
                event(Changed, 1000, 4, "upstream 127.0.0.1:9, switched off"),
                event(Changed, 2000, 5, "switched on"),
                event(Changed, 3000, 6, "connect timeout 3s"),
            ],
            vec![window(1000, 2000, 0, "switched off")],
        ),
        (
            "deleted with its rules",
            proxy(&[]),
            vec![event(Changed, 1000, 4, "created: 5:error"), event(Changed, 2000, 5, "deleted")],
            vec![window(1000, 2000, 0, "5:error")],
        ),
    ];
    for (what, proxy, events, expected) in cases {
        assert_eq!(windows(&story(&proxy, &events)), expected, "{what}");
    }
}

#[test]
fn what_was_over_before_the_run_is_no_window_of_it() {
    let mut before = lease(EventKind::LeaseStarted, 0, "L", "hang");
    before.monotonic_ns = START - 2_000;
    let mut ended = lease(EventKind::LeaseEnded, 0, "L", "expired: hang");
    ended.monotonic_ns = START - 1_000;
    let late = lease(EventKind::LeaseStarted, 11_000, "M", "hang");
    assert_eq!(windows(&story(&proxy(&[]), &[before, ended, late])), []);
}

#[test]
fn a_delay_that_outlives_its_rules_belongs_to_their_window() {
    let orphan = |at_ms| Event { rule: "delay".into(), ..delayed(at_ms, "", 9, 30) };
    let events = [
        lease(EventKind::LeaseStarted, 100, "L", "20:delay"),
        delayed(500, "L", 5, 10),
        lease(EventKind::LeaseEnded, 520, "L", "expired: 20:delay"),
        orphan(530),
        orphan(9000),
    ];
    let story = story(&proxy(&[]), &events);
    assert_eq!(windows(&story), [window(100, 520, 2, "20:delay")]);
    let faults = story.faults(START, 10_000_000_000, |_| true, &[]);
    let accuracy = (faults.windows[0].accuracy_p50_ns, faults.windows[0].accuracy_p99_ns);
    assert_eq!(accuracy, (Some(10_000), Some(30_000)));
}

#[test]
fn a_proxy_that_is_gone_has_no_rules_in_force_any_more() {
    let mut story = story(&proxy(&[]), &[lease(EventKind::LeaseStarted, 1000, "L", "hang")]);
    assert_eq!(story.in_force(), ["p hang"]);
    story.broke_off_ns = Some(ms(4000));
    assert_eq!(windows(&story), [window(1000, 4000, 0, "hang")]);
}

#[test]
fn what_a_client_must_see_of_a_fault_is_known() {
    let of = |behavior: &str, detail: &str| failure_of(&injected(0, behavior, "", 1, detail));
    for (behavior, detail, seen) in [
        ("error", "replied 503", Some(Failure::Refused)),
        ("error", "replied 204", None),
        ("transient", "replied 500", Some(Failure::Refused)),
        ("error", "replaced a reply chunk by random bytes", Some(Failure::Garbled)),
        ("blackout", "closed", Some(Failure::Cut)),
        ("abort", "closed without a reply", Some(Failure::Cut)),
        ("reset", "reset", Some(Failure::Cut)),
        ("reset", "reset after 250ms", Some(Failure::Cut)),
        ("hang", "hung", Some(Failure::Silent)),
        ("delay", "", None),
        ("throttle", "limited to 1MB/s", None),
    ] {
        assert_eq!(of(behavior, detail), seen, "{behavior}: {detail}");
    }
}

#[test]
fn only_a_proxy_on_the_way_tells_which_failures_were_injected() {
    let events =
        [lease(EventKind::LeaseStarted, 1000, "L", "error"), injected(1100, "error", "L", 5, "replied 500")];
    let story = story(&proxy(&[]), &events);
    let injected = |on_the_way: bool| story.faults(START, 10_000_000_000, |_| on_the_way, &[]).injected;
    let expected = Injection { at_ns: 1_100_000_000, failure: Failure::Refused, count: 1 };
    assert_eq!(injected(true), Injected::Known([expected].into_iter().collect()));
    assert_eq!(injected(false), Injected::Behind);
    let calm = Story::default().faults(START, 1, |_| false, &[]).injected;
    assert_eq!(calm, Injected::Known(Injections::default()), "where no fault was, none was injected");
}

#[test]
fn a_connection_that_hangs_as_a_whole_makes_one_request_fail_and_no_other() {
    let hung = |at_ms, exchange| Event { exchange, ..injected(at_ms, "hang", "L", 5, "hung") };
    let ended = lease(EventKind::LeaseEnded, 2000, "L", "expired: 50:hang");
    let silent = |at_ms: u64, count| Injection { at_ns: at_ms * 1_000_000, failure: Failure::Silent, count };
    for (told, end, expected, what) in [
        (
            // The last was idle, and is told when it is closed.
            vec![hung(1150, 0), hung(1420, 0), hung(2000, 0)],
            Some(ended.clone()),
            vec![silent(1100, 1), silent(1400, 1), silent(2000, 1)],
            "lifted",
        ),
        (vec![hung(1150, 0)], None, vec![silent(1100, 1)], "until the run ends"),
        (vec![hung(1150, 3), hung(1150, 3)], Some(ended), vec![silent(1100, 2)], "one request of each"),
    ] {
        let begin = [lease(EventKind::LeaseStarted, 1000, "L", "50:hang")];
        let events: Vec<_> = begin.into_iter().chain(told).chain(end).collect();
        let found = story(&proxy(&[]), &events);
        assert_eq!(known(&found, &[]), expected.into_iter().collect(), "{what}");
    }
}

#[test]
fn a_timeout_under_a_throttle_is_not_known_to_be_its_own() {
    let ended = lease(EventKind::LeaseEnded, 2000, "L", "expired: 5:throttle");
    for (told, end, expected, what) in [
        (Some("limited to 1MB/s"), Some(ended.clone()), span(1_000, 2_000), "told once"),
        (None, Some(ended), span(1_000, 2_000), "not told yet"),
        (None, None, span(1_000, 10_000), "until the run ends"),
    ] {
        let begin = lease(EventKind::LeaseStarted, 1000, "L", "5:throttle");
        let told = told.map(|detail| injected(1_100, "throttle", "L", 5, detail));
        let events: Vec<_> = [begin].into_iter().chain(told).chain(end).collect();
        assert_eq!(known(&story(&proxy(&[]), &events), &[]), vague(&[expected]), "{what}");
    }
}

#[test]
fn delays_that_clients_did_not_wait_for_are_laid_over_their_window() {
    let events = [
        lease(EventKind::LeaseStarted, 1000, "L", "delay"),
        delayed(1100, "L", 5, 0),
        lease(EventKind::LeaseEnded, 1300, "L", "expired: delay"),
    ];
    let rule = v1::RuleStats {
        behavior: "delay".into(),
        lease_id: "L".into(),
        matched: 9,
        acted: 5,
        injected: 1,
        ..v1::RuleStats::default()
    };
    let stats = v1::ProxyStats { proxy: "p".into(), rules: vec![rule], ..v1::ProxyStats::default() };
    let faults = story(&proxy(&[]), &events).faults(START, 10_000_000_000, |_| true, &[stats]);
    assert_eq!((faults.windows[0].injected, faults.windows[0].seen), (Some(1), Some(9)));
    let silent = |at_ms: u64, count| Injection { at_ns: at_ms * 1_000_000, failure: Failure::Silent, count };
    let expected = [silent(1000, 2), silent(1100, 1), silent(1200, 1)].into_iter().collect();
    assert_eq!(faults.injected, Injected::Known(expected));
}

#[test]
fn a_timeout_that_a_delay_has_made_is_injected() {
    let held = |at_ms: u64, connection, exchange| Event { connection, exchange, ..delayed(at_ms, "L", 5, 0) };
    let started = lease(EventKind::LeaseStarted, 1000, "L", "delay");
    let rule = v1::RuleStats { behavior: "delay".into(), lease_id: "L".into(), ..v1::RuleStats::default() };
    let stats = v1::ProxyStats { proxy: "p".into(), rules: vec![rule], ..v1::ProxyStats::default() };
    let cases = [
        (
            100,
            vec![held(1250, 1, 1), held(1350, 2, 1)],
            vec![1200, 1300],
            "half of the timeout, from its begin",
        ),
        (20, vec![held(1250, 1, 1)], vec![1200], "longer than the timeout"),
        (101, vec![held(1250, 1, 1)], vec![], "most of the time it was waited for something else"),
        (20, vec![held(1250, 1, 1), held(1350, 1, 1)], vec![1200], "the request and its reply"),
        (20, vec![held(1250, 1, 0), held(1350, 1, 0)], vec![1200, 1300], "two chunks"),
        (20, vec![held(40, 1, 1)], vec![], "before the run"),
    ];
    for (timeout_ms, delays, expected_ms, what) in cases {
        let events: Vec<_> = [started.clone()].into_iter().chain(delays).collect();
        let story = story_of(Duration::from_millis(timeout_ms), &proxy(&[]), &events);
        let found = story.faults(START, 10_000_000_000, |_| true, std::slice::from_ref(&stats)).injected;
        let silent = |at_ms: &u64| Injection { at_ns: at_ms * 1_000_000, failure: Failure::Silent, count: 1 };
        assert_eq!(found, Injected::Known(expected_ms.iter().map(silent).collect()), "{what}");
    }
}

#[test]
fn delays_of_base_rules_that_are_under_way_at_the_end_are_laid_before_it() {
    let rule = |lease: &str, asked_max_ns| v1::RuleStats {
        behavior: "delay".into(),
        lease_id: lease.into(),
        matched: 90,
        acted: 9,
        injected: 5,
        asked: Some(v1::Histogram { max_ns: asked_max_ns, ..v1::Histogram::default() }),
        ..v1::RuleStats::default()
    };
    let silent = |at_ms: u64, count| Injection { at_ns: at_ms * 1_000_000, failure: Failure::Silent, count };
    let cases: [(Vec<Event>, _, _, _, _); 3] = [
        (
            vec![],
            rule("", 200_000_000),
            300,
            vec![silent(9800, 2), silent(9900, 2)],
            "within the longest of them",
        ),
        (
            vec![],
            rule("", 300_000_000),
            100,
            vec![silent(9700, 2), silent(9800, 2)],
            "and a timeout before the end",
        ),
        (vec![], rule("M", 200_000_000), 300, vec![], "of a lease"),
    ];
    for (events, rule, timeout_ms, expected, what) in cases {
        let stats = v1::ProxyStats { proxy: "p".into(), rules: vec![rule], ..v1::ProxyStats::default() };
        let story = story_of(Duration::from_millis(timeout_ms), &proxy(&[("delay", 20.0)]), &events);
        let found = story.faults(START, 10_000_000_000, |_| true, &[stats]).injected;
        assert_eq!(found, Injected::Known(expected.into_iter().collect()), "{what}");
    }
}

#[test]
fn a_duration_that_no_clock_can_count_is_the_longest() {
    for (seconds, nanos, expected) in
        [(0, 0, 0), (3, 5, 3_000_000_005), (i64::MAX, 0, u64::MAX), (i64::MIN, i32::MIN, u64::MAX)]
    {
        assert_eq!(super::nanos(Some(&prost_types::Duration { seconds, nanos })), expected);
    }
    assert_eq!(super::nanos(None), 0);
}

fn known(story: &Story, stats: &[v1::ProxyStats]) -> Injections {
    match story.faults(START, 10_000_000_000, |_| true, stats).injected {
        Injected::Known(injections) => injections,
        other => panic!("{other:?}"),
    }
}

fn span(from_ms: u64, to_ms: u64) -> Span {
    Span { from_ns: from_ms * 1_000_000, to_ns: to_ms * 1_000_000 }
}

fn vague(spans: &[Span]) -> Injections {
    let mut injections = Injections::default();
    spans.iter().for_each(|span| injections.is_vague(*span));
    injections
}

#[test]
fn delays_of_replaced_rules_that_nobody_told_to_be_over_are_not_known() {
    use EventKind::{Changed, LeaseEnded, LeaseStarted};
    let asked = |at_ms, asked_ms: i32| {
        let ms = |ms: i32| Some(prost_types::Duration { seconds: 0, nanos: ms * 1_000_000 });
        // Of another's connection to plain bytes, long ago: it is the time that matters here.
        Event { asked: ms(asked_ms), done: ms(1), ..injected(at_ms, "delay", "", 3, "") }
    };
    let base = proxy(&[("delay", 20.0)]);
    let replaced = event(Changed, 9_500, 4, "5:error");
    let lease_over =
        [lease(LeaseStarted, 8_000, "L", "5:delay"), lease(LeaseEnded, 9_700, "L", "released: 5:delay")];
    let none = v1::ProxyStats { proxy: "p".into(), ..v1::ProxyStats::default() };
    let of_lease =
        v1::RuleStats { behavior: "delay".into(), lease_id: "L".into(), ..v1::RuleStats::default() };
    let with_lease = v1::ProxyStats { rules: vec![of_lease], ..none.clone() };
    let cases = [
        (
            base.clone(),
            vec![asked(2_000, 900), replaced.clone()],
            &none,
            vec![span(9_100, 9_500)],
            "of one time",
        ),
        (
            base.clone(),
            vec![asked(2_000, 900), asked(2_100, 800), replaced.clone()],
            &none,
            vec![span(8_200, 9_500)],
            "of a drawn time: twice the longest",
        ),
        (
            base.clone(),
            vec![asked(2_000, 400), replaced.clone()],
            &none,
            vec![],
            "all were over before the end",
        ),
        (
            base.clone(),
            vec![asked(2_000, 900), event(Changed, 9_000, 4, "normal")],
            &none,
            vec![],
            "long before",
        ),
        (base.clone(), vec![replaced.clone()], &none, vec![span(0, 9_500)], "of a time that nobody knows"),
        (proxy(&[("error", 20.0)]), vec![event(Changed, 9_500, 4, "normal")], &none, vec![], "no delay"),
        (proxy(&[]), lease_over.to_vec(), &none, vec![span(8_000, 9_700)], "a lease whose figures are gone"),
        (proxy(&[]), lease_over.to_vec(), &with_lease, vec![], "a lease with figures"),
    ];
    for (proxy, events, stats, expected, what) in cases {
        let story = story_of(Duration::from_millis(1_000), &proxy, &events);
        assert_eq!(known(&story, std::slice::from_ref(stats)), vague(&expected), "{what}");
        let windows = story.faults(START, 10_000_000_000, |_| true, std::slice::from_ref(stats)).windows;
        assert!(windows[0].injected != Some(0) || expected.is_empty(), "{what}: 0 would be a lie");
    }
    let short = story_of(Duration::from_secs(2), &base, &[asked(2_000, 900), replaced]);
    assert_eq!(known(&short, &[none]), vague(&[]), "no timeout of 2 s comes from 900 ms");
}

#[test]
fn what_a_proxy_could_not_tell_is_not_known() {
    let mut story = story(&proxy(&[]), &[]);
    story.missed(START - 500, START - 400);
    for (from, to) in [(1_000, 2_000), (2_000, 2_500), (4_000, 5_000)] {
        story.missed(ms(from), ms(to));
    }
    story.broke_off_ns = Some(ms(8_000));
    let mut expected = Injections::default();
    for span in [span(1_000, 2_500), span(4_000, 5_000), span(8_000, 10_000)] {
        expected.missed(span);
    }
    assert_eq!(known(&story, &[]), expected);
}

#[test]
fn a_story_of_many_faults_keeps_windows_and_counts_and_no_more_than_it_has_room_for() {
    let mut story =
        Story { room: Room { bins: 2, lateness: 1, windows: 4, connections: 0 }, ..Story::of_load(TIMEOUT) };
    story.begin(&proxy(&[]));
    story.on(&lease(EventKind::LeaseStarted, 1_000, "L", "error,delay"));
    for at_ms in 1_000..1_100 {
        story.on(&injected(at_ms, "error", "L", 5, "replied 500"));
    }
    story.on(&delayed(1_100, "L", 5, 10));
    story.on(&delayed(1_100, "L", 5, 90));
    story.on(&lease(EventKind::LeaseEnded, 2_000, "L", "expired: error,delay"));
    assert_eq!(windows(&story), [window(1_000, 2_000, 102, "error,delay")]);
    let faults = story.faults(START, 10_000_000_000, |_| true, &[v1::ProxyStats::default()]);
    assert_eq!(faults.windows[0].accuracy_p99_ns, Some(10_000), "one is kept");
    let mut expected = Injections::default();
    for at_ms in [1_000, 1_010] {
        expected.add(Injection { at_ns: at_ms * 1_000_000, failure: Failure::Refused, count: 10 });
    }
    expected.not_kept(80);
    expected.missed(span(1_020, 1_099));
    assert_eq!(faults.injected, Injected::Known(expected));
    // Two places are left for windows.
    for lease_id in ["M", "N", "O", "P"] {
        story.on(&lease(EventKind::LeaseStarted, 3_000, lease_id, "hang"));
    }
    assert_eq!((windows(&story).len(), story.room.windows), (3, 0));
}
