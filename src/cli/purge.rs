//! `asidecar purge`.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::Method;

use super::client::{self, Connection};
use super::{DONE, FAILED, WRONG, complain, reachable, say};
use crate::freshness::LONGEST_LIFE;
use crate::invalidation::Invalidation;
use crate::invalidation::position::LogId;
use crate::metrics::Metrics;
use crate::redis_tier::address::Address;
use crate::redis_tier::connect::Connector;
use crate::redis_tier::link::{Link, Names};
use crate::redis_tier::tls::TlsFiles;
use crate::server::instance_name;

const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(super) struct Purge {
    /// What carries this tag.
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// What is stored under this key, with its query and vary variants.
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// What was fetched from exactly this path, whatever the query.
    #[arg(long, value_name = "PATH")]
    path: Vec<String>,
    /// What was fetched from this path or below it, in whole segments.
    #[arg(long, value_name = "PREFIX")]
    prefix: Vec<String>,
    /// Everything.
    #[arg(long)]
    all: bool,
    /// Make it stale instead of invalid: stale-while-revalidate still answers.
    #[arg(long)]
    soft: bool,
    /// The admin listener of a running instance.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9901", conflicts_with = "redis")]
    admin: String,
    /// The admin listener's bearer token.
    #[arg(long, value_name = "TOKEN", env = "ASIDECAR_ADMIN__TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Append to the log in this Redis instead.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// The authorities that Redis' certificate may come from, as PEM; the system's if it is not given.
    #[arg(long, value_name = "FILE", requires = "redis")]
    redis_ca: Option<PathBuf>,
    /// A certificate for a Redis that wants one, as PEM.
    #[arg(long, value_name = "FILE", requires = "redis", requires = "redis_key")]
    redis_cert: Option<PathBuf>,
    /// The certificate's key, as PEM.
    #[arg(long, value_name = "FILE", requires = "redis", requires = "redis_cert")]
    redis_key: Option<PathBuf>,
    /// The namespace in Redis.
    #[arg(long, value_name = "NAME", default_value = "asidecar", requires = "redis")]
    namespace: String,
}

impl Purge {
    pub(super) fn run(&self) -> ExitCode {
        let mut what = Invalidation {
            tags: self.tag.clone(),
            keys: self.key.clone(),
            paths: self.path.clone(),
            prefixes: self.prefix.clone(),
            all: self.all,
            soft: self.soft,
            ..Invalidation::default()
        };
        if let Err(malformed) = what.check() {
            let said = if what.is_empty() {
                "error: nothing to purge: give --tag, --key, --path, --prefix or --all".to_string()
            } else {
                format!("error: {malformed}")
            };
            complain(&said);
            return ExitCode::from(WRONG);
        }
        let done = match &self.redis {
            Some(url) => client::block_on(self.append_to_log(url, &what)),
            None => client::block_on(self.through_api(&what)),
        };
        match done {
            Ok(line) => {
                say(&line);
                ExitCode::from(DONE)
            }
            Err(error) => {
                complain(&format!("error: {error}"));
                ExitCode::from(FAILED)
            }
        }
    }

    async fn through_api(&self, what: &Invalidation) -> Result<String, String> {
        let address = resolve(&self.admin)?;
        let mut connection = Connection::open(reachable(address), PATIENCE).await?;
        let body = Bytes::from(what.to_json());
        let answer = connection.send(Method::POST, "/api/invalidate", self.token.as_deref(), body).await?;
        let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let detail = said["detail"].as_str().unwrap_or("no reason given");
        match answer.status {
            200 => Ok(format!("purged, at {} in the log", said["position"].as_str().unwrap_or("?"))),
            202 => Ok(format!("purged here: {detail}")),
            401 => Err(format!("the instance wants a token ({detail}): give --token or set ASIDECAR_ADMIN__TOKEN")),
            status => Err(format!("the instance answers {status}: {detail}")),
        }
    }

    async fn append_to_log(&self, url: &str, what: &Invalidation) -> Result<String, String> {
        let address = Address::parse(url).map_err(|e| format!("--redis can't be used: {e}"))?;
        let tls = TlsFiles { ca: self.redis_ca.clone(), identity: self.redis_cert.clone().zip(self.redis_key.clone()) };
        let connector = Connector::new(address, tls);
        let metrics = Arc::new(Metrics::new(&[]).map_err(|e| e.to_string())?);
        let link = Link::new(Names::new(&self.namespace, ""), instance_name(), PATIENCE, LONGEST_LIFE, metrics);
        connector.connect(&link, PATIENCE).await?;
        let appended = link.append(what, LogId::ZERO, None).await.map_err(|_| match link.refused() {
            Some(why) => format!("Redis refused to append to the log: {why}"),
            None => "Redis refused to append to the log".to_string(),
        })?;
        Ok(format!("purged, at {} in the log", appended.id))
    }
}

fn resolve(address: &str) -> Result<SocketAddr, String> {
    let bare = address.trim_start_matches("http://").trim_end_matches('/');
    let found = bare.to_socket_addrs().ok().and_then(|mut a| a.next());
    found.ok_or_else(|| format!("--admin {address:?} is no address: write host:port"))
}
