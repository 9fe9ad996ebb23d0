//! `fracas-bench accuracy`: a delay of 50 ms on one connection, done − asked.
//!
//! Seen twice: by the client, as service time − 50 ms − the median service time through the same proxy without the
//! delay; and by the proxy itself. The client spins, so that its own wake-ups are not charged to the proxy.

use std::time::Duration;

use anyhow::Context;

use crate::AccuracyArgs;
use crate::driver::{Driver, Traffic};
use crate::peer::fracas::{Fracas, Rules, behavior};
use crate::peer::toxiproxy::Toxiproxy;
use crate::peer::{Peer, Running};
use crate::process::{DRIVER_CORE, run_to_end};
use crate::reply::lateness_us;
use crate::rows::nearest_rank;
use crate::session::Session;
use crate::socket;

const CELL: &str = "delay-50ms";
const ASKED: Duration = Duration::from_millis(50);
const TRAFFIC: Traffic = Traffic::Echo { bytes: 64 };
/// 10 seconds of delays; a 99th percentile needs a hundred samples at least.
const EXCHANGES: usize = 200;
const EXCHANGES_QUICK: usize = 20;
const BASELINE_EXCHANGES: usize = 2000;

/// One subject without and with the delay.
struct Subject {
    plain: Box<dyn Peer>,
    delayed: Box<dyn Peer>,
    /// The API that tells the proxy's own figures.
    api: Option<std::net::SocketAddr>,
}

/// Measures and writes the results.
pub fn run(args: &AccuracyArgs, mut session: Session) -> anyhow::Result<()> {
    let exchanges = if args.common.quick { EXCHANGES_QUICK } else { EXCHANGES };
    session.remark(format!("{} runs of {exchanges} exchanges on one connection", args.common.runs()));
    let mut driver = Driver::new()?;
    driver.is_spinning = true;
    let mut present = subjects(args)?;
    present.retain(|subject| match subject.delayed.version() {
        Ok(version) => {
            session.remark(format!("{}: {version}", subject.delayed.name()));
            true
        }
        Err(missing) => {
            session.remark(format!("{} is skipped: {missing}", subject.delayed.name()));
            false
        }
    });
    for run in 1..=args.common.runs() {
        for subject in &present {
            if let Err(error) = measure(args, &mut session, &mut driver, subject, run, exchanges) {
                session.remark(format!("{} failed: {error:#}", subject.delayed.name()));
                driver.disconnect()?;
            }
        }
    }
    session.finish()
}

fn subjects(args: &AccuracyArgs) -> anyhow::Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    for is_precise in [false, true] {
        let api = socket::free_address()?;
        let fracas = |rules| Box::new(Fracas { binary: args.common.fracas(), rules });
        subjects.push(Subject {
            plain: fracas(Rules::None),
            delayed: fracas(Rules::Delay { api, is_precise }),
            api: Some(api),
        });
    }
    subjects.push(Subject {
        plain: Box::new(Toxiproxy { latency: None }),
        delayed: Box::new(Toxiproxy { latency: Some(ASKED) }),
        api: None,
    });
    Ok(subjects)
}

fn measure(
    args: &AccuracyArgs,
    session: &mut Session,
    driver: &mut Driver,
    subject: &Subject,
    run: u32,
    exchanges: usize,
) -> anyhow::Result<()> {
    let plain = Running::start(subject.plain.as_ref(), driver.upstream(TRAFFIC)?)?;
    driver.connect(plain.listen, 1, TRAFFIC)?;
    let baseline = nearest_rank(&driver.exchange(BASELINE_EXCHANGES)?, 50).as_secs_f64();
    driver.disconnect()?;
    drop(plain);

    let delayed = Running::start(subject.delayed.as_ref(), driver.upstream(TRAFFIC)?)?;
    driver.connect(delayed.listen, 1, TRAFFIC)?;
    let service_times = driver.exchange(exchanges)?;
    let name = subject.delayed.name();
    for percent in [50, 99] {
        let late = nearest_rank(&service_times, percent).as_secs_f64() - baseline - ASKED.as_secs_f64();
        session.add(CELL, name, run, &format!("client_late_us_p{percent}"), late * 1e6);
    }
    if let Some(api) = subject.api {
        let finished = run_to_end(&mut behavior(&args.common.fracas(), "get", &[], api), DRIVER_CORE)?;
        let reply =
            serde_json::from_str(&finished.stdout).context("fracas behavior get --json printed no JSON")?;
        for percentile in ["50", "99"] {
            let late_us =
                lateness_us(&reply, percentile).context("fracas behavior get --json tells no accuracy")?;
            session.add(CELL, name, run, &format!("proxy_late_us_p{percentile}"), late_us);
        }
    }
    driver.disconnect()
}
