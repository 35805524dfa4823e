//! Values of structured fields (RFC 8941), as far as CMCD has them.

use std::fmt;

use super::Cmcd;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `?1`, `?0`, or a key alone.
    Boolean(bool),
    /// Up to 15 digits.
    Integer(i64),
    /// In thousandths: RFC 8941 has three places behind the point.
    Decimal(i64),
    /// A word without quotes.
    Token(String),
    /// A word in quotes.
    Text(String),
    /// `(a b c)`.
    List(Vec<Item>),
}

/// A value in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The value; no list.
    pub value: Value,
    /// Its parameters.
    pub parameters: Vec<(String, Value)>,
}

/// The largest number of 15 digits.
pub(super) const MAX_INTEGER: i64 = 999_999_999_999_999;

impl Item {
    /// The type of object that the value is of: a parameter without a value, as in `3200;v`.
    pub fn object_type(&self) -> Option<&str> {
        let flag = |(name, value): &&(String, Value)| {
            *value == Value::Boolean(true)
                && matches!(name.as_str(), "a" | "v" | "av" | "c" | "tt" | "m" | "i" | "k" | "o")
        };
        self.parameters.iter().find(flag).map(|(name, _)| name.as_str())
    }
}

/// Whether a word can be written without quotes (RFC 8941 section 3.3.4).
pub(super) fn is_token(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'*') && bytes.all(is_token_byte)
}

pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte)
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(true) => f.write_str("?1"),
            Self::Boolean(false) => f.write_str("?0"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Decimal(thousandths) => {
                let sign = if *thousandths < 0 { "-" } else { "" };
                let size = thousandths.unsigned_abs();
                let places = format!("{:03}", size % 1000);
                let places = places.trim_end_matches('0');
                write!(f, "{sign}{}.{}", size / 1000, if places.is_empty() { "0" } else { places })
            }
            Self::Token(text) if is_token(text) => f.write_str(text),
            Self::Token(text) | Self::Text(text) => {
                f.write_str("\"")?;
                for character in text.chars() {
                    if matches!(character, '"' | '\\') {
                        f.write_str("\\")?;
                    }
                    write!(f, "{character}")?;
                }
                f.write_str("\"")
            }
            Self::List(items) => {
                f.write_str("(")?;
                for (at, item) in items.iter().enumerate() {
                    write!(f, "{}{}", if at == 0 { "" } else { " " }, item.value)?;
                    for (name, value) in &item.parameters {
                        write!(f, ";{name}")?;
                        if *value != Value::Boolean(true) {
                            write!(f, "={value}")?;
                        }
                    }
                }
                f.write_str(")")
            }
        }
    }
}

impl fmt::Display for Cmcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (key, value)) in self.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { "," })?;
            f.write_str(key)?;
            if *value != Value::Boolean(true) {
                write!(f, "={value}")?;
            }
        }
        Ok(())
    }
}
