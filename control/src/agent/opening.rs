//! Gets a node ready for its shard of a plan: reads the plan, asks the policy about its target, opens its connections.
//!
//! A plan comes over the network: whatever it says, this ends within an hour, and what the node cannot hold is refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fracas_dataplane::address::Address;
use fracas_dataplane::destination::Destinations;
use fracas_loadgen::arrival::Shard;
use fracas_loadgen::scenario::{Plan, Target};
use tokio::net::TcpStream;

use super::load::Generator;
use super::member::{Opened, Order};
use crate::grpc::session_proto::line;
use crate::lookup::Lookups;

/// How long looking up a target may take.
const LOOKUP_WITHIN: Duration = Duration::from_secs(5);
/// How long opening the connections may take, which nothing breaks off; the controller paces no longer.
const OPENING_MAX: Duration = Duration::from_secs(3_600);
/// Bytes of one request to an echo server; each thread holds one.
const PAYLOAD_BYTES_MAX: u32 = 64 << 20;

/// How a node opens what it is told to.
#[derive(Clone)]
pub struct Opener {
    /// Makes the load.
    pub generator: Arc<dyn Generator>,
    /// Worker threads; `None` = as the plan says.
    pub threads: Option<u32>,
    /// Looks the target up.
    pub lookups: Lookups,
}

impl Opener {
    /// Opens what an order asks for.
    ///
    /// # Errors
    /// One line, when it cannot.
    pub async fn open(self, order: Order) -> Result<Opened, String> {
        self.try_open(order).await.map_err(line)
    }

    async fn try_open(self, order: Order) -> Result<Opened, String> {
        let Order { plan_json, shard_index, shard_count, ready_within, .. } = order;
        let threads = self.threads;
        // A plan may be long, and checking it takes its time.
        let plan = tokio::task::spawn_blocking(move || read_plan(&plan_json, threads)).await;
        let plan = plan.map_err(|_| "it could not read the plan".to_owned())??;
        let shard = Shard::new(shard_index, shard_count)
            .ok_or_else(|| format!("shard {shard_index} of {shard_count} does not exist"))?;
        let within = if ready_within.is_zero() { LOOKUP_WITHIN } else { LOOKUP_WITHIN.min(ready_within) };
        let address = look_up(&self.lookups, &plan, within).await?;
        let at_address = led_to(&plan, address);
        let generator = self.generator;
        let opening = tokio::task::spawn_blocking(move || generator.prepare(&at_address, shard));
        let prepared = opening.await.map_err(|_| "its generator panicked".to_owned())??;
        Ok((plan, shard, prepared))
    }
}

fn read_plan(json: &[u8], threads: Option<u32>) -> Result<Plan, String> {
    let mut plan: Plan =
        serde_json::from_slice(json).map_err(|why| format!("it does not understand the plan: {why}"))?;
    plan.validate().map_err(|why| why.to_string())?;
    if let Some(threads) = threads {
        plan.threads = threads;
    }
    check_limits(&plan)?;
    Ok(plan)
}

/// Refuses what would hold the node for too long, or more memory than it should give.
fn check_limits(plan: &Plan) -> Result<(), String> {
    let most = OPENING_MAX.as_secs();
    if plan.connect_timeout > OPENING_MAX {
        return Err(format!("connect_timeout: an agent waits at most {most} s for its connections"));
    }
    let paced = f64::from(plan.connections) / plan.connect_rate.as_f64();
    if paced > OPENING_MAX.as_secs_f64() {
        let connections = plan.connections;
        return Err(format!(
            "connect_rate: {connections} connections take longer than {most} s to open; raise it, or lower connections"
        ));
    }
    if matches!(plan.target, Target::Tcp { .. }) && plan.payload_bytes > PAYLOAD_BYTES_MAX {
        let most = PAYLOAD_BYTES_MAX >> 20;
        return Err(format!("payload: {} bytes are too many; at most {most} MiB", plan.payload_bytes));
    }
    Ok(())
}

/// Looks the target up, asks the policy, and gives the address to connect to. When a name has several, the first that
/// accepts a connection, as the first may well be the one of the other protocol family.
async fn look_up(lookups: &Lookups, plan: &Plan, within: Duration) -> Result<SocketAddr, String> {
    let host = plan.target.host();
    let target = Address { host: host.to_owned(), port: plan.target.port() };
    let addresses = lookups.look_up(&target.to_string(), within).await.map_err(|why| why.to_string())?;
    Destinations::default()
        .check(host, &addresses)
        .map_err(|refused| format!("the target is refused: {refused}"))?;
    if addresses.len() > 1 {
        for address in &addresses {
            let tried = tokio::time::timeout(plan.connect_timeout.min(within), TcpStream::connect(address));
            if matches!(tried.await, Ok(Ok(_))) {
                return Ok(*address);
            }
        }
    }
    addresses.first().copied().ok_or_else(|| format!("`{host}` has no address"))
}

/// The plan with the address that was checked in place of its target's name: a name that is looked up again may lead
/// elsewhere by then. Requests name their host as before.
fn led_to(plan: &Plan, address: SocketAddr) -> Plan {
    let mut led = plan.clone();
    let (Target::Http { host, port, .. } | Target::Tcp { host, port }) = &mut led.target;
    let literal = address.ip().to_string();
    if *host == literal {
        return led;
    }
    (*host, *port) = (literal, address.port());
    let is_named = plan.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
    if !is_named && matches!(plan.target, Target::Http { .. }) {
        led.headers.insert(0, ("Host".to_owned(), plan.target.authority()));
    }
    led
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use fracas_loadgen::scenario::parse;

    use super::super::load::Prepared;
    use super::*;
    use crate::session::Attempt;

    fn plan(target: &str, more: &str) -> Plan {
        let text = format!("target: {target}\nphases: [{{rate: 1/s, for: 1s}}]\n{more}");
        parse("f.yml", &text).unwrap()
    }

    /// Remembers what it was to prepare.
    #[derive(Default)]
    struct Remembers(Mutex<Vec<Plan>>);

    impl Generator for Remembers {
        fn prepare(&self, plan: &Plan, _: Shard) -> Result<Box<dyn Prepared>, String> {
            self.0.lock().unwrap().push(plan.clone());
            Err("nothing\nmore".to_owned())
        }
    }

    fn order(plan: &Plan) -> Order {
        Order {
            attempt: Attempt { run: "r".into(), number: 1 },
            plan_json: serde_json::to_vec(plan).unwrap().into(),
            shard_index: 0,
            shard_count: 1,
            ready_within: Duration::from_secs(10),
        }
    }

    #[tokio::test]
    async fn the_address_that_was_checked_is_the_one_that_is_used() {
        // The second look-up would lead to cloud metadata.
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let lookups = Lookups::by(move |_| {
            let first = count.fetch_add(1, Ordering::Relaxed) == 0;
            Ok(vec![if first { "127.0.0.1:81" } else { "169.254.169.254:81" }.parse().unwrap()])
        });
        let generator = Arc::new(Remembers::default());
        let opener = Opener { generator: generator.clone(), threads: None, lookups };
        let named = order(&plan("http://shop.test:81/a", ""));
        assert_eq!(opener.clone().open(named.clone()).await.err().unwrap(), "nothing more");
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let led = generator.0.lock().unwrap().pop().unwrap();
        assert_eq!(led.target.to_string(), "http://127.0.0.1:81/a");
        assert_eq!(led.headers, [("Host".to_owned(), "shop.test:81".to_owned())]);
        assert!(opener.open(named).await.err().unwrap().starts_with("the target is refused"));
        assert!(generator.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_plan_that_names_its_host_keeps_it() {
        let address = "127.0.0.1:81".parse().unwrap();
        let own = led_to(&plan("http://shop.test:81/", "headers: {host: other}"), address);
        assert_eq!(own.headers, [("host".to_owned(), "other".to_owned())]);
        let echo = led_to(&plan("tcp://shop.test:81", ""), address);
        assert_eq!((echo.target.to_string(), echo.headers), ("tcp://127.0.0.1:81".to_owned(), vec![]));
        let literal = plan("http://127.0.0.1:81/", "");
        assert_eq!(led_to(&literal, address), literal);
    }

    #[test]
    fn what_holds_a_node_too_long_or_is_too_large_is_refused() {
        for (target, more, refused) in [
            ("http://a/", "connect_timeout: 1h", None),
            ("http://a/", "connect_timeout: 3601s", Some("connect_timeout")),
            ("http://a/", "connections: 3600\nconnect_rate: 1/s", None),
            ("http://a/", "connections: 3601\nconnect_rate: 1/s", Some("connect_rate")),
            ("tcp://a:1", "payload: 64MiB", None),
            ("tcp://a:1", "payload: 65MiB", Some("payload")),
        ] {
            let key = check_limits(&plan(target, more)).err();
            assert_eq!(key.as_deref().and_then(|line| line.split(':').next()), refused, "{more}");
        }
    }
}
