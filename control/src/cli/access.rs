//! The flags about TLS and the token: those of servers and those of clients, each written once.

use std::path::PathBuf;
use std::time::Duration;

use fracas_dataplane::ring::raise_open_files_limit;

use crate::agent::identity::open_files_limit;
use crate::wire::Guard;
use crate::wire::dial::Access;
use crate::wire::server::Limits;
use crate::wire::tls;
use crate::wire::token::Token;
use crate::wire::visitor::Names;

use super::exit::UsageError;
use super::numbers;

/// Heads these flags in every `--help`.
const HEADING: &str = "TLS and token of the API";

/// The token: what a server asks for, and what a client shows.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TokenArgs {
    /// File with the token [default: what FRACAS_TOKEN holds, if it is set]
    #[arg(long, value_name = "FILE", global = true, help_heading = HEADING)]
    token_file: Option<PathBuf>,
    /// Speak with other machines without TLS or without a token
    #[arg(long, global = true, help_heading = HEADING)]
    pub insecure: bool,
}

impl TokenArgs {
    fn read(&self) -> anyhow::Result<Option<Token>> {
        Token::load(self.token_file.as_deref()).map_err(UsageError::because)
    }
}

/// What a client trusts.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TrustArgs {
    /// Dial under TLS; trust the CAs that this machine trusts
    #[arg(long, global = true, help_heading = HEADING)]
    tls: bool,
    /// Dial under TLS; trust only the CA in this PEM file
    #[arg(long, value_name = "FILE", global = true, help_heading = HEADING)]
    tls_ca: Option<PathBuf>,
    /// Dial under TLS; the certificate is for this name, not for the dialled host
    #[arg(long, value_name = "NAME", global = true, help_heading = HEADING)]
    tls_domain: Option<String>,
}

impl TrustArgs {
    /// Whether any of them is given.
    pub fn is_given(&self) -> bool {
        self.tls || self.tls_ca.is_some() || self.tls_domain.is_some()
    }

    /// How a server is reached with these flags and this token.
    ///
    /// # Errors
    /// When a file that is named cannot be used.
    pub fn access(&self, token: Option<Token>, insecure: bool) -> anyhow::Result<Access> {
        let tls = match self.is_given() {
            true => Some(tls::connector(self.tls_ca.as_deref()).map_err(UsageError::because)?),
            false => None,
        };
        Ok(Access { tls, domain: self.tls_domain.clone(), token, insecure })
    }
}

/// Flags of everything that calls a server; flatten it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AccessArgs {
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    token: TokenArgs,
}

impl AccessArgs {
    /// How a server is reached with these flags.
    ///
    /// # Errors
    /// When a file that is named cannot be used.
    pub fn access(&self) -> anyhow::Result<Access> {
        self.trust.access(self.token.read()?, self.token.insecure)
    }

    /// Whether any of them is given.
    pub fn is_given(&self) -> bool {
        self.trust.is_given() || self.token.token_file.is_some() || self.token.insecure
    }
}

/// What a server of the API proves itself with, answers to and takes; flatten it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServerArgs {
    /// Serve under TLS; PEM file with the certificate and those between it and its CA
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = HEADING)]
    tls_cert: Option<PathBuf>,
    /// PEM file with the private key of the certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = HEADING)]
    tls_key: Option<PathBuf>,
    /// Answer requests for this host name too, beside the API's addresses and the names in the certificate; repeatable
    #[arg(long = "allow-host", value_name = "NAME", help_heading = HEADING)]
    allowed_hosts: Vec<String>,
    /// Connections of the API at a time [default: 256 of a proxy, 10000 of a controller, as open files allow]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = numbers::whole(1..=u32::MAX), help_heading = HEADING)]
    api_connections: Option<u32>,
    /// Close connections of the API on which no call is under way for this long [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = super::times::within(&super::times::API_IDLE), help_heading = HEADING)]
    api_idle: Option<Duration>,
}

/// What else a process with an API needs descriptors for.
#[derive(Clone, Copy, Debug)]
pub enum Beside {
    /// A data plane: three quarters of the descriptors are its own.
    DataPlane,
    /// Some files.
    Files,
}

impl Beside {
    /// Connections of the API unless it is said, and at most, where a process may have `descriptors`.
    fn connections(self, descriptors: u64) -> (u64, u64) {
        let (usual, most) = match self {
            Beside::DataPlane => (256, descriptors / 4),
            Beside::Files => (10_000, descriptors.saturating_sub(128).max(descriptors / 2)),
        };
        (most.min(usual).max(1), most.max(1))
    }
}

impl ServerArgs {
    /// What guards a server with these flags and this token; ALPN offers `protocols`.
    ///
    /// # Errors
    /// When a file that is named cannot be used, or a limit is above what this process can have.
    pub fn guard(&self, token: &TokenArgs, protocols: &[&str], beside: Beside) -> anyhow::Result<Guard> {
        let mut names = Names {
            allowed: self.allowed_hosts.iter().map(|name| host(name)).collect::<Result<_, _>>()?,
            certificate: None,
        };
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                names.certificate = Some(tls::leaf(certificate).map_err(UsageError::because)?);
                Some(tls::acceptor(certificate, key, protocols).map_err(UsageError::because)?)
            }
            _ => None,
        };
        // Best effort: the limit in force counts.
        let _ = raise_open_files_limit();
        let descriptors = open_files_limit();
        let (usual, most) = beside.connections(descriptors);
        let connections = self.api_connections.map_or(usual, u64::from);
        if connections > most {
            return Err(UsageError::because(format!(
                "--api-connections: at most {most}, because this process may have {descriptors} files open; raise that with `ulimit -n`"
            )));
        }
        let default = Limits::default();
        let limits = Limits {
            connections: usize::try_from(connections)?,
            idle: self.api_idle.unwrap_or(default.idle),
            ..default
        };
        Ok(Guard { tls, token: token.read()?, names, limits })
    }
}

/// A name for `--allow-host`: without a scheme or a port, which no name has.
fn host(text: &str) -> anyhow::Result<String> {
    let bare = text.strip_suffix('.').unwrap_or(text);
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let is_address = bare.parse::<std::net::IpAddr>().is_ok();
    if is_address || (!bare.is_empty() && bare.len() <= 253 && bare.chars().all(fits)) {
        return Ok(bare.to_ascii_lowercase());
    }
    Err(UsageError::because(format!(
        "--allow-host: `{text}` is no host name; write one such as proxy.example"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_leaves_descriptors_to_the_data_plane() {
        for (descriptors, proxy, controller) in [
            (256, (64, 64), (128, 128)),
            (1024, (256, 256), (896, 896)),
            (20_000, (256, 5_000), (10_000, 19_872)),
            (0, (1, 1), (1, 1)),
        ] {
            assert_eq!(Beside::DataPlane.connections(descriptors), proxy, "{descriptors}");
            assert_eq!(Beside::Files.connections(descriptors), controller, "{descriptors}");
        }
    }

    #[test]
    fn a_host_is_a_name_without_anything_around_it() {
        for (text, expected) in [
            ("Proxy.Example", Some("proxy.example")),
            ("proxy.example.", Some("proxy.example")),
            ("10.0.0.5", Some("10.0.0.5")),
            ("::1", Some("::1")),
            ("http://proxy.example", None),
            ("proxy.example:7401", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(host(text).ok().as_deref(), expected, "{text}");
        }
    }
}
