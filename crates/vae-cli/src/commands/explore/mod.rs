//! `vae explore`: a page in the browser on which one moves through latent space.

mod model;
mod server;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use tracing::warn;

use super::{DataArgs, Which};
use crate::device::DeviceChoice;
use crate::output::{out, say};
use crate::{Done, signals};
use model::{Model, Opening};
use server::App;

/// Move through the latent space of runs, on a page in the browser
///
/// The page shows the held-out items on a map of the latents: point at one to see it, click to decode it, move sliders, drop an
/// image to find its latents, play the way between two items. A run that is still training is shown with its curves and newest
/// pictures. The address has a token that nobody else knows; Ctrl-C ends the server.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae explore runs/mnist
  vae explore runs/mnist runs/mnist-2          # side by side
  vae explore runs/celeba --port 8000 --no-open")]
pub(crate) struct Args {
    /// The folders of runs
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,

    /// Which checkpoint of the runs [default: best]
    #[arg(long, value_enum)]
    checkpoint: Option<Which>,

    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,

    #[command(flatten)]
    data: DataArgs,

    /// How many held-out items are on the map
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(2..=20_000))]
    limit: u32,

    /// The port [default: one that is free]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    port: u16,

    /// The address to listen at. Any other than this machine's own lets other machines ask, unencrypted; whoever has the
    /// token sees the runs
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,

    /// Only print the address
    #[arg(long)]
    no_open: bool,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let device = args.device.select()?;
    for path in &args.runs {
        // A mistake in a name is an error here, not on the page.
        vae_run::RunDir::open(path)?;
    }
    let open = |path: &PathBuf| {
        let opening = Opening {
            path: path.clone(),
            checkpoint: args.checkpoint.map(Into::into),
            device,
            data: args.data.clone(),
            limit: args.limit as usize,
        };
        Model::open(opening)
    };
    let models = args.runs.iter().map(open).collect::<Result<Vec<_>>>()?;
    if !args.host.is_loopback() {
        warn!(
            "--host {}: other machines can ask, and what is sent is not encrypted: whoever has the address with its token sees \
             these runs",
            args.host
        );
    }
    let stop = signals::stop_when_asked("")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("a runtime for the server")?;
    runtime.block_on(async {
        let asked = SocketAddr::new(args.host, args.port);
        let listener = tokio::net::TcpListener::bind(asked).await;
        let listener = listener.with_context(|| format!("--host, --port: {asked}"))?;
        let address = listener.local_addr().context("the server's address")?;
        let app = App::new(models, address)?;
        let link = app.link(address);
        out!("{link}");
        say!("Ctrl-C ends the server");
        if !args.no_open {
            open_in_browser(&link);
        }
        let stopped = async move {
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        server::serve(app, listener, stopped).await
    })?;
    Ok(Done::Fully)
}

/// Asks the system to show an address. Where that fails the address is in the terminal.
fn open_in_browser(link: &str) {
    let opener = match std::env::consts::OS {
        "macos" => "open",
        "windows" => "explorer",
        _ => "xdg-open",
    };
    let quiet = Stdio::null;
    let child = Command::new(opener)
        .arg(link)
        .stdin(quiet())
        .stdout(quiet())
        .stderr(quiet())
        .spawn();
    if child.is_err() {
        say!("open it in a browser");
    }
}
