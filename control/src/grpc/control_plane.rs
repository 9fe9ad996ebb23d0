//! The controller with its surroundings: one lock around the state machine, its effects carried out, its clock.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use tokio::sync::{mpsc, watch};

use crate::controller::{Controller, Effect};
use crate::run_report::Report;
use crate::session::ToNode;

/// Messages that may wait for one node; one that is further behind loses its session and has to come back.
const OUTGOING_MAX: usize = 256;
/// How often time is told to pass.
const TICK: Duration = Duration::from_millis(100);

/// The controller, shared by the services.
pub struct ControlPlane {
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
}

struct Inner {
    controller: Controller,
    sessions: HashMap<u64, mpsc::Sender<ToNode>>,
}

impl ControlPlane {
    /// Puts a controller into its surroundings.
    pub fn new(controller: Controller) -> Arc<ControlPlane> {
        let inner = Mutex::new(Inner { controller, sessions: HashMap::new() });
        Arc::new(ControlPlane { inner, changes: watch::Sender::new(0) })
    }

    /// Asks the controller something.
    pub fn read<R>(&self, read: impl FnOnce(&Controller, Instant) -> R) -> R {
        read(&self.lock().controller, Instant::now())
    }

    /// Tells the controller something, and carries out what follows.
    pub fn tell<R>(self: &Arc<Self>, tell: impl FnOnce(&mut Controller, Instant) -> R) -> R {
        let mut inner = self.lock();
        let answer = tell(&mut inner.controller, Instant::now());
        self.carry_out(&mut inner);
        drop(inner);
        self.changes.send_modify(|change| *change += 1);
        answer
    }

    /// Tells the controller of a new session and gives what is to be sent in it.
    ///
    /// # Errors
    /// Those of `join`.
    pub fn open<E>(
        self: &Arc<Self>,
        join: impl FnOnce(&mut Controller, Instant) -> Result<u64, E>,
    ) -> Result<(u64, mpsc::Receiver<ToNode>), E> {
        let mut inner = self.lock();
        let session = join(&mut inner.controller, Instant::now())?;
        let (sender, receiver) = mpsc::channel(OUTGOING_MAX);
        inner.sessions.insert(session, sender);
        self.carry_out(&mut inner);
        drop(inner);
        self.changes.send_modify(|change| *change += 1);
        Ok((session, receiver))
    }

    /// Forgets a session.
    pub fn close(&self, session: u64) {
        self.lock().sessions.remove(&session);
    }

    /// Changes whenever the controller may have.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Lets time pass for the controller, for ever.
    pub async fn keep_time(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            self.tell(|controller, now| controller.tick(now));
        }
    }

    fn carry_out(self: &Arc<Self>, inner: &mut Inner) {
        for effect in inner.controller.take_effects() {
            match effect {
                Effect::Send { node, session, message } => {
                    let sender = inner.sessions.get(&session);
                    if sender.is_some_and(|sender| sender.try_send(message).is_err()) {
                        // Dropping the sender ends the stream: the node dials again and resumes.
                        let _ = writeln!(
                            std::io::stderr(),
                            "fracas: {node} does not read what it is told; its session is ended"
                        );
                        inner.sessions.remove(&session);
                    }
                }
                // Dropping the sender ends its stream.
                Effect::EndSession { session } => _ = inner.sessions.remove(&session),
                Effect::WriteReport { run, directory, findings } => {
                    let plane = self.clone();
                    tokio::task::spawn_blocking(move || {
                        let report = Report::new(*findings);
                        let result = report.write(&directory).map(|()| report.result);
                        plane.tell(|controller, now| controller.report_written(&run, result, now));
                    });
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock is a bug that was reported where it happened; the others go on.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
