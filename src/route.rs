//! Which route a request belongs to: a table from host, method and path to the index of a route.
//!
//! The most specific route wins, compared in this order: an exact host before the longest wildcard host before any
//! host; then the path, literal text before a parameter before a catch-all; then a route that names its methods
//! before one that does not. Where a host's own routes match no path, the less specific hosts' are asked. Two routes
//! that would tie, and one that can never win, are refused when the table is built.

use std::collections::HashMap;
use std::fmt;

use foldhash::fast::RandomState;
use http::Method;

use crate::config::RoutePolicy;
use crate::template::MAX_PARAMS;

/// The longest host name, in bytes, that can match a host pattern (RFC 1035 section 2.3.4).
const MAX_HOST: usize = 255;

/// The classes that methods are routed by; `Get` stands for HEAD too, `Other` for all that have none of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MethodClass {
    /// GET and HEAD.
    Get,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
    /// OPTIONS.
    Options,
    /// Every other method.
    Other,
}

impl MethodClass {
    /// All classes, in the order of their numbers.
    pub const ALL: [MethodClass; 7] = [
        MethodClass::Get,
        MethodClass::Post,
        MethodClass::Put,
        MethodClass::Patch,
        MethodClass::Delete,
        MethodClass::Options,
        MethodClass::Other,
    ];

    /// The class of a method.
    pub fn of(method: &Method) -> MethodClass {
        match method.as_str() {
            "GET" | "HEAD" => MethodClass::Get,
            "POST" => MethodClass::Post,
            "PUT" => MethodClass::Put,
            "PATCH" => MethodClass::Patch,
            "DELETE" => MethodClass::Delete,
            "OPTIONS" => MethodClass::Options,
            _ => MethodClass::Other,
        }
    }

    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            MethodClass::Get => "GET",
            MethodClass::Post => "POST",
            MethodClass::Put => "PUT",
            MethodClass::Patch => "PATCH",
            MethodClass::Delete => "DELETE",
            MethodClass::Options => "OPTIONS",
            MethodClass::Other => "OTHER",
        }
    }
}

/// A set of method classes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MethodMask(u8);

impl MethodMask {
    /// No method.
    pub const NONE: MethodMask = MethodMask(0);
    /// Every method.
    pub const ALL: MethodMask = MethodMask(0x7f);
    /// The methods whose success invalidates: POST, PUT, PATCH, DELETE.
    pub const WRITES: MethodMask = MethodMask(0b0001_1110);

    /// This set and `class`.
    #[must_use]
    pub fn with(self, class: MethodClass) -> MethodMask {
        MethodMask(self.0 | 1 << class as u8)
    }

    /// What is in both sets.
    #[must_use]
    pub fn and(self, other: MethodMask) -> MethodMask {
        MethodMask(self.0 & other.0)
    }

    /// What is in either set.
    #[must_use]
    pub fn or(self, other: MethodMask) -> MethodMask {
        MethodMask(self.0 | other.0)
    }

    /// Whether `class` is in the set.
    pub fn contains(self, class: MethodClass) -> bool {
        self.0 & (1 << class as u8) != 0
    }

    /// Whether the set has no class in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its classes, in order.
    pub fn iter(self) -> impl Iterator<Item = MethodClass> {
        MethodClass::ALL.into_iter().filter(move |class| self.contains(*class))
    }
}

impl fmt::Display for MethodMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.iter().map(MethodClass::as_str).collect();
        f.write_str(&words.join(", "))
    }
}

impl fmt::Debug for MethodMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MethodMask({self})")
    }
}

/// The hosts that a route is for, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `api.example.com`.
    Exact(String),
    /// `*.example.com`, held as `.example.com`: every name below it, at any depth, but not itself.
    Suffix(String),
}

impl HostPattern {
    /// Parses `api.example.com` or `*.example.com`; says in the error what is wrong.
    pub fn parse(text: &str) -> Result<HostPattern, String> {
        let lower = text.to_ascii_lowercase();
        if let Some(suffix) = lower.strip_prefix('*') {
            let Some(name) = suffix.strip_prefix('.') else {
                return Err("a wildcard host begins with \"*.\", as in \"*.example.com\"".to_owned());
            };
            check_host(name)?;
            return Ok(HostPattern::Suffix(suffix.to_owned()));
        }
        check_host(&lower)?;
        Ok(HostPattern::Exact(lower))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// A host name, an IPv4 address or an IPv6 address in brackets, without a port.
fn check_host(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_HOST {
        return Err(format!("a host name has 1 to {MAX_HOST} characters"));
    }
    if let Some(inner) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<std::net::Ipv6Addr>().map(drop).map_err(|_| format!("`{inner}` is no IPv6 address"));
    }
    if let Some((_, port)) = name.rsplit_once(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Err("hosts are matched without their port; leave it out".to_owned());
    }
    match name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.' | '_')) {
        Some('*') => Err("a '*' can only stand at the beginning, as in \"*.example.com\"".to_owned()),
        Some(other) => Err(format!("{other:?} can't be in a host name")),
        None if name.split('.').any(str::is_empty) => Err("a host name has no empty parts between its dots".to_owned()),
        None => Ok(()),
    }
}

/// The routing table.
#[derive(Clone, Debug)]
pub struct Routes {
    exact: HashMap<Box<str>, Table, RandomState>,
    /// Longest suffix first.
    suffixes: Vec<(Box<str>, Table)>,
    any: Table,
}

/// The route that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match<'p> {
    /// The index of the route among the policies that the table was built from.
    pub route: usize,
    /// The values of its pattern's parameters.
    pub params: Params<'p>,
}

/// The values of a pattern's parameters, in order: the bytes of the path as they came, not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Params<'p> {
    values: [&'p str; MAX_PARAMS],
    len: u8,
}

/// A match that is kept apart from the path.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    route: usize,
    /// Where the parameters' values begin and end in the path.
    spans: [(u32, u32); MAX_PARAMS],
    len: u8,
}

impl Match<'_> {
    /// The match apart from its path.
    pub fn place(&self, path: &str) -> Place {
        let params = self.params.as_slice();
        let mut place = Place { route: self.route, spans: Default::default(), len: self.params.len };
        for (span, value) in place.spans.iter_mut().zip(params) {
            // A value is a part of the path, or empty.
            let begin = if value.is_empty() { 0 } else { value.as_ptr().addr() - path.as_ptr().addr() };
            let at = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            *span = (at(begin), at(begin + value.len()));
        }
        place
    }
}

impl Place {
    /// The match again, in the same path.
    pub fn on(self, path: &str) -> Match<'_> {
        let mut params = Params::default();
        for (begin, end) in &self.spans[..usize::from(self.len)] {
            params.push(path.get(*begin as usize..*end as usize).unwrap_or_default());
        }
        Match { route: self.route, params }
    }
}

impl<'p> Params<'p> {
    /// The values.
    pub fn as_slice(&self) -> &[&'p str] {
        &self.values[..usize::from(self.len)]
    }

    fn push(&mut self, value: &'p str) {
        if let Some(slot) = self.values.get_mut(usize::from(self.len)) {
            *slot = value;
            self.len += 1;
        }
    }
}

/// Why two routes, given by their indices, cannot be in one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteConflict {
    /// Both match the same requests and neither is more specific.
    Tie {
        /// The route that comes first.
        first: usize,
        /// The route that comes later.
        second: usize,
        /// The methods for which they tie.
        methods: MethodMask,
    },
    /// All that `route` matches goes to more specific routes, the last of which is `by`.
    Shadowed {
        /// The route that can never win.
        route: usize,
        /// One of the routes that win over it.
        by: usize,
    },
    /// The router cannot hold both patterns.
    Overlap {
        /// The route whose pattern was refused.
        route: usize,
        /// The route it collides with, where the router says so.
        with: Option<usize>,
        /// What the router says.
        message: String,
    },
}

/// The routes of one host class, a router for each method class.
#[derive(Clone, Debug, Default)]
struct Table {
    routers: [matchit::Router<Target>; MethodClass::ALL.len()],
    /// The routes that match everything, even what is no path, such as the `*` of `OPTIONS *`.
    everything: [Option<u16>; MethodClass::ALL.len()],
}

/// What a router holds for a pattern.
#[derive(Clone, Copy, Debug)]
struct Target {
    route: u16,
    /// Entered for the path that a catch-all leaves nothing of, which matchit itself does not match.
    empty_rest: bool,
}

impl Routes {
    /// Builds the table, or says which routes get into each other's way.
    pub fn build(policies: &[RoutePolicy]) -> Result<Routes, Vec<RouteConflict>> {
        let mut conflicts = Vec::new();
        let won = claim(policies, &mut conflicts);
        let mut routes = Routes { exact: HashMap::default(), suffixes: Vec::new(), any: Table::default() };
        for empty_rest in [false, true] {
            for (index, policy) in policies.iter().enumerate() {
                let table = routes.table(policy.host.as_ref());
                if let Err(message) = table.insert(index, policy, won[index], empty_rest) {
                    // The router names the pattern that was there before; nearly always that is one of ours.
                    let named = |p: &RoutePolicy| message.ends_with(p.pattern.as_str());
                    let with = policies[..index].iter().rposition(named);
                    conflicts.push(RouteConflict::Overlap { route: index, with, message });
                }
            }
        }
        routes.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        if conflicts.is_empty() { Ok(routes) } else { Err(conflicts) }
    }

    /// The route for a request; `host` with or without a port, in any case, `path` without its query.
    ///
    /// `None` only where no route matches everything. Nothing is allocated here; matchit itself allocates for a
    /// pattern of more than three parameters and where a literal and a parameter compete for one place in the path.
    pub fn find<'p>(&self, host: &str, method: &Method, path: &'p str) -> Option<Match<'p>> {
        let class = MethodClass::of(method);
        if (!self.exact.is_empty() || !self.suffixes.is_empty()) && host.len() <= MAX_HOST {
            let mut buffer = [0; MAX_HOST];
            let host = without_port(lower(host, &mut buffer));
            let exact = self.exact.get(host).into_iter();
            let suffixes = self.suffixes.iter().filter(|(suffix, _)| is_below(host, suffix)).map(|(_, table)| table);
            if let Some(found) = exact.chain(suffixes).find_map(|table| table.find(class, path)) {
                return Some(found);
            }
        }
        self.any.find(class, path)
    }

    fn table(&mut self, host: Option<&HostPattern>) -> &mut Table {
        match host {
            None => &mut self.any,
            Some(HostPattern::Exact(name)) => self.exact.entry(name.as_str().into()).or_default(),
            Some(HostPattern::Suffix(suffix)) => {
                let at = self.suffixes.iter().position(|(known, _)| **known == **suffix).unwrap_or_else(|| {
                    self.suffixes.push((suffix.as_str().into(), Table::default()));
                    self.suffixes.len() - 1
                });
                &mut self.suffixes[at].1
            }
        }
    }
}

impl Table {
    fn insert(
        &mut self,
        index: usize,
        policy: &RoutePolicy,
        methods: MethodMask,
        empty_rest: bool,
    ) -> Result<(), String> {
        let Ok(route) = u16::try_from(index) else {
            return Err("there are too many routes".to_owned());
        };
        if policy.pattern.matches_everything() {
            // Nothing is less specific: no search is needed for it.
            methods.iter().for_each(|class| self.everything[class as usize] = Some(route));
            return Ok(());
        }
        let text = policy.pattern.as_str();
        let pattern = match text.rfind('{') {
            _ if !empty_rest => text,
            Some(at) if policy.pattern.is_catch_all() => &text[..at],
            _ => return Ok(()),
        };
        for class in methods.iter() {
            let inserted = self.routers[class as usize].insert(pattern, Target { route, empty_rest });
            // A route with the literal path itself is more specific than the catch-all that ends there.
            if !empty_rest {
                inserted.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    fn find<'p>(&self, class: MethodClass, path: &'p str) -> Option<Match<'p>> {
        let mut params = Params::default();
        if let Ok(found) = self.routers[class as usize].at(path) {
            found.params.iter().for_each(|(_, value)| params.push(value));
            if found.value.empty_rest {
                params.push("");
            }
            return Some(Match { route: usize::from(found.value.route), params });
        }
        let route = usize::from(self.everything[class as usize]?);
        params.push(path.strip_prefix('/').unwrap_or(path));
        Some(Match { route, params })
    }
}

/// The methods that each route gets among those of its own host and shape: a tie or an empty share is a conflict.
fn claim(policies: &[RoutePolicy], conflicts: &mut Vec<RouteConflict>) -> Vec<MethodMask> {
    let mut groups: HashMap<_, Vec<usize>> = HashMap::new();
    for (index, policy) in policies.iter().enumerate() {
        groups.entry((&policy.host, policy.pattern.shape())).or_default().push(index);
    }
    let mut won = vec![MethodMask::NONE; policies.len()];
    for (index, policy) in policies.iter().enumerate() {
        let Some(group) = groups.get(&(&policy.host, policy.pattern.shape())) else {
            continue;
        };
        let mut share = policy.methods.unwrap_or(MethodMask::ALL);
        let mut by = None;
        for &other in group.iter().filter(|other| **other != index) {
            let theirs = &policies[other];
            let methods = share.and(theirs.methods.unwrap_or(MethodMask::ALL));
            if theirs.methods.is_some() == policy.methods.is_some() {
                if other < index && !methods.is_empty() {
                    conflicts.push(RouteConflict::Tie { first: other, second: index, methods });
                    share = share.without(methods);
                }
            } else if theirs.methods.is_some() {
                share = share.without(methods);
                by = Some(other);
            }
        }
        if let (true, Some(by)) = (share.is_empty(), by) {
            conflicts.push(RouteConflict::Shadowed { route: index, by });
        }
        won[index] = share;
    }
    won
}

impl MethodMask {
    fn without(self, other: MethodMask) -> MethodMask {
        MethodMask(self.0 & !other.0)
    }
}

/// `host` in lower case, in `buffer` unless it is so already.
fn lower<'a>(host: &'a str, buffer: &'a mut [u8; MAX_HOST]) -> &'a str {
    if !host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return host;
    }
    let copy = &mut buffer[..host.len()];
    copy.copy_from_slice(host.as_bytes());
    copy.make_ascii_lowercase();
    std::str::from_utf8(copy).unwrap_or(host)
}

/// A host without its port.
fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(at) if !host[at..].contains(']') => &host[..at],
        _ => host,
    }
}

/// Whether `host` is a name below `suffix`, which begins with its dot.
fn is_below(host: &str, suffix: &str) -> bool {
    host.len() > suffix.len() && host.ends_with(suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_cut_off_and_an_address_in_brackets_is_not() {
        for (host, want) in [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")] {
            assert_eq!(without_port(host), want);
        }
    }
    use crate::config::Source;
    use crate::template::Pattern;

    /// `HOST? METHODS? PATTERN`, as in `*.a.com GET,POST /x/{id}`.
    fn policy(text: &str) -> RoutePolicy {
        let words: Vec<&str> = text.split(' ').collect();
        let mut policy = RoutePolicy::new(text, Pattern::parse(words[words.len() - 1]).unwrap(), Source::built_in());
        for word in &words[..words.len() - 1] {
            if word.contains('.') {
                policy.host = Some(HostPattern::parse(word).unwrap());
            } else {
                let class = |name: &str| MethodClass::ALL.into_iter().find(|class| class.as_str() == name).unwrap();
                policy.methods = Some(word.split(',').fold(MethodMask::NONE, |mask, name| mask.with(class(name))));
            }
        }
        policy
    }

    fn policies(texts: &[&str]) -> Vec<RoutePolicy> {
        texts.iter().map(|text| policy(text)).collect()
    }

    /// The route found, as it was written, and its parameters.
    fn found<'p>(
        texts: &[&'static str],
        host: &str,
        method: &str,
        path: &'p str,
    ) -> Option<(&'static str, Vec<&'p str>)> {
        let routes = Routes::build(&policies(texts)).unwrap();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let found = routes.find(host, &method, path)?;
        Some((texts[found.route], found.params.as_slice().to_vec()))
    }

    #[test]
    fn literal_text_wins_over_a_parameter_and_a_parameter_over_a_catch_all() {
        let texts = ["/{*rest}", "/users/{id}", "/users/me", "/files/{*path}"];
        let path = |path| found(&texts, "h", "GET", path).unwrap();
        assert_eq!(path("/users/me"), ("/users/me", vec![]));
        assert_eq!(path("/users/7"), ("/users/{id}", vec!["7"]));
        assert_eq!(path("/users/7/posts"), ("/{*rest}", vec!["users/7/posts"]));
        assert_eq!(path("/files/a/b"), ("/files/{*path}", vec!["a/b"]));
        assert_eq!(path("/other"), ("/{*rest}", vec!["other"]));
    }

    #[test]
    fn a_match_apart_from_its_path_is_the_same_again() {
        let routes = Routes::build(&policies(&["/{*rest}", "/users/{id}/posts/{post}", "/files/{*path}"])).unwrap();
        for path in ["/users/7/posts/abc", "/files/", "/files/a/b", "/", "//x", "*"] {
            let found = routes.find("h", &Method::GET, path).unwrap();
            assert_eq!(found.place(path).on(path), found, "{path}");
        }
    }

    #[test]
    fn a_catch_all_matches_nothing_left_too_unless_a_literal_does() {
        let texts = ["/{*rest}", "/files/{*path}", "/docs/{*path}", "/docs/"];
        let path = |path| found(&texts, "h", "GET", path).unwrap();
        assert_eq!(path("/"), ("/{*rest}", vec![""]));
        assert_eq!(path("/files/"), ("/files/{*path}", vec![""]));
        assert_eq!(path("/files"), ("/{*rest}", vec!["files"]));
        assert_eq!(path("/docs/"), ("/docs/", vec![]));
    }

    #[test]
    fn the_route_for_everything_takes_what_is_no_path_too() {
        assert_eq!(found(&["/{*rest}"], "h", "OPTIONS", "*"), Some(("/{*rest}", vec!["*"])));
        assert_eq!(found(&["/{*rest}"], "h", "GET", "//x"), Some(("/{*rest}", vec!["/x"])));
        assert_eq!(found(&["/a"], "h", "GET", "/b"), None);
    }

    #[test]
    fn an_exact_host_wins_over_the_longest_wildcard_and_that_over_any() {
        let texts = ["/{*r}", "*.example.com /{*r}", "*.eu.example.com /{*r}", "api.eu.example.com /{*r}"];
        let host = |host| found(&texts, host, "GET", "/x").unwrap().0;
        assert_eq!(host("api.eu.example.com"), texts[3]);
        assert_eq!(host("API.EU.Example.com"), texts[3]);
        assert_eq!(host("web.eu.example.com"), texts[2]);
        assert_eq!(host("a.b.eu.example.com"), texts[2]);
        assert_eq!(host("eu.example.com"), texts[1]);
        assert_eq!(host("example.com"), texts[0]);
        assert_eq!(host("notexample.com"), texts[0]);
        assert_eq!(host(&"A".repeat(300)), texts[0]);
    }

    #[test]
    fn a_host_without_a_match_for_the_path_falls_through() {
        let texts = ["/b/{id}", "*.example.com /a", "api.example.com /c"];
        let path = |path| found(&texts, "api.example.com", "GET", path);
        assert_eq!(path("/c"), Some((texts[2], vec![])));
        assert_eq!(path("/a"), Some((texts[1], vec![])));
        assert_eq!(path("/b/1"), Some((texts[0], vec!["1"])));
        assert_eq!(path("/d"), None);
    }

    #[test]
    fn a_route_that_names_its_methods_wins_and_head_goes_with_get() {
        let texts = ["/{*r}", "GET /u/{id}", "/u/{id}", "POST,OTHER /u/{id}"];
        let method = |method| found(&texts, "h", method, "/u/1").unwrap().0;
        assert_eq!(method("GET"), texts[1]);
        assert_eq!(method("HEAD"), texts[1]);
        assert_eq!(method("POST"), texts[3]);
        assert_eq!(method("PURGE"), texts[3]);
        assert_eq!(method("DELETE"), texts[2]);
    }

    #[test]
    fn a_route_for_other_methods_leaves_the_path_to_the_next() {
        assert_eq!(found(&["/{*r}", "POST /u/{id}"], "h", "GET", "/u/1"), Some(("/{*r}", vec!["u/1"])));
    }

    #[test]
    fn values_are_the_bytes_of_the_path() {
        assert_eq!(found(&["/u/{id}"], "h", "GET", "/u/a%2Fb%20"), Some(("/u/{id}", vec!["a%2Fb%20"])));
        let texts = ["/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}"];
        let values = found(&texts, "h", "GET", "/1/2/3/4/5/6/7/8").unwrap().1;
        assert_eq!(values, ["1", "2", "3", "4", "5", "6", "7", "8"]);
        assert_eq!(found(&["/v-{id}.json"], "h", "GET", "/v-7.json"), Some(("/v-{id}.json", vec!["7"])));
    }

    #[test]
    fn routes_that_tie_are_refused_with_the_methods_for_which_they_do() {
        let conflicts = Routes::build(&policies(&["/u/{id}", "/u/{name}"])).unwrap_err();
        assert_eq!(conflicts, [RouteConflict::Tie { first: 0, second: 1, methods: MethodMask::ALL }]);
        let conflicts = Routes::build(&policies(&["GET,POST /u", "GET /u", "a.com /u"])).unwrap_err();
        let get = MethodMask::NONE.with(MethodClass::Get);
        assert_eq!(conflicts, [RouteConflict::Tie { first: 0, second: 1, methods: get }]);
        assert!(Routes::build(&policies(&["GET /u", "POST /u", "/u", "a.com /u", "*.a.com /u"])).is_ok());
    }

    #[test]
    fn a_route_that_can_never_win_is_refused() {
        let texts = ["/u", "GET,POST,PUT,PATCH /u", "DELETE,OPTIONS,OTHER /u"];
        let conflicts = Routes::build(&policies(&texts)).unwrap_err();
        assert_eq!(conflicts, [RouteConflict::Shadowed { route: 0, by: 2 }]);
    }

    #[test]
    fn hosts_that_are_none_are_refused() {
        for text in ["", "a b", "a.com:80", "a..b", "*a.com", "a.*.com", "*.", "[::1"] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
        assert_eq!(HostPattern::parse("API.example.com"), Ok(HostPattern::Exact("api.example.com".to_owned())));
        assert_eq!(HostPattern::parse("[::1]"), Ok(HostPattern::Exact("[::1]".to_owned())));
        assert_eq!(HostPattern::parse("*.Example.com").unwrap().to_string(), "*.example.com");
    }

    #[test]
    fn a_mask_lists_its_methods() {
        assert_eq!(MethodMask::WRITES.to_string(), "POST, PUT, PATCH, DELETE");
        assert_eq!(MethodMask::ALL.iter().count(), 7);
    }
}
