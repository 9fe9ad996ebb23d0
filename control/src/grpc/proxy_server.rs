//! The proxy's API port: `ProxyService`, health, reflection, and `/metrics` for Prometheus; HTTP/1.1 and HTTP/2.

use std::future::Future;
use std::time::Duration;

use axum::routing::get;
use fracas_dataplane::proxy::Handle;
use fracas_proto::v1::proxy_service_server::ProxyServiceServer;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::Server;

use super::proxy_service::Proxies;
use super::server::KEEPALIVE;
use crate::prometheus;
use crate::wire::Guard;
use crate::wire::incoming::{Incoming, Limits};
use crate::wire::token;

/// Serves the proxies of `handle` on `listener`, behind `guard`, until `stop` is done.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    handle: Handle,
    listener: TcpListener,
    guard: Guard,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ProxyServiceServer<Proxies>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(fracas_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::new(ProxyServiceServer::new(Proxies::new(handle.clone())))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let metrics = move || {
        let handle = handle.clone();
        async move {
            let stats = tokio::task::spawn_blocking(move || handle.stats()).await;
            stats
                .ok()
                .and_then(Result::ok)
                .map(|stats| prometheus::text(&stats))
                .ok_or(axum::http::StatusCode::SERVICE_UNAVAILABLE)
        }
    };
    let router =
        routes.into_axum_router().route("/metrics", get(metrics)).route("/healthz", get(|| async { "ok\n" }));
    let router = token::guarded(router, guard.token);
    let incoming = Incoming::new(listener, guard.tls, Limits::default())?;
    // A watcher's stream would hold a graceful stop for ever: it is cut after a moment.
    let (told, wait) = tokio::sync::oneshot::channel();
    let server = Server::builder()
        .accept_http1(true)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_routes(router.into())
        .serve_with_incoming_shutdown(incoming, async move {
            stop.await;
            let _ = told.send(());
        });
    tokio::select! {
        served = server => Ok(served?),
        () = async {
            let _ = wait.await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        } => Ok(()),
    }
}
