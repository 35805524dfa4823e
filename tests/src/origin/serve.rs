//! One connection of the origin.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Fault, Framing, Object, Seen, Shared, reset};

/// Bytes made and written at a time.
const STEP: usize = 32 << 10;

/// Connections without a request are closed after this long.
const IDLE: Duration = Duration::from_secs(60);

/// Serves requests until the peer goes or a fault ends it.
pub(super) fn connection(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    let mut reader = BufReader::new(stream);
    while let Some(seen) = read_request(&mut reader)? {
        let answer = {
            let mut table = shared.table();
            let path = seen.target.split('?').next().unwrap_or_default().to_owned();
            let key = if table.entries.contains_key(&seen.target) { seen.target.clone() } else { path };
            table.seen.push(seen.clone());
            table.entries.get_mut(&key).map(|entry| {
                let number = entry.requests;
                let (version, faults) = (entry.version(), entry.faults(number));
                entry.requests += 1;
                (entry.object.clone(), version, faults)
            })
        };
        let keep = match answer {
            Some((object, version, faults)) => Answer { stream, shared, object, version, faults }.send(&seen)?,
            None => {
                let body = "no such object\n";
                let length = body.len();
                let head =
                    format!("HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n");
                (&*stream).write_all(head.as_bytes())?;
                if seen.method != "HEAD" {
                    (&*stream).write_all(body.as_bytes())?;
                }
                true
            }
        };
        if !keep || seen.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            break;
        }
    }
    stream.shutdown(Shutdown::Write)
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Seen>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("request line {line:?}")));
    };
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() {
            let at = Instant::now();
            let mut seen = Seen { method, target, headers, body: Vec::new(), at };
            let length = seen.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
            reader.by_ref().take(length).read_to_end(&mut seen.body)?;
            return Ok(Some(seen));
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

struct Answer<'a> {
    stream: &'a TcpStream,
    shared: &'a Shared,
    object: Object,
    version: u32,
    faults: Vec<Fault>,
}

/// What of a body to send, and what to say about it.
struct Slice {
    status: u16,
    first: u64,
    len: u64,
    content_range: Option<String>,
}

impl Answer<'_> {
    /// Sends the answer; whether the connection may be used again.
    fn send(&self, seen: &Seen) -> io::Result<bool> {
        let mut out = self.stream;
        for fault in &self.faults {
            match *fault {
                Fault::SlowHead(time) => self.shared.rest(time),
                Fault::NoAnswer => return Ok(false),
                Fault::Garbage => {
                    out.write_all(b"\0\x01this is not the protocol you are looking for\n\n")?;
                    return Ok(false);
                }
                Fault::Status(status) => {
                    let body = format!("status {status} on purpose\n");
                    let length = body.len();
                    let head = format!("HTTP/1.1 {status} On Purpose\r\nContent-Length: {length}\r\n\r\n");
                    out.write_all(head.as_bytes())?;
                    out.write_all(body.as_bytes())?;
                    return Ok(true);
                }
                _ => {}
            }
        }
        let slice = self.slice(seen);
        let keep = self.send_head(&slice)?;
        if seen.method == "HEAD" || slice.status == 304 {
            return Ok(true);
        }
        self.send_body(&slice)?;
        Ok(keep)
    }

    fn slice(&self, seen: &Seen) -> Slice {
        let object = &self.object;
        let total = object.size_of(self.version);
        let whole = Slice { status: object.status, first: 0, len: total, content_range: None };
        let empty = |status, content_range| Slice { status, first: 0, len: 0, content_range };
        let etag = object.etag_of(self.version);
        let modified = object.last_modified_of(self.version);
        if let Some(wanted) = seen.header("if-match")
            && wanted != "*"
            && !wanted.split(',').any(|tag| Some(tag.trim()) == etag.as_deref() && !tag.contains("W/"))
        {
            return empty(412, None);
        }
        if object.conditional {
            let unchanged = match (seen.header("if-none-match"), seen.header("if-modified-since")) {
                (Some(tags), _) => {
                    etag.as_deref().is_some_and(|tag| tags.split(',').any(|known| same_weakly(known, tag)))
                }
                (None, Some(date)) => modified.as_deref() == Some(date),
                (None, None) => false,
            };
            if unchanged {
                return empty(304, None);
            }
        }
        let if_range = seen.header("if-range").is_none_or(|validator| {
            (etag.as_deref() == Some(validator) && !validator.starts_with("W/"))
                || modified.as_deref() == Some(validator)
        });
        let Some(range) = seen.header("range").filter(|_| object.ranges && if_range && object.status == 200) else {
            return whole;
        };
        match parse_range(range, total) {
            None => whole,
            Some(Err(())) => empty(416, Some(format!("bytes */{total}"))),
            Some(Ok((first, last))) => {
                let shift = self.faults.iter().find_map(|fault| match fault {
                    Fault::WrongRange(shift) => Some(*shift),
                    _ => None,
                });
                let shift = shift.unwrap_or(0);
                let value = format!("bytes {}-{}/{total}", first + shift, last + shift);
                Slice { status: 206, first, len: last + 1 - first, content_range: Some(value) }
            }
        }
    }

    fn send_head(&self, slice: &Slice) -> io::Result<bool> {
        let object = &self.object;
        let mut head = format!("HTTP/1.1 {} Whatever\r\n", slice.status);
        let mut keep = true;
        match object.framing {
            _ if slice.status == 304 => {}
            Framing::Length => {
                let length = self.faults.iter().fold(slice.len, |len, fault| match fault {
                    Fault::LongLength(more) => len + more,
                    Fault::ShortLength(less) => len.saturating_sub(*less),
                    _ => len,
                });
                keep = length == slice.len;
                head.push_str(&format!("Content-Length: {length}\r\n"));
            }
            Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
            Framing::Close => {
                keep = false;
                head.push_str("Connection: close\r\n");
            }
        }
        let validators = [
            ("ETag", object.etag_of(self.version)),
            ("Last-Modified", object.last_modified_of(self.version)),
            ("Content-Range", slice.content_range.clone()),
            ("Accept-Ranges", (object.ranges).then(|| "bytes".to_owned())),
        ];
        for (name, value) in validators {
            if let Some(value) = value {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        for (name, value) in &object.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        (&*self.stream).write_all(head.as_bytes())?;
        Ok(keep)
    }

    fn send_body(&self, slice: &Slice) -> io::Result<()> {
        let mut out = self.stream;
        let (step, pause) = self.object.pace.unwrap_or((STEP, Duration::ZERO));
        let chunked = self.object.framing == Framing::Chunked;
        let mut buffer = vec![0; step];
        let mut sent = 0;
        loop {
            // The nearest point at which something is due ends this step.
            let due = self.faults.iter().filter_map(|fault| match *fault {
                Fault::Truncate(at) | Fault::Reset(at) | Fault::Stall(at, _) | Fault::Die(at) if at > sent => Some(at),
                _ => None,
            });
            let until = due.min().unwrap_or(u64::MAX).min(slice.len);
            for fault in &self.faults {
                match *fault {
                    Fault::Truncate(at) if at == sent => return Err(ErrorKind::ConnectionAborted.into()),
                    Fault::Reset(at) if at == sent => {
                        reset(self.stream);
                        return Err(ErrorKind::ConnectionReset.into());
                    }
                    Fault::Die(at) if at == sent => {
                        self.shared.die();
                        return Err(ErrorKind::ConnectionReset.into());
                    }
                    Fault::Stall(at, time) if at == sent => self.shared.rest(time),
                    _ => {}
                }
            }
            if sent == slice.len {
                break;
            }
            let n = (until - sent).min(step as u64) as usize;
            let bytes = &mut buffer[..n];
            self.object.fill(self.version, slice.first + sent, bytes);
            if chunked {
                out.write_all(format!("{n:x}\r\n").as_bytes())?;
                out.write_all(bytes)?;
                out.write_all(b"\r\n")?;
            } else {
                out.write_all(bytes)?;
            }
            sent += n as u64;
            self.shared.body_bytes.fetch_add(n as u64, Ordering::SeqCst);
            if !pause.is_zero() {
                self.shared.rest(pause);
            }
        }
        if chunked {
            out.write_all(b"0\r\n\r\n")?;
        }
        Ok(())
    }
}

fn same_weakly(one: &str, other: &str) -> bool {
    let bare = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    one.trim() == "*" || bare(one) == bare(other)
}

/// A single byte range; `None`: ignore it, `Err`: not satisfiable.
fn parse_range(value: &str, total: u64) -> Option<Result<(u64, u64), ()>> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        let suffix: u64 = last.parse().ok()?;
        return Some(if suffix == 0 || total == 0 { Err(()) } else { Ok((total.saturating_sub(suffix), total - 1)) });
    }
    let first: u64 = first.parse().ok()?;
    if first >= total {
        return Some(Err(()));
    }
    let last = if last.is_empty() { total - 1 } else { last.parse::<u64>().ok()?.min(total - 1) };
    (first <= last).then_some(Ok((first, last)))
}
