//! Judges fracas against its peers: the same loads, side by side, in turns, from raw rows to tables.
//!
//! `cargo run --release -p fracas-bench -- COMMAND`; see `bench/README.md` for the commands and how long they take.

mod accuracy;
mod api;
mod capacity;
mod driver;
mod figures;
mod flip;
mod forwarder;
mod generator;
mod load;
mod machine;
mod many;
mod outbox;
mod parts;
mod peer;
mod process;
mod proxy;
mod reply;
mod ring;
mod rows;
mod session;
mod soak;
mod socket;
mod stall;
mod summary;
mod truth;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures fracas beside its peers on one machine", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Proxies: CPU per round trip, throughput, service time, memory per idle connection.
    Proxy(ProxyArgs),
    /// Load generators: CPU per request on one target; how exactly fracas keeps a rate.
    Load(LoadArgs),
    /// How long a change of rules takes under full load.
    Flip(FlipArgs),
    /// How exactly a delay of 50 ms is kept.
    Accuracy(AccuracyArgs),
    /// What the load counts of an outage of three seconds, against the truth.
    Truth(Common),
    /// What the load says of a second in which it was stopped itself.
    Stall(Common),
    /// The rate that capacity finds on a server that can do 400 a second.
    Capacity(Common),
    /// p99 of the traffic while figures are read, over p99 while not.
    Figures(Common),
    /// Memory of a rule that delays; 2,000 proxies: time to start, memory.
    Many(Common),
    /// Whether memory, descriptors and calm come back after mixed traffic with random flips.
    Soak(SoakArgs),
    /// A part that the bench starts itself, as a process of its own.
    #[command(subcommand, hide = true)]
    Peer(Part),
}

#[derive(Args)]
struct Common {
    /// How often everything is repeated, in turns; 5 unless told.
    #[arg(long)]
    runs: Option<u32>,
    /// One second per figure instead of three.
    #[arg(long)]
    quick: bool,
    /// Where the results go [default: bench/runs/DATE-MACHINE].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The fracas binary [default: the one beside this one].
    #[arg(long, value_name = "PATH")]
    fracas: Option<PathBuf>,
}

/// What `proxy` may be told.
#[derive(Args)]
struct ProxyArgs {
    #[command(flatten)]
    common: Common,
    /// Only this peer; may be repeated.
    #[arg(long, value_name = "NAME")]
    peer: Vec<String>,
    /// Only this cell, such as echo-64B-1000; may be repeated. The results of other cells in --out stay.
    #[arg(long, value_name = "NAME", value_parser = proxy::cell_names())]
    cell: Vec<String>,
}

/// What `load` may be told.
#[derive(Args)]
struct LoadArgs {
    #[command(flatten)]
    common: Common,
}

/// What `flip` may be told.
#[derive(Args)]
struct FlipArgs {
    #[command(flatten)]
    common: Common,
}

/// What `accuracy` may be told.
#[derive(Args)]
struct AccuracyArgs {
    #[command(flatten)]
    common: Common,
}

/// What `soak` may be told.
#[derive(Args)]
struct SoakArgs {
    #[command(flatten)]
    common: Common,
    /// How long the traffic goes on, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// What the flips are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Subcommand)]
enum Part {
    Floor { listen: SocketAddr, upstream: SocketAddr },
    Tokio { listen: SocketAddr, upstream: SocketAddr },
    TokioUring { listen: SocketAddr, upstream: SocketAddr },
    TokioUringCoop { listen: SocketAddr, upstream: SocketAddr },
    Responder { listen: SocketAddr },
}

impl Common {
    fn runs(&self) -> u32 {
        self.runs.unwrap_or(5).max(1)
    }

    /// How long a load runs unmeasured, then measured.
    fn times(&self) -> (Duration, Duration) {
        if self.quick {
            (Duration::from_millis(300), Duration::from_secs(1))
        } else {
            (Duration::from_secs(1), Duration::from_secs(3))
        }
    }

    fn fracas(&self) -> PathBuf {
        let beside = || std::env::current_exe().unwrap_or_default().with_file_name("fracas");
        self.fracas.clone().unwrap_or_else(beside)
    }
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Peer(part) => run_part(part),
        Command::Proxy(args) => proxy::run(&args, judge("proxy", &args.common)?.of_cells(&args.cell)),
        Command::Load(args) => load::run(&args, judge("load", &args.common)?),
        Command::Flip(args) => flip::run(&args, judge("flip", &args.common)?),
        Command::Accuracy(args) => accuracy::run(&args, judge("accuracy", &args.common)?),
        Command::Truth(args) => truth::run(&args, judge("truth", &args)?),
        Command::Stall(args) => stall::run(&args, judge("stall", &args)?),
        Command::Capacity(args) => capacity::run(&args, judge("capacity", &args)?),
        Command::Figures(args) => figures::run(&args, judge("figures", &args)?),
        Command::Many(args) => many::run(&args, judge("many", &args)?),
        Command::Soak(args) => soak::run(&args, judge("soak", &args.common)?),
    }
}

/// Prepares this process to judge: a network and a core of its own.
fn judge(command: &'static str, common: &Common) -> anyhow::Result<session::Session> {
    let network = process::enter_private_network();
    // Only in a namespace of our own: the machine's default is not ours to change. bbr paces even on loopback.
    let congestion = network.is_ok().then(|| process::choose_congestion_control(&["cubic", "reno"]));
    process::pin_this_thread(process::DRIVER_CORE).map_err(|error| {
        anyhow::anyhow!("cannot use core {}: {error}; two are needed", process::DRIVER_CORE)
    })?;
    let mut session = session::Session::new(command, common.out.clone());
    match network {
        Ok(()) => session.remark("loopback of a private network namespace"),
        Err(error) => {
            session.remark(format!("the machine's own loopback (a private one takes root: {error})"))
        }
    }
    if let Some(Err(error)) = congestion {
        session.remark(format!("the default congestion control stays as it is: {error}"));
    }
    Ok(session)
}

fn run_part(part: Part) -> anyhow::Result<()> {
    match part {
        Part::Floor { listen, upstream } => forwarder::run(listen, upstream),
        Part::Tokio { listen, upstream } => peer::tokio::run(listen, upstream),
        Part::TokioUring { listen, upstream } => peer::tokio_uring::run(listen, upstream, false),
        Part::TokioUringCoop { listen, upstream } => peer::tokio_uring::run(listen, upstream, true),
        Part::Responder { listen } => driver::Driver::serve_http(listen),
    }
}
