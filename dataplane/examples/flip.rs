//! Flips behaviors while traffic flows, and prints what the clients met beside what the proxy says it did.
//!
//! `cargo run -p fracas-dataplane --example flip`. It ends by itself when each phase has had its requests, and fails if
//! the two sides do not agree to the last request.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use fracas_dataplane::Proxy;
use fracas_dataplane::clock::Instant;
use fracas_dataplane::origin::{Origin, OriginSettings};
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::{Event, EventKind};

/// What is put on, one after the other, and its options.
type Phase = (&'static str, &'static [(&'static str, &'static str, &'static str)]);
const PHASES: &[Phase] = &[
    ("normal", &[]),
    ("30:delay", &[("delay", "time", "3ms"), ("delay", "side", "reply")]),
    ("20:error,5:reset", &[("error", "codes", "503")]),
    ("normal", &[]),
];
const REQUESTS_PER_PHASE: usize = 300;
const CLIENTS: usize = 4;
/// No event is on its way for so long: then the example fails instead of waiting for ever.
const EVENTS_WITHIN: Duration = Duration::from_secs(30);

/// How one request went, and how long it took.
#[derive(Clone, Copy, Debug)]
enum Went {
    Well(Duration),
    Status(u16),
    Broken,
}

/// Asks again and again until it is told to stop, over a new connection when one breaks.
fn ask(address: SocketAddr, is_over: &AtomicBool, told: &Sender<Went>) {
    let mut connection = None;
    while !is_over.load(Ordering::Relaxed) {
        let began = Instant::now();
        let went = match ask_once(address, &mut connection) {
            Ok(200) => Went::Well(Instant::now() - began),
            Ok(status) => Went::Status(status),
            Err(_) => {
                connection = None;
                Went::Broken
            }
        };
        if told.send(went).is_err() {
            return;
        }
    }
}

fn ask_once(address: SocketAddr, connection: &mut Option<BufReader<TcpStream>>) -> std::io::Result<u16> {
    let connection = match connection {
        Some(connection) => connection,
        none => none.insert(BufReader::new(TcpStream::connect(address)?)),
    };
    connection.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n")?;
    let (mut status, mut length, mut line) = (0, 0, String::new());
    while line != "\r\n" {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let lower = line.to_ascii_lowercase();
        if let Some(rest) = lower.strip_prefix("http/1.1 ") {
            status = rest.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(0);
        } else if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    connection.read_exact(&mut vec![0; length])?;
    Ok(status)
}

/// What all clients met.
#[derive(Debug, Default)]
struct Met {
    times: Vec<Duration>,
    statuses: BTreeMap<u16, u64>,
    broken: u64,
}

impl Met {
    fn add(&mut self, went: Went) {
        match went {
            Went::Well(time) => self.times.push(time),
            Went::Status(status) => *self.statuses.entry(status).or_default() += 1,
            Went::Broken => self.broken += 1,
        }
    }

    fn print(&mut self, what: &str) {
        self.times.sort_unstable();
        let at =
            |percent: usize| self.times.get(self.times.len() * percent / 100).copied().unwrap_or_default();
        println!(
            "{what:18} {:4} well (p50 {:?}, p99 {:?}), {} with 503, {} broken",
            self.times.len(),
            at(50),
            at(99),
            self.statuses.get(&503).copied().unwrap_or(0),
            self.broken
        );
    }
}

/// All events until so many faults were told.
fn events_until(proxy: &fracas_dataplane::proxy::Watcher, faults: u64) -> Result<Vec<Event>, Box<dyn Error>> {
    let mut events: Vec<Event> = Vec::new();
    let told =
        |events: &[Event]| events.iter().filter(|event| event.kind == EventKind::Injected).count() as u64;
    while told(&events) < faults {
        events.extend(proxy.recv_timeout(EVENTS_WITHIN).ok_or("events are missing")?);
    }
    Ok(events)
}

fn flip() -> Result<(), Box<dyn Error>> {
    let origin = Origin::start(OriginSettings::default())?;
    let proxy = Proxy::start(origin.local_addr(), Protocol::Http)?;
    let watcher = proxy.watch();

    let is_over = Arc::new(AtomicBool::new(false));
    let (told, went): (Sender<Went>, Receiver<Went>) = mpsc::channel();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (address, is_over, told) = (proxy.address(), Arc::clone(&is_over), told.clone());
            std::thread::spawn(move || ask(address, &is_over, &told))
        })
        .collect();
    drop(told);

    let (mut statuses, mut broken) = (0, 0);
    for (behavior, options) in PHASES {
        proxy.set_behavior(behavior, options)?;
        let mut met = Met::default();
        went.iter().take(REQUESTS_PER_PHASE).for_each(|went| met.add(went));
        met.print(behavior);
        statuses += met.statuses.values().sum::<u64>();
        broken += met.broken;
    }
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().map_err(|_| "a client panicked")?;
    }
    // What was under way at the end.
    let mut met = Met::default();
    went.iter().for_each(|went| met.add(went));
    statuses += met.statuses.values().sum::<u64>();
    broken += met.broken;

    let figures = proxy.figures()?;
    println!("\nfor each behavior that was lifted, what its rules did:");
    for rule in &figures.retired {
        let late = rule.lateness.as_ref().map_or_else(String::new, |late| {
            format!(", late by {:?} (p50)", Duration::from_nanos(late.quantile(50, 100)))
        });
        println!("{:18} {} of {} requests{late}", rule.behavior, rule.injected, rule.matched);
    }
    println!("\nof the proxy:");
    for (name, _, count) in figures.counters.named().into_iter().filter(|(_, _, count)| *count > 0) {
        println!("{name:18} {count}");
    }

    let (delays, errors, resets) =
        (proxy.injected("delay")?, proxy.injected("error")?, proxy.injected("reset")?);
    let events = events_until(&watcher, delays + errors + resets)?;
    println!("\n{} events; the changes, and the first faults of each rule:", events.len());
    let mut shown: BTreeMap<&str, u32> = BTreeMap::new();
    for event in &events {
        let rule = event.rule.as_ref().map_or("", |rule| &rule.name);
        let count = shown.entry(rule).or_default();
        *count += 1;
        if event.kind == EventKind::Changed {
            println!("generation {}: {}", event.generation, event.detail);
        } else if *count <= 2 {
            let (generation, connection, exchange) = (event.generation, event.connection, event.exchange);
            println!(
                "generation {generation}, connection {connection}, request {exchange}: {rule} {}",
                event.detail
            );
        }
    }

    assert_eq!((statuses, broken), (errors, resets), "what the clients met is what the proxy says it did");
    assert!(delays > 0 && errors > 0 && resets > 0);
    assert_eq!(watcher.lost(), 0);
    let told = events.iter().filter(|event| event.kind == EventKind::Injected).count() as u64;
    assert_eq!(told, delays + errors + resets, "every fault has its event");
    assert!(events.iter().all(|event| event.kind != EventKind::NaturalFailure), "nothing else has failed");
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    flip()
}

#[cfg(test)]
mod tests {
    #[test]
    fn clients_and_proxy_agree_while_behaviors_are_flipped() -> Result<(), Box<dyn std::error::Error>> {
        super::flip()
    }
}
