//! Reading the routes, and the contradictions within one and between several.

use super::error::{Origin, Place, Problem, Report};
use super::node::{Node, Value};
use super::policy::{
    AuthorizationRule, ClientControl, Coalesce, Coherence, DEFAULT_MAX_OBJECT, DEFAULT_ROUTE, Inputs, OriginRule,
    RoutePolicy, Source,
};
use super::read::{Section, boolean, eagerness, fraction, integer, lifetime, list, one_of, parsed, size_in};
use super::route_values::{cookies, methods, path_pattern, query, route_name, template, ttl_by_status, vary_field};
use super::schema;
use super::units::show_size;
use crate::route::{HostPattern, MethodMask, RouteConflict, Routes};
use crate::template::Pattern;

/// A route that was read, with where its parts are.
struct Read {
    policy: RoutePolicy,
    at: Origin,
    name_at: Origin,
    match_at: Origin,
    key_at: Origin,
    /// Nothing in it is wrong.
    sound: bool,
}

/// Reads all routes; the default one is added where none matches everything.
pub(super) fn routes(node: Option<&Node>, memory: u64, report: &Report<'_>) -> Vec<RoutePolicy> {
    let items = match node.map(|node| (&node.value, node)) {
        None => &[],
        Some((Value::List(items), _)) => items.as_slice(),
        Some((_, node)) => {
            let message = format!("`route` is a list of tables, and this is {}", node.kind());
            let _: Option<()> = report.add(Problem::new(&node.at, message).help("write [[route]], with two brackets"));
            &[]
        }
    };
    let read: Vec<Option<Read>> = items.iter().map(|item| route(item, memory, report)).collect();
    let mut routes: Vec<Read> = read.into_iter().flatten().collect();
    check_names(&routes, report);
    check_keys(&routes, report);
    if !covers_everything(&routes) {
        let policy = RoutePolicy { max_object: fitting(DEFAULT_MAX_OBJECT, memory), ..RoutePolicy::default_route() };
        routes.push(Read {
            policy,
            at: Origin::Whole,
            name_at: Origin::Whole,
            match_at: Origin::Whole,
            key_at: Origin::Whole,
            sound: true,
        });
    }
    // Which requests a route is for, with something wrong in it, is not known.
    let sound: Vec<&Read> = routes.iter().filter(|route| route.sound).collect();
    check_conflicts(&sound, report);
    routes.into_iter().map(|route| route.policy).collect()
}

fn route(node: &Node, memory: u64, report: &Report<'_>) -> Option<Read> {
    let before = report.count();
    let section = Section::new("[[route]]", schema::ROUTE, Some(node), report);
    let s = &section;
    let source = match report.place(&node.at) {
        Place::File(source) => source,
        _ => Source::built_in(),
    };
    let name = match s.get("name") {
        Some(_) => s.read("name", parsed(route_name, "")),
        None if !s.is_sure(&["name"]) => None,
        None => report.add(
            Problem::new(&node.at, "the route has no name").help("write name = \"users\"; metrics and logs call it so"),
        ),
    };
    let pattern = match s.get("match") {
        Some(_) => s.read("match", path_pattern),
        None => Some(Pattern::everything()),
    };
    let known = name.is_some() && pattern.is_some();
    let params = pattern.as_ref().map(|pattern| pattern.params().to_vec());
    let mut policy = RoutePolicy::new(name.unwrap_or_default(), pattern.unwrap_or_else(Pattern::everything), source);
    read_match(s, &mut policy);
    // Without the pattern nothing can be said about templates.
    if let Some(params) = params {
        policy.key = s.read("key", |node, report| template(node, &params, report));
        s.set("tags", list(|node, report| template(node, &params, report)), &mut policy.tags);
        s.set("invalidates", list(|node, report| template(node, &params, report)), &mut policy.invalidates);
    }
    read_request(s, &mut policy);
    read_response(s, &mut policy, memory);
    check_contradictions(s, &policy);
    let (name_at, match_at, key_at) = (s.at("name"), s.at("match"), s.at("key"));
    section.finish();
    let sound = report.count() == before;
    known.then_some(Read { policy, at: node.at.clone(), name_at, match_at, key_at, sound })
}

fn read_match(s: &Section<'_, '_, '_>, policy: &mut RoutePolicy) {
    policy.host = s.read("host", parsed(HostPattern::parse, "a host is \"api.example.com\" or \"*.example.com\""));
    policy.methods = s.read("methods", methods);
}

fn read_request(s: &Section<'_, '_, '_>, policy: &mut RoutePolicy) {
    if let Some((rule, sort)) = s.read("query", query) {
        policy.query = rule;
        policy.sort = sort;
    }
    s.set("vary", list(vary_field), &mut policy.vary);
    s.set("cookies", cookies, &mut policy.cookies);
    s.set(
        "authorization",
        one_of(&[("bypass", AuthorizationRule::Bypass), ("key", AuthorizationRule::Key)]),
        &mut policy.authorization,
    );
    s.set("inputs", one_of(&[("all", Inputs::All), ("keyed", Inputs::Keyed)]), &mut policy.inputs);
}

fn read_response(s: &Section<'_, '_, '_>, policy: &mut RoutePolicy, memory: u64) {
    const ORIGIN: &[(&str, OriginRule)] =
        &[("respect", OriginRule::Respect), ("override", OriginRule::Override), ("cap", OriginRule::Cap)];
    policy.ttl = s.read("ttl", lifetime);
    s.set("ttl_by_status", ttl_by_status, &mut policy.ttl_by_status);
    s.set("ttl_jitter", fraction, &mut policy.ttl_jitter);
    s.set("origin", one_of(ORIGIN), &mut policy.origin);
    policy.stale_while_revalidate = s.read("stale_while_revalidate", lifetime);
    policy.stale_if_error = s.read("stale_if_error", lifetime);
    s.set("stale_if_unreachable", lifetime, &mut policy.stale_if_unreachable);
    s.set("early_refresh", eagerness, &mut policy.early_refresh);
    s.set("settle", lifetime, &mut policy.settle);
    s.set(
        "client_cache_control",
        one_of(&[("honour", ClientControl::Honour), ("ignore", ClientControl::Ignore)]),
        &mut policy.client_cache_control,
    );
    s.set("max_variants", integer(1..=1024), &mut policy.max_variants);
    s.set(
        "coherence",
        one_of(&[("bounded", Coherence::Bounded), ("strict", Coherence::Strict)]),
        &mut policy.coherence,
    );
    s.set("cache", boolean, &mut policy.cache);
    s.set(
        "coalesce",
        one_of(&[("fleet", Coalesce::Fleet), ("instance", Coalesce::Instance), ("off", Coalesce::Off)]),
        &mut policy.coalesce,
    );
    match s.read("max_object", size_in(1..=i64::MAX as u64)) {
        Some(bytes) => policy.max_object = bytes,
        None => policy.max_object = fitting(DEFAULT_MAX_OBJECT, memory),
    }
    if memory > 0 && policy.max_object > memory {
        let message = format!(
            "`max_object`, {}, is larger than the memory for all entries, {}",
            show_size(policy.max_object),
            show_size(memory)
        );
        let help = "make it smaller, or `memory` in [store] larger";
        let _: Option<()> = s.report.add(Problem::new(&s.at("max_object"), message).help(help));
    }
}

/// A default that fits into memory, if there is memory.
fn fitting(bytes: u64, memory: u64) -> u64 {
    if memory == 0 { bytes } else { bytes.min(memory) }
}

/// What a route says in two places that cannot both hold.
fn check_contradictions(s: &Section<'_, '_, '_>, policy: &RoutePolicy) {
    let add = |key, message: String, help: &str| {
        let _: Option<()> = s.report.add(Problem::new(&s.at(key), message).help(help));
    };
    let sure = s.is_sure(&["ttl", "ttl_by_status"]);
    let lasting = s.get("ttl").is_some() || s.get("ttl_by_status").is_some();
    if policy.origin != OriginRule::Respect && sure && !lasting {
        let word = policy.origin.as_str();
        add("origin", format!("`origin = \"{word}\"` has no `ttl` to go by"), "add ttl = \"60s\" to the route");
    }
    if let Some(methods) = policy.methods
        && methods.and(MethodMask::WRITES).is_empty()
        && s.get("invalidates").is_some()
    {
        let message = format!("nothing here invalidates: the route is for {methods} alone");
        add("invalidates", message, "add POST, PUT, PATCH or DELETE to `methods`, or leave `methods` out");
    }
    if !policy.cache {
        let keys = ["ttl", "ttl_by_status", "stale_while_revalidate", "stale_if_error", "stale_if_unreachable"];
        for key in keys.into_iter().filter(|key| s.get(key).is_some()) {
            let message = format!("`{key}` has no meaning where `cache` is false");
            add(key, message, "leave one of the two out");
        }
    }
}

fn check_names(routes: &[Read], report: &Report<'_>) {
    for (index, route) in routes.iter().enumerate() {
        let name = &route.policy.name;
        if let Some(first) = routes[..index].iter().find(|other| other.policy.name == *name) {
            let message = format!("the name `{name}` is taken by another route");
            let help = format!("give each route its own name; the first is at {}", report.place(&first.name_at));
            let _: Option<()> = report.add(Problem::new(&route.name_at, message).help(help));
        }
        if name == DEFAULT_ROUTE && !route.policy.matches_everything() {
            let message = "the name `default` is for the route that matches everything";
            let help = "give it another name, or leave out its `match`, `host` and `methods`";
            let _: Option<()> = report.add(Problem::new(&route.name_at, message).help(help));
        }
    }
}

/// Two routes with one template would answer for each other.
fn check_keys(routes: &[Read], report: &Report<'_>) {
    for (index, route) in routes.iter().enumerate() {
        let Some(key) = &route.policy.key else { continue };
        let same = |other: &&Read| other.policy.key.as_ref().is_some_and(|theirs| theirs.same_shape(key));
        if let Some(first) = routes[..index].iter().find(same) {
            let message = format!(
                "the routes `{}` and `{}` have the same key, `{key}`: each would answer with the other's responses",
                first.policy.name, route.policy.name
            );
            let help = format!("the first is at {}; begin one of the keys differently", report.place(&first.key_at));
            let _: Option<()> = report.add(Problem::new(&route.key_at, message).help(help));
        }
    }
}

/// Whether the routes for any host and any path leave no method out.
fn covers_everything(routes: &[Read]) -> bool {
    let everything = routes.iter().map(|route| &route.policy);
    everything
        .filter(|policy| policy.host.is_none() && policy.pattern.matches_everything())
        .fold(MethodMask::NONE, |mask, policy| mask.or(policy.methods.unwrap_or(MethodMask::ALL)))
        == MethodMask::ALL
}

fn check_conflicts(routes: &[&Read], report: &Report<'_>) {
    let policies: Vec<RoutePolicy> = routes.iter().map(|route| route.policy.clone()).collect();
    let Err(conflicts) = Routes::build(&policies) else {
        return;
    };
    for conflict in conflicts {
        let (at, message, help) = match conflict {
            RouteConflict::Tie { first, second, methods } => {
                let methods = match methods {
                    MethodMask::ALL => "every method".to_owned(),
                    some => some.to_string(),
                };
                let message = format!(
                    "the routes `{}` and `{}` both match {methods} of `{}`, and neither is more specific",
                    policies[first].name, policies[second].name, policies[second].pattern
                );
                let help = format!(
                    "remove one, or give it `host` or `methods`; the first is at {}",
                    report.place(&routes[first].at)
                );
                (second, message, help)
            }
            RouteConflict::Shadowed { route, by } => {
                let message =
                    format!("the route `{}` never matches: others take all of its methods", policies[route].name);
                let help = format!("one of them is `{}` at {}", policies[by].name, report.place(&routes[by].at));
                (route, message, help)
            }
            RouteConflict::Overlap { route, with: Some(other), .. } => {
                let message = format!(
                    "the routes `{}` and `{}` put different things in one place of the path: `{}` and `{}`",
                    policies[other].name, policies[route].name, policies[other].pattern, policies[route].pattern
                );
                let help = format!(
                    "give the place one form in both, or write the common paths out; the first is at {}",
                    report.place(&routes[other].at)
                );
                (route, message, help)
            }
            RouteConflict::Overlap { route, with: None, message } => {
                let message = format!("the route `{}` can't be told from another: {message}", policies[route].name);
                (route, message, "give one of them another `match`".to_owned())
            }
        };
        let _: Option<()> = report.add(Problem::new(&routes[at].match_at, message).help(help));
    }
}
