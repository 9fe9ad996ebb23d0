//! `NodeService`: who can drive load.

use std::sync::Arc;

use fracas_dataplane::clock::Instant;
use fracas_proto::v1;
use fracas_proto::v1::node_service_server::NodeService;
use tonic::{Request, Response, Status};

use super::control_plane::ControlPlane;
use super::page;
use super::run_service::{reasoned, timestamp};
use super::session_proto::duration_proto;
use crate::controller::Controller;
use crate::node_registry::{Node, NodeState, Role, UnknownNode};

/// Names the list of nodes in page tokens.
const LIST: &str = "nodes";

/// The service.
pub struct Nodes(pub Arc<ControlPlane>);

impl From<UnknownNode> for Status {
    fn from(error: UnknownNode) -> Status {
        reasoned(tonic::Code::NotFound, &error.to_string(), "NODE_NOT_FOUND")
    }
}

#[tonic::async_trait]
impl NodeService for Nodes {
    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let v1::ListNodesRequest { page_size: size, page_token } = request.into_inner();
        let size = page::size(size);
        let after = page::key_of(LIST, &page_token)?.unwrap_or_default();
        let mut nodes: Vec<v1::Node> = self.0.read(|controller, now| {
            let rest = controller.nodes().filter(|node| node.identity.name.as_str() > after);
            rest.take(size + 1).map(|node| node_proto(controller, node, now)).collect()
        });
        let more = nodes.len() > size;
        nodes.truncate(size);
        let next_page_token = match nodes.last() {
            Some(last) if more => page::token_after(LIST, &last.name),
            _ => String::new(),
        };
        Ok(Response::new(v1::ListNodesResponse { nodes, next_page_token }))
    }

    async fn drain_node(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::DrainNodeResponse>, Status> {
        let node = Some(self.set_drained(&request.into_inner().node, true)?);
        Ok(Response::new(v1::DrainNodeResponse { node }))
    }

    async fn enable_node(
        &self,
        request: Request<v1::EnableNodeRequest>,
    ) -> Result<Response<v1::EnableNodeResponse>, Status> {
        let node = Some(self.set_drained(&request.into_inner().node, false)?);
        Ok(Response::new(v1::EnableNodeResponse { node }))
    }
}

impl Nodes {
    fn set_drained(&self, name: &str, drained: bool) -> Result<v1::Node, Status> {
        self.0.tell(|controller, now| {
            let node = controller.set_drained(name, drained, now)?;
            Ok(node_proto(controller, &node, now))
        })
    }
}

fn node_proto(controller: &Controller, node: &Node, now: Instant) -> v1::Node {
    let identity = node.identity.clone();
    let clock = node.clock.offset(now).unwrap_or_default();
    let role = match node.role {
        Role::Agent => v1::NodeRole::Agent,
        Role::Proxy => v1::NodeRole::Proxy,
    };
    let state = match node.state() {
        NodeState::Idle => v1::NodeState::Idle,
        NodeState::Busy => v1::NodeState::Busy,
        NodeState::Draining => v1::NodeState::Draining,
        NodeState::Drained => v1::NodeState::Drained,
        NodeState::Lost => v1::NodeState::Lost,
    };
    v1::Node {
        name: identity.name,
        uid: identity.uid,
        role: role.into(),
        state: state.into(),
        version: identity.version,
        peer: node.peer.clone(),
        cores: identity.cores,
        nofile_limit: identity.nofile_limit,
        kernel: identity.kernel,
        io_uring: identity.io_uring,
        labels: identity.labels.into_iter().collect(),
        run_id: node.run.clone().unwrap_or_default(),
        proxies: node.proxies.clone(),
        connected_at: Some(timestamp(controller.unix_ms(node.connected_at))),
        last_seen_at: Some(timestamp(controller.unix_ms(node.last_heard))),
        round_trip: node.clock.round_trip().and_then(duration_proto),
        clock_offset_ns: clock.offset_ns,
        clock_error_ns: clock.error.as_nanos() as u64,
    }
}
