//! A line in fields: separated by spaces or tabs, in `"quotes"` or `[brackets]` where they hold some.

/// The fields of a line, from left to right.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    rest: &'a str,
}

impl<'a> Fields<'a> {
    pub(super) fn new(line: &'a str) -> Self {
        Self { rest: line }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = &'a str;

    /// The next field without its quotes or brackets. Inside quotes `\` makes the next character plain (nginx, Apache) and `""` is
    /// one quote (W3C): both only matter for where the field ends. What is not closed goes to the end of the line.
    fn next(&mut self) -> Option<&'a str> {
        let text = self.rest.trim_start_matches([' ', '\t']);
        let (field, rest) = match text.as_bytes().first()? {
            b'"' => quoted(text.get(1..)?),
            b'[' => {
                let inner = text.get(1..)?;
                inner.split_once(']').unwrap_or((inner, ""))
            }
            _ => text.split_at(text.find([' ', '\t']).unwrap_or(text.len())),
        };
        self.rest = rest;
        Some(field)
    }
}

fn quoted(text: &str) -> (&str, &str) {
    let mut bytes = text.bytes().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'"' if matches!(bytes.peek(), Some((_, b'"'))) => {
                bytes.next();
            }
            // A quote is a boundary of characters.
            b'"' => return (text.get(..at).unwrap_or_default(), text.get(at + 1..).unwrap_or_default()),
            _ => {}
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_with_quotes_and_brackets() {
        let line = "[9/Jun/2015:01:58:09 +0800] 10.10.10.10 -  \"-\"\t\"a \\\" b\" \"c \"\"d\"\" e\" é [x";
        let expected = ["9/Jun/2015:01:58:09 +0800", "10.10.10.10", "-", "-", "a \\\" b", "c \"\"d\"\" e", "é", "x"];
        assert_eq!(Fields::new(line).collect::<Vec<_>>(), expected);
        assert_eq!(Fields::new("  \t ").count(), 0);
        assert_eq!(Fields::new("\"open é").collect::<Vec<_>>(), ["open é"]);
        assert_eq!(Fields::new("\"\\").collect::<Vec<_>>(), ["\\"]);
        assert_eq!(Fields::new("\"\" x").collect::<Vec<_>>(), ["", "x"]);
    }
}
