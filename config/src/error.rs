//! What was wrong with a configuration, and where.

use std::fmt::{Display, Formatter, Result as FmtResult};

/// The first thing found wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file, when it was one.
    pub file: Option<String>,
    /// Line in the file, from 1, when known.
    pub line: Option<usize>,
    /// The whole key, such as `http.listen[0]`; empty when it is about the file as a whole.
    pub key: String,
    /// What is wrong with it.
    pub problem: Box<Problem>,
}

/// A fault of a configuration, or of one of its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The text is not TOML or JSON.
    Syntax {
        /// `TOML` or `JSON`.
        format: &'static str,
        /// The parser's own words.
        message: String,
    },
    /// No such key.
    UnknownKey {
        /// The nearest key that exists, when one is near.
        nearest: Option<String>,
        /// The keys that are known in its place.
        known: Vec<String>,
    },
    /// A key that must be there is not.
    MissingKey {
        /// What it should hold.
        expected: String,
    },
    /// A value of the wrong type, out of bounds, or none of the values possible.
    WrongValue {
        /// The value, as it would be written, shortened.
        found: String,
        /// What would be right.
        expected: String,
        /// The nearest of the values possible, when one is near.
        nearest: Option<String>,
    },
    /// The type of the key itself refused the value.
    Refused {
        /// Its own words.
        message: String,
    },
}

impl ConfigError {
    pub(crate) fn new(key: String, problem: Problem) -> Self {
        Self { file: None, line: None, key, problem: Box::new(problem) }
    }

    pub(crate) fn in_file(mut self, file: &str) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    pub(crate) fn at_line(mut self, line: Option<usize>) -> Self {
        self.line = line;
        self
    }
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{file}:{line}: ")?,
            (Some(file), None) => write!(f, "{file}: ")?,
            (None, Some(line)) => write!(f, "line {line}: ")?,
            (None, None) => {}
        }
        let key = &self.key;
        match &*self.problem {
            Problem::Syntax { format, message } => write!(f, "not valid {format}: {message}"),
            Problem::UnknownKey { nearest: Some(nearest), .. } => {
                write!(f, "unknown key `{key}`; did you mean `{nearest}`?")
            }
            Problem::UnknownKey { nearest: None, known } if known.is_empty() => {
                write!(f, "unknown key `{key}`; no key is known here: remove it")
            }
            Problem::UnknownKey { nearest: None, known } => {
                write!(f, "unknown key `{key}`; known here: {}", known.join(", "))
            }
            Problem::MissingKey { expected } => write!(f, "`{key}` is missing: set it to {expected}"),
            Problem::WrongValue { found, expected, nearest } => {
                if key.is_empty() {
                    write!(f, "found {found}, expected {expected}")?;
                } else {
                    write!(f, "`{key}` is {found}, expected {expected}")?;
                }
                match nearest {
                    Some(nearest) => write!(f, "; did you mean `{nearest}`?"),
                    None => Ok(()),
                }
            }
            Problem::Refused { message } if key.is_empty() => f.write_str(message),
            Problem::Refused { message } => write!(f, "`{key}`: {message}"),
        }
    }
}
