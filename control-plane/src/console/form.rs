//! Forms and queries as browsers send them: `application/x-www-form-urlencoded`.

/// Most bytes of a form.
pub(crate) const MAX_FORM: usize = 64 << 10;
/// Most fields.
const MAX_FIELDS: usize = 512;

/// The fields in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    /// Takes the fields apart; none when there are too many. What is no UTF-8 becomes U+FFFD.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > MAX_FORM {
            return None;
        }
        let pairs = form_urlencoded::parse(text).take(MAX_FIELDS + 1);
        let fields: Vec<_> = pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        (fields.len() <= MAX_FIELDS).then_some(Self(fields))
    }

    /// A field's value without the space around it; empty when it is not there.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.raw(name).trim()
    }

    /// A field's value as it came, as passwords are.
    pub(crate) fn raw(&self, name: &str) -> &str {
        self.0.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value)
    }

    /// A field's value; none when it is not there or empty.
    pub(crate) fn given(&self, name: &str) -> Option<&str> {
        Some(self.get(name)).filter(|value| !value.is_empty())
    }
}

/// A path segment or a value of a query, percent-encoded (RFC 3986: all but the unreserved characters).
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_apart_and_back() {
        let form = Form::parse(b"a=1&b=x+y%20z&c=%C3%BC%26&d&=e&a=2&f=%zz%4").unwrap();
        assert_eq!(["a", "b", "c", "d", "", "f"].map(|name| form.get(name)), ["1", "x y z", "ü&", "", "e", "%zz%4"]);
        assert_eq!((form.given("d"), form.given("none"), form.given("a")), (None, None, Some("1")));
        assert_eq!(Form::parse(b"p=+secret+").unwrap().raw("p"), " secret ");
        assert_eq!(Form::parse(b"p=%ff").unwrap().get("p"), "\u{fffd}");
        let odd = "ü&=+/?#% \"<";
        assert_eq!(Form::parse(format!("x={}", encode(odd)).as_bytes()).unwrap().raw("x"), odd);
    }

    #[test]
    fn forms_have_bounds() {
        assert!(Form::parse(&vec![b'a'; MAX_FORM + 1]).is_none());
        assert!(Form::parse("a=1&".repeat(MAX_FIELDS).as_bytes()).is_some());
        assert!(Form::parse("a=1&".repeat(MAX_FIELDS + 1).as_bytes()).is_none());
    }
}
