//! What is wrong with a configuration, and how that is told: where, the line itself with a mark under the fault, what
//! is wrong, and what to write instead. Errors are collected, never returned at the first one.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::Source;

/// All that is wrong with a configuration: what is in the file in its order, then what is in the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The file cannot be read.
    Io {
        /// The file's name as it was given.
        file: String,
        /// Why it cannot be read.
        cause: String,
    },
    /// Something in it, or missing from it, is wrong.
    Invalid {
        /// Where.
        place: Place,
        /// What is wrong.
        message: String,
        /// What to write instead.
        help: Option<String>,
        /// The line, with its fault marked; none where it might hold a secret or there is no line.
        excerpt: Option<String>,
    },
}

/// Where something is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File(Source),
    /// In an environment variable of this name.
    Variable(String),
    /// On the command line, by this option.
    Option(String),
    /// Nowhere: it is missing, and there is no file.
    Nowhere,
}

impl ConfigErrors {
    /// The errors, in order.
    pub fn errors(&self) -> &[ConfigError] {
        &self.0
    }

    /// That a file cannot be read.
    pub(super) fn io(file: String, cause: String) -> Self {
        ConfigErrors(vec![ConfigError::Io { file, cause }])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Io { file, cause } => {
                write!(f, "{file}: cannot be read: {cause}; give the path of a readable file with --config")
            }
            ConfigError::Invalid { place, message, help, excerpt } => {
                write!(f, "{place}: {message}")?;
                if let Some(excerpt) = excerpt {
                    write!(f, "\n{excerpt}")?;
                }
                help.as_ref().map_or(Ok(()), |help| write!(f, "\n  = {help}"))
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(source) => write!(f, "{source}"),
            Place::Variable(name) | Place::Option(name) => f.write_str(name),
            Place::Nowhere => f.write_str("configuration"),
        }
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// These bytes of the file.
    File(Range<usize>),
    /// This variable.
    Variable(Arc<str>),
    /// This option of the command line.
    Option(&'static str),
    /// The configuration as a whole.
    Whole,
}

impl Origin {
    /// What problems are sorted by: the whole, the file from its beginning, the environment, the command line.
    pub(super) fn order(&self) -> (u8, usize, &str) {
        match self {
            Origin::Whole => (0, 0, ""),
            Origin::File(range) => (1, range.start, ""),
            Origin::Variable(name) => (2, 0, name),
            Origin::Option(name) => (3, 0, name),
        }
    }
}

/// Something wrong, before it is rendered.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    at: Origin,
    message: String,
    help: Option<String>,
    /// The line might hold a secret and is not shown.
    secret: bool,
}

impl Problem {
    pub(super) fn new(at: &Origin, message: impl Into<String>) -> Self {
        Problem { at: at.clone(), message: message.into(), help: None, secret: false }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Problem { help: Some(help.into()), ..self }
    }

    pub(super) fn maybe_help(self, help: Option<String>) -> Self {
        Problem { help, ..self }
    }

    pub(super) fn secret(self) -> Self {
        Problem { secret: true, ..self }
    }
}

/// The text that is read, and what is found wrong with it on the way.
pub(super) struct Report<'t> {
    file: Option<Arc<str>>,
    text: &'t str,
    problems: RefCell<Vec<Problem>>,
}

impl<'t> Report<'t> {
    pub(super) fn new(file: Option<&str>, text: &'t str) -> Self {
        Report { file: file.map(Arc::from), text, problems: RefCell::default() }
    }

    /// Notes a problem. `None`, for the value that there is none of.
    pub(super) fn add<T>(&self, problem: Problem) -> Option<T> {
        self.problems.borrow_mut().push(problem);
        None
    }

    /// How many problems there are by now.
    pub(super) fn count(&self) -> usize {
        self.problems.borrow().len()
    }

    /// The bytes of the file between two places.
    pub(super) fn slice(&self, range: &Range<usize>) -> &'t str {
        self.text.get(range.clone()).unwrap_or("")
    }

    /// Where something is, for messages that are about something else.
    pub(super) fn place(&self, at: &Origin) -> Place {
        match (at, &self.file) {
            (Origin::File(range), Some(file)) => Place::File(self.locate(file, range.start)),
            (Origin::Whole, Some(file)) => Place::File(Source { file: file.clone(), line: 0, column: 0 }),
            (Origin::Variable(name), _) => Place::Variable(name.to_string()),
            (Origin::Option(name), _) => Place::Option((*name).to_owned()),
            (_, None) => Place::Nowhere,
        }
    }

    /// All problems rendered, in order; `Ok` if there are none.
    pub(super) fn finish(&self) -> Result<(), ConfigErrors> {
        let mut problems = self.problems.take();
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort_by(|a, b| a.at.order().cmp(&b.at.order()));
        Err(ConfigErrors(problems.into_iter().map(|problem| self.render(problem)).collect()))
    }

    fn render(&self, problem: Problem) -> ConfigError {
        let excerpt = match (&problem.at, problem.secret) {
            (Origin::File(range), false) if self.file.is_some() => self.excerpt(range),
            _ => None,
        };
        ConfigError::Invalid { place: self.place(&problem.at), message: problem.message, help: problem.help, excerpt }
    }

    /// Line and column, both from 1, the column in characters.
    fn locate(&self, file: &Arc<str>, at: usize) -> Source {
        let before = self.text.get(..at).unwrap_or(self.text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Source {
            file: file.clone(),
            line: before.matches('\n').count() + 1,
            column: before[start..].chars().count() + 1,
        }
    }

    /// The line in which a range begins, with marks under the part of the range that is in it; `None` if the line
    /// looks as if it held a secret.
    fn excerpt(&self, range: &Range<usize>) -> Option<String> {
        let at = range.start.min(self.text.len());
        let before = self.text.get(..at).unwrap_or("");
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.text[start..].lines().next().unwrap_or("");
        if may_hold_secret(line) {
            return None;
        }
        let number = (before.matches('\n').count() + 1).to_string();
        let pad: String = before[start..].chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let end = range.end.clamp(at, (start + line.len()).max(at));
        let marks = self.text.get(at..end).map_or(0, |marked| marked.chars().count()).max(1);
        let shown: String = line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
        let gutter = " ".repeat(number.len());
        Some(format!("  {number} | {shown}\n  {gutter} | {pad}{}", "^".repeat(marks)))
    }
}

/// Whether a line sets `token`, or a URL of Redis with a user in it: whatever else is wrong there, such a line is not
/// repeated into a terminal or a log.
fn may_hold_secret(line: &str) -> bool {
    let sets_token = line.split("token").skip(1).any(|after| {
        let after = after.trim_start_matches(['"', '\'', ' ', '\t']);
        after.starts_with(['=', ':'])
    });
    sets_token || (line.contains("redis") && line.contains('@'))
}

/// The word among `known` that was probably meant, however it was cased or hyphenated.
pub(super) fn closest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let word = word.to_lowercase().replace('-', "_");
    known
        .map(|candidate| (strsim::osa_distance(&word, &candidate.to_lowercase().replace('-', "_")), candidate))
        .filter(|(distance, candidate)| {
            *distance <= 1.max(candidate.len() / 3) || (word.len() >= 3 && candidate.starts_with(&word))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
