//! The sockets that the bench itself opens: no Nagle delay, all else as the kernel has it.
//!
//! They set no congestion control: peers such as HAProxy take the default, and one that differs on our side only would
//! favour the peers that the bench builds.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

const BACKLOG: i32 = 4096;

/// Listens on `address`; accepted sockets inherit the options.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = tuned()?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Makes a socket that is to be connected through the ring.
pub fn unconnected() -> io::Result<OwnedFd> {
    Ok(tuned()?.into())
}

/// Connects, waiting at most 5 seconds.
pub fn connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = tuned()?;
    socket.connect_timeout(&address.into(), Duration::from_secs(5))?;
    Ok(socket.into())
}

/// An address on loopback that was free a moment ago.
pub fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn tuned() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}
