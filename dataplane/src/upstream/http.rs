//! HTTP/1.1 to an origin: one request, one response, over a connection of this shard's pool.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use shoal_http::chunked;
use shoal_http::headers::Limits;
use shoal_http::response::{BodyFraming, parse_response};
use shoal_http::writer::HeadWriter;
use shoal_sys::arena::BlockWriter;
use shoal_sys::ring::Ring;

use super::error::UpstreamError;
use super::head::OriginHead;
use super::resolve::Resolver;
use super::timeout::within;
use super::wire::Wire;
use super::{Ask, UpstreamLimits};
use crate::clock::Clock;
use crate::routes::{HttpTarget, OriginState};
use crate::slices::notify::Notify;

/// Most a response head may have; origins send more than viewers do.
const HEAD_LIMITS: Limits = Limits { head_bytes: 32 << 10, headers: 64, request_line_bytes: 4 << 10 };

/// What is read at a time while a head or a chunked body comes in.
const READ_BYTES: usize = 32 << 10;

/// Idle connections kept per origin.
const IDLE_MAX: usize = 32;

/// How long an idle connection is trusted to be still open.
const IDLE_TRUST: Duration = Duration::from_secs(30);

/// This shard's connections to HTTP origins.
pub struct HttpPool {
    ring: Ring,
    clock: Clock,
    limits: UpstreamLimits,
    tls: Arc<ClientConfig>,
    node: Arc<str>,
    resolver: Rc<Resolver>,
    origins: RefCell<HashMap<String, Rc<Connections>>>,
}

/// The connections to one server.
#[derive(Default)]
struct Connections {
    idle: RefCell<Vec<(Wire, u64)>>,
    open: Cell<usize>,
    waiting: Cell<usize>,
    released: Notify,
}

/// A place among the connections that may be open to one origin.
struct Permit(Rc<Connections>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.released.notify();
    }
}

/// One that waits for a connection, or has given up.
struct Waiting<'a>(&'a Connections);

impl<'a> Waiting<'a> {
    fn new(connections: &'a Connections) -> Self {
        connections.waiting.set(connections.waiting.get() + 1);
        Self(connections)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

/// A response body on its way. Dropped before its end, it closes the connection.
pub struct HttpBody {
    wire: Wire,
    permit: Permit,
    clock: Clock,
    patience: Duration,
    buffer: Vec<u8>,
    taken: usize,
    framing: Framing,
    reusable: bool,
    /// We ended it ourselves: its end is not the origin's.
    aborted: bool,
}

enum Framing {
    Length(u64),
    Chunked(chunked::Decoder),
    UntilClose,
    Done,
}

impl HttpPool {
    /// An empty pool.
    pub fn new(ring: Ring, clock: Clock, limits: UpstreamLimits, tls: Arc<ClientConfig>, node: Arc<str>) -> HttpPool {
        HttpPool { ring, clock, limits, tls, node, resolver: Rc::default(), origins: RefCell::default() }
    }

    /// Sends one request and reads the head of its response.
    pub async fn fetch(
        &self,
        origin: &Arc<OriginState>,
        target: &HttpTarget,
        ask: &Ask<'_>,
    ) -> Result<(OriginHead, HttpBody), UpstreamError> {
        // A session of TLS is with one name, whatever the address.
        let name = target.tls.as_deref().unwrap_or_default();
        let place = format!("{}:{} {name}", target.host, target.port);
        let connections = Rc::clone(self.origins.borrow_mut().entry(place).or_default());
        let permit = self.admit(&connections).await?;
        let request = write_request(origin, target, ask, &self.node)?;
        // What was sent on a connection that turns out to be closed must not be sent again if it may change things.
        if !ask.is_unsafe()
            && let Some(wire) = self.take_idle(&connections)
        {
            match self.exchange(&wire, request.clone(), ask).await {
                // The origin closed it while it was idle: not the origin's fault, and nothing was answered.
                Err(UpstreamError::Io(_) | UpstreamError::Truncated { .. }) => {}
                Err(error) => return Err(error),
                Ok(response) => return Ok(self.begin(response, wire, permit)),
            }
        }
        let wire = self.connect(target).await?;
        let response = self.exchange(&wire, request, ask).await?;
        Ok(self.begin(response, wire, permit))
    }

    async fn admit(&self, connections: &Rc<Connections>) -> Result<Permit, UpstreamError> {
        let wait = async {
            let mut waiting = None;
            loop {
                let mark = connections.released.mark();
                if connections.open.get() < self.limits.connections_per_origin {
                    break;
                }
                waiting.get_or_insert_with(|| Waiting::new(connections));
                connections.released.changed(mark).await;
            }
        };
        if within(self.limits.response_timeout, wait).await.is_none() {
            return Err(UpstreamError::Crowded);
        }
        connections.open.set(connections.open.get() + 1);
        Ok(Permit(Rc::clone(connections)))
    }

    fn take_idle(&self, connections: &Connections) -> Option<Wire> {
        let now = self.clock.now_ms();
        let mut idle = connections.idle.borrow_mut();
        idle.retain(|(_, since)| now.saturating_sub(*since) < IDLE_TRUST.as_millis() as u64);
        // One on which something came meanwhile was closed, or is out of step.
        std::iter::from_fn(|| idle.pop()).map(|(wire, _)| wire).find(Wire::is_quiet)
    }

    async fn connect(&self, target: &HttpTarget) -> Result<Wire, UpstreamError> {
        let addresses =
            within(self.limits.connect_timeout, self.resolver.resolve(&target.host, target.port, &self.clock))
                .await
                .ok_or_else(|| self.timeout("answer from the resolver", self.limits.connect_timeout))??;
        let mut last = None;
        for &address in addresses.iter() {
            let connect = async {
                let connected = self.ring.connect(address).await;
                let stream =
                    connected.map_err(|error| UpstreamError::Connect { address: address.to_string(), error })?;
                match &target.tls {
                    None => Ok(Wire::Plain(stream)),
                    Some(name) => Wire::secure(stream, &self.tls, name).await,
                }
            };
            match within(self.limits.connect_timeout, connect).await {
                Some(Ok(wire)) => return Ok(wire),
                Some(Err(error)) => last = Some(error),
                None => last = Some(self.timeout("connection", self.limits.connect_timeout)),
            }
        }
        Err(last.unwrap_or_else(|| UpstreamError::Resolve {
            host: target.host.to_string(),
            error: "the name has no address".to_owned(),
        }))
    }

    fn timeout(&self, what: &'static str, limit: Duration) -> UpstreamError {
        UpstreamError::Timeout { what, ms: limit.as_millis() as u64 }
    }

    async fn exchange(
        &self,
        wire: &Wire,
        request: Vec<u8>,
        ask: &Ask<'_>,
    ) -> Result<(OriginHead, Vec<u8>), UpstreamError> {
        let asked = self.clock.unix_s();
        let limit = self.limits.response_timeout;
        let sent = within(limit, wire.send_all(request)).await;
        sent.ok_or_else(|| self.timeout("progress in sending the request", limit))??;
        let read = within(limit, read_head(wire, &self.clock, asked, ask.own_cors)).await;
        read.ok_or_else(|| self.timeout("response head", limit))?
    }

    fn begin(&self, (head, buffer): (OriginHead, Vec<u8>), wire: Wire, permit: Permit) -> (OriginHead, HttpBody) {
        let framing = match head.framing {
            BodyFraming::None => Framing::Done,
            BodyFraming::Length(length) => Framing::Length(length),
            BodyFraming::Chunked => Framing::Chunked(chunked::Decoder::new()),
            BodyFraming::UntilClose => Framing::UntilClose,
        };
        let body = HttpBody {
            wire,
            permit,
            clock: self.clock.clone(),
            patience: self.limits.response_timeout,
            buffer,
            taken: 0,
            framing,
            reusable: head.keep_alive,
            aborted: false,
        };
        (head, body)
    }
}

/// The request as bytes.
fn write_request(
    origin: &OriginState,
    target: &HttpTarget,
    ask: &Ask<'_>,
    node: &str,
) -> Result<Vec<u8>, UpstreamError> {
    let bad = |error| UpstreamError::BadResponse(format!("cannot write the request for {}: {error}", origin.id));
    let mut path = String::with_capacity(target.base.len() + ask.path.len());
    path.push_str(&target.base);
    path.push_str(ask.path);
    let mut out = Vec::with_capacity(256 + path.len());
    let method = ask.asked.map_or("GET", |asked| &asked.method);
    let mut head = HeadWriter::request(&mut out, method, &path).map_err(bad)?;
    head.header("Host", target.authority.as_bytes()).map_err(bad)?;
    if let Some(asked) = ask.asked {
        head.lines().extend_from_slice(&asked.lines);
    }
    for (name, value) in [
        ("User-Agent", concat!("shoal/", env!("CARGO_PKG_VERSION"))),
        ("Accept", "*/*"),
        ("Accept-Encoding", "identity"),
    ] {
        if !ask.asked.is_some_and(|asked| asked.has(name)) {
            head.fixed(name, value);
        }
    }
    head.header("Via", format!("1.1 {node}")).map_err(bad)?;
    let passed = ask.cdn_loop.map_or_else(|| node.to_owned(), |passed| format!("{passed}, {node}"));
    head.header("CDN-Loop", passed).map_err(bad)?;
    if let Some(asked) = ask.asked.filter(|asked| asked.is_unsafe()) {
        head.number("Content-Length", asked.body.len() as u64);
    }
    if let Some((first, last)) = ask.range {
        let value = match last {
            Some(last) => format!("bytes={first}-{last}"),
            None => format!("bytes={first}-"),
        };
        head.header("Range", value).map_err(bad)?;
        if let Some(validator) = ask.known.and_then(|known| known.if_range()) {
            head.header("If-Range", validator).map_err(bad)?;
        }
    } else if ask.revalidate
        && let Some(known) = ask.known
    {
        if let Some(etag) = &known.etag {
            head.header("If-None-Match", etag.as_bytes()).map_err(bad)?;
        }
        if let Some(modified) = known.last_modified {
            head.date("If-Modified-Since", modified);
        }
    }
    head.finish();
    if let Some(asked) = ask.asked {
        out.extend_from_slice(&asked.body);
    }
    Ok(out)
}

/// Reads up to the end of the head; gives the head and the bytes of the body that came with it.
async fn read_head(
    wire: &Wire,
    clock: &Clock,
    asked: u64,
    own_cors: bool,
) -> Result<(OriginHead, Vec<u8>), UpstreamError> {
    let mut buffer = Vec::with_capacity(READ_BYTES);
    loop {
        if buffer.capacity() - buffer.len() < 1024 {
            buffer.reserve(READ_BYTES);
        }
        let (back, received) = wire.recv(buffer).await;
        buffer = back;
        if received? == 0 {
            return Err(UpstreamError::Truncated { missing: 1 });
        }
        loop {
            let parsed = parse_response(&buffer, &HEAD_LIMITS, false)
                .map_err(|error| UpstreamError::BadResponse(error.message()))?;
            let Some((head, used)) = parsed else { break };
            if head.status == 101 {
                return Err(UpstreamError::BadResponse("101 to a request without Upgrade".to_owned()));
            }
            if head.status >= 200 {
                let mut head =
                    OriginHead::read(&head, asked, clock.unix_s(), own_cors).map_err(UpstreamError::BadResponse)?;
                head.head_bytes = used;
                buffer.drain(..used);
                return Ok((head, buffer));
            }
            // 100 and 103: the real one follows.
            buffer.drain(..used);
        }
    }
}

impl HttpBody {
    /// Appends some of the body to `block`, at most `limit` bytes and what fits; 0 at the end of the body. The block comes
    /// back in any case but a bug of the ring.
    pub async fn fill(
        &mut self,
        mut block: BlockWriter,
        limit: usize,
    ) -> (Option<BlockWriter>, Result<usize, UpstreamError>) {
        let space = limit.min(block.capacity() - block.filled());
        match &mut self.framing {
            Framing::Done => (Some(block), Ok(0)),
            Framing::Chunked(_) => {
                let read = self.read_chunked(space, |bytes| {
                    block.append(bytes);
                });
                let read = read.await;
                (Some(block), read)
            }
            Framing::Length(_) | Framing::UntilClose if self.taken < self.buffer.len() => {
                let bytes = &self.buffer[self.taken..];
                let bytes = &bytes[..bytes.len().min(space).min(self.framing.left())];
                let appended = block.append(bytes);
                self.taken += appended;
                self.framing.took(appended);
                (Some(block), Ok(appended))
            }
            Framing::Length(_) | Framing::UntilClose => {
                let (block, received) = self.receive_into(block, space.min(self.framing.left())).await;
                let received = match received {
                    Ok(0) => self.end_of_stream().map(|()| 0),
                    Ok(received) => {
                        self.framing.took(received);
                        Ok(received)
                    }
                    Err(error) => Err(error),
                };
                (block, received)
            }
        }
    }

    /// Reads and drops `count` bytes of the body.
    pub async fn skip(&mut self, mut count: u64) -> Result<(), UpstreamError> {
        while count > 0 {
            let most = usize::try_from(count).unwrap_or(usize::MAX).min(READ_BYTES);
            let skipped = match &self.framing {
                Framing::Done => return Err(UpstreamError::Truncated { missing: count }),
                Framing::Chunked(_) => self.read_chunked(most, |_| {}).await?,
                Framing::Length(_) | Framing::UntilClose => {
                    if self.taken == self.buffer.len() && self.receive().await? == 0 {
                        self.end_of_stream()?;
                    }
                    let skipped = (self.buffer.len() - self.taken).min(most).min(self.framing.left());
                    self.taken += skipped;
                    self.framing.took(skipped);
                    skipped
                }
            };
            if skipped == 0 && matches!(self.framing, Framing::Done) {
                return Err(UpstreamError::Truncated { missing: count });
            }
            count -= skipped as u64;
        }
        Ok(())
    }

    /// Whether others wait for a connection to the same server.
    pub fn is_crowded(&self) -> bool {
        self.permit.0.waiting.get() > 0
    }

    /// Bytes of the body not read yet, where its length was announced.
    pub fn left(&self) -> Option<u64> {
        match &self.framing {
            Framing::Length(left) => Some(*left),
            Framing::Done => Some(0),
            Framing::Chunked(_) | Framing::UntilClose => None,
        }
    }

    /// Gives the connection back for the next request, when the body was read to its end and the origin allows it.
    pub fn finish(self) {
        let whole = matches!(self.framing, Framing::Done | Framing::Length(0));
        // Bytes beyond the body would be taken for the next response.
        if whole && self.reusable && self.taken == self.buffer.len() {
            let mut idle = self.permit.0.idle.borrow_mut();
            if idle.len() < IDLE_MAX {
                idle.push((self.wire, self.clock.now_ms()));
            }
        }
    }

    async fn read_chunked(&mut self, most: usize, mut take: impl FnMut(&[u8])) -> Result<usize, UpstreamError> {
        loop {
            if self.taken == self.buffer.len() && self.receive().await? == 0 {
                return Err(UpstreamError::Truncated { missing: 1 });
            }
            let Framing::Chunked(decoder) = &mut self.framing else { return Ok(0) };
            let input = &self.buffer[self.taken..];
            let input = &input[..input.len().min(most.max(1))];
            let step = decoder.decode(input).map_err(|error| UpstreamError::BadResponse(error.to_string()))?;
            let data = &input[step.data];
            take(data);
            let taken = data.len();
            self.taken += step.used;
            if step.done {
                self.framing = Framing::Done;
                return Ok(taken);
            }
            if taken > 0 {
                return Ok(taken);
            }
        }
    }

    /// Refills the buffer, which must be used up. Returns bytes received.
    async fn receive(&mut self) -> Result<usize, UpstreamError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.reserve(READ_BYTES);
        self.taken = 0;
        let receive = self.wire.recv(buffer);
        match within(self.patience, receive).await {
            Some((back, received)) => {
                self.buffer = back;
                Ok(received?)
            }
            None => Err(self.stalled()),
        }
    }

    async fn receive_into(
        &mut self,
        block: BlockWriter,
        limit: usize,
    ) -> (Option<BlockWriter>, Result<usize, UpstreamError>) {
        let stream = match &self.wire {
            Wire::Plain(stream) => stream,
            Wire::Tls(secure) => {
                let mut block = block;
                let received = within(self.patience, secure.recv_into(&mut block, limit)).await;
                let received = received.map_or_else(|| Err(self.stalled()), |received| Ok(received?));
                return (Some(block), received);
            }
        };
        let mut receive = stream.recv_into(block, limit);
        match within(self.patience, &mut receive).await {
            Some((block, received)) => (block, received.map_err(UpstreamError::from)),
            None => {
                // The block has to come back: what it holds is still good.
                stream.abort();
                self.aborted = true;
                let (block, received) = receive.await;
                match received {
                    Ok(received) if received > 0 => (block, Ok(received)),
                    _ => (block, Err(self.stalled())),
                }
            }
        }
    }

    fn stalled(&self) -> UpstreamError {
        UpstreamError::Timeout { what: "more of the body", ms: self.patience.as_millis() as u64 }
    }

    fn end_of_stream(&mut self) -> Result<(), UpstreamError> {
        self.reusable = false;
        if self.aborted {
            return Err(self.stalled());
        }
        match std::mem::replace(&mut self.framing, Framing::Done) {
            Framing::Length(missing) if missing > 0 => Err(UpstreamError::Truncated { missing }),
            _ => Ok(()),
        }
    }
}

impl Framing {
    fn left(&self) -> usize {
        match self {
            Framing::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX),
            Framing::Done => 0,
            Framing::Chunked(_) | Framing::UntilClose => usize::MAX,
        }
    }

    fn took(&mut self, bytes: usize) {
        if let Framing::Length(left) = self {
            *left -= bytes as u64;
            if *left == 0 {
                *self = Framing::Done;
            }
        }
    }
}

/// One address that needs no resolving, for tests and literals.
pub(super) fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok().map(|ip| SocketAddr::new(ip, port))
}
