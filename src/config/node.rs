//! One tree for all that can be read: values with where they come from. TOML, YAML and the environment are turned
//! into it, and nothing after it knows which of them a value came from, except to say so.

use super::error::Origin;

/// A value and where it comes from.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub value: Value,
    pub at: Origin,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    String(String),
    Integer(i128),
    /// A number with a fraction or an exponent, or one too large, as it is written.
    Float(String),
    Bool(bool),
    /// A TOML date or time, or a YAML value with a tag: nothing is configured with one.
    Odd(&'static str),
    /// Nothing, as after a YAML key without a value.
    Null,
    /// Text from an environment variable, which has no type until something of a type is expected.
    Untyped(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key of a table with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub key_at: Origin,
    pub node: Node,
}

impl Node {
    pub(super) fn table(at: Origin) -> Node {
        Node { value: Value::Table(Vec::new()), at }
    }

    /// What it is, in words.
    pub(super) fn kind(&self) -> String {
        match &self.value {
            Value::String(_) | Value::Untyped(_) => "a string".to_owned(),
            Value::Integer(number) => format!("the number {number}"),
            Value::Float(text) => format!("the number {text}"),
            Value::Bool(value) => value.to_string(),
            Value::Odd(what) => (*what).to_owned(),
            Value::Null => "nothing".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
        }
    }

    /// Puts `node` at a path of keys below this table, over what is there. Does nothing where something on the way
    /// is no table: reading that will say so.
    pub(super) fn overlay(&mut self, path: &[&str], node: Node) {
        let (Value::Table(entries), [key, rest @ ..]) = (&mut self.value, path) else {
            return;
        };
        let found = entries.iter().position(|entry| entry.key == *key).unwrap_or_else(|| {
            let at = node.at.clone();
            entries.push(Entry { key: (*key).to_owned(), key_at: at.clone(), node: Node::table(at) });
            entries.len() - 1
        });
        let Some(entry) = entries.get_mut(found) else { return };
        if rest.is_empty() {
            entry.key_at = node.at.clone();
            entry.node = node;
        } else {
            entry.node.overlay(rest, node);
        }
    }
}
