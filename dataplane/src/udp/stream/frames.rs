//! Messages of a stream, handled as datagrams are.

use shoal_stun::discovery::{Endpoints, Other};
use shoal_stun::message::{Frame, next_frame};
use shoal_stun::turn::{FromClient, Now};

use super::super::discovery::{self, Answered, REQUEST_MAX};
use super::super::outbox::Outbox;
use super::super::{State, Udp, Work, is_binding};
use super::{Connection, End};

/// Messages handled before others have their turn. They may be short: four bytes that make a datagram.
const BATCH_MAX: usize = 128;

/// What became of the front of a stream.
#[derive(Default)]
pub(super) struct Taken {
    /// Bytes that were used.
    pub(super) bytes: usize,
    /// Whether more has to come before there is more to do.
    pub(super) all: bool,
}

impl Udp {
    /// Handles the whole messages at the front of `bytes`, some of them at a time. What is behind them is the start of the next one.
    pub(super) fn frames(&self, connection: &Connection, bytes: &[u8]) -> Result<Taken, End> {
        let now = self.now();
        let Work { buffer, open, state } = &mut *self.work.borrow_mut();
        let mut out = Outbox::new(buffer, open, 0);
        let mut used = 0;
        let all = self.batch(state, connection, now, bytes, &mut used, &mut out);
        self.send(out, state);
        if used > 0 {
            connection.heard_ms.set(Some(now.ms));
        }
        Ok(Taken { bytes: used, all: all? })
    }

    /// Whether more has to come before there is more to do.
    fn batch<'b>(
        &self,
        state: &mut State,
        connection: &Connection,
        now: Now,
        bytes: &'b [u8],
        used: &mut usize,
        out: &mut Outbox<'b>,
    ) -> Result<bool, End> {
        let mut left = BATCH_MAX;
        while left > 0 {
            let rest = bytes.get(*used..).unwrap_or_default();
            let length = match next_frame(rest).map_err(|_| End::Malformed)? {
                Frame::Whole(length) => length,
                Frame::Partial(least) => {
                    let turn = state.turn.as_ref().filter(|_| least > REQUEST_MAX);
                    let too_long = turn.is_some_and(|turn| !turn.server.has_allocation(now.ms, &connection.flow));
                    return if too_long { Err(End::TooLong) } else { Ok(true) };
                }
            };
            // The first two bits of ChannelData are 01 (RFC 8656 section 12.4).
            if rest.first().is_some_and(|byte| byte & 0xc0 == 0x40)
                && let Some(turn) = &mut state.turn
                && let Some(taken) = turn.client_train(now.ms, &connection.flow, alike(rest, length, left), length, out)
            {
                *used += taken;
                left = left.saturating_sub(taken / length);
                continue;
            }
            let frame = rest.get(..length).unwrap_or_default();
            *used += length;
            left -= 1;
            if let Err(reason) = self.frame(state, connection, now, frame, out) {
                self.stats.udp_drop(reason, 1);
            }
        }
        Ok(false)
    }

    /// Handles one message, or says why nothing came of it.
    fn frame<'b>(
        &self,
        state: &mut State,
        connection: &Connection,
        now: Now,
        frame: &'b [u8],
        out: &mut Outbox<'b>,
    ) -> Result<(), &'static str> {
        let (flow, now_ns) = (&connection.flow, now.ms * 1_000_000);
        let turn = match &mut state.turn {
            Some(turn) if !is_binding(frame) => turn,
            _ => {
                // A stream has no second address to answer from, and no other port to answer to.
                let port = flow.server.port();
                let at = Endpoints { own: flow.server.ip(), other: Other::Nowhere, ports: [port; 2] };
                let addresses = (flow.server, flow.client);
                let answered = discovery::answer(frame, addresses, &at, &mut state.bindings, now_ns, out)?;
                let Answered::Here { length, counter, .. } = answered else { return Err("no_partner") };
                self.stats.add(counter, 1);
                return reply(connection, length, out);
            }
        };
        match turn.client(now, flow, frame, out.spare()) {
            FromClient::Forward(to) => turn.to_peer(&to, out),
            FromClient::Reply { length, authenticated } => {
                if !authenticated && !state.refusals.admit(flow.client.ip(), 1, now_ns) {
                    return Err("rate");
                }
                return reply(connection, length, out);
            }
            // Its first bytes would have said so.
            FromClient::Binding => return Err("unexpected"),
            FromClient::Dropped(dropped) => return Err(dropped.reason()),
        }
        Ok(())
    }
}

/// Queues what was written to the outbox' spare bytes.
fn reply(connection: &Connection, length: usize, out: &mut Outbox<'_>) -> Result<(), &'static str> {
    let reply = out.spare().get(..length).unwrap_or_default();
    if connection.output.reply(reply) { Ok(()) } else { Err("stream_full") }
}

/// Messages at the front that are as long as the first one, at most so many: the relay takes them as it takes a train of datagrams.
fn alike(bytes: &[u8], length: usize, most: usize) -> &[u8] {
    let same = |frame: &&[u8]| next_frame(frame) == Ok(Frame::Whole(length));
    let count = bytes.chunks(length).take(most).take_while(same).count();
    bytes.get(..count * length).unwrap_or_default()
}
