//! `YYYYMMDDHHMM` in UTC+8, as the dated forms write time.

const OFFSET_S: u64 = 8 * 3600;
const DAY_S: u64 = 86_400;
/// The first year that can be told: Unix time has none before.
const EPOCH_YEAR: u64 = 1970;

/// Unix seconds of twelve digits; `None` when it is no such minute.
pub(crate) fn parse_minute(text: &str) -> Option<u64> {
    let digits = text.as_bytes();
    if digits.len() != 12 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute) = (number(8, 10)?, number(10, 12)?);
    let days_in_month = month_lengths(year).get(usize::try_from(month.checked_sub(1)?).ok()?).copied()?;
    if year < EPOCH_YEAR || day == 0 || day > days_in_month || hour > 23 || minute > 59 {
        return None;
    }
    let days_before: u64 = month_lengths(year).iter().take(month as usize - 1).sum();
    let days = days_to_year(year) + days_before + day - 1;
    (days * DAY_S + hour * 3600 + minute * 60).checked_sub(OFFSET_S)
}

/// The minute that `unix` seconds fall in; `None` past the year 9999.
pub(crate) fn format_minute(unix: u64) -> Option<String> {
    let local = unix.checked_add(OFFSET_S)?;
    let (mut days, second) = (local / DAY_S, local % DAY_S);
    // Wrong by a year at most, for four-digit years: a year has 365.2425 days, not 365.25.
    let mut year = EPOCH_YEAR + days * 4 / 1461;
    if days_to_year(year + 1) <= days {
        year += 1;
    } else if days_to_year(year) > days {
        year -= 1;
    }
    if year > 9999 {
        return None;
    }
    days -= days_to_year(year);
    let mut month = 1;
    for length in month_lengths(year) {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    Some(format!("{year:04}{month:02}{:02}{:02}{:02}", days + 1, second / 3600, second / 60 % 60))
}

/// Days from 1970-01-01 to the first of January of `year`, from 1970 on.
fn days_to_year(year: u64) -> u64 {
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    (year - EPOCH_YEAR) * 365 + leap_days(year - 1) - leap_days(EPOCH_YEAR - 1)
}

fn month_lengths(year: u64) -> [u64; 12] {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_minutes() {
        // date -u -d '2024-07-15 07:33' +%s, and so on.
        for (text, unix) in [
            ("202407151533", 1_721_028_780),
            ("201508150800", 1_439_596_800),
            ("197001010800", 0),
            ("200002291200", 951_796_800),
            ("202402290000", 1_709_136_000),
            ("999912312359", 253_402_271_940),
        ] {
            assert_eq!(parse_minute(text), Some(unix), "{text}");
            assert_eq!(format_minute(unix + 59).as_deref(), Some(text));
        }
    }

    #[test]
    fn every_day_there_and_back() {
        for day in 0..100_000 {
            let unix = day * DAY_S + day % 1440 * 60;
            assert_eq!(format_minute(unix).as_deref().and_then(parse_minute), Some(unix));
        }
    }

    #[test]
    fn no_such_minutes() {
        for text in [
            "202302290000",
            "210002290000",
            "202413010000",
            "202400010000",
            "202404310000",
            "202404000000",
            "202404012400",
            "202404010060",
            "197001010759",
            "196912312359",
            "20240401000",
            "+20240401000",
        ] {
            assert_eq!(parse_minute(text), None, "{text}");
        }
        assert_eq!(format_minute(u64::MAX), None);
        assert_eq!(format_minute(253_402_272_000), None);
    }
}
