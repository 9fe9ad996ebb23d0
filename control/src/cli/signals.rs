//! Being told to stop: Ctrl-C, SIGTERM from whoever manages the process, SIGHUP from a terminal that went away. None of
//! them loses what was measured, and the second ends at once what the first lets finish.
//!
//! One word may come twice: GNU `timeout` signals its child and then the group that the child is in, and a manager may do
//! the same. What comes within [`SAME_WITHIN`] of the first is the same word.

use std::time::Duration;

use fracas_dataplane::clock::Instant;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal so soon after the first is the same one; nobody presses Ctrl-C twice as fast.
const SAME_WITHIN: Duration = Duration::from_millis(200);

/// The signals that a process hears. From the first call on, none of them ends it by itself.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None`: a hangup does what it does by default, or nothing under nohup(1).
    hang_up: Option<Signal>,
    words: Words,
}

/// What a process with a config file is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To stop.
    Stop,
    /// SIGHUP: to load its config again.
    Reload,
}

impl Signals {
    /// Listens to all three from now on.
    ///
    /// # Errors
    /// When the kernel does not let it.
    pub fn listen() -> std::io::Result<Signals> {
        Ok(Signals { hang_up: Some(signal(SignalKind::hangup())?), ..Signals::of_a_server()? })
    }

    /// Listens to Ctrl-C and SIGTERM from now on: a server goes on without its terminal if it was started so.
    ///
    /// # Errors
    /// When the kernel does not let it.
    pub fn of_a_server() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: None,
            words: Words::default(),
        })
    }

    /// Waits for the next word to stop; a hangup is one. Cancel-safe.
    pub async fn next(&mut self) {
        loop {
            self.heard().await;
            if self.words.is_new(Instant::now()) {
                return;
            }
        }
    }

    /// Waits for the next word, where a hangup means something else. Cancel-safe.
    pub async fn next_or_reload(&mut self) -> Asked {
        loop {
            match self.heard().await {
                Asked::Reload => return Asked::Reload,
                Asked::Stop if self.words.is_new(Instant::now()) => return Asked::Stop,
                Asked::Stop => {}
            }
        }
    }

    async fn heard(&mut self) -> Asked {
        let hang_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.terminate.recv() => Asked::Stop,
            _ = hang_up => Asked::Reload,
        }
    }
}

/// Done when a server is asked to stop. Words that come after that change nothing.
pub async fn asked_to_stop() {
    match Signals::of_a_server() {
        Ok(mut signals) => signals.next().await,
        Err(_) => std::future::pending().await,
    }
}

/// Tells words to stop from echoes.
#[derive(Debug, Default)]
struct Words {
    latest: Option<Instant>,
}

impl Words {
    /// Whether a signal at `now` is a word of its own. An echo does not begin the time anew.
    fn is_new(&mut self, now: Instant) -> bool {
        if self.latest.is_some_and(|latest| now.since(latest) <= SAME_WITHIN) {
            return false;
        }
        self.latest = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_soon_after_the_first_is_the_same_one() {
        // Milliseconds at which signals come, and those that are words.
        let cases: [(&[u64], &[u64]); 7] = [
            (&[0], &[0]),
            (&[0, 0], &[0]),
            (&[0, 1], &[0]),
            (&[0, 200], &[0]),
            (&[0, 201], &[0, 201]),
            // An echo of an echo is counted from the word.
            (&[0, 150, 300], &[0, 300]),
            (&[0, 1, 1000, 1001, 2000], &[0, 1000, 2000]),
        ];
        for (signals, expected) in cases {
            let mut words = Words::default();
            let at = |ms: &u64| Instant::from_nanos(1_000_000 * (5_000 + ms));
            let heard: Vec<u64> = signals.iter().copied().filter(|ms| words.is_new(at(ms))).collect();
            assert_eq!(heard, expected, "{signals:?}");
        }
    }
}
