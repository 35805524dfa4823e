//! HTTP dates (RFC 9110 section 5.6.7).

use std::time::UNIX_EPOCH;

/// The last second that four digits of a year can tell.
const LAST: u64 = 253_402_300_799;
const DAY: u64 = 86_400;

/// IMF-fixdate of Unix seconds: `Sun, 06 Nov 1994 08:49:37 GMT`. Past the year 9999 it stays at that year's end.
#[must_use]
pub fn format(unix: u64) -> [u8; 29] {
    const WEEKDAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
    const MONTHS: [&[u8; 3]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

    let unix = unix.min(LAST);
    let (days, second) = (unix / DAY, unix % DAY);
    let (year, month, day) = civil(days);
    let mut out = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    out[..3].copy_from_slice(WEEKDAYS[(days % 7) as usize]);
    two_digits(&mut out, 5, day);
    out[8..11].copy_from_slice(MONTHS[month as usize]);
    two_digits(&mut out, 12, year / 100);
    two_digits(&mut out, 14, year % 100);
    two_digits(&mut out, 17, second / 3600);
    two_digits(&mut out, 20, second / 60 % 60);
    two_digits(&mut out, 23, second % 60);
    out
}

/// Year, month from 0 and day from 1 of a day since 1970-01-01.
const fn civil(days: u64) -> (u64, u64, u64) {
    // Years counted from March, so that the leap day is the last of the year; days since 0000-03-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = era * 400 + year_of_era + if month < 2 { 1 } else { 0 };
    (year, month, day)
}

fn two_digits(out: &mut [u8; 29], at: usize, number: u64) {
    out[at] = b'0' + (number / 10) as u8;
    out[at + 1] = b'0' + (number % 10) as u8;
}

/// Unix seconds of a date in any of the three formats; `None` when malformed or before 1970.
#[must_use]
pub fn parse(value: &[u8]) -> Option<u64> {
    let date = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_formats_of_the_rfc() {
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse(text.as_bytes()), Some(784_111_777), "{text}");
        }
        assert_eq!(&format(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn malformed_dates() {
        for text in
            ["", "0", "-1", "Sun, 06 Nov 1994", "Sun, 32 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1950 08:49:37 GMT"]
        {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse(b"\xff"), None);
    }

    #[test]
    fn formatting_agrees_with_httpdate() {
        // A step that is prime to the day walks over all hours, and over every month for 400 years.
        for unix in (0..12_700_000_000).step_by(1_234_567).chain([951_782_400, 951_868_799, 4_107_542_399, LAST]) {
            let time = UNIX_EPOCH + std::time::Duration::from_secs(unix);
            let text = format(unix);
            assert_eq!(text, httpdate::fmt_http_date(time).as_bytes(), "{unix}");
            assert_eq!(parse(&text), Some(unix));
        }
        assert_eq!(&format(u64::MAX), b"Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
