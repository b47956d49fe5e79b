//! Lends this machine's device to `locate` and `train` on another one.
//!
//! ```sh
//! PEAR_TOKEN=secret cargo run --release --features remote,cuda --example serve -- --device cuda --listen 0.0.0.0:3000      # there
//! PEAR_TOKEN=secret cargo run --release --features remote --example locate -- --model DIR --device ws://there:3000           # here
//! ```
//!
//! The connection is not encrypted: whoever reads the traffic reads the token and the weights.

use std::net::TcpListener;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use burn::server::{RemoteServer, TokenAuthorizer, WebSocketTransport};
use clap::Parser;
use pear_examples::cli;
use pear_examples::device::{DeviceName, token};

/// Serve this machine's device to commands on other machines, until interrupted
#[derive(Parser, Debug)]
#[command(
    name = "serve",
    after_help = "Clients have to show the token in the environment's PEAR_TOKEN, if there is one when this starts."
)]
struct Arguments {
    /// The device, or several of one kind
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        default_value = "flex"
    )]
    device: Vec<DeviceName>,

    /// Address and port; port 0 is any free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:3000")]
    listen: String,
}

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    if let Some(other) = arguments
        .device
        .iter()
        .find(|device| !device.is_same_kind(&arguments.device[0]))
    {
        bail!("--device {other}: one server serves devices of one kind");
    }
    let devices = arguments
        .device
        .iter()
        .map(DeviceName::open)
        .collect::<Result<Vec<_>>>()?;
    let listener = TcpListener::bind(&arguments.listen)
        .with_context(|| format!("--listen {}", arguments.listen))?;
    let address = listener.local_addr()?;
    let mut server = RemoteServer::new(devices);
    match token() {
        Some(token) => server = server.with_authorizer(TokenAuthorizer::new(token)?),
        None if !address.ip().is_loopback() => cli::warn(&format!(
            "anybody who reaches {address} can compute here: set PEAR_TOKEN"
        )),
        None => {}
    }
    cli::print(&format!("serving ws://{address}\n"))?;
    Ok(server.serve(WebSocketTransport::from_listener(listener))?)
}
