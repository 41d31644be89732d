//! TOML into the tree. Duplicate keys are refused by the parser itself.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Origin, Problem, Report};
use super::node::{Entry, Node, Value};

/// Parses a whole file; `None`, with all that is malformed reported, if it is no TOML.
pub(super) fn parse(text: &str, report: &Report<'_>) -> Option<Node> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Some(Node { value: self::table(table.into_inner()), at: Origin::Whole });
    }
    for error in errors {
        let at = error.span().map_or(Origin::Whole, Origin::File);
        let _: Option<()> = report.add(Problem::new(&at, format!("this is no TOML: {}", error.message())));
    }
    None
}

fn table(table: DeTable<'_>) -> Value {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| {
            let key_at = Origin::File(key.span());
            Entry { key: key.into_inner().into_owned(), key_at, node: node(value) }
        })
        .collect();
    entries.sort_by(|a, b| a.key_at.order().cmp(&b.key_at.order()));
    Value::Table(entries)
}

fn node(value: Spanned<DeValue<'_>>) -> Node {
    let at = Origin::File(value.span());
    let value = match value.into_inner() {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Value::Float(number.to_string()), Value::Integer),
        DeValue::Float(number) => Value::Float(number.to_string()),
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(_) => Value::Odd("a date or time"),
        DeValue::Array(items) => Value::List(items.into_iter().map(node).collect()),
        DeValue::Table(entries) => table(entries),
    };
    Node { value, at }
}
