//! The configuration: what a file, the environment and the command line say, checked as a whole before anything starts.
//!
//! A file in TOML or YAML becomes one tree of values with where they stand (`node.rs`, `from_toml.rs`,
//! `from_yaml.rs`); the environment is laid over it (`from_env.rs`); then the tree is read into types (`read.rs`,
//! `sections.rs`, `routes.rs`, `route_values.rs`). Nothing stops at the first error (`error.rs`), nothing is ignored, and nothing is
//! rounded or guessed. What there is to configure, with its defaults, is `settings.rs` and `policy.rs`.

mod error;
mod from_env;
mod from_toml;
mod from_yaml;
mod node;
mod policy;
mod read;
mod route_values;
mod routes;
mod schema;
mod sections;
mod settings;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_errors;
mod units;

use std::path::Path;

use error::{Origin, Report};
use node::{Node, Value};
use read::Section;

pub use error::{ConfigError, ConfigErrors, Place};
pub use policy::{
    AuthorizationRule, ClientControl, Coalesce, Coherence, CookieRule, DEFAULT_MAX_OBJECT, DEFAULT_ROUTE, Inputs,
    NamePattern, OriginRule, QueryRule, RoutePolicy, Source,
};
pub use settings::{
    Admin, HostHeader, InvalidationConfig, Listen, Log, LogFormat, LogLevel, Store, Upstream, UpstreamUrl,
};

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The sockets that are listened on, and the bounds on what clients send.
    pub listen: Listen,
    /// The API that is cached.
    pub upstream: Upstream,
    /// Where responses are kept.
    pub store: Store,
    /// How invalidations travel.
    pub invalidation: InvalidationConfig,
    /// The admin listener.
    pub admin: Admin,
    /// What is logged.
    pub log: Log,
    /// The routes, in the file's order; [`Routes::build`](crate::route::Routes::build) succeeds with them, and every
    /// request matches one.
    pub routes: Vec<RoutePolicy>,
}

/// What the command line says, which wins over file and environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--upstream`.
    pub upstream: Option<String>,
}

/// The language of a configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML.
    Toml,
    /// YAML.
    Yaml,
}

impl Format {
    /// YAML for a name that ends in `.yaml` or `.yml`, else TOML.
    pub fn of(file: &Path) -> Format {
        let yaml =
            file.extension().is_some_and(|end| end.eq_ignore_ascii_case("yaml") || end.eq_ignore_ascii_case("yml"));
        if yaml { Format::Yaml } else { Format::Toml }
    }
}

impl Config {
    /// Reads the file, if there is one, and lays environment and command line over it.
    pub fn load(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        overrides: &Overrides,
    ) -> Result<Config, ConfigErrors> {
        let Some(path) = file else {
            return build(None, "", Format::Toml, env, overrides);
        };
        let name = path.display().to_string();
        let text = match std::fs::read(path).map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => {
                let at = error.utf8_error().valid_up_to();
                return Err(ConfigErrors::io(name, format!("it is not UTF-8 at byte {at}")));
            }
            Err(error) => return Err(ConfigErrors::io(name, error.to_string())),
        };
        build(Some(&name), &text, Format::of(path), env, overrides)
    }

    /// Parses a configuration that is one text, without environment and command line.
    pub fn parse(source_name: &str, text: &str, format: Format) -> Result<Config, ConfigErrors> {
        build(Some(source_name), text, format, std::iter::empty(), &Overrides::default())
    }
}

fn build(
    file: Option<&str>,
    text: &str,
    format: Format,
    env: impl Iterator<Item = (String, String)>,
    overrides: &Overrides,
) -> Result<Config, ConfigErrors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let report = Report::new(file, text);
    let tree = match format {
        Format::Toml => from_toml::parse(text, &report),
        Format::Yaml => from_yaml::parse(text, &report),
    };
    let Some(mut tree) = tree else {
        // What a file means that is malformed, nobody knows.
        report.finish()?;
        return Err(ConfigErrors::io(file.unwrap_or_default().to_owned(), "it is malformed".to_owned()));
    };
    if matches!(tree.value, Value::Null) {
        tree = Node::table(Origin::Whole);
    }
    from_env::overlay(&mut tree, env, &report);
    if let Some(url) = &overrides.upstream {
        let node = Node { value: Value::String(url.clone()), at: Origin::Option("--upstream") };
        tree.overlay(&["upstream", "url"], node);
    }
    let config = read(&tree, &report);
    report.finish()?;
    config.ok_or_else(|| ConfigErrors::io(file.unwrap_or_default().to_owned(), "it is incomplete".to_owned()))
}

/// Reads the whole tree. `None` only where something was reported.
fn read(tree: &Node, report: &Report<'_>) -> Option<Config> {
    let top = Section::new("the configuration", schema::TOP, Some(tree), report);
    let section = |name: &'static str| {
        let (title, keys) = schema::section(name);
        Section::new(title, keys, top.get(name), report).doubtful_if(!top.is_sure(&[name]))
    };
    let listen = sections::listen(section("listen"));
    let upstream = sections::upstream(section("upstream"));
    let (store, largest) = sections::store(section("store"));
    let invalidation = sections::invalidation(section("invalidation"));
    let admin = sections::admin(section("admin"));
    let log = sections::log(section("log"));
    let routes = routes::routes(top.get("route"), largest, report);
    top.finish();
    Some(Config { listen, upstream: upstream?, store, invalidation, admin, log, routes })
}
