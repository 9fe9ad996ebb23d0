//! Looks names up: a few at a time, so that a slow name server takes no thread that others need.
//!
//! ```text
//! HOST:PORT ─┬─ an address: at once
//!            └─ a name ─▶ up to 256 wait ─▶ 16 at a time ask the system (getaddrinfo(3))
//! ```

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use fracas_dataplane::address::{Address, AddressError};
use tokio::sync::Semaphore;

/// Names that are looked up at a time; each holds a thread for as long as the system's resolver likes.
pub const AT_A_TIME: usize = 16;
/// Calls that may wait for their turn.
pub const WAITING_MAX: usize = 256;
/// The longest name (RFC 1035 §2.3.4).
const HOST_BYTES_MAX: usize = 253;

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// Not HOST:PORT.
    #[error(transparent)]
    Malformed(#[from] AddressError),
    /// No name has so many bytes.
    #[error("a host has at most {HOST_BYTES_MAX} bytes")]
    TooLong,
    /// The resolver knows no such name, or nobody to ask.
    #[error("cannot look up `{name}`: {reason}")]
    Failed {
        /// What was looked up.
        name: String,
        /// What the system said.
        reason: String,
    },
    /// The resolver knows the name, and no address.
    #[error("`{0}` has no address")]
    NoAddress(String),
    /// Too many wait.
    #[error("{WAITING_MAX} calls wait for names to be looked up already; try again later")]
    Busy,
    /// It took too long.
    #[error("looking up `{name}` took longer than {within:?}")]
    TooSlow {
        /// What was looked up.
        name: String,
        /// How long it might have taken.
        within: Duration,
    },
}

type Resolve = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Looks up; cheap to clone.
#[derive(Clone)]
pub struct Lookups {
    resolve: Arc<Resolve>,
    turns: Arc<Semaphore>,
    queue: Arc<Semaphore>,
}

impl Default for Lookups {
    fn default() -> Lookups {
        Lookups::by(|text| text.to_socket_addrs().map(Iterator::collect))
    }
}

impl Lookups {
    /// Asks `resolve`, which may block.
    pub fn by(resolve: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Lookups {
        Lookups {
            resolve: Arc::new(resolve),
            turns: Arc::new(Semaphore::new(AT_A_TIME)),
            queue: Arc::new(Semaphore::new(AT_A_TIME + WAITING_MAX)),
        }
    }

    /// The addresses of `HOST:PORT`, at least one. No host means this machine: `:8080` is `localhost:8080`.
    ///
    /// # Errors
    /// One line.
    pub async fn look_up(&self, text: &str, within: Duration) -> Result<Vec<SocketAddr>, LookupError> {
        let address = Address::parse(text)?;
        if address.host.len() > HOST_BYTES_MAX {
            return Err(LookupError::TooLong);
        }
        if let Some(address) = address.literal() {
            return Ok(vec![address]);
        }
        let target = address.to_string();
        let place = self.queue.clone().try_acquire_owned().map_err(|_| LookupError::Busy)?;
        let (resolve, turns, name) = (self.resolve.clone(), self.turns.clone(), target.clone());
        let found = async move {
            let turn = turns.acquire_owned().await;
            // Both are given back when the resolver answers, not when the caller loses patience.
            tokio::task::spawn_blocking(move || {
                let _held = (place, turn);
                resolve(&name)
            })
            .await
        };
        let failed = |why: String| LookupError::Failed { name: target.clone(), reason: why };
        let addresses = match tokio::time::timeout(within, found).await {
            Err(_) => return Err(LookupError::TooSlow { name: target, within }),
            Ok(Err(_)) => return Err(failed("the process is shutting down".to_owned())),
            Ok(Ok(found)) => found.map_err(|why| failed(why.to_string()))?,
        };
        if addresses.is_empty() { Err(LookupError::NoAddress(target)) } else { Ok(addresses) }
    }
}

/// The host of `HOST:PORT`, without the brackets of IPv6.
pub fn host_of(text: &str) -> String {
    Address::parse(text).map_or_else(|_| text.to_owned(), |address| address.host)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn an_address_needs_no_resolver_and_text_that_is_none_is_refused() {
        let lookups = Lookups::by(|_| panic!("nothing to look up"));
        for (text, address) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            (":80", "127.0.0.1:80"),
            ("localhost:80", "127.0.0.1:80"),
        ] {
            assert_eq!(lookups.look_up(text, LONG).await.unwrap(), [address.parse().unwrap()]);
        }
        for text in ["", "x", "x:0", "::1:80", "http://x:80"] {
            assert!(matches!(lookups.look_up(text, LONG).await, Err(LookupError::Malformed(_))), "{text}");
        }
        let long = format!("{}:80", "x".repeat(300));
        assert_eq!(lookups.look_up(&long, LONG).await, Err(LookupError::TooLong));
        let nothing = Lookups::by(|_| Ok(Vec::new()));
        assert_eq!(nothing.look_up("x:1", LONG).await, Err(LookupError::NoAddress("x:1".into())));
        assert_eq!(["a.b:80", "[::1]:80", ":80"].map(host_of), ["a.b", "::1", "127.0.0.1"]);
    }

    #[tokio::test]
    async fn slow_names_hold_few_threads_and_more_than_may_wait_are_refused() {
        let (release, held) = mpsc::channel::<()>();
        let (held, under_way) = (Mutex::new(held), Arc::new(Mutex::new(0)));
        let seen = under_way.clone();
        let lookups = Lookups::by(move |_| {
            *seen.lock().unwrap() += 1;
            // Until the test ends.
            let _ = held.lock().unwrap().recv();
            Ok(vec!["127.0.0.1:1".parse().unwrap()])
        });
        let mut waiting: Vec<_> = (0..AT_A_TIME + WAITING_MAX)
            .map(|number| {
                let lookups = lookups.clone();
                tokio::spawn(async move { lookups.look_up(&format!("slow{number}:1"), LONG).await })
            })
            .collect();
        while *under_way.lock().unwrap() < AT_A_TIME || lookups.queue.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(lookups.look_up("one-more:1", LONG).await, Err(LookupError::Busy));
        assert!(lookups.look_up("127.0.0.1:1", LONG).await.is_ok(), "an address waits for nobody");
        assert_eq!(*under_way.lock().unwrap(), AT_A_TIME);
        // Whoever loses patience leaves the queue.
        waiting.pop().unwrap().abort();
        while lookups.queue.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
        drop(release);
        for waiting in waiting {
            assert!(waiting.await.unwrap().is_ok());
        }
    }
}
