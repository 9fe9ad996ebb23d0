//! The proxy's API port: `ProxyService`, health, reflection, and `/metrics` for Prometheus; HTTP/1.1 and HTTP/2.

use std::future::Future;
use std::sync::Arc;

use axum::http::StatusCode;
use axum::routing::get;
use fracas_proto::v1::agent_service_server::SERVICE_NAME as AGENTS;
use fracas_proto::v1::node_service_server::SERVICE_NAME as NODES;
use fracas_proto::v1::proxy_service_server::{ProxyServiceServer, SERVICE_NAME};
use fracas_proto::v1::run_service_server::SERVICE_NAME as RUNS;
use tokio::net::TcpListener;
use tonic::service::Routes;

use super::proxy_service::Proxies;
use super::served::reflected;
use crate::prometheus;
use crate::wire::Guard;
use crate::wire::calls::no_page;
use crate::wire::figures::Figures;
use crate::wire::server::{self, MESSAGE_BYTES_MAX};

/// Who serves what a proxy does not.
const CONTROLLER: &str = "a controller (`fracas controller`, 127.0.0.1:7400)";

/// Serves the proxies of `proxies` on `listener`, behind `guard`, until `stop` is done.
///
/// # Errors
/// When a descriptor of the contract does not hold together.
pub async fn serve(
    proxies: Proxies,
    listener: TcpListener,
    guard: Guard,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ProxyServiceServer<Proxies>>().await;
    let figures = Arc::new(Figures::default());
    let read = proxies.clone();
    let service = ProxyServiceServer::new(proxies).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let routes = Routes::new(service).add_service(health_service);
    let elsewhere = [AGENTS, NODES, RUNS].map(|name| (name, CONTROLLER));
    let (routes, calls) = reflected(routes, &[SERVICE_NAME], elsewhere)?;
    let told = figures.clone();
    let metrics = move || metrics(read.clone(), told.clone());
    let router = routes
        .into_axum_router()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(no_page);
    server::serve(listener, guard, calls, router, figures, stop).await;
    Ok(())
}

async fn metrics(proxies: Proxies, figures: Arc<Figures>) -> Result<String, StatusCode> {
    let stats = proxies.stats().await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(prometheus::text(&stats) + &figures.prometheus())
}
