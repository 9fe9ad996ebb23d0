//! `fracas-bench figures`: what reading a proxy's figures costs the traffic that passes: p99 with and without 20 reads
//! a second of `/metrics` and `GetProxy`, in turns, with 64 rules that delay. About 20 seconds a run.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use fracas_dataplane::clock::Instant;

use crate::Common;
use crate::api::Api;
use crate::parts::{self, Part, run_json};
use crate::process::{DRIVER_CORE, SUBJECT_CORE};
use crate::reply::percentile_ns;
use crate::session::Session;

const RULES: usize = 64;
const READ_EVERY: Duration = Duration::from_millis(50);
const ENDS_WITHIN: Duration = Duration::from_secs(60);
const CELL: &str = "64-delay-rules";
/// Far from saturation, so that p99 is what the proxy does to it.
const LOAD: [&str; 6] = ["-c", "16", "-r", "2000/s", "-t", "1"];
/// Pairs of a stretch without and a stretch with reads in each run.
const TURNS: u32 = 2;

/// Measures and writes the results.
pub fn run(args: &Common, mut session: Session) -> anyhow::Result<()> {
    let binary = session.fracas(args)?;
    session.remark(format!(
        "{} runs of {TURNS} pairs; fracas load {} on echoes; {RULES} rules of 1 %, up to 50 µs each",
        args.runs(),
        LOAD.join(" ")
    ));
    let time = if args.quick { "2s" } else { "4s" };
    for run in 1..=args.runs() {
        if let Err(error) = measure(&binary, &mut session, run, time) {
            session.remark(format!("fracas failed {CELL}: {error:#}"));
        }
    }
    session.finish()
}

fn measure(binary: &Path, session: &mut Session, run: u32, time: &str) -> anyhow::Result<()> {
    // Nothing is pinned to one core: the thread that answers the reads may use the other.
    let cores = [SUBJECT_CORE, DRIVER_CORE];
    let origin = parts::origin(binary, &["--echo"], &cores)?;
    let (proxy, api) = parts::proxy_with_api(binary, origin.listen, &[], &cores)?;
    let mix = vec!["1:delay"; RULES].join(",");
    Api::connect(api)?.set(&mix, &[("delay", "time", "uniform(1us,50us)")])?;
    // Once unmeasured, so that every rule has values.
    stretch(binary, &proxy, "1s")?;
    for turn in 0..TURNS {
        let row = (run - 1) * TURNS + turn + 1;
        let mut add = |subject: &str, p99_us: f64| session.add(CELL, subject, row, "response_us_p99", p99_us);
        add("unread", stretch(binary, &proxy, time)?);
        let (read, reads) = while_reading(api, || stretch(binary, &proxy, time))?;
        add("read", read);
        session.add(CELL, "read", row, "reads", reads as f64);
    }
    Ok(())
}

/// p99 in microseconds over `time`.
fn stretch(binary: &Path, proxy: &Part, time: &str) -> anyhow::Result<f64> {
    let mut arguments = LOAD.to_vec();
    arguments.extend(["-d", time]);
    let load = parts::load(binary, &format!("tcp://{}", proxy.listen), &arguments)?;
    let run = run_json(load, ENDS_WITHIN)?;
    let p99_ns = percentile_ns(&run, "response", "99").context("run.json has no percentiles of response")?;
    Ok(p99_ns / 1e3)
}

/// Does `work` while another thread reads all figures 20 times a second; says how often it did.
fn while_reading<T>(api: SocketAddr, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, u64)> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut client = Api::connect(api)?;
            let (mut next, mut reads) = (Instant::now(), 0);
            while !over.load(Ordering::Relaxed) {
                client.read_metrics()?;
                client.get_proxy()?;
                reads += 1;
                next += READ_EVERY;
                std::thread::sleep(next.since(Instant::now()));
            }
            anyhow::Ok(reads)
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        let reads = reading.join().expect("the reading thread does not panic")?;
        Ok((done?, reads))
    })
}
