//! What a listener has served and refused, for `/metrics` and one line in the log.

use std::fmt::Write;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fracas_dataplane::clock::Instant;

/// A full listener is told of at most so often.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// How a connection ended that a limit has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All places were taken and it used its own least.
    CrowdedOut,
    /// All places were taken by others with calls under way.
    Full,
    /// It made no call that was let in within the time for that.
    Silent,
    /// No TLS came about.
    Handshake,
    /// It had no call under way for too long.
    Idle,
    /// It took nothing of an answer for too long.
    Unread,
}

const ENDINGS: [(Ending, &str); 6] = [
    (Ending::CrowdedOut, "crowded_out"),
    (Ending::Full, "full"),
    (Ending::Silent, "silent"),
    (Ending::Handshake, "handshake"),
    (Ending::Idle, "idle"),
    (Ending::Unread, "unread"),
];

/// Reasons for which a request is refused before a service sees it.
const REASONS: [&str; 8] = [
    "HOST_MISSING",
    "HOST_NOT_SERVED",
    "ORIGIN_REFUSED",
    "METHOD_NOT_SERVED",
    "NOT_GRPC",
    "TOKEN_MISSING",
    "TOKEN_WRONG",
    "CALL_NOT_SERVED",
];

/// The figures of one listener.
#[derive(Debug, Default)]
pub struct Figures {
    open: AtomicU64,
    limit: AtomicU64,
    accepted: AtomicU64,
    endings: [AtomicU64; ENDINGS.len()],
    refused: [AtomicU64; REASONS.len()],
    told_at: Mutex<Option<Instant>>,
}

impl Figures {
    pub(super) fn set_open(&self, open: usize) {
        self.open.store(open as u64, Ordering::Relaxed);
    }

    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit as u64, Ordering::Relaxed);
    }

    pub(super) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ended(&self, ending: Ending) {
        let index = ENDINGS.iter().position(|(known, _)| *known == ending).expect("every ending is listed");
        self.endings[index].fetch_add(1, Ordering::Relaxed);
        if !matches!(ending, Ending::CrowdedOut | Ending::Full) {
            return;
        }
        let mut told_at = self.told_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if told_at.is_none_or(|at| now.since(at) >= TELL_EVERY) {
            *told_at = Some(now);
            let limit = self.limit.load(Ordering::Relaxed);
            let _ = writeln!(
                std::io::stderr(),
                "fracas: the API has its {limit} connections; new ones take the places of silent and idle ones \
                 (--api-connections)"
            );
        }
    }

    /// A request was refused for a reason as `ErrorInfo` names it.
    pub(super) fn refused(&self, reason: &str) {
        if let Some(index) = REASONS.iter().position(|known| *known == reason) {
            self.refused[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// In Prometheus' text format 0.0.4.
    pub fn prometheus(&self) -> String {
        let mut text = String::new();
        let mut put = |name: &str, kind: &str, help: &str, lines: &[(String, u64)]| {
            let _ = writeln!(text, "# HELP fracas_api_{name} {help}\n# TYPE fracas_api_{name} {kind}");
            for (labels, value) in lines {
                let _ = writeln!(text, "fracas_api_{name}{labels} {value}");
            }
        };
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let plain = |value: &AtomicU64| [(String::new(), read(value))];
        put("connections", "gauge", "Connections of the API open.", &plain(&self.open));
        put("connections_limit", "gauge", "Connections that the API takes at a time.", &plain(&self.limit));
        put("connections_total", "counter", "Connections of the API accepted.", &plain(&self.accepted));
        let endings = ENDINGS.iter().zip(&self.endings);
        let endings: Vec<_> =
            endings.map(|((_, word), count)| (format!("{{reason=\"{word}\"}}"), read(count))).collect();
        put("connections_ended_total", "counter", "Connections of the API that a limit has ended.", &endings);
        let refused = REASONS.iter().zip(&self.refused);
        let refused: Vec<_> = refused
            .map(|(word, count)| (format!("{{reason=\"{}\"}}", word.to_lowercase()), read(count)))
            .collect();
        put("requests_refused_total", "counter", "Requests that no service has seen.", &refused);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ending_and_each_refusal_has_a_line() {
        let figures = Figures::default();
        figures.set_limit(3);
        figures.set_open(2);
        for (ending, _) in ENDINGS {
            figures.ended(ending);
        }
        for reason in REASONS {
            figures.refused(reason);
        }
        let text = figures.prometheus();
        for line in ["fracas_api_connections 2", "fracas_api_connections_limit 3"] {
            assert!(text.lines().any(|known| known == line), "{text}");
        }
        let ones = text.lines().filter(|line| !line.starts_with('#') && line.ends_with(" 1")).count();
        assert_eq!(ones, ENDINGS.len() + REASONS.len(), "{text}");
    }
}
