//! Events of version 2 (CTA-5004-B, event mode), and how one becomes a report.

use super::{Cmcd, CmcdError};
use crate::batch::{MAX_MS, MAX_NAME, MAX_TIME_MS, Report};
use crate::fields::Refused;

/// Most events in a body.
pub const MAX_EVENTS: usize = 256;

/// An event that is a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// CMCD's session id (`sid`): sequence numbers count within it. Empty where there is none.
    pub sid: String,
    /// What it reports. `seq` is `sn` + 1, and 0 where the player numbers nothing: then a repeated event counts again.
    pub report: Report,
}

/// Reads a body: one dictionary a line, or JSON where `json` says so (an object, or an array of them). All of it is good, or
/// it is refused with the line that is not.
pub fn events(body: &[u8], json: bool) -> Result<Vec<Event>, Refused> {
    let at = |line: usize| format!("events[{line}]");
    let wrong = |line: usize, error: CmcdError| Refused::new(at(line), "cmcd", error.to_string());
    let mut events = Vec::new();
    let mut add = |cmcd: Result<Cmcd, CmcdError>| {
        let line = events.len();
        if line == MAX_EVENTS {
            return Err(Refused::new("", "range", format!("has more than {MAX_EVENTS} events; send fewer at a time")));
        }
        let cmcd = cmcd.map_err(|error| wrong(line, error))?;
        events.push(event(&cmcd, &at(line))?);
        Ok(())
    };
    if json {
        let value: serde_json::Value = serde_json::from_slice(body)
            .map_err(|error| Refused::new("", "json", format!("the body is not JSON: {error}")))?;
        match value {
            serde_json::Value::Array(values) => values.iter().try_for_each(|value| add(Cmcd::from_json(value)))?,
            value => add(Cmcd::from_json(&value))?,
        }
    } else {
        let text = std::str::from_utf8(body).map_err(|_| Refused::new("", "cmcd", "the body is not UTF-8"))?;
        text.lines().filter(|line| !line.trim().is_empty()).try_for_each(|line| add(line.parse()))?;
    }
    if events.is_empty() {
        return Err(Refused::new("", "range", "has no event; send one dictionary a line"));
    }
    Ok(events)
}

/// `bs` on a change of state or an interval is a stall; `bsd` says how long those that are over were, once for each kind of
/// object; `msd` is the time to the first frame; each code of an error event is an error. Everything is in the raw record.
fn event(cmcd: &Cmcd, at: &str) -> Result<Event, Refused> {
    let missing = |key: &str, help: &str| Refused::new(format!("{at}.{key}"), "missing", help.to_owned());
    let name = cmcd.text("e").ok_or_else(|| missing("e", "is missing; an event names itself, as in e=ps"))?;
    if name.len() > MAX_NAME {
        return Err(Refused::new(format!("{at}.e"), "range", format!("must have at most {MAX_NAME} bytes")));
    }
    let time = cmcd.integer("ts").ok_or_else(|| missing("ts", "is missing; send Unix milliseconds"))?;
    let at_ms = u64::try_from(time).ok().filter(|time| *time <= MAX_TIME_MS);
    let at_ms = at_ms.ok_or_else(|| Refused::new(format!("{at}.ts"), "range", "must be in Unix milliseconds"))?;
    let sid = cmcd.text("sid").unwrap_or_default();
    if sid.len() > MAX_NAME {
        return Err(Refused::new(format!("{at}.sid"), "range", format!("must have at most {MAX_NAME} bytes")));
    }
    let seq = match cmcd.integer("sn") {
        None => 0,
        Some(number) => u64::try_from(number)
            .map_err(|_| Refused::new(format!("{at}.sn"), "range", "must not be negative"))?
            .saturating_add(1),
    };
    let positive = |number: i64| u64::try_from(number).unwrap_or(0).min(MAX_MS);
    let report = Report {
        seq,
        at_ms,
        event: name.to_owned(),
        asset: cmcd.text("cid").unwrap_or_default().chars().take(MAX_NAME).collect(),
        stalls: u64::from(cmcd.is("bs") && matches!(name, "ps" | "t")),
        stall_ms: longest(&cmcd.integers("bsd")),
        errors: if name == "e" { cmcd.texts("ec").len().max(1) as u64 } else { 0 },
        first_frame_ms: cmcd.integer("msd").map(positive),
        unknown: cmcd.to_json().to_string(),
        ..Report::default()
    };
    Ok(Event { sid: sid.to_owned(), report })
}

/// The durations of each kind of object are added up; a player that lists a stall for audio and for video stood once.
fn longest(durations: &[(i64, Option<&str>)]) -> u64 {
    let sum = |kind: Option<&str>| {
        let of_kind = durations.iter().filter(|(_, other)| *other == kind);
        of_kind.fold(0, |sum: u64, (ms, _)| sum.saturating_add(u64::try_from(*ms).unwrap_or(0))).min(MAX_MS)
    };
    durations.iter().map(|(_, kind)| sum(*kind)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_become_reports() {
        let body = concat!(
            "v=2,e=ps,sta=s,ts=1700000000000,sn=0,sid=\"s-1\",cid=\"film\"\n",
            "v=2,e=ps,sta=p,ts=1700000000820,sn=1,sid=\"s-1\",msd=820\r\n",
            "\n",
            "v=2,e=t,ts=1700000030000,sn=2,sid=\"s-1\",bs,br=(3200;v 128;a),com.example-x=7\n",
            "v=2,e=t,ts=1700000060000,sn=3,sid=\"s-1\",bsd=(900;v 700;a 300;v)\n",
            "v=2,e=e,ts=1700000061000,sn=4,sid=\"s-1\",ec=(\"E1\" \"E2\")\n",
            "v=2,e=rr,ts=1700000062000,sid=\"s-1\",bs,rc=404,url=\"http://a/b\"",
        );
        let events = events(body.as_bytes(), false).unwrap();
        assert_eq!(events.len(), 6);
        assert!(events.iter().all(|event| event.sid == "s-1"));
        let of = |at: usize| &events[at].report;
        assert_eq!((of(0).seq, of(0).event.as_str(), of(0).asset.as_str()), (1, "ps", "film"));
        assert_eq!((of(1).seq, of(1).first_frame_ms), (2, Some(820)));
        assert_eq!((of(2).stalls, of(2).stall_ms), (1, 0));
        assert!(of(2).unknown.contains("\"com.example-x\":7"), "{}", of(2).unknown);
        assert_eq!((of(3).stalls, of(3).stall_ms), (0, 1200));
        assert_eq!(of(4).errors, 2);
        assert_eq!((of(5).seq, of(5).stalls), (0, 0), "a response that tells of the stall again is no stall");
    }

    #[test]
    fn json_is_read_alike() {
        let one = br#"{"v": 2, "e": "t", "ts": 1700000000000, "sn": 4, "sid": "s", "bs": true}"#;
        let line = b"v=2,e=t,ts=1700000000000,sn=4,sid=\"s\",bs";
        let (json, text) = (events(one, true).unwrap(), events(line, false).unwrap());
        assert_eq!((json[0].report.seq, json[0].report.stalls), (text[0].report.seq, text[0].report.stalls));
        let array = [b"[".as_slice(), one, b",", one, b"]"].concat();
        assert_eq!(events(&array, true).unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_event_is_refused_by_line_and_key() {
        let many = "e=t,ts=1\n".repeat(MAX_EVENTS + 1);
        for (body, field) in [
            ("", ""),
            ("ts=1", "events[0].e"),
            ("e=t", "events[0].ts"),
            ("e=t,ts=1\ne=t,ts=-1", "events[1].ts"),
            ("e=t,ts=1,sn=-1", "events[0].sn"),
            ("e=t,ts=1,=", "events[0]"),
            (many.as_str(), ""),
        ] {
            assert_eq!(events(body.as_bytes(), false).unwrap_err().field, field, "{body:.40}");
        }
        let long = format!("e=t,ts=1,sid=\"{}\"", "x".repeat(65));
        assert_eq!(events(long.as_bytes(), false).unwrap_err().field, "events[0].sid");
        assert_eq!(events(b"\xff", false).unwrap_err().reason, "cmcd");
        assert_eq!(events(b"7", true).unwrap_err().field, "events[0]");
    }
}
