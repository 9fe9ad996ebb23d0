//! `fracas-bench soak`: mixed traffic through a proxy whose rules change at random every 50 ms, then a minute of calm:
//! does everything come back? `--time` plus about 80 seconds.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::rng::Rng;

use crate::SoakArgs;
use crate::api::Api;
use crate::parts::{self, Part};
use crate::process::{DRIVER_CORE, Ongoing, SUBJECT_CORE};
use crate::session::Session;

const FLIP_EVERY: Duration = Duration::from_millis(50);
const RESET_EVERY: Duration = Duration::from_millis(20);
const CALM: Duration = Duration::from_secs(60);
/// Processor time at rest is read over so long, before and after.
const REST: Duration = Duration::from_secs(5);
/// A load may wait so long for its last replies.
const ENDS_AFTER: Duration = Duration::from_secs(60);
const CELL: &str = "mixed-with-flips";

/// What rules are drawn from.
const MIXES: [&str; 9] = [
    "normal",
    "20:delay",
    "100:delay",
    "10:error,10:delay",
    "5:reset",
    "5:abort",
    "2:hang",
    "30:blackout",
    "50:throttle",
];
const OPTIONS: [(&str, &str, &str); 2] =
    [("delay", "time", "uniform(1ms,100ms)"), ("throttle", "rate", "2MB/s")];

/// The loads beside each other, as arguments after the URL: kept connections, a connection for each request, bulk.
const LOADS: [(&str, &str, &[&str]); 3] = [
    ("kept", "/", &["-c", "200", "-r", "2000/s", "--timeout", "2s"]),
    ("short", "/", &["-c", "50", "-r", "200/s", "--timeout", "2s", "--no-keep-alive"]),
    ("bulk", "/bytes/1000000", &["-c", "8", "-r", "40/s", "--timeout", "5s"]),
];

/// What a proxy has at one time.
struct Held {
    resident_mib: f64,
    /// Of that, no files: what grows when code is first run is not memory that is held.
    anonymous_mib: f64,
    descriptors: f64,
    connections: f64,
    busy_percent: f64,
}

/// Measures and writes the results.
pub fn run(args: &SoakArgs, mut session: Session) -> anyhow::Result<()> {
    let binary = session.fracas(&args.common)?;
    let runs = args.common.runs.unwrap_or(1);
    let time = Duration::from_secs(args.seconds);
    session.remark(format!(
        "{runs} runs of {time:?}, seed {}; a flip every {FLIP_EVERY:?}, a client that resets every {RESET_EVERY:?}; \
         then {CALM:?} of calm",
        args.seed
    ));
    for run in 1..=runs {
        if let Err(error) = soak(&binary, &mut session, run, time, args.seed + u64::from(run)) {
            session.remark(format!("fracas failed {CELL}: {error:#}"));
        }
    }
    session.finish()
}

fn soak(binary: &Path, session: &mut Session, run: u32, time: Duration, seed: u64) -> anyhow::Result<()> {
    let origin = parts::origin(binary, &[], &[DRIVER_CORE])?;
    let (mut proxy, api) =
        parts::proxy_with_api(binary, origin.listen, &["--protocol", "http"], &[SUBJECT_CORE])?;
    let before = held(&proxy, api)?;
    let mut client = Api::connect(api)?;

    let mut loads = Vec::new();
    let seconds = format!("{}s", time.as_secs());
    for (name, path, arguments) in LOADS {
        let mut arguments = arguments.to_vec();
        arguments.extend(["-d", &seconds]);
        loads.push((name, parts::load(binary, &format!("http://{}{path}", proxy.listen), &arguments)?));
    }
    let (over, resets) = (AtomicBool::new(false), AtomicU64::new(0));
    let (flips, peak_mib) = std::thread::scope(|scope| {
        scope.spawn(|| reset_again_and_again(proxy.listen, &over, &resets));
        let flipped = flip_at_random(&mut client, &proxy, time, seed);
        over.store(true, Ordering::Relaxed);
        flipped
    })?;
    client.set("normal", &[])?;
    drop(client);
    for (name, load) in loads {
        let failed = ended(load).err();
        failed.into_iter().for_each(|error| session.remark(format!("the {name} load: {error:#}")));
    }
    std::thread::sleep(CALM - REST);
    anyhow::ensure!(proxy.server.is_alive(), "the proxy has ended");
    let after = held(&proxy, api)?;

    let mut add = |metric: &str, value| session.add(CELL, "fracas", run, metric, value);
    add("resident_after_over_before", after.resident_mib / before.resident_mib);
    add("resident_mib_before", before.resident_mib);
    add("resident_mib_peak", peak_mib);
    add("resident_mib_after", after.resident_mib);
    add("anonymous_mib_before", before.anonymous_mib);
    add("anonymous_mib_after", after.anonymous_mib);
    add("descriptors_more", after.descriptors - before.descriptors);
    add("connections_after", after.connections);
    add("busy_percent_before", before.busy_percent);
    add("busy_percent_after", after.busy_percent);
    add("flips", flips as f64);
    add("resets", resets.load(Ordering::Relaxed) as f64);
    Ok(())
}

fn ended(load: Ongoing) -> anyhow::Result<()> {
    parts::run_json(load, ENDS_AFTER).map(drop)
}

/// At rest: takes [`REST`] to see how busy it is. The API is dialled anew: a connection on which nobody reads for a
/// minute answers no pings and is closed.
fn held(proxy: &Part, api: SocketAddr) -> anyhow::Result<Held> {
    let busy = proxy.server.cpu_time();
    std::thread::sleep(REST);
    let busy = proxy.server.cpu_time().saturating_sub(busy);
    Ok(Held {
        resident_mib: mib(proxy.server.resident_bytes()),
        anonymous_mib: mib(proxy.server.anonymous_bytes()),
        descriptors: proxy.server.descriptors() as f64,
        connections: Api::connect(api)?.get_proxy()?.connections_open as f64,
        busy_percent: busy.as_secs_f64() / REST.as_secs_f64() * 100.0,
    })
}

/// Changes the rules for `time`; returns how often, and the most memory seen meanwhile in MiB.
fn flip_at_random(client: &mut Api, proxy: &Part, time: Duration, seed: u64) -> anyhow::Result<(u64, f64)> {
    let mut rng = Rng::new(seed);
    let (mut flips, mut peak_mib) = (0, 0.0_f64);
    let (started_at, mut next) = (Instant::now(), Instant::now());
    while Instant::now() - started_at < time {
        let mix = MIXES[rng.below(MIXES.len() as u64) as usize];
        let options: Vec<_> = OPTIONS.into_iter().filter(|(behavior, ..)| mix.contains(behavior)).collect();
        client.set(mix, &options)?;
        flips += 1;
        peak_mib = peak_mib.max(mib(proxy.server.resident_bytes()));
        next += FLIP_EVERY;
        std::thread::sleep(next.since(Instant::now()));
    }
    Ok((flips, peak_mib))
}

/// Clients that ask for a long reply and end with a RST in the middle of it.
fn reset_again_and_again(proxy: SocketAddr, over: &AtomicBool, resets: &AtomicU64) {
    while !over.load(Ordering::Relaxed) {
        if let Ok(mut stream) = TcpStream::connect(proxy) {
            let _ = stream.write_all(b"GET /bytes/300000 HTTP/1.1\r\nHost: soak\r\n\r\nGET / HT");
            std::thread::sleep(RESET_EVERY / 4);
            // Closed with a linger of zero, a socket sends a RST (socket(7)).
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            resets.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(RESET_EVERY);
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
