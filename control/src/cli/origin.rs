//! `fracas origin`: the built-in test server.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use fracas_dataplane::origin::{BODY_BYTES_MAX, Counts, Limits, Origin, OriginSettings, ServiceSettings};
use fracas_dataplane::units;
use fracas_loadgen::report::plural;

use super::signals::asked_to_stop;
use super::{numbers, plain};

/// Flags of `fracas origin`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example: fracas origin --listen 127.0.0.1:8080 --body-bytes 1000
A path may ask for something: /delay/50ms, /status/503, /bytes/100000, /freeze/1.4s (the \
whole origin answers nothing for that long); everything else gets the plain reply. \
Times up to 10m, bytes up to 1GiB.

A server of known capacity, 4 / 10 ms = 400 requests per second, with one queue for all:
  fracas origin --workers 4 --service-time 10ms

What one connection costs is bounded: at most 128 replies wait on it (with --echo, 256 KiB), \
about 64 KiB of requests are read ahead, and the rest is left to TCP until the client reads. \
At --connections-max a new connection takes the place of one that has been silent or idle for \
a second or has not read for ten, or is closed at once. 64 descriptors are set aside. A last \
line counts what was closed and why.")]
pub struct Args {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080", value_parser = super::address::listen)]
    listen: SocketAddr,
    /// Threads, each with its ring
    #[arg(long, short, default_value_t = 1, allow_negative_numbers = true, value_parser = numbers::whole(1u16..=1_024))]
    threads: u16,
    /// Send back what comes, instead of HTTP
    #[arg(long, conflicts_with = "body_bytes")]
    echo: bool,
    /// Bytes in the body of the plain reply
    #[arg(long, value_name = "SIZE", default_value = "14", value_parser = units::parse_bytes)]
    body_bytes: u64,
    /// How long every reply waits; with --service-time, after it was served
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = units::parse_duration)]
    delay: Duration,
    /// Requests that are served at the same time; more wait in one queue, first come, first served
    #[arg(long, value_name = "N", requires = "service_time", allow_negative_numbers = true,
          value_parser = numbers::whole(1u32..=1_000_000))]
    workers: Option<u32>,
    /// How long one of the --workers (1 unless told) is busy with a request; needs --threads 1
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    service_time: Option<Duration>,
    /// Meet delays by spinning, at the cost of a core per thread
    #[arg(long)]
    precise: bool,
    /// Connections at once [default: the open-files limit less 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = numbers::whole(1..=u32::MAX))]
    connections_max: Option<u32>,
    /// Closes a connection whose request head is not whole after this; 0 for never
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = units::parse_duration)]
    first_byte_timeout: Duration,
    /// Closes a connection on which nothing happens and nothing is due; 0 for never
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = units::parse_duration)]
    idle_timeout: Duration,
    /// Closes a connection whose client takes none of its reply; 0 for never
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = units::parse_duration)]
    stall_timeout: Duration,
}

/// Runs `fracas origin` until it is interrupted.
///
/// # Errors
/// When the address is taken, or this machine gives no ring.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.body_bytes > BODY_BYTES_MAX {
        return Err(super::exit::UsageError::because("--body-bytes: at most 1GiB"));
    }
    if args.service_time.is_some() && args.threads > 1 {
        return Err(super::exit::UsageError::because(
            "--service-time: its queue is kept by one thread; leave out --threads",
        ));
    }
    let service = args
        .service_time
        .map(|time| ServiceSettings { workers: args.workers.map_or(1, |count| count as usize), time });
    let time = |time: Duration| (!time.is_zero()).then_some(time);
    let limits = Limits {
        connections_max: args.connections_max.map(|count| count as usize),
        first_bytes: time(args.first_byte_timeout),
        idle: time(args.idle_timeout),
        stall: time(args.stall_timeout),
    };
    let origin = Origin::start(OriginSettings {
        listen: args.listen,
        threads: usize::from(args.threads),
        precise: args.precise,
        echo: args.echo,
        body_bytes: args.body_bytes,
        delay: args.delay,
        service,
        limits,
        ..OriginSettings::default()
    })?;
    let scheme = if args.echo { "tcp" } else { "http" };
    plain::say(&format!("origin answers on {scheme}://{}", origin.local_addr()));
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(asked_to_stop());
    let counts = origin.counts();
    plain::say(&format!(
        "origin answered {}",
        plural(counts.answered, if args.echo { "chunk" } else { "request" })
    ));
    if let Some(line) = closed_line(&counts) {
        plain::say(&line);
    }
    Ok(ExitCode::SUCCESS)
}

/// What the origin closed by itself, if anything.
fn closed_line(counts: &Counts) -> Option<String> {
    let reasons = [
        (counts.silent, "silent"),
        (counts.idle, "idle"),
        (counts.stalled, "unread"),
        (counts.evicted, "for a new one at the limit"),
        (counts.refused, "refused at the limit"),
    ];
    let told = reasons.into_iter().filter(|(count, _)| *count > 0);
    let told: Vec<String> = told.map(|(count, reason)| format!("{count} {reason}")).collect();
    (!told.is_empty()).then(|| format!("connections closed: {}", told.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_closed_is_told_with_its_reason() {
        assert_eq!(closed_line(&Counts { answered: 5, ..Counts::default() }), None);
        let counts = Counts { silent: 2, refused: 7, ..Counts::default() };
        let expected = "connections closed: 2 silent, 7 refused at the limit";
        assert_eq!(closed_line(&counts).as_deref(), Some(expected));
    }
}
