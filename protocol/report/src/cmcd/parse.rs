//! A dictionary's text.
//!
//! Stricter than players are would be of no use: keys may have capitals, and a value that is neither number nor token is
//! taken as a token up to the next comma (players send session ids without quotes).

use std::str::FromStr;

use super::value::{Item, MAX_INTEGER, Value, is_token, is_token_byte};
use super::{Cmcd, MAX_KEY, MAX_KEYS, MAX_LIST, MAX_TEXT};

/// Text that is no CMCD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CmcdError {
    /// Too much of it.
    #[error("has more than {MAX_TEXT} bytes")]
    Long,
    /// Too many keys.
    #[error("has more than {MAX_KEYS} keys")]
    Keys,
    /// A list with too many values.
    #[error("at byte {0}: has more than {MAX_LIST} values or parameters")]
    List(usize),
    /// No key where one must be.
    #[error("at byte {0}: must be a key of at most {MAX_KEY} characters, as in `sid` or `com.example-key`")]
    Key(usize),
    /// No value where one must be.
    #[error("at byte {0}: must be a value: a number, a token, a \"string\", ?0, ?1 or a (list)")]
    Value(usize),
    /// Something behind a value that does not belong there.
    #[error("at byte {0}: must be a comma or the end")]
    End(usize),
    /// JSON that is none, or not of the form.
    #[error("is not a JSON object of CMCD keys")]
    Json,
    /// Not percent-encoded text in UTF-8.
    #[error("is not percent-encoded UTF-8")]
    Encoding,
}

impl FromStr for Cmcd {
    type Err = CmcdError;

    /// Reads a dictionary, as in `br=3200,bs,sid="6e2fb550"`. Of a key that comes twice the first counts.
    fn from_str(text: &str) -> Result<Self, CmcdError> {
        let mut cmcd = Self::default();
        cmcd.read(text)?;
        Ok(cmcd)
    }
}

impl Cmcd {
    /// Adds what a text has.
    pub(super) fn read(&mut self, text: &str) -> Result<(), CmcdError> {
        if text.len() > MAX_TEXT {
            return Err(CmcdError::Long);
        }
        let mut cursor = Cursor { text, at: 0 };
        cursor.space();
        while cursor.peek().is_some() {
            let key = cursor.key()?;
            let value = if cursor.eat(b'=') { cursor.value()? } else { Value::Boolean(true) };
            if !self.insert(key.to_owned(), value) {
                return Err(CmcdError::Keys);
            }
            cursor.space();
            if cursor.peek().is_some() && !cursor.eat(b',') {
                return Err(CmcdError::End(cursor.at));
            }
            cursor.space();
        }
        Ok(())
    }
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
    }

    fn take(&mut self, fits: impl Fn(u8) -> bool) -> &'a str {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let len = rest.bytes().position(|byte| !fits(byte)).unwrap_or(rest.len());
        // Every caller stops at ASCII, which is a boundary; and takes ASCII, or all up to ASCII.
        let taken = rest.get(..len).unwrap_or_default();
        self.at += taken.len();
        taken
    }

    fn key(&mut self) -> Result<&'a str, CmcdError> {
        let start = self.at;
        let key = self.take(|byte| byte.is_ascii_alphanumeric() || b"*-._".contains(&byte));
        if key.is_empty() || key.len() > MAX_KEY { Err(CmcdError::Key(start)) } else { Ok(key) }
    }

    fn value(&mut self) -> Result<Value, CmcdError> {
        if !self.eat(b'(') {
            return self.bare(true);
        }
        let mut items = Vec::new();
        loop {
            self.space();
            if self.eat(b')') {
                return Ok(Value::List(items));
            }
            if items.len() == MAX_LIST {
                return Err(CmcdError::List(self.at));
            }
            let item = self.item()?;
            items.push(item);
            if !matches!(self.peek(), Some(b' ' | b'\t' | b')')) {
                return Err(CmcdError::Value(self.at));
            }
        }
    }

    fn item(&mut self) -> Result<Item, CmcdError> {
        let value = self.bare(false)?;
        let mut parameters = Vec::new();
        while self.eat(b';') {
            self.space();
            let name = self.key()?.to_owned();
            let value = if self.eat(b'=') { self.bare(false)? } else { Value::Boolean(true) };
            if parameters.len() == MAX_LIST {
                return Err(CmcdError::List(self.at));
            }
            parameters.push((name, value));
        }
        Ok(Item { value, parameters })
    }

    /// A value that is no list. `loose`: up to the next comma it may be any word.
    fn bare(&mut self, loose: bool) -> Result<Value, CmcdError> {
        let start = self.at;
        match self.peek() {
            Some(b'"') => return self.quoted(),
            Some(b'?') => {
                self.at += 1;
                return match self.peek() {
                    Some(digit @ (b'0' | b'1')) => {
                        self.at += 1;
                        Ok(Value::Boolean(digit == b'1'))
                    }
                    _ => Err(CmcdError::Value(start)),
                };
            }
            _ => {}
        }
        let word = if loose {
            self.take(|byte| (b'!'..=b'~').contains(&byte) && !b",\"()\\".contains(&byte))
        } else {
            self.take(is_token_byte)
        };
        match number(word) {
            Some(value) => Ok(value),
            None if loose && !word.is_empty() || is_token(word) => Ok(Value::Token(word.to_owned())),
            None => Err(CmcdError::Value(start)),
        }
    }

    fn quoted(&mut self) -> Result<Value, CmcdError> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            text.push_str(self.take(|byte| byte != b'"' && byte != b'\\' && byte >= b' ' && byte != 0x7f));
            if self.eat(b'"') {
                return Ok(Value::Text(text));
            }
            if !self.eat(b'\\') {
                return Err(CmcdError::Value(start));
            }
            match self.peek() {
                Some(escaped @ (b'"' | b'\\')) => text.push(char::from(escaped)),
                _ => return Err(CmcdError::Value(start)),
            }
            self.at += 1;
        }
    }
}

/// An integer of up to 15 digits, or a decimal of up to 12 and 3 (RFC 8941 section 4.2.4). Longer fractions are cut.
fn number(word: &str) -> Option<Value> {
    let (negative, digits) = word.strip_prefix('-').map_or((false, word), |digits| (true, digits));
    let sign = if negative { -1 } else { 1 };
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match digits.split_once('.') {
        None if all_digits(digits) => {
            let number: i64 = digits.parse().ok().filter(|number| *number <= MAX_INTEGER)?;
            Some(Value::Integer(sign * number))
        }
        Some((whole, places)) if all_digits(whole) && all_digits(places) && whole.len() <= 12 => {
            let places: i64 = format!("{places:0<3}").get(..3)?.parse().ok()?;
            let whole: i64 = whole.parse().ok()?;
            Some(Value::Decimal(sign * (whole * 1000 + places)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        text.parse::<Cmcd>().unwrap_or_else(|error| panic!("{text}: {error}")).to_string()
    }

    #[test]
    fn every_sort_of_value_is_read_and_written() {
        // From CTA-5004, section 6 (examples), and CTA-5004-B.
        for text in [
            r#"bl=21300,br=3200,bs,cid="faec5fc2-ac30-11ea-bb37-0242ac130002",d=4004,dl=18500,mtp=48100,nor="..%2F300kbps%2Ftrack.m4v",nrr="12323-48763",ot=v,pr=1.08,rtp=12000,sf=d,sid="6e2fb550-c457-11e9-bb97-0800200c9a66",st=v,su,tb=6000"#,
            r#"v=2,br=(3200;v 128;a),bl=(21300;v 21200;a),e=ps,sta=r,ts=1700000000000,sn=0,ec=("E1" "E 2"),com.example-hello="a \"quoted\" word""#,
            "a=-15,b=0.5,c=-0.001,d=?0,e=(),f=12.0",
            "nor=(\"seg2.m4s\";r=\"0-499\" \"seg3.m4s\")",
        ] {
            assert_eq!(written(text), text);
        }
        assert_eq!(written("bs=?1, su ,\tbr=1"), "bs,su,br=1");
        assert_eq!(written("br=1,br=2"), "br=1", "the first counts");
        assert_eq!(written("pr=1.98765"), "pr=1.987");
        assert_eq!(written(""), "");
    }

    #[test]
    fn what_players_get_wrong_is_still_read() {
        let cmcd: Cmcd = "sid=0242ac13-0002,br=99999999999999999999,Custom-Key=a@b".parse().unwrap();
        assert_eq!(cmcd.text("sid"), Some("0242ac13-0002"));
        assert_eq!(cmcd.get("br"), Some(&Value::Token("99999999999999999999".into())));
        assert_eq!(cmcd.text("Custom-Key"), Some("a@b"));
        // Once written it is in quotes, and stays as it is.
        assert_eq!(written(&cmcd.to_string()), cmcd.to_string());
    }

    #[test]
    fn what_is_none_is_refused_with_its_place() {
        for (text, error) in [
            ("=1", CmcdError::Key(0)),
            ("br=", CmcdError::Value(3)),
            ("br=1 2", CmcdError::End(5)),
            ("br=(1 2", CmcdError::Value(7)),
            ("br=(1,2)", CmcdError::Value(5)),
            ("sid=\"abc", CmcdError::Value(4)),
            ("sid=\"a\\b\"", CmcdError::Value(4)),
            ("sid=\"a\nb\"", CmcdError::Value(4)),
            ("bs=?2", CmcdError::Value(3)),
            ("ü=1", CmcdError::Key(0)),
        ] {
            assert_eq!(text.parse::<Cmcd>(), Err(error), "{text}");
        }
        assert_eq!("a".repeat(MAX_TEXT + 1).parse::<Cmcd>(), Err(CmcdError::Long));
        assert_eq!("a".repeat(MAX_KEY + 1).parse::<Cmcd>(), Err(CmcdError::Key(0)));
        let many: String = (0..=MAX_KEYS).map(|n| format!("k{n},")).collect();
        assert_eq!(many.parse::<Cmcd>(), Err(CmcdError::Keys));
        let list = format!("a=({})", "1 ".repeat(MAX_LIST + 1));
        assert!(matches!(list.parse::<Cmcd>(), Err(CmcdError::List(_))));
    }
}
