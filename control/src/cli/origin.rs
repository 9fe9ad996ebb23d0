//! `fracas origin`: the built-in test server.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use fracas_dataplane::origin::{Origin, OriginSettings};
use fracas_loadgen::scenario::units;
use tokio::signal::unix::{SignalKind, signal};

/// Flags of `fracas origin`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example: fracas origin --listen 127.0.0.1:8080 --body-bytes 1000
A path may ask for something: /delay/50ms, /status/503, /bytes/100000, /freeze/1.4s (the whole origin
answers nothing for that long); everything else gets the plain reply.")]
pub struct Args {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080", value_parser = super::address::listen)]
    listen: SocketAddr,
    /// Threads, each with its ring
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Send back what comes, instead of HTTP
    #[arg(long)]
    echo: bool,
    /// Bytes in the body of the plain reply
    #[arg(long, value_name = "SIZE", default_value = "14", value_parser = units::parse_size)]
    body_bytes: u64,
    /// How long every reply waits
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = units::parse_duration)]
    delay: Duration,
    /// Meet delays by spinning, at the cost of a core per thread
    #[arg(long)]
    precise: bool,
}

/// The largest plain reply: every connection that is slow to read it holds a reference, not a copy.
const BODY_BYTES_MAX: u64 = 1 << 30;

/// Runs `fracas origin` until it is interrupted.
///
/// # Errors
/// When the address is taken, or this machine gives no ring.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.body_bytes > BODY_BYTES_MAX {
        return Err(super::exit::UsageError::because("--body-bytes: at most 1GiB"));
    }
    let origin = Origin::start(OriginSettings {
        listen: args.listen,
        threads: usize::from(args.threads),
        precise: args.precise,
        echo: args.echo,
        body_bytes: usize::try_from(args.body_bytes)?,
        delay: args.delay,
        ..OriginSettings::default()
    })?;
    let scheme = if args.echo { "tcp" } else { "http" };
    println!("origin answers on {scheme}://{}", origin.local_addr());
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminated.recv() => Ok(()),
        }
    })?;
    println!("origin answered {} {}", origin.answered(), if args.echo { "chunks" } else { "requests" });
    Ok(ExitCode::SUCCESS)
}
