//! What leaves at the end of a batch, handed to the kernel.

use shoal_stun::message::Family;
use shoal_sys::udp::{self, Sent};

use super::outbox::{From, Leaving, Outbox};
use super::{State, Udp};
use crate::telemetry::metrics::Counter;

/// Messages sent before others have their turn, at some 5 µs each.
const MESSAGES_PER_TURN: usize = 128;

impl Udp {
    /// Hands all that leaves to the kernel, and lets others have their turns meanwhile.
    pub(super) async fn leave(&self, out: Outbox<'_>) {
        let (mut sorted, mut total, mut messages) = (out.sort(), Sent::default(), 0);
        loop {
            {
                let state = &mut self.work.borrow_mut().state;
                let Some(mut leaving) = sorted.next(|message| self.by_frame(state, message, &mut total)) else { break };
                self.send_from(&mut leaving, state, &mut total);
                messages += leaving.messages();
            }
            if messages >= MESSAGES_PER_TURN {
                messages = 0;
                self.ring.next_turn().await;
            }
        }
        self.sent(&total);
    }

    /// Hands all that leaves to the kernel.
    pub(super) fn send(&self, out: Outbox<'_>, state: &mut State) {
        let (mut sorted, mut total) = (out.sort(), Sent::default());
        while let Some(mut leaving) = sorted.next(|message| self.by_frame(state, message, &mut total)) {
            self.send_from(&mut leaving, state, &mut total);
        }
        self.sent(&total);
    }

    /// Hands to the kernel what leaves by one socket.
    fn send_from(&self, leaving: &mut Leaving<'_, '_>, state: &mut State, total: &mut Sent) {
        let socket = match leaving.from {
            From::Endpoint(place) => self.endpoints.get(place).map(|at| &at.socket),
            From::Relay(relay) => state.turn.as_ref().and_then(|turn| turn.socket(relay)),
        };
        // A relay that was closed by a later request: what was on its way is as good as sent too late.
        let Some(socket) = socket else { return total.refused += leaving.datagrams() };
        let ipv6 = matches!(leaving.from, From::Relay(relay) if relay.family() == Family::Ipv6);
        if leaving.dont_fragment && udp::set_dont_fragment(socket, ipv6, true).is_err() {
            return total.refused += leaving.datagrams();
        }
        let mut lost = Vec::new();
        let sent = leaving.send(socket, |relay, way, datagrams, payload, heads| {
            lost.push((relay, way, datagrams, payload, heads));
        });
        if leaving.dont_fragment {
            // It was set a moment ago, by the same call.
            let _ = udp::set_dont_fragment(socket, ipv6, false);
        }
        *total += sent;
        if let Some(turn) = &mut state.turn {
            for (relay, way, datagrams, payload, heads) in lost {
                turn.server.take_back(relay, way, datagrams, payload, heads);
            }
        }
    }

    /// Counts what has left, after the last of it.
    fn sent(&self, sent: &Sent) {
        if let Some(frames) = &self.frames {
            frames.flush();
        }
        self.stats.add(Counter::UdpTrainsOut, sent.trains);
        self.stats.add(Counter::UdpDatagramsOut, sent.datagrams);
        self.stats.add(Counter::UdpBytesOut, sent.bytes);
        for (reason, datagrams) in [("send_buffer_full", sent.no_room), ("send_refused", sent.refused)] {
            if datagrams > 0 {
                self.stats.udp_drop(reason, datagrams);
            }
        }
    }
}
