//! Values in PostgreSQL's binary format.

use std::error::Error;

use bytes::BytesMut;
use postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use super::Value;

type BoxedError = Box<dyn Error + Sync + Send>;

/// Sign words of NUMERIC.
const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;

impl ToSql for Value {
    fn to_sql(&self, to: &Type, out: &mut BytesMut) -> Result<IsNull, BoxedError> {
        match (self, to) {
            (Self::Null, _) => Ok(IsNull::Yes),
            (Self::Int(number), &Type::INT8) => number.to_sql(to, out),
            (Self::Int(number), &Type::INT4) => i32::try_from(*number)?.to_sql(to, out),
            (Self::Int(number), &Type::INT2) => i16::try_from(*number)?.to_sql(to, out),
            (Self::Int(number), &Type::BOOL) => (*number != 0).to_sql(to, out),
            (Self::Int(number), &Type::FLOAT8) => (*number as f64).to_sql(to, out),
            (Self::Float(number), &Type::FLOAT8) => number.to_sql(to, out),
            (Self::Text(text), &Type::TEXT | &Type::VARCHAR | &Type::BPCHAR | &Type::NAME | &Type::UNKNOWN) => {
                text.to_sql(to, out)
            }
            (Self::Bytes(bytes), &Type::BYTEA) => bytes.to_sql(to, out),
            (value, to) => Err(format!("{} for {}: say CAST($n AS its type)", value.kind(), to.name()).into()),
        }
    }

    /// Whether it does is seen with the value.
    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(from: &Type, raw: &'a [u8]) -> Result<Self, BoxedError> {
        Ok(match *from {
            Type::INT8 => Self::Int(i64::from_sql(from, raw)?),
            Type::INT4 => Self::Int(i32::from_sql(from, raw)?.into()),
            Type::INT2 => Self::Int(i16::from_sql(from, raw)?.into()),
            Type::BOOL => Self::Int(bool::from_sql(from, raw)?.into()),
            Type::FLOAT8 => Self::Float(f64::from_sql(from, raw)?),
            Type::FLOAT4 => Self::Float(f32::from_sql(from, raw)?.into()),
            Type::NUMERIC => numeric(raw)?,
            Type::BYTEA => Self::Bytes(raw.to_owned()),
            Type::VOID => Self::Null,
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => {
                Self::Text(<&str>::from_sql(from, raw)?.to_owned())
            }
            ref other => return Err(format!("type {} is not one of this store's", other.name()).into()),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, BoxedError> {
        Ok(Self::Null)
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// What sum() and avg() give: head of four 16-bit words (digits, weight, sign, scale), then digits of base 10,000. Without a
/// fraction it is a whole number, as in SQLite.
fn numeric(raw: &[u8]) -> Result<Value, BoxedError> {
    let word = |at: usize| -> Result<u16, BoxedError> {
        let bytes = raw.get(at * 2..at * 2 + 2).and_then(|two| two.try_into().ok()).ok_or("a NUMERIC is cut off")?;
        Ok(u16::from_be_bytes(bytes))
    };
    let (digits, weight, sign, scale) = (word(0)?, word(1)?.cast_signed(), word(2)?, word(3)?);
    if sign != POSITIVE && sign != NEGATIVE {
        return Err("a NUMERIC is no finite number".into());
    }
    if scale == 0 {
        let mut whole: i128 = 0;
        // Digits behind the last that is sent are zeros.
        for at in 0..=weight.max(-1) {
            let digit = if at.cast_unsigned() < digits { word(4 + at as usize)? } else { 0 };
            whole = whole.checked_mul(10_000).ok_or("a NUMERIC is too large")? + i128::from(digit);
        }
        let whole = if sign == NEGATIVE { -whole } else { whole };
        return Ok(Value::Int(i64::try_from(whole).map_err(|_| "integer overflow")?));
    }
    let mut number = 0.0;
    for at in 0..digits {
        number += f64::from(word(4 + usize::from(at))?) * 10_000_f64.powi(i32::from(weight) - i32::from(at));
    }
    Ok(Value::Float(if sign == NEGATIVE { -number } else { number }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(words: &[u16]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn numerics_become_numbers_and_broken_ones_errors() {
        for (words, value) in [
            (&[0, 0, POSITIVE, 0][..], Value::Int(0)),
            (&[1, 0, NEGATIVE, 0, 42], Value::Int(-42)),
            // 10^8: the zeros are not sent.
            (&[1, 2, POSITIVE, 0, 1], Value::Int(100_000_000)),
            (&[5, 4, POSITIVE, 0, 922, 3372, 368, 5477, 5807], Value::Int(i64::MAX)),
            (&[2, 0, POSITIVE, 2, 1, 5000], Value::Float(1.5)),
            (&[1, -1_i16 as u16, POSITIVE, 1, 5000], Value::Float(0.5)),
        ] {
            assert_eq!(numeric(&raw(words)).unwrap(), value, "{words:?}");
        }
        for words in [
            &[5, 4, POSITIVE, 0, 922, 3372, 368, 5477, 5808][..],
            &[0, 0, 0xC000, 0],
            &[2, 1, POSITIVE, 0, 1],
            &[1, 0],
            &[1, i16::MAX as u16, POSITIVE, 0, 1],
            &[],
        ] {
            assert!(numeric(&raw(words)).is_err(), "{words:?}");
        }
    }
}
