//! Requests as we write them, heads as we accept them.

/// A request; nothing is added to it but what is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Method token.
    pub method: String,
    /// Request target.
    pub target: String,
    /// Minor version of HTTP/1.
    pub minor: u8,
    headers: Vec<(String, String)>,
}

impl Request {
    /// A request with a Host field.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            minor: 1,
            headers: vec![("Host".to_owned(), "edge.test".to_owned())],
        }
    }

    /// A GET.
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// A GET of `range`, such as `bytes=0-99`.
    pub fn range(target: &str, range: &str) -> Self {
        Self::get(target).header("Range", range)
    }

    /// Sets a field, or replaces it.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a line even when the field is there already.
    pub fn also(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes it HTTP/1.0, without a Host field.
    pub fn http10(mut self) -> Self {
        self.minor = 0;
        self.headers.retain(|(name, _)| name != "Host");
        self
    }

    /// Whether the answer has no body whatever its head says.
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// As it goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.{}\r\n", self.method, self.target, self.minor);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.into_bytes()
    }
}

/// A status line and its fields.
#[derive(Debug, Clone)]
pub struct Head {
    /// Minor version of HTTP/1.
    pub minor: u8,
    /// Status code.
    pub status: u16,
    /// Field names in lower case, in order.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Reads a head, from the status line to the empty line.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| format!("a head that is not text: {bytes:?}"))?;
        let text = text.strip_suffix("\r\n\r\n").ok_or("a head without its end")?;
        if text.replace("\r\n", "").contains(['\r', '\n', '\0']) {
            return Err(format!("bare CR, LF or NUL in the head {text:?}"));
        }
        let mut lines = text.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let (version, rest) = status_line.split_once(' ').ok_or_else(|| format!("status line `{status_line}`"))?;
        let minor = match version {
            "HTTP/1.1" => 1,
            "HTTP/1.0" => 0,
            _ => return Err(format!("version `{version}`")),
        };
        // The space behind the code is not optional (RFC 9112 section 4).
        let (code, _reason) = rest.split_once(' ').ok_or_else(|| format!("status line `{status_line}`"))?;
        let status = match code.parse() {
            Ok(status @ 100..=599) if code.len() == 3 => status,
            _ => return Err(format!("status code `{code}`")),
        };
        let mut headers = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| format!("field line `{line}`"))?;
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                return Err(format!("field name `{name}`"));
            }
            headers.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
        }
        Ok(Self { minor, status, headers })
    }

    /// The first value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// All values of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = |known: &str| known.eq_ignore_ascii_case(name);
        self.headers.iter().filter(|(known, _)| same(known)).map(|(_, value)| value.as_str()).collect()
    }

    /// Content-Length, which may come once at most.
    pub fn content_length(&self) -> Result<Option<u64>, String> {
        match self.all("content-length").as_slice() {
            [] => Ok(None),
            [one] => one.parse().map(Some).map_err(|_| format!("Content-Length `{one}`")),
            many => Err(format!("Content-Length {many:?}")),
        }
    }

    /// Content-Range of a 206 as first byte, last byte and complete length.
    pub fn content_range(&self) -> Option<(u64, u64, Option<u64>)> {
        parse_content_range(self.get("content-range")?)
    }
}

fn parse_content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((first.parse().ok()?, last.parse().ok()?, total))
}

/// One part of a multipart/byteranges body.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// First byte.
    pub first: u64,
    /// Last byte, included.
    pub last: u64,
    /// Complete length.
    pub total: Option<u64>,
    /// The bytes.
    pub body: Vec<u8>,
}

/// Takes a multipart/byteranges body apart, strictly (RFC 2046 section 5.1).
pub fn parts(content_type: &str, body: &[u8]) -> Result<Vec<Part>, String> {
    let boundary = content_type
        .strip_prefix("multipart/byteranges; boundary=")
        .ok_or_else(|| format!("Content-Type `{content_type}`"))?
        .trim_matches('"');
    let mut parts = Vec::new();
    let mut rest = body;
    let opening = format!("--{boundary}");
    rest = rest.strip_prefix(b"\r\n").unwrap_or(rest);
    rest = rest.strip_prefix(opening.as_bytes()).ok_or("no boundary at the start")?;
    loop {
        if let Some(tail) = rest.strip_prefix(b"--") {
            return if tail.is_empty() || tail == b"\r\n" { Ok(parts) } else { Err(format!("epilogue {tail:?}")) };
        }
        rest = rest.strip_prefix(b"\r\n").ok_or("no line end behind a boundary")?;
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n").ok_or("a part without an end of its head")?;
        let head = String::from_utf8_lossy(&rest[..end]).into_owned();
        let value = head
            .split("\r\n")
            .find_map(|line| {
                line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-range")).map(|(_, v)| v)
            })
            .ok_or_else(|| format!("no Content-Range in the part {head:?}"))?;
        let (first, last, total) =
            parse_content_range(value.trim()).ok_or_else(|| format!("Content-Range `{value}`"))?;
        rest = &rest[end + 4..];
        let len = (last + 1).checked_sub(first).ok_or("a part that ends before it starts")? as usize;
        let body = rest.get(..len).ok_or_else(|| format!("part {first}-{last} is cut short"))?.to_vec();
        rest = rest[len..]
            .strip_prefix(b"\r\n")
            .and_then(|rest| rest.strip_prefix(opening.as_bytes()))
            .ok_or("no boundary behind a part")?;
        parts.push(Part { first, last, total, body });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_head_is_read() {
        let head = Head::parse(b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/10\r\nA:b\r\n\r\n").unwrap();
        assert_eq!((head.status, head.content_range(), head.get("a")), (206, Some((0, 9, Some(10))), Some("b")));
    }

    #[test]
    fn a_sloppy_head_is_refused() {
        for bad in [
            "HTTP/1.1 200\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\nA: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        ] {
            assert!(Head::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn two_lengths_are_refused() {
        let head = Head::parse(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n").unwrap();
        assert!(head.content_length().is_err());
    }

    #[test]
    fn multipart_comes_apart() {
        let body = b"--x\r\nContent-Type: a/b\r\nContent-Range: bytes 0-1/9\r\n\r\nab\r\n--x\r\nContent-Range: bytes 4-4/9\r\n\r\nc\r\n--x--\r\n";
        let parts = parts("multipart/byteranges; boundary=x", body).unwrap();
        assert_eq!(parts[0], Part { first: 0, last: 1, total: Some(9), body: b"ab".to_vec() });
        assert_eq!(parts[1], Part { first: 4, last: 4, total: Some(9), body: b"c".to_vec() });
        assert!(super::parts("multipart/byteranges; boundary=x", &body[..body.len() - 4]).is_err());
    }
}
