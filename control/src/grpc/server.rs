//! The controller's server: its services, health and reflection on one address. Which addresses may be served.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::routing::get;
use fracas_proto::v1::agent_service_server::{AgentServiceServer, SERVICE_NAME as AGENTS};
use fracas_proto::v1::node_service_server::{NodeServiceServer, SERVICE_NAME as NODES};
use fracas_proto::v1::proxy_service_server::SERVICE_NAME as PROXIES;
use fracas_proto::v1::run_service_server::{RunServiceServer, SERVICE_NAME as RUNS};
use tokio::net::TcpListener;
use tonic::service::Routes;

use super::agent_service::Agents;
use super::control_plane::ControlPlane;
use super::node_service::Nodes;
use super::run_service::Runs;
use super::served::reflected;
use crate::wire::Guard;
use crate::wire::calls::no_page;
use crate::wire::figures::Figures;
use crate::wire::server::{self, MESSAGE_BYTES_MAX};

/// Serves a controller on `listener`, behind `guard`, until `stop` is done; then sessions and calls are cut.
///
/// # Errors
/// When a descriptor of the contract does not hold together.
pub async fn serve(
    plane: Arc<ControlPlane>,
    listener: TcpListener,
    guard: Guard,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<RunServiceServer<Runs>>().await;
    health.set_serving::<NodeServiceServer<Nodes>>().await;
    health.set_serving::<AgentServiceServer<Agents>>().await;
    let runs = RunServiceServer::new(Runs::new(plane.clone())).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let nodes = NodeServiceServer::new(Nodes(plane.clone())).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let agents = AgentServiceServer::new(Agents(plane.clone())).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let routes = Routes::new(health_service).add_service(runs).add_service(nodes).add_service(agents);
    let elsewhere = [(PROXIES, "a proxy (`fracas proxy`, 127.0.0.1:7401)")];
    let (routes, calls) = reflected(routes, &[RUNS, NODES, AGENTS], elsewhere)?;
    let figures = Arc::new(Figures::default());
    let told = figures.clone();
    let router = routes
        .into_axum_router()
        .route("/metrics", get(move || async move { told.prometheus() }))
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(no_page);
    let time = tokio::spawn(plane.clone().keep_time());
    server::serve(listener, guard, calls, router, figures, stop).await;
    time.abort();
    Ok(())
}

/// Whether an address may be served behind `guard`: one that others can reach needs TLS and a token.
///
/// # Errors
/// One line that says what is missing, when others than this machine could reach it and nobody said that this is
/// wanted.
pub fn check_exposure(address: SocketAddr, guard: &Guard, insecure: bool) -> Result<(), String> {
    let missing = match (&guard.tls, &guard.token) {
        (Some(_), Some(_)) => return Ok(()),
        _ if insecure || address.ip().to_canonical().is_loopback() => return Ok(()),
        (None, None) => "TLS and a token: add --tls-cert FILE, --tls-key FILE and --token-file FILE",
        (None, Some(_)) => {
            "TLS, without which the token can be read on the way: add --tls-cert FILE and --tls-key FILE"
        }
        (Some(_), None) => {
            "a token, without which everybody is let in: add --token-file FILE or set FRACAS_TOKEN"
        }
    };
    Err(format!(
        "{address} can be reached from other machines and lacks {missing}; or listen on 127.0.0.1, or say --insecure"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tls;
    use crate::wire::token::Token;

    /// Guards with TLS or without, and with a token or without.
    fn guard(has_tls: bool, has_token: bool) -> Guard {
        let files = tempfile::tempdir().unwrap();
        let at = |name: &str| files.path().join(name);
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(at("cert.pem"), pair.cert.pem()).unwrap();
        std::fs::write(at("key.pem"), pair.signing_key.serialize_pem()).unwrap();
        std::fs::write(at("token"), "s3cret\n").unwrap();
        let tls = has_tls.then(|| tls::acceptor(&at("cert.pem"), &at("key.pem"), &[tls::HTTP_2]).unwrap());
        let token = has_token.then(|| Token::load(Some(&at("token"))).unwrap().unwrap());
        Guard { tls, token, ..Guard::default() }
    }

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
            for (tls, token) in [(false, false), (true, false), (false, true)] {
                let guard = guard(tls, token);
                assert_eq!(
                    check_exposure(address, &guard, false).is_ok(),
                    loopback,
                    "{address} {tls} {token}"
                );
                assert!(check_exposure(address, &guard, true).is_ok());
            }
            assert!(check_exposure(address, &guard(true, true), false).is_ok(), "{address}");
        }
    }

    #[test]
    fn what_an_address_lacks_is_said() {
        let address = "10.0.0.1:7400".parse().unwrap();
        for (tls, token, lacks, has) in [
            (
                false,
                false,
                "lacks TLS and a token: add --tls-cert FILE, --tls-key FILE and --token-file FILE",
                "none",
            ),
            (false, true, "lacks TLS, without", "--token-file"),
            (true, false, "lacks a token, without", "--tls-cert"),
        ] {
            let line = check_exposure(address, &guard(tls, token), false).unwrap_err();
            assert!(line.starts_with("10.0.0.1:7400 ") && line.contains(lacks), "{line}");
            assert!(!line.contains(has) && line.lines().count() == 1, "{line}");
        }
    }
}
