//! What is accepted, and what it means.

use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::route::{HostPattern, MethodClass, MethodMask};

const UPSTREAM: &str = "[upstream]\nurl = \"http://127.0.0.1:9000\"\n";

pub(super) fn toml(rest: &str) -> Result<Config, ConfigErrors> {
    Config::parse("a.toml", &format!("{UPSTREAM}{rest}"), Format::Toml)
}

pub(super) fn with_env(variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let env = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(None, env, &Overrides { upstream: Some("http://localhost:9000/".to_owned()) })
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn an_upstream_alone_is_a_whole_configuration() {
    let config = toml("").unwrap();
    assert_eq!(config.upstream.url.to_string(), "http://127.0.0.1:9000");
    assert_eq!(config.listen, Listen::default());
    assert_eq!(config.store, Store::default());
    assert_eq!(config.invalidation, InvalidationConfig::default());
    assert_eq!(config.routes, [RoutePolicy::default_route()]);
    assert_eq!(with_env(&[]).unwrap(), config.with_upstream("http://localhost:9000"));
}

impl Config {
    fn with_upstream(mut self, url: &str) -> Config {
        self.upstream.url = UpstreamUrl::new(false, url.trim_start_matches("http://").parse().unwrap(), String::new());
        self
    }
}

#[test]
fn every_key_of_the_example_is_read_and_no_key_is_missing_from_it() {
    let text = include_str!("../../config/asidecar.toml");
    let config = Config::parse("config/asidecar.toml", text, Format::Toml).unwrap();
    let keys = schema::sections().map(|(_, key)| key).chain(schema::ROUTE.iter().copied());
    for key in keys {
        let line = |line: &str| line.trim_start_matches(['#', ' ']).starts_with(&format!("{key} = "));
        assert!(text.lines().any(line), "config/asidecar.toml lacks `{key}`");
    }
    // What is commented out is as sound as what is not, and is the default.
    let whole: String = text
        .lines()
        .map(|line| line.strip_prefix("#").filter(|l| !l.starts_with(' ')).unwrap_or(line).to_owned() + "\n")
        .collect();
    let whole = Config::parse("config/asidecar.toml", &whole, Format::Toml).unwrap();
    assert_eq!(whole.listen, config.listen);
    assert_eq!(whole.log, config.log);
    Config::parse("config/minimal.toml", include_str!("../../config/minimal.toml"), Format::Toml).unwrap();
}

#[test]
fn every_key_of_a_route_means_what_it_says() {
    let config = toml(
        r#"
[[route]]
name = "user"
match = "/users/{id}"
host = "*.Example.com"
methods = ["GET", "HEAD", "PUT"]
key = "user:{id}"
query = { except = ["utm_*", "ref"] }
vary = ["Accept-Language"]
cookies = { key = ["tenant"] }
authorization = "key"
inputs = "keyed"
ttl = "60s"
ttl_by_status = { 404 = "5s", "5xx" = "1s", "503" = "0s" }
ttl_jitter = 0.1
origin = "cap"
stale_while_revalidate = "30s"
stale_if_error = "10m"
tags = ["user:{id}", "users"]
invalidates = ["user:{id}"]
coherence = "strict"
max_object = "1MiB"
cache = true
coalesce = "off"
"#,
    )
    .unwrap();
    let route = &config.routes[0];
    assert_eq!(route.source.to_string(), "a.toml:4:1");
    assert_eq!(route.host, Some(HostPattern::Suffix(".example.com".to_owned())));
    assert_eq!(route.methods, Some(MethodMask::NONE.with(MethodClass::Get).with(MethodClass::Put)));
    assert_eq!(route.key.as_ref().map(|key| key.as_str()), Some("user:{id}"));
    assert!(route.sort && route.query.keeps("page") && !route.query.keeps("utm_x") && !route.query.keeps("ref"));
    assert_eq!(route.vary, ["accept-language"]);
    assert_eq!(route.cookies, CookieRule::Key(vec!["tenant".to_owned()]));
    assert_eq!((route.authorization, route.inputs), (AuthorizationRule::Key, Inputs::Keyed));
    assert_eq!((route.ttl, route.ttl_jitter, route.origin), (Some(seconds(60)), 0.1, OriginRule::Cap));
    let by_status = [404, 500, 503, 200].map(|status| route.ttl_for(status));
    assert_eq!(by_status, [Some(seconds(5)), Some(seconds(1)), Some(seconds(0)), None]);
    assert_eq!((route.stale_while_revalidate, route.stale_if_error), (Some(seconds(30)), Some(seconds(600))));
    assert_eq!((route.tags.len(), route.invalidates.len()), (2, 1));
    assert_eq!((route.coherence, route.max_object), (Coherence::Strict, 1 << 20));
    assert!(route.cache && route.coalesce == Coalesce::Off);
    assert_eq!(config.routes[1].name, DEFAULT_ROUTE);
}

#[test]
fn yaml_says_the_same_as_toml() {
    let text = "upstream:\n  url: http://127.0.0.1:9000\nlisten:\nstore:\n  redis: redis://r:6379/1\nroute:\n  - name: user\n    \
                match: /users/{id}\n    ttl: 60s\n    ttl_by_status: {404: 5s, 5xx: 1s}\n    query: {only: [page]}\n    \
                ttl_jitter: 0.5\n    cache: true\n";
    let yaml = Config::parse("a.yaml", text, Format::Yaml).unwrap();
    let mut same = toml(
        "[store]\nredis = \"redis://r:6379/1\"\n[[route]]\nname = \"user\"\nmatch = \"/users/{id}\"\nttl = \"60s\"\n\
         ttl_by_status = { 404 = \"5s\", 5xx = \"1s\" }\nquery = { only = [\"page\"] }\nttl_jitter = 0.5\n",
    )
    .unwrap();
    assert_eq!(yaml.routes[0].source.to_string(), "a.yaml:7:5");
    same.routes[0].source = yaml.routes[0].source.clone();
    assert_eq!(yaml, same);
}

#[test]
fn the_environment_lies_over_the_file() {
    let config = with_env(&[
        ("ASIDECAR_LISTEN__PROXY", "0.0.0.0:80"),
        ("ASIDECAR_LISTEN__WORKERS", "3"),
        ("ASIDECAR_STORE__REDIS", "unix:///run/redis.sock?db=2"),
        ("ASIDECAR_UPSTREAM__TRUSTED_PROXIES", "10.0.0.0/8, 192.168.1.1"),
        ("ASIDECAR_LOG__ACCESS", "true"),
        ("ASIDECAR_CONFIG", "ignored"),
        ("ASIDECAR_LOG", "debug"),
        ("HOME", "/"),
    ])
    .unwrap();
    assert_eq!(config.listen.proxy, SocketAddr::from(([0, 0, 0, 0], 80)));
    assert_eq!((config.listen.workers, config.log.access), (3, true));
    let socket = config.store.redis.unwrap();
    assert_eq!((socket.to_string().as_str(), socket.database), ("/run/redis.sock", 2));
    let networks: Vec<String> = config.upstream.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "192.168.1.1/32"]);
}

#[test]
fn the_default_route_is_added_only_where_something_is_left_for_it() {
    let names = |text: &str| toml(text).unwrap().routes.into_iter().map(|route| route.name).collect::<Vec<_>>();
    assert_eq!(names("[[route]]\nname = \"a\"\nmatch = \"/a\""), ["a", "default"]);
    assert_eq!(names("[[route]]\nname = \"a\""), ["a"]);
    assert_eq!(names("[[route]]\nname = \"default\"\nttl = \"1s\""), ["default"]);
    assert_eq!(names("[[route]]\nname = \"a\"\nmethods = [\"GET\"]"), ["a", "default"]);
    assert_eq!(toml("[store]\nmemory = \"1MiB\"").unwrap().routes[0].max_object, 1 << 20);
}

#[test]
fn every_key_of_the_schema_is_read() {
    for (section, key) in schema::sections() {
        let text = format!("[{section}]\n{key} = {{ zz = 1 }}\n");
        let told = Config::parse("a.toml", &text, Format::Toml).unwrap_err().to_string();
        assert!(told.contains(&format!("a.toml:2:{}", key.len() + 4)), "{section}.{key} is not read: {told}");
    }
    for key in schema::ROUTE {
        let told = toml(&format!("[[route]]\n{key} = {{ zz = 1 }}\n")).unwrap_err().to_string();
        assert!(told.contains("a.toml:4:"), "{key} is not read: {told}");
    }
}
