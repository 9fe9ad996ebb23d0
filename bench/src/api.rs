//! The API of a proxy, called from this process: a process for each call would cost more than what is measured.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;
use fracas_proto::v1;
use fracas_proto::v1::proxy_service_client::ProxyServiceClient;
use tonic::transport::{Channel, Endpoint};

const CALL_MAX: Duration = Duration::from_secs(10);

/// A connection to the API at `address`.
pub struct Api {
    address: SocketAddr,
    runtime: tokio::runtime::Runtime,
    client: ProxyServiceClient<Channel>,
}

impl Api {
    /// Connects.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn connect(address: SocketAddr) -> anyhow::Result<Api> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.timeout(CALL_MAX);
        let channel = runtime.block_on(endpoint.connect()).context("the proxy's API does not answer")?;
        Ok(Api { address, runtime, client: ProxyServiceClient::new(channel) })
    }

    /// `GetProxy` of the proxy named `default`.
    pub fn get_proxy(&mut self) -> anyhow::Result<v1::Proxy> {
        let request = v1::GetProxyRequest { name: "default".to_owned() };
        let reply = self.runtime.block_on(self.client.get_proxy(request)).map_err(refused)?;
        reply.into_inner().proxy.context("GetProxy told no proxy")
    }

    /// Puts `mix` on the proxy named `default`, with options as `behavior`, `option`, `value`.
    pub fn set(&mut self, mix: &str, options: &[(&str, &str, &str)]) -> anyhow::Result<()> {
        let mut rules = v1::RuleSet { mix: mix.to_owned(), ..Default::default() };
        for (behavior, option, value) in options {
            let of_behavior = rules.options.entry((*behavior).to_owned()).or_default();
            of_behavior.values.insert((*option).to_owned(), (*value).to_owned());
        }
        let change = v1::ProxyRules { proxy: "default".to_owned(), rules: Some(rules), ..Default::default() };
        let request = v1::ApplyRulesRequest { changes: vec![change], ..Default::default() };
        self.runtime.block_on(self.client.apply_rules(request)).map_err(refused)?;
        Ok(())
    }

    /// Reads `/metrics` once; returns its length in bytes.
    pub fn read_metrics(&self) -> anyhow::Result<usize> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(CALL_MAX))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address)?;
        let mut page = Vec::new();
        stream.read_to_end(&mut page)?;
        anyhow::ensure!(page.starts_with(b"HTTP/1.1 200"), "/metrics is not 200");
        Ok(page.len())
    }
}

fn refused(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}
