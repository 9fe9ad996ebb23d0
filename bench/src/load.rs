//! `fracas-bench load`: what a request costs each generator on the same target, and how exactly fracas keeps a rate.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;

use crate::LoadArgs;
use crate::generator::{self, FracasLoad, Generator};
use crate::peer::{own_part, wait_until_it_accepts};
use crate::process::{DRIVER_CORE, SUBJECT_CORE, Server, run_to_end};
use crate::reply::percentile_ns;
use crate::session::Session;
use crate::socket;

const CELLS: [(&str, usize); 2] = [("http-64", 64), ("http-1000", 1000)];
const OPEN_CELL: &str = "open-20000";
const OPEN_RATE_PER_SECOND: u32 = 20_000;

/// Measures and writes the results.
pub fn run(args: &LoadArgs, mut session: Session) -> anyhow::Result<()> {
    let time = Duration::from_secs(if args.common.quick { 1 } else { 3 });
    let mut generators = generator::all(&args.common.fracas());
    generators.retain(|generator| match generator.version() {
        Ok(version) => {
            session.remark(format!("{}: {version}", generator.name()));
            true
        }
        Err(missing) => {
            session.remark(format!("{} is skipped: {missing}", generator.name()));
            false
        }
    });
    let (target, _responder) = start_responder()?;
    session
        .remark(format!("{} runs of {time:?}; the target is the bench's own responder", args.common.runs()));
    for run in 1..=args.common.runs() {
        let first = (run as usize - 1) % generators.len().max(1);
        for (cell, connections) in CELLS {
            for generator in generators[first..].iter().chain(&generators[..first]) {
                if let Err(error) =
                    closed(&mut session, generator.as_ref(), target, cell, connections, run, time)
                {
                    session.remark(format!("{} failed {cell}: {error:#}", generator.name()));
                }
            }
        }
        let fracas = FracasLoad { binary: args.common.fracas() };
        if fracas.version().is_ok() {
            for (subject, is_precise) in [("fracas", false), ("fracas-precise", true)] {
                let command = fracas.open_model(target, OPEN_RATE_PER_SECOND, time, is_precise);
                if let Err(error) = open(&mut session, command, subject, run) {
                    session.remark(format!("{subject} failed {OPEN_CELL}: {error:#}"));
                }
            }
        }
    }
    session.finish()
}

fn closed(
    session: &mut Session,
    generator: &dyn Generator,
    target: SocketAddr,
    cell: &str,
    connections: usize,
    run: u32,
    time: Duration,
) -> anyhow::Result<()> {
    let finished = run_to_end(&mut generator.command(target, connections, time), DRIVER_CORE)?;
    let requests = generator.requests(&finished.stdout)?;
    anyhow::ensure!(requests > 0, "not one request was answered");
    let cpu_us = finished.cpu_time.as_secs_f64() * 1e6;
    session.add(cell, generator.name(), run, "cpu_us_per_request", cpu_us / requests as f64);
    session.add(cell, generator.name(), run, "requests_per_second", requests as f64 / time.as_secs_f64());
    Ok(())
}

fn open(
    session: &mut Session,
    mut command: std::process::Command,
    subject: &str,
    run: u32,
) -> anyhow::Result<()> {
    let finished = run_to_end(&mut command, DRIVER_CORE)?;
    let report = serde_json::from_str(&finished.stdout).context("fracas load --json printed no JSON")?;
    for percentile in ["50", "99", "99.9"] {
        let lag_ns =
            percentile_ns(&report, "lag", percentile).context("run.json has no percentiles of lag")?;
        session.add(OPEN_CELL, subject, run, &format!("lag_us_p{percentile}"), lag_ns / 1000.0);
    }
    Ok(())
}

fn start_responder() -> anyhow::Result<(SocketAddr, Server)> {
    let listen = socket::free_address()?;
    Ok((listen, start_responder_on(listen)?))
}

/// Starts the bench's own HTTP server on `listen`.
pub fn start_responder_on(listen: SocketAddr) -> anyhow::Result<Server> {
    let mut server = Server::start(&mut own_part(&["responder", &listen.to_string()])?, SUBJECT_CORE)?;
    wait_until_it_accepts("the responder", listen, &mut server)?;
    Ok(server)
}
