//! As much of XML as it takes to find attributes and text in a manifest: markup by markup, without a tree.

/// Passes over a document; every byte is in exactly one [`Markup`].
pub(crate) struct Scanner<'a> {
    rest: &'a [u8],
}

/// A piece of a document, as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Markup<'a> {
    /// `<name …>` or `<name …/>`.
    Start(Tag<'a>),
    /// `</name>`.
    End(&'a [u8]),
    /// What stands between markup.
    Text(&'a [u8]),
    /// A comment, CDATA section, processing instruction or document type; or a broken rest.
    Other(&'a [u8]),
}

/// A start tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag<'a> {
    /// From `<` to `>`.
    pub(crate) bytes: &'a [u8],
    /// Without a namespace prefix.
    pub(crate) name: &'a [u8],
}

/// One attribute of a tag, and the bytes before its value.
pub(crate) struct Attribute<'a> {
    /// From the end of the attribute before to the opening quote.
    pub(crate) before: &'a [u8],
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
    /// `"` or `'`.
    pub(crate) quote: u8,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(document: &'a [u8]) -> Self {
        Self { rest: document }
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, &[]));
        self.rest = rest;
        taken
    }

    /// Up to and including `end`, or all that is left.
    fn take_through(&mut self, end: &[u8]) -> &'a [u8] {
        let at = self.rest.windows(end.len()).position(|window| window == end);
        self.take(at.map_or(self.rest.len(), |at| at + end.len()))
    }
}

impl<'a> Iterator for Scanner<'a> {
    type Item = Markup<'a>;

    fn next(&mut self) -> Option<Markup<'a>> {
        let rest = self.rest;
        Some(match rest {
            [] => return None,
            [b'<', b'!', b'-', b'-', ..] => Markup::Other(self.take_through(b"-->")),
            [b'<', b'!', b'[', ..] => Markup::Other(self.take_through(b"]]>")),
            [b'<', b'?', ..] => Markup::Other(self.take_through(b"?>")),
            [b'<', b'!', ..] => {
                let length = doctype_length(rest);
                Markup::Other(self.take(length))
            }
            [b'<', b'/', ..] => Markup::End(self.take_through(b">")),
            [b'<', ..] => match tag_length(rest) {
                Some(length) => {
                    let bytes = self.take(length);
                    Markup::Start(Tag { bytes, name: local_name(bytes) })
                }
                None => Markup::Other(self.take(rest.len())),
            },
            _ => {
                let length = rest.iter().position(|byte| *byte == b'<').unwrap_or(rest.len());
                Markup::Text(self.take(length))
            }
        })
    }
}

impl<'a> Tag<'a> {
    /// Whether it is an element's beginning and end in one.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.ends_with(b"/>")
    }

    /// Its attributes; what is left of the tag when there is no more well-formed one is in `rest`.
    pub(crate) fn attributes(&self) -> Attributes<'a> {
        let name_end = self.bytes.iter().position(|byte| ends_name(*byte)).unwrap_or(self.bytes.len());
        Attributes { rest: self.bytes, skip: name_end }
    }
}

/// Passes over a tag's attributes.
pub(crate) struct Attributes<'a> {
    /// What no attribute that was given out holds.
    pub(crate) rest: &'a [u8],
    /// Bytes of the tag's name, before the first attribute.
    skip: usize,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let rest = self.rest;
        let (_, from) = rest.split_at_checked(std::mem::take(&mut self.skip))?;
        let equals = from.iter().position(|byte| *byte == b'=')?;
        let (name, after) = from.split_at(equals);
        // A closing quote stays in front of the attribute that follows it.
        let name = name.strip_prefix(b"\"").or_else(|| name.strip_prefix(b"'")).unwrap_or(name).trim_ascii();
        let value = after.get(1..)?.trim_ascii_start();
        let (quote, value) = value.split_first().filter(|(quote, _)| matches!(quote, b'"' | b'\''))?;
        let (before, _) = rest.split_at_checked(rest.len() - value.len())?;
        let (value, rest) = value.split_at(value.iter().position(|byte| byte == quote)?);
        self.rest = rest;
        Some(Attribute { before, name, value, quote: *quote })
    }
}

/// Text with its references undone; `None` when it has one that XML does not define by itself.
pub(crate) fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte == b'&') {
        let (before, reference) = rest.split_at(at);
        plain.extend_from_slice(before);
        let name_end = |byte: &u8| !byte.is_ascii_alphanumeric() && *byte != b'#' && *byte != b'_';
        let body = reference.get(1..)?;
        let length = body.iter().position(name_end).unwrap_or(body.len());
        let (name, after) = body.split_at(length);
        rest = match after.strip_prefix(b";") {
            Some(after) if !name.is_empty() => {
                let character = referenced(name)?;
                plain.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                after
            }
            // A bare `&` is an error that many packagers make: between parameters it can only mean itself.
            _ => {
                plain.push(b'&');
                body
            }
        };
    }
    plain.extend_from_slice(rest);
    Some(plain)
}

/// The character that `&name;` stands for (XML 1.0 sections 4.1 and 4.6).
fn referenced(name: &[u8]) -> Option<char> {
    match name {
        b"amp" => Some('&'),
        b"lt" => Some('<'),
        b"gt" => Some('>'),
        b"quot" => Some('"'),
        b"apos" => Some('\''),
        [b'#', digits @ ..] => {
            let digits = std::str::from_utf8(digits).ok()?;
            let code = match digits.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => digits.parse().ok()?,
            };
            char::from_u32(code)
        }
        _ => None,
    }
}

/// Appends `text`, fit to stand between quotes `quote`, or between tags.
pub(crate) fn escape(text: &[u8], quote: Option<u8>, out: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b'&' => out.extend_from_slice(b"&amp;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'"' if quote == Some(b'"') => out.extend_from_slice(b"&quot;"),
            b'\'' if quote == Some(b'\'') => out.extend_from_slice(b"&apos;"),
            _ => out.push(*byte),
        }
    }
}

fn ends_name(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>')
}

fn local_name(tag: &[u8]) -> &[u8] {
    let from = tag.get(1..).unwrap_or_default();
    let name = from.split(|byte| ends_name(*byte)).next().unwrap_or_default();
    name.rsplit(|byte| *byte == b':').next().unwrap_or_default()
}

/// The name in `</name>`, without a namespace prefix.
pub(crate) fn end_name(end: &[u8]) -> &[u8] {
    local_name(end.get(1..).unwrap_or_default())
}

/// Bytes of a start tag: a `>` inside quotes does not end it. `None` when nothing does.
fn tag_length(text: &[u8]) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in text.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at + 1),
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), close) if open == *close => quote = None,
            _ => {}
        }
    }
    None
}

/// Bytes of `<!DOCTYPE … [ … ]>`.
fn doctype_length(text: &[u8]) -> usize {
    let mut quote = None;
    let mut depth = 0usize;
    for (at, byte) in text.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') if depth == 0 => return at + 1,
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), close) if open == *close => quote = None,
            (None, b'[') => depth += 1,
            (None, b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    text.len()
}
