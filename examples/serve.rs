//! Lends this machine's device to `locate` and `train` on another one.
//!
//! ```sh
//! PEAR_TOKEN=secret cargo run --release --features remote,cuda --example serve -- --device cuda --listen 0.0.0.0:3000      # there
//! PEAR_TOKEN=secret cargo run --release --features remote --example locate -- --model DIR --device ws://there:3000           # here
//! ```
//!
//! The connection is not encrypted: whoever reads the traffic reads the token and the weights. Clients pass a guard first
//! ([`pear_examples::serve_guard`]), which closes connections that do not show the token and refuses web pages.

use std::net::TcpListener;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use burn::server::{RemoteServer, WebSocketTransport};
use clap::Parser;
use pear_examples::cli;
use pear_examples::device::{DeviceName, token};
use pear_examples::serve_guard::{Guard, Limits};

/// Serve this machine's device to commands on other machines, until interrupted
#[derive(Parser, Debug)]
#[command(
    name = "serve",
    after_help = "Clients have to show the token that is in the environment's PEAR_TOKEN when this starts."
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

    /// Serve without a token, on an address that only this machine reaches: every program of every user on it can compute here then
    #[arg(long)]
    insecure_local: bool,
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
    let token = token();
    if token.is_none() && !arguments.insecure_local {
        bail!(
            "PEAR_TOKEN: expected a token in the environment, which clients have to show (or --insecure-local on a local address)"
        );
    }
    let listener = TcpListener::bind(&arguments.listen)
        .with_context(|| format!("--listen {}", arguments.listen))?;
    let address = listener.local_addr()?;
    if token.is_none() && !address.ip().is_loopback() {
        bail!(
            "--insecure-local: whoever reaches {address} could compute here: expected a token in PEAR_TOKEN"
        );
    }
    let devices = arguments
        .device
        .iter()
        .map(DeviceName::open)
        .collect::<Result<Vec<_>>>()?;
    let inner = TcpListener::bind("127.0.0.1:0").context("the local address 127.0.0.1")?;
    let guard = Guard::start(listener, inner.local_addr()?, token, Limits::default())?;
    let server = RemoteServer::new(devices).with_authorizer(guard.authorizer());
    cli::print(&format!("serving ws://{address}\n"))?;
    server.serve(WebSocketTransport::from_listener(inner))?;
    guard.drain(Duration::from_secs(1));
    Ok(())
}
