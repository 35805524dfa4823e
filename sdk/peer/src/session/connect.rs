//! Connecting to one peer: asking for it, straight ways first, then the relay.

use shoal_stun::message::Message;

use super::{Event, Failure, Finished, Link, Session, Stage, Task};
use crate::check;
use crate::introduce::{Answer, Asking};
use crate::register::{Refusal, WAIT_MS};
use crate::turn::Relay;
use crate::wire::PeerId;

/// Times that it is asked again, for that or because the node forgot the registration.
const RETRIES: usize = 10;

/// How far it is.
#[derive(Debug)]
pub(super) enum Attempt {
    /// It is asked for as soon as the node knows everything of this peer; and not before this time, if there is one.
    Preparing(Option<u64>),
    /// The node is asked.
    Asking(Asking),
    /// There is a link.
    Checking,
}

/// A connection that is wanted.
#[derive(Debug)]
pub(super) struct Connect {
    to: PeerId,
    bytes: u64,
    attempt: Attempt,
    /// When it was first asked for.
    asked: Option<u64>,
    /// Whether it goes by the relay now.
    pub(super) fallen_back: bool,
    pub(super) refusals: Vec<Refusal>,
}

impl Connect {
    pub(super) const fn new(to: PeerId, bytes: u64) -> Self {
        Self { to, bytes, attempt: Attempt::Preparing(None), asked: None, fallen_back: false, refusals: Vec::new() }
    }

    pub(super) const fn next_deadline(&self) -> Option<u64> {
        match &self.attempt {
            Attempt::Preparing(at) => *at,
            Attempt::Checking => None,
            Attempt::Asking(asking) => Some(asking.next_deadline()),
        }
    }
}

impl Session {
    /// Asks for the peer when it is time.
    pub(super) fn advance_attempt(&mut self, now: u64) {
        let (Some(connect), Some(registrar)) = (&mut self.connect, &self.registrar) else { return };
        let Attempt::Preparing(at) = &mut connect.attempt else { return };
        if at.is_some_and(|at| now < at) {
            return;
        }
        *at = None;
        let relay = !connect.fallen_back || registrar.relayed().is_some();
        if let Some(proof) = registrar.proof()
            && matches!(self.stage, Stage::Registered)
            && registrar.is_settled()
            && relay
        {
            let own = self.settings.identity.peer;
            connect.asked.get_or_insert(now);
            connect.attempt = Attempt::Asking(Asking::new(own, proof, connect.to, now, &mut self.random));
        }
    }

    /// The question, if it is to be sent now.
    pub(super) fn poll_asking(&mut self, now: u64, out: &mut [u8]) -> Option<usize> {
        let Attempt::Asking(asking) = &mut self.connect.as_mut()?.attempt else { return None };
        match asking.poll_transmit(now, out)? {
            Ok(length) => Some(length),
            Err(_) => {
                self.fail(now, Failure::Silent);
                None
            }
        }
    }

    /// Takes a message of the node; false when it does not answer the question.
    pub(super) fn handle_answer(&mut self, now: u64, message: &Message<'_>) -> bool {
        let Some(connect) = &mut self.connect else { return false };
        let Attempt::Asking(asking) = &connect.attempt else { return false };
        let Some(answer) = asking.handle(now, message) else { return false };
        match answer {
            Answer::Introduced(introduction) => {
                connect.attempt = Attempt::Checking;
                self.begin(introduction, now);
            }
            Answer::Silent => self.fail(now, Failure::Silent),
            Answer::Refused(refusal) => {
                connect.refusals.push(refusal.clone());
                let again = connect.refusals.len() < RETRIES;
                match refusal.code {
                    401 | 438 if again => {
                        connect.attempt = Attempt::Preparing(None);
                        if let Some(registrar) = &mut self.registrar {
                            registrar.restart(now);
                        }
                    }
                    429 if again => connect.attempt = Attempt::Preparing(Some(now + WAIT_MS)),
                    409 if self.relay.is_some() && !self.needs_relay() => self.fall_back(now),
                    _ => self.fail(now, Failure::Refused(refusal)),
                }
            }
        }
        true
    }

    /// Goes on by way of the relay.
    fn fall_back(&mut self, now: u64) {
        let (Some(connect), Some(relay)) = (&mut self.connect, &mut self.relay) else { return };
        connect.fallen_back = true;
        connect.attempt = Attempt::Preparing(None);
        match (relay.relayed(), &mut self.registrar) {
            (Some(relayed), Some(registrar)) => registrar.set_relayed(Some(relayed), now),
            _ => relay.allocate(),
        }
    }

    /// Does what follows from what links have found.
    pub(super) fn advance_links(&mut self, now: u64) {
        let (mut failed, mut stuck) = (false, false);
        for nth in 0..self.links.len() {
            let Some(link) = self.links.get_mut(nth) else { break };
            // Whoever asked second is not the one who controls, and wants to send all the same.
            let sends = self.connect.as_ref().filter(|connect| connect.to == link.introduction().peer);
            // While checks go on in vain, the relay is made ready.
            if sends.is_some_and(|connect| !connect.fallen_back)
                && link.checker.wants_relay(now)
                && let Some(relay) = &mut self.relay
            {
                relay.allocate();
            }
            while let Some(event) = link.poll_event(now) {
                match event {
                    check::Event::Connected(_) => {}
                    check::Event::Selected(path) => {
                        if let (Some(relay), Some(peer)) = (&mut self.relay, Link::channel_for(path)) {
                            relay.bind(peer);
                        }
                        if let Some(connect) = sends {
                            link.send(connect.bytes, self.random.word(), now);
                        }
                    }
                    check::Event::Failed => failed |= sends.is_some(),
                }
            }
            stuck |= link.is_stuck();
            self.finish(nth, now);
        }
        if stuck {
            self.fail(now, Failure::Stuck);
        } else if failed {
            match (self.needs_relay(), self.relay.as_ref().map(Relay::server)) {
                (true, _) => self.fail(now, Failure::NoWayByRelay),
                (false, None) => self.fail(now, Failure::NoWay),
                (false, Some(_)) => self.fall_back(now),
            }
        }
    }

    /// Tells of a link's transfer, if it is through.
    fn finish(&mut self, nth: usize, now: u64) {
        let Some(link) = self.links.get_mut(nth) else { return };
        let Some((bytes, verdict, path)) = link.poll_done() else { return };
        let asked = self.connect.as_ref().and_then(|connect| connect.asked);
        self.events.push_back(Event::Finished(Finished {
            introduction: link.introduction().clone(),
            path,
            relay: link.checker.has_relay(path),
            asked: asked.unwrap_or_else(|| link.began()),
            connected: link.connected().unwrap_or(now),
            finished: now,
            bytes,
            verdict,
        }));
        self.through |= match self.settings.task {
            Task::Serve(transfers) => {
                self.served += 1;
                self.served == transfers
            }
            Task::Connect(..) => true,
        };
    }
}
