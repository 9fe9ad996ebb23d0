//! `WatchEvents`: what happens, in batches, for one client that may be slow.

use std::collections::HashSet;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::proxy::{Detail, Event, Handle};
use fracas_proto::v1;
use tokio::runtime;
use tokio::sync::mpsc::Sender;
use tonic::Status;

use super::proxy_answers::{event_kind_proto, event_proto};
use super::refusal::invalid;
use super::wall_clock::WallClock;

/// Events in one message: well below the 4 MiB that clients take.
const EVENTS_PER_MESSAGE: usize = 512;
/// Batches a watcher may be behind before it loses events.
const WATCH_BATCHES: usize = 256;

/// What a client wants to be told; an empty list is everything.
pub struct Watch {
    pub proxies: HashSet<String>,
    pub kinds: Vec<v1::EventKind>,
    pub heartbeat: Duration,
    /// A client that does not read for this long is given up.
    pub patience: Duration,
}

/// The kinds of a request, each once.
///
/// # Errors
/// When one is none.
pub fn kinds_of(kinds: &[i32]) -> Result<Vec<v1::EventKind>, Status> {
    let mut wanted = Vec::new();
    for (index, kind) in kinds.iter().enumerate() {
        match v1::EventKind::try_from(*kind) {
            Ok(kind) if wanted.contains(&kind) => {}
            Ok(kind) if kind != v1::EventKind::Unspecified => wanted.push(kind),
            _ => return Err(invalid(format!("kinds[{index}]"), format!("{kind} is not a kind of event"))),
        }
    }
    Ok(wanted)
}

impl Watch {
    /// Sends what happens until the client goes or stops to read, or the proxy stops. Blocks: it needs a thread of a
    /// runtime that may.
    pub fn stream(&self, handle: &Handle, messages: &Sender<Result<v1::WatchEventsResponse, Status>>) {
        let watcher = handle.watch(WATCH_BATCHES);
        let runtime = runtime::Handle::current();
        let mut lost = 0;
        // At once: the stream stands.
        let mut batch = Some(Vec::new());
        loop {
            let mut events = batch.take().unwrap_or_default();
            lost += events.iter().map(lost_at_worker).sum::<u64>();
            events.retain(|event| self.wants(event));
            let mut parts: Vec<&[Event]> = events.chunks(EVENTS_PER_MESSAGE).collect();
            if parts.is_empty() {
                parts.push(&[]);
            }
            for part in parts {
                let (now, clock) = (Instant::now(), WallClock::read());
                let message = v1::WatchEventsResponse {
                    events: part.iter().map(|event| event_proto(event, &clock)).collect(),
                    lost: watcher.lost() + lost,
                    monotonic_ns: now.as_nanos(),
                    wall_time: Some(clock.time(now)),
                };
                if runtime.block_on(messages.send_timeout(Ok(message), self.patience)).is_err() {
                    return;
                }
            }
            // Batches of which nothing is wanted say nothing; the heartbeat counts from the last message.
            let due = Instant::now() + self.heartbeat;
            batch = loop {
                let left = due - Instant::now();
                match watcher.recv_timeout(left) {
                    None => break None,
                    Some(events) if events.iter().any(|event| self.wants(event)) => break Some(events),
                    Some(events) => lost += events.iter().map(lost_at_worker).sum::<u64>(),
                }
            };
            if batch.is_none() && handle.check_running().is_err() {
                return;
            }
        }
    }

    fn wants(&self, event: &Event) -> bool {
        let kind = event_kind_proto(event.kind);
        (self.kinds.is_empty() || self.kinds.contains(&kind))
            && (self.proxies.is_empty() || event.proxy.is_empty() || self.proxies.contains(&*event.proxy))
    }
}

/// Events for which a worker had no room, as this one tells.
fn lost_at_worker(event: &Event) -> u64 {
    if let Detail::EventsLost(count) = event.detail { count } else { 0 }
}

#[cfg(test)]
mod tests {
    use fracas_dataplane::proxy::{Dataplane, DataplaneSettings};
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_client_that_does_not_read_is_given_up() {
        let settings = DataplaneSettings { threads: 1, ..DataplaneSettings::default() };
        let dataplane = Dataplane::start(settings).unwrap();
        let handle = dataplane.handle();
        let watch = Watch {
            proxies: HashSet::new(),
            kinds: Vec::new(),
            heartbeat: Duration::from_millis(1),
            patience: Duration::from_millis(20),
        };
        let (messages, mut unread) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || watch.stream(&handle, &messages)).await.unwrap();
        assert!(unread.recv().await.is_some(), "it got what there was room for");
        assert!(unread.recv().await.is_none(), "and then its end");
    }

    #[test]
    fn only_kinds_that_there_are_can_be_asked_for() {
        let injected = i32::from(v1::EventKind::Injected);
        assert_eq!(kinds_of(&[injected; 100_000]).unwrap(), [v1::EventKind::Injected]);
        for wrong in [0, 99] {
            let status = kinds_of(&[injected, wrong]).unwrap_err();
            assert!(status.message().starts_with("kinds[1]: "), "{status}");
        }
    }
}
