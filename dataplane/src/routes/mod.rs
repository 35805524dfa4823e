//! The snapshot that shards serve by: channels found by host and path, with everything about them prepared.
//!
//! Compiled once for each snapshot, then only read. What must outlive a snapshot, the health of origins, is carried over.

mod blocks;
mod channel;
mod common;
mod cors;
mod error;
mod health;
mod limits;
mod origin;
mod parents;
mod pick;
mod published;
mod router;
mod tenants;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use shoal_link::Snapshot;
use shoal_link::access::names::bare_host;
use shoal_ticket::{PathSignature, path_signature};

use common::Common;
use router::Router;

pub use blocks::Blocks;
pub use channel::Channel;
pub use cors::{AllowOrigin, Cors};
pub use error::RoutesError;
pub use health::{BACKOFF_MAX_MS, BACKOFF_MIN_MS, FAILURES_DOWN, Health, HealthEvent, HealthState};
pub use limits::{Limited, Limits};
pub use origin::{HttpTarget, OriginState, OriginTarget};
pub use parents::{ParentFetch, ParentSettings, Parents};
pub use pick::Pick;
pub use published::Published;
pub use shoal_link::access::names::host_and_port;
pub use shoal_link::access::{Access, AccessRequest, Denied};
pub use tenants::{RelayTenants, TenantRules};

/// All channels of a snapshot.
#[derive(Debug, Default)]
pub struct Routes {
    version: u64,
    by_id: HashMap<Arc<str>, Arc<Channel>>,
    router: Router<Arc<Channel>>,
    tenants: Arc<RelayTenants>,
    blocks: Blocks,
}

/// Where a request belongs.
#[derive(Debug, Clone, Copy)]
pub struct Found<'r, 'p> {
    /// The channel.
    pub channel: &'r Arc<Channel>,
    /// The path below the channel's prefix, without a leading slash. Where the channel has a verifier, what counts is
    /// [`Channel::below`] of the path that the verifier let pass.
    pub rest: &'p str,
    /// The signature that stood in front of the channel's prefix.
    pub signature: Option<PathSignature<'p>>,
}

impl Routes {
    /// Prepares a snapshot. Origins that were there before under the same channel, id and URL keep their health.
    ///
    /// # Errors
    /// The first field that cannot be served, in which channel, its value and the remedy.
    pub fn compile(snapshot: &Snapshot, previous: Option<&Routes>) -> Result<Routes, RoutesError> {
        let tenants = RelayTenants::compile(&snapshot.tenants, previous.map(Routes::tenants))?;
        let blocks = Blocks::compile(&snapshot.blocks)?;
        let mut routes = Routes { version: snapshot.version, tenants: Arc::new(tenants), blocks, ..Routes::default() };
        let mut common = Common::default();
        for raw in &snapshot.channels {
            let before = previous.and_then(|routes| routes.by_id.get(raw.id.as_str()));
            let channel = Arc::new(Channel::compile(raw, before.map(|channel| &**channel), &mut common)?);
            if routes.by_id.insert(channel.id.clone(), channel.clone()).is_some() {
                return Err(RoutesError::new(&raw.id, "id", &raw.id, "two channels have this id; rename one"));
            }
            let hosts = raw.hosts.iter().map(|host| Some(host.as_str()));
            for host in hosts.chain(raw.hosts.is_empty().then_some(None)) {
                if let Err(other) = routes.router.insert(host, &channel.prefix, channel.clone()) {
                    let taken = format!("channel `{}` has it already for the same host; choose another", other.id);
                    return Err(RoutesError::new(&raw.id, "prefix", &raw.prefix, taken));
                }
            }
        }
        Ok(routes)
    }

    /// The channel that a request is for: of those that name its host, else of those for any, the one with the longest
    /// prefix. `path` is percent-encoded and normalized; what looks like a signature in front of it is left out where
    /// that leads to a channel that asks for tickets, or where nothing else leads anywhere.
    pub fn find<'p>(&self, host: Option<&str>, path: &'p str) -> Option<Found<'_, 'p>> {
        let host = host.map(bare_host);
        let route = |path: &'p str, signature| {
            let (channel, rest) = self.router.find(host.as_deref(), path)?;
            Some(Found { channel, rest, signature })
        };
        let whole = route(path, None);
        let signed = path_signature(path).and_then(|signature| route(signature.rest, Some(signature)));
        match (whole, signed) {
            (Some(whole), Some(signed)) => Some(if signed.channel.verifier.is_some() { signed } else { whole }),
            (whole, signed) => whole.or(signed),
        }
    }

    /// The channel of an id.
    pub fn channel(&self, id: &str) -> Option<&Arc<Channel>> {
        self.by_id.get(id)
    }

    /// Every channel, in no particular order.
    pub fn channels(&self) -> impl ExactSizeIterator<Item = &Arc<Channel>> {
        self.by_id.values()
    }

    /// Whose users may have traffic relayed.
    pub fn tenants(&self) -> &Arc<RelayTenants> {
        &self.tenants
    }

    /// Whom nothing is served.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Version of the snapshot.
    pub fn version(&self) -> u64 {
        self.version
    }
}
