//! What the client verbs share: the address of a controller, errors as one line, words and figures.

use std::time::Duration;

use anyhow::{Context, anyhow};
use fracas_loadgen::scenario::units::format_duration;
use tonic::transport::{Channel, Endpoint};

/// Where the controller is.
#[derive(Clone, Debug, clap::Args)]
pub struct ApiArgs {
    /// The controller's address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7400")]
    pub api: String,
}

impl ApiArgs {
    /// Dials.
    ///
    /// # Errors
    /// When nobody answers, with what to start.
    pub async fn connect(&self) -> anyhow::Result<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.api));
        let endpoint = endpoint.with_context(|| format!("`{}` is not HOST:PORT", self.api))?;
        let channel = endpoint.connect_timeout(Duration::from_secs(5)).tcp_nodelay(true).connect().await;
        channel.map_err(|_| {
            anyhow!(
                "no controller answers at {}; start one with `fracas controller`, or give --api",
                self.api
            )
        })
    }
}

/// What a call came back with, as one line.
pub fn error(status: tonic::Status) -> anyhow::Error {
    let message = status.message();
    if message.is_empty() {
        anyhow!("the controller answered {}", status.code())
    } else {
        anyhow!("{message}")
    }
}

/// `RUN_STATE_QUEUED` → `queued`.
pub fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

/// Nanoseconds, rounded to three digits, with a unit.
pub fn latency(nanos: u64) -> String {
    let keep = 10_u64.pow(nanos.checked_ilog10().unwrap_or(0).saturating_sub(2));
    format_duration(Duration::from_nanos(nanos / keep * keep))
}

/// Ours of a duration; zero when missing.
pub fn duration(duration: Option<prost_types::Duration>) -> Duration {
    duration.and_then(|duration| Duration::try_from(duration).ok()).unwrap_or_default()
}

/// A clock's offset and its bound.
pub fn clock(offset_ns: i64, error_ns: u64) -> String {
    if error_ns == 0 && offset_ns == 0 {
        return "same clock".to_owned();
    }
    let sign = if offset_ns < 0 { "-" } else { "+" };
    format!("{sign}{} ± {}", latency(offset_ns.unsigned_abs()), latency(error_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        assert_eq!(latency(1_234_567), "1.23ms");
        assert_eq!(latency(0), "0s");
        assert_eq!(clock(0, 0), "same clock");
        assert_eq!(clock(-1_500_000, 70_400), "-1.5ms ± 70.4us");
    }

    #[test]
    fn names_of_the_wire_become_words() {
        assert_eq!(word("RUN_STATE_QUEUED", "RUN_STATE_"), "queued");
    }
}
