//! One introduced peer: checks, then a transfer.

use std::net::SocketAddr;

use shoal_stun::message::{Builder, Class, Message, Method};

use crate::check::{Checker, Event, Handled, Own, Path};
use crate::introduce::Introduction;
use crate::random::Random;
use crate::transfer::{Receiver, Sender, Verdict};
use crate::wire;

/// Milliseconds without anything sent after which a way has to be kept open.
const KEEP_MS: u64 = 15_000;

/// One of the peers that this one was introduced to.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) checker: Checker,
    began: u64,
    connected: Option<u64>,
    sender: Option<Sender>,
    receiver: Receiver,
    /// The way that data came last, and when.
    heard: Option<(Path, u64)>,
    /// When something was last sent on the way that was taken.
    sent: u64,
    done: bool,
    failed: bool,
}

impl Link {
    pub(super) fn new(own: &Own, introduction: Introduction, now: u64) -> Self {
        let receiver = Receiver::new(introduction.key);
        Self {
            checker: Checker::new(own, introduction),
            began: now,
            connected: None,
            sender: None,
            receiver,
            heard: None,
            sent: now,
            done: false,
            failed: false,
        }
    }

    pub(super) const fn introduction(&self) -> &Introduction {
        self.checker.introduction()
    }

    pub(super) const fn began(&self) -> u64 {
        self.began
    }

    /// When a way was known to work.
    pub(super) const fn connected(&self) -> Option<u64> {
        self.connected
    }

    /// When data came last.
    pub(super) fn heard(&self) -> Option<u64> {
        self.heard.map(|(_, at)| at)
    }

    pub(super) const fn is_checking(&self) -> bool {
        self.checker.selected().is_none() && !self.failed
    }

    /// Notes what the checks have found; the event that it goes on with.
    pub(super) fn poll_event(&mut self, now: u64) -> Option<Event> {
        let event = self.checker.poll_event()?;
        match event {
            Event::Connected(_) => self.connected = Some(now),
            Event::Selected(_) => self.sent = now,
            Event::Failed => self.failed = true,
        }
        Some(event)
    }

    /// Sends `bytes` bytes from now on.
    pub(super) fn send(&mut self, bytes: u64, seed: u64, now: u64) {
        self.sender = Some(Sender::new(self.introduction().key, bytes, seed, now));
    }

    /// Whether what is being sent does not get through.
    pub(super) fn is_stuck(&self) -> bool {
        self.sender.as_ref().is_some_and(Sender::is_stuck)
    }

    /// A transfer that has come to its end since the last time: how many bytes, whether right, and which way.
    pub(super) fn poll_done(&mut self) -> Option<(u64, Verdict, Path)> {
        if self.done {
            return None;
        }
        let through = match &self.sender {
            Some(sender) => (sender.bytes(), sender.verdict()?, self.checker.selected()?),
            None => (self.receiver.received(), self.receiver.verdict()?, self.heard?.0),
        };
        self.done = true;
        Some(through)
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        let keep = self.checker.selected().map(|_| self.sent + KEEP_MS);
        let sender = self.sender.as_ref().and_then(Sender::next_deadline);
        let receiver = self.receiver.is_due().then_some(0);
        [self.checker.next_deadline(), sender, receiver, keep].into_iter().flatten().min()
    }

    pub(super) fn handle_check(&mut self, now: u64, from: Path, message: &Message<'_>, out: &mut [u8]) -> Handled {
        self.checker.handle(now, from, message, out)
    }

    /// Takes what is no STUN; false when it is not this peer's.
    pub(super) fn handle_data(&mut self, now: u64, from: Path, datagram: &[u8]) -> bool {
        if self.sender.as_mut().is_some_and(|sender| sender.handle(now, datagram)) {
            return true;
        }
        let ours = self.receiver.handle(datagram);
        if ours {
            self.heard = Some((from, now));
        }
        ours
    }

    pub(super) fn poll_transmit(&mut self, now: u64, random: &mut Random, out: &mut [u8]) -> Option<(Path, usize)> {
        if let Some(check) = self.checker.poll_transmit(now, random, out) {
            return Some(check);
        }
        if let Some((path, _)) = self.heard
            && let Some(length) = self.receiver.poll_transmit(out)
        {
            self.sent = now;
            return Some((path, length));
        }
        let path = self.checker.selected()?;
        let data = self.sender.as_mut().and_then(|sender| sender.poll_transmit(now, out));
        let length = match data {
            Some(length) => length,
            None if now >= self.sent + KEEP_MS => {
                let mut keep = Builder::new(out, Method::BINDING, Class::Indication, random.transaction());
                wire::finish(&mut keep)?
            }
            None => return None,
        };
        self.sent = now;
        Some((path, length))
    }

    /// Who has to be let in by the own relay on a way.
    pub(super) const fn channel_for(path: Path) -> Option<SocketAddr> {
        if path.relayed { Some(path.to) } else { None }
    }
}
