//! The environment over the tree: `ASIDECAR_STORE__REDIS` is `redis` in `[store]`.

use std::sync::Arc;

use super::error::{Origin, Problem, Report, closest};
use super::node::{Node, Value};
use super::schema;

const PREFIX: &str = "ASIDECAR_";

/// Variables with the prefix that are no keys: the command line reads them.
const EXEMPT: [&str; 2] = ["ASIDECAR_CONFIG", "ASIDECAR_LOG"];

/// Lays what the variables say over the tree; those that name no key are reported.
pub(super) fn overlay(tree: &mut Node, env: impl Iterator<Item = (String, String)>, report: &Report<'_>) {
    let mut variables: Vec<_> =
        env.filter(|(name, _)| name.starts_with(PREFIX) && !EXEMPT.contains(&name.as_str())).collect();
    variables.sort();
    for (name, value) in variables {
        let at = Origin::Variable(Arc::from(name.as_str()));
        match schema::sections().find(|(section, key)| variable(section, key) == name) {
            Some((section, key)) => tree.overlay(&[section, key], Node { value: Value::Untyped(value), at }),
            None => unknown(&name, &at, report),
        }
    }
}

/// The variable for a key.
pub(super) fn variable(section: &str, key: &str) -> String {
    format!("{PREFIX}{}__{}", section.to_uppercase(), key.to_uppercase())
}

fn unknown(name: &str, at: &Origin, report: &Report<'_>) {
    let known: Vec<String> = schema::sections().map(|(section, key)| variable(section, key)).collect();
    let help = if name.starts_with("ASIDECAR_ROUTE") {
        "routes can be given in a file only".to_owned()
    } else {
        // A single underscore where two belong is the likeliest mistake, and no small distance.
        let flat = |text: &str| text.to_uppercase().replace('_', "");
        known
            .iter()
            .find(|candidate| flat(candidate) == flat(name))
            .map(String::as_str)
            .or_else(|| closest(name, known.iter().map(String::as_str)))
            .map_or_else(
                || "a variable is named ASIDECAR_SECTION__KEY, as in ASIDECAR_LISTEN__PROXY".to_owned(),
                |meant| format!("did you mean {meant}?"),
            )
    };
    let _: Option<()> = report.add(Problem::new(at, "this variable names no key of the configuration").help(help));
}
