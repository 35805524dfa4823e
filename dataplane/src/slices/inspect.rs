//! What an operator may know of the objects a shard owns.

use std::sync::Arc;

use shoal_link::inspect::{ObjectStat, SourceStat, VariantStat};

use super::key::SliceKey;
use super::store::{OpenRequest, Store};
use super::terms::fresh_by;
use super::version::VersionParts;
use crate::routes::Channel;
use crate::telemetry::stats::CacheResult;

/// Blocks of one object that are looked for on disk: a shard has other things to do.
const DISK_LOOKS: u32 = 4 << 10;

/// What would come of a request, and why.
pub struct Outlook {
    /// As metrics call it.
    pub cache: CacheResult,
    /// For people.
    pub why: String,
}

impl Store {
    /// Bytes of the object in RAM.
    pub fn ram_bytes(&self, key: &SliceKey) -> u64 {
        let table = self.table.borrow();
        table.variants(key).map(|held| held.ram().1).sum()
    }

    /// What is kept of an object, in RAM and on disk.
    pub async fn stat(&self, shard: usize, key: &SliceKey, channel: &Channel) -> ObjectStat {
        let mut stat = self.stat_in_ram(shard, key, channel);
        if stat.variants.is_empty()
            && let Some(disk) = self.disk()
            && let Some(index) = (0..DISK_LOOKS).find(|&index| disk.has(key, index))
            && let Some(fetched) = disk.fetch(key, index, async |len| self.allocate_for_disk(len).await).await
        {
            stat.on_disk = Some(self.variant(key, channel, &fetched.parts));
        }
        stat
    }

    fn stat_in_ram(&self, shard: usize, key: &SliceKey, channel: &Channel) -> ObjectStat {
        let table = self.table.borrow();
        let pending = table.pending(key);
        let variants = table.variants(key).map(|held| {
            let (ram_blocks, ram_bytes) = held.ram();
            let flights = held.flights.len() as u32;
            VariantStat { ram_blocks, ram_bytes, flights, ..self.variant(key, channel, &held.version.parts()) }
        });
        ObjectStat {
            channel: channel.id.to_string(),
            path: String::from_utf8_lossy(key.path()).into_owned(),
            shard: shard as u32,
            variants: variants.collect(),
            on_disk: None,
            fetching: pending.map_or(0, |pending| pending.openings.len() as u32),
            pass_ms: pending.map_or(0, |pending| pending.pass_until_ms.saturating_sub(self.clock.now_ms())),
        }
    }

    /// All but what lies in RAM.
    fn variant(&self, key: &SliceKey, channel: &Channel, parts: &VersionParts) -> VariantStat {
        let now_ms = self.clock.now_ms();
        let text = |text: &Option<Box<str>>| text.as_ref().map(ToString::to_string);
        let path = String::from_utf8_lossy(key.path());
        let blocks = parts.total.map_or(DISK_LOOKS, |total| self.index_of(total.saturating_sub(1)).saturating_add(1));
        let on_disk = |disk: &std::rc::Rc<crate::disk::Disk>| {
            (0..blocks.min(DISK_LOOKS)).filter(|&index| disk.has(key, index)).count() as u32
        };
        VariantStat {
            status: parts.status,
            total_bytes: parts.total,
            etag: text(&parts.validators.etag),
            last_modified: parts.validators.last_modified,
            content_type: text(&parts.content_type),
            cache_control: text(&parts.cache_control),
            selected_by: String::from_utf8_lossy(&parts.selecting).lines().map(str::to_owned).collect(),
            tags: parts.tags.split_ascii_whitespace().map(str::to_owned).collect(),
            age_s: now_ms.saturating_sub(parts.born_ms) / 1000,
            fresh_ms: parts.fresh_until_ms.cast_signed().saturating_sub(now_ms.cast_signed()),
            fresh_by: fresh_by(parts, channel, &path),
            stale_while_revalidate_ms: parts.stale.while_revalidate_ms,
            stale_if_error_ms: parts.stale.if_error_ms.unwrap_or(channel.cache.stale_if_error_ms.into()),
            ram_blocks: 0,
            ram_bytes: 0,
            // One variant of several is never written.
            disk_blocks: self.disk.as_ref().filter(|_| parts.selecting.is_empty()).map_or(0, on_disk),
            flights: 0,
        }
    }

    /// What would come of a request for an object that this shard owns; nothing is fetched, and nothing counted as used.
    /// `stat` is of the same object.
    pub fn outlook(&self, request: &OpenRequest, stat: &ObjectStat) -> Outlook {
        if let Some(outlook) = self.outlook_in_ram(request) {
            return outlook;
        }
        let outlook = |cache, why: String| Outlook { cache, why };
        let now_ms = self.clock.now_ms();
        let first_on_disk = self.is_on_disk(&request.key, request.want.first);
        let table = self.table.borrow();
        if let Some(pending) = table.pending(&request.key) {
            if pending.pass_until_ms > now_ms {
                let ms = pending.pass_until_ms - now_ms;
                return outlook(
                    CacheResult::Bypass,
                    format!(
                        "the origin has said that its answers are not to be shared; for {ms} ms more each request fetches for itself"
                    ),
                );
            }
            if table.find_opening(&request.key, request.asked.as_deref()).is_some() {
                return outlook(CacheResult::Coalesced, "another request is asking for it; this one would wait".into());
            }
        }
        let variants = table.variants(&request.key).count();
        if variants > 0 {
            let why = format!("{variants} variants are kept, and none was chosen by such request headers (Vary)");
            return outlook(CacheResult::Miss, why);
        }
        let index = self.index_of(request.want.first);
        match &stat.on_disk {
            Some(on_disk) if !first_on_disk => outlook(
                CacheResult::Miss,
                format!(
                    "{} of its blocks are on disk, but not block {index}, which is wanted first",
                    on_disk.disk_blocks
                ),
            ),
            Some(on_disk) if on_disk.fresh_ms > 0 => outlook(
                CacheResult::Disk,
                format!("block {index} is on disk, and fresh for {} ms more by {}", on_disk.fresh_ms, on_disk.fresh_by),
            ),
            Some(on_disk) => outlook(
                CacheResult::Revalidated,
                format!(
                    "block {index} is on disk, and stale for {} ms by {}: a source is asked whether it is still right",
                    -on_disk.fresh_ms, on_disk.fresh_by
                ),
            ),
            None => outlook(CacheResult::Miss, "nothing is kept under this key".into()),
        }
    }

    fn outlook_in_ram(&self, request: &OpenRequest) -> Option<Outlook> {
        let now_ms = self.clock.now_ms();
        let first_on_disk = self.is_on_disk(&request.key, request.want.first);
        let table = self.table.borrow();
        let held = table.find(&request.key, request.asked.as_deref())?;
        let version = &held.version;
        let path = String::from_utf8_lossy(request.key.path());
        let by = fresh_by(&version.parts(), &request.channel, &path);
        let fresh_until_ms = version.fresh_until_ms();
        let index = self.index_of(request.want.first);
        let in_ram = held.block(index).is_some_and(|block| block.filled() > 0)
            || version.total().is_some_and(|total| request.want.first >= total);
        let on_disk = version.is_combinable() && first_on_disk;
        let (fresh_ms, stale_ms) = (fresh_until_ms.saturating_sub(now_ms), now_ms.saturating_sub(fresh_until_ms));
        let (cache, why) = if request.revalidate {
            (
                CacheResult::Revalidated,
                "the viewer asks for validation, and cache.client_revalidation allows it".to_owned(),
            )
        } else if version.is_fresh(now_ms) {
            let fresh = format!("fresh for {fresh_ms} ms more by {by}");
            match (in_ram, on_disk) {
                (true, _) => (CacheResult::Hit, format!("{fresh}; block {index} is in RAM")),
                (false, true) => (CacheResult::Disk, format!("{fresh}; block {index} is on disk")),
                (false, false) => (CacheResult::Miss, format!("{fresh}; but block {index} has to be fetched")),
            }
        } else if version.is_held_stale(now_ms) {
            let why = format!("stale for {stale_ms} ms by {by}, and its sources failed a moment ago: served stale");
            (CacheResult::Stale, why)
        } else if version.may_revalidate_later(now_ms) {
            let why = format!(
                "stale for {stale_ms} ms by {by}, within stale-while-revalidate: served, and asked for again beside that"
            );
            (CacheResult::Stale, why)
        } else {
            let grace_ms = request.channel.cache.stale_if_error_ms.into();
            let fails = match version.may_bridge_errors(now_ms, grace_ms) {
                true => "; should all fail, it is served stale",
                false => "",
            };
            let why = format!("stale for {stale_ms} ms by {by}: a source is asked whether it is still right{fails}");
            (CacheResult::Revalidated, why)
        };
        Some(Outlook { cache, why })
    }

    /// Whom a fetch of the object would ask now, in this order.
    pub fn sources(&self, channel: &Channel, key: &SliceKey) -> Vec<SourceStat> {
        let now_ms = self.clock.now_ms();
        let parents = self.parents.pick(channel, key, now_ms);
        let origins = channel.pick(now_ms, self.roll()).map(Arc::clone);
        let source = |source: Arc<crate::routes::OriginState>| SourceStat {
            id: source.id.to_string(),
            url: source.url.to_string(),
            parent: source.parent.is_some(),
            up: source.health.is_up(now_ms),
        };
        parents.into_iter().chain(origins).map(source).collect()
    }

    /// The objects of `channel`, or of all, that hold most RAM, with their bytes. `pause` is awaited every now and then, for a
    /// shard must not stand still for a look at all it has.
    pub async fn largest<F: Future<Output = ()>>(
        &self,
        channel: Option<&str>,
        most: usize,
        pause: impl Fn() -> F,
    ) -> Vec<(SliceKey, u64)> {
        let mut largest: Vec<(SliceKey, u64)> = Vec::new();
        let mut from = Some(0);
        while let Some(start) = from {
            from = self.table.borrow().each_held(start, LOOKS_AT_ONCE, |held| {
                if channel.is_none_or(|channel| held.key.channel() == channel.as_bytes()) {
                    largest.push((held.key.clone(), held.ram().1));
                }
            });
            if largest.len() > 2 * most.max(LOOKS_AT_ONCE) {
                keep_largest(&mut largest, most);
            }
            pause().await;
        }
        keep_largest(&mut largest, most);
        largest
    }
}

/// Versions looked at between two pauses.
const LOOKS_AT_ONCE: usize = 1024;

fn keep_largest(list: &mut Vec<(SliceKey, u64)>, most: usize) {
    list.sort_unstable_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    list.truncate(most);
}
