//! The proxy's API port: `ProxyService`, health, reflection, and `/metrics` for Prometheus; HTTP/1.1 and HTTP/2.

use std::fmt::Write;
use std::future::Future;
use std::time::Duration;

use axum::routing::get;
use fracas_dataplane::proxy::{Handle, Stats};
use fracas_proto::v1::proxy_service_server::ProxyServiceServer;
use tokio::net::TcpListener;
use tonic::service::Routes;

use super::proxy_service::Proxies;
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
                .map(|stats| prometheus(&stats))
                .ok_or(axum::http::StatusCode::SERVICE_UNAVAILABLE)
        }
    };
    let router =
        routes.into_axum_router().route("/metrics", get(metrics)).route("/healthz", get(|| async { "ok\n" }));
    let router = token::guarded(router, guard.token);
    let incoming = Incoming::new(listener, guard.tls, Limits::default())?;
    // A watcher's stream would hold a graceful stop for ever: it is cut after a moment.
    let (told, wait) = tokio::sync::oneshot::channel();
    let server = axum::serve(incoming, router).with_graceful_shutdown(async move {
        stop.await;
        let _ = told.send(());
    });
    tokio::select! {
        served = async { server.await } => Ok(served?),
        () = async {
            let _ = wait.await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        } => Ok(()),
    }
}

/// The figures in Prometheus' text format 0.0.4; names are stable, the proxy and the behavior are labels.
pub fn prometheus(stats: &Stats) -> String {
    let mut text = String::new();
    let names = stats.proxies.values().next().map_or_else(Vec::new, |proxy| proxy.counters.named());
    for (index, (name, help, _)) in names.iter().enumerate() {
        let _ = writeln!(
            text,
            "# HELP fracas_proxy_{name}_total {}\n# TYPE fracas_proxy_{name}_total counter",
            help.trim()
        );
        for (proxy, figures) in &stats.proxies {
            let value = figures.counters.named()[index].2;
            let _ = writeln!(text, "fracas_proxy_{name}_total{{proxy=\"{}\"}} {value}", escaped(proxy));
        }
    }
    text +=
        "# HELP fracas_proxy_injected_total Faults injected.\n# TYPE fracas_proxy_injected_total counter\n";
    for (proxy, behavior, value) in injected(stats) {
        let _ = writeln!(
            text,
            "fracas_proxy_injected_total{{proxy=\"{}\",behavior=\"{behavior}\"}} {value}",
            escaped(&proxy)
        );
    }
    let workers: [(&str, &str, Read); 4] = [
        ("connections", "Connections open.", |worker| worker.connections as u64),
        ("held_bytes", "Bytes held for delays and slow peers.", |worker| worker.held_bytes as u64),
        ("completion_queue_overflows", "Completions that found no room.", |worker| worker.overflows),
        ("events_lost", "Events that found no room.", |worker| worker.events_lost),
    ];
    for (name, help, read) in workers {
        let _ = writeln!(text, "# HELP fracas_worker_{name} {help}\n# TYPE fracas_worker_{name} gauge");
        for worker in &stats.workers {
            let _ = writeln!(text, "fracas_worker_{name}{{worker=\"{}\"}} {}", worker.worker, read(worker));
        }
    }
    text
}

/// Reads one figure of a worker.
type Read = fn(&fracas_dataplane::proxy::WorkerStats) -> u64;

/// Faults by proxy and behavior, ended rules included.
pub fn injected(stats: &Stats) -> Vec<(String, &'static str, u64)> {
    let mut all: Vec<(String, &'static str, u64)> = Vec::new();
    for (proxy, figures) in &stats.proxies {
        for rule in figures.rules.iter().chain(&figures.retired) {
            match all.iter_mut().find(|(name, behavior, _)| name == proxy && *behavior == rule.behavior) {
                Some((.., sum)) => *sum += rule.injected,
                None => all.push((proxy.clone(), rule.behavior, rule.injected)),
            }
        }
    }
    all
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
