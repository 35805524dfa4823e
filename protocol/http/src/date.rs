//! HTTP dates (RFC 9110 section 5.6.7).

/// IMF-fixdate of Unix seconds: `Sun, 06 Nov 1994 08:49:37 GMT`. Past the year 9999 it stays at that year's end.
#[must_use]
pub fn format(unix: u64) -> [u8; 29] {
    let _ = unix;
    todo!()
}

/// Unix seconds of a date in any of the three formats; `None` when malformed or before 1970.
#[must_use]
pub fn parse(value: &[u8]) -> Option<u64> {
    let _ = value;
    todo!()
}
