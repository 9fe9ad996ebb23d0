//! What the client verbs share: the address of a controller, errors as one line, words and figures.

use std::time::Duration;

use anyhow::anyhow;
use fracas_dataplane::clock::Instant;
use fracas_loadgen::report::latency as figure;

use super::access::AccessArgs;
use super::exit::UsageError;
use crate::durations;
use crate::wire::dial::{Caller, Dial, DialError};

/// Where the controller is.
#[derive(Clone, Debug, clap::Args)]
pub struct ApiArgs {
    /// The controller's address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7400", value_parser = super::address::remote)]
    pub api: String,
    #[command(flatten)]
    access: AccessArgs,
}

impl ApiArgs {
    /// Dials.
    ///
    /// # Errors
    /// One line that says what to do: what to start, or which flag is missing.
    pub async fn connect(&self) -> anyhow::Result<Caller> {
        let hint = "start one with `fracas controller`, or give --api";
        connect(&self.api, &self.access, "controller", hint).await
    }
}

/// Dials a `server`, such as “proxy”, at `address`; `hint` says what to do when there is none.
///
/// # Errors
/// One line that says what to do.
pub async fn connect(address: &str, access: &AccessArgs, server: &str, hint: &str) -> anyhow::Result<Caller> {
    let dial = Dial { address: address.to_owned(), access: access.access()? };
    reach(&dial).await.map_err(|error| match error {
        DialError::NoAnswer { address, .. } => anyhow!("no {server} answers at {address}; {hint}"),
        DialError::Address(_) | DialError::Domain(_) | DialError::TokenInTheClear(_) => {
            UsageError::because(error)
        }
        error => error.into(),
    })
}

/// How long a server that is not there yet is waited for: one that was started in the line before is there by then.
const REACH_WITHIN: Duration = Duration::from_secs(2);
/// How often it is tried.
const REACH_EVERY: Duration = Duration::from_millis(50);

/// Dials again and again while nobody listens, for [`REACH_WITHIN`].
async fn reach(dial: &Dial) -> Result<Caller, DialError> {
    let since = Instant::now();
    loop {
        match dial.connect().await {
            Err(DialError::NoAnswer { .. }) if Instant::now() - since < REACH_WITHIN => {
                tokio::time::sleep(REACH_EVERY).await;
            }
            answer => return answer,
        }
    }
}

/// What a call came back with, as one line. What the server does not understand was wrong on the command line.
pub fn error(status: tonic::Status) -> anyhow::Error {
    // What a server says has no source; this was found out on the way.
    let of_connection = [tonic::Code::Unknown, tonic::Code::Internal, tonic::Code::Unavailable];
    if std::error::Error::source(&status).is_some() && of_connection.contains(&status.code()) {
        return anyhow!(
            "the connection to the server broke off; is it still running? ({})",
            status.message()
        );
    }
    let message = match status.message() {
        "" => format!("the server answered: {}", status.code()),
        message => message.to_owned(),
    };
    match status.code() {
        tonic::Code::InvalidArgument => UsageError::because(message),
        _ => anyhow!("{message}"),
    }
}

/// `RUN_STATE_QUEUED` → `queued`.
pub fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

/// Nanoseconds as reports show them: three digits and a unit.
pub fn latency(nanos: u64) -> String {
    figure(nanos)
}

/// Ours of a duration; zero when missing.
pub fn duration(duration: Option<prost_types::Duration>) -> Duration {
    durations::duration(duration).unwrap_or_default()
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
    fn a_connection_that_breaks_off_is_told_from_what_a_server_says() {
        let broken = tonic::Status::from_error(Box::new(std::io::Error::other("reset")));
        let text = error(broken).to_string();
        assert!(text.starts_with("the connection to the server broke off; is it still running?"), "{text}");
        assert_eq!(error(tonic::Status::internal("a bug")).to_string(), "a bug");
    }

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        assert_eq!(latency(1_234_567), "1.23 ms");
        assert_eq!(latency(0), "0 ns");
        assert_eq!(clock(0, 0), "same clock");
        assert_eq!(clock(-1_500_000, 70_400), "-1.50 ms ± 70.4 µs");
    }

    #[test]
    fn names_of_the_wire_become_words() {
        assert_eq!(word("RUN_STATE_QUEUED", "RUN_STATE_"), "queued");
    }
}
