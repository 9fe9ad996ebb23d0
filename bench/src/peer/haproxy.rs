//! HAProxy in TCP mode with one thread.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::{Peer, start};
use crate::process::{Server, version_line};

/// The proxy that people compare with.
pub struct Haproxy;

impl Peer for Haproxy {
    fn name(&self) -> &'static str {
        "haproxy"
    }

    fn version(&self) -> Result<String, String> {
        version_line("haproxy", "-v")
    }

    fn start(&self, listen: SocketAddr, upstream: SocketAddr, scratch: &Path) -> anyhow::Result<Server> {
        let file = scratch.join("haproxy.cfg");
        std::fs::write(&file, config(listen, upstream))?;
        start(Command::new("haproxy").arg("-db").arg("-f").arg(&file))
    }
}

fn config(listen: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "global
    nbthread 1
    maxconn 8000
defaults
    mode tcp
    timeout connect 5s
    timeout client 10m
    timeout server 10m
listen bench
    bind {listen} backlog 4096
    server upstream {upstream}
"
    )
}
