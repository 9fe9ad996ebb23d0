//! `fracas-bench many`: what one more rule that delays costs in memory, and how long 2,000 proxies with one each take
//! to start. About 10 seconds a run.

use std::fmt::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fracas_dataplane::clock::Instant;

use crate::Common;
use crate::process::{SUBJECT_CORE, Server};
use crate::session::Session;
use crate::socket;

/// Below the ports that the kernel gives to clients.
const FIRST_PORT: u16 = 20_000;
const PROXIES: u16 = 2000;
/// Rules are counted on a few proxies with as many as they may have.
const FEW_PROXIES: u16 = 40;
const RULES: usize = 64;
const SETTLES: Duration = Duration::from_millis(500);
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Measures and writes the results.
pub fn run(args: &Common, mut session: Session) -> anyhow::Result<()> {
    let binary = session.fracas(args)?;
    session.remark(format!("{} runs; one thread; idle, without a connection", args.runs()));
    for run in 1..=args.runs() {
        if let Err(error) = measure(&binary, &mut session, run) {
            session.remark(format!("fracas failed: {error:#}"));
        }
    }
    session.finish()
}

fn measure(binary: &Path, session: &mut Session, run: u32) -> anyhow::Result<()> {
    let resident = |rules| anyhow::Ok(start(binary, FEW_PROXIES, rules)?.1.resident_bytes() as f64);
    let (without, with) = (resident(0)?, resident(RULES)?);
    let per_rule = (with - without) / (f64::from(FEW_PROXIES) * RULES as f64);
    session.add("delay-rules", "fracas", run, "kib_per_rule", per_rule / 1024.0);

    let (took, server) = start(binary, PROXIES, 1)?;
    let cell = format!("proxies-{PROXIES}");
    session.add(&cell, "fracas", run, "start_ms", took.as_secs_f64() * 1e3);
    session.add(&cell, "fracas", run, "resident_mib", server.resident_bytes() as f64 / f64::from(1 << 20));
    // Not timed: each of them must accept.
    let refused = addresses(PROXIES).filter(|address| TcpStream::connect(address).is_err()).count();
    anyhow::ensure!(refused == 0, "{refused} of {PROXIES} proxies do not accept");
    Ok(())
}

/// Starts `count` proxies with `rules` each; returns how long it took until the API and the last one accepted.
fn start(binary: &Path, count: u16, rules: usize) -> anyhow::Result<(Duration, Server)> {
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("many.yml");
    std::fs::write(&file, config(count, rules))?;
    let api = socket::free_address()?;
    let mut command = Command::new(binary);
    command.args(["proxy", "--threads", "1", "--api", &api.to_string(), "--config"]).arg(&file);
    let started_at = Instant::now();
    let mut server = Server::start(&mut command, SUBJECT_CORE)?;
    let awaited: Vec<SocketAddr> =
        addresses(count).take(1).chain(addresses(count).last()).chain([api]).collect();
    for address in awaited {
        while TcpStream::connect(address).is_err() {
            anyhow::ensure!(server.is_alive(), "fracas proxy with {count} proxies ended at once");
            anyhow::ensure!(Instant::now() - started_at < READY_WITHIN, "not ready within {READY_WITHIN:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let took = Instant::now() - started_at;
    std::thread::sleep(SETTLES);
    Ok((took, server))
}

fn addresses(count: u16) -> impl Iterator<Item = SocketAddr> {
    (0..count).map(|index| SocketAddr::from(([127, 0, 0, 1], FIRST_PORT + index)))
}

/// The upstream is not asked: no traffic passes.
fn config(count: u16, rules: usize) -> String {
    let mut text = String::from("proxies:\n");
    for (index, listen) in addresses(count).enumerate() {
        let _ = write!(text, "  - name: p{index}\n    listen: {listen}\n    upstream: 127.0.0.1:9\n");
        if rules > 0 {
            text.push_str("    rules:\n");
        }
        for rule in 0..rules {
            let _ = write!(
                text,
                "      - name: r{rule}\n        behavior: delay\n        options: {{time: 50ms}}\n        share: 1\n"
            );
        }
    }
    text
}
