//! `fracas node`: a controller's nodes.

use std::process::ExitCode;

use fracas_proto::v1;
use fracas_proto::v1::node_service_client::NodeServiceClient;
use serde_json::json;

use super::client::{self, ApiArgs};
use super::controller::runtime;
use super::plain::say;

/// Flags of `fracas node`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fracas node list --api 10.0.0.5:7400 --tls-ca ca.pem --token-file token")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show who has joined
    #[command(
        after_help = "Example: fracas node list --api 10.0.0.5:7400 --tls-ca ca.pem --token-file token"
    )]
    List {
        #[command(flatten)]
        api: ApiArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a node no new run; the one it carries goes on
    #[command(after_help = "Example: fracas node drain generator-1")]
    Drain {
        /// Its name
        name: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Let a drained node take runs again
    #[command(after_help = "Example: fracas node enable generator-1")]
    Enable {
        /// Its name
        name: String,
        #[command(flatten)]
        api: ApiArgs,
    },
}

/// Runs `fracas node`.
///
/// # Errors
/// When the controller does not answer, or there is no such node.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(async {
        match args.verb {
            Verb::List { api, json } => list(&api, json).await,
            Verb::Drain { name, api } => {
                let mut client = NodeServiceClient::new(api.connect().await?);
                let request = v1::DrainNodeRequest { node: name, ..v1::DrainNodeRequest::default() };
                let node = client.drain_node(request).await.map_err(client::error)?.into_inner().node;
                tell(node)
            }
            Verb::Enable { name, api } => {
                let mut client = NodeServiceClient::new(api.connect().await?);
                let request = v1::EnableNodeRequest { node: name, ..v1::EnableNodeRequest::default() };
                let node = client.enable_node(request).await.map_err(client::error)?.into_inner().node;
                tell(node)
            }
        }
    })
}

async fn list(api: &ApiArgs, json: bool) -> anyhow::Result<ExitCode> {
    let mut client = NodeServiceClient::new(api.connect().await?);
    let (mut nodes, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListNodesRequest { page_size: 1_000, page_token };
        let page = client.list_nodes(request).await.map_err(client::error)?.into_inner();
        nodes.extend(page.nodes);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if json {
        let nodes: Vec<_> = nodes.iter().map(node_json).collect();
        say(&json!({ "nodes": nodes }).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    if nodes.is_empty() {
        say(&format!("no node has joined; start one with `fracas agent --join {}`", api.api));
        return Ok(ExitCode::SUCCESS);
    }
    say(table(&nodes).trim_end());
    Ok(ExitCode::SUCCESS)
}

/// A line for each node; a column is as wide as the longest that stands in it.
fn table(nodes: &[v1::Node]) -> String {
    let head = ["NAME", "ROLE", "STATE", "CORES", "KERNEL", "CLOCK", "run or proxies"].map(str::to_owned);
    let row = |node: &v1::Node| {
        let carries = if node.run_id.is_empty() { node.proxies.join(", ") } else { node.run_id.clone() };
        let clock = match clock_known(node) {
            true => client::clock(node.clock_offset_ns, node.clock_error_ns),
            false => "–".to_owned(),
        };
        let (name, kernel, cores) = (node.name.clone(), node.kernel.clone(), node.cores.to_string());
        [name, role(node).to_owned(), state(node).to_owned(), cores, kernel, clock, carries]
    };
    let rows: Vec<_> = std::iter::once(head).chain(nodes.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let line = |row: &[String; 7]| {
        let cells = row.iter().enumerate().map(|(column, cell)| format!("{cell:<0$}", width(column)));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn tell(node: Option<v1::Node>) -> anyhow::Result<ExitCode> {
    let node = node.unwrap_or_default();
    say(&format!("{} is {}", node.name, state(&node)));
    Ok(ExitCode::SUCCESS)
}

fn role(node: &v1::Node) -> &'static str {
    if node.role() == v1::NodeRole::Proxy { "proxy" } else { "agent" }
}

fn state(node: &v1::Node) -> String {
    client::word(node.state().as_str_name(), "NODE_STATE_")
}

/// Whether a clock ping was answered; before, nothing is known of a node's clock.
fn clock_known(node: &v1::Node) -> bool {
    node.round_trip.is_some()
}

fn node_json(node: &v1::Node) -> serde_json::Value {
    json!({
        "name": node.name, "role": role(node), "state": state(node), "version": node.version, "peer": node.peer,
        "cores": node.cores, "nofile_limit": node.nofile_limit, "kernel": node.kernel, "io_uring": node.io_uring,
        "run": node.run_id, "proxies": node.proxies,
        "clock_offset_ns": clock_known(node).then_some(node.clock_offset_ns),
        "clock_error_ns": clock_known(node).then_some(node.clock_error_ns),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_their_heads_however_long_a_name_is() {
        let node = |name: &str, kernel: &str| v1::Node {
            name: name.into(),
            kernel: kernel.into(),
            cores: 2,
            proxies: vec!["shop".into()],
            round_trip: Some(prost_types::Duration { seconds: 0, nanos: 1 }),
            ..v1::Node::default()
        };
        let nodes = [node("a", "6.18.44-fc-v669-with-more"), node("a-name-that-is-longer-than-most", "6.1")];
        let table = table(&nodes);
        let starts = |word: &str| table.lines().filter_map(|line| line.find(word)).collect::<Vec<_>>();
        let [clock, same] = [starts("CLOCK")[0], starts("same clock")[0]];
        assert_eq!((clock, starts("same clock")), (same, vec![same, same]), "{table}");
        assert_eq!(starts("shop"), [starts("run or proxies")[0]; 2], "{table}");
    }

    #[test]
    fn a_clock_that_answered_no_ping_yet_is_not_known() {
        let joined = v1::Node { name: "a".into(), ..v1::Node::default() };
        assert!(!table(std::slice::from_ref(&joined)).contains("same clock"));
        assert_eq!(node_json(&joined)["clock_offset_ns"], serde_json::Value::Null);
        let heard = v1::Node { round_trip: Some(prost_types::Duration::default()), ..joined };
        assert!(table(std::slice::from_ref(&heard)).contains("same clock"));
        assert_eq!(
            (&node_json(&heard)["clock_offset_ns"], &node_json(&heard)["clock_error_ns"]),
            (&json!(0), &json!(0))
        );
    }
}
