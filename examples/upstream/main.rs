//! The slow example API as a program of its own, to put a cache in front of.

mod api;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::net::TcpListener;

/// A slow example API: users, products and a search, and a count of the calls it got.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// How long a read takes: "300ms", "1.5s". A search takes twice that, a write a tenth.
    #[arg(long, default_value = "300ms", value_parser = duration)]
    delay: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let listener = TcpListener::bind(arguments.listen).await?;
    let base = format!("http://{}", listener.local_addr()?);
    println!("slow API: {base}/users/1  {base}/products  {base}/search?q=lamp  {base}/calls");
    let stop = stop_signal()?;
    Arc::new(api::Api::new(arguments.delay)).serve(listener, stop).await;
    Ok(())
}

/// Done at SIGINT or SIGTERM. The handlers stand when this returns.
#[cfg(unix)]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async { drop(tokio::signal::ctrl_c().await) })
}

/// Reads a number followed by `ms` or `s`, up to one minute.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 0.001),
        (None, Some(number)) => (number, 1.0),
        (None, None) => (text, f64::NAN),
    };
    let seconds = number.parse::<f64>().map_or(f64::NAN, |number| number * unit);
    if (0.0..=60.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("write it as \"300ms\" or \"1.5s\", up to \"60s\"".to_owned())
    }
}
