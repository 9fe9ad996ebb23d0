use std::time::Duration;

use super::*;
use crate::behavior::{Action, Behavior, Gate, Match, Share, mix};
use crate::protocol::http::{Event, RequestFramer};

fn connection(ordinal: u64) -> ConnectionFacts {
    ConnectionFacts { client: "10.0.0.7:4000".parse().unwrap(), ordinal }
}

fn rule(name: &str, behavior: &str, options: &[(&str, &str)]) -> Rule {
    let options = options.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    Rule::always(name, Behavior::parse(behavior, &options).unwrap())
}

fn share(percent: f64, rule: Rule) -> Rule {
    Rule { share: Share::from_percent(percent).unwrap(), ..rule }
}

fn http(rules: Vec<Rule>) -> RuleSet {
    RuleSet::compile(rules, Protocol::Http, 42, 1).unwrap()
}

fn tcp(rules: Vec<Rule>) -> RuleSet {
    RuleSet::compile(rules, Protocol::Tcp, 42, 1).unwrap()
}

/// Decides about message `ordinal` of a connection, as the proxy does.
fn exchange(set: &RuleSet, connection: &ConnectionFacts, ordinal: u64, head: &str) -> Decision {
    let mut framer = RequestFramer::new();
    let text = format!("{head} HTTP/1.1\r\nHost: x\r\nX-Test: 1\r\n\r\n");
    assert_eq!(framer.advance(text.as_bytes()).event, Event::Head);
    set.on_exchange(connection, u64::MAX, ordinal, &framer.head(text.as_bytes()))
}

fn code(decision: Decision) -> Option<u16> {
    match decision.act?.action {
        Action::ErrorReply { code, .. } => Some(code),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_mix_is_exclusive_and_its_shares_hold() {
    let set = http(mix::parse("20:delay,5:error", &BTreeMap::new()).unwrap());
    let (mut delayed, mut failed) = (0, 0);
    for connection_ordinal in 0..100 {
        for ordinal in 0..100 {
            let decision = exchange(&set, &connection(connection_ordinal), ordinal, "GET /");
            let is_delayed =
                (decision.request_hold.time, decision.request_hold.rules) == (Duration::from_secs(1), 1);
            assert!(!(is_delayed && decision.act.is_some()), "one draw chooses");
            delayed += u32::from(is_delayed);
            failed += u32::from(code(decision).is_some_and(|code| (500..=503).contains(&code)));
        }
    }
    // 10,000 draws: σ is 40 for 20 % and 22 for 5 %; within 5 σ.
    assert!((1800..=2200).contains(&delayed), "{delayed}");
    assert!((390..=610).contains(&failed), "{failed}");
}

#[test]
fn the_same_seed_repeats_every_decision_and_another_does_not() {
    let rules =
        || vec![share(30.0, rule("e", "error", &[])), rule("d", "delay", &[("time", "uniform(1ms,9s)")])];
    let decisions = |seed| {
        let set = RuleSet::compile(rules(), Protocol::Http, seed, 1).unwrap();
        (0..100).map(|ordinal| exchange(&set, &connection(3), ordinal, "GET /")).collect::<Vec<_>>()
    };
    assert_eq!(decisions(1), decisions(1));
    assert_ne!(decisions(1), decisions(2));
}

#[test]
fn adding_a_rule_never_changes_anothers_draws() {
    let one = share(30.0, rule("one", "delay", &[("time", "uniform(1ms,9s)")]));
    let other = share(50.0, rule("other", "delay", &[("time", "1h"), ("side", "reply")]));
    let alone = http(vec![one.clone()]);
    let after = http(vec![other, one]);
    for ordinal in 0..500 {
        let (a, b) = (
            exchange(&alone, &connection(1), ordinal, "GET /"),
            exchange(&after, &connection(1), ordinal, "GET /"),
        );
        assert_eq!(a.request_hold.time, b.request_hold.time, "{ordinal}");
    }
}

#[test]
fn delays_add_and_the_first_act_wins() {
    let set = http(vec![
        rule("a", "delay", &[("time", "1ms")]),
        rule("b", "error", &[("codes", "429")]),
        rule("c", "hang", &[]),
        rule("d", "delay", &[("time", "10ms"), ("side", "both")]),
    ]);
    let decision = exchange(&set, &connection(0), 0, "GET /");
    assert_eq!(decision.request_hold, Hold { time: Duration::from_millis(11), rules: 0b1001, exchange: 1 });
    assert_eq!(decision.reply_hold, Hold { time: Duration::from_millis(10), rules: 0b1000, exchange: 1 });
    assert_eq!((decision.act.unwrap().rule, code(decision)), (1, Some(429)));
}

#[test]
fn a_match_by_request_is_decided_per_exchange_and_by_client_per_connection() {
    let matcher = Match {
        clients: vec!["10.0.0.0/8".parse().unwrap()],
        methods: vec!["POST".to_owned()],
        paths: vec!["/cart/*".parse().unwrap()],
        headers: vec![crate::behavior::HeaderMatch {
            name: "x-test".to_owned(),
            value: Some("1".to_owned()),
        }],
    };
    let set = http(vec![Rule { matcher, ..rule("e", "error", &[]) }]);
    let acts = |head| exchange(&set, &connection(0), 0, head).act.is_some();
    assert!(acts("POST /cart/7?x"));
    assert!(!acts("GET /cart/7") && !acts("POST /shop"));
    let plan = set.on_connection(&connection(0));
    assert_eq!(plan.active, 1);
    let stranger = ConnectionFacts { client: "192.0.2.1:1".parse().unwrap(), ordinal: 0 };
    let plan = set.on_connection(&stranger);
    assert_eq!(plan.active, 0, "who does not match is not asked about");
}

#[test]
fn triggers_count_what_matched_over_the_whole_proxy() {
    let triggers = Triggers { after: Some(1), first: Some(4), every: Some(2), ..Triggers::default() };
    let matcher = Match { paths: vec!["/x".parse().unwrap()], ..Match::default() };
    let set = http(vec![Rule { triggers, matcher, ..rule("e", "error", &[]) }]);
    let acts: Vec<bool> = (0..6)
        .map(|n| {
            assert!(exchange(&set, &connection(n), 0, "GET /other").act.is_none());
            exchange(&set, &connection(n), 0, "GET /x").act.is_some()
        })
        .collect();
    assert_eq!(acts, [false, true, false, true, false, false]);
    assert_eq!(set.on_connection(&connection(9)).active, 0, "the rule is over: nothing is parsed for it");
}

#[test]
fn transient_fails_twice_then_passes_and_costs_nothing_more() {
    let set = http(vec![rule("t", "transient", &[("agitate", "2"), ("warmup", "1")])]);
    let fails: Vec<bool> = (0..5).map(|n| exchange(&set, &connection(n), 0, "GET /").act.is_some()).collect();
    assert_eq!(fails, [false, true, true, false, false]);
    assert_eq!(set.on_connection(&connection(9)).active, 0);
}

#[test]
fn on_plain_bytes_a_connection_is_drawn_once() {
    let set = tcp(vec![share(25.0, rule("d", "delay", &[("side", "both")]))]);
    let chosen: Vec<u64> = (0..400).filter(|n| set.on_connection(&connection(*n)).active == 1).collect();
    // σ = 8.7; within 5 σ.
    assert!((57..=143).contains(&chosen.len()), "{}", chosen.len());
    for n in chosen {
        let plan = set.on_connection(&connection(n));
        assert_eq!(plan.active, 1, "the same answer at every time");
        for ordinal in 0..5 {
            let request = set.on_chunk(&connection(n), plan.active, Direction::Request, ordinal);
            let reply = set.on_chunk(&connection(n), plan.active, Direction::Reply, ordinal);
            assert_eq!((request.request_hold.rules, request.reply_hold.rules), (1, 0));
            assert_eq!((reply.request_hold.rules, reply.reply_hold.rules), (0, 1));
        }
    }
}

#[test]
fn on_plain_bytes_each_behavior_acts_in_its_direction() {
    let chunk_acts = |behavior, scope| {
        let set = tcp(vec![Rule { scope, ..rule("r", behavior, &[]) }]);
        let plan = set.on_connection(&connection(0));
        let at = |direction| set.on_chunk(&connection(0), plan.active, direction, 0).act.is_some();
        (plan.act.is_some(), at(Direction::Request), at(Direction::Reply))
    };
    for behavior in ["error", "transient"] {
        assert_eq!(chunk_acts(behavior, None), (false, false, true), "{behavior}");
    }
    for behavior in ["hang", "blackout", "abort", "reset"] {
        assert_eq!(chunk_acts(behavior, None), (true, false, false), "{behavior}");
        assert_eq!(chunk_acts(behavior, Some(Scope::Exchange)), (false, true, false), "{behavior}");
    }
    assert_eq!(chunk_acts("normal", None), (false, false, false));
}

/// What the one throttle of a plan shares with others.
fn shared_of(plan: &ConnectionPlan) -> Option<SharedRate> {
    match &plan.gates[..] {
        [GatePlan { gate: Gate::Metered(gate), .. }] => gate.shared.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_proxys_throttle_is_shared_and_a_connections_is_not() {
    let plan_of = |per| {
        let set = http(vec![rule("t", "throttle", &[("rate", "1MB/s"), ("per", per)])]);
        let (a, b) = (set.on_connection(&connection(0)), set.on_connection(&connection(1)));
        assert_eq!(a.active, 1);
        (shared_of(&a), shared_of(&b))
    };
    assert!(matches!(plan_of("connection"), (None, None)));
    let (Some(a), Some(b)) = plan_of("proxy") else { panic!("shared") };
    assert!(Arc::ptr_eq(&a[0], &b[0]) && !Arc::ptr_eq(&a[0], &a[1]));
}

#[test]
fn a_change_elsewhere_keeps_counters_buckets_and_answers() {
    let transient = rule("t", "transient", &[("agitate", "2")]);
    let throttle = rule("b", "throttle", &[("rate", "1MB/s"), ("per", "proxy")]);
    let first = Triggers { first: Some(1), ..Triggers::default() };
    let once = Rule { scope: Some(Scope::Connection), triggers: first, ..rule("o", "hang", &[]) };
    let old = http(vec![transient.clone(), throttle.clone(), once.clone()]);
    let plan = old.on_connection(&connection(0));
    assert_eq!(plan.active, 0b111);
    assert!(exchange(&old, &connection(0), 0, "GET /").act.is_some());

    let new = http(vec![rule("x", "delay", &[]), transient, throttle, once]).inherit(&old);
    let changed = new.on_change(&connection(0), &old, plan.active);
    assert_eq!(changed.active, 0b1111, "the connection that was first still is");
    assert!(Arc::ptr_eq(&shared_of(&changed).unwrap()[0], &shared_of(&plan).unwrap()[0]));
    assert_eq!(new.on_connection(&connection(1)).active, 0b0111, "and no other is");
    let fails: Vec<bool> = (1..4)
        .map(|n| exchange(&new, &connection(0), n, "GET /").act.map(|act| act.rule) == Some(1))
        .collect();
    assert_eq!(fails, [true, false, false], "one of two failures was before the change");
}

#[test]
fn rules_that_make_no_sense_are_refused_in_one_line() {
    let grouped = |percent, rule| Rule { group: Some("g".to_owned()), ..share(percent, rule) };
    let path = Match { paths: vec!["/x".parse().unwrap()], ..Match::default() };
    let exchange = Some(Scope::Exchange);
    let throttle = || rule("t", "throttle", &[("rate", "1MB/s")]);
    let zero = Triggers { every: Some(0), ..Triggers::default() };
    for (rules, protocol, expected) in [
        (
            vec![rule("a", "hang", &[]), rule("a", "delay", &[])],
            Protocol::Tcp,
            "two rules are called `a`; give each its own name",
        ),
        (
            vec![Rule { matcher: path.clone(), ..rule("a", "hang", &[]) }],
            Protocol::Tcp,
            "rule `a` matches http requests but the proxy's protocol is tcp; set protocol: http",
        ),
        (
            vec![Rule { matcher: path, ..throttle() }],
            Protocol::Http,
            "rule `t`: throttle acts on a whole connection; leave out the match by method, path or header",
        ),
        (
            vec![Rule { scope: exchange, ..throttle() }],
            Protocol::Http,
            "rule `t`: throttle acts on a whole connection; leave out scope: exchange",
        ),
        (
            vec![Rule { triggers: zero, ..rule("a", "hang", &[]) }],
            Protocol::Tcp,
            "rule `a`: every counts from 1; give at least 1",
        ),
        (
            vec![grouped(60.0, rule("a", "hang", &[])), grouped(50.0, rule("b", "hang", &[]))],
            Protocol::Tcp,
            "the shares of group `g` add up to 110%; they must stay within 100%",
        ),
        (
            vec![
                grouped(60.0, throttle()),
                Rule { scope: exchange, ..grouped(30.0, rule("b", "hang", &[])) },
            ],
            Protocol::Http,
            "the rules of group `g` must have one scope; give all of them the same",
        ),
        (
            (0..65).map(|n| rule(&n.to_string(), "hang", &[])).collect(),
            Protocol::Tcp,
            "65 rules are too many for one proxy; use at most 64",
        ),
    ] {
        let error = RuleSet::compile(rules, protocol, 0, 0).expect_err(expected).to_string();
        assert_eq!(error, expected);
    }
    let full = (0..64).map(|n| rule(&n.to_string(), "delay", &[("time", "1ms")])).collect();
    let decision = exchange_of(&http(full));
    assert_eq!(decision.request_hold, Hold { time: Duration::from_millis(64), rules: u64::MAX, exchange: 1 });
}

fn exchange_of(set: &RuleSet) -> Decision {
    exchange(set, &connection(0), 0, "GET /")
}

#[test]
fn what_met_a_rule_and_what_it_chose_are_told_apart() {
    let matcher = Match { paths: vec!["/x".parse().unwrap()], ..Match::default() };
    let set = http(vec![
        Rule { matcher, ..share(25.0, rule("d", "delay", &[("side", "both")])) },
        rule("h", "hang", &[]),
        rule("late", "error", &[]),
    ]);
    let (mut met, mut chosen) = (0, 0);
    for ordinal in 0..1000 {
        let elsewhere = exchange(&set, &connection(0), ordinal, "GET /").drawn;
        assert_eq!(elsewhere, Drawn { matched: 0b110, acted: 0b010 }, "the hang takes it from the error");
        let drawn = exchange(&set, &connection(0), ordinal, "GET /x").drawn;
        met += drawn.matched & 1;
        chosen += drawn.acted & 1;
    }
    assert_eq!(met, 1000);
    // σ = 13.7; within 5 σ.
    assert!((182..=318).contains(&chosen), "{chosen}");
}

#[test]
fn units_of_a_warmup_and_after_the_last_failure_do_not_count_as_met() {
    let set = http(vec![
        rule("e", "error", &[("warmup", "2")]),
        rule("t", "transient", &[("warmup", "1"), ("agitate", "2")]),
    ]);
    let drawn = |n| exchange(&set, &connection(n), 0, "GET /").drawn;
    let all: Vec<Drawn> = (0..6).map(drawn).collect();
    // The transient acts while the error warms up; then the error takes every exchange from it.
    let [none, transient, both] = [0, 0b10, 0b11];
    assert_eq!(all[0], Drawn { matched: none, acted: none });
    assert_eq!(all[1], Drawn { matched: transient, acted: transient });
    assert_eq!(all[2], Drawn { matched: both, acted: 0b01 });
    let alone = http(vec![rule("t", "transient", &[("agitate", "1")])]);
    let met: Vec<u64> = (0..3).map(|n| exchange(&alone, &connection(n), 0, "GET /").drawn.matched).collect();
    assert_eq!(met, [1, 0, 0]);
}

#[test]
fn a_rule_about_connections_counts_each_of_them_once() {
    let set = tcp(vec![share(25.0, rule("d", "delay", &[("side", "both")]))]);
    let plans: Vec<_> = (0..400).map(|n| set.on_connection(&connection(n))).collect();
    assert!(plans.iter().all(|plan| plan.drawn.matched == 1 && plan.drawn.acted == plan.active));
    let chunk = set.on_chunk(&connection(0), 1, Direction::Request, 0);
    assert_eq!(chunk.drawn, Drawn::default(), "its chunks are no units");
    let again = tcp(vec![share(25.0, rule("d", "delay", &[("side", "both")]))]).inherit(&set);
    let kept = again.on_change(&connection(0), &set, plans[0].active);
    assert_eq!((kept.active, kept.drawn), (plans[0].active, Drawn::default()), "it is not asked twice");
}

#[test]
fn matches_and_names_have_limits_in_number_and_bytes() {
    let with_paths = |count: usize, length: usize| {
        let path = format!("/{}*", "x".repeat(length - 2));
        let paths = vec![path.parse().unwrap(); count];
        let matcher = Match { paths, ..Match::default() };
        let rule = Rule { matcher, ..rule("slow", "delay", &[]) };
        RuleSet::compile(vec![rule], Protocol::Http, 42, 1).err()
    };
    assert_eq!(with_paths(128, 128), None);
    let says = |error: Option<RuleError>| error.unwrap().to_string();
    let many = says(with_paths(800, 10));
    assert!(
        many.contains("`slow`") && many.contains("800 entries") && many.contains("at most 128"),
        "{many}"
    );
    assert!(says(with_paths(1, 20_000)).contains("16384 bytes"));
    let named = |name: &str| RuleSet::compile(vec![rule(name, "delay", &[])], Protocol::Tcp, 42, 1).err();
    assert_eq!(named(&format!("lease-12/{}", "n".repeat(128))), None);
    assert_eq!(named(&"n".repeat(129)), Some(RuleError::NameLength(129)));
}
