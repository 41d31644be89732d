//! The kinds of values that only routes have.

use std::time::Duration;

use http::HeaderName;

use super::error::{Problem, Report};
use super::node::{Node, Value};
use super::policy::{CookieRule, NamePattern, QueryRule};
use super::read::{Section, lifetime, list, one_of, parsed, text, within, word};
use crate::route::{MethodClass, MethodMask};
use crate::template::{Pattern, Template, TemplateError};

/// A route's name.
pub(super) fn route_name(text: &str) -> Result<String, String> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=64).contains(&text.len()) && text.bytes().all(fine) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is no name for a route: it is 1 to 64 letters, digits, '_' and '-'"))
}

/// Points at the part of the string that is at fault.
fn template_problem<T>(node: &Node, text: &str, error: TemplateError, report: &Report<'_>) -> Option<T> {
    let at = within(node, text, &error.at, report);
    report.add(Problem::new(&at, error.message).maybe_help(error.help))
}

/// A path pattern; an error points at its part of the string.
pub(super) fn path_pattern(node: &Node, report: &Report<'_>) -> Option<Pattern> {
    let text = text(node, report, "write a path, as in \"/users/{id}\"")?;
    Pattern::parse(text).map_or_else(|error| template_problem(node, text, error, report), Some)
}

/// A template with the pattern's parameters; an error points at its part of the string.
pub(super) fn template(node: &Node, params: &[String], report: &Report<'_>) -> Option<Template> {
    let text = text(node, report, "write text, as in \"user:{id}\"")?;
    Template::parse(text, params).map_or_else(|error| template_problem(node, text, error, report), Some)
}

/// A list of methods.
pub(super) fn methods(node: &Node, report: &Report<'_>) -> Option<MethodMask> {
    const METHODS: &[(&str, Option<MethodClass>)] = &[
        ("GET", Some(MethodClass::Get)),
        ("POST", Some(MethodClass::Post)),
        ("PUT", Some(MethodClass::Put)),
        ("PATCH", Some(MethodClass::Patch)),
        ("DELETE", Some(MethodClass::Delete)),
        ("OPTIONS", Some(MethodClass::Options)),
        ("OTHER", Some(MethodClass::Other)),
        // Routed with GET.
        ("HEAD", None),
    ];
    let classes = list(one_of(METHODS))(node, report)?;
    let mask = classes.iter().flatten().fold(MethodMask::NONE, |mask, class| mask.with(*class));
    if classes.is_empty() {
        return report.add(Problem::new(&node.at, "a route for no method").help("leave `methods` out for all of them"));
    }
    if classes.contains(&None) && !mask.contains(MethodClass::Get) {
        return report.add(
            Problem::new(&node.at, "HEAD goes with GET, as it is answered with what GET stored").help("add \"GET\""),
        );
    }
    Some(mask)
}

/// The query rule, and whether parameters are sorted.
pub(super) fn query(node: &Node, report: &Report<'_>) -> Option<(QueryRule, bool)> {
    const WORDS: &[(&str, (bool, bool))] =
        &[("all", (true, false)), ("sort", (true, true)), ("ignore", (false, false))];
    let Value::Table(_) = &node.value else {
        let (all, sort) = word(node, report, WORDS, ", { only = [\"page\"] } or { except = [\"utm_*\"] }")?;
        return Some((if all { QueryRule::All } else { QueryRule::Ignore }, sort));
    };
    let section = Section::new("`query`", &["only", "except"], Some(node), report);
    let names = || list(parsed(NamePattern::parse, ""));
    let rule = match (section.get("only"), section.get("except")) {
        (Some(_), None) => section.read("only", names()).map(QueryRule::Only),
        (None, Some(_)) => section.read("except", names()).map(QueryRule::Except),
        (None, None) if !section.is_sure(&["only", "except"]) => None,
        (only, _) => {
            let message =
                if only.is_some() { "`only` and `except` exclude each other" } else { "`query` names no parameters" };
            report.add(Problem::new(&node.at, message).help("write { only = [\"page\"] } or { except = [\"utm_*\"] }"))
        }
    };
    section.finish();
    rule.map(|rule| (rule, true))
}

/// The cookie rule.
pub(super) fn cookies(node: &Node, report: &Report<'_>) -> Option<CookieRule> {
    let Value::Table(_) = &node.value else {
        let words = [("bypass", 0), ("ignore", 1), ("origin", 2)];
        let rules = [CookieRule::Bypass, CookieRule::Ignore, CookieRule::Origin];
        let chosen = word(node, report, &words, " or { key = [\"tenant\"] }")?;
        return rules.into_iter().nth(chosen);
    };
    let section = Section::new("`cookies`", &["key"], Some(node), report);
    let names = match section.read("key", list(parsed(cookie_name, ""))) {
        Some(names) if !names.is_empty() => Some(names),
        None if !section.is_sure(&["key"]) => None,
        _ => report.add(
            Problem::new(&section.at("key"), "`cookies` names no cookie")
                .help("write { key = [\"tenant\"] }, or \"ignore\""),
        ),
    };
    section.finish();
    names.map(CookieRule::Key)
}

/// A cookie's name is a token (RFC 6265 section 4.1.1), which a field's name is too.
fn cookie_name(text: &str) -> Result<String, String> {
    match HeaderName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("`{text}` is no name of a cookie")),
    }
}

/// The name of a request field that can be in the key.
pub(super) fn vary_field(node: &Node, report: &Report<'_>) -> Option<HeaderName> {
    let name = text(node, report, "write a field's name, as in \"accept-language\"")?;
    let (message, help) = match name.to_ascii_lowercase().as_str() {
        "*" => {
            ("`*` would make every request differ from every other".to_owned(), "to store nothing, write cache = false")
        }
        "cookie" => ("cookies are keyed by `cookies`".to_owned(), "write cookies = { key = [\"tenant\"] }"),
        "authorization" => ("credentials are keyed by `authorization`".to_owned(), "write authorization = \"key\""),
        lower => match HeaderName::try_from(lower) {
            Ok(name) => return Some(name),
            Err(_) => (format!("`{name}` is no name of a request field"), "as in \"accept-language\""),
        },
    };
    report.add(Problem::new(&node.at, message).help(help))
}

/// A table of lifetimes by status or, as 2 to 5, by class of statuses.
pub(super) fn ttl_by_status(node: &Node, report: &Report<'_>) -> Option<Vec<(u16, Duration)>> {
    let Value::Table(entries) = &node.value else {
        let message = format!("a table is expected, and this is {}", node.kind());
        return report.add(Problem::new(&node.at, message).help("write { \"404\" = \"5s\", \"5xx\" = \"1s\" }"));
    };
    let read: Vec<Option<(u16, Duration)>> = entries
        .iter()
        .map(|entry| {
            let ttl = lifetime(&entry.node, report);
            let status = status(&entry.key).or_else(|| {
                report.add(
                    Problem::new(&entry.key_at, format!("`{}` is no status of a response", entry.key))
                        .help("a status is a number from 200 to 599, as in \"404\", or a class, as in \"5xx\""),
                )
            });
            status.zip(ttl)
        })
        .collect();
    read.into_iter().collect()
}

/// `404`, or a class as its first digit.
fn status(text: &str) -> Option<u16> {
    if let Some(class) = text.to_ascii_lowercase().strip_suffix("xx") {
        return class.parse().ok().filter(|class| (2..=5).contains(class));
    }
    text.parse().ok().filter(|status| (200..=599).contains(status))
}
