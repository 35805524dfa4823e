//! What goes into statements and comes out of rows, the same for every engine.

use std::sync::Arc;

use crate::store::StoreError;

/// A value of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A whole number; also what is true (1) or false (0).
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// Text. It never holds NUL, which PostgreSQL cannot keep: each becomes U+FFFD.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// The values of a statement's parameters, each by its `From`: `values![id, updated_ms, note.as_deref()]`.
macro_rules! values {
    ($($value:expr),* $(,)?) => {
        [$($crate::store::engine::Value::from($value)),*]
    };
}
pub(crate) use values;

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

/// By its bits: a boot is 64 random ones. [`Row::get`] gives it back as it was.
impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Int(number.cast_signed())
    }
}

macro_rules! smaller {
    ($($number:ty),*) => {
        $(impl From<$number> for Value {
            fn from(number: $number) -> Self {
                Self::Int(number.into())
            }
        })*
    };
}
smaller!(u8, u16, u32, i32, bool);

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(if text.contains('\0') { text.replace('\0', "\u{FFFD}") } else { text })
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<&Arc<str>> for Value {
    fn from(text: &Arc<str>) -> Self {
        (&**text).into()
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_owned())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl Value {
    /// What it is, for messages; never the value itself, which may be a secret.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Int(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
        }
    }
}

/// What [`Row::get`] can give.
pub trait FromValue: Sized {
    /// What it needs, for messages.
    const WANTED: &'static str;

    /// The value, or the one that does not fit.
    fn from_value(value: Value) -> Result<Self, Value>;
}

macro_rules! from_value {
    ($($type:ty, $wanted:literal: $pattern:pat => $result:expr;)*) => {
        $(impl FromValue for $type {
            const WANTED: &'static str = $wanted;

            fn from_value(value: Value) -> Result<Self, Value> {
                match value {
                    $pattern => $result,
                    other => Err(other),
                }
            }
        })*
    };
}

from_value! {
    i64, "a whole number": Value::Int(number) => Ok(number);
    u64, "a whole number": Value::Int(number) => Ok(number.cast_unsigned());
    u32, "a number from 0 to 4294967295": Value::Int(number) => number.try_into().map_err(|_| Value::Int(number));
    u16, "a number from 0 to 65535": Value::Int(number) => number.try_into().map_err(|_| Value::Int(number));
    bool, "true or false": Value::Int(number) => Ok(number != 0);
    String, "text": Value::Text(text) => Ok(text);
    Arc<str>, "text": Value::Text(text) => Ok(text.into());
    Vec<u8>, "bytes": Value::Bytes(bytes) => Ok(bytes);
}

impl FromValue for f64 {
    const WANTED: &'static str = "a number";

    fn from_value(value: Value) -> Result<Self, Value> {
        match value {
            Value::Float(number) => Ok(number),
            Value::Int(number) => Ok(number as f64),
            other => Err(other),
        }
    }
}

impl FromValue for Value {
    const WANTED: &'static str = "anything";

    fn from_value(value: Value) -> Result<Self, Value> {
        Ok(value)
    }
}

impl<T: FromValue> FromValue for Option<T> {
    const WANTED: &'static str = T::WANTED;

    fn from_value(value: Value) -> Result<Self, Value> {
        match value {
            Value::Null => Ok(None),
            value => T::from_value(value).map(Some),
        }
    }
}

/// A row of a result.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub(super) values: Vec<Value>,
    /// The database, for errors.
    pub(super) name: Arc<str>,
}

impl Row {
    /// The value of column `at`, from 0. A column of another type is a broken database.
    pub fn get<T: FromValue>(&self, at: usize) -> Result<T, StoreError> {
        let value = self.values.get(at).cloned().unwrap_or(Value::Null);
        T::from_value(value).map_err(|found| {
            StoreError::corrupt(&self.name, format!("column {at} is {}, expected {}", found.kind(), T::WANTED))
        })
    }

    /// All of its values.
    pub fn into_values(self) -> Vec<Value> {
        self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were_or_say_why_not() {
        let values =
            values![u64::MAX, 7_u16, true, 0.5, "a\0b", None::<&str>, Some(3_i64), vec![1_u8, 0], String::from("text")];
        let row = Row { values: values.to_vec(), name: "db".into() };
        assert_eq!(row.get::<u64>(0).unwrap(), u64::MAX);
        assert_eq!((row.get::<u16>(1).unwrap(), row.get::<bool>(2).unwrap()), (7, true));
        assert_eq!((row.get::<f64>(3).unwrap(), row.get::<f64>(1).unwrap()), (0.5, 7.0));
        assert_eq!(row.get::<String>(4).unwrap(), "a\u{FFFD}b");
        assert_eq!((row.get::<Option<String>>(5).unwrap(), row.get::<Option<i64>>(6).unwrap()), (None, Some(3)));
        assert_eq!(row.get::<Vec<u8>>(7).unwrap(), [1, 0]);
        for (error, word) in [
            (row.get::<u16>(0).unwrap_err(), "65535"),
            (row.get::<i64>(8).unwrap_err(), "column 8 is text, expected a whole number"),
            (row.get::<i64>(9).unwrap_err(), "NULL"),
        ] {
            assert!(error.to_string().contains(word) && !error.to_string().contains("text\""), "{error}");
        }
    }
}
