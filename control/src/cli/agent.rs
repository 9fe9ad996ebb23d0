//! `fracas agent`: a generator node.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use crate::agent::generator::RingGenerator;
use crate::agent::{self, Settings, identity};
use crate::wire::dial::Dial;

use super::access::AccessArgs;
use super::controller::runtime;
use super::joined::teller;
use super::numbers;
use super::signals::asked_to_stop;

/// Flags of `fracas agent`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fracas agent --join 127.0.0.1:7400 --name rack3-a
  fracas agent --join 10.0.0.5:7400 --tls-ca ca.pem --token-file token")]
pub struct Args {
    /// The controller to serve
    #[arg(long, value_name = "HOST:PORT", value_parser = super::address::remote)]
    join: String,
    /// Its name among nodes [default: the host's name]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    name: String,
    /// Worker threads for each load [default: what the run file says]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = numbers::threads)]
    threads: Option<u32>,
    #[command(flatten)]
    access: AccessArgs,
}

/// Runs `fracas agent` until it is interrupted.
///
/// # Errors
/// When the controller will not have it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let identity = identity::identity(&args.name, BTreeMap::new());
    let tell = teller(identity.name.clone(), args.join.clone());
    let controller = Dial { address: args.join, access: args.access.access()? };
    let settings = Settings { controller, identity, threads: args.threads };
    let runtime = runtime()?;
    runtime
        .block_on(agent::run(settings, Arc::new(RingGenerator), asked_to_stop(), tell))
        .map_err(anyhow::Error::msg)?;
    // A thread that still looks something up must not keep the process.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}
