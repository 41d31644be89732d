//! YAML into the tree: one document, string keys, no tags.

use std::ops::Range;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

use super::error::{Origin, Problem, Report};
use super::node::{Entry, Node, Value};

/// Parses a whole file; `None`, with what is malformed reported, if it is no YAML.
pub(super) fn parse(text: &str, report: &Report<'_>) -> Option<Node> {
    // The parser counts characters, the tree bytes.
    let bytes: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let reader = Reader { bytes, report };
    match MarkedYaml::load_from_str(text) {
        Err(error) => {
            let at = reader.byte(error.marker().index());
            report.add(Problem::new(&Origin::File(at..at), format!("this is no YAML: {}", error.info())))
        }
        Ok(documents) => match documents.as_slice() {
            [] => Some(Node::table(Origin::Whole)),
            [document] => {
                let node = reader.node(document)?;
                let at = if matches!(node.value, Value::Table(_)) { Origin::Whole } else { node.at };
                Some(Node { at, ..node })
            }
            [_, second, ..] => {
                report.add(Problem::new(&Origin::File(reader.range(second)), "there can be one document only"))
            }
        },
    }
}

struct Reader<'r, 't> {
    bytes: Vec<usize>,
    report: &'r Report<'t>,
}

impl Reader<'_, '_> {
    fn byte(&self, index: usize) -> usize {
        self.bytes.get(index).or(self.bytes.last()).copied().unwrap_or(0)
    }

    fn range(&self, node: &MarkedYaml<'_>) -> Range<usize> {
        self.byte(node.span.start.index())..self.byte(node.span.end.index())
    }

    fn node(&self, node: &MarkedYaml<'_>) -> Option<Node> {
        let range = self.range(node);
        let value = match &node.data {
            YamlData::Value(scalar) => self.scalar(scalar, &range),
            YamlData::Sequence(items) => Value::List(items.iter().filter_map(|item| self.node(item)).collect()),
            YamlData::Mapping(entries) => {
                let mut table: Vec<Entry> = Vec::new();
                for (key, value) in entries {
                    self.entry(key, value, &mut table);
                }
                Value::Table(table)
            }
            YamlData::Tagged(..) => Value::Odd("a value with a tag"),
            _ => Value::Odd("something that is no value"),
        };
        Some(Node { value, at: Origin::File(range) })
    }

    fn scalar(&self, scalar: &Scalar<'_>, range: &Range<usize>) -> Value {
        match scalar {
            Scalar::Null => Value::Null,
            Scalar::Boolean(value) => Value::Bool(*value),
            Scalar::Integer(number) => Value::Integer(i128::from(*number)),
            Scalar::FloatingPoint(_) => Value::Float(self.report.slice(range).trim().to_owned()),
            Scalar::String(text) => Value::String(text.to_string()),
        }
    }

    fn entry(&self, key: &MarkedYaml<'_>, value: &MarkedYaml<'_>, table: &mut Vec<Entry>) {
        let key_range = self.range(key);
        let key_at = Origin::File(key_range.clone());
        let name = match &key.data {
            YamlData::Value(Scalar::String(text)) => text.to_string(),
            YamlData::Value(_) => self.report.slice(&key_range).trim().to_owned(),
            _ => {
                let _: Option<()> = self.report.add(Problem::new(&key_at, "a key must be a string"));
                return;
            }
        };
        if table.iter().any(|entry| entry.key == name) {
            let _: Option<()> = self.report.add(Problem::new(&key_at, format!("the key `{name}` is there twice")));
        } else if let Some(node) = self.node(value) {
            table.push(Entry { key: name, key_at, node });
        }
    }
}
