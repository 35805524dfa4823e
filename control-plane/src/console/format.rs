//! Numbers and times for people.

use maud::{Markup, html};

/// A number with a space between thousands.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Bytes in units of a thousand, as networks have them.
pub(crate) fn bytes(number: f64) -> String {
    scaled(number, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// Bits per second.
pub(crate) fn rate(bits_per_second: f64) -> String {
    scaled(bits_per_second, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s", "Pbit/s"])
}

/// A part of one, as percent.
pub(crate) fn percent(part: f64) -> String {
    if part.is_finite() { format!("{:.1}\u{202f}%", part * 100.0) } else { "–".to_owned() }
}

/// A plain number of a chart's axis.
pub(crate) fn plain(number: f64) -> String {
    if number.abs() >= 10.0 || number.fract() == 0.0 { count(number.round() as u64) } else { format!("{number:.1}") }
}

fn scaled(number: f64, units: &[&str]) -> String {
    if !number.is_finite() {
        return "–".to_owned();
    }
    let (mut number, mut at) = (number, 0);
    while number.abs() >= 999.5 && at + 1 < units.len() {
        number /= 1000.0;
        at += 1;
    }
    let unit = units.get(at).copied().unwrap_or_default();
    let digits = if at == 0 || number >= 99.95 { 0 } else { 1 };
    format!("{number:.digits$}\u{202f}{unit}")
}

/// Date and time of Unix milliseconds, in UTC.
pub(crate) fn utc(ms: u64) -> String {
    let (date, time) = civil(ms);
    format!("{date} {time}")
}

/// Hour and minute of Unix hours, in UTC.
pub(crate) fn hour(unix_hour: u64) -> String {
    format!("{:02}:00", unix_hour % 24)
}

fn civil(ms: u64) -> (String, String) {
    let seconds = ms / 1000;
    let days = (seconds / 86_400) as i64;
    // Howard Hinnant's civil_from_days: the era is 400 years, the year begins in March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    (format!("{year:04}-{month:02}-{day:02}"), format!("{hour:02}:{minute:02}:{second:02}"))
}

/// A moment: how long ago (or ahead) it is, with the date behind it.
pub(crate) fn moment(ms: u64, now_ms: u64) -> Markup {
    let (date, time) = civil(ms);
    html! {
        time datetime=(format!("{date}T{time}Z")) title=(format!("{date} {time} UTC")) { (distance(ms, now_ms)) }
    }
}

/// A moment, or a word where there is none.
pub(crate) fn moment_or(ms: Option<u64>, now_ms: u64, none: &str) -> Markup {
    match ms {
        Some(ms) => moment(ms, now_ms),
        None => html! { (none) },
    }
}

fn distance(ms: u64, now_ms: u64) -> String {
    let seconds = ms.abs_diff(now_ms) / 1000;
    let text = match seconds {
        0..2 => return "now".to_owned(),
        2..120 => format!("{seconds}\u{202f}s"),
        120..7_200 => format!("{}\u{202f}min", seconds / 60),
        7_200..172_800 => format!("{}\u{202f}h", seconds / 3600),
        _ => format!("{}\u{202f}days", seconds / 86_400),
    };
    if ms < now_ms { format!("{text} ago") } else { format!("in {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([count(0), count(999), count(1_234_567)], ["0", "999", "1\u{202f}234\u{202f}567"]);
        assert_eq!(bytes(0.0), "0\u{202f}B");
        assert_eq!(bytes(1_500.0), "1.5\u{202f}kB");
        assert_eq!(bytes(999_600.0), "1.0\u{202f}MB");
        assert_eq!(bytes(1e30), format!("{:.0}\u{202f}PB", 1e15));
        assert_eq!(rate(123_456_789.0), "123\u{202f}Mbit/s");
        assert_eq!(bytes(f64::NAN), "–");
        assert_eq!((percent(0.4567), percent(f64::NAN)), ("45.7\u{202f}%".to_owned(), "–".to_owned()));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(utc(1_709_251_199_999), "2024-02-29 23:59:59");
        assert_eq!(utc(4_107_542_400_000), "2100-03-01 00:00:00");
        assert_eq!(hour(25), "01:00");
    }

    #[test]
    fn moments_are_told_by_their_distance() {
        let hour = 3_600_000;
        assert_eq!(distance(hour, hour + 500), "now");
        assert_eq!(distance(0, 65_000), "65\u{202f}s ago");
        assert_eq!(distance(3 * hour, 0), "in 3\u{202f}h");
        assert_eq!(distance(0, 100 * hour), "4\u{202f}days ago");
        assert!(moment(0, 65_000).into_string().contains("datetime=\"1970-01-01T00:00:00Z\""));
    }
}
