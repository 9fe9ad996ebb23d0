//! `fracas node`: a controller's nodes.

use std::process::ExitCode;

use fracas_proto::v1;
use fracas_proto::v1::node_service_client::NodeServiceClient;
use serde_json::json;

use super::client::{self, ApiArgs};
use super::controller::runtime;

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
    List {
        #[command(flatten)]
        api: ApiArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a node no new run; the one it carries goes on
    Drain {
        /// Its name
        name: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Let a drained node take runs again
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
        println!("{}", json!({ "nodes": nodes }));
        return Ok(ExitCode::SUCCESS);
    }
    if nodes.is_empty() {
        println!("no node has joined; start one with `fracas agent --join {}`", api.api);
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{:<16} {:<6} {:<9} {:>5} {:<14} {:<22} run or proxies",
        "NAME", "ROLE", "STATE", "CORES", "KERNEL", "CLOCK"
    );
    for node in &nodes {
        let carries = if node.run_id.is_empty() { node.proxies.join(", ") } else { node.run_id.clone() };
        println!(
            "{:<16} {:<6} {:<9} {:>5} {:<14} {:<22} {carries}",
            node.name,
            role(node),
            state(node),
            node.cores,
            node.kernel,
            client::clock(node.clock_offset_ns, node.clock_error_ns),
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(node: Option<v1::Node>) -> anyhow::Result<ExitCode> {
    let node = node.unwrap_or_default();
    println!("{} is {}", node.name, state(&node));
    Ok(ExitCode::SUCCESS)
}

fn role(node: &v1::Node) -> &'static str {
    if node.role() == v1::NodeRole::Proxy { "proxy" } else { "agent" }
}

fn state(node: &v1::Node) -> String {
    client::word(node.state().as_str_name(), "NODE_STATE_")
}

fn node_json(node: &v1::Node) -> serde_json::Value {
    json!({
        "name": node.name, "role": role(node), "state": state(node), "version": node.version, "peer": node.peer,
        "cores": node.cores, "nofile_limit": node.nofile_limit, "kernel": node.kernel, "io_uring": node.io_uring,
        "run": node.run_id, "proxies": node.proxies, "clock_offset_ns": node.clock_offset_ns,
        "clock_error_ns": node.clock_error_ns,
    })
}
