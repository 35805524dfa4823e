//! Times of logs, in Unix seconds. Calendar: proleptic Gregorian, as in RFC 3339; no leap seconds (`:60` is the next minute's first).

use std::fmt;
use std::str::FromStr;

use super::Reason;

const DAY: i64 = 86_400;
/// No log is from before 1990 or from after 2200: such a time is a mistake.
const YEARS: std::ops::RangeInclusive<i64> = 1990..=2200;
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The Unix hour that a time is in: hours of UTC, whatever the log's zone.
#[must_use]
pub fn hour(time: u64) -> u64 {
    time / 3600
}

/// A fixed distance from UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zone {
    /// Seconds east of Greenwich.
    east: i64,
}

impl Zone {
    /// UTC.
    pub const UTC: Self = Self { east: 0 };
    /// UTC+08:00, all of China.
    pub const CHINA: Self = Self { east: 8 * 3600 };
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, all) = if self.east < 0 { ('-', -self.east) } else { ('+', self.east) };
        write!(f, "{sign}{:02}:{:02}", all / 3600, all % 3600 / 60)
    }
}

/// Text that is no zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no zone; write +08:00, -0500 or Z")]
pub struct ZoneError(String);

impl FromStr for Zone {
    type Err = ZoneError;

    /// `Z`, `+0800` or `+08:00`.
    fn from_str(text: &str) -> Result<Self, ZoneError> {
        zone(text).ok_or_else(|| ZoneError(text.to_owned()))
    }
}

fn zone(text: &str) -> Option<Zone> {
    if matches!(text, "Z" | "z" | "UTC") {
        return Some(Zone::UTC);
    }
    let (sign, rest) = match text.as_bytes() {
        [b'+', ..] => (1, text.get(1..)?),
        [b'-', ..] => (-1, text.get(1..)?),
        _ => return None,
    };
    let (hours, minutes) = match rest.len() {
        4 => rest.split_at_checked(2)?,
        5 => rest.split_once(':')?,
        _ => return None,
    };
    let (hours, minutes) = (digits(hours, 2, 0, 14)?, digits(minutes, 2, 0, 59)?);
    Some(Zone { east: sign * (hours * 3600 + minutes * 60) })
}

/// `10/Oct/2000:13:55:36 -0700`, nginx's `$time_local` and Alibaba's. The day may have one digit.
pub(super) fn local(text: &str) -> Result<u64, Reason> {
    let parsed = || {
        let (at, zone_text) = text.split_once(' ')?;
        let (date, clock) = at.split_once(':')?;
        let mut parts = date.split('/');
        let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
        let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
        let day = if day.len() == 1 { digits(day, 1, 1, 9)? } else { digits(day, 2, 1, 31)? };
        let date = date_of(digits(year, 4, 0, 9999)?, month, day).filter(|_| parts.next().is_none())?;
        unix(date, clock_of(clock)?, zone(zone_text)?)
    };
    parsed().ok_or("its time is not as in 10/Oct/2000:13:55:36 +0800")
}

/// `2018-05-01T10:00:00+08:00` (RFC 3339), with or without fraction, with a space for the `T`; without a zone, of `zone`.
pub(super) fn iso(text: &str, zone_of: Zone) -> Result<u64, Reason> {
    let parsed = || {
        let (date, rest) = text.split_at_checked(10)?;
        let rest = rest.strip_prefix(['T', 't', ' '])?;
        let (clock, rest) = rest.split_at_checked(8)?;
        let rest = match rest.strip_prefix('.') {
            None => rest,
            Some(fraction) => {
                let end = fraction.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(fraction.len());
                fraction.get(end..).filter(|_| end > 0)?
            }
        };
        let zone = if rest.is_empty() { zone_of } else { zone(rest)? };
        unix(dashed(date)?, clock_of(clock)?, zone)
    };
    parsed().ok_or("its time is not as in 2018-05-01T10:00:00+08:00")
}

/// `20180501100000`, of `zone`.
pub(super) fn compact(text: &str, zone: Zone) -> Result<u64, Reason> {
    let parsed = || {
        let part = |at: usize, len: usize| text.get(at..at + len);
        let date =
            date_of(digits(part(0, 4)?, 4, 0, 9999)?, digits(part(4, 2)?, 2, 1, 12)?, digits(part(6, 2)?, 2, 1, 31)?)?;
        let clock = [digits(part(8, 2)?, 2, 0, 23)?, digits(part(10, 2)?, 2, 0, 59)?, digits(part(12, 2)?, 2, 0, 60)?];
        unix(date, clock, zone).filter(|_| text.len() == 14)
    };
    parsed().ok_or("its time is not as in 20180501100000")
}

/// `2001-11-12`, in days.
pub(super) fn dashed(text: &str) -> Option<i64> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let date = date_of(digits(year, 4, 0, 9999)?, digits(month, 2, 1, 12)?, digits(day, 2, 1, 31)?);
    date.filter(|_| parts.next().is_none())
}

/// `12:34:56`, `12:34` or `12:34:56.789`, added to a date in UTC.
pub(super) fn at(days: i64, clock: &str) -> Option<u64> {
    let clock = clock.split_once('.').map_or(clock, |(whole, _)| whole);
    unix(days, clock_of(clock)?, Zone::UTC)
}

/// `1431692052.433`.
pub(super) fn seconds(text: &str) -> Result<u64, Reason> {
    let whole = text.split_once('.').map_or(text, |(whole, _)| whole);
    let time = super::number(whole, "its time is not in Unix seconds")?;
    let least = days_of(*YEARS.start(), 1, 1) * DAY;
    let most = days_of(*YEARS.end() + 1, 1, 1) * DAY;
    match (least..most).contains(&(time as i64)) && whole != "-" {
        true => Ok(time),
        false => Err("its time is not in Unix seconds"),
    }
}

fn clock_of(text: &str) -> Option<[i64; 3]> {
    let mut parts = text.split(':');
    let hour = digits(parts.next()?, 2, 0, 23)?;
    let minute = digits(parts.next()?, 2, 0, 59)?;
    let second = parts.next().map_or(Some(0), |second| digits(second, 2, 0, 60))?;
    parts.next().is_none().then_some([hour, minute, second])
}

fn unix(days: i64, [hour, minute, second]: [i64; 3], zone: Zone) -> Option<u64> {
    u64::try_from(days * DAY + hour * 3600 + minute * 60 + second - zone.east).ok()
}

fn digits(text: &str, len: usize, least: i64, most: i64) -> Option<i64> {
    let plain = text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| plain)?;
    (least..=most).contains(&number).then_some(number)
}

/// Days since 1970, if there is such a date.
fn date_of(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    (YEARS.contains(&year) && day <= last).then(|| days_of(year, month, day))
}

fn days_of(year: i64, month: i64, day: i64) -> i64 {
    // Years from March on, so that a leap day is a year's last.
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_one_second() {
        let wanted = 1_525_140_000;
        assert_eq!(local("01/May/2018:10:00:00 +0800"), Ok(wanted));
        assert_eq!(local("1/May/2018:02:00:00 +0000"), Ok(wanted));
        assert_eq!(local("30/Apr/2018:19:00:00 -0700"), Ok(wanted));
        assert_eq!(iso("2018-05-01T10:00:00+08:00", Zone::UTC), Ok(wanted));
        assert_eq!(iso("2018-05-01T02:00:00.123Z", Zone::CHINA), Ok(wanted));
        assert_eq!(iso("2018-05-01 10:00:00", Zone::CHINA), Ok(wanted));
        assert_eq!(compact("20180501100000", Zone::CHINA), Ok(wanted));
        assert_eq!(at(dashed("2018-05-01").unwrap(), "02:00:00"), Some(wanted));
        assert_eq!(at(dashed("2018-05-01").unwrap(), "02:00"), Some(wanted));
        assert_eq!(seconds("1525140000.999"), Ok(wanted));
    }

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        // From a table: 1970-01-01 is day 0, 2000-03-01 is day 11017, 2024-02-29 is day 19782.
        assert_eq!((days_of(1970, 1, 1), days_of(2000, 3, 1), days_of(2024, 2, 29)), (0, 11_017, 19_782));
        let mut expected = days_of(1990, 1, 1);
        for year in 1990..2200 {
            for month in 1..=12 {
                for day in 1..=31 {
                    if let Some(date) = date_of(year, month, day) {
                        assert_eq!(date, expected, "{year}-{month}-{day}");
                        expected += 1;
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "10/Oct/2000:13:55:36",
            "31/Feb/2020:00:00:00 +0000",
            "29/Feb/2019:00:00:00 +0000",
            "10/oct/2000:13:55:36 +0000",
            "10/Oct/0000:13:55:36 +0000",
            "10/Oct/2000:24:00:00 +0000",
            "10/Oct/2000:13:55:36 +9900",
            "10/Oct/2000:13:55:36 0800",
            "10/Oct/2000/1:13:55:36 +0000",
        ] {
            assert!(local(bad).is_err(), "{bad}");
        }
        for bad in [
            "",
            "2018-05-01",
            "2018-05-01T10:00:00.Z",
            "2018-13-01T10:00:00Z",
            "2018-05-01T10:00:00+8",
            "２018-05-01T10:00:00Z",
        ] {
            assert!(iso(bad, Zone::UTC).is_err(), "{bad}");
        }
        for bad in ["", "2018050110000", "201805011000001", "20180501240000", "2018050110000x"] {
            assert!(compact(bad, Zone::UTC).is_err(), "{bad}");
        }
        for bad in ["", "-", "1", "15251400000000"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn zones_are_read_and_written() {
        for (text, written) in [("Z", "+00:00"), ("+0800", "+08:00"), ("-03:30", "-03:30"), ("+14:00", "+14:00")] {
            assert_eq!(text.parse::<Zone>().unwrap().to_string(), written);
        }
        for bad in ["", "8", "+8", "+1500", "+08:60", "CST", "+0é0"] {
            assert!(bad.parse::<Zone>().is_err(), "{bad}");
        }
    }
}
