//! Freshness (RFC 9111 section 4.2) from Cache-Control, Expires, Date and Age. Pragma is not looked at.

/// Response directives of Cache-Control. Times are seconds. A number that cannot be read counts as 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheControl {
    /// `no-store`
    pub no_store: bool,
    /// `no-cache`, also with field names
    pub no_cache: bool,
    /// `private`, also with field names
    pub private: bool,
    /// `public`
    pub public: bool,
    /// `max-age`; the smallest if repeated
    pub max_age: Option<u64>,
    /// `s-maxage`; the smallest if repeated
    pub s_maxage: Option<u64>,
    /// `must-revalidate`
    pub must_revalidate: bool,
    /// `proxy-revalidate`
    pub proxy_revalidate: bool,
    /// `no-transform`
    pub no_transform: bool,
    /// `immutable` (RFC 8246)
    pub immutable: bool,
    /// `stale-if-error` (RFC 5861)
    pub stale_if_error: Option<u64>,
    /// `stale-while-revalidate` (RFC 5861)
    pub stale_while_revalidate: Option<u64>,
}

impl CacheControl {
    /// Reads the values of all Cache-Control lines.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let _ = lines.into_iter();
        todo!()
    }

    /// Whether a shared cache may keep the response at all.
    #[must_use]
    pub fn storable(&self) -> bool {
        !self.no_store && !self.private
    }
}

/// Explicit freshness lifetime in seconds for a shared cache: s-maxage, else max-age, else Expires minus Date. `None` when
/// the response says nothing. `date` is the Date header, or the time of receipt without one; a malformed Expires is 0.
#[must_use]
pub fn freshness_lifetime(control: &CacheControl, expires: Option<&[u8]>, date: u64) -> Option<u64> {
    let _ = (control, expires, date);
    todo!()
}

/// Age in seconds that a response has when it arrives (RFC 9111 section 4.2.3, `corrected_initial_age`). `age` and
/// `date` are the headers' values; the other two are Unix seconds of sending the request and of receiving the head.
#[must_use]
pub fn initial_age(age: Option<u64>, date: Option<u64>, request_time: u64, response_time: u64) -> u64 {
    let _ = (age, date, request_time, response_time);
    todo!()
}

/// Reads `delta-seconds`; a number too large is 2^31 (RFC 9111 section 1.2.2).
#[must_use]
pub fn parse_seconds(value: &[u8]) -> Option<u64> {
    let _ = value;
    todo!()
}
