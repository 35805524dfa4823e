//! What this node answers to questions about its cache: put together from what its shards say.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use shoal_link::inspect::{
    CacheStat, Explanation, Inspect, ObjectStat, Probe, RequestStat, ShardStat, TOP_MAX, TopBy, TopObject, TopReport,
};
use shoal_link::message::Reply;

use super::plane::NodePlane;
use crate::http::popular::Demand;
use crate::shard::ShardCommand;
use crate::shard::inspect::ShardQuestion;
use crate::slices::key::SliceKey;
use crate::telemetry::metrics::{Counter, Gauge};
use crate::telemetry::stats::{CacheResult, ShardStats};

impl NodePlane {
    /// Answers a question.
    ///
    /// # Errors
    /// For people.
    pub(super) async fn inspect(&self, question: Inspect) -> Result<Reply, String> {
        match question {
            Inspect::Top { by, channel, limit } => {
                let limit = limit.min(TOP_MAX) as usize;
                match by {
                    TopBy::Ram => self.largest(channel, limit).await,
                    TopBy::Requests | TopBy::Bytes => self.most_wanted(by, channel, limit).await,
                }
                .map(Reply::Top)
            }
            Inspect::Cache => Ok(Reply::Cache(Box::new(self.cache()))),
            Inspect::Object { channel, path } => Ok(Reply::Object(Box::new(self.object(channel, path).await?))),
            Inspect::Explain(probe) => Ok(Reply::Explanation(Box::new(self.explain(probe).await?))),
        }
    }

    async fn most_wanted(&self, by: TopBy, channel: Option<String>, limit: usize) -> Result<TopReport, String> {
        let (demands, ms) = self.demands().await?;
        let wanted = |key: &SliceKey| channel.as_ref().is_none_or(|channel| key.channel() == channel.as_bytes());
        let mut top: Vec<_> = demands.into_iter().filter(|(key, _)| wanted(key)).collect();
        top.sort_by(|(key, a), (other, b)| {
            let by_requests = b.requests.cmp(&a.requests).then(b.bytes.cmp(&a.bytes));
            let order = if by == TopBy::Bytes { b.bytes.cmp(&a.bytes).then(by_requests) } else { by_requests };
            order.then_with(|| key.bytes().cmp(other.bytes()))
        });
        top.truncate(limit);
        let keys: Vec<SliceKey> = top.iter().map(|(key, _)| key.clone()).collect();
        let weigh = |done| ShardCommand::Inspect(ShardQuestion::Weigh { keys: keys.clone(), done });
        let mut ram = vec![0; keys.len()];
        for weights in self.ask_all(weigh).await? {
            ram.iter_mut().zip(weights).for_each(|(sum, bytes)| *sum += bytes);
        }
        let objects = top.iter().zip(ram).map(|((key, demand), ram_bytes)| top_object(key, *demand, ram_bytes));
        Ok(TopReport { seconds: ms / 1000, objects: objects.collect() })
    }

    async fn largest(&self, channel: Option<String>, limit: usize) -> Result<TopReport, String> {
        let ask = |done| ShardCommand::Inspect(ShardQuestion::Largest { channel: channel.clone(), most: limit, done });
        let mut largest: Vec<(SliceKey, u64)> = self.ask_all(ask).await?.into_iter().flatten().collect();
        largest.sort_by(|(key, a), (other, b)| b.cmp(a).then_with(|| key.bytes().cmp(other.bytes())));
        largest.truncate(limit);
        let (demands, ms) = self.demands().await?;
        let demand = |key: &SliceKey| demands.get(key).copied().unwrap_or_default();
        let objects = largest.iter().map(|(key, ram_bytes)| top_object(key, demand(key), *ram_bytes));
        Ok(TopReport { seconds: ms / 1000, objects: objects.collect() })
    }

    /// What all shards were asked for lately, and in how many milliseconds.
    async fn demands(&self) -> Result<(HashMap<SliceKey, Demand>, u64), String> {
        let (mut sums, mut longest): (HashMap<SliceKey, Demand>, u64) = (HashMap::new(), 0);
        for demands in self.ask_all(|done| ShardCommand::Inspect(ShardQuestion::Demands(done))).await? {
            longest = longest.max(demands.ms);
            for (key, demand) in demands.objects {
                match sums.entry(key) {
                    Entry::Occupied(mut sum) => *sum.get_mut() += demand,
                    Entry::Vacant(place) => drop(place.insert(demand)),
                }
            }
        }
        Ok((sums, longest))
    }

    async fn object(&self, channel: String, path: String) -> Result<ObjectStat, String> {
        if self.routes().channel(&channel).is_none() {
            return Err(format!("channel `{channel}` is not in the snapshot that this node serves"));
        }
        let (channel, path) = (&channel, &path);
        let ask = |done| {
            let (channel, path) = (channel.clone(), path.clone());
            ShardCommand::Inspect(ShardQuestion::Object { channel, path, done })
        };
        let mut answers = self.ask_all(ask).await?.into_iter().flatten();
        answers.next().ok_or_else(|| "the channel was taken away while it was looked for".to_owned())
    }

    async fn explain(&self, probe: Probe) -> Result<Explanation, String> {
        let ask = |done| ShardCommand::Inspect(ShardQuestion::Explain { probe: probe.clone(), done });
        // Between two snapshots one shard may refuse what another one would serve.
        let mut answers: Vec<Explanation> = self.ask_all(ask).await?.into_iter().flatten().collect();
        answers.pop().ok_or_else(|| "the channels were changed while it was explained; ask again".to_owned())
    }

    fn cache(&self) -> CacheStat {
        let (shards, settings) = (self.stats_of_shards(), self.settings());
        let gauge = |gauge: Gauge| shards.iter().map(|shard| shard.gauge(gauge)).sum();
        let counter = |counter: Counter| shards.iter().map(|shard| shard.counter(counter)).sum();
        let mut requests: Vec<RequestStat> = Vec::new();
        for cache in CacheResult::ALL {
            requests.push(RequestStat { cache: cache.label().to_owned(), requests: 0 });
        }
        let mut origin_bytes = 0;
        for shard in shards {
            shard.each_request(|[_, _, cache], count| {
                if let Some(sum) = requests.iter_mut().find(|sum| sum.cache == cache) {
                    sum.requests += count;
                }
            });
            shard.each_origin(|_, _, origin| origin_bytes += origin.bytes());
        }
        CacheStat {
            uptime_s: self.uptime().as_secs(),
            objects: gauge(Gauge::CacheObjects),
            ram_blocks: gauge(Gauge::CacheBlocks),
            ram_bytes: gauge(Gauge::CacheBytes),
            ram_capacity_bytes: gauge(Gauge::ArenaCapacity),
            disk_blocks: gauge(Gauge::DiskEntries),
            disk_capacity_bytes: settings.disk.paths.iter().map(|(_, bytes)| bytes).sum(),
            evicted_objects: counter(Counter::EvictedObjects),
            purged_objects: counter(Counter::PurgedObjects),
            hit_permille: hit_permille(&requests),
            requests,
            viewer_bytes: counter(Counter::BodyBytes),
            origin_bytes,
            shards: shards.iter().map(|shard| shard_stat(shard)).collect(),
        }
    }
}

/// Of the requests for objects, those that were answered before any origin was asked.
fn hit_permille(requests: &[RequestStat]) -> Option<u16> {
    let sum = |counts: fn(&str) -> bool| {
        requests.iter().filter(|stat| counts(&stat.cache)).map(|stat| stat.requests).sum::<u64>()
    };
    let all = sum(|cache| cache != CacheResult::None.label());
    let hits =
        sum(|cache| [CacheResult::Hit, CacheResult::Disk, CacheResult::Stale].iter().any(|hit| hit.label() == cache));
    (all > 0).then(|| (hits * 1000 / all) as u16)
}

fn shard_stat(stats: &ShardStats) -> ShardStat {
    ShardStat {
        objects: stats.gauge(Gauge::CacheObjects),
        ram_blocks: stats.gauge(Gauge::CacheBlocks),
        ram_bytes: stats.gauge(Gauge::CacheBytes),
        front_bytes: stats.gauge(Gauge::FrontBytes),
        disk_blocks: stats.gauge(Gauge::DiskEntries),
        flights: stats.gauge(Gauge::Flights),
    }
}

fn top_object(key: &SliceKey, demand: Demand, ram_bytes: u64) -> TopObject {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    TopObject {
        channel: text(key.channel()),
        path: text(key.path()),
        requests: demand.requests,
        bytes: demand.bytes,
        ram_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_do_not_lower_the_hit_ratio() {
        let stats = |counts: &[(&str, u64)]| -> Vec<RequestStat> {
            counts
                .iter()
                .map(|(cache, requests)| RequestStat { cache: (*cache).to_owned(), requests: *requests })
                .collect()
        };
        assert_eq!(hit_permille(&stats(&[("none", 7)])), None);
        assert_eq!(hit_permille(&stats(&[("hit", 5), ("disk", 1), ("miss", 2), ("none", 100)])), Some(750));
        assert_eq!(hit_permille(&stats(&[("coalesced", 3), ("stale", 1)])), Some(250));
    }
}
