//! A small HTTP server on std threads, for runs on real sockets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Answers every request head at once, unless it is frozen. Its threads end with their connections.
pub struct Server {
    pub address: SocketAddr,
    pub requests: Arc<AtomicU64>,
    /// Who holds the write lock freezes every connection.
    pub frozen: Arc<RwLock<()>>,
}

impl Server {
    pub fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, frozen) = (Arc::new(AtomicU64::new(0)), Arc::new(RwLock::new(())));
        let server = Server { address, requests: Arc::clone(&requests), frozen: Arc::clone(&frozen) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (requests, frozen) = (Arc::clone(&requests), Arc::clone(&frozen));
                std::thread::spawn(move || serve(stream, &requests, &frozen));
            }
        });
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

fn serve(mut stream: TcpStream, requests: &AtomicU64, frozen: &RwLock<()>) {
    stream.set_nodelay(true).unwrap();
    let mut head = Vec::new();
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        head.extend_from_slice(&bytes[..count]);
        while let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            let asks_to_close = String::from_utf8_lossy(&head[..end]).contains("Connection: close");
            head.drain(..end + 4);
            requests.fetch_add(1, Ordering::Relaxed);
            drop(frozen.read().unwrap());
            if stream.write_all(REPLY).is_err() || asks_to_close {
                return;
            }
        }
    }
}
