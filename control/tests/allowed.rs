//! What the owner of a proxy process allows: where proxies made through the API may listen, where all of them may lead,
//! and that none leads back to itself.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::net::TcpListener;
use std::process::Command;

use fracas_proto::v1;
use support::{Client, FRACAS, Proxy, get};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

fn create(name: &str, listen: &str, upstream: &str) -> v1::CreateProxyRequest {
    v1::CreateProxyRequest {
        proxy: Some(v1::Proxy {
            name: name.into(),
            listen: listen.into(),
            upstream: upstream.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What a refusal says: its code, and the reason in it.
fn refusal(answer: Result<impl Sized, Status>) -> (Code, String) {
    let status = answer.err().expect("it was not refused");
    (status.code(), status.get_error_details().error_info().unwrap().reason.clone())
}

/// An address on which nobody listens, most probably.
fn free() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The one line with which `fracas proxy` ends.
fn ends(code: i32, args: &[&str]) -> String {
    let mut command = Command::new(FRACAS);
    let output = command.args(["proxy", "--api", "none", "--threads", "1"]).args(args).output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), line.lines().count()), (Some(code), 1), "{line}");
    line
}

#[tokio::test]
async fn a_proxy_that_other_machines_can_reach_needs_a_caller_with_the_token() {
    let denied = (Code::PermissionDenied, "LISTEN_NOT_LOOPBACK".to_owned());
    let open = Proxy::start();
    let mut client = open.client().await;
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        let answer = client.create_proxy(create("theirs", listen, "127.0.0.1:1")).await;
        assert_eq!(refusal(answer), denied, "{listen}");
    }
    for (index, listen) in
        ["127.0.0.1:0", "[::1]:0", "127.0.0.9:0", "localhost:0", ":0"].into_iter().enumerate()
    {
        let made = client.create_proxy(create(&format!("ours{index}"), listen, "127.0.0.1:1")).await.unwrap();
        assert!(made.into_inner().proxy.unwrap().enabled(), "a proxy is open unless it is said otherwise");
    }
    let insecure = Proxy::start_with(&["--insecure"]);
    insecure.client().await.create_proxy(create("wide", "0.0.0.0:0", "127.0.0.1:1")).await.unwrap();

    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let guarded = Proxy::start_with(&["--token-file", token.to_str().unwrap()]);
    let mut client: Client = guarded.client().await;
    let mut request = Request::new(create("wide", "0.0.0.0:0", "127.0.0.1:1"));
    request.metadata_mut().insert("authorization", "Bearer s3cret".parse().unwrap());
    client.create_proxy(request).await.unwrap();
}

#[tokio::test]
async fn no_proxy_leads_where_clouds_hand_out_credentials() {
    let fracas = Proxy::start();
    let mut client = fracas.client().await;
    let denied = (Code::PermissionDenied, "UPSTREAM_REFUSED".to_owned());
    for upstream in [
        "169.254.169.254:80",
        "169.254.7.7:1",
        "[fe80::1]:80",
        "[fd00:ec2::254]:80",
        "[::ffff:169.254.169.254]:80",
    ] {
        let answer = client.create_proxy(create("theirs", "127.0.0.1:0", upstream)).await;
        assert_eq!(refusal(answer), denied, "{upstream}");
        let update = v1::UpdateProxyRequest {
            name: "default".into(),
            upstream: Some(upstream.into()),
            ..Default::default()
        };
        assert_eq!(refusal(client.update_proxy(update).await), denied, "{upstream}");
    }
    assert_eq!(get(&fracas.listen), 200, "it leads where it led");
    let line = ends(113, &["--listen", "127.0.0.1:0", "--upstream", "169.254.169.254:80"]);
    assert!(line.contains("--allow-upstream 169.254.169.254"), "{line}");
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("fracas.yml");
    std::fs::write(&config, "proxies: [{listen: 127.0.0.1:0, upstream: \"[fe80::1]:80\"}]\n").unwrap();
    ends(113, &["--config", config.to_str().unwrap()]);
}

#[tokio::test]
async fn a_list_of_upstreams_is_kept_to() {
    let fracas =
        Proxy::start_with(&["--allow-upstream", "127.0.0.0/8", "--allow-upstream", "169.254.169.254"]);
    let mut client = fracas.client().await;
    client.create_proxy(create("metadata", "127.0.0.1:0", "169.254.169.254:80")).await.unwrap();
    client.create_proxy(create("name", "127.0.0.1:0", "localhost:1")).await.unwrap();
    for upstream in ["10.0.0.1:80", "[::1]:80", "169.254.169.253:80"] {
        let answer = client.create_proxy(create("theirs", "127.0.0.1:0", upstream)).await;
        assert_eq!(refusal(answer), (Code::PermissionDenied, "UPSTREAM_REFUSED".to_owned()), "{upstream}");
    }
    let line = ends(
        113,
        &["--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", "--allow-upstream", "10.0.0.0/8"],
    );
    assert!(line.contains("not among the destinations that are allowed"), "{line}");
    let line =
        ends(2, &["--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", "--allow-upstream", "10.0.0"]);
    assert!(line.contains("is no destination; write 10.0.0.0/8"), "{line}");
}

#[tokio::test]
async fn no_proxy_leads_back_to_itself() {
    let fracas = Proxy::start();
    let mut client = fracas.client().await;
    let (a, b) = (free(), free());
    let port = a.rsplit(':').next().unwrap();
    let invalid = (Code::InvalidArgument, "INVALID_FIELD".to_owned());
    for upstream in [a.clone(), format!("localhost:{port}"), format!("0.0.0.0:{port}"), format!(":{port}")] {
        let answer = client.create_proxy(create("a", &a, &upstream)).await;
        assert_eq!(refusal(answer), invalid, "{upstream}");
    }
    client.create_proxy(create("a", &a, &b)).await.unwrap();
    assert_eq!(refusal(client.create_proxy(create("b", &b, &a)).await), invalid, "by way of a");
    client.create_proxy(create("b", &b, "127.0.0.1:1")).await.unwrap();
    let update = v1::UpdateProxyRequest { name: "b".into(), upstream: Some(a.clone()), ..Default::default() };
    let status = client.update_proxy(update).await.unwrap_err();
    assert!(status.message().contains("leads back to the proxy itself, by way of a"), "{status}");
    let line = ends(2, &["--listen", &free(), "--upstream", "127.0.0.1:1", "--behavior", "x"]);
    assert!(line.contains('x'), "{line}");
    let own = free();
    let line = ends(2, &["--listen", &own, "--upstream", &own]);
    assert!(line.contains("leads back to the proxy itself"), "{line}");
}
