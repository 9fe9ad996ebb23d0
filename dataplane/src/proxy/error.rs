//! Why a call of a [`Handle`](super::Handle) is refused, in one line that says what to do.

use std::io;
use std::net::SocketAddr;

use super::calls::SOURCE_ADDRESSES_MAX;
use super::handle::PROXIES_MAX;
use super::leases::LeaseError;
use crate::behavior::RuleError;

/// Why a call was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// No proxy of that name.
    #[error("there is no proxy `{name}`{}", hint(.nearest))]
    NotFound {
        /// What was asked for.
        name: String,
        /// The name that is most like it.
        nearest: Option<String>,
    },
    /// The name is taken.
    #[error("there is a proxy `{0}` already; delete it first, or take another name")]
    Exists(String),
    /// The upstream has no address.
    #[error("proxy `{0}` has no upstream address; give HOST:PORT")]
    NoUpstream(String),
    /// The upstream's addresses are not allowed.
    #[error("proxy `{name}` may not lead there: {why}")]
    UpstreamRefused {
        /// The proxy.
        name: String,
        /// Why.
        why: String,
    },
    /// Too many addresses to connect from.
    #[error("proxy `{0}` has more than {SOURCE_ADDRESSES_MAX} source addresses; leave some out")]
    TooManySources(String),
    /// The address cannot be listened on.
    #[error("proxy `{name}` cannot listen on {listen}: {source}")]
    Listen {
        /// The proxy.
        name: String,
        /// The address.
        listen: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The rules are wrong.
    #[error("proxy `{name}`: {source}")]
    Rules {
        /// The proxy.
        name: String,
        /// What is wrong.
        source: RuleError,
    },
    /// A name that would be taken for that of a lease's rule.
    #[error("proxy `{proxy}`: rule `{rule}` may not have a slash in its name; rename it")]
    RuleName {
        /// The proxy.
        proxy: String,
        /// The rule.
        rule: String,
    },
    /// Somebody else changed the proxy in between.
    #[error("proxy `{name}` is at generation {found}, not {expected}; read it again")]
    Stale {
        /// The proxy.
        name: String,
        /// What the caller had seen.
        expected: u64,
        /// What is in force.
        found: u64,
    },
    /// The lease cannot be had.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// No lease of that name.
    #[error("there is no lease `{0}`: it has ended, or was never given")]
    LeaseNotFound(String),
    /// Too many.
    #[error("{PROXIES_MAX} proxies have been made in this process; restart it")]
    TooMany,
    /// The data plane is shutting down.
    #[error("the proxy is shutting down")]
    Stopped,
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}
