//! Tencent Cloud CDN's offline logs (its help, "Log Service", document 228/6316): fields separated by spaces, from left to right request
//! time, client, domain, path, bytes (file and head), province, ISP, status, Referer, milliseconds, User-Agent, Range, method, protocol,
//! hit or miss, and lately the client's port. The document does not say how the time is written: it is taken as 14 digits, or as RFC 3339,
//! in China's time where it names no zone.

use super::line::Fields;
use super::time::{self, Zone};
use super::{Entry, Reason, hit, number, present, status, target};

pub(super) fn entry(line: &str, zone: Zone) -> Result<Entry<'_>, Reason> {
    let mut fields = Fields::new(line);
    let mut next = || fields.next().ok_or("it has fewer than 15 fields");
    let (at, client, host, asked, bytes, _province, _isp, code) =
        (next()?, next()?, next()?, next()?, next()?, next()?, next()?, next()?);
    let time = match at.bytes().all(|byte| byte.is_ascii_digit()) {
        true => time::compact(at, zone)?,
        false => time::iso(at, zone)?,
    };
    let (in_path, path, query) = target(asked).ok_or("its path does not begin with /")?;
    let (_referer, _ms, _agent, _range, _method, _protocol, cache) =
        (next()?, next()?, next()?, next()?, next()?, next()?, next()?);
    Ok(Entry {
        time,
        host: present(host).or(in_path),
        path,
        query,
        status: status(code)?,
        bytes: number(bytes, "its bytes are no number")?,
        client: client.parse().ok(),
        hit: hit(cache),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_the_document_in_their_order() {
        let line = "20180501100000 1.2.3.4 cdn.example.com /live/a.ts 518 22 2 206 NULL 12 \"Mozilla/5.0 (X11; Linux)\" \
                    \"bytes=0-499\" GET HTTP/1.1 hit 41822";
        let expected = Entry {
            time: 1_525_140_000,
            host: Some("cdn.example.com"),
            path: "/live/a.ts",
            query: None,
            status: 206,
            bytes: 518,
            client: Some("1.2.3.4".parse().unwrap()),
            hit: Some(true),
        };
        assert_eq!(entry(line, Zone::CHINA), Ok(expected));
        // Before the port was there; and with another way to write the time.
        let older = line.rsplit_once(' ').unwrap().0.replacen("20180501100000", "2018-05-01T02:00:00Z", 1);
        assert_eq!(entry(&older, Zone::CHINA), Ok(expected));
        let miss = older.replace(" hit", " miss").replace("/live/a.ts", "/live/a.ts?k=v");
        assert_eq!(entry(&miss, Zone::CHINA).map(|entry| (entry.hit, entry.query)), Ok((Some(false), Some("k=v"))));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let line = "20180501100000 1.2.3.4 h /a 518 22 2 206 NULL 12 \"UA\" \"-\" GET HTTP/1.1";
        assert_eq!(entry(line, Zone::CHINA), Err("it has fewer than 15 fields"));
        let whole = format!("{line} hit");
        assert!(entry(&whole, Zone::CHINA).is_ok());
        assert!(entry(&whole.replace(" 518 ", " x "), Zone::CHINA).unwrap_err().contains("bytes"));
        assert!(entry(&whole.replace(" /a ", " a "), Zone::CHINA).unwrap_err().contains("path"));
        assert!(entry(&whole.replace(" 206 ", " ok "), Zone::CHINA).unwrap_err().contains("status"));
        assert!(entry(&whole.replace("2018", "20180"), Zone::CHINA).unwrap_err().contains("time"));
    }
}
