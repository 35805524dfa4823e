//! Forgetting what an operator names, a piece at a time.
//!
//! A look at all versions of a shard takes longer than the shard may stand still, so it is made in pieces, in the order of
//! their places. What comes to a place that was looked at already is newer than the purge.

use std::rc::Rc;
use std::sync::Arc;

use shoal_http::caching::has_tag;
use shoal_link::message::PurgeScope;

use super::{Held, Table};
use crate::slices::flight::Opening;
use crate::slices::key::SliceKey;
use crate::slices::version::VersionSlot;
use crate::upstream::Asked;

impl Table {
    /// A question to the origins is under way.
    pub fn add_opening(&mut self, key: &SliceKey, opening: &Rc<Opening>, asked: Option<Arc<Asked>>) {
        self.pending_mut(key).openings.push((Rc::clone(opening), asked));
    }

    /// It has been answered.
    pub fn end_opening(&mut self, key: &SliceKey, opening: &Rc<Opening>, now_ms: u64) {
        if let Some(pending) = self.pending.get_mut(key) {
            pending.openings.retain(|(current, _)| !Rc::ptr_eq(current, opening));
        }
        self.tidy_pending(key, now_ms);
    }

    /// Whoever waits for what the scope names gets what was asked for before the purge; the answer is not to be kept. Which tags
    /// it will have is not known yet.
    pub fn purge_openings(&mut self, scope: &PurgeScope) {
        for (_, pending) in
            self.pending.iter().filter(|(key, pending)| !pending.openings.is_empty() && names(scope, key))
        {
            pending.openings.iter().for_each(|(opening, _)| opening.purge());
        }
    }

    /// The same for one name. Returns where its versions are.
    pub(super) fn purge_pending(&mut self, key: &SliceKey) -> Vec<VersionSlot> {
        if let Some(pending) = self.pending.get(key) {
            pending.openings.iter().for_each(|(opening, _)| opening.purge());
        }
        self.variants(key).map(|held| held.version.slot).collect()
    }

    /// Retires all versions of one name. Returns how many.
    pub fn purge_name(&mut self, key: &SliceKey) -> u64 {
        let variants = self.purge_pending(key);
        variants.iter().for_each(|&slot| self.take_away(slot));
        variants.len() as u64
    }

    /// Retires what the scope names among the versions in the next `steps` places, from `from` on. Returns how many, and where to
    /// go on until all were looked at.
    pub fn purge_some(&mut self, scope: &PurgeScope, from: usize, steps: usize) -> (u64, Option<usize>) {
        let tagged = |held: &Held| match scope {
            PurgeScope::Tag { tag, .. } => has_tag(&held.version.tags, tag),
            _ => true,
        };
        let mut slots = Vec::new();
        let next = self.each_held(from, steps, |held| {
            if names(scope, &held.key) && tagged(held) {
                slots.push(held.version.slot);
            }
        });
        slots.iter().for_each(|&slot| self.take_away(slot));
        (slots.len() as u64, next)
    }
}

/// Whether the scope is about this name. Of a tag only the channel can be told by it.
fn names(scope: &PurgeScope, key: &SliceKey) -> bool {
    match scope {
        PurgeScope::All => true,
        PurgeScope::Channel { channel } | PurgeScope::Tag { channel, .. } => key.channel() == channel.as_bytes(),
        PurgeScope::Prefix { channel, path } => {
            key.channel() == channel.as_bytes() && key.path().starts_with(path.as_bytes())
        }
        PurgeScope::Object { channel, path } => key.channel() == channel.as_bytes() && key.path() == path.as_bytes(),
    }
}
