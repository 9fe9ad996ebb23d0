//! `fracas-bench proxy`: every peer under the same loads, in turns.

use std::time::Duration;

use fracas_dataplane::clock::Instant;

use crate::ProxyArgs;
use crate::driver::{Driver, Sample, Traffic};
use crate::peer::{self, Peer, Running};
use crate::session::Session;

/// Connections that are up before memory is first read, so that buffers shared by all are not counted.
const IDLE_BASE: usize = 64;
const IDLE_CELL: &str = "idle-4000";
const IDLE_CONNECTIONS: usize = 4000;
/// An allocator settles and timers run before memory is read.
const IDLE_SETTLES: Duration = Duration::from_millis(300);

struct Cell {
    name: &'static str,
    traffic: Traffic,
    connections: usize,
    /// All clients send at once and are answered at once.
    in_bursts: bool,
}

const fn cell(name: &'static str, traffic: Traffic, connections: usize) -> Cell {
    Cell { name, traffic, connections, in_bursts: false }
}

const CELLS: [Cell; 7] = [
    cell("echo-64B-1", Traffic::Echo { bytes: 64 }, 1),
    cell("echo-64B-64", Traffic::Echo { bytes: 64 }, 64),
    cell("echo-64B-1000", Traffic::Echo { bytes: 64 }, 1000),
    Cell { in_bursts: true, ..cell("burst-64B-1000", Traffic::Echo { bytes: 64 }, 1000) },
    cell("echo-256KiB-16", Traffic::Echo { bytes: 256 * 1024 }, 16),
    cell("http-64", Traffic::Http, 64),
    cell("http-1000", Traffic::Http, 1000),
];

/// The peers that are driven in bursts: the floor, what people compare with, and fracas.
const BURST_PEERS: [&str; 3] = ["floor", "haproxy", "fracas"];

impl Cell {
    fn takes(&self, peer: &dyn Peer) -> bool {
        // An HTTP-aware proxy would wait for ever for a request head in an echo's bytes.
        let speaks_it = self.traffic == Traffic::Http || !peer.name().starts_with("fracas-http");
        speaks_it && (!self.in_bursts || BURST_PEERS.contains(&peer.name()))
    }
}

/// Measures and writes the results.
pub fn run(args: &ProxyArgs, mut session: Session) -> anyhow::Result<()> {
    let mut driver = Driver::new()?;
    let peers = present(args, &mut session);
    let (warm_up, measured) = args.common.times();
    session.remark(format!(
        "{} runs, each {warm_up:?} of warm-up and {measured:?} measured",
        args.common.runs()
    ));
    for run in 1..=args.common.runs() {
        for cell in CELLS.iter().filter(|cell| is_wanted(args, cell.name)) {
            for peer in in_turn(&peers, run) {
                if !cell.takes(peer) {
                    continue;
                }
                let result = measure(&mut driver, peer, cell, warm_up, measured);
                record(&mut session, &mut driver, cell, peer, run, result)?;
            }
        }
        if is_wanted(args, IDLE_CELL) {
            for peer in in_turn(&peers, run).filter(|peer| !peer.name().starts_with("fracas-http")) {
                match idle_bytes(&mut driver, peer) {
                    Ok(bytes) => {
                        session.add(IDLE_CELL, peer.name(), run, "anonymous_bytes_per_connection", bytes)
                    }
                    Err(error) => session.remark(format!("{} failed {IDLE_CELL}: {error:#}", peer.name())),
                }
                driver.disconnect()?;
            }
        }
    }
    session.finish()
}

/// What `--cell` may name.
pub fn cell_names() -> Vec<&'static str> {
    CELLS.iter().map(|cell| cell.name).chain([IDLE_CELL]).collect()
}

fn is_wanted(args: &ProxyArgs, cell: &str) -> bool {
    args.cell.is_empty() || args.cell.iter().any(|only| only == cell)
}

fn present(args: &ProxyArgs, session: &mut Session) -> Vec<Box<dyn Peer>> {
    let mut peers = peer::all(&args.common.fracas());
    peers.retain(|peer| args.peer.is_empty() || args.peer.iter().any(|name| name == peer.name()));
    peers.retain(|peer| match peer.version() {
        Ok(version) => {
            session.remark(format!("{}: {version}", peer.name()));
            true
        }
        Err(missing) => {
            session.remark(format!("{} is skipped: {missing}", peer.name()));
            false
        }
    });
    peers
}

/// The peers, each run starting with another one, so that none is always first or behind the same neighbour.
fn in_turn(peers: &[Box<dyn Peer>], run: u32) -> impl Iterator<Item = &dyn Peer> {
    let first = (run as usize - 1) % peers.len().max(1);
    peers[first..].iter().chain(&peers[..first]).map(AsRef::as_ref)
}

fn measure(
    driver: &mut Driver,
    peer: &dyn Peer,
    cell: &Cell,
    warm_up: Duration,
    measured: Duration,
) -> anyhow::Result<(Sample, Duration)> {
    let running = Running::start(peer, driver.upstream(cell.traffic)?)?;
    driver.connect(running.listen, cell.connections, cell.traffic)?;
    let mut drive = |time| if cell.in_bursts { driver.drive_bursts(time) } else { driver.drive(time) };
    drive(warm_up)?;
    let before = running.server().cpu_time();
    let sample = drive(measured)?;
    let cpu_time = running.server().cpu_time().saturating_sub(before);
    driver.disconnect()?;
    Ok((sample, cpu_time))
}

fn record(
    session: &mut Session,
    driver: &mut Driver,
    cell: &Cell,
    peer: &dyn Peer,
    run: u32,
    result: anyhow::Result<(Sample, Duration)>,
) -> anyhow::Result<()> {
    let (sample, cpu_time) = match result {
        Ok((sample, _)) if sample.exchanges == 0 => {
            session.remark(format!("{} made no round trip in {}", peer.name(), cell.name));
            return Ok(());
        }
        Ok(measured) => measured,
        Err(error) => {
            session.remark(format!("{} failed {}: {error:#}", peer.name(), cell.name));
            return driver.disconnect();
        }
    };
    let mut add = |metric: &str, value: f64| session.add(cell.name, peer.name(), run, metric, value);
    add("cpu_us_per_round_trip", cpu_time.as_secs_f64() * 1e6 / sample.exchanges as f64);
    add("core_busy_percent", cpu_time.as_secs_f64() / sample.elapsed.as_secs_f64() * 100.0);
    add("round_trips_per_second", sample.exchanges as f64 / sample.elapsed.as_secs_f64());
    for (metric, quantile) in [("service_us_p50", 0.5), ("service_us_p99", 0.99), ("service_us_p99.9", 0.999)]
    {
        add(metric, sample.service_ns.value_at_quantile(quantile) as f64 / 1000.0);
    }
    Ok(())
}

/// Bytes of user memory that each of 4,000 connections adds, after one exchange on it.
fn idle_bytes(driver: &mut Driver, peer: &dyn Peer) -> anyhow::Result<f64> {
    let traffic = Traffic::Echo { bytes: 64 };
    let running = Running::start(peer, driver.upstream(traffic)?)?;
    driver.connect(running.listen, IDLE_BASE, traffic)?;
    std::thread::sleep(IDLE_SETTLES);
    let before = running.server().anonymous_bytes();
    let started_at = Instant::now();
    driver.connect(running.listen, IDLE_CONNECTIONS, traffic)?;
    std::thread::sleep(IDLE_SETTLES);
    let after = running.server().anonymous_bytes();
    anyhow::ensure!(after > 0, "the peer ended {:?} into the idle test", Instant::now() - started_at);
    driver.disconnect()?;
    Ok((after as f64 - before as f64) / IDLE_CONNECTIONS as f64)
}
