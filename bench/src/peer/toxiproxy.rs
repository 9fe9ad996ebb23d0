//! Toxiproxy, if its server stands on the PATH: the fault proxy that most people know.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use super::{Peer, start, wait_until_it_accepts};
use crate::process::{Server, version_line};
use crate::socket;

/// With no toxic, or with a latency toxic on the request side.
pub struct Toxiproxy {
    /// The latency that is injected into every connection.
    pub latency: Option<Duration>,
}

impl Peer for Toxiproxy {
    fn name(&self) -> &'static str {
        "toxiproxy"
    }

    fn version(&self) -> Result<String, String> {
        version_line("toxiproxy-server", "-version")
    }

    fn start(&self, listen: SocketAddr, upstream: SocketAddr, _: &Path) -> anyhow::Result<Server> {
        let api = socket::free_address()?;
        let port = api.port().to_string();
        let mut server = start(
            Command::new("toxiproxy-server")
                .args(["-host", "127.0.0.1", "-port", &port])
                .env("GOMAXPROCS", "1")
                .env("LOG_LEVEL", "error"),
        )?;
        wait_until_it_accepts("toxiproxy's API", api, &mut server)?;
        let proxy = serde_json::json!({
            "name": "bench", "listen": listen.to_string(), "upstream": upstream.to_string(), "enabled": true,
        });
        post(api, "/proxies", &proxy)?;
        if let Some(latency) = self.latency {
            let toxic = serde_json::json!({
                "type": "latency", "stream": "upstream", "attributes": {"latency": latency.as_millis() as u64},
            });
            post(api, "/proxies/bench/toxics", &toxic)?;
        }
        Ok(server)
    }
}

fn post(api: SocketAddr, path: &str, body: &serde_json::Value) -> anyhow::Result<()> {
    let body = body.to_string();
    let mut socket = TcpStream::connect(api)?;
    write!(
        socket,
        "POST {path} HTTP/1.1\r\nHost: {api}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut reply = String::new();
    socket.read_to_string(&mut reply)?;
    let status = reply.split_whitespace().nth(1).context("toxiproxy's API gave no reply")?;
    anyhow::ensure!(status.starts_with('2'), "toxiproxy's API answered {status} to {path}");
    Ok(())
}
