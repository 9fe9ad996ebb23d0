//! What a page in a browser on this machine can do with the APIs on loopback: nothing. Raw bytes as a browser sends
//! them, and HTTP/2 with the headers that it would add.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use axum::http::Request as HttpRequest;
use fracas_proto::v1;
use fracas_proto::v1::node_service_client::NodeServiceClient;
use fracas_proto::v1::proxy_service_client::ProxyServiceClient;
use prost::Message;
use support::{Controller, Proxy, raw};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_types::StatusExt;
use tower::ServiceExt;

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// A message of gRPC as it travels.
fn frame(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    [&[0][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), &bytes].concat()
}

/// A proxy that everybody on the network could use.
fn open_proxy() -> v1::CreateProxyRequest {
    v1::CreateProxyRequest {
        proxy: Some(v1::Proxy {
            name: "theirs".into(),
            listen: "0.0.0.0:0".into(),
            upstream: "127.0.0.1:1".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A POST over HTTP/1.1.
fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\n{headers}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

async fn names(api: &str) -> Vec<String> {
    let mut client = ProxyServiceClient::connect(format!("http://{api}")).await.unwrap();
    let listed = client.list_proxies(v1::ListProxiesRequest::default()).await.unwrap().into_inner();
    listed.proxies.into_iter().map(|proxy| proxy.name).collect()
}

#[tokio::test]
async fn a_call_over_http_1_is_refused_whatever_it_carries() {
    let (proxy, controller) = (Proxy::start(), Controller::start_with(&[]));
    let create = frame(&open_proxy());
    for (api, path) in [
        (&proxy.api, "/fracas.v1.ProxyService/CreateProxy"),
        (&proxy.api, "/grpc.health.v1.Health/Check"),
        (&proxy.api, "/metrics"),
        (&proxy.api, "/healthz"),
        (&controller.api, "/fracas.v1.RunService/SubmitRun"),
        (&controller.api, "/fracas.v1.AgentService/Join"),
        (&controller.api, "/healthz"),
    ] {
        for (headers, status) in [
            ("content-type: text/plain\r\norigin: http://evil.example\r\n", 403),
            ("content-type: application/grpc\r\norigin: null\r\n", 403),
            ("content-type: application/grpc\r\n", 405),
            ("content-type: application/grpc\r\nte: trailers\r\n", 405),
            ("content-type: application/x-www-form-urlencoded\r\n", 405),
            ("", 405),
        ] {
            let answer = raw(api, &post(path, &format!("host: {api}\r\n{headers}"), &create));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {headers}: {answer}");
            assert!(!answer.to_lowercase().contains("access-control-allow"), "{answer}");
        }
    }
    let preflight = format!(
        "OPTIONS /fracas.v1.ProxyService/CreateProxy HTTP/1.1\r\nhost: {}\r\norigin: http://evil.example\r\n\
         access-control-request-method: POST\r\n\r\n",
        proxy.api
    );
    assert!(raw(&proxy.api, preflight.as_bytes()).starts_with("HTTP/1.1 403 "));
    assert_eq!(names(&proxy.api).await, ["default"], "nothing was made");
}

#[test]
fn a_foreign_host_reads_nothing() {
    let (proxy, controller) = (Proxy::start(), Controller::start_with(&["--allow-host", "ours.example"]));
    let allowed = Proxy::start_with(&["--allow-host", "ours.example", "--allow-host", "10.9.9.9"]);
    for (api, host, status) in [
        (&proxy.api, proxy.api.as_str(), 200),
        (&proxy.api, "localhost", 200),
        (&proxy.api, "evil.example", 421),
        (&proxy.api, "evil.example:7401", 421),
        (&proxy.api, "10.0.0.5:7401", 421),
        (&proxy.api, "ours.example", 421),
        (&allowed.api, "ours.example:1", 200),
        (&allowed.api, "10.9.9.9", 200),
        (&allowed.api, "theirs.example", 421),
        (&controller.api, "localhost:7400", 200),
        (&controller.api, "ours.example", 200),
        (&controller.api, "evil.example", 421),
    ] {
        for path in ["/metrics", "/healthz"] {
            let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            let answer = raw(api, request.as_bytes());
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host} {path}: {answer}");
            assert_eq!(answer.contains("fracas_api_connections"), status == 200 && path == "/metrics");
        }
        let nowhere =
            raw(api, format!("GET /x HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes());
        let expected = if status == 200 { 404 } else { status };
        assert!(nowhere.starts_with(&format!("HTTP/1.1 {expected} ")), "{host}: {nowhere}");
    }
    let call = format!(
        "GET /fracas.v1.ProxyService/ListProxies HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
        proxy.api
    );
    assert!(raw(&proxy.api, call.as_bytes()).starts_with("HTTP/1.1 405 "));
    let hostless = raw(&proxy.api, b"GET /metrics HTTP/1.0\r\n\r\n");
    assert!(hostless.starts_with("HTTP/1.0 400 ") || hostless.starts_with("HTTP/1.1 400 "), "{hostless}");
    let figures = format!("GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", proxy.api);
    let figures = raw(&proxy.api, figures.as_bytes());
    let refused = figures.lines().find(|line| line.contains("reason=\"host_not_served\"")).unwrap();
    assert!(!refused.ends_with(" 0"), "it is counted: {refused}");
}

/// A channel that says another `:authority` than where it dials.
async fn as_host(api: &str, host: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{api}")).unwrap();
    endpoint.origin(format!("http://{host}").parse().unwrap()).connect().await.unwrap()
}

/// What each kind of service answers to a channel, with these headers.
async fn answers(
    channel: Channel,
    is_proxy: bool,
    header: Option<(&'static str, &'static str)>,
) -> Vec<Status> {
    let with = move |mut request: Request<()>| {
        if let Some((name, value)) = header {
            request.metadata_mut().insert(name, value.parse().unwrap());
        }
        Ok::<_, Status>(request)
    };
    let mut statuses = Vec::new();
    let mut health = HealthClient::with_interceptor(channel.clone(), with);
    statuses.push(health.check(HealthCheckRequest::default()).await.map(drop));
    let mut reflection = ServerReflectionClient::with_interceptor(channel.clone(), with);
    let asked = tokio_stream::iter([ServerReflectionRequest::default()]);
    statuses.push(reflection.server_reflection_info(asked).await.map(drop));
    if is_proxy {
        let mut proxies = ProxyServiceClient::with_interceptor(channel.clone(), with);
        statuses.push(proxies.list_proxies(v1::ListProxiesRequest::default()).await.map(drop));
        statuses.push(proxies.watch_events(v1::WatchEventsRequest::default()).await.map(drop));
    } else {
        let mut nodes = NodeServiceClient::with_interceptor(channel, with);
        statuses.push(nodes.list_nodes(v1::ListNodesRequest::default()).await.map(drop));
    }
    statuses.into_iter().map(|answer| answer.err().unwrap_or_else(|| Status::ok(""))).collect()
}

#[tokio::test]
async fn over_http_2_host_and_origin_count_for_every_service() {
    let (proxy, controller) = (Proxy::start(), Controller::start_with(&[]));
    for (api, is_proxy) in [(&proxy.api, true), (&controller.api, false)] {
        for status in answers(as_host(api, "localhost:9").await, is_proxy, None).await {
            assert_eq!(status.code(), Code::Ok, "{status}");
        }
        for status in answers(as_host(api, "evil.example:7401").await, is_proxy, None).await {
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (Code::PermissionDenied, "HOST_NOT_SERVED")
            );
            assert!(status.message().contains("--allow-host evil.example"), "{status}");
        }
        for origin in ["https://evil.example", "null", "http://localhost:3000"] {
            let channel = as_host(api, "localhost:9").await;
            for status in answers(channel, is_proxy, Some(("origin", origin))).await {
                assert_eq!(
                    (status.code(), reason(&status).as_str()),
                    (Code::PermissionDenied, "ORIGIN_REFUSED")
                );
            }
        }
        let own =
            answers(as_host(api, "localhost:9").await, is_proxy, Some(("origin", "http://localhost:9")))
                .await;
        assert!(own.iter().all(|status| status.code() == Code::Ok), "{own:?}");
    }
}

#[tokio::test]
async fn over_http_2_only_grpc_is_a_call() {
    let proxy = Proxy::start();
    for (kind, status) in [
        (None, 415),
        (Some("text/plain"), 415),
        (Some("application/grpc-web"), 415),
        (Some("application/grpcx"), 415),
        (Some("application/grpc"), 200),
        (Some("application/grpc+proto"), 200),
    ] {
        let channel = as_host(&proxy.api, &proxy.api).await;
        let mut request =
            HttpRequest::post(format!("http://{}/fracas.v1.ProxyService/ListProxies", proxy.api));
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let answer = channel.oneshot(request.body(tonic::body::Body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{kind:?}");
    }
}

#[tokio::test]
async fn a_call_that_is_not_served_says_who_serves_it() {
    let (proxy, controller) = (Proxy::start(), Controller::start_with(&[]));
    for (api, path, words) in [
        (
            &proxy.api,
            "/fracas.v1.RunService/ListRuns",
            "fracas.v1.RunService is not served here; ask a controller",
        ),
        (
            &proxy.api,
            "/fracas.v1.ProxyService/ListProxys",
            "has no call `ListProxys`; it has ListProxies, GetProxy",
        ),
        (&controller.api, "/fracas.v1.ProxyService/ListProxies", "is not served here; ask a proxy"),
        (&controller.api, "/a.B/C", "there is no service `a.B` here; served are fracas.v1.AgentService"),
    ] {
        let channel = as_host(api, api).await;
        let request =
            HttpRequest::post(format!("http://{api}{path}")).header("content-type", "application/grpc");
        let answer = channel.oneshot(request.body(tonic::body::Body::empty()).unwrap()).await.unwrap();
        let status = Status::from_header_map(answer.headers()).unwrap();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unimplemented, "CALL_NOT_SERVED"));
        assert!(status.message().contains(words), "{status}");
    }
}

#[tokio::test]
async fn reflection_lists_what_is_served_in_both_versions() {
    use tonic_reflection::pb::{v1, v1alpha};
    let (proxy, controller) = (Proxy::start(), Controller::start_with(&[]));
    let common = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ];
    for (api, own) in [
        (&proxy.api, &["fracas.v1.ProxyService"][..]),
        (&controller.api, &["fracas.v1.AgentService", "fracas.v1.NodeService", "fracas.v1.RunService"]),
    ] {
        let expected: Vec<String> = own.iter().chain(&common).map(|name| (*name).to_owned()).collect();
        let channel = as_host(api, api).await;
        let ask = v1::ServerReflectionRequest {
            message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
            ..Default::default()
        };
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
        let mut answers =
            client.server_reflection_info(tokio_stream::iter([ask])).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
        let v1::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else {
            panic!("{answer:?}")
        };
        let mut names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
        names.sort();
        assert_eq!(names, expected, "v1");
        let ask = v1alpha::ServerReflectionRequest {
            message_request: Some(v1alpha::server_reflection_request::MessageRequest::ListServices(
                String::new(),
            )),
            ..Default::default()
        };
        let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
        let mut answers =
            client.server_reflection_info(tokio_stream::iter([ask])).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
        let v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else {
            panic!("{answer:?}")
        };
        let mut names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
        names.sort();
        assert_eq!(names, expected, "v1alpha");
    }
}
