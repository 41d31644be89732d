//! Where Redis is, as its URL says: one server, a socket, a master that sentinels know of, or a cluster.
//!
//! | URL | |
//! |---|---|
//! | `redis://user:password@host:6379/0` | one server; `rediss` for TLS, here and below |
//! | `redis+unix:///run/redis.sock?db=0&user=…&password=…` | one server's socket; `unix` is the same |
//! | `redis+sentinel://user:password@host:26379,host:26379/mymaster/0?sentinel_user=…&sentinel_password=…` | the master of that name |
//! | `redis+cluster://user:password@host:6379,host:6379` | any of the cluster's nodes |
//!
//! No error repeats a part of the URL in which a password may be.

use std::fmt;
use std::path::PathBuf;

/// The servers of Redis, and how to log in there.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// What they are to each other.
    pub topology: Topology,
    /// Whether TLS is spoken, with sentinels too.
    pub tls: bool,
    /// The user of Redis.
    pub login: Login,
    /// The database.
    pub database: u32,
}

/// What the servers of a URL are.
#[derive(Clone, PartialEq, Eq)]
pub enum Topology {
    /// One server.
    Server(Host),
    /// One server, by its socket.
    Socket(PathBuf),
    /// Sentinels, which know where the master is.
    Sentinel {
        /// The sentinels.
        sentinels: Vec<Host>,
        /// What they call the master.
        master: String,
        /// The user of the sentinels.
        login: Login,
    },
    /// Some of a cluster's nodes, which know the others.
    Cluster(Vec<Host>),
}

/// A host and its port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host {
    /// A name or an IP address, without brackets.
    pub name: String,
    /// The port.
    pub port: u16,
}

/// Who logs in. Neither: nobody does.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// The user's name; none is the user `default`.
    pub user: Option<String>,
    /// His password.
    pub password: Option<String>,
}

/// Why a URL can't be used, and what the right one looks like.
#[derive(Debug, PartialEq, Eq)]
pub struct Unusable {
    /// What is wrong.
    pub message: String,
    /// An example of the right form.
    pub help: &'static str,
}

const ANY: &str = "Redis is given as \"redis://127.0.0.1:6379/0\", \"rediss://user:password@host:6380\", \
                   \"redis+unix:///run/redis.sock\", \"redis+sentinel://host:26379,host:26379/mymaster/0\" or \
                   \"redis+cluster://host:6379,host:6379\"";
const SERVER: &str = "a server is given as \"redis://127.0.0.1:6379/0\" or \"rediss://user:password@host:6380\"";
const SOCKET: &str = "a socket is given as \"redis+unix:///run/redis.sock\", with \"?db=1\" for another database";
const SENTINEL: &str = "sentinels are given as \"redis+sentinel://user:password@host:26379,host:26379/mymaster/0\", \
                        with \"?sentinel_user=…&sentinel_password=…\" if they have users of their own";
const CLUSTER: &str = "a cluster is given as \"redis+cluster://user:password@host:6379,host:6379\"";

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str) -> Result<Address, Unusable> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(Unusable { message: "this is no URL; does it lack \"redis://\"?".to_owned(), help: ANY });
        };
        let (help, read): (_, Read) = match scheme {
            "redis" | "rediss" => (SERVER, server),
            "unix" | "redis+unix" => (SOCKET, socket),
            "redis+sentinel" | "rediss+sentinel" => (SENTINEL, sentinel),
            "redis+cluster" | "rediss+cluster" => (CLUSTER, cluster),
            _ => {
                let (help, meant) = match scheme {
                    s if s.contains("sentinel") => (SENTINEL, "\"redis+sentinel\" or, with TLS, \"rediss+sentinel\""),
                    s if s.contains("cluster") => (CLUSTER, "\"redis+cluster\" or, with TLS, \"rediss+cluster\""),
                    _ => (
                        ANY,
                        "\"redis\", \"rediss\", \"unix\", \"redis+unix\", \"redis+sentinel\" or \"redis+cluster\"",
                    ),
                };
                return Err(Unusable { message: format!("`{scheme}` is no scheme of Redis; it can be {meant}"), help });
            }
        };
        Parts::of(scheme, rest).and_then(|parts| read(&parts)).map_err(|message| Unusable { message, help })
    }
}

type Read = fn(&Parts<'_>) -> Result<Address, String>;

/// A URL's parts, not decoded yet.
struct Parts<'u> {
    tls: bool,
    user_info: Option<&'u str>,
    hosts: &'u str,
    /// Without its first slash.
    path: &'u str,
    query: Vec<(&'u str, &'u str)>,
}

impl<'u> Parts<'u> {
    fn of(scheme: &str, rest: &'u str) -> Result<Parts<'u>, String> {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (user_info, hosts) = match authority.rsplit_once('@') {
            Some((user_info, hosts)) => (Some(user_info), hosts),
            None => (None, authority),
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if user_info.is_none() && path.contains('@') {
            return Err("a '/', '?' or '#' in a user or password is written as \"%2F\", \"%3F\" or \"%23\"".to_owned());
        }
        if rest.contains('#') {
            return Err("the URL of Redis can't have a fragment; its certificate is always verified".to_owned());
        }
        let query = query.split('&').filter(|pair| !pair.is_empty());
        Ok(Parts {
            tls: scheme.starts_with("rediss"),
            user_info,
            hosts,
            path: path.strip_prefix('/').unwrap_or(path),
            query: query.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect(),
        })
    }

    /// That there is nothing in the query but these.
    fn parameters(&self, known: &[&str]) -> Result<(), String> {
        match self.query.iter().find(|(name, _)| !known.contains(name)) {
            None => Ok(()),
            Some(_) if known.is_empty() => Err("there can be no query in this URL".to_owned()),
            Some(_) => Err(format!("the query of this URL can only have {}", known.join(", "))),
        }
    }

    fn parameter(&self, names: &[&str]) -> Result<Option<String>, String> {
        self.query.iter().find(|(name, _)| names.contains(name)).map(|(_, value)| decoded(value)).transpose()
    }

    fn login(&self) -> Result<Login, String> {
        let Some(user_info) = self.user_info else { return Ok(Login::default()) };
        let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
        login(Some(decoded(user)?), Some(decoded(password)?), "\":password@\"")
    }

    fn hosts(&self, port: u16) -> Result<Vec<Host>, String> {
        self.hosts.split(',').map(|text| host(text, port)).collect()
    }
}

/// Empty is none; a user alone can't log in.
fn login(user: Option<String>, password: Option<String>, form: &str) -> Result<Login, String> {
    let login = Login { user: user.filter(|u| !u.is_empty()), password: password.filter(|p| !p.is_empty()) };
    if login.user.is_some() && login.password.is_none() {
        return Err(format!("there is a user without a password; a password without a user is written as {form}"));
    }
    Ok(login)
}

fn host(text: &str, port: u16) -> Result<Host, String> {
    let (name, given) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, "")) => (name, None),
        Some((name, rest)) => (name, Some(rest.strip_prefix(':').unwrap_or(rest))),
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    if name.is_empty() {
        return Err("the URL of Redis has no host, or an empty one".to_owned());
    }
    let port = match given {
        None => port,
        Some(given) => match given.parse() {
            Ok(port) if port != 0 => port,
            // Where the '@' is missing, this is a password.
            _ if given.bytes().any(|b| !b.is_ascii_digit()) => {
                return Err("what follows a host's colon is no port; a port is a number from 1 to 65535".to_owned());
            }
            _ => return Err(format!("`{given}` is no port; a port is a number from 1 to 65535")),
        },
    };
    if name.contains(|c: char| c.is_whitespace() || c == '%') {
        return Err(format!("`{name}` is no host"));
    }
    Ok(Host { name: name.to_owned(), port })
}

fn database(text: &str) -> Result<u32, String> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| format!("`{text}` is no database; it is a number from 0"))
}

fn server(parts: &Parts<'_>) -> Result<Address, String> {
    parts.parameters(&[])?;
    let mut hosts = parts.hosts(6379)?;
    let host = hosts.swap_remove(0);
    if !hosts.is_empty() {
        return Err("this names several servers; whose they are is said by the scheme, \"redis+sentinel\" or \
                    \"redis+cluster\""
            .to_owned());
    }
    let login = parts.login()?;
    Ok(Address { topology: Topology::Server(host), tls: parts.tls, login, database: database(parts.path)? })
}

fn socket(parts: &Parts<'_>) -> Result<Address, String> {
    parts.parameters(&["db", "user", "password", "pass"])?;
    if !parts.hosts.is_empty() || parts.user_info.is_some() || parts.path.is_empty() {
        return Err("the URL of a socket has three slashes and its path".to_owned());
    }
    let (user, password) = (parts.parameter(&["user"])?, parts.parameter(&["password", "pass"])?);
    Ok(Address {
        topology: Topology::Socket(PathBuf::from(format!("/{}", decoded(parts.path)?))),
        tls: false,
        login: login(user, password, "\"password=…\" alone")?,
        database: database(&parts.parameter(&["db"])?.unwrap_or_default())?,
    })
}

fn sentinel(parts: &Parts<'_>) -> Result<Address, String> {
    parts.parameters(&["sentinel_user", "sentinel_password"])?;
    let (master, rest) = parts.path.split_once('/').unwrap_or((parts.path, ""));
    if master.is_empty() {
        return Err("the URL does not say what the sentinels call the master".to_owned());
    }
    let (user, password) = (parts.parameter(&["sentinel_user"])?, parts.parameter(&["sentinel_password"])?);
    let topology = Topology::Sentinel {
        sentinels: parts.hosts(26379)?,
        master: decoded(master)?,
        login: login(user, password, "\"sentinel_password=…\" alone")?,
    };
    Ok(Address { topology, tls: parts.tls, login: parts.login()?, database: database(rest)? })
}

fn cluster(parts: &Parts<'_>) -> Result<Address, String> {
    parts.parameters(&[])?;
    if database(parts.path)? != 0 {
        return Err("a cluster has no database but 0".to_owned());
    }
    let topology = Topology::Cluster(parts.hosts(6379)?);
    Ok(Address { topology, tls: parts.tls, login: parts.login()?, database: 0 })
}

/// Percent-decoded.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|d| char::from(*d).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high << 4 | low).unwrap_or_default());
                rest = after.get(2..).unwrap_or_default();
            }
            (b'%', ..) => return Err("a '%' that begins no two hexadecimal digits is written as \"%25\"".to_owned()),
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| "what is percent-encoded in the URL is not UTF-8".to_owned())
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.message, self.help)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            return write!(f, "[{}]:{}", self.name, self.port);
        }
        write!(f, "{}:{}", self.name, self.port)
    }
}

/// Without user and password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |hosts: &[Host]| hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(",");
        match &self.topology {
            Topology::Server(host) => write!(f, "{host}"),
            Topology::Socket(path) => write!(f, "{}", path.display()),
            Topology::Sentinel { sentinels, master, .. } => write!(f, "{master} of {}", list(sentinels)),
            Topology::Cluster(nodes) => write!(f, "the cluster of {}", list(nodes)),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(list: &[(&str, u16)]) -> Vec<Host> {
        list.iter().map(|(name, port)| Host { name: (*name).to_owned(), port: *port }).collect()
    }
    fn login(user: &str, password: &str) -> Login {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Login { user: some(user), password: some(password) }
    }

    #[test]
    fn each_form_of_url_is_read() {
        let plain = |topology| Address { topology, tls: false, login: Login::default(), database: 0 };
        let server = |name: &str, port| plain(Topology::Server(hosts(&[(name, port)]).remove(0)));
        let socket = |path: &str| plain(Topology::Socket(PathBuf::from(path)));
        let sentinel = |list: &[(&str, u16)], master: &str, login| {
            plain(Topology::Sentinel { sentinels: hosts(list), master: master.to_owned(), login })
        };
        for (url, wanted) in [
            ("redis://h", server("h", 6379)),
            ("redis://h:7/", server("h", 7)),
            ("redis://[::1]", server("::1", 6379)),
            ("redis://[::1]:7/3", Address { database: 3, ..server("::1", 7) }),
            ("rediss://u:p%40%2f@h:7", Address { tls: true, login: login("u", "p@/"), ..server("h", 7) }),
            ("redis://:p@h", Address { login: login("", "p"), ..server("h", 6379) }),
            ("unix:///run/r.sock", socket("/run/r.sock")),
            (
                "redis+unix:///a%20b?db=2&user=u&password=p",
                Address { database: 2, login: login("u", "p"), ..socket("/a b") },
            ),
            ("redis+sentinel://a,b:7/m", sentinel(&[("a", 26379), ("b", 7)], "m", Login::default())),
            (
                "rediss+sentinel://u:p@a/m/4?sentinel_user=su&sentinel_password=sp",
                Address {
                    tls: true,
                    login: login("u", "p"),
                    database: 4,
                    ..sentinel(&[("a", 26379)], "m", login("su", "sp"))
                },
            ),
            ("redis+cluster://a,[::2]:7/0", plain(Topology::Cluster(hosts(&[("a", 6379), ("::2", 7)])))),
        ] {
            assert_eq!(Address::parse(url), Ok(wanted), "{url}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_right_form_and_without_the_password() {
        for (url, wanted, help) in [
            ("h:6379", "this is no URL", ANY),
            ("http://h", "`http` is no scheme of Redis", ANY),
            ("redis-sentinel://h/m", "it can be \"redis+sentinel\"", SENTINEL),
            ("rediss-cluster://h", "it can be \"redis+cluster\"", CLUSTER),
            ("redis://", "no host", SERVER),
            ("redis://:6379", "no host", SERVER),
            ("redis://h:0", "`0` is no port", SERVER),
            ("redis://::1", "no host", SERVER),
            ("redis://u:secret", "is no port", SERVER),
            ("redis://h/x", "`x` is no database", SERVER),
            ("redis://a,b", "several servers", SERVER),
            ("redis://secret@h", "a user without a password", SERVER),
            ("redis://u:sec/ret@h", "\"%2F\"", SERVER),
            ("redis://u:secret%zz@h", "\"%25\"", SERVER),
            ("redis://u:secret@h#x", "fragment", SERVER),
            ("redis://h?protocol=resp3", "no query", SERVER),
            ("redis+unix://run/r.sock", "three slashes", SOCKET),
            ("redis+unix:///", "three slashes", SOCKET),
            ("unix:///r?db=x", "`x` is no database", SOCKET),
            ("unix:///r?databse=secret", "db, user, password", SOCKET),
            ("redis+sentinel://a,b", "what the sentinels call the master", SENTINEL),
            ("redis+sentinel://a,,b/m", "an empty one", SENTINEL),
            ("redis+sentinel://a/m/x", "`x` is no database", SENTINEL),
            ("redis+sentinel://a/m?sentinel_user=secret", "a user without a password", SENTINEL),
            ("redis+cluster://a/1", "no database but 0", CLUSTER),
            ("redis+cluster://", "no host", CLUSTER),
        ] {
            let told = Address::parse(url).expect_err(url);
            assert!(told.message.contains(wanted) && told.help == help, "{url}: {told}");
            assert!(!told.to_string().contains("secret") && !told.to_string().contains("ret@"), "{url}: {told}");
        }
    }
}
