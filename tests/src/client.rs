//! A strict HTTP/1.1 client that accounts for every byte and forgives nothing.

mod message;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use rustix::net::{AddressFamily, SocketType, sockopt};

pub use message::{Head, Part, Request, parts};

/// No single read or write of a test may take longer than this.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The segment that every host takes (RFC 9293 section 3.7.1).
const TINY_MSS: u32 = 536;

/// Heads longer than this are not ours.
const MAX_HEAD: usize = 64 << 10;

/// Why no answer can be had from a connection.
#[derive(Debug)]
pub enum Failure {
    /// The connection ended before the first byte of an answer.
    Closed,
    /// Connecting, reading or writing failed.
    Io(io::Error),
    /// The peer does not speak HTTP as RFC 9112 has it: always a defect of the server.
    Protocol(String),
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => write!(f, "the connection was closed without an answer"),
            Self::Io(error) => write!(f, "{error}"),
            Self::Protocol(what) => write!(f, "broken HTTP: {what}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// How a body ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Every announced byte, or the last chunk, came.
    Complete,
    /// The peer closed or reset the connection too early; for a short `Content-Length`, this many bytes are missing.
    Short(Option<u64>),
    /// We stopped reading on purpose.
    Stopped,
}

/// How fast, and how far, to read.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Bytes per read.
    pub chunk: usize,
    /// Rest between reads.
    pub pause: Duration,
    /// Drop the connection once this much of the body has come.
    pub stop_after: Option<u64>,
}

impl Default for Reading {
    fn default() -> Self {
        Self { chunk: 64 << 10, pause: Duration::ZERO, stop_after: None }
    }
}

/// One answer.
#[derive(Debug)]
pub struct Response {
    /// Status line and fields.
    pub head: Head,
    /// The payload, without any transfer coding.
    pub body: Vec<u8>,
    /// Whether it is all there.
    pub end: End,
    /// From the request's last byte to the head.
    pub head_after: Duration,
    /// From the request's last byte to the body's first.
    pub first_byte_after: Option<Duration>,
    /// From the request's last byte to the body's end.
    pub done_after: Duration,
}

impl Response {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The body as text, for refusals and playlists.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a field that must be there.
    pub fn field(&self, name: &str) -> &str {
        self.header(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.head))
    }

    /// The value of a field, if it came.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.get(name)
    }
}

/// A connection to a server.
#[derive(Debug)]
pub struct Conn {
    stream: TcpStream,
    buffer: Vec<u8>,
    wire_bytes: u64,
    asked: Instant,
}

impl Conn {
    /// Connects.
    pub fn open(to: SocketAddr) -> io::Result<Self> {
        Self::wrap(TcpStream::connect_timeout(&to, PATIENCE)?)
    }

    /// Connects from the address `from`, with a receive buffer of about `receive_buffer` bytes, if they are given.
    pub fn open_from(to: SocketAddr, from: Option<SocketAddr>, receive_buffer: Option<usize>) -> io::Result<Self> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
        if let Some(size) = receive_buffer {
            sockopt::set_socket_recv_buffer_size(&socket, size)?;
        }
        if let Some(from) = from {
            rustix::net::bind(&socket, &from)?;
        }
        rustix::net::connect(&socket, &to)?;
        Self::wrap(TcpStream::from(socket))
    }

    /// Connects as a client that takes as little as there can be: through the smallest window, in segments so short that the
    /// server's kernel has little room for what it does not take.
    pub fn open_tiny(to: SocketAddr, from: SocketAddr) -> io::Result<Self> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        sockopt::set_socket_recv_buffer_size(&socket, 1)?;
        socket2::SockRef::from(&socket).set_tcp_mss(TINY_MSS)?;
        rustix::net::bind(&socket, &from)?;
        rustix::net::connect(&socket, &to)?;
        Self::wrap(TcpStream::from(socket))
    }

    fn wrap(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new(), wire_bytes: 0, asked: Instant::now() })
    }

    /// Everything received so far: heads, framing and bodies.
    pub fn wire_bytes(&self) -> u64 {
        self.wire_bytes
    }

    /// The underlying socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.stream.write_all(bytes);
        self.asked = Instant::now();
        sent
    }

    /// Tells the peer that nothing more will be sent.
    pub fn finish_sending(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Sends bytes as they are; they must go out.
    pub fn send(&mut self, bytes: &[u8]) {
        self.send_raw(bytes).unwrap_or_else(|error| panic!("the server takes no bytes: {error}"));
    }

    /// Reads the answer to a request that was not a HEAD; there must be one.
    pub fn expect_response(&mut self) -> Response {
        self.read_response(false, Reading::default()).unwrap_or_else(|failure| panic!("no answer: {failure}"))
    }

    /// Sends a request that must be answered.
    pub fn expect(&mut self, request: &Request) -> Response {
        self.ask(request).unwrap_or_else(|failure| panic!("{} {}: {failure}", request.method, request.target))
    }

    /// Sends a request and reads the whole answer.
    pub fn ask(&mut self, request: &Request) -> Result<Response, Failure> {
        self.ask_reading(request, Reading::default())
    }

    /// Sends a request and reads its answer as `reading` says.
    pub fn ask_reading(&mut self, request: &Request, reading: Reading) -> Result<Response, Failure> {
        self.send_raw(&request.bytes())?;
        self.read_response(request.is_head(), reading)
    }

    /// Reads one answer; `to_head` when the request was a HEAD.
    pub fn read_response(&mut self, to_head: bool, reading: Reading) -> Result<Response, Failure> {
        let head = self.read_head()?;
        let head_after = self.asked.elapsed();
        let mut first_byte_after = None;
        let mut body = Vec::new();
        let asked = self.asked;
        let end = self.read_body(&head, to_head, reading, &mut |bytes| {
            first_byte_after.get_or_insert_with(|| asked.elapsed());
            body.extend_from_slice(bytes);
        })?;
        Ok(Response { head, body, end, head_after, first_byte_after, done_after: asked.elapsed() })
    }

    /// Reads a status line and its fields.
    pub fn read_head(&mut self) -> Result<Head, Failure> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                let bytes: Vec<u8> = self.buffer.drain(..at + 4).collect();
                return Head::parse(&bytes).map_err(Failure::Protocol);
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(Failure::Protocol(format!("no end of the head within {MAX_HEAD} bytes")));
            }
            match self.fill(4096) {
                Ok(0) if self.buffer.is_empty() => return Err(Failure::Closed),
                Ok(0) => return Err(Failure::Protocol(format!("closed in mid-head after {:?}", self.shown()))),
                Ok(_) => {}
                Err(error) if self.buffer.is_empty() && is_gone(&error) => return Err(Failure::Closed),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads the body that belongs to `head` and hands it to `sink` as it comes.
    pub fn read_body(
        &mut self,
        head: &Head,
        to_head: bool,
        reading: Reading,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<End, Failure> {
        let codings = head.all("transfer-encoding");
        let length = head.content_length().map_err(Failure::Protocol)?;
        if to_head || matches!(head.status, 100..=199 | 204 | 304) {
            return Ok(End::Complete);
        }
        if !codings.is_empty() {
            if codings != ["chunked"] || length.is_some() || head.minor == 0 {
                return Err(Failure::Protocol(format!("Transfer-Encoding {codings:?} with {head:?}")));
            }
            return self.read_chunks(reading, sink);
        }
        let mut left = reading.stop_after;
        match length {
            Some(length) => self.read_exactly(length, reading, &mut left, sink),
            None => match self.read_exactly(u64::MAX, reading, &mut left, sink)? {
                End::Short(_) => Ok(End::Complete),
                end => Ok(end),
            },
        }
    }

    fn read_exactly(
        &mut self,
        length: u64,
        reading: Reading,
        budget: &mut Option<u64>,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<End, Failure> {
        let mut left = length;
        while left > 0 {
            if *budget == Some(0) {
                return Ok(End::Stopped);
            }
            if self.buffer.is_empty() {
                if !reading.pause.is_zero() {
                    thread::sleep(reading.pause);
                }
                match self.fill(reading.chunk) {
                    Ok(0) => return Ok(End::Short(Some(left))),
                    Ok(_) => {}
                    Err(error) if is_gone(&error) => return Ok(End::Short(Some(left))),
                    Err(error) => return Err(error.into()),
                }
            }
            let limit = budget.unwrap_or(u64::MAX).min(left).min(self.buffer.len() as u64);
            let taken: Vec<u8> = self.buffer.drain(..limit as usize).collect();
            sink(&taken);
            left -= limit;
            if let Some(budget) = budget {
                *budget -= limit;
            }
        }
        Ok(End::Complete)
    }

    fn read_chunks(&mut self, reading: Reading, sink: &mut dyn FnMut(&[u8])) -> Result<End, Failure> {
        let mut budget = reading.stop_after;
        loop {
            let Some(line) = self.read_line()? else { return Ok(End::Short(None)) };
            let size = u64::from_str_radix(line.split(';').next().unwrap_or_default(), 16)
                .map_err(|_| Failure::Protocol(format!("chunk size `{line}`")))?;
            if size == 0 {
                return match self.read_line()? {
                    Some(line) if line.is_empty() => Ok(End::Complete),
                    Some(line) => Err(Failure::Protocol(format!("trailer `{line}` that nobody asked for"))),
                    None => Ok(End::Short(None)),
                };
            }
            match self.read_exactly(size, reading, &mut budget, sink)? {
                End::Complete => {}
                End::Short(_) => return Ok(End::Short(None)),
                End::Stopped => return Ok(End::Stopped),
            }
            match self.read_line()? {
                Some(line) if line.is_empty() => {}
                Some(line) => return Err(Failure::Protocol(format!("`{line}` behind a chunk of {size} bytes"))),
                None => return Ok(End::Short(None)),
            }
        }
    }

    fn read_line(&mut self) -> Result<Option<String>, Failure> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return Ok(Some(String::from_utf8_lossy(&line[..at]).into_owned()));
            }
            match self.fill(4096) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if is_gone(&error) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn fill(&mut self, limit: usize) -> io::Result<usize> {
        let start = self.buffer.len();
        self.buffer.resize(start + limit, 0);
        let result = loop {
            match self.stream.read(&mut self.buffer[start..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        let got = *result.as_ref().unwrap_or(&0);
        self.buffer.truncate(start + got);
        self.wire_bytes += got as u64;
        result
    }

    /// Waits for the peer to close; what still arrives first is returned. `Err` when it stays open for `within`.
    pub fn wait_for_close(&mut self, within: Duration) -> Result<Vec<u8>, Vec<u8>> {
        let deadline = Instant::now() + within;
        let closed = loop {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                break false;
            };
            self.stream.set_read_timeout(Some(left)).expect("a positive timeout");
            match self.fill(4096) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) if is_gone(&error) => break true,
                Err(_) => break false,
            }
        };
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a positive timeout");
        let rest = std::mem::take(&mut self.buffer);
        if closed { Ok(rest) } else { Err(rest) }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.buffer[..self.buffer.len().min(200)]).into_owned()
    }
}

/// A connection that must succeed.
pub fn connect(to: SocketAddr) -> Conn {
    Conn::open(to).unwrap_or_else(|error| panic!("cannot connect to {to}: {error}"))
}

/// Asks once, on a connection of its own.
pub fn ask(to: SocketAddr, request: &Request) -> Result<Response, Failure> {
    Conn::open(to)?.ask(request)
}

/// The same for requests that must be answered.
pub fn expect(to: SocketAddr, request: &Request) -> Response {
    ask(to, request).unwrap_or_else(|failure| panic!("{} {}: {failure}", request.method, request.target))
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
}
