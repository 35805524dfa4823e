//! The WebTorrent protocol: one task for each connection, which reads and writes at the same time, so that a peer that does
//! not read cannot stop what it sends, and one that does not send gets what is for it.

use std::collections::{HashSet, VecDeque};
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::{Sink, Stream};
use serde_json::value::RawValue;
use shoal_swarm::query::{Event, MAX_SCRAPE};
use shoal_swarm::swarms::{Announce, Done, Key, Refusal};
use shoal_swarm::web::{self, Action, Hashes};
use shoal_swarm::{InfoHash, PeerId, Transport, Transports, sdp};

use super::connections::Connection;
use super::http::{counts, session_of};
use super::metrics::{Door, Dropped, Outcome};
use super::{ANSWER, Denied, Viewer, place};
use crate::app::App;
use crate::pass::PassError;
use crate::rest::problem::Problem;
use crate::store::now_ms;

/// Bytes of a message at most: some twenty offers.
const MAX_MESSAGE: usize = 256 << 10;
/// Bytes of a connection's buffer for reading; a larger message has its own for a while.
const READ_BUFFER: usize = 4 << 10;
/// Pause between two pings.
const PING: Duration = Duration::from_secs(25);
/// A connection that said nothing for so long, not even in answer to a ping, is over.
const IDLE: Duration = Duration::from_secs(60);
/// Longest wait for a last message to leave.
const FAREWELL: Duration = Duration::from_secs(2);
/// Messages written before they are sent off together.
const BATCH: usize = 64;

/// Begins the protocol, or says why not in its own words: a browser shows its script no answer to a refused upgrade.
pub(super) async fn upgrade(
    app: Arc<App>,
    viewer: Result<Viewer, Denied>,
    address: IpAddr,
    request: Request,
) -> Response {
    let (mut parts, _) = request.into_parts();
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => return Problem::new(rejection.status(), rejection.body_text()).into_response(),
    };
    if app.tracker.connections.open() >= app.tracker.config.connections as usize {
        app.tracker.counters.refused.inc();
        let detail = "there are as many connections as there may be; connect again in a minute";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response();
    }
    let upgrade = upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE).read_buffer_size(READ_BUFFER);
    upgrade.on_upgrade(move |mut socket| async move {
        match viewer {
            Ok(viewer) => serve(&app, socket, viewer, address).await,
            Err(denied) => {
                app.tracker.counters.announced(Door::WebSocket, denied.outcome());
                turn_away(&mut socket, denied).await;
            }
        }
    })
}

async fn turn_away(socket: &mut WebSocket, denied: Denied) {
    let mut out = Vec::new();
    web::failure("announce", None, &denied.to_string(), &mut out);
    let frame = CloseFrame { code: close_code::POLICY, reason: "pass".into() };
    let last = async {
        // Whoever is gone does not need to be told.
        let _ = socket.send(Message::Text(text(out))).await;
        let _ = socket.send(Message::Close(Some(frame))).await;
    };
    let _ = tokio::time::timeout(FAREWELL, last).await;
}

/// What a connection has waited for.
enum Wake {
    Text(Utf8Bytes),
    /// A ping, a pong, or time to ping.
    Life,
    Tick,
    Over,
    Stop,
}

async fn serve(app: &Arc<App>, socket: WebSocket, viewer: Viewer, address: IpAddr) {
    let tracker = &app.tracker;
    let Some(place) = tracker.connections.enter() else {
        tracker.counters.refused.inc();
        return;
    };
    let viewer = Arc::new(viewer);
    let mut peer = Peer { app, viewer, address, id: place.id, members: HashSet::new(), own: VecDeque::new() };
    let mut line = Line { socket, place, pending: None, unsent: false };
    let mut stop = tracker.stop.subscribe();
    let mut stopped = pin!(stop.wait_for(|stop| *stop));
    let mut ticks = tokio::time::interval(PING);
    ticks.reset();
    let mut heard = Instant::now();
    loop {
        let wake = poll_fn(|cx| {
            if stopped.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Wake::Stop);
            }
            if ticks.poll_tick(cx).is_ready() {
                return Poll::Ready(Wake::Tick);
            }
            line.poll(cx, &mut peer.own)
        });
        match wake.await {
            Wake::Text(message) => {
                heard = Instant::now();
                peer.handle(&message);
            }
            Wake::Life => heard = Instant::now(),
            Wake::Tick if heard.elapsed() >= IDLE => break,
            Wake::Tick if !Arc::make_mut(&mut peer.viewer).go_on(app, now_ms() / 1000) => {
                let denied = Denied::Pass(PassError::Expired);
                tracker.counters.announced(Door::WebSocket, denied.outcome());
                turn_away(&mut line.socket, denied).await;
                break;
            }
            Wake::Tick => line.pending = line.pending.take().or(Some(Message::Ping(Default::default()))),
            Wake::Over => break,
            Wake::Stop => {
                let frame = CloseFrame { code: close_code::RESTART, reason: "stopping".into() };
                let _ = tokio::time::timeout(FAREWELL, line.socket.send(Message::Close(Some(frame)))).await;
                break;
            }
        }
    }
    peer.leave();
}

/// A socket, and what is to be written to it.
struct Line<'a> {
    socket: WebSocket,
    place: Connection<'a>,
    pending: Option<Message>,
    unsent: bool,
}

impl Line<'_> {
    /// Writes what goes, then reads. Answers to its own messages go before what others send.
    fn poll(&mut self, cx: &mut Context<'_>, own: &mut VecDeque<Utf8Bytes>) -> Poll<Wake> {
        let mut room = true;
        let mut written = 0;
        while room && written < BATCH {
            if self.pending.is_none() {
                let next = match own.pop_front() {
                    Some(message) => Some(message),
                    None => match self.place.queue.poll_recv(cx) {
                        Poll::Ready(message) => message,
                        Poll::Pending => None,
                    },
                };
                self.pending = next.map(Message::Text);
            }
            let Some(message) = self.pending.take() else { break };
            match Pin::new(&mut self.socket).poll_ready(cx) {
                Poll::Ready(Ok(())) => {
                    if Pin::new(&mut self.socket).start_send(message).is_err() {
                        return Poll::Ready(Wake::Over);
                    }
                    self.unsent = true;
                    written += 1;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Wake::Over),
                Poll::Pending => {
                    self.pending = Some(message);
                    room = false;
                }
            }
        }
        if self.unsent {
            match Pin::new(&mut self.socket).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unsent = false,
                Poll::Ready(Err(_)) => return Poll::Ready(Wake::Over),
                Poll::Pending => {}
            }
        }
        if written == BATCH {
            // There may be more: nothing else would wake this up for it.
            cx.waker().wake_by_ref();
        }
        match Pin::new(&mut self.socket).poll_next(cx) {
            Poll::Ready(Some(Ok(Message::Text(text)))) => Poll::Ready(Wake::Text(text)),
            Poll::Ready(Some(Ok(Message::Binary(bytes)))) => match Utf8Bytes::try_from(bytes) {
                Ok(text) => Poll::Ready(Wake::Text(text)),
                Err(_) => Poll::Ready(Wake::Over),
            },
            Poll::Ready(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => Poll::Ready(Wake::Life),
            Poll::Ready(Some(Ok(Message::Close(_)) | Err(_)) | None) => Poll::Ready(Wake::Over),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// What is at the other end of a connection.
struct Peer<'a> {
    app: &'a Arc<App>,
    viewer: Arc<Viewer>,
    address: IpAddr,
    /// The connection's number.
    id: u64,
    /// What it has announced.
    members: HashSet<(InfoHash, PeerId)>,
    /// Answers to its own messages.
    own: VecDeque<Utf8Bytes>,
}

impl Peer<'_> {
    fn handle(&mut self, message: &str) {
        let app = self.app;
        let counters = &app.tracker.counters;
        let message = match web::read(message) {
            Ok(message) => message,
            Err(error) => {
                counters.announced(Door::WebSocket, Outcome::Malformed);
                return self.fail(None, &error.to_string());
            }
        };
        match (message.action, &message.hashes, message.peer_id, message.answer) {
            (Action::Scrape, hashes, ..) => {
                let hashes = match hashes {
                    Hashes::One(hash) => vec![*hash],
                    Hashes::Many(hashes) => hashes.clone(),
                    Hashes::None => app.tracker.hashes_of(&self.viewer.tenant, &self.viewer.channel, MAX_SCRAPE),
                };
                let mut out = Vec::new();
                web::scraped(&counts(&app.tracker, &self.viewer, hashes), app.tracker.config.interval_s, &mut out);
                counters.scraped(Door::WebSocket);
                self.tell(out);
            }
            (Action::Announce, Hashes::One(hash), Some(peer_id), Some((to, id, answer))) => {
                self.relay_answer(*hash, peer_id, to, id, answer);
            }
            (Action::Announce, Hashes::One(hash), Some(peer_id), None) => {
                let outcome = self.announce(*hash, peer_id, &message);
                counters.announced(Door::WebSocket, outcome);
            }
            // The reader sees to it that an announce has both.
            (Action::Announce, ..) => counters.announced(Door::WebSocket, Outcome::Malformed),
        }
    }

    fn announce(&mut self, info_hash: InfoHash, peer_id: PeerId, message: &web::Message<'_>) -> Outcome {
        let app = self.app;
        let tracker = &app.tracker;
        let leaves = message.event == Event::Stopped;
        let member = (info_hash, peer_id);
        if !leaves
            && self.members.len() >= tracker.config.peers_per_connection as usize
            && !self.members.contains(&member)
        {
            self.fail(Some(&info_hash), "this connection has announced as many peers as it may; leave with some");
            return Outcome::Connection;
        }
        let viewer = Arc::clone(&self.viewer);
        let key = Key { tenant: &viewer.tenant, channel: &viewer.channel, info_hash };
        let announce = Announce {
            key,
            peer_id,
            session: session_of(tracker, &viewer, peer_id),
            address: self.address,
            port: 0,
            transports: Transports::NONE.with(Transport::Webrtc),
            connection: self.id,
            nat: None,
            node: 0,
            supply: None,
            complete: message.left.map(|left| left == 0),
            event: message.event,
            failed: &[],
            // Nobody is named: offers go out instead.
            want: 0,
            relay_only: viewer.relay_only,
            remote: false,
            place: &|address| place(app, address),
        };
        let most =
            tracker.config.offers.min(message.numwant.unwrap_or(u64::MAX).try_into().unwrap_or(u32::MAX)) as usize;
        let offers = if leaves { 0 } else { message.offers.len().min(most) };
        ANSWER.with_borrow_mut(|answer| {
            let mut out = Vec::with_capacity(192);
            let result: Result<Done, Refusal> = tracker.change(key, |swarms, now_ms| {
                let done = tracker.handle(swarms, now_ms, &announce, answer)?;
                web::announced(&info_hash, answer, &mut out);
                if offers > 0 {
                    swarms.choose_for_offers(now_ms, key, peer_id, offers, answer);
                }
                Ok(done)
            });
            match result {
                Ok(done) => {
                    if leaves {
                        self.members.remove(&member);
                    } else {
                        self.members.insert(member);
                    }
                    self.tell(out);
                    for _ in offers..message.offers.len() {
                        tracker.counters.dropped(Dropped::Many);
                    }
                    for (chosen, offer) in answer.peers.iter().zip(&message.offers) {
                        match self.description(offer.offer) {
                            Ok(description) => {
                                let mut out = Vec::new();
                                web::relayed_offer(&info_hash, &peer_id, offer.id, &description, &mut out);
                                if self.pass_on(chosen.connection, out) {
                                    tracker.counters.offers.inc();
                                }
                            }
                            Err(Some(error)) => return self.refuse(&info_hash, done, &error),
                            Err(None) => {}
                        }
                    }
                    Outcome::Done(done)
                }
                Err(refusal) => {
                    self.fail(Some(&info_hash), &refusal.to_string());
                    Outcome::Refused(refusal)
                }
            }
        })
    }

    fn refuse(&mut self, info_hash: &InfoHash, done: Done, error: &sdp::SdpError) -> Outcome {
        self.fail(Some(info_hash), &error.to_string());
        Outcome::Done(done)
    }

    fn relay_answer(&mut self, info_hash: InfoHash, peer_id: PeerId, to: PeerId, id: &RawValue, answer: &RawValue) {
        let app = self.app;
        let tracker = &app.tracker;
        // Who is not in the swarm with this connection has nobody to answer there.
        if !self.members.contains(&(info_hash, peer_id)) {
            return tracker.counters.dropped(Dropped::Stranger);
        }
        let key = Key { tenant: &self.viewer.tenant, channel: &self.viewer.channel, info_hash };
        let found = tracker.change(key, |swarms, now_ms| swarms.connection(now_ms, key, to));
        let Some(connection) = found else { return tracker.counters.dropped(Dropped::Stranger) };
        match self.description(answer) {
            Ok(description) => {
                let mut out = Vec::new();
                web::relayed_answer(&info_hash, &peer_id, id, &description, &mut out);
                if self.pass_on(connection, out) {
                    tracker.counters.answers.inc();
                }
            }
            Err(Some(error)) => self.fail(Some(&info_hash), &error.to_string()),
            Err(None) => {}
        }
    }

    /// An offer or answer as it may be passed on; without an error, it is dropped in silence.
    fn description<'b>(&self, given: &'b RawValue) -> Result<std::borrow::Cow<'b, RawValue>, Option<sdp::SdpError>> {
        let tracker = &self.app.tracker;
        if given.get().len() > tracker.config.sdp_bytes as usize {
            tracker.counters.dropped(Dropped::Long);
            return Err(None);
        }
        if !self.viewer.relay_only {
            return Ok(std::borrow::Cow::Borrowed(given));
        }
        sdp::relay_only(given).map(std::borrow::Cow::Owned).map_err(|error| {
            tracker.counters.dropped(Dropped::NoRelay);
            Some(error)
        })
    }

    fn pass_on(&self, connection: u64, out: Vec<u8>) -> bool {
        let sent = self.app.tracker.send(connection, text(out));
        sent.inspect_err(|reason| self.app.tracker.counters.dropped(*reason)).is_ok()
    }

    fn fail(&mut self, info_hash: Option<&InfoHash>, reason: &str) {
        let mut out = Vec::new();
        web::failure("announce", info_hash, reason, &mut out);
        self.tell(out);
    }

    /// An answer to its own message. Who sends and does not read loses the newest.
    fn tell(&mut self, out: Vec<u8>) {
        if self.own.len() >= self.app.tracker.config.queue.max(1) as usize {
            return self.app.tracker.counters.dropped(Dropped::Queue);
        }
        self.own.push_back(text(out));
    }

    /// The connection is over: what it announced leaves.
    fn leave(&mut self) {
        for (info_hash, peer_id) in self.members.drain() {
            let key = Key { tenant: &self.viewer.tenant, channel: &self.viewer.channel, info_hash };
            self.app.tracker.disconnect(key, peer_id, self.id);
        }
    }
}

fn text(out: Vec<u8>) -> Utf8Bytes {
    // Written as JSON; were it not, what is wrong would be replaced.
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()).into()
}
