//! One client connection, from accept to close.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use rustls::ServerConfig;
use shoal_http::chunked::Decoder;
use shoal_http::headers::Known;
use shoal_http::proxy_v2::{ProxyHeader, parse_proxy};
use shoal_http::request::{RequestBody, RequestHead, parse_request};
use shoal_link::ledger::Kind;
use shoal_sys::ring::{Received, SendMsg, Stream};
use shoal_ticket::Memory;

use super::context::Context;
use super::deadlines::{Expired, Phase, Watched};
use super::exchange;
use super::refusal::Refusal;
use super::secure;
use crate::ledger::{Flow, Usage};
use crate::routes::Channel;
use crate::telemetry::metrics::Counter;
use crate::tls::session::Session;

/// Longest PROXY header, TLVs and all.
const PROXY_MAX: usize = 4096;

/// Bytes of a request body that are read and dropped to keep the connection.
const BODY_MAX: u64 = 64 << 10;

/// Bytes read from a client that should stop sending, before the connection is closed under it.
const LINGER_BYTES: usize = 256 << 10;

/// Bytes that an idle connection keeps for its next request head.
const INPUT_KEPT: usize = 1 << 10;

/// A client connection.
pub struct Connection {
    pub(super) ctx: Rc<Context>,
    pub(super) watched: Rc<Watched>,
    place: usize,
    peer: Cell<IpAddr>,
    counted: Cell<Option<IpAddr>>,
    /// Bytes received and not used yet.
    pub(super) input: RefCell<Vec<u8>>,
    /// Set when the handshake is over, on a listener that speaks TLS.
    tls: OnceCell<Box<Session>>,
    /// Whom the bytes sent are accounted to.
    account: RefCell<Account>,
    /// The ticket that was last found right here.
    tickets: RefCell<Memory>,
}

/// Whose usage it is.
struct Account {
    kind: Kind,
    channel: Option<Arc<Channel>>,
    session: String,
    requests: u64,
    body_bytes: u64,
    first_byte: Option<Instant>,
    last_byte: Option<Instant>,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            kind: Kind::Client,
            channel: None,
            session: String::new(),
            requests: 0,
            body_bytes: 0,
            first_byte: None,
            last_byte: None,
        }
    }
}

impl Account {
    /// Nobody's, but with room for the next session's name, which is the same most often.
    fn reset(&mut self) {
        let mut session = std::mem::take(&mut self.session);
        session.clear();
        *self = Account { session, ..Account::default() };
    }
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// In order, by the client.
    Closed,
    /// By the network or the client, out of order.
    Reset,
    /// By a time limit.
    Expired(Expired),
    /// The node drains.
    Drained,
    /// An answer said so.
    Done,
    /// What came is no HTTP.
    Malformed,
    /// The body could not be completed.
    Upstream,
}

impl Broken {
    /// What it is called in the access log; where it is counted too, by the same label.
    pub fn label(self) -> &'static str {
        match self {
            Broken::Closed => "peer",
            Broken::Reset => "reset",
            Broken::Expired(Expired::Idle) => "idle",
            Broken::Expired(Expired::Head) => "head_timeout",
            Broken::Expired(Expired::Slow) => "slow",
            Broken::Expired(Expired::Memory) => "memory",
            Broken::Drained => "drain",
            Broken::Done => "done",
            Broken::Malformed => "malformed",
            Broken::Upstream => "upstream",
        }
    }
}

/// Whether another request may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Yes.
    KeepAlive,
    /// No; the answer has said so.
    Close,
}

/// Serves a connection to its end; with `tls`, one that starts with a handshake.
pub async fn serve(ctx: Rc<Context>, stream: Stream, peer: SocketAddr, tls: Option<Arc<ServerConfig>>) {
    let now_ms = ctx.clock.now_ms();
    let watched = Rc::new(Watched::new(stream, now_ms));
    let place = ctx.deadlines.watch(Rc::clone(&watched));
    ctx.connections.set(ctx.connections.get() + 1);
    ctx.all_connections.fetch_add(1, Relaxed);
    let connection = Connection {
        ctx,
        watched,
        place,
        peer: Cell::new(peer.ip().to_canonical()),
        counted: Cell::new(None),
        input: RefCell::default(),
        tls: OnceCell::new(),
        account: RefCell::default(),
        tickets: RefCell::default(),
    };
    let broken = connection.run(tls.as_ref()).await;
    let stats = &connection.ctx.stats;
    stats.add(
        match broken {
            Broken::Closed => Counter::ClosedByPeer,
            Broken::Reset => Counter::ClosedReset,
            Broken::Expired(Expired::Idle) => Counter::ClosedIdle,
            Broken::Expired(Expired::Head) => Counter::ClosedHeadTimeout,
            Broken::Expired(Expired::Slow) => Counter::ClosedSlow,
            Broken::Expired(Expired::Memory) => Counter::ClosedMemory,
            Broken::Drained => Counter::ClosedDrain,
            Broken::Done => Counter::ClosedDone,
            Broken::Malformed => Counter::ClosedMalformed,
            Broken::Upstream => Counter::ClosedUpstream,
        },
        1,
    );
    if let Some(tls) = connection.tls.get()
        && matches!(broken, Broken::Closed | Broken::Done | Broken::Drained | Broken::Expired(Expired::Idle))
    {
        tls.close(&connection.watched.stream);
    }
    if matches!(broken, Broken::Done | Broken::Malformed | Broken::Expired(Expired::Head)) {
        connection.linger().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.ctx.deadlines.forget(self.place);
        self.ctx.connections.set(self.ctx.connections.get() - 1);
        self.ctx.all_connections.fetch_sub(1, Relaxed);
        if let Some(address) = self.counted.get() {
            self.ctx.addresses.leave(address);
        }
    }
}

impl Connection {
    async fn run(&self, tls: Option<&Arc<ServerConfig>>) -> Broken {
        if self.ctx.settings.proxy_protocol
            && let Err(broken) = self.read_proxy_header().await
        {
            return broken;
        }
        if self.ctx.connections.get() > self.ctx.settings.connections_per_shard {
            self.ctx.stats.add(Counter::RefusedPerShard, 1);
            if tls.is_some() {
                // An answer would cost a handshake, when there is too much to do already.
                return Broken::Done;
            }
            let refusal =
                Refusal::closing(503, "connections_per_shard", "too many connections on this node; try again");
            return self.refuse_outright(&refusal.with("Retry-After", "1")).await;
        }
        if !self.count_address() {
            self.ctx.stats.add(Counter::RefusedPerAddress, 1);
            if tls.is_some() {
                return Broken::Done;
            }
            let message = "too many connections from your address; close some";
            return self.refuse_outright(&Refusal::closing(429, "connections_per_address", message)).await;
        }
        if let Some(config) = tls {
            match secure::handshake(self, config).await {
                // Nothing else sets it.
                Ok(session) => self.tls.get_or_init(|| session),
                Err(broken) => return broken,
            };
        }
        loop {
            let idle = self.input.borrow().is_empty();
            self.watched.enter(if idle { Phase::Idle } else { Phase::Head }, self.ctx.clock.now_ms());
            if idle && self.ctx.draining.get() {
                return Broken::Drained;
            }
            match self.next_request().await {
                Ok(After::KeepAlive) => {}
                Ok(After::Close) => return Broken::Done,
                Err(HeadFailure::Broken(broken)) => return broken,
                Err(HeadFailure::Refused(refusal)) => {
                    let _ = self.refuse_outright(&refusal).await;
                    return if refusal.status == 408 { Broken::Expired(Expired::Head) } else { Broken::Malformed };
                }
            }
        }
    }

    /// The shard it belongs to.
    pub fn context(&self) -> &Rc<Context> {
        &self.ctx
    }

    /// The address at the other end: the client's, or a trusted proxy's.
    pub fn peer(&self) -> IpAddr {
        self.peer.get()
    }

    /// Whether the other end is a node that has this one as a parent.
    pub fn is_child(&self) -> bool {
        self.ctx.is_child(self.peer())
    }

    /// Lends what is known of the viewer's ticket.
    pub fn with_ticket_memory<T>(&self, check: impl FnOnce(&mut Memory) -> T) -> T {
        check(&mut self.tickets.borrow_mut())
    }

    fn count_address(&self) -> bool {
        let most = u32::try_from(self.ctx.settings.connections_per_address).unwrap_or(u32::MAX);
        // Behind a trusted proxy, or a node that has this one as a parent, all connections are its own.
        if self.ctx.trusts(self.peer()) || self.is_child() || most == u32::MAX {
            return true;
        }
        let admitted = self.ctx.addresses.enter(self.peer(), most);
        self.counted.set(admitted.then_some(self.peer()));
        admitted
    }

    async fn read_proxy_header(&self) -> Result<(), Broken> {
        loop {
            let parsed = parse_proxy(&self.input.borrow(), PROXY_MAX);
            match parsed {
                Ok(Some((header, used))) => {
                    self.input.borrow_mut().drain(..used);
                    if let ProxyHeader::Proxied { source, .. } = header {
                        self.peer.set(source.ip().to_canonical());
                    }
                    return Ok(());
                }
                Ok(None) => self.receive().await?,
                Err(error) => {
                    tracing::debug!(%error, "not a PROXY header");
                    self.ctx.stats.refusal("proxy_header");
                    return Err(Broken::Malformed);
                }
            }
        }
    }

    /// Waits for bytes and adds them to the input.
    async fn receive(&self) -> Result<(), Broken> {
        if let Some(tls) = self.tls.get() {
            return secure::receive(self, tls).await;
        }
        let received = self.receive_raw().await?;
        let mut input = self.input.borrow_mut();
        match received {
            Received::Aside(bytes) if input.is_empty() => *input = bytes,
            received => input.extend_from_slice(&received),
        }
        Ok(())
    }

    /// Waits for bytes as they come over the network: some.
    pub(super) async fn receive_raw(&self) -> Result<Received, Broken> {
        match self.watched.stream.recv().await {
            Ok(received) if received.is_empty() => Err(Broken::Closed),
            Ok(received) => Ok(received),
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                Err(self.watched.expired().map_or(Broken::Drained, Broken::Expired))
            }
            Err(_) => Err(Broken::Reset),
        }
    }

    /// Reads until the input starts with a whole request head, and answers that.
    async fn next_request(&self) -> Result<After, HeadFailure> {
        loop {
            let mut input = std::mem::take(&mut *self.input.borrow_mut());
            if !input.is_empty()
                && let Some((head, used)) = parse_request(&input, &self.ctx.head_limits).map_err(Refusal::from)?
            {
                // What follows the head is its body, or the next request.
                self.input.borrow_mut().extend_from_slice(input.get(used..).unwrap_or_default());
                // Boxed: a connection that waits for a request is not to hold the room to answer one.
                let after = Box::pin(self.handle(&head)).await;
                if self.input.borrow().capacity() == 0 && input.capacity() <= INPUT_KEPT {
                    input.clear();
                    *self.input.borrow_mut() = input;
                }
                return after.map_err(HeadFailure::Broken);
            }
            *self.input.borrow_mut() = input;
            match self.receive().await {
                Ok(()) => {
                    if self.watched.phase() == Phase::Idle {
                        self.watched.enter(Phase::Head, self.ctx.clock.now_ms());
                    }
                }
                Err(Broken::Expired(Expired::Head)) if !self.input.borrow().is_empty() => {
                    let ms = self.ctx.settings.head_timeout.as_millis();
                    let message = format!("the request head was not complete within {ms} ms");
                    return Err(Refusal::closing(408, "head_timeout", message).into());
                }
                Err(Broken::Closed) if !self.input.borrow().is_empty() => {
                    return Err(Refusal::closing(400, "incomplete_head", "the request head ends early").into());
                }
                Err(broken) => return Err(HeadFailure::Broken(broken)),
            }
        }
    }

    /// Answers a request.
    async fn handle(&self, head: &RequestHead<'_>) -> Result<After, Broken> {
        let started = Instant::now();
        self.watched.switch(Phase::Working);
        let body = match exchange::passes(&self.ctx, head) {
            // Whoever passes it reads it.
            true => Ok(()),
            false => match self.drop_body(head).await {
                Ok(()) => Ok(()),
                Err(HeadFailure::Refused(refusal)) => Err(refusal),
                Err(HeadFailure::Broken(broken)) => return Err(broken),
            },
        };
        let result = exchange::answer(self, head, body, started).await;
        self.account.borrow_mut().reset();
        result
    }

    /// Objects are only read, so a request's body is for nobody: a short one is passed over.
    async fn drop_body(&self, head: &RequestHead<'_>) -> Result<(), HeadFailure> {
        let length = match head.body {
            RequestBody::None => return Ok(()),
            _ if head.headers.known(Known::Expect).is_some() => {
                let message = "a request body has no use here; send none, and no Expect";
                return Err(Refusal::closing(417, "expect", message).into());
            }
            RequestBody::Length(length) => length,
            RequestBody::Chunked => {
                let message = "a request body has no use here, and this one has no length; send none";
                return Err(Refusal::closing(411, "body", message).into());
            }
        };
        if length > BODY_MAX {
            let message = format!("a request body has no use here; at most {BODY_MAX} bytes are passed over");
            return Err(Refusal::closing(413, "body", message).into());
        }
        self.watched.enter(Phase::Head, self.ctx.clock.now_ms());
        let length = length as usize;
        while self.input.borrow().len() < length {
            self.receive().await.map_err(HeadFailure::Broken)?;
        }
        self.input.borrow_mut().drain(..length);
        self.watched.switch(Phase::Working);
        Ok(())
    }

    /// Reads the body of a request that is passed to an origin, of at most `most` bytes.
    pub async fn take_body(&self, head: &RequestHead<'_>, most: usize) -> Result<Vec<u8>, HeadFailure> {
        let too_long = || {
            let message =
                format!("a request body may have {most} bytes here (forward.body_bytes_max); send a shorter one");
            HeadFailure::from(Refusal::closing(413, "body", message))
        };
        let mut chunks = match head.body {
            RequestBody::None => return Ok(Vec::new()),
            RequestBody::Length(length) if length > most as u64 => return Err(too_long()),
            RequestBody::Length(_) => None,
            RequestBody::Chunked => Some(Decoder::new()),
        };
        match head.headers.single(Known::Expect) {
            _ if head.headers.known(Known::Expect).is_none() => {}
            Some(value) if value.eq_ignore_ascii_case(b"100-continue") => {
                let mut msg = self.ctx.message();
                msg.head.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                let msg = self.send(msg, false).await.map_err(HeadFailure::Broken)?;
                self.ctx.recycle(msg);
            }
            _ => return Err(Refusal::closing(417, "expect", "only `Expect: 100-continue` can be met").into()),
        }
        self.watched.enter(Phase::Head, self.ctx.clock.now_ms());
        let mut body = Vec::new();
        loop {
            {
                let mut input = self.input.borrow_mut();
                let done = match (&mut chunks, head.body) {
                    (Some(decoder), _) => {
                        let step = decoder.decode(&input).map_err(|error| {
                            HeadFailure::from(Refusal::closing(400, "body", format!("bad chunk: {error}")))
                        })?;
                        body.extend_from_slice(input.get(step.data).unwrap_or_default());
                        input.drain(..step.used);
                        match step.done {
                            false if step.used > 0 => continue,
                            done => done,
                        }
                    }
                    (None, RequestBody::Length(length)) => {
                        let missing = length as usize - body.len();
                        let taken = missing.min(input.len());
                        body.extend(input.drain(..taken));
                        taken == missing
                    }
                    (None, _) => true,
                };
                if body.len() > most {
                    return Err(too_long());
                }
                if done {
                    break;
                }
            }
            self.receive().await.map_err(HeadFailure::Broken)?;
        }
        self.watched.switch(Phase::Working);
        Ok(body)
    }

    /// Answers a connection, or bytes that are no request, and is done with it.
    pub(super) async fn refuse_outright(&self, refusal: &Refusal) -> Broken {
        self.ctx.stats.refusal(refusal.reason);
        let started = Instant::now();
        let mut msg = self.ctx.message();
        let mut head = refusal.write_head(&mut msg.head, &self.ctx.date());
        head.fixed("Connection", "close");
        head.finish();
        refusal.body(&mut msg.head);
        match self.send(msg, false).await {
            Ok(msg) => {
                self.ctx.recycle(msg);
                let none = crate::telemetry::stats::CacheResult::None;
                self.ctx.stats.request(refusal.status, none, started.elapsed(), started.elapsed());
                Broken::Done
            }
            Err(broken) => broken,
        }
    }

    /// From now on bytes sent are this channel's and session's.
    pub fn account_to(&self, channel: &Arc<Channel>, session: &str) {
        let mut account = self.account.borrow_mut();
        account.channel = Some(Arc::clone(channel));
        account.requests = 1;
        account.kind = if self.is_child() { Kind::Child } else { Kind::Client };
        account.session.clear();
        account.session.push_str(session);
    }

    /// A body without a length breaks off: closing must not look like its end.
    pub fn reset_on_close(&self) {
        self.watched.stream.reset_on_close();
    }

    /// Has the kernel send at most so many bytes per second from now on; `None`: as fast as it can.
    pub fn set_pace(&self, bytes_per_s: Option<u64>) {
        if self.watched.pace() == bytes_per_s {
            return;
        }
        match self.watched.stream.set_pacing_rate(bytes_per_s) {
            Ok(()) => self.watched.set_pace(bytes_per_s),
            Err(error) => tracing::debug!(%error, "cannot pace a connection"),
        }
    }

    /// Whether nobody is accounted for this request's bytes yet.
    pub fn is_unaccounted(&self) -> bool {
        self.account.borrow().channel.is_none()
    }

    /// Body bytes sent for this request, and when the first and the last byte of the answer went out.
    pub fn sent(&self) -> (u64, Option<(Instant, Instant)>) {
        let account = self.account.borrow();
        (account.body_bytes, account.first_byte.zip(account.last_byte))
    }

    /// Body bytes that went out within a head.
    pub fn count_inline(&self, bytes: u64) {
        self.count(bytes, 0);
    }

    /// Sends all of the message.
    pub async fn send(&self, mut msg: Box<SendMsg>, by_file: bool) -> Result<Box<SendMsg>, Broken> {
        if let Some(tls) = self.tls.get() {
            return secure::send(self, tls, msg).await;
        }
        self.watched.switch(Phase::Sending);
        while !msg.is_sent() {
            let body_before = msg.body_left();
            let sent = if by_file {
                self.watched.stream.send_file(&mut msg).await
            } else {
                let (back, sent) = self.watched.stream.send(msg, false).await;
                msg = back;
                sent
            };
            let Ok(sent) = sent else {
                return Err(self.watched.expired().map_or(Broken::Reset, Broken::Expired));
            };
            self.watched.took(sent);
            self.count((body_before - msg.body_left()) as u64, sent as u64);
        }
        self.watched.switch(Phase::Working);
        Ok(msg)
    }

    /// Adds what the kernel took to everything that counts.
    pub(super) fn count(&self, body: u64, wire: u64) {
        let mut account = self.account.borrow_mut();
        account.body_bytes += body;
        account.last_byte = Some(Instant::now());
        account.first_byte = account.first_byte.or(account.last_byte);
        self.ctx.stats.add(Counter::BodyBytes, body);
        self.ctx.stats.add(Counter::WireBytes, wire);
        let usage = Usage { requests: std::mem::take(&mut account.requests), body_bytes: body, wire_bytes: wire };
        if let Some(channel) = &account.channel {
            let flow =
                Flow { tenant: &channel.tenant, channel: &channel.id, kind: account.kind, origin: &self.ctx.no_origin };
            self.ctx.ledger.borrow_mut().record(flow, &account.session, usage);
        }
    }

    /// Lets the client read the last answer: closing while it still sends would throw that away (RFC 9112 section 9.6).
    async fn linger(&self) {
        self.watched.stream.finish_sending();
        self.watched.enter(Phase::Head, self.ctx.clock.now_ms());
        let mut read = 0;
        while read < LINGER_BYTES {
            match self.watched.stream.recv().await {
                Ok(received) if !received.is_empty() => read += received.len(),
                _ => break,
            }
        }
    }
}

/// Why a request could not be read.
pub enum HeadFailure {
    /// The connection ends.
    Broken(Broken),
    /// It is answered so.
    Refused(Refusal),
}

impl From<Refusal> for HeadFailure {
    fn from(refusal: Refusal) -> Self {
        HeadFailure::Refused(refusal)
    }
}
