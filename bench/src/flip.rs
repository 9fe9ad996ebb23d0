//! `fracas-bench flip`: how long a change of rules takes until every worker has it, while the proxy is saturated.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use fracas_dataplane::clock::Instant;

use crate::FlipArgs;
use crate::driver::{Driver, Traffic};
use crate::peer::fracas::{Fracas, Rules, behavior};
use crate::peer::{Peer, Running};
use crate::process::{DRIVER_CORE, run_to_end};
use crate::reply::took_us;
use crate::rows::nearest_rank;
use crate::session::Session;
use crate::socket;

const CELL: &str = "echo-64B-64";
const CONNECTIONS: usize = 64;
/// A 99th percentile needs a hundred samples at least.
const FLIPS: u32 = 200;
const FLIPS_QUICK: u32 = 20;
const SLICE: Duration = Duration::from_millis(50);

/// Measures and writes the results.
pub fn run(args: &FlipArgs, mut session: Session) -> anyhow::Result<()> {
    let binary = session.fracas(&args.common)?;
    let flips = if args.common.quick { FLIPS_QUICK } else { FLIPS };
    session.remark(format!("{} runs of {flips} flips, under {CONNECTIONS} connections", args.common.runs()));
    let mut driver = Driver::new()?;
    for run in 1..=args.common.runs() {
        if let Err(error) = measure(&binary, &mut session, &mut driver, run, flips) {
            session.remark(format!("fracas failed {CELL}: {error:#}"));
            driver.disconnect()?;
        }
    }
    session.finish()
}

fn measure(
    binary: &Path,
    session: &mut Session,
    driver: &mut Driver,
    run: u32,
    flips: u32,
) -> anyhow::Result<()> {
    let api = socket::free_address()?;
    let peer = Fracas { binary: binary.to_owned(), rules: Rules::Changing { api } };
    let traffic = Traffic::Echo { bytes: 64 };
    let running = Running::start(&peer, driver.upstream(traffic)?)?;
    driver.connect(running.listen, CONNECTIONS, traffic)?;
    let flip = || (0..flips).map(|index| flip(binary, api, index)).collect::<anyhow::Result<Vec<_>>>();
    let times = std::thread::scope(|scope| {
        let flipping = scope.spawn(flip);
        while !flipping.is_finished() {
            driver.drive(SLICE)?;
        }
        flipping.join().expect("the flipping thread does not panic")
    })?;
    driver.disconnect()?;
    let (applied, called): (Vec<f64>, Vec<f64>) = times.into_iter().unzip();
    for (metric, mut values) in [("applied_us", applied), ("command_us", called)] {
        values.sort_by(f64::total_cmp);
        for percent in [50, 99] {
            session.add(
                CELL,
                peer.name(),
                run,
                &format!("{metric}_p{percent}"),
                nearest_rank(&values, percent),
            );
        }
    }
    Ok(())
}

/// Changes the rules once: the time the proxy says it took, and that of the whole command, in microseconds.
fn flip(binary: &Path, api: SocketAddr, index: u32) -> anyhow::Result<(f64, f64)> {
    let rules: &[&str] =
        if index.is_multiple_of(2) { &["1:delay", "--delay-time", "1ms"] } else { &["100:normal"] };
    let called_at = Instant::now();
    let finished = run_to_end(&mut behavior(binary, "set", rules, api), DRIVER_CORE)?;
    let command = Instant::now() - called_at;
    let reply =
        serde_json::from_str(&finished.stdout).context("fracas behavior set --json printed no JSON")?;
    let applied_us = took_us(&reply).context("fracas behavior set --json does not say how long it took")?;
    Ok((applied_us, command.as_secs_f64() * 1e6))
}
