//! Reading typed values out of the tree. Each kind of value is a function from a node to the value; what is wrong it
//! reports, and answers `None`, so that reading goes on and every error is found.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use super::error::{Origin, Problem, Report, closest};
use super::node::{Entry, Node, Value};
use super::{schema, units};
use crate::freshness::LONGEST_LIFE;

/// A table that is being read. [`Section::finish`] reports the keys that it does not know.
pub(super) struct Section<'n, 'r, 't> {
    /// The table as it is written, `[listen]`.
    pub title: &'static str,
    pub at: Origin,
    pub report: &'r Report<'t>,
    entries: &'n [Entry],
    keys: &'static [&'static str],
    /// Nobody knows what it would say: it is no table, or stands under a name that is mistyped.
    doubtful: bool,
    /// The keys whose values are unsound.
    unsound: RefCell<Vec<&'static str>>,
}

impl<'n, 'r, 't> Section<'n, 'r, 't> {
    /// The table that `node` is; an empty one if there is no node or, reported, if it is something else.
    pub(super) fn new(
        title: &'static str,
        keys: &'static [&'static str],
        node: Option<&'n Node>,
        report: &'r Report<'t>,
    ) -> Self {
        let at = node.map_or(Origin::Whole, |node| node.at.clone());
        let (entries, doubtful) = match node.map(|node| &node.value) {
            Some(Value::Table(entries)) => (entries.as_slice(), false),
            // A YAML section whose keys are all commented out.
            Some(Value::Null) | None => (&[][..], false),
            Some(_) => {
                let message = format!("`{title}` is a table, and this is {}", node.map(Node::kind).unwrap_or_default());
                let _: Option<()> = report.add(Problem::new(&at, message));
                (&[][..], true)
            }
        };
        Section { title, at, report, entries, keys, doubtful, unsound: RefCell::default() }
    }

    /// The section, of which nothing is sure if `doubtful`.
    pub(super) fn doubtful_if(self, doubtful: bool) -> Self {
        Section { doubtful: self.doubtful || doubtful, ..self }
    }

    /// Whether it is known what these keys say, be it nothing: none of them is mistyped or has an unsound value. What
    /// would be concluded from them otherwise is no error of its own.
    pub(super) fn is_sure(&self, keys: &[&'static str]) -> bool {
        let mistyped = |key: &'static str| {
            let mut unknown = self.entries.iter().filter(|entry| !self.keys.contains(&entry.key.as_str()));
            self.get(key).is_none() && unknown.any(|entry| self.meant(entry) == Some(key))
        };
        !self.doubtful && !keys.iter().any(|key| self.unsound.borrow().contains(key) || mistyped(key))
    }

    /// The key that was probably meant by one that is unknown.
    fn meant(&self, entry: &Entry) -> Option<&'static str> {
        closest(&entry.key, self.keys.iter().copied())
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &'static str) -> Option<&'n Node> {
        debug_assert!(self.keys.contains(&key), "{key} is missing from the schema");
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// Where a key's value is; the section itself where it has none.
    pub(super) fn at(&self, key: &'static str) -> Origin {
        self.get(key).map_or_else(|| self.at.clone(), |node| node.at.clone())
    }

    /// The value of a key, read as a kind.
    pub(super) fn read<T>(&self, key: &'static str, kind: impl Fn(&Node, &Report<'t>) -> Option<T>) -> Option<T> {
        let value = kind(self.get(key)?, self.report);
        if value.is_none() {
            self.unsound.borrow_mut().push(key);
        }
        value
    }

    /// Puts the value of a key, if it is there and sound, over what `field` holds.
    pub(super) fn set<T>(&self, key: &'static str, kind: impl Fn(&Node, &Report<'t>) -> Option<T>, field: &mut T) {
        if let Some(value) = self.read(key, kind) {
            *field = value;
        }
    }

    /// Reports the keys that are none.
    pub(super) fn finish(self) {
        for entry in self.entries.iter().filter(|entry| !self.keys.contains(&entry.key.as_str())) {
            let help = match self.meant(entry) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => match schema::home_of(&entry.key) {
                    Some(home) if home != self.title => format!("`{}` belongs in {home}", entry.key),
                    _ => format!("{} has {}", self.title, self.keys.join(", ")),
                },
            };
            let message = format!("unknown key `{}` in {}", entry.key, self.title);
            let _: Option<()> = self.report.add(Problem::new(&entry.key_at, message).help(help));
        }
    }
}

/// Any text; `help` says what to write where there is something else.
pub(super) fn text<'n>(node: &'n Node, report: &Report<'_>, help: &str) -> Option<&'n str> {
    text_for(node, report, "a string", Some(help))
}

/// Text, where a number is a likely mistake.
fn text_for<'n>(node: &'n Node, report: &Report<'_>, wanted: &str, help: Option<&str>) -> Option<&'n str> {
    match &node.value {
        Value::Untyped(text) if text.is_empty() => report.add(
            Problem::new(&node.at, format!("this is empty, and {wanted} is expected"))
                .help("unset the variable to leave the key as it is"),
        ),
        Value::String(text) | Value::Untyped(text) => Some(text),
        _ => report.add(
            Problem::new(&node.at, format!("{wanted} is expected, and this is {}", node.kind()))
                .maybe_help(help.map(str::to_owned)),
        ),
    }
}

/// A duration; with `positive`, longer than nothing.
fn any_duration(node: &Node, report: &Report<'_>, positive: bool) -> Option<Duration> {
    let help = match &node.value {
        Value::Integer(number) if *number >= 0 => format!("write \"{number}s\" for seconds"),
        Value::Float(text) => match units::seconds(text) {
            Some(duration) => format!("write \"{}\" for {text} seconds", units::show_duration(duration)),
            None => units::DURATIONS.to_owned(),
        },
        _ => units::DURATIONS.to_owned(),
    };
    let text = text_for(node, report, "a duration in quotes", Some(&help))?;
    match units::duration(text) {
        Ok(duration) if positive && duration.is_zero() => {
            report.add(Problem::new(&node.at, "this must be longer than nothing").help(units::DURATIONS))
        }
        Ok(duration) => Some(duration),
        Err(message) => report.add(Problem::new(&node.at, message).help(units::DURATIONS)),
    }
}

/// A duration.
pub(super) fn duration(node: &Node, report: &Report<'_>) -> Option<Duration> {
    any_duration(node, report, false)
}

/// A duration that is longer than nothing.
pub(super) fn timeout(node: &Node, report: &Report<'_>) -> Option<Duration> {
    any_duration(node, report, true)
}

/// How long something about an entry can last: not longer than entries live.
pub(super) fn lifetime(node: &Node, report: &Report<'_>) -> Option<Duration> {
    let lifetime = duration(node, report)?;
    if lifetime <= LONGEST_LIFE {
        return Some(lifetime);
    }
    let message = format!(
        "entries live at most {} days, since invalidations are remembered for as long",
        LONGEST_LIFE.as_secs() / 86_400
    );
    report.add(Problem::new(&node.at, message).help(format!("write \"{}\"", units::show_duration(LONGEST_LIFE))))
}

/// A size in bytes.
pub(super) fn size(node: &Node, report: &Report<'_>) -> Option<u64> {
    any_size(node, report, |_| true)
}

/// The memory for entries: none, or enough to hold some.
pub(super) fn memory(node: &Node, report: &Report<'_>) -> Option<u64> {
    const LEAST: u64 = 1 << 20;
    let sensible = |bytes| bytes == 0 || bytes >= LEAST;
    let bytes = any_size(node, report, sensible)?;
    if sensible(bytes) {
        return Some(bytes);
    }
    let bare =
        matches!(&node.value, Value::String(text) | Value::Untyped(text) if text.bytes().all(|b| b.is_ascii_digit()));
    let meant = if bare { units::size_meant(bytes, sensible) } else { None };
    let help = meant.unwrap_or_else(|| format!("write \"{}\" or more", units::show_size(LEAST)));
    let message = "this is too small to hold anything; \"0\" turns memory off";
    report.add(Problem::new(&node.at, message).help(help))
}

/// A size in bytes; where there is a number, one that is `sensible` is suggested.
fn any_size(node: &Node, report: &Report<'_>, sensible: impl Fn(u64) -> bool) -> Option<u64> {
    let help = match &node.value {
        Value::Integer(number) => u64::try_from(*number).ok().and_then(|number| units::size_meant(number, sensible)),
        _ => None,
    };
    let help = help.unwrap_or_else(|| units::SIZES.to_owned());
    let text = text_for(node, report, "a size in quotes", Some(&help))?;
    match units::size(text) {
        Ok(bytes) => Some(bytes),
        Err(message) => report.add(Problem::new(&node.at, message).help(units::SIZES)),
    }
}

/// A size in bytes within bounds.
pub(super) fn size_in(bounds: RangeInclusive<u64>) -> impl Fn(&Node, &Report<'_>) -> Option<u64> {
    move |node, report| {
        let bytes = any_size(node, report, |bytes| bounds.contains(&bytes))?;
        if bounds.contains(&bytes) {
            return Some(bytes);
        }
        let (least, most) = (units::show_size(*bounds.start()), units::show_size(*bounds.end()));
        report.add(Problem::new(&node.at, format!("this must be at least \"{least}\" and at most \"{most}\"")))
    }
}

/// A whole number within bounds.
pub(super) fn integer(bounds: RangeInclusive<usize>) -> impl Fn(&Node, &Report<'_>) -> Option<usize> {
    move |node, report| {
        let number = match &node.value {
            Value::Integer(number) => Some(*number),
            Value::Untyped(text) => text.parse::<i128>().ok(),
            _ => None,
        };
        let Some(number) = number else {
            let (what, help) = match &node.value {
                Value::Untyped(text) => (format!("`{text}`"), None),
                Value::String(text) if text.parse::<i128>().is_ok() => {
                    ("a string".to_owned(), Some(format!("write {text}, without quotes")))
                }
                _ => (node.kind(), None),
            };
            let message = format!("a whole number is expected, and this is {what}");
            return report.add(Problem::new(&node.at, message).maybe_help(help));
        };
        usize::try_from(number).ok().filter(|number| bounds.contains(number)).or_else(|| {
            let message = format!("this must be at least {} and at most {}", bounds.start(), bounds.end());
            report.add(Problem::new(&node.at, message))
        })
    }
}

/// A number from 0 to 1.
pub(super) fn fraction(node: &Node, report: &Report<'_>) -> Option<f64> {
    number_to(node, report, 1.0)
}

/// A number from 0 to 10.
pub(super) fn eagerness(node: &Node, report: &Report<'_>) -> Option<f64> {
    number_to(node, report, 10.0)
}

fn number_to(node: &Node, report: &Report<'_>, most: f64) -> Option<f64> {
    let help = format!("write a number from 0 to {most}, such as 0.1, without quotes");
    let number = match &node.value {
        Value::Integer(number) => Some(*number as f64),
        Value::Float(text) | Value::Untyped(text) => text.parse().ok(),
        _ => {
            let message = format!("a number is expected, and this is {}", node.kind());
            return report.add(Problem::new(&node.at, message).help(help));
        }
    };
    number.filter(|number: &f64| (0.0..=most).contains(number)).or_else(|| {
        report.add(Problem::new(&node.at, format!("this must be at least 0 and at most {most}")).help(help))
    })
}

/// `true` or `false`.
pub(super) fn boolean(node: &Node, report: &Report<'_>) -> Option<bool> {
    match &node.value {
        Value::Bool(value) => Some(*value),
        Value::Untyped(text) if text == "true" => Some(true),
        Value::Untyped(text) if text == "false" => Some(false),
        Value::Untyped(text) => {
            report.add(Problem::new(&node.at, format!("true or false is expected, and this is `{text}`")))
        }
        _ => report.add(
            Problem::new(&node.at, format!("true or false is expected, and this is {}", node.kind()))
                .help("write true or false, without quotes"),
        ),
    }
}

/// One of several words; `more` says what else can be there, for the message.
pub(super) fn word<T: Copy>(node: &Node, report: &Report<'_>, words: &[(&'static str, T)], more: &str) -> Option<T> {
    let list: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    let all = format!("it can be {}{more}", list.join(", "));
    let text = text_for(node, report, "a string", Some(&all))?;
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Some(*value);
    }
    let help = match closest(text, words.iter().map(|(word, _)| *word)) {
        Some(meant) => format!("did you mean \"{meant}\"? {all}"),
        None => all,
    };
    report.add(Problem::new(&node.at, format!("unknown value `{text}`")).help(help))
}

/// One of several words and nothing else.
pub(super) fn one_of<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&Node, &Report<'_>) -> Option<T> {
    move |node, report| word(node, report, words, "")
}

/// A list of a kind. An environment variable's is separated by commas.
pub(super) fn list<T>(kind: impl Fn(&Node, &Report<'_>) -> Option<T>) -> impl Fn(&Node, &Report<'_>) -> Option<Vec<T>> {
    move |node, report| match &node.value {
        Value::List(items) => {
            // All are read before one that failed ends it, so that each is reported.
            let values: Vec<Option<T>> = items.iter().map(|item| kind(item, report)).collect();
            values.into_iter().collect()
        }
        Value::Untyped(text) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            let values: Vec<Option<T>> = items
                .map(|item| kind(&Node { value: Value::Untyped(item.to_owned()), at: node.at.clone() }, report))
                .collect();
            values.into_iter().collect()
        }
        Value::String(text) => report.add(
            Problem::new(&node.at, "a list is expected, and this is a string").help(format!("write [\"{text}\"]")),
        ),
        _ => report.add(
            Problem::new(&node.at, format!("a list is expected, and this is {}", node.kind()))
                .help("write a list, as in [\"a\", \"b\"]"),
        ),
    }
}

/// Text that a parser has the last word on; its error is the message.
pub(super) fn parsed<T>(
    parse: impl Fn(&str) -> Result<T, String>,
    help: &'static str,
) -> impl Fn(&Node, &Report<'_>) -> Option<T> {
    move |node, report| {
        let instead = match &node.value {
            _ if !help.is_empty() => Some(help.to_owned()),
            Value::Integer(number) => Some(format!("write \"{number}\"")),
            Value::Float(number) => Some(format!("write \"{number}\"")),
            _ => None,
        };
        let text = text_for(node, report, "a string", instead.as_deref())?;
        parse(text).map_or_else(
            |message| {
                let problem = Problem::new(&node.at, message);
                report.add(if help.is_empty() { problem } else { problem.help(help) })
            },
            Some,
        )
    }
}

/// Where a part of a string's value is: in the file if it stands there as it is, without escapes; else the whole.
pub(super) fn within(node: &Node, value: &str, part: &Range<usize>, report: &Report<'_>) -> Origin {
    let Origin::File(range) = &node.at else {
        return node.at.clone();
    };
    let raw = report.slice(range);
    let quote = usize::from(raw.starts_with(['"', '\'']));
    match raw.get(quote..) {
        Some(inner) if inner.starts_with(value) => {
            let start = range.start + quote;
            Origin::File(start + part.start..start + part.end)
        }
        _ => node.at.clone(),
    }
}
