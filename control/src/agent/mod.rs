//! A node's side: dials out, runs the load, sends histogram deltas.
//!
//! ```text
//! controller ◀──stream──▶ link (dials, hello, pongs) ◀──▶ member (decides) ◀──▶ load (threads of loadgen)
//! ```

mod backoff;
mod by_hand;
pub mod generator;
pub mod identity;
mod link;
pub mod load;
mod member;
mod outbox;
pub mod proxy_session;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::destination::Destinations;
use fracas_dataplane::rng::Rng;
use fracas_loadgen::arrival::Shard;
use fracas_loadgen::scenario::Plan;
use fracas_proto::v1;
use tokio::sync::{mpsc, watch};

use self::link::LinkEvent;
use self::load::Generator;
use self::member::Member;
use crate::grpc::session_proto;
use crate::node_registry::NodeIdentity;
use crate::session::{FromNode, ToNode};
use crate::wire::dial::Dial;

/// How often time is told to pass.
const TICK: Duration = Duration::from_millis(50);
/// How long looking up a target may take.
const LOOKUP_WITHIN: Duration = Duration::from_secs(5);
/// Events of the link that may wait.
const EVENTS_MAX: usize = 256;
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
    let (hello, hello_seen) = watch::channel(session_proto::agent_hello(&settings.identity, None));
    let (events, mut happened) = mpsc::channel(EVENTS_MAX);
    let rng = Rng::new(Instant::now().as_nanos());
    tokio::spawn(link::keep(settings.controller.clone(), hello_seen, events, rng));
    let mut say_to: Option<mpsc::Sender<v1::JoinRequest>> = None;
    let mut ticks = tokio::time::interval(TICK);
    let mut stop = std::pin::pin!(stop);
    loop {
        let say = tokio::select! {
            event = happened.recv() => match event {
                Some(LinkEvent::Up(sender)) => {
                    say_to = Some(sender);
                    tell(News::Joined);
                    member.on_up(Instant::now())
                }
                Some(LinkEvent::Told(told)) => on_told(&mut member, told, settings.threads, &generator).await,
                Some(LinkEvent::Down(reason)) => {
                    say_to = None;
                    member.on_down();
                    tell(News::Left(reason));
                    Vec::new()
                }
                Some(LinkEvent::Refused(reason)) => return Err(reason),
                None => return Ok(()),
            },
            _ = ticks.tick() => member.on_tick(Instant::now()),
            () = &mut stop => break,
        };
        send(&say_to, say).await;
        hello.send_replace(session_proto::agent_hello(&settings.identity, member.carried()));
    }
    leave(&mut member, &say_to).await;
    Ok(())
}

/// Stops a load that is on and tells how it ended, as far as that is quick.
async fn leave(member: &mut Member, say_to: &Option<mpsc::Sender<v1::JoinRequest>>) {
    let Some(attempt) = member.carried().cloned().filter(|_| member.is_loading()) else { return };
    let until = Instant::now() + LEAVE_WITHIN;
    let cancel = ToNode::Cancel { attempt, reason: "the agent was stopped".to_owned() };
    send(say_to, member.on_told(cancel, Instant::now())).await;
    while member.is_loading() && Instant::now() < until {
        tokio::time::sleep(TICK).await;
        send(say_to, member.on_tick(Instant::now())).await;
    }
    // The stream's own task has yet to write what was handed to it.
    tokio::time::sleep(TICK).await;
}

async fn send(say_to: &Option<mpsc::Sender<v1::JoinRequest>>, say: Vec<FromNode>) {
    let Some(sender) = say_to else { return };
    for message in say {
        // A closed channel means the session is down: the outbox keeps what matters.
        if sender.send(session_proto::from_node_proto(message, Instant::now())).await.is_err() {
            return;
        }
    }
}

async fn on_told(
    member: &mut Member,
    told: ToNode,
    threads: Option<u32>,
    generator: &Arc<dyn Generator>,
) -> Vec<FromNode> {
    let ToNode::Prepare { attempt, plan_json, shard_index, shard_count, ready_within, .. } = told else {
        return member.on_told(told, Instant::now());
    };
    let may = member.may_prepare(&attempt);
    let prepared = async {
        may?;
        let plan = read_plan(&plan_json, threads)?;
        let shard = Shard::new(shard_index, shard_count)
            .ok_or_else(|| format!("shard {shard_index} of {shard_count} does not exist"))?;
        look_up(&plan, LOOKUP_WITHIN.min(ready_within)).await?;
        let (generator, its_plan) = (generator.clone(), plan.clone());
        let opening = tokio::task::spawn_blocking(move || generator.prepare(&its_plan, shard));
        let prepared = opening.await.map_err(|_| "its generator panicked".to_owned())??;
        Ok((plan, shard, prepared))
    };
    let prepared = prepared.await;
    vec![member.on_prepared(attempt, prepared, Instant::now())]
}

fn read_plan(json: &[u8], threads: Option<u32>) -> Result<Plan, String> {
    let mut plan: Plan =
        serde_json::from_slice(json).map_err(|why| format!("it does not understand the plan: {why}"))?;
    plan.validate().map_err(|why| why.to_string())?;
    if let Some(threads) = threads {
        plan.threads = threads;
    }
    Ok(plan)
}

/// Looks the target up and asks the policy.
async fn look_up(plan: &Plan, within: Duration) -> Result<(), String> {
    let (host, port) = (plan.target.host(), plan.target.port());
    let found = tokio::time::timeout(within, tokio::net::lookup_host((host, port))).await;
    let addresses: Vec<SocketAddr> = match found {
        Err(_) => return Err(format!("looking up `{host}` took longer than {} s", within.as_secs())),
        Ok(Err(why)) => return Err(format!("cannot look up `{host}`: {why}")),
        Ok(Ok(addresses)) => addresses.collect(),
    };
    Destinations::default()
        .check(host, &addresses)
        .map_err(|refused| format!("the target is refused: {refused}"))
}
