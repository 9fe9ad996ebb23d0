use std::sync::Mutex;

use fracas_loadgen::measure::{Counts, Interval, Timeline};
use fracas_loadgen::scenario::parse;

use super::super::load::{Load, Outcome};
use super::*;
use crate::session::Finished;

/// A load that the test drives.
#[derive(Default)]
struct Script {
    starts: Vec<Instant>,
    waiting: Timeline,
    counts: Counts,
    stopped: bool,
    over: bool,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Script>>);

impl Fake {
    fn with<R>(&self, f: impl FnOnce(&mut Script) -> R) -> R {
        f(&mut self.0.lock().unwrap())
    }

    /// Lets `requests` happen in a second.
    fn happen(&self, second: u32, requests: u64) {
        let counts = Counts { planned: requests, sent: requests, ok: requests, ..Counts::default() };
        let mut interval = Interval { second, counts, ..Interval::default() };
        interval.response[0] = (0..requests).map(|i| 1_000_000 + i).collect();
        self.with(|script| {
            script.waiting.add(&interval);
            script.counts.merge(&counts);
        });
    }
}

impl Prepared for Fake {
    fn start(self: Box<Self>, start_at: Instant) -> Box<dyn Load> {
        self.with(|script| script.starts.push(start_at));
        self
    }
}

impl Load for Fake {
    fn take(&mut self) -> Timeline {
        self.with(|script| std::mem::take(&mut script.waiting))
    }
    fn connections_open(&self) -> u64 {
        1
    }
    fn stop(&mut self) {
        self.with(|script| (script.stopped, script.over) = (true, true));
    }
    fn is_over(&self) -> bool {
        self.with(|script| script.over)
    }
    fn outcome(self: Box<Self>) -> Outcome {
        let (rest, counts) = self.with(|script| (std::mem::take(&mut script.waiting), script.counts));
        Outcome { rest, counts, ended_at: at(9_000), ..Outcome::default() }
    }
}

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(1_000_000 + ms)
}

fn attempt(run: &str) -> Attempt {
    Attempt { run: run.into(), number: 1 }
}

fn plan() -> Plan {
    parse(
        "f.yml",
        "name: n\nnodes: 2\ntarget: http://127.0.0.1:1/\nconnections: 4\nphases: [{rate: 10/s, for: 3s}]\n",
    )
    .unwrap()
}

fn order(run: &str) -> ToNode {
    ToNode::Prepare {
        attempt: attempt(run),
        plan_json: Arc::from([]),
        shard_index: 1,
        shard_count: 2,
        seed: 0,
        ready_within: Duration::ZERO,
    }
}

/// What was opened.
fn opened(fake: &Fake) -> Result<Opened, String> {
    Ok((plan(), Shard::new(1, 2).unwrap(), Box::new(fake.clone())))
}

fn prepare(member: &mut Member, fake: &Fake, ms: u64) -> FromNode {
    assert!(member.on_told(order("r"), at(ms)).is_empty());
    assert_eq!(member.take_order().unwrap().attempt, attempt("r"));
    let mut said = member.on_opened(opened(fake), at(ms));
    assert_eq!(said.len(), 1);
    said.remove(0)
}

/// A member that makes load since 100 ms, in a session.
fn loading() -> (Member, Fake) {
    let fake = Fake::default();
    let mut member = Member::new(at(0));
    assert!(member.on_up(at(0)).is_empty());
    let ready = prepare(&mut member, &fake, 0);
    assert!(matches!(ready, FromNode::Ready { result: Ok(()), .. }));
    let start = ToNode::Start { attempt: attempt("r"), start_at: at(100), clock_error: Duration::ZERO };
    assert!(member.on_told(start, at(50)).is_empty());
    assert_eq!(fake.with(|script| script.starts.clone()), [at(100)]);
    (member, fake)
}

fn sequences(said: &[FromNode]) -> Vec<u64> {
    said.iter()
        .filter_map(|message| if let FromNode::Delta(delta) = message { Some(delta.sequence) } else { None })
        .collect()
}

fn finished(said: &[FromNode]) -> Option<Finished> {
    said.iter().find_map(
        |m| {
            if let FromNode::Finished(finished) = m { Some((**finished).clone()) } else { None }
        },
    )
}

#[test]
fn every_second_is_told_and_the_end_comes_last() {
    let (mut member, fake) = loading();
    fake.happen(0, 10);
    assert!(member.on_tick(at(600)).is_empty(), "once a second");
    assert_eq!(sequences(&member.on_tick(at(1_100))), [1]);
    fake.happen(1, 10);
    fake.with(|script| script.over = true);
    let said = member.on_tick(at(1_200));
    assert_eq!(sequences(&said), [2]);
    let end = finished(&said).unwrap();
    assert_eq!((end.last_sequence, end.counts.planned, end.cancelled), (2, 20, false));
    assert!(matches!(said.last(), Some(FromNode::Finished(_))));
}

#[test]
fn a_broken_session_costs_nothing_and_the_end_is_said_again() {
    let (mut member, fake) = loading();
    fake.happen(0, 10);
    assert_eq!(sequences(&member.on_tick(at(1_100))), [1]);
    member.on_down();
    fake.happen(1, 10);
    assert!(member.on_tick(at(2_100)).is_empty());
    fake.happen(2, 10);
    fake.with(|script| script.over = true);
    assert!(member.on_tick(at(3_100)).is_empty());
    assert_eq!(member.carried(), Some(&attempt("r")));
    let said = member.on_up(at(4_000));
    assert_eq!(sequences(&said), [1, 2], "the first again, the others as one");
    assert_eq!(finished(&said).unwrap().last_sequence, 2);
    member.on_down();
    assert!(finished(&member.on_up(at(5_000))).is_some());
    member.on_told(ToNode::Cancel { attempt: attempt("r"), reason: "over".into() }, at(5_100));
    assert_eq!(member.carried(), None);
}

#[test]
fn an_orphan_stops_its_load_after_thirty_seconds() {
    let (mut member, fake) = loading();
    member.on_told(ToNode::Heartbeat, at(1_000));
    member.on_down();
    member.on_tick(at(30_900));
    assert!(!fake.with(|script| script.stopped));
    member.on_tick(at(31_000));
    assert!(fake.with(|script| script.stopped));
    member.on_tick(at(31_100));
    let end = finished(&member.on_up(at(40_000))).unwrap();
    assert!(end.cancelled && end.reasons[0].contains("heard no controller for 30 s"), "{:?}", end.reasons);
}

#[test]
fn the_controller_may_shorten_the_orphan_timeout() {
    let (mut member, fake) = loading();
    let timings = Timings { orphan_timeout: Duration::from_millis(200), ..Timings::default() };
    member
        .on_told(ToNode::Welcome { session: 1, version: "0.1.0".into(), timings, runs: Vec::new() }, at(100));
    member.on_tick(at(299));
    assert!(!fake.with(|script| script.stopped));
    member.on_tick(at(300));
    assert!(fake.with(|script| script.stopped));
}

#[test]
fn cancel_stops_the_load_and_what_happened_is_told() {
    let (mut member, fake) = loading();
    fake.happen(0, 7);
    member.on_told(ToNode::Cancel { attempt: attempt("other"), reason: "no".into() }, at(500));
    assert!(!fake.with(|script| script.stopped));
    member.on_told(ToNode::Cancel { attempt: attempt("r"), reason: "lunch".into() }, at(600));
    let said = member.on_tick(at(700));
    let end = finished(&said).unwrap();
    assert_eq!((sequences(&said), end.counts.planned, end.cancelled), (vec![1], 7, true));
}

#[test]
fn a_late_or_unknown_start_is_refused_and_an_attempt_starts_once() {
    let fake = Fake::default();
    let mut member = Member::new(at(0));
    let start = |start_at| ToNode::Start { attempt: attempt("r"), start_at, clock_error: Duration::ZERO };
    let said = member.on_told(start(at(100)), at(0));
    assert!(matches!(&said[..], [FromNode::Error { message, .. }] if message.contains("not prepared")));
    prepare(&mut member, &fake, 0);
    let said = member.on_told(start(at(100)), at(103));
    assert!(matches!(&said[..], [FromNode::Error { message, .. }] if message.contains("3.0 ms too late")));
    prepare(&mut member, &fake, 200);
    member.on_told(start(at(300)), at(200));
    member.on_told(start(at(300)), at(210));
    assert_eq!(fake.with(|script| script.starts.len()), 1);
}

#[test]
fn a_node_that_cannot_says_why_and_is_free_again() {
    let mut member = Member::new(at(0));
    assert!(member.on_told(order("r"), at(0)).is_empty());
    assert!(member.take_order().is_some());
    let said = member.on_opened(Err("no such host".into()), at(0));
    assert_eq!(words(&said), ["not ready: no such host"]);
    assert_eq!(member.carried(), None);
}

/// What was said, in short.
fn words(said: &[FromNode]) -> Vec<String> {
    let word = |message: &FromNode| match message {
        FromNode::Ready { result: Ok(()), .. } => "ready".to_owned(),
        FromNode::Ready { result: Err(reason), .. } => format!("not ready: {reason}"),
        FromNode::Delta(_) => "results".to_owned(),
        FromNode::Finished(_) => "finished".to_owned(),
        FromNode::Error { message, .. } => format!("error: {message}"),
        other => format!("{other:?}"),
    };
    said.iter().map(word).collect()
}

/// A member in each state of the table, with the load of its run `r`; all were heard last at 1,000 ms.
fn in_state(state: &str) -> (Member, Fake) {
    let fake = Fake::default();
    let mut member = Member::new(at(0));
    member.on_up(at(0));
    match state {
        "free" => {}
        "opening" | "leaving" => {
            member.on_told(order("r"), at(0));
            member.take_order().unwrap();
            if state == "leaving" {
                member.on_told(cancel("r"), at(0));
            }
        }
        "prepared" => _ = prepare(&mut member, &fake, 0),
        _ => {
            prepare(&mut member, &fake, 0);
            member.on_told(start("r", 100), at(50));
            fake.happen(0, 10);
            if state == "over" {
                fake.with(|script| script.over = true);
                assert_eq!(words(&member.on_tick(at(900))), ["results", "finished"]);
            }
        }
    }
    member.on_told(ToNode::Heartbeat, at(1_000));
    assert_eq!(state_of(&member), state);
    (member, fake)
}

fn state_of(member: &Member) -> &'static str {
    let order = member.opening.as_ref().map(|opening| opening.is_wanted);
    match (&member.held, order) {
        (None, None) if member.waiting.is_some() => "to open",
        (None, None) => "free",
        (None, Some(true)) => "opening",
        (None, Some(false)) if member.waiting.is_some() => "leaving, one waits",
        (None, Some(false)) => "leaving",
        (Some(held), None) => match held.stage {
            Stage::Prepared(_) => "prepared",
            Stage::Loading(_) => "loading",
            Stage::Over(_) => "over",
            Stage::Moving => "moving",
        },
        (Some(_), Some(_)) => "both",
    }
}

fn start(run: &str, ms: u64) -> ToNode {
    ToNode::Start { attempt: attempt(run), start_at: at(ms), clock_error: Duration::ZERO }
}

fn cancel(run: &str) -> ToNode {
    ToNode::Cancel { attempt: attempt(run), reason: "enough".into() }
}

#[test]
fn each_message_does_in_each_state_what_the_table_says() {
    const STATES: [&str; 6] = ["free", "opening", "leaving", "prepared", "loading", "over"];
    const AGAIN: &str = "not ready: it has had this attempt already";
    const READIES: &str = "not ready: it is getting ready for another run";
    const CARRIES: &str = "not ready: it still carries another run";
    const UNKNOWN: &str = "error: it was told to start a run that it has not prepared";
    const LATE: &str = "error: it heard of the start 1.0 ms too late";
    const FAR: &str = "error: it was told to start too far ahead, in 61 s; at most 60 s";
    type Act = fn(&mut Member, &Fake) -> Vec<FromNode>;
    /// Per state: what is said, and the state after it.
    type Row = [(&'static [&'static str], &'static str); 6];
    let table: [(&str, Act, Row); 15] = [
        (
            "Prepare, its own",
            |member, _| member.on_told(order("r"), at(1_000)),
            [
                (&[], "to open"),
                (&[], "opening"),
                (&[], "leaving, one waits"),
                (&["ready"], "prepared"),
                (&[AGAIN], "loading"),
                (&[AGAIN], "over"),
            ],
        ),
        (
            "Prepare, another",
            |member, _| member.on_told(order("s"), at(1_000)),
            [
                (&[], "to open"),
                (&[READIES], "opening"),
                (&[], "leaving, one waits"),
                (&[], "to open"),
                (&[CARRIES], "loading"),
                (&[], "to open"),
            ],
        ),
        (
            "Prepare, two others",
            |member, _| {
                member.on_told(order("s"), at(1_000));
                member.on_told(order("t"), at(1_000))
            },
            [
                (&[READIES], "to open"),
                (&[READIES], "opening"),
                (&[READIES], "leaving, one waits"),
                (&[READIES], "to open"),
                (&[CARRIES], "loading"),
                (&[READIES], "to open"),
            ],
        ),
        (
            "opened",
            |member, fake| member.on_opened(opened(fake), at(1_000)),
            [
                (&[], "free"),
                (&["ready"], "prepared"),
                (&[], "free"),
                (&[], "prepared"),
                (&[], "loading"),
                (&[], "over"),
            ],
        ),
        (
            "could not open",
            |member, _| member.on_opened(Err("why".into()), at(1_000)),
            [
                (&[], "free"),
                (&["not ready: why"], "free"),
                (&[], "free"),
                (&[], "prepared"),
                (&[], "loading"),
                (&[], "over"),
            ],
        ),
        (
            "Start",
            |member, _| member.on_told(start("r", 1_100), at(1_000)),
            [
                (&[UNKNOWN], "free"),
                (&[UNKNOWN], "opening"),
                (&[UNKNOWN], "leaving"),
                (&[], "loading"),
                (&[], "loading"),
                (&[], "over"),
            ],
        ),
        (
            "Start, too late",
            |member, _| member.on_told(start("r", 999), at(1_000)),
            [
                (&[UNKNOWN], "free"),
                (&[UNKNOWN], "opening"),
                (&[UNKNOWN], "leaving"),
                (&[LATE], "free"),
                (&[], "loading"),
                (&[], "over"),
            ],
        ),
        (
            "Start, too far",
            |member, _| member.on_told(start("r", 62_000), at(1_000)),
            [
                (&[UNKNOWN], "free"),
                (&[UNKNOWN], "opening"),
                (&[UNKNOWN], "leaving"),
                (&[FAR], "free"),
                (&[], "loading"),
                (&[], "over"),
            ],
        ),
        (
            "Start, another",
            |member, _| member.on_told(start("s", 1_100), at(1_000)),
            STATES.map(|state| (&[UNKNOWN][..], state)),
        ),
        (
            "Cancel",
            |member, _| {
                member.on_told(cancel("r"), at(1_000));
                member.on_tick(at(1_000))
            },
            [
                (&[], "free"),
                (&[], "leaving"),
                (&[], "leaving"),
                (&[], "free"),
                (&["results", "finished"], "over"),
                (&[], "free"),
            ],
        ),
        (
            "Cancel, another",
            |member, _| member.on_told(cancel("s"), at(1_000)),
            STATES.map(|state| (&[][..], state)),
        ),
        (
            "IntervalAck of everything",
            |member, _| {
                let ack = ToNode::IntervalAck { attempt: attempt("r"), sequence: u64::MAX };
                member.on_told(ack, at(1_000))
            },
            [
                (&[], "free"),
                (&[], "opening"),
                (&[], "leaving"),
                (&[], "prepared"),
                (&[], "loading"),
                (&[], "over"),
            ],
        ),
        (
            "no controller",
            |member, _| {
                member.on_down();
                member.on_tick(at(30_999));
                member.on_tick(at(31_000))
            },
            [(&[], "free"), (&[], "leaving"), (&[], "leaving"), (&[], "free"), (&[], "over"), (&[], "over")],
        ),
        ("time", |member, _| member.on_tick(at(1_000)), STATES.map(|state| (&[][..], state))),
        (
            "session is back",
            |member, _| {
                member.on_tick(at(1_000));
                member.on_down();
                member.on_up(at(1_000))
            },
            [
                (&[], "free"),
                (&[], "opening"),
                (&[], "leaving"),
                (&["ready"], "prepared"),
                (&[], "loading"),
                (&["results", "finished"], "over"),
            ],
        ),
    ];
    for (what, act, expected) in table {
        for (state, (said, after)) in STATES.into_iter().zip(expected) {
            let (mut member, fake) = in_state(state);
            let words = words(&act(&mut member, &fake));
            assert_eq!((&words[..], state_of(&member)), (&owned(said)[..], after), "{what}, {state}");
        }
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn what_waits_is_opened_when_nothing_else_is_and_may_be_cancelled() {
    let (mut member, fake) = in_state("leaving");
    member.on_told(order("s"), at(1_000));
    assert_eq!(member.take_order(), None, "the other is still opened");
    assert_eq!(member.carried(), Some(&attempt("s")));
    member.on_told(cancel("s"), at(1_000));
    assert_eq!(member.carried(), None);
    member.on_told(order("t"), at(1_000));
    assert!(member.on_opened(opened(&fake), at(1_100)).is_empty());
    assert_eq!(Arc::strong_count(&fake.0), 1, "what nobody wants is closed");
    assert_eq!(member.take_order().unwrap().attempt, attempt("t"));
    assert_eq!(words(&member.on_opened(opened(&fake), at(1_200))), ["ready"]);
}
