//! Header fields of a parsed head: spans into the caller's bytes, with the hot names indexed.

/// Most header lines a head can have, whatever the limits say.
pub const MAX_HEADERS: usize = 64;

/// Bounds on a head. Values above what the crate can hold are lowered to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole head with its final empty line; at most 65535.
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

/// HTTP version of a message. A higher minor version of major 1 is read as 1.1 (RFC 9110 section 2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// Position of one header line in the head. Heads are bounded to 64 KiB, so 8 bytes hold it.
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
}

impl Known {
    /// The known name that equals `name` without regard to case.
    #[must_use]
    pub fn find(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name().as_bytes().eq_ignore_ascii_case(name))
    }
}

impl<'a> Headers<'a> {
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
        let _ = name;
        todo!()
    }

    /// [`Headers::get`] for an indexed name: one table look-up.
    #[must_use]
    pub fn known(&self, name: Known) -> Option<&'a [u8]> {
        let _ = name;
        todo!()
    }

    /// Like [`Headers::known`], but `None` also when the name came more than once.
    #[must_use]
    pub fn single(&self, name: Known) -> Option<&'a [u8]> {
        let _ = name;
        todo!()
    }

    /// Values of all lines with this name, in order.
    pub fn get_all<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n, '_> {
        let _ = name;
        std::iter::empty()
    }

    /// All lines as name and value, in order, names as they were sent.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a, '_> {
        std::iter::empty()
    }
}
