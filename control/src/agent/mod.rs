//! A node's side: dials out, runs the load, sends histogram deltas.
//!
//! ```text
//! controller ◀──stream──▶ link (dials, hello, pongs) ◀──▶ member (decides) ◀──▶ load (threads of loadgen)
//!                                                             └─▶ opening (plan, policy, connections) ─▶ member
//! ```

mod backoff;
mod by_hand;
pub mod generator;
pub mod identity;
mod link;
pub mod load;
mod member;
mod opening;
mod outbox;
pub mod proxy_session;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::rng::Rng;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use self::link::{LinkEvent, Say};
use self::load::Generator;
use self::member::{Member, Opened};
use self::opening::Opener;
use crate::grpc::session_proto;
use crate::lookup::Lookups;
use crate::node_registry::NodeIdentity;
use crate::session::{FromNode, ToNode};
use crate::wire::dial::Dial;

/// How often time is told to pass.
const TICK: Duration = Duration::from_millis(50);
/// Events of the link that may wait, each a message of at most 4 MiB; more wait in the link's own socket.
const EVENTS_MAX: usize = 16;
/// A stopped load is waited for this long before the process leaves.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// What a node is told once.
#[derive(Clone)]
pub struct Settings {
    /// Whom to join, and how it is reached.
    pub controller: Dial,
    /// Who it is.
    pub identity: NodeIdentity,
    /// Worker threads for the load; `None` = as the plan says.
    pub threads: Option<u32>,
}

/// What a node tells the one who started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A session stands.
    Joined,
    /// It broke off; why.
    Left(String),
}

/// Serves a controller until `stop` is done; a load that is on is stopped then.
///
/// # Errors
/// One line, when the controller will not have this node.
pub async fn run(
    settings: Settings,
    generator: Arc<dyn Generator>,
    stop: impl Future<Output = ()>,
    mut tell: impl FnMut(News),
) -> Result<(), String> {
    let mut member = Member::new(Instant::now());
    let mut carried = None;
    let (hello, hello_seen) = watch::channel(session_proto::agent_hello(&settings.identity, None));
    let (events, mut happened) = mpsc::channel(EVENTS_MAX);
    let rng = Rng::new(Instant::now().as_nanos());
    tokio::spawn(link::keep(settings.controller.clone(), hello_seen, events, rng));
    let opener = Opener { generator, threads: settings.threads, lookups: Lookups::default() };
    let mut opening: Option<JoinHandle<Result<Opened, String>>> = None;
    let mut say_to: Option<Say> = None;
    let mut ticks = tokio::time::interval(TICK);
    let mut stop = std::pin::pin!(stop);
    loop {
        let say = tokio::select! {
            event = happened.recv() => match event {
                Some(LinkEvent::Up(say)) => {
                    say_to = Some(say);
                    tell(News::Joined);
                    member.on_up(Instant::now())
                }
                Some(LinkEvent::Told(told)) => member.on_told(told, Instant::now()),
                Some(LinkEvent::Down(reason)) => {
                    say_to = None;
                    member.on_down();
                    tell(News::Left(reason));
                    Vec::new()
                }
                Some(LinkEvent::Refused(reason)) => return Err(reason),
                None => return Ok(()),
            },
            opened = end_of(&mut opening) => member.on_opened(opened, Instant::now()),
            _ = ticks.tick() => member.on_tick(Instant::now()),
            () = &mut stop => break,
        };
        if let Some(say_to) = &say_to {
            say_to.all(say);
        }
        if let Some(order) = member.take_order() {
            opening = Some(tokio::spawn(opener.clone().open(order)));
        }
        if carried.as_ref() != member.carried() {
            carried = member.carried().cloned();
            hello.send_replace(session_proto::agent_hello(&settings.identity, carried.as_ref()));
        }
    }
    leave(&mut member, &say_to).await;
    Ok(())
}

/// Waits for what is being opened; for ever while nothing is.
async fn end_of(opening: &mut Option<JoinHandle<Result<Opened, String>>>) -> Result<Opened, String> {
    let Some(task) = opening else { return std::future::pending().await };
    let opened = task.await.unwrap_or_else(|_| Err("it broke off while it got ready".to_owned()));
    *opening = None;
    opened
}

/// Stops a load that is on and tells how it ended, as far as that is quick.
async fn leave(member: &mut Member, say_to: &Option<Say>) {
    let say = |messages: Vec<FromNode>| {
        if let Some(say_to) = say_to {
            say_to.all(messages)
        }
    };
    let Some(attempt) = member.carried().cloned().filter(|_| member.is_loading()) else { return };
    let until = Instant::now() + LEAVE_WITHIN;
    let cancel = ToNode::Cancel { attempt, reason: "the agent was stopped".to_owned() };
    say(member.on_told(cancel, Instant::now()));
    while member.is_loading() && Instant::now() < until {
        tokio::time::sleep(TICK).await;
        say(member.on_tick(Instant::now()));
    }
    // The stream's own task has yet to write what was handed to it.
    tokio::time::sleep(TICK).await;
}
