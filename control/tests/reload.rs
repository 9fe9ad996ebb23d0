//! SIGHUP, SIGTERM and a second SIGTERM to a real `fracas proxy`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use serde_json::Value;

const FRACAS: &str = env!("CARGO_BIN_EXE_fracas");

/// A proxy process with a config, or with flags of its own.
struct Proxy {
    child: Child,
    api: String,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
    directory: tempfile::TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    fn start(config: Option<&str>, flags: &[&str]) -> Proxy {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(FRACAS);
        command
            .args(["proxy", "--api", "127.0.0.1:0", "--threads", "1"])
            .args(flags)
            .env_remove("FRACAS_TOKEN");
        if let Some(config) = config {
            let path = directory.path().join("fracas.yml");
            std::fs::write(&path, config).unwrap();
            command.arg("--config").arg(path);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut proxy = Proxy { child, api: String::new(), stdout, stderr, directory };
        let ready = proxy.line("proxy ready");
        proxy.api = ready.split_once(", API ").unwrap().1.split(',').next().unwrap().to_owned();
        proxy
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("fracas.yml")
    }

    /// The next line on its standard output that begins so.
    fn line(&mut self, beginning: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "it ended before `{beginning}`");
            if line.starts_with(beginning) {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Writes the config and has it loaded; what the process says.
    fn reload(&mut self, config: &str) -> String {
        std::fs::write(self.path(), config).unwrap();
        self.signal("HUP");
        self.line("proxy reloaded ")
    }

    /// The same, where it is refused.
    fn refuses(&mut self, config: &str) -> String {
        std::fs::write(self.path(), config).unwrap();
        self.signal("HUP");
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        assert!(line.starts_with("fracas: not reloaded, nothing was changed: "), "{line}");
        line
    }

    fn get(&self) -> Value {
        let output =
            Command::new(FRACAS).args(["behavior", "get", "--json", "--api", &self.api]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Name, generation and behaviors of each proxy.
    fn proxies(&self) -> Vec<(String, u64, String)> {
        let words = |proxy: &Value| {
            let rules =
                proxy["rules"].as_array().unwrap().iter().map(|rule| rule["behavior"].as_str().unwrap());
            let rules = rules.collect::<Vec<_>>().join(",");
            (proxy["name"].as_str().unwrap().to_owned(), proxy["generation"].as_u64().unwrap(), rules)
        };
        self.get().as_array().unwrap().iter().map(words).collect()
    }
}

/// `proxies:` with one line each: name, upstream's port, more keys.
fn config(proxies: &[(&str, u16, &str)]) -> String {
    let line = |(name, port, more): &(&str, u16, &str)| {
        format!("  - {{name: {name}, listen: 127.0.0.1:0, upstream: 127.0.0.1:{port}{more}}}\n")
    };
    format!("proxies:\n{}", proxies.iter().map(line).collect::<String>())
}

fn of(proxies: &[(&str, u64, &str)]) -> Vec<(String, u64, String)> {
    proxies.iter().map(|(name, generation, rules)| ((*name).into(), *generation, (*rules).into())).collect()
}

#[test]
fn a_changed_config_is_one_generation_and_leaves_the_rest_alone() {
    let start = config(&[("a", 1, ""), ("b", 1, ", behavior: 5:hang"), ("c", 1, "")]);
    let mut proxy = Proxy::start(Some(&start), &[]);
    assert_eq!(proxy.proxies(), of(&[("a", 1, ""), ("b", 1, "hang"), ("c", 1, "")]));
    let ports = |proxy: &Proxy| proxy.get()[1]["listen"].clone();
    let before = ports(&proxy);
    let changed = config(&[("a", 1, ""), ("b", 2, ", behavior: 7:reset"), ("d", 1, ", behavior: 9:hang")]);
    let said = proxy.reload(&changed);
    assert!(said.contains(": generation 2, proxies: 1 added, 1 changed, 1 removed"), "{said}");
    assert_eq!(proxy.proxies(), of(&[("a", 1, ""), ("b", 2, "reset"), ("d", 2, "hang")]));
    assert_eq!(ports(&proxy), before, "it keeps its listener");
    assert_eq!(proxy.get()[1]["upstream"], "127.0.0.1:2");
    let said = proxy.reload(&changed);
    assert!(said.contains("generation 2, proxies: nothing differs"), "{said}");

    // What was changed through the API is brought back; what was made there stays.
    let api = proxy.api.clone();
    let set = Command::new(FRACAS).args(["behavior", "set", "b", "normal", "--api", &api]).output().unwrap();
    assert!(set.status.success());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        use fracas_proto::v1;
        let mut client =
            v1::proxy_service_client::ProxyServiceClient::connect(format!("http://{api}")).await.unwrap();
        let made = v1::Proxy {
            name: "theirs".into(),
            listen: "127.0.0.1:0".into(),
            upstream: "127.0.0.1:1".into(),
            ..Default::default()
        };
        client
            .create_proxy(v1::CreateProxyRequest { proxy: Some(made), ..Default::default() })
            .await
            .unwrap();
    });
    let said = proxy.reload(&changed);
    assert!(said.contains("generation 5, proxies: 1 changed"), "{said}");
    assert_eq!(proxy.proxies(), of(&[("a", 1, ""), ("b", 5, "reset"), ("d", 2, "hang"), ("theirs", 4, "")]));
}

#[test]
fn a_config_that_is_wrong_is_refused_whole() {
    let start = config(&[("a", 1, ", behavior: 5:hang"), ("b", 1, "")]);
    let mut proxy = Proxy::start(Some(&start), &[]);
    let before = proxy.get();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let elsewhere = format!("  - {{name: c, listen: \"{taken}\", upstream: 127.0.0.1:1}}\n");
    let own = before[1]["listen"].as_str().unwrap();
    for (config, words) in [
        (config(&[("a", 2, ", behavior: 6:nonsense")]), "nonsense"),
        ("proxies: [{".to_owned(), "fracas.yml:1:"),
        (format!("threads: 3\n{start}"), "`threads` cannot change while it runs"),
        (config(&[("a", 2, "")]) + &elsewhere, "cannot listen on"),
        (
            format!("{start}  - {{name: c, listen: 127.0.0.1:0, upstream: 169.254.169.254:80}}\n"),
            "--allow-upstream",
        ),
        (
            format!("proxies:\n  - {{name: b, listen: 127.0.0.1:0, upstream: \"{own}\"}}\n"),
            "leads back to the proxy itself",
        ),
    ] {
        // Held for as long as it must be taken.
        let _held = TcpListener::bind(taken);
        let said = proxy.refuses(&config);
        assert!(said.contains(words), "{said}");
        assert_eq!(proxy.get(), before, "{words}");
    }
    std::fs::remove_file(proxy.path()).unwrap();
    proxy.signal("HUP");
    let mut line = String::new();
    proxy.stderr.read_line(&mut line).unwrap();
    assert!(line.contains("cannot read the file"), "{line}");
    assert!(proxy.reload(&start).contains("nothing differs"));
}

#[test]
fn a_timeline_that_changed_begins_anew() {
    let with = |timeline: &str| config(&[("a", 1, &format!(", timeline: [{timeline}]"))]);
    let mut proxy = Proxy::start(Some(&with("{at: 1h, for: 1s, behavior: 5:hang}")), &[]);
    let leases = |proxy: &Proxy| {
        let leases = proxy.get()[0]["leases"].as_array().unwrap().clone();
        let ids = leases.iter().map(|lease| lease["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    let first = leases(&proxy);
    assert_eq!(first.len(), 1);
    proxy.reload(&with("{at: 1h, for: 1s, behavior: 5:hang}"));
    assert_eq!(leases(&proxy), first, "the same timeline goes on");
    proxy.reload(&with("{at: 2h, for: 1s, behavior: 5:hang}, {at: 3h, for: 1s, behavior: 6:hang}"));
    let second = leases(&proxy);
    assert!(second.len() == 2 && !second.contains(&first[0]), "{first:?} {second:?}");
    proxy.reload(&config(&[("a", 1, "")]));
    assert!(leases(&proxy).is_empty());
}

#[test]
fn a_second_signal_ends_a_drain_now() {
    // An upstream that takes a request and never answers.
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    let flags = ["--listen", "127.0.0.1:0", "--upstream", &address, "--protocol", "http", "--drain", "1h"];
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM")] {
        let mut proxy = Proxy::start(None, &flags);
        let listen = proxy.get()[0]["listen"].as_str().unwrap().to_owned();
        let mut client = TcpStream::connect(&listen).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let (mut server, _) = upstream.accept().unwrap();
        assert!(server.read(&mut [0; 16]).unwrap() > 0, "the request is under way");
        proxy.signal(first);
        // It drains when it accepts no more.
        while TcpStream::connect(&listen).is_ok() {
            std::thread::yield_now();
        }
        assert!(proxy.child.try_wait().unwrap().is_none(), "it waits for the answer");
        // What comes at once is taken for the first one again.
        let status = loop {
            proxy.signal(second);
            if let Some(status) = proxy.child.try_wait().unwrap() {
                break status;
            }
        };
        assert_eq!(status.code(), Some(130));
        proxy.line("proxy stopped at once");
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
}

#[test]
fn one_word_that_comes_twice_at_once_lets_connections_finish() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    let flags = ["--listen", "127.0.0.1:0", "--upstream", &address, "--protocol", "http", "--drain", "1h"];
    let mut proxy = Proxy::start(None, &flags);
    let listen = proxy.get()[0]["listen"].as_str().unwrap().to_owned();
    let mut client = TcpStream::connect(&listen).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let (mut server, _) = upstream.accept().unwrap();
    assert!(server.read(&mut [0; 16]).unwrap() > 0, "the request is under way");
    // As GNU timeout does it, but with two signals that the kernel does not merge.
    let id = proxy.child.id();
    let both = Command::new("sh").args(["-c", &format!("kill -TERM {id}; kill -INT {id}")]).status().unwrap();
    assert!(both.success());
    while TcpStream::connect(&listen).is_ok() {
        std::thread::yield_now();
    }
    server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
    let mut reply = Vec::new();
    client.read_to_end(&mut reply).unwrap();
    assert!(reply.ends_with(b"ok"), "{reply:?}");
    assert_eq!(proxy.child.wait().unwrap().code(), Some(0));
    proxy.line("proxy stopped; all connections had finished");
}

#[test]
fn without_a_config_a_hangup_is_the_end() {
    let mut proxy = Proxy::start(None, &["--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1"]);
    proxy.signal("HUP");
    assert_eq!(proxy.child.wait().unwrap().code(), Some(0));
    proxy.line("proxy stopped; all connections had finished");
}

#[test]
fn behavior_get_shows_every_proxy() {
    let names: Vec<String> = (0..1_010).map(|number| format!("p{number}")).collect();
    let proxies: Vec<(&str, u16, &str)> = names.iter().map(|name| (name.as_str(), 1, "")).collect();
    let proxy = Proxy::start(Some(&config(&proxies)), &[]);
    assert_eq!(proxy.proxies().len(), names.len(), "a page has 1,000 of them");
}
