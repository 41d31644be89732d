//! `asidecar demo`: a slow example API, the proxy and the admin page in one process, and what caching is worth.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::Method;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::client::{self, Answer, Connection};
use super::{DONE, FAILED, WRONG, complain, say, set_up_logs, wait_for_signals};
use crate::clock::Clock;
use crate::config::{Config, Format, Log, LogLevel};
use crate::server::Server;

#[path = "../../examples/upstream/api.rs"]
mod api;

const PATIENCE: Duration = Duration::from_secs(10);
const WARM_FETCHES: usize = 200;
const RECORD: &str = "/users/7";

#[derive(Args)]
pub(super) struct Demo {
    /// End after the demonstration instead of serving on.
    #[arg(long)]
    once: bool,
    /// Where the proxy listens [default: 127.0.0.1:8080, or a free port when that is taken].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where the admin page is served [default: 127.0.0.1:9901, or a free port when that is taken].
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// How slow the example API is, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    delay: u64,
}

impl Demo {
    pub(super) fn run(&self) -> ExitCode {
        set_up_logs(&Log { level: LogLevel::Warn, ..Log::default() });
        let delay = Duration::from_millis(self.delay);
        let upstream = match Example::start(delay) {
            Ok(upstream) => upstream,
            Err(error) => {
                complain(&format!("error: the example API can't be started: {error}"));
                return ExitCode::from(FAILED);
            }
        };
        let server = match self.proxy(upstream.address) {
            Ok(server) => server,
            Err((code, error)) => {
                complain(&error);
                return ExitCode::from(code);
            }
        };
        say(&format!(
            "A slow API ({} ms a read) on http://{}, and asidecar in front of it on http://{}.\n",
            self.delay, upstream.address, server.proxy
        ));
        if let Err(error) = client::block_on(show(&server)) {
            complain(&format!("error: {error}"));
            return ExitCode::from(FAILED);
        }
        if self.once {
            return ExitCode::from(DONE);
        }
        say(&format!(
            "\nStill serving; try:\n  curl -i http://{proxy}{RECORD}\n  curl -i -X PUT http://{proxy}{RECORD} -H 'content-type: application/json' -d '{{\"name\":\"Somebody Else\"}}'\n  curl -i 'http://{proxy}/search?q=lamp'\n  curl -X POST http://{admin}/api/invalidate -d '{{\"prefixes\":[\"/users\"]}}'\n  http://{admin}/           the admin page\n  http://{admin}/metrics    what Prometheus reads\nCtrl-C ends it.",
            proxy = server.proxy,
            admin = server.admin,
        ));
        if wait_for_signals(std::future::ready(())).is_err() {
            return ExitCode::from(FAILED);
        }
        server.stop();
        ExitCode::from(DONE)
    }

    fn proxy(&self, upstream: SocketAddr) -> Result<Server, (u8, String)> {
        let text = format!("[upstream]\nurl = \"http://{upstream}\"\n{ROUTES}");
        let mut config = Config::parse("demo", &text, Format::Toml).map_err(|e| (WRONG, format!("error: {e}")))?;
        let usual = (config.listen.proxy, config.listen.admin);
        let free = |taken: SocketAddr| match std::net::TcpListener::bind(taken) {
            Ok(_) => taken,
            Err(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        };
        config.listen.proxy = self.listen.unwrap_or_else(|| free(usual.0));
        config.listen.admin = self.admin.unwrap_or_else(|| free(usual.1));
        Server::start(config, Clock::default()).map_err(|e| (FAILED, format!("error: {e}")))
    }
}

/// The routes of the demonstration, as a configuration would have them.
const ROUTES: &str = r#"
[[route]]
name = "user"
match = "/users/{id}"
key = "user:{id}"
tags = ["users"]
invalidates = ["users"]

[[route]]
name = "users"
match = "/users"
query = "sort"
tags = ["users"]
invalidates = ["users"]

[[route]]
name = "product"
match = "/products/{id}"
key = "product:{id}"
tags = ["products"]
invalidates = ["products"]

[[route]]
name = "search"
match = "/search"
query = { only = ["q"] }
ttl = "10s"
stale_while_revalidate = "30s"
tags = ["products"]
"#;

/// The example API on a thread of its own.
struct Example {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Example {
    fn start(delay: Duration) -> std::io::Result<Example> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("example-api".into()).spawn(move || {
            runtime.block_on(async move {
                match TcpListener::from_std(listener) {
                    Ok(listener) => {
                        let api = Arc::new(api::Api::new(delay));
                        api.serve(listener, async move {
                            let _ = stopped.await;
                        })
                        .await;
                    }
                    Err(error) => complain(&format!("error: the example API can't listen: {error}")),
                }
            });
        })?;
        Ok(Example { address, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn show(server: &Server) -> Result<(), String> {
    let mut client = Connection::open(server.proxy, PATIENCE).await?;
    let mut admin = Connection::open(server.admin, PATIENCE).await?;

    let cold = read(&mut client).await?;
    line("1. A user, asked for the first time", &cold);
    let warm = read(&mut client).await?;
    line("2. The same user again", &warm);

    let flushed = admin.send(Method::POST, "/api/invalidate", None, Bytes::from_static(b"{\"all\":true}")).await?;
    expect(&flushed, 200, "the flush")?;
    say("3. Everything is flushed");
    let cold_again = read(&mut client).await?;
    line("4. The user after the flush", &cold_again);

    let update = Bytes::from_static(b"{\"name\":\"Renamed Just Now\",\"email\":\"renamed@example.com\"}");
    let wrote = client.send(Method::PUT, RECORD, None, update).await?;
    expect(&wrote, 200, "the update")?;
    line("5. An update through the proxy", &wrote);
    let fresh = read(&mut client).await?;
    line("6. The user after the update, fresh at once", &fresh);
    if name(&fresh) != "Renamed Just Now" {
        return Err(format!("the update is not seen: the name is still {:?}", name(&fresh)));
    }

    let mut times = Vec::with_capacity(WARM_FETCHES);
    for _ in 0..WARM_FETCHES {
        times.push(read(&mut client).await?.took);
    }
    times.sort();
    let median = times[times.len() / 2];
    let stats = admin.send(Method::GET, "/api/stats", None, Bytes::new()).await?;
    let stats: serde_json::Value = serde_json::from_slice(&stats.body).map_err(|e| e.to_string())?;
    let totals = &stats["totals"];
    say(&format!(
        "\n{} reads: {:.1} % from the cache, {} requests upstream.\nMedian of {WARM_FETCHES} warm reads: {}. Cold: {}. {:.0} times faster.",
        WARM_FETCHES + 4,
        100.0 * totals["hit_ratio"].as_f64().unwrap_or(0.0),
        totals["upstream_requests"],
        human(median),
        human(cold.took),
        cold.took.as_secs_f64() / median.as_secs_f64(),
    ));
    Ok(())
}

async fn read(client: &mut Connection) -> Result<Answer, String> {
    let answer = client.send(Method::GET, RECORD, None, Bytes::new()).await?;
    expect(&answer, 200, "a read")?;
    Ok(answer)
}

fn expect(answer: &Answer, status: u16, what: &str) -> Result<(), String> {
    if answer.status == status {
        return Ok(());
    }
    Err(format!("{what} was answered with {}: {}", answer.status, String::from_utf8_lossy(&answer.body)))
}

fn name(answer: &Answer) -> String {
    let record: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    record["name"].as_str().unwrap_or_default().to_string()
}

fn line(what: &str, answer: &Answer) {
    let status = answer.headers.get("cache-status").and_then(|v| v.to_str().ok()).unwrap_or("-");
    say(&format!("{what:<44} {:>9}   {:<17} {status}", human(answer.took), name(answer)));
}

fn human(took: Duration) -> String {
    let ms = took.as_secs_f64() * 1000.0;
    if ms >= 10.0 { format!("{ms:.0} ms") } else { format!("{ms:.2} ms") }
}
