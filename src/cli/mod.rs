//! The command line: parsing, exit statuses, and what each command does.
//!
//! Results go to standard output, everything else to standard error. Exit status: 0 done, 1 it failed, 2 the
//! command line or the configuration is wrong.

mod client;
mod demo;
mod purge;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::clock::Clock;
use crate::config::{Config, Log, LogFormat, Overrides};
use crate::server::Server;

const DONE: u8 = 0;
const FAILED: u8 = 1;
const WRONG: u8 = 2;

/// A caching proxy sidecar: the cache-aside pattern for any HTTP API, without a line of code in it.
///
/// It stands in front of a slow HTTP API and answers from memory, then from Redis, then from the API. Writes
/// that go through it invalidate what they change, and so does anybody who publishes on a Redis channel.
#[derive(Parser)]
#[command(
    name = "asidecar",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  asidecar demo\n  asidecar run --upstream http://127.0.0.1:9000\n  asidecar check --config asidecar.toml\n  asidecar purge --tag user:123"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the proxy.
    ///
    /// With --upstream alone there is a memory store and the origin's own Cache-Control decides. SIGTERM and
    /// SIGINT drain: what is in flight is finished, nothing new is accepted; a second one ends at once.
    Run(Source),
    /// Say whether the configuration is sound, with everything that is wrong in it.
    Check(Source),
    /// Invalidate: tags, keys, paths, prefixes, or everything.
    ///
    /// Through the admin API of a running instance, or with --redis straight into the log that all instances
    /// follow. Options may be repeated and combined.
    #[command(
        after_help = "Examples:\n  asidecar purge --tag user:123 --tag users\n  asidecar purge --prefix /users --soft\n  asidecar purge --all --redis redis://127.0.0.1:6379"
    )]
    Purge(purge::Purge),
    /// Show it: a slow example API, the proxy and the admin page in one process.
    ///
    /// Fetches the same record cold and warm, flushes, updates, and prints what that took; then keeps serving.
    Demo(demo::Demo),
    /// Ask a running instance's admin listener whether it is alive: for container health checks.
    #[command(hide = true)]
    Healthcheck {
        /// The admin listener [default: the configuration's].
        #[arg(long, value_name = "ADDRESS")]
        admin: Option<SocketAddr>,
        #[command(flatten)]
        source: Source,
    },
}

/// Where the configuration comes from.
#[derive(Args)]
struct Source {
    /// The configuration file: TOML, or YAML by its ending.
    ///
    /// Environment variables override it: ASIDECAR_LISTEN__PROXY=0.0.0.0:8080 sets listen.proxy.
    #[arg(long, short, value_name = "FILE", env = "ASIDECAR_CONFIG")]
    config: Option<PathBuf>,
    /// The API to cache, overriding upstream.url.
    #[arg(long, short, value_name = "URL")]
    upstream: Option<String>,
}

impl Source {
    fn load(&self) -> Result<Config, ExitCode> {
        let env = std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)));
        let overrides = Overrides { upstream: self.upstream.clone() };
        Config::load(self.config.as_deref(), env, &overrides).map_err(|errors| {
            complain(&errors.to_string());
            ExitCode::from(WRONG)
        })
    }
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(help_or_error) => {
            let _ = help_or_error.print();
            return ExitCode::from(if help_or_error.use_stderr() { WRONG } else { DONE });
        }
    };
    match cli.command {
        Command::Run(source) => run(&source),
        Command::Check(source) => check(&source),
        Command::Purge(purge) => purge.run(),
        Command::Demo(demo) => demo.run(),
        Command::Healthcheck { admin, source } => healthcheck(admin, &source),
    }
}

fn run(source: &Source) -> ExitCode {
    let config = match source.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    set_up_logs(&config.log);
    let upstream = config.upstream.clone();
    let redis = config.store.redis.is_some();
    let server = match Server::start(config, Clock::default()) {
        Ok(server) => server,
        Err(error) => {
            complain(&format!("error: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    tracing::info!(
        proxy = %format_args!("http://{}", server.proxy),
        admin = %format_args!("http://{}", server.admin),
        upstream = %upstream.url,
        store = if redis { "memory and Redis" } else { "memory" },
        "serving"
    );
    let ended = wait_for_signals(async {
        if !crate::admin::reaches(&upstream).await {
            tracing::warn!(
                upstream = %upstream.url,
                "the upstream can't be reached yet: requests that need it are answered with 502 until it is up"
            );
        }
    });
    if let Err(error) = ended {
        complain(&format!("error: signals can't be heard: {error}"));
        return ExitCode::from(FAILED);
    }
    tracing::info!("draining: what is in flight is finished");
    std::thread::spawn(|| {
        let _ = wait_for_signals(std::future::ready(()));
        std::process::exit(130);
    });
    server.stop();
    tracing::info!("stopped");
    ExitCode::from(DONE)
}

/// Blocks until SIGTERM or SIGINT; meanwhile does something else.
fn wait_for_signals(meanwhile: impl Future<Output = ()>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let heard = async {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        };
        tokio::pin!(meanwhile, heard);
        tokio::select! {
            () = &mut heard => return Ok(()),
            () = &mut meanwhile => {}
        }
        heard.await;
        Ok(())
    })
}

fn check(source: &Source) -> ExitCode {
    match source.load() {
        Ok(config) => {
            let names: Vec<&str> = config.routes.iter().map(|r| r.name.as_str()).collect();
            say(&format!(
                "The configuration is sound: {} {} ({}) in front of {}.",
                names.len(),
                if names.len() == 1 { "route" } else { "routes" },
                names.join(", "),
                config.upstream.url
            ));
            ExitCode::from(DONE)
        }
        Err(code) => code,
    }
}

fn healthcheck(admin: Option<SocketAddr>, source: &Source) -> ExitCode {
    // A probe needs no upstream: one is made up where the configuration has none.
    let made_up = source.upstream.clone().or_else(|| Some("http://127.0.0.1".into()));
    let source = Source { config: source.config.clone(), upstream: made_up };
    let address = match admin {
        Some(address) => address,
        None => match source.load() {
            Ok(config) => config.listen.admin,
            // Containers know 0 and 1 only.
            Err(_) => return ExitCode::from(FAILED),
        },
    };
    let healthy = client::block_on(client::get(reachable(address), "/healthz", Duration::from_secs(3)));
    match healthy {
        Ok(answer) if answer.status == 200 => ExitCode::from(DONE),
        Ok(answer) => {
            complain(&format!("error: {address} answers {}", answer.status));
            ExitCode::from(FAILED)
        }
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::from(FAILED)
        }
    }
}

/// Where a listener on all addresses is reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn set_up_logs(log: &Log) {
    let filter = std::env::var("ASIDECAR_LOG").ok().and_then(|f| EnvFilter::try_new(f).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(format!("{},access=info", log.level.as_str())));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Only one subscriber can be set; a second call, in tests, changes nothing.
    let _ = match log.format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
    };
}

/// A line of result; a reader that is gone is no error.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A line of complaint.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", line.trim_end());
}
