//! Header fields of a parsed head: spans into the caller's bytes, with the hot names indexed.

use std::fmt;

/// Most header lines a head can have, whatever the limits say.
pub const MAX_HEADERS: usize = 64;

/// Most bytes a head can have, whatever the limits say.
pub const MAX_HEAD_BYTES: usize = u16::MAX as usize;

/// Bounds on a head. Values above what the crate can hold are lowered to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole head with its final empty line; at most [`MAX_HEAD_BYTES`].
    pub head_bytes: usize,
    /// Header lines; at most [`MAX_HEADERS`].
    pub headers: usize,
    /// Bytes of the request or status line without its CRLF.
    pub request_line_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head_bytes: 16 * 1024, headers: MAX_HEADERS, request_line_bytes: 8 * 1024 }
    }
}

impl Limits {
    /// The limits, lowered to what the crate can hold.
    pub(crate) fn clamped(&self) -> Self {
        Self {
            head_bytes: self.head_bytes.min(MAX_HEAD_BYTES),
            headers: self.headers.min(MAX_HEADERS),
            request_line_bytes: self.request_line_bytes,
        }
    }
}

/// HTTP version of a message. A higher minor version of major 1 is read as 1.1 (RFC 9110 section 2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// Position of one header line in the head. Heads are bounded to `MAX_HEAD_BYTES`, so 8 bytes hold it.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    name_at: u16,
    name_len: u16,
    value_at: u16,
    value_len: u16,
}

/// The header fields of one head, in order.
#[derive(Clone, Copy)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    count: u8,
    /// Index + 1 of a known name's first line; 0 when absent.
    first: [u8; Known::COUNT],
    /// Bit per known name that came more than once.
    repeated: u64,
    spans: [Span; MAX_HEADERS],
}

macro_rules! known {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Header names that are indexed while a head is parsed, so that reading one costs a table look-up.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Known { $(#[doc = concat!("`", $name, "`")] $variant,)* }

        impl Known {
            /// Number of known names.
            pub const COUNT: usize = [$($name,)*].len();
            const ALL: [Self; Self::COUNT] = [$(Self::$variant,)*];

            /// The name, in lower case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

known! {
    AcceptEncoding = "accept-encoding",
    AcceptRanges = "accept-ranges",
    AccessControlRequestHeaders = "access-control-request-headers",
    AccessControlRequestMethod = "access-control-request-method",
    Age = "age",
    Authorization = "authorization",
    CacheControl = "cache-control",
    CdnLoop = "cdn-loop",
    CmcdObject = "cmcd-object",
    CmcdRequest = "cmcd-request",
    CmcdSession = "cmcd-session",
    CmcdStatus = "cmcd-status",
    Connection = "connection",
    ContentEncoding = "content-encoding",
    ContentLength = "content-length",
    ContentRange = "content-range",
    ContentType = "content-type",
    Cookie = "cookie",
    Date = "date",
    Etag = "etag",
    Expect = "expect",
    Expires = "expires",
    Host = "host",
    IfMatch = "if-match",
    IfModifiedSince = "if-modified-since",
    IfNoneMatch = "if-none-match",
    IfRange = "if-range",
    IfUnmodifiedSince = "if-unmodified-since",
    LastModified = "last-modified",
    Location = "location",
    Origin = "origin",
    Range = "range",
    Referer = "referer",
    TransferEncoding = "transfer-encoding",
    Upgrade = "upgrade",
    UserAgent = "user-agent",
    Vary = "vary",
    XForwardedFor = "x-forwarded-for",
    XShoalTicket = "x-shoal-ticket",
}

/// Known names by their length: what makes finding one a few comparisons.
const BUCKETS: usize = 32;
const BUCKET_SIZE: usize = 6;
const BY_LENGTH: [[Option<Known>; BUCKET_SIZE]; BUCKETS] = {
    let mut table = [[None; BUCKET_SIZE]; BUCKETS];
    let mut i = 0;
    while i < Known::COUNT {
        let bucket = &mut table[Known::ALL[i].name().len()];
        let mut slot = 0;
        while bucket[slot].is_some() {
            slot += 1;
        }
        bucket[slot] = Some(Known::ALL[i]);
        i += 1;
    }
    table
};
const _: () = assert!(Known::COUNT <= 64, "Headers::repeated has 64 bits");

impl Known {
    /// The known name that equals `name` without regard to case.
    #[must_use]
    pub fn find(name: &[u8]) -> Option<Self> {
        let first = name.first()?.to_ascii_lowercase();
        BY_LENGTH.get(name.len())?.iter().map_while(|known| *known).find(|known| {
            let known = known.name().as_bytes();
            known.first() == Some(&first) && known.eq_ignore_ascii_case(name)
        })
    }
}

impl<'a> Headers<'a> {
    /// No header lines yet, in a head that is `bytes`.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        const NOWHERE: Span = Span { name_at: 0, name_len: 0, value_at: 0, value_len: 0 };
        Self { bytes, count: 0, first: [0; Known::COUNT], repeated: 0, spans: [NOWHERE; MAX_HEADERS] }
    }

    /// Notes one line. The scan sees to it that there is room and that offsets are below 64 KiB.
    #[inline]
    pub(crate) fn push(&mut self, name_at: usize, name_len: usize, value_at: usize, value_len: usize) {
        let span = Span {
            name_at: name_at as u16,
            name_len: name_len as u16,
            value_at: value_at as u16,
            value_len: value_len as u16,
        };
        let Some(slot) = self.spans.get_mut(usize::from(self.count)) else { return };
        *slot = span;
        self.count += 1;
        if let Some(known) = Known::find(self.name_of(&span)) {
            let first = &mut self.first[known as usize];
            if *first == 0 {
                *first = self.count;
            } else {
                self.repeated |= 1 << known as u8;
            }
        }
    }

    /// Number of header lines.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether there is no header line at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Value of the first line with this name, without regard to case. Values hold no control characters except TAB,
    /// but may hold bytes above 127.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        match Known::find(name.as_bytes()) {
            Some(known) => self.known(known),
            None => self.get_all(name).next(),
        }
    }

    /// [`Headers::get`] for an indexed name: one table look-up.
    #[must_use]
    #[inline]
    pub fn known(&self, name: Known) -> Option<&'a [u8]> {
        let index = usize::from(self.first[name as usize]).checked_sub(1)?;
        self.spans.get(index).map(|span| self.value_of(span))
    }

    /// [`Headers::known`] as text; `None` also when it is not UTF-8.
    #[must_use]
    pub fn known_str(&self, name: Known) -> Option<&'a str> {
        std::str::from_utf8(self.known(name)?).ok()
    }

    /// Like [`Headers::known`], but `None` also when the name came more than once.
    #[must_use]
    pub fn single(&self, name: Known) -> Option<&'a [u8]> {
        if self.is_repeated(name) { None } else { self.known(name) }
    }

    /// Whether the name came more than once.
    #[must_use]
    pub fn is_repeated(&self, name: Known) -> bool {
        self.repeated & (1 << name as u8) != 0
    }

    /// Values of all lines with this name, in order.
    pub fn all(&self, name: Known) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a, '_> {
        // Most names come once or not at all; the scan of all lines is for those that do not.
        let first = usize::from(self.first[name as usize]);
        let lines = match (first.checked_sub(1), self.is_repeated(name)) {
            (None, _) => &[],
            (Some(index), false) => self.spans.get(index..first).unwrap_or_default(),
            (Some(index), true) => self.spans.get(index..self.len()).unwrap_or_default(),
        };
        let wanted = name.name().as_bytes();
        lines.iter().filter(move |span| self.name_of(span).eq_ignore_ascii_case(wanted)).map(|span| self.value_of(span))
    }

    /// [`Headers::all`] for any name.
    pub fn get_all<'n>(&self, name: &'n str) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a, 'n, '_> {
        self.lines()
            .filter(move |span| self.name_of(span).eq_ignore_ascii_case(name.as_bytes()))
            .map(|span| self.value_of(span))
    }

    /// All lines as name and value, in order, names as they were sent.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&'a str, &'a [u8])> + use<'a, '_> {
        // Names are tokens, so they are always UTF-8.
        self.lines().map(|span| (std::str::from_utf8(self.name_of(span)).unwrap_or_default(), self.value_of(span)))
    }

    fn lines(&self) -> std::slice::Iter<'_, Span> {
        self.spans.get(..self.len()).unwrap_or_default().iter()
    }

    fn name_of(&self, span: &Span) -> &'a [u8] {
        let at = usize::from(span.name_at);
        self.bytes.get(at..at + usize::from(span.name_len)).unwrap_or_default()
    }

    fn value_of(&self, span: &Span) -> &'a [u8] {
        let at = usize::from(span.value_at);
        self.bytes.get(at..at + usize::from(span.value_len)).unwrap_or_default()
    }
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (name, String::from_utf8_lossy(value)))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_found_in_any_case() {
        for known in Known::ALL {
            assert_eq!(Known::find(known.name().as_bytes()), Some(known));
            assert_eq!(Known::find(known.name().to_ascii_uppercase().as_bytes()), Some(known));
            let mut longer = known.name().to_owned();
            longer.push('x');
            assert_eq!(Known::find(longer.as_bytes()), None);
        }
        assert_eq!(Known::find(b""), None);
        assert_eq!(Known::find(&[b'a'; 1000]), None);
    }

    #[test]
    fn lines_are_found_by_name() {
        let bytes = b"Vary: a\r\nX-One: 1\r\nvary: b\r\nx-one: 2\r\nHost: h\r\n";
        let mut headers = Headers::new(bytes);
        for (name, value) in
            [((0, 4), (6, 1)), ((9, 5), (16, 1)), ((19, 4), (25, 1)), ((28, 5), (35, 1)), ((38, 4), (44, 1))]
        {
            headers.push(name.0, name.1, value.0, value.1);
        }
        assert_eq!(headers.len(), 5);
        assert_eq!(headers.get("VARY"), Some(b"a".as_slice()));
        assert_eq!(headers.known(Known::Vary), Some(b"a".as_slice()));
        assert_eq!(headers.single(Known::Vary), None);
        assert_eq!(headers.single(Known::Host), Some(b"h".as_slice()));
        assert!(headers.all(Known::Vary).eq([b"a".as_slice(), b"b"]));
        assert!(headers.all(Known::Host).eq([b"h".as_slice()]));
        assert_eq!(headers.all(Known::Etag).count(), 0);
        assert!(headers.get_all("x-one").rev().eq([b"2".as_slice(), b"1"]));
        assert_eq!(headers.get("X-ONE"), Some(b"1".as_slice()));
        assert_eq!(headers.get("x-two"), None);
        assert_eq!(headers.iter().next(), Some(("Vary", b"a".as_slice())));
    }
}
