//! Peers that want to find one another (docs/punch.md): the state machine of `protocol/stun`, over the node's channels.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use shoal_link::observation::{Behaviour, Observation};
use shoal_stun::credentials::{NonceKey, Nonces};
use shoal_stun::message::Nat;
use shoal_stun::nat::Behaviour as Found;
use shoal_stun::punch::{
    Admission, Config, Gate, Limits, MAX_INTRODUCED, Outcome, Refused, Server, Standing, shard_of,
};
use shoal_stun::turn::Now;

use super::outbox::Outbox;
use super::rates::Rates;
use crate::routes::Routes;
use crate::settings::TurnSettings;
use crate::telemetry::metrics::{Counter, Gauge};
use crate::telemetry::stats::ShardStats;

/// Seconds for which a nonce is good: peers prove their address anew after that.
const NONCE_SECONDS: u32 = 3_600;

/// Observations told in one tick.
const OBSERVATIONS_PER_TICK: usize = 512;

/// Of one shard.
pub(super) struct Punch {
    server: Server,
    seed: u64,
    shards: u16,
    relays: Relays,
}

/// Where the node relays from, as peers see it.
#[derive(Default)]
struct Relays {
    addresses: Vec<IpAddr>,
    ports: Option<RangeInclusive<u16>>,
}

/// The channels in force, and their tickets; and the node's relays.
struct Channels<'a>(&'a Routes, &'a Relays);

impl Gate for Channels<'_> {
    fn admit(&self, channel: &str, ticket: Option<&str>, client: IpAddr, unix: u64) -> Result<Admission, Refused> {
        let found = self.0.channel(channel).ok_or(Refused("no such channel"))?;
        if !found.enabled {
            return Err(Refused("channel switched off"));
        }
        if !found.access.allows_address(client) {
            return Err(Refused("address"));
        }
        let tenant = Arc::clone(&found.tenant);
        let Some(verifier) = &found.verifier else {
            return Ok(Admission { tenant, session: None, expires_unix: None });
        };
        let ticket = ticket.ok_or(Refused("missing ticket"))?;
        let (session, expires) =
            verifier.verify_peer(ticket, client, unix).map_err(|refusal| Refused(refusal.reason()))?;
        let session = session.map(|session| session.as_str().into());
        Ok(Admission { tenant, session, expires_unix: Some(expires) })
    }

    fn is_relay(&self, address: SocketAddr) -> bool {
        let Relays { addresses, ports } = self.1;
        addresses.contains(&address.ip()) && ports.as_ref().is_some_and(|ports| ports.contains(&address.port()))
    }

    fn standing(&self, channel: &str) -> Standing {
        match self.0.channel(channel) {
            Some(found) if found.enabled => match self.0.tenants().of(&found.tenant) {
                Some(rules) if rules.relay_only => Standing::RelayOnly,
                _ => Standing::Open,
            },
            _ => Standing::Gone,
        }
    }
}

impl Punch {
    /// `node_seed` is one for all shards, `seed` this shard's own.
    pub(super) fn new(
        (shard, shards): (usize, usize),
        nonce_secret: [u8; 32],
        node_seed: u64,
        seed: [u8; 32],
        turn: Option<&TurnSettings>,
    ) -> Self {
        let config = Config { shard: shard as u16, limits: Limits::default(), seed };
        let nonces = Nonces::new(vec![NonceKey { epoch: 1, secret: nonce_secret }], NONCE_SECONDS, false);
        let relays = turn.map_or_else(Relays::default, |turn| {
            let v4 = turn.ipv4.map(|ip| ip.public.into());
            let v6 = turn.ipv6.map(|ip| ip.public.into());
            Relays { addresses: v4.into_iter().chain(v6).collect(), ports: Some(turn.ports.clone()) }
        });
        Self { server: Server::new(&config, nonces), seed: node_seed, shards: shards as u16, relays }
    }

    /// The shard that a datagram of punching is for, if it is for one.
    pub(super) fn owner(&self, datagram: &[u8]) -> Option<usize> {
        shard_of(datagram, self.seed, self.shards).map(usize::from)
    }

    /// Handles one, and says how long the reply is that lies in the outbox' spare bytes, and whether the client has proven its address.
    pub(super) fn handle(
        &mut self,
        now: Now,
        (client, server): (SocketAddr, SocketAddr),
        datagram: &[u8],
        routes: &Routes,
        unproven: &mut Rates,
        out: &mut Outbox<'_>,
    ) -> Result<Option<(usize, bool)>, &'static str> {
        match self.server.handle(now, client, server, datagram, &Channels(routes, &self.relays), out.spare()) {
            Outcome::Reply { proven: false, .. } if !unproven.admit(client.ip(), 1, now.ms * 1_000_000) => Err("rate"),
            Outcome::Reply { length, proven } => Ok(Some((length, proven))),
            Outcome::Done => Ok(None),
            Outcome::Dropped(dropped) => Err(dropped.reason()),
        }
    }

    /// Sends what the node has to say by itself.
    pub(super) fn poll(&mut self, now_ms: u64, place: impl Fn(SocketAddr) -> Option<usize>, out: &mut Outbox<'_>) {
        while out.room() >= MAX_INTRODUCED
            && let Some(transmit) = self.server.poll_transmit(now_ms, out.spare())
        {
            let request = out.keep(transmit.length);
            if let Some(from) = place(transmit.from) {
                out.reply(from, transmit.to, request);
            }
        }
    }

    /// Whether there is something to say by itself, or to end.
    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        self.server.next_deadline().is_some_and(|at| at <= now_ms)
    }

    /// Hands over what is new of peers, for the tracker, up to a bound.
    pub(super) fn observations(&mut self) -> Vec<Observation> {
        let mut all = Vec::new();
        self.server.take_observations(OBSERVATIONS_PER_TICK, |seen| {
            let Nat { mapping, filtering, .. } = seen.nat;
            all.push(Observation {
                tenant: seen.tenant.to_owned(),
                channel: seen.channel.to_owned(),
                peer: seen.peer.iter().map(|byte| format!("{byte:02x}")).collect(),
                address: seen.address,
                mapping: behaviour(mapping),
                filtering: behaviour(filtering),
                predictable: seen.nat.has_step(),
                registered: seen.registered,
            });
        });
        all
    }

    /// Has all peers told of once more.
    pub(super) fn observe_again(&mut self) {
        self.server.observe_again();
    }

    /// Notes how it is.
    pub(super) fn figures(&self, stats: &ShardStats) {
        let counters = self.server.counters();
        stats.set(Gauge::PunchRegistrations, self.server.registrations() as u64);
        stats.set_total(Counter::PunchRegistered, counters.registered);
        stats.set_total(Counter::PunchIntroductions, counters.introductions);
        stats.set_total(Counter::PunchAnswered, counters.answered);
        stats.set_total(Counter::PunchUnanswered, counters.unanswered);
        stats.set_total(Counter::ObservationsLost, counters.observations_lost);
        counters.refused().for_each(|(refusal, count)| stats.punch_refusals(refusal.reason(), count));
    }
}

fn behaviour(found: Option<Found>) -> Behaviour {
    match found {
        None => Behaviour::Unknown,
        Some(Found::EndpointIndependent) => Behaviour::EndpointIndependent,
        Some(Found::AddressDependent) => Behaviour::AddressDependent,
        Some(Found::AddressAndPortDependent) => Behaviour::AddressAndPortDependent,
    }
}
