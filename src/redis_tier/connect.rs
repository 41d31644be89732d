//! Opening connections: to a server, to the master that the sentinels name, to the nodes of a cluster.
//!
//! Wherever there are several servers, one of them is *home*: the one that has the log. The subscription is always
//! there (decision 16 says why), and so are appends and reads of the log.

use std::cell::Cell;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::address::{Address, Host, Login, Topology};
use super::cluster::{Cluster, Slots, slot_of};
use super::link::{Connections, Link, Names, Node};
use super::refusal;
use super::tls::TlsFiles;

/// Until a connection stands, and until something that is on no request's way is answered.
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// The same for one of several that know the same: the next one may be quicker.
const ONE_OF_SEVERAL: Duration = Duration::from_millis(500);

/// Why a connection ended, or did not come about.
#[derive(Debug)]
pub(super) enum Lost {
    /// Redis said no, or the connection broke.
    Refused(RedisError),
    /// While this was done.
    RefusedAt(&'static str, RedisError),
    TooSlow(&'static str),
    Closed,
    Commands,
    /// Nothing is wrong but that it is elsewhere now.
    Moved(String),
    /// There is something that has to be mended before it can work.
    Unusable(String),
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lost::Refused(e) => f.write_str(&refusal::said(e)),
            Lost::RefusedAt(what, e) => write!(f, "{}, at {what}", refusal::said(e)),
            Lost::TooSlow(what) => write!(f, "no answer in time to {what}"),
            Lost::Closed => f.write_str("the subscription was closed"),
            Lost::Commands => f.write_str("commands failed"),
            Lost::Moved(where_to) => f.write_str(where_to),
            Lost::Unusable(why) => f.write_str(why),
        }
    }
}

impl From<RedisError> for Lost {
    fn from(error: RedisError) -> Lost {
        Lost::Refused(error)
    }
}

/// Opens connections. Where to is asked anew each time.
pub struct Connector {
    address: Address,
    tls: TlsFiles,
    /// The workers, each of which gets connections of its own.
    workers: OnceLock<Arc<[Handle]>>,
    /// The masters of the cluster when it was last asked: all that the URL names may be gone one day.
    known: Mutex<Vec<Host>>,
}

/// How one server is connected to.
#[derive(Clone)]
pub(super) struct Dialer {
    tls: Option<Arc<ClientConfig>>,
    settings: RedisConnectionInfo,
    workers: Option<Arc<[Handle]>>,
}

/// A server's connections for commands: one for each worker, on its own thread, and one for everybody else.
pub(crate) struct Lanes(Vec<MultiplexedConnection>);

thread_local! {
    static LANE: Cell<usize> = const { Cell::new(0) };
}

impl Lanes {
    /// This thread is the worker at that place.
    pub(crate) fn take(worker: usize) {
        LANE.set(worker + 1);
    }

    /// This thread's connection.
    pub(super) fn own(&self) -> MultiplexedConnection {
        self.0.get(LANE.get()).unwrap_or(&self.0[0]).clone()
    }
}

impl From<MultiplexedConnection> for Lanes {
    fn from(connection: MultiplexedConnection) -> Lanes {
        Lanes(vec![connection])
    }
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Host(Host),
    Socket(std::path::PathBuf),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Host(host) => host.fmt(f),
            Target::Socket(path) => path.display().fmt(f),
        }
    }
}

/// What was opened.
pub(super) struct Opened {
    /// For commands.
    pub(super) connections: Connections,
    pub(super) home: Target,
    pub(super) dialer: Dialer,
}

impl Connector {
    /// For these servers, with these certificates.
    pub fn new(address: Address, tls: TlsFiles) -> Connector {
        Connector { address, tls, workers: OnceLock::new(), known: Mutex::default() }
    }

    /// Whose commands have connections of their own, from the next connecting on: a command that crosses threads costs
    /// two wake-ups. The worker at each place says which it is by `Lanes::take`.
    pub fn for_workers(&self, workers: Vec<Handle>) {
        let _ = self.workers.set(workers.into());
    }

    /// Where it connects to, without user and password.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Finds home and connects to it, and where there are other nodes, to them.
    pub(super) async fn open(&self, names: &Names, deadline: Duration) -> Result<Opened, Lost> {
        let (dialer, home, slots) = self.find(names).await?;
        let commands = within("connecting", dialer.lanes(&home)).await?;
        let log = within("connecting", dialer.connect(&home)).await?;
        if matches!(self.address.topology, Topology::Sentinel { .. }) && !is_master(&commands.own()).await? {
            return Err(Lost::Moved(format!("{home}, which the sentinels name, is no master (yet)")));
        }
        let node = Arc::new(Node::new(home.to_string(), commands));
        let cluster = match slots {
            Some(slots) => Some(Arc::new(Cluster::new(&dialer, &slots, &node, deadline).await)),
            None => None,
        };
        Ok(Opened { connections: Connections { home: node, log, cluster }, home, dialer })
    }

    /// Finds home.
    async fn find(&self, names: &Names) -> Result<(Dialer, Target, Option<Slots>), Lost> {
        let tls = self.tls().await?;
        let dialer = Dialer::new(tls, self.workers.get().cloned(), &self.address.login, self.address.database);
        let (home, slots) = match &self.address.topology {
            Topology::Server(host) => (Target::Host(host.clone()), None),
            Topology::Socket(path) => (Target::Socket(path.clone()), None),
            Topology::Sentinel { .. } => (Target::Host(self.master(&dialer).await?), None),
            Topology::Cluster(seeds) => {
                let mut nodes = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
                nodes.extend(seeds.iter().filter(|seed| !nodes.contains(seed)).cloned().collect::<Vec<_>>());
                let slots = Slots::ask_any(&dialer, &nodes).await?;
                *self.known.lock().unwrap_or_else(PoisonError::into_inner) = slots.masters();
                let home = slots.owner(slot_of(names.log.as_bytes())).cloned();
                let home = home.ok_or_else(|| Lost::Unusable("no node of the cluster has the log's slot".into()))?;
                (Target::Host(home), Some(slots))
            }
        };
        Ok((dialer, home, slots))
    }

    /// One more connection for subscriptions, at home too: messages that are published anywhere in a cluster come
    /// there.
    pub(super) async fn subscriber(&self, names: &Names) -> Result<PubSub, Lost> {
        let (dialer, home, _) = self.find(names).await?;
        within("connecting", dialer.subscriber(&home)).await
    }

    /// Connects a link for a few commands, without anybody who follows.
    ///
    /// # Errors
    /// A sentence for the user.
    pub async fn connect(&self, link: &Link, deadline: Duration) -> Result<(), String> {
        match timeout(deadline, self.open(link.names(), deadline)).await {
            Ok(Ok(opened)) => link.connected(opened.connections),
            Ok(Err(lost @ Lost::TooSlow(_))) => {
                return Err(format!("Redis at {} does not answer: {lost}", self.address));
            }
            Ok(Err(lost)) => return Err(format!("Redis at {} can't be reached: {lost}", self.address)),
            Err(_) => return Err(format!("Redis at {} does not answer", self.address)),
        }
        Ok(())
    }

    /// The settings for TLS as the files say now. Reading all of the system's authorities takes a while.
    async fn tls(&self) -> Result<Option<Arc<ClientConfig>>, Lost> {
        if !self.address.tls {
            return Ok(None);
        }
        let files = self.tls.clone();
        let read = tokio::task::spawn_blocking(move || files.settings()).await;
        let settings = read.unwrap_or_else(|_| Err("reading them failed".to_owned()));
        settings.map(|settings| Some(Arc::new(settings))).map_err(|e| Lost::Unusable(format!("certificates: {e}")))
    }

    /// Watches over where home is, and returns when it is elsewhere. Without sentinels and cluster it never does.
    pub(super) async fn watch(&self, opened: &Opened, names: &Names) -> Lost {
        if let Some(cluster) = &opened.connections.cluster {
            let slot = slot_of(names.log.as_bytes());
            return cluster.keep(&opened.dialer, &opened.connections.home, slot).await;
        }
        let Topology::Sentinel { .. } = &self.address.topology else { return std::future::pending().await };
        loop {
            sleep(CHECK_EVERY).await;
            // A connection to a master that was cut off together with us stays open; the sentinels know better. One
            // that is a replica by now says so itself.
            match is_master(&opened.connections.home.connection()).await {
                Ok(true) => {}
                Ok(false) => return Lost::Moved(format!("{} is no master any more", opened.home)),
                Err(lost) => return lost,
            }
            let Ok(master) = self.master(&opened.dialer).await else { continue };
            let named = Target::Host(master);
            if named != opened.home && self.confirms(&named, &opened.dialer).await {
                return Lost::Moved(format!("the master is {named} now"));
            }
        }
    }

    async fn confirms(&self, named: &Target, dialer: &Dialer) -> bool {
        match within("connecting", dialer.connect(named)).await {
            Ok(connection) => is_master(&connection).await.unwrap_or(false),
            Err(_) => false,
        }
    }

    /// Where the sentinels say that the master is: the newest answer of those of a majority, or of all that answer
    /// in time. One alone may have missed a failover.
    async fn master(&self, dialer: &Dialer) -> Result<Host, Lost> {
        let Topology::Sentinel { sentinels, master, login } = &self.address.topology else {
            return Err(Lost::Unusable("there are no sentinels".into()));
        };
        let dialer = Dialer::new(dialer.tls.clone(), None, login, 0);
        let mut asked: FuturesUnordered<_> =
            sentinels.iter().map(|sentinel| timeout(ONE_OF_SEVERAL, ask_sentinel(&dialer, sentinel, master))).collect();
        let (mut newest, mut answers): (Option<(u64, Host)>, usize) = (None, 0);
        let mut lost = Lost::TooSlow("the question to the sentinels");
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(Ok((epoch, host))) => {
                    answers += 1;
                    keep_newer(&mut newest, (epoch, host));
                    if answers * 2 > sentinels.len() {
                        break;
                    }
                }
                Ok(Err(error)) => lost = error,
                Err(_) => {}
            }
        }
        newest.map(|(_, host)| host).ok_or(lost)
    }
}

/// A sentinel that was cut off still names the master of an older epoch.
fn keep_newer(newest: &mut Option<(u64, Host)>, answer: (u64, Host)) {
    if newest.as_ref().is_none_or(|(known, _)| answer.0 > *known) {
        *newest = Some(answer);
    }
}

/// How often the sentinels are asked without need, and the nodes of a cluster.
pub(super) const CHECK_EVERY: Duration = Duration::from_secs(2);

/// Where one sentinel says that the master is, and in which epoch it came to be.
async fn ask_sentinel(dialer: &Dialer, sentinel: &Host, master: &str) -> Result<(u64, Host), Lost> {
    let at = |e| Lost::RefusedAt("a sentinel", e);
    let mut connection = dialer.connect(&Target::Host(sentinel.clone())).await.map_err(at)?;
    // While the others are told, the sentinel that leads a failover names the new master here and not in
    // SENTINEL MASTER, which alone has the epoch.
    let mut address = redis::cmd("SENTINEL");
    address.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    let address: Option<(String, u16)> = address.query_async(&mut connection).await.map_err(at)?;
    let Some((name, port)) = address else {
        return Err(Lost::Unusable(format!("the sentinel at {sentinel} knows no master `{master}`")));
    };
    let mut about = redis::cmd("SENTINEL");
    about.arg("MASTER").arg(master);
    let about: Vec<(String, String)> = about.query_async(&mut connection).await.map_err(at)?;
    let epoch = about.iter().find(|(field, _)| field == "config-epoch").and_then(|(_, epoch)| epoch.parse().ok());
    Ok((epoch.unwrap_or(0), Host { name, port }))
}

async fn is_master(connection: &MultiplexedConnection) -> Result<bool, Lost> {
    let mut connection = connection.clone();
    let role = redis::cmd("ROLE");
    let role: redis::Value = within("ROLE", role.query_async(&mut connection)).await?;
    let word = match role {
        redis::Value::Array(parts) => parts.into_iter().next(),
        _ => None,
    };
    let word: Option<String> = word.and_then(|w| redis::from_redis_value(w).ok());
    Ok(word.as_deref() == Some("master"))
}

/// With the deadline of what is on no request's way.
pub(super) async fn within<T>(
    what: &'static str,
    done: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, Lost> {
    timeout(CONNECT_DEADLINE, done).await.map_err(|_| Lost::TooSlow(what))?.map_err(|e| Lost::RefusedAt(what, e))
}

/// Like [`within`], but of one of several.
pub(super) async fn soon<T>(done: impl Future<Output = Result<T, RedisError>>) -> Option<T> {
    timeout(ONE_OF_SEVERAL, done).await.ok()?.ok()
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Dialer {
    fn new(tls: Option<Arc<ClientConfig>>, workers: Option<Arc<[Handle]>>, login: &Login, database: u32) -> Dialer {
        // A name for the library would be one more command that a user needs a right for.
        let mut settings = RedisConnectionInfo::default().set_db(database.into()).set_skip_set_lib_name();
        if let Some(user) = &login.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &login.password {
            settings = settings.set_password(password);
        }
        Dialer { tls, settings, workers }
    }

    /// The connections for commands: this thread's, and one on each worker's. A worker that has ended has none.
    pub(super) async fn lanes(&self, to: &Target) -> Result<Lanes, RedisError> {
        let own = self.connect(to).await?;
        let on = |worker: &Handle| {
            let (dialer, to) = (self.clone(), to.clone());
            worker.spawn(async move { dialer.connect(&to).await })
        };
        let workers: Vec<_> = self.workers.iter().flat_map(|workers| workers.iter()).map(on).collect();
        let mut lanes = vec![own.clone()];
        for connecting in workers {
            lanes.push(connecting.await.unwrap_or_else(|_| Ok(own.clone()))?);
        }
        Ok(Lanes(lanes))
    }

    /// A connection for commands. Its driver ends with its last clone.
    pub(super) async fn connect(&self, to: &Target) -> Result<MultiplexedConnection, RedisError> {
        let stream = self.dial(to).await?;
        // Each command has a deadline of its own.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (connection, driver) = MultiplexedConnection::new_with_config(&self.settings, stream, config).await?;
        tokio::spawn(driver);
        Ok(connection)
    }

    /// A connection for subscriptions.
    pub(super) async fn subscriber(&self, to: &Target) -> Result<PubSub, RedisError> {
        PubSub::new(&self.settings, self.dial(to).await?).await
    }

    async fn dial(&self, to: &Target) -> Result<Box<dyn Stream>, RedisError> {
        let host = match to {
            Target::Socket(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            Target::Host(host) => host,
        };
        let stream = TcpStream::connect((host.name.as_str(), host.port)).await?;
        stream.set_nodelay(true)?;
        let Some(settings) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(host.name.clone())
            .map_err(|e| RedisError::from((ErrorKind::InvalidClientConfig, "no name for TLS", e.to_string())))?;
        Ok(Box::new(TlsConnector::from(settings.clone()).connect(name, stream).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_the_sentinels_say_the_newest_epoch_counts_in_whatever_order_it_comes() {
        let answer = |epoch, port| (epoch, Host { name: "h".into(), port });
        for order in [[answer(3, 1), answer(2, 2)], [answer(2, 2), answer(3, 1)]] {
            let mut newest = None;
            order.into_iter().for_each(|answer| keep_newer(&mut newest, answer));
            assert_eq!(newest, Some(answer(3, 1)));
        }
    }
}
