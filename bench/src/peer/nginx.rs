//! nginx's stream module with one worker.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::{Peer, start};
use crate::process::{Server, version_line};

/// The other proxy that people compare with.
pub struct Nginx;

impl Peer for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn version(&self) -> Result<String, String> {
        version_line("nginx", "-v")
    }

    fn start(&self, listen: SocketAddr, upstream: SocketAddr, scratch: &Path) -> anyhow::Result<Server> {
        let file = scratch.join("nginx.conf");
        std::fs::write(&file, config(listen, upstream, scratch))?;
        start(Command::new("nginx").arg("-e").arg("stderr").arg("-p").arg(scratch).arg("-c").arg(&file))
    }
}

fn config(listen: SocketAddr, upstream: SocketAddr, scratch: &Path) -> String {
    // The stream module is built in on some systems and a file on others, as Debian has it.
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let load = if Path::new(module).exists() { format!("load_module {module};") } else { String::new() };
    let scratch = scratch.display();
    format!(
        "{load}
daemon off;
worker_processes 1;
pid {scratch}/nginx.pid;
error_log /dev/null crit;
events {{ worker_connections 16000; }}
stream {{
    access_log off;
    proxy_timeout 10m;
    server {{
        listen {listen} backlog=4096;
        proxy_pass {upstream};
    }}
}}
"
    )
}
