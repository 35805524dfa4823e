//! What is renewed on the tracker's heartbeat, so that a long session does not end with what it began with.

use std::net::IpAddr;

use shoal_link::Channel;
use shoal_ticket::Verifier;

use super::{Conf, ConfSettings, Directory};
use crate::pass::Pass;

/// A slice ticket that was renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewedTicket {
    /// Its text.
    pub ticket: String,
    /// Unix seconds.
    pub expires: u64,
}

impl Conf {
    /// A pass for the same viewer that lives on from `now` (Unix seconds): none when its app or channel is gone or switched off, or
    /// is another tenant's by now. Then the viewer is to be told so.
    pub fn renew(&self, settings: &ConfSettings, pass: &Pass, now: u64) -> Option<String> {
        let directory = self.directory();
        let channel = self.still_served(pass, &directory)?;
        self.passes().mint(&renewed(settings, &directory, channel, pass, now))
    }

    /// The same, when less than half of what a new one would live is left of this one.
    pub fn renew_in_time(&self, settings: &ConfSettings, pass: &Pass, now: u64) -> Option<String> {
        self.passes().mint(&self.renewed_in_time(settings, pass, now)?)
    }

    /// The same for who keeps its pass here, with the connection that it opened.
    pub fn renewed_in_time(&self, settings: &ConfSettings, pass: &Pass, now: u64) -> Option<Pass> {
        let directory = self.directory();
        let channel = self.still_served(pass, &directory)?;
        let left = pass.expires.saturating_sub(now);
        (left <= life_s(settings, channel) / 2).then(|| renewed(settings, &directory, channel, pass, now))
    }

    /// The slice ticket that a viewer shows with its pass, good for as long as a new one would be: none when the channel asks for
    /// none, more than half of the ticket's time is left, or the ticket is no longer good or is another viewer's.
    pub fn renew_ticket(&self, pass: &Pass, ticket: &str, client: IpAddr, now: u64) -> Option<RenewedTicket> {
        let directory = self.directory();
        let channel = self.still_served(pass, &directory)?;
        let policy = channel.access.ticket.as_ref()?;
        let verifier = Verifier::new(&channel.id, policy).ok()?;
        let (session, until) = verifier.verify_peer(ticket, client, now).ok()?;
        let own = session.as_ref().is_some_and(|session| session.as_str() == &*pass.session);
        let (left, life) = (until.saturating_sub(now), u64::from(policy.ttl_s));
        if !own || left > life / 2 + u64::from(policy.skew_s) {
            return None;
        }
        let expires = now + u64::from(policy.ttl_s);
        Some(RenewedTicket { ticket: verifier.renew(ticket, client, now, expires).ok()?, expires })
    }

    fn still_served<'d>(&self, pass: &Pass, directory: &'d Directory) -> Option<&'d Channel> {
        let channel = directory.channel(&pass.channel).filter(|channel| channel.enabled)?;
        let compiled = self.compiled();
        let app = compiled.app(&pass.app).filter(|app| app.enabled)?;
        (*channel.tenant == *pass.tenant && app.tenant == pass.tenant).then_some(channel)
    }
}

fn renewed(settings: &ConfSettings, directory: &Directory, channel: &Channel, pass: &Pass, now: u64) -> Pass {
    let only = directory.tenant(&channel.tenant).is_some_and(|tenant| tenant.relay.only);
    Pass { expires: now + life_s(settings, channel), relay_only: pass.relay_only || only, ..pass.clone() }
}

/// Seconds that what conf gives a viewer lives: pass, ticket and TURN credentials end together.
pub(super) fn life_s(settings: &ConfSettings, channel: &Channel) -> u64 {
    let ticket = channel.access.ticket.as_ref().map(|policy| u64::from(policy.ttl_s));
    ticket.map_or(settings.pass_ttl_s(), |ttl| ttl.min(settings.pass_ttl_s()))
}
