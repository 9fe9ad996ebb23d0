//! The controller's server: its services, health and reflection on one address.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fracas_proto::v1::agent_service_server::AgentServiceServer;
use fracas_proto::v1::node_service_server::NodeServiceServer;
use fracas_proto::v1::run_service_server::RunServiceServer;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use super::agent_service::Agents;
use super::control_plane::ControlPlane;
use super::node_service::Nodes;
use super::run_service::Runs;

/// A connection on which nothing is heard for this long is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Serves a controller on `listener` until `stop` is done; then sessions and calls are cut.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    plane: Arc<ControlPlane>,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<RunServiceServer<Runs>>().await;
    health.set_serving::<NodeServiceServer<Nodes>>().await;
    health.set_serving::<AgentServiceServer<Agents>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(fracas_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let time = tokio::spawn(plane.clone().keep_time());
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .tcp_nodelay(true)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(RunServiceServer::new(Runs(plane.clone())))
        .add_service(NodeServiceServer::new(Nodes(plane.clone())))
        .add_service(AgentServiceServer::new(Agents(plane.clone())))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let served = tokio::select! {
        served = server => served,
        () = stop => Ok(()),
    };
    time.abort();
    Ok(served?)
}

/// Whether an address may be served without TLS and a token.
///
/// # Errors
/// One line, when others than this machine could reach it and nobody said that this is wanted.
pub fn check_exposure(address: SocketAddr, insecure: bool) -> Result<(), String> {
    if insecure || address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    Err(format!(
        "{address} can be reached from other machines, without TLS or a token; listen on 127.0.0.1, or say --insecure"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_served_without_a_word() {
        for (address, loopback) in [
            ("127.0.0.1:7400", true),
            ("127.8.8.8:1", true),
            ("[::1]:7400", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:7400", false),
            ("[::]:7400", false),
            ("10.0.0.1:7400", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(check_exposure(address, false).is_ok(), loopback, "{address}");
            assert!(check_exposure(address, true).is_ok());
        }
    }
}
