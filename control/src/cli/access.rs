//! The flags about TLS and the token: those of servers and those of clients, each written once.

use std::path::PathBuf;

use crate::wire::Guard;
use crate::wire::dial::Access;
use crate::wire::tls;
use crate::wire::token::Token;

use super::exit::UsageError;

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

/// What a server proves itself with.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CertificateArgs {
    /// Serve under TLS; PEM file with the certificate and those between it and its CA
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = HEADING)]
    tls_cert: Option<PathBuf>,
    /// PEM file with the private key of the certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = HEADING)]
    tls_key: Option<PathBuf>,
}

impl CertificateArgs {
    /// What guards a server with these flags and this token; ALPN offers `protocols`.
    ///
    /// # Errors
    /// When a file that is named cannot be used.
    pub fn guard(&self, token: &TokenArgs, protocols: &[&str]) -> anyhow::Result<Guard> {
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                Some(tls::acceptor(certificate, key, protocols).map_err(UsageError::because)?)
            }
            _ => None,
        };
        Ok(Guard { tls, token: token.read()? })
    }
}
