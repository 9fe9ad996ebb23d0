//! The parts of fracas that a run is made of: its origin, its proxy, its load, and the proxy's API.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::peer::fracas::proxy;
use crate::peer::wait_until_it_accepts;
use crate::process::{DRIVER_CORE, Ongoing, Server};
use crate::socket;

/// A part that runs and accepts.
pub struct Part {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its process.
    pub server: Server,
}

/// Starts `fracas origin` with `arguments`; what it prints at its end is kept.
pub fn origin(binary: &Path, arguments: &[&str], cores: &[usize]) -> anyhow::Result<Part> {
    let listen = socket::free_address()?;
    let mut command = Command::new(binary);
    command.args(["origin", "--listen", &listen.to_string()]).args(arguments);
    start("fracas origin", listen, command, cores)
}

/// Starts `fracas proxy` on one thread in front of `upstream`, with `arguments`, and its API on `api`.
pub fn proxy_with_api(
    binary: &Path,
    upstream: SocketAddr,
    arguments: &[&str],
    cores: &[usize],
) -> anyhow::Result<(Part, SocketAddr)> {
    let (listen, api) = (socket::free_address()?, socket::free_address()?);
    let mut command = proxy(binary, listen, upstream);
    command.args(["--api", &api.to_string()]).args(arguments);
    let mut part = start("fracas proxy", listen, command, cores)?;
    wait_until_it_accepts("the API of fracas proxy", api, &mut part.server)?;
    Ok((part, api))
}

fn start(name: &str, listen: SocketAddr, mut command: Command, cores: &[usize]) -> anyhow::Result<Part> {
    let mut server = Server::start_told(&mut command, cores)?;
    wait_until_it_accepts(name, listen, &mut server)?;
    Ok(Part { listen, server })
}

/// `fracas load URL … --json` on the driver's core.
pub fn load(binary: &Path, url: &str, arguments: &[&str]) -> anyhow::Result<Ongoing> {
    let mut command = Command::new(binary);
    command.args(["load", url]).args(arguments).arg("--json");
    Ok(Ongoing::start(&mut command, &[DRIVER_CORE])?)
}

/// Waits for the end of a load and reads its run.json.
pub fn run_json(load: Ongoing, within: Duration) -> anyhow::Result<Value> {
    let printed = load.finish(within).context("fracas load")?;
    serde_json::from_str(&printed).context("fracas load --json printed no JSON")
}

/// The requests that an origin says it has answered, in the last line but for what it closed.
pub fn answered(printed: &str) -> Option<u64> {
    let line = printed.lines().find_map(|line| line.strip_prefix("origin answered "))?;
    line.split(' ').next()?.replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_says_how_much_it_answered() {
        let printed = "origin answers on http://127.0.0.1:8080\norigin answered 3,012 requests\nconnections closed: 2 silent\n";
        assert_eq!(answered(printed), Some(3012));
        assert_eq!(answered("origin answered 1 request\n"), Some(1));
        assert_eq!(answered("origin answers on http://127.0.0.1:8080\n"), None);
    }
}
