//! fracas itself, as a process like every other peer: without rules, with rules that never match, and aware of HTTP.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Peer, start};
use crate::process::{Server, version_line};

/// Which rules stand in the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// None: bytes pass by reference.
    None,
    /// A delay for clients of an address that nobody has.
    Unmatched,
    /// HTTP is framed, and nothing is done with it.
    HttpPlain,
    /// HTTP is framed, and one exchange in a hundred waits 1 ms.
    HttpDelay,
    /// Every chunk of a request waits 50 ms; rules are read back at `api`.
    Delay {
        /// Where the proxy serves its API.
        api: SocketAddr,
        /// Wakes early and spins.
        is_precise: bool,
    },
    /// None at first; they change at `api`.
    Changing {
        /// Where the proxy serves its API.
        api: SocketAddr,
    },
}

/// `fracas proxy` on one thread.
pub struct Fracas {
    /// The binary.
    pub binary: PathBuf,
    /// The rules.
    pub rules: Rules,
}

impl Peer for Fracas {
    fn name(&self) -> &'static str {
        match self.rules {
            Rules::None | Rules::Changing { .. } | Rules::Delay { is_precise: false, .. } => "fracas",
            Rules::Delay { is_precise: true, .. } => "fracas-precise",
            Rules::Unmatched => "fracas-unmatched",
            Rules::HttpPlain => "fracas-http",
            Rules::HttpDelay => "fracas-http-delay",
        }
    }

    fn version(&self) -> Result<String, String> {
        version(&self.binary)
    }

    fn start(&self, listen: SocketAddr, upstream: SocketAddr, scratch: &Path) -> anyhow::Result<Server> {
        let mut command = proxy(&self.binary, listen, upstream);
        match self.rules {
            Rules::None => {
                command.args(["--protocol", "tcp"]);
            }
            Rules::HttpPlain => {
                command.args(["--protocol", "http"]);
            }
            Rules::HttpDelay => {
                command.args(["--protocol", "http", "--behavior", "1:delay", "--delay-time", "1ms"]);
            }
            Rules::Changing { api } => {
                command.args(["--api", &api.to_string()]);
            }
            Rules::Delay { api, is_precise } => {
                command.args(["--api", &api.to_string(), "--behavior", "100:delay", "--delay-time", "50ms"]);
                command.args(is_precise.then_some("--precise"));
            }
            Rules::Unmatched => {
                let file = scratch.join("fracas.yml");
                std::fs::write(&file, unmatched_config(listen, upstream))?;
                command = Command::new(&self.binary);
                command.args(["proxy", "--threads", "1", "--config"]).arg(&file);
            }
        }
        start(&mut command)
    }
}

/// The version of the binary, or that there is none.
pub fn version(binary: &Path) -> Result<String, String> {
    if !binary.exists() {
        return Err(
            "no fracas beside this binary; build it with: cargo build --release -p fracas-control".to_owned()
        );
    }
    version_line(&binary.to_string_lossy(), "--version")
}

/// `fracas proxy` between two addresses.
pub fn proxy(binary: &Path, listen: SocketAddr, upstream: SocketAddr) -> Command {
    let mut command = Command::new(binary);
    command.args([
        "proxy",
        "--listen",
        &listen.to_string(),
        "--upstream",
        &upstream.to_string(),
        "--threads",
        "1",
    ]);
    command
}

/// `fracas behavior VERB default … --json`, asked of the proxy whose API is at `api`.
pub fn behavior(binary: &Path, verb: &str, arguments: &[&str], api: SocketAddr) -> Command {
    let mut command = Command::new(binary);
    command.args(["behavior", verb, "default"]).args(arguments).args(["--json", "--api", &api.to_string()]);
    command
}

/// 192.0.2.0/24 is reserved for documents (RFC 5737), so no client comes from it.
fn unmatched_config(listen: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "proxies:
  - name: default
    listen: {listen}
    upstream: {upstream}
    rules:
      - behavior: delay
        options: {{time: 50ms}}
        share: 100
        match: {{client: 192.0.2.0/24}}
"
    )
}
