//! One request and its answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use shoal_http::cache_control::CacheControl;
use shoal_http::chunked::LAST_CHUNK;
use shoal_http::forwarded;
use shoal_http::headers::{Known, Version as HttpVersion};
use shoal_http::range::RangeSet;
use shoal_http::request::{Method, RequestBody, RequestHead};
use shoal_http::writer::HeadWriter;
use shoal_sys::ring::SendMsg;

use super::admission::{self, ALLOW, Admitted, Denial};
use super::answer::{self, AnswerHead, Framing, Plan, Selection};
use super::body::{BodyError, BodySender};
use super::changed;
use super::cmcd;
use super::connection::{After, Broken, Connection, HeadFailure};
use super::context::Context;
use super::pacing::Pacer;
use super::playlist;
use super::refusal::Refusal;
use crate::routes::{Channel, Limited, Limits};
use crate::slices::store::{OpenRequest, Opened};
use crate::telemetry::access_log::Record;
use crate::telemetry::stats::CacheResult;
use crate::upstream::Asked;

/// Versions tried when an object changes at its origin while it is fetched, before the viewer is told.
const VERSIONS_MAX: usize = 3;

/// One exchange on its way.
struct Exchange<'a> {
    connection: &'a Connection,
    head: &'a RequestHead<'a>,
    client: IpAddr,
    keep_alive: bool,
}

/// What came of it, for counters and the log.
struct Outcome {
    status: u16,
    cache: CacheResult,
    refusal: Option<&'static str>,
    after: Result<After, Broken>,
}

/// Answers one request. `body` says what became of the request's own body.
pub async fn answer(
    connection: &Connection,
    head: &RequestHead<'_>,
    body: Result<(), Refusal>,
    started: Instant,
) -> Result<After, Broken> {
    let ctx = connection.context();
    let trusts = |address| ctx.trusts(address);
    let client = match head.headers.known(Known::XForwardedFor) {
        None => connection.peer(),
        Some(_) => forwarded::client_address(connection.peer(), head.headers.all(Known::XForwardedFor), trusts),
    };
    let exchange = Exchange { connection, head, client, keep_alive: head.keep_alive() && !ctx.draining.get() };
    let (outcome, admitted) = exchange.run(body).await;
    if let Some(reason) = outcome.refusal {
        ctx.stats.refusal(reason);
    }
    let (body_bytes, sent) = connection.sent();
    let (first_byte, last_byte) = match sent {
        // The last byte ended it, and its time is known.
        Some(times) if outcome.after.is_ok() => times,
        sent => {
            let now = Instant::now();
            (sent.map_or(now, |(first_byte, _)| first_byte), now)
        }
    };
    let (first_byte, total) = (first_byte.duration_since(started), last_byte.duration_since(started));
    ctx.stats.request(outcome.status, outcome.cache, first_byte, total);
    if let Some(admitted) = &admitted {
        ctx.popular.count(&admitted.key, body_bytes);
        // A child's viewers are told of by the child.
        if !connection.is_child() {
            cmcd::note(ctx, head, admitted, body_bytes);
        }
    }
    if let Some(log) = &ctx.access_log {
        let path = head.path;
        let (channel, path, session) = match &admitted {
            Some(admitted) => (
                Arc::clone(&admitted.channel.id),
                String::from_utf8_lossy(admitted.key.path()).into(),
                admitted.session.as_ref().map_or("", |session| session.as_str()).into(),
            ),
            None => {
                (Arc::from(""), shoal_ticket::path_signature(path).map_or(path, |found| found.rest).into(), "".into())
            }
        };
        log.push(Record {
            time: SystemTime::now() - total,
            shard: ctx.shard as u16,
            client,
            method: method_name(head.method),
            host: head.host.unwrap_or_default().into(),
            path,
            channel,
            session,
            status: outcome.status,
            cache: outcome.cache,
            refusal: outcome.refusal,
            broken: outcome.after.err().map(Broken::label),
            body_bytes,
            first_byte,
            total,
        });
    }
    outcome.after
}

/// Whether the request goes through to an origin, with its body, whatever is kept.
pub fn passes(ctx: &Context, head: &RequestHead<'_>) -> bool {
    let never = matches!(head.method, Method::Get | Method::Head | Method::Options | Method::Connect | Method::Trace);
    !never && admission::find_channel(ctx, head).is_some_and(|channel| channel.forward.unsafe_methods)
}

/// Whether the viewer asks not to be served from a cache without validation (RFC 9111 sections 5.2.1 and 5.4).
pub(super) fn wants_revalidation(head: &RequestHead<'_>) -> bool {
    if head.headers.known(Known::CacheControl).is_none() {
        return head.headers.get_all("pragma").any(|value| value.eq_ignore_ascii_case(b"no-cache"));
    }
    let control = CacheControl::parse(head.headers.all(Known::CacheControl));
    control.no_cache || control.max_age == Some(0)
}

fn method_name(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Options => "OPTIONS",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Patch => "PATCH",
        Method::Connect => "CONNECT",
        Method::Trace => "TRACE",
        Method::Other => "other",
    }
}

impl Exchange<'_> {
    async fn run(&self, body: Result<(), Refusal>) -> (Outcome, Option<Admitted>) {
        let ctx = self.connection.context();
        let passes = passes(ctx, self.head);
        if let Err(refusal) = body.and_then(|()| admission::check_method(self.head, passes)) {
            return (self.refuse(&refusal, None).await, None);
        }
        if self.head.method == Method::Options {
            return (self.options().await, None);
        }
        let cdn_loop = match admission::check_loop(ctx, self.head) {
            Ok(passed) => passed,
            Err(refusal) => return (self.refuse(&refusal, None).await, None),
        };
        let connection = self.connection;
        let admitted = match connection
            .with_ticket_memory(|memory| admission::admit(ctx, self.head, self.client, connection.is_child(), memory))
        {
            Ok(admitted) => admitted,
            Err(Denial { mut refusal, channel }) => {
                // A body that nobody reads is in the way of the next request.
                refusal.close |= passes && self.head.body != RequestBody::None;
                return (self.refuse(&refusal, channel.as_ref()).await, None);
            }
        };
        let session = admitted.session.as_ref().map_or("", |session| session.as_str());
        self.connection.account_to(&admitted.channel, session);
        if let Some(refusal) = self.limits(&admitted.channel).and_then(over_limit) {
            let refusal = Refusal { close: passes && self.head.body != RequestBody::None, ..refusal };
            return (self.refuse(&refusal, Some(&admitted.channel)).await, Some(admitted));
        }
        if passes {
            return (self.pass(&admitted, cdn_loop).await, Some(admitted));
        }
        let outcome = match answer::asked_ranges(self.head, ctx.settings.ranges_per_request) {
            Ok(ranges) => self.object(&admitted, ranges.as_ref(), cdn_loop).await,
            Err(refusal) => self.refuse(&refusal, Some(&admitted.channel)).await,
        };
        (outcome, Some(admitted))
    }

    /// What viewers may take of the channel, when this is one.
    fn limits<'c>(&self, channel: &'c Channel) -> Option<&'c Limits> {
        channel.limits.as_deref().filter(|_| !self.connection.is_child())
    }

    /// Passes the request to an origin, and throws away what it changed (RFC 9111 section 4.4).
    async fn pass(&self, admitted: &Admitted, cdn_loop: Option<Arc<str>>) -> Outcome {
        let ctx = self.connection.context();
        let forward = &admitted.channel.forward;
        let body = match self.connection.take_body(self.head, forward.body_bytes_max as usize).await {
            Ok(body) => body,
            Err(HeadFailure::Refused(refusal)) => return self.refuse(&refusal, Some(&admitted.channel)).await,
            Err(HeadFailure::Broken(broken)) => {
                return Outcome { status: 400, cache: CacheResult::None, refusal: Some("body"), after: Err(broken) };
            }
        };
        let asked = Asked::read(self.head, forward, admitted.channel.verifier.is_some(), body);
        let request = OpenRequest {
            key: admitted.key.clone(),
            channel: Arc::clone(&admitted.channel),
            want: answer::want(self.head, None),
            asked: asked.map(Arc::new),
            revalidate: false,
            private: true,
            cdn_loop,
        };
        let opened = match ctx.slices.open(&request).await {
            Ok(opened) => opened,
            Err(error) => return self.refuse(&error.into(), Some(&admitted.channel)).await,
        };
        if (200..400).contains(&opened.version.status) {
            ctx.slices.invalidate(&request.key).await;
            for key in changed::others(ctx, &request, self.head.host, &opened.version.relay) {
                ctx.slices.invalidate(&key).await;
            }
        }
        match self.serve(admitted, None, &request, opened).await {
            Served::Done(outcome) => outcome,
            Served::Changed => {
                let refusal = Refusal::new(502, "upstream", "the origin broke off its answer");
                self.refuse(&refusal, Some(&admitted.channel)).await
            }
        }
    }

    /// Serves the object, of a newer version when the first one turns out to be broken off before anything was sent.
    async fn object(&self, admitted: &Admitted, ranges: Option<&RangeSet>, cdn_loop: Option<Arc<str>>) -> Outcome {
        let ctx = self.connection.context();
        let mut request = OpenRequest {
            key: admitted.key.clone(),
            channel: Arc::clone(&admitted.channel),
            want: answer::want(self.head, ranges),
            asked: Asked::read(self.head, &admitted.channel.forward, admitted.channel.verifier.is_some(), Vec::new())
                .map(Arc::new),
            revalidate: admitted.channel.cache.client_revalidation && wants_revalidation(self.head),
            private: false,
            cdn_loop,
        };
        let mut left = VERSIONS_MAX;
        loop {
            let now_ms = ctx.clock.now_ms();
            let at_once = match request.private {
                false => ctx.slices.try_open(&request, now_ms),
                true => None,
            };
            let opened = match at_once {
                Some(opened) => Ok(opened),
                None => ctx.slices.open(&request).await,
            };
            let opened = match opened {
                Ok(opened) => opened,
                Err(error) => return self.refuse(&error.into(), Some(&admitted.channel)).await,
            };
            let total = opened.version.total();
            left -= 1;
            match self.serve(admitted, ranges, &request, opened).await {
                Served::Done(outcome) => return outcome,
                Served::Changed if left > 0 => {
                    request.private = true;
                    request.want = answer::resolved_want(request.want, ranges, total);
                }
                Served::Changed => {
                    let refusal =
                        Refusal::new(502, "changing", "the object changes at its origin faster than it can be fetched");
                    return self.refuse(&refusal, Some(&admitted.channel)).await;
                }
            }
        }
    }

    async fn serve(
        &self,
        admitted: &Admitted,
        ranges: Option<&RangeSet>,
        request: &OpenRequest,
        opened: Opened,
    ) -> Served {
        let ctx = self.connection.context();
        let Opened { version, cache, forwarded, block } = opened;
        let first_index = ctx.slices.store().index_of(request.want.first);
        let mut body = BodySender {
            connection: self.connection,
            key: &request.key,
            version: &version,
            chunked: false,
            pacer: Pacer::new(self.connection, self.limits(&admitted.channel)),
        };
        if let Some(block) = block {
            body.hold(first_index, block);
        }
        let path = std::str::from_utf8(request.key.path()).unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        let reads = matches!(self.head.method, Method::Get | Method::Head);
        let mut rewritten = None;
        if let Some(ticket) = admitted.playlist_ticket.as_deref().filter(|_| version.status == 200 && reads) {
            match playlist::rewritten(&mut body, path, ticket, self.head.host).await {
                Ok(Some(bytes)) => rewritten = Some((bytes, answer::rewritten_etag(&version, ticket))),
                // Not a playlist, whatever its name: as it is.
                Ok(None) => {}
                Err(error) => return self.failed(&BodyError::Source(error), cache, &version.status, admitted).await,
            }
        }
        let etag = rewritten.as_ref().map(|(_, etag)| etag.as_deref());
        let plan = match answer::decide(self.head, &version, ranges, etag) {
            Ok(plan) => plan,
            Err(refusal) => return Served::Done(self.refuse(&refusal, Some(&admitted.channel)).await),
        };
        let keep_alive = self.keep_alive && plan.framing != Framing::Close;
        let mut msg = ctx.message();
        AnswerHead {
            plan: &plan,
            version: &version,
            channel: &admitted.channel,
            path,
            cache,
            forwarded,
            now_ms: ctx.clock.now_ms(),
            origin: self.head.headers.known(Known::Origin),
            rewritten: rewritten.as_ref().map(|(bytes, etag)| (bytes.len() as u64, etag.as_deref())),
            keep_alive,
            http: self.head.version,
            child: self.connection.is_child(),
        }
        .write(&mut msg.head);
        let sent = match rewritten.filter(|_| plan.selection == Selection::Whole) {
            Some((bytes, _)) => {
                msg.head.extend_from_slice(&bytes);
                let sent = self.connection.send(msg, false).await;
                if sent.is_ok() {
                    self.connection.count_inline(bytes.len() as u64);
                }
                sent.map_err(BodyError::Client)
            }
            None => self.send_selection(&plan, &mut body, path, msg).await,
        };
        match sent {
            Ok(msg) => {
                ctx.recycle(msg);
                let after = if keep_alive { After::KeepAlive } else { After::Close };
                Served::Done(Outcome { status: plan.status, cache, refusal: None, after: Ok(after) })
            }
            Err(error) => {
                if plan.framing == Framing::Close && self.connection.sent().1.is_some() {
                    self.connection.reset_on_close();
                }
                self.failed(&error, cache, &plan.status, admitted).await
            }
        }
    }

    async fn send_selection(
        &self,
        plan: &Plan,
        body: &mut BodySender<'_>,
        path: &str,
        mut msg: Box<SendMsg>,
    ) -> Result<Box<SendMsg>, BodyError> {
        match &plan.selection {
            Selection::Nothing => {}
            Selection::Whole => {
                body.chunked = plan.framing == Framing::Chunked;
                msg = body.send(msg, 0, plan.total).await?;
                if body.chunked {
                    msg.head.extend_from_slice(LAST_CHUNK);
                }
            }
            Selection::One(range) => msg = body.send(msg, range.first, Some(range.last + 1)).await?,
            Selection::Many(ranges) => {
                let layout = answer::multipart(body.version, path, plan.total.unwrap_or_default());
                // Part heads are body to the viewer, and so to the ledger.
                for range in ranges {
                    let before = msg.head.len();
                    layout.write_part_head(*range, &mut msg.head);
                    let part_head = (msg.head.len() - before) as u64;
                    msg = body.send(msg, range.first, Some(range.last + 1)).await?;
                    self.connection.count_inline(part_head);
                }
                layout.write_trailer(&mut msg.head);
                let trailer = msg.head.len() as u64;
                let msg = self.connection.send(msg, false).await?;
                self.connection.count_inline(trailer);
                return Ok(msg);
            }
        }
        Ok(self.connection.send(msg, false).await?)
    }

    /// The answer could not be completed: by another version if nothing has been sent, else by closing.
    async fn failed(&self, error: &BodyError, cache: CacheResult, status: &u16, admitted: &Admitted) -> Served {
        let broken = match error {
            BodyError::Client(broken) => *broken,
            BodyError::Source(error) if self.connection.sent().1.is_none() => {
                use crate::slices::flight::BlockError;
                let refusal = match error {
                    BlockError::Changed => return Served::Changed,
                    BlockError::Failed(why) => Refusal::new(502, "upstream", format!("no origin could answer: {why}")),
                    BlockError::Busy => Refusal::new(503, "lane_full", error.to_string()).with("Retry-After", "1"),
                };
                return Served::Done(self.refuse(&refusal, Some(&admitted.channel)).await);
            }
            BodyError::Source(error) => {
                tracing::debug!(channel = %admitted.channel.id, %error, "a body could not be completed");
                Broken::Upstream
            }
        };
        Served::Done(Outcome { status: *status, cache, refusal: None, after: Err(broken) })
    }

    /// OPTIONS: a preflight, or the question what can be done.
    async fn options(&self) -> Outcome {
        let ctx = self.connection.context();
        let channel = admission::find_channel(ctx, self.head);
        if let Some(channel) = &channel {
            self.connection.account_to(channel, "");
        }
        let mut msg = ctx.message();
        let mut head = HeadWriter::response(&mut msg.head, 204);
        head.fixed("Server", "shoal").fixed("Allow", ALLOW);
        let _ = head.header("Date", ctx.date());
        self.connection_line(&mut head, self.keep_alive);
        if let Some(channel) = &channel {
            let origin = self.head.headers.known(Known::Origin);
            let headers = self.head.headers.known(Known::AccessControlRequestHeaders);
            if self.head.headers.known(Known::AccessControlRequestMethod).is_some() {
                channel.cors.preflight_lines(origin, headers, head.lines());
            } else {
                channel.cors.response_lines(origin, head.lines());
            }
        }
        head.finish();
        self.finish(msg, 204, None, self.keep_alive, 0).await
    }

    async fn refuse(&self, refusal: &Refusal, channel: Option<&Arc<Channel>>) -> Outcome {
        let ctx = self.connection.context();
        if let Some(channel) = channel
            && self.connection.is_unaccounted()
        {
            self.connection.account_to(channel, "");
        }
        let keep_alive = self.keep_alive && !refusal.close;
        let mut msg = ctx.message();
        let mut head = refusal.write_head(&mut msg.head, &ctx.date());
        self.connection_line(&mut head, keep_alive);
        if let Some(channel) = channel {
            channel.cors.response_lines(self.head.headers.known(Known::Origin), head.lines());
        }
        head.finish();
        let mut inline = 0;
        if self.head.method != Method::Head {
            let before = msg.head.len();
            refusal.body(&mut msg.head);
            inline = (msg.head.len() - before) as u64;
        }
        self.finish(msg, refusal.status, Some(refusal.reason), keep_alive, inline).await
    }

    async fn finish(
        &self,
        msg: Box<SendMsg>,
        status: u16,
        refusal: Option<&'static str>,
        keep_alive: bool,
        inline: u64,
    ) -> Outcome {
        let after = match self.connection.send(msg, false).await {
            Ok(msg) => {
                self.connection.context().recycle(msg);
                self.connection.count_inline(inline);
                Ok(if keep_alive { After::KeepAlive } else { After::Close })
            }
            Err(broken) => Err(broken),
        };
        Outcome { status, cache: CacheResult::None, refusal, after }
    }

    fn connection_line(&self, head: &mut HeadWriter<'_>, keep_alive: bool) {
        if !keep_alive {
            head.fixed("Connection", "close");
        } else if self.head.version == HttpVersion::Http10 {
            head.fixed("Connection", "keep-alive");
        }
    }
}

/// Why a request must not be served now.
fn over_limit(limits: &Limits) -> Option<Refusal> {
    let (limited, wait) = limits.admit(Instant::now()).err()?;
    let (status, reason, message) = match limited {
        Limited::Requests => (429, "channel_requests", "too many requests for this channel; slow down"),
        Limited::Bytes => (503, "channel_bytes", "this channel sends as much as it may; try again"),
    };
    // Whole seconds, rounded up.
    let seconds = wait.as_millis().div_ceil(1000).max(1);
    Some(Refusal::new(status, reason, message).with("Retry-After", seconds.to_string()))
}

enum Served {
    Done(Outcome),
    /// The version cannot be completed, and nothing of it was sent.
    Changed,
}
