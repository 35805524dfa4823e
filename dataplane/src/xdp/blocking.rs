//! The snapshot's block list, as the program has it.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use shoal_probes::{MapError, Probes};

use crate::routes::Published;

/// What was done of it.
#[derive(Debug, Default)]
pub(super) struct Blocking {
    /// In the maps; `None`: it was not looked yet what they have from before.
    done: Option<BTreeSet<IpNet>>,
    /// How often something was published when it was looked last.
    version: u64,
    /// When the first of them ends, in Unix seconds.
    until: Option<u64>,
}

impl Blocking {
    /// Blocks and unblocks what has changed since the last time. What does not work is tried again.
    pub(super) fn follow(&mut self, probes: &mut Probes, published: &Published) -> Result<(), MapError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let version = published.version();
        if self.done.is_some() && version == self.version && self.until.is_none_or(|until| until > now) {
            return Ok(());
        }
        let done = match &mut self.done {
            Some(done) => done,
            None => self.done.insert(probes.blocked()?.into_iter().collect()),
        };
        let routes = published.current();
        // Of a node without a snapshot it is not known whom it is to serve: what was blocked stays.
        if routes.version() == 0 {
            return Ok(());
        }
        let wanted: BTreeSet<IpNet> = routes.blocks().networks(now).collect();
        let gone: Vec<IpNet> = done.difference(&wanted).copied().collect();
        for network in gone {
            probes.unblock(network)?;
            done.remove(&network);
        }
        for network in wanted {
            if !done.contains(&network) {
                probes.block(network)?;
                done.insert(network);
            }
        }
        (self.version, self.until) = (version, routes.blocks().next_end(now));
        Ok(())
    }
}
