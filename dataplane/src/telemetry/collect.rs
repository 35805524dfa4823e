//! From the shards' numbers to Prometheus' text, at each scrape.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto;
use prometheus::{Encoder, TextEncoder};

use super::histogram::{self, Folded, Histogram};
use super::metrics::{Counter, Family, Gauge, Metric, Node, Type};
use super::node::{NodeStats, Process};
use super::stats::{LATENCY_LABELS, ShardStats, UpstreamError};

/// Folds the numbers of all shards.
#[derive(Debug)]
pub struct Exporter {
    shards: Vec<Arc<ShardStats>>,
    node: Arc<NodeStats>,
    descs: Vec<Desc>,
}

impl Exporter {
    /// Registers the whole table with `registry`.
    ///
    /// # Errors
    /// A table that Prometheus does not accept: a bad or doubled name.
    pub fn register(
        registry: &prometheus::Registry,
        shards: Vec<Arc<ShardStats>>,
        node: Arc<NodeStats>,
    ) -> prometheus::Result<()> {
        let desc = |family: &Family| {
            let Metric { name, help, labels, .. } = *family.metric();
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())
        };
        let descs = Family::ALL.iter().map(desc).collect::<prometheus::Result<_>>()?;
        registry.register(Box::new(Self { shards, node, descs }))
    }
}

/// Everything in `registry` as text.
///
/// # Errors
/// Numbers that have no form in Prometheus' text, which would be a mistake in this program.
pub fn text(registry: &prometheus::Registry) -> prometheus::Result<Vec<u8>> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(text)
}

impl Collector for Exporter {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let mut scrape = Scrape::default();
        for (index, shard) in self.shards.iter().enumerate() {
            scrape.shard(&index.to_string(), shard);
        }
        for value in Node::ALL {
            let (family, labels) = value.series();
            scrape.add(family, "", labels, self.node.get(*value));
        }
        self.node.each_xdp(|verdict, packets| scrape.add(Family::XdpPackets, "", &[verdict], packets));
        scrape.process(&Process::read());
        scrape.add(Family::BuildInfo, "", &[env!("CARGO_PKG_VERSION")], 1);
        scrape.finish(&self.shards)
    }
}

/// Sums by series.
#[derive(Default)]
struct Scrape {
    /// By family and label values, in the order of the table.
    sums: BTreeMap<(usize, Vec<String>), u64>,
}

impl Scrape {
    /// Adds to a series. `shard` is the first label of the families that have it, and is folded away in the others.
    fn add(&mut self, family: Family, shard: &str, labels: &[&str], value: u64) {
        let shard = family.metric().per_shard().then_some(shard);
        let labels = shard.into_iter().chain(labels.iter().copied()).map(str::to_owned).collect();
        *self.sums.entry((family as usize, labels)).or_default() += value;
    }

    fn shard(&mut self, shard: &str, stats: &ShardStats) {
        for counter in Counter::ALL {
            let (family, labels) = counter.series();
            self.add(family, shard, labels, stats.counter(*counter));
        }
        for gauge in Gauge::ALL {
            let (family, labels) = gauge.series();
            self.add(family, shard, labels, stats.gauge(*gauge));
        }
        self.add(Family::ShardTicks, shard, &[], stats.ticks());
        stats.each_request(|labels, count| self.add(Family::Requests, shard, &labels, count));
        stats.each_refusal(|reason, count| self.add(Family::Refusals, shard, &[reason], count));
        stats.each_udp_drop(|reason, count| self.add(Family::UdpDrops, shard, &[reason], count));
        stats.each_turn_error(|code, count| self.add(Family::TurnRequests, shard, &[code], count));
        stats.each_turn_refusal(|reason, count| self.add(Family::TurnRefusals, shard, &[reason], count));
        stats.each_punch_refusal(|reason, count| self.add(Family::PunchRefusals, shard, &[reason], count));
        stats.each_origin(|channel, origin, stats| {
            self.add(Family::UpstreamAttempts, shard, &[channel, origin], stats.attempts());
            self.add(Family::UpstreamBytes, shard, &[channel, origin], stats.bytes());
            for kind in UpstreamError::ALL {
                self.add(Family::UpstreamErrors, shard, &[channel, origin, kind.label()], stats.errors(*kind));
            }
        });
    }

    fn process(&mut self, process: &Process) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let values = [
            (Family::ProcessCpu, Some(micros(process.cpu))),
            (Family::ProcessFds, process.open_fds),
            (Family::ProcessMaxFds, process.max_fds),
            (Family::ProcessRss, process.resident_bytes),
            (Family::ProcessStart, process.start.map(micros)),
        ];
        for (family, value) in values {
            if let Some(value) = value {
                self.add(family, "", &[], value);
            }
        }
    }

    fn finish(self, shards: &[Arc<ShardStats>]) -> Vec<proto::MetricFamily> {
        let mut series: HashMap<usize, Vec<proto::Metric>> = HashMap::new();
        for ((family, labels), value) in self.sums {
            let declared = Family::ALL.get(family).map(|family| family.metric());
            let Some(declared) = declared else { continue };
            let mut metric = proto::Metric::from_label(pairs(declared, &labels));
            let value = declared.unit.export(value);
            if declared.kind == Type::Counter {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            series.entry(family).or_default().push(metric);
        }
        let latency = |pick: fn(&ShardStats) -> &[Histogram; LATENCY_LABELS.len()], family: Family| {
            let fold = |(index, label): (usize, &&str)| {
                let mut total = Folded::default();
                shards.iter().filter_map(|shard| pick(shard).get(index)).for_each(|one| one.fold(&mut total));
                let mut metric = proto::Metric::from_label(pairs(family.metric(), &[(*label).to_owned()]));
                metric.set_histogram(histogram(&total));
                metric
            };
            LATENCY_LABELS.iter().enumerate().map(fold).collect()
        };
        let whole = latency(|stats| &stats.request_time, Family::RequestSeconds);
        series.insert(Family::RequestSeconds as usize, whole);
        let first = latency(|stats| &stats.first_byte_time, Family::FirstByteSeconds);
        series.insert(Family::FirstByteSeconds as usize, first);

        let family = |family: &Family| {
            let declared = family.metric();
            let mut exported = proto::MetricFamily::default();
            exported.set_name(declared.name.to_owned());
            exported.set_help(declared.help.to_owned());
            exported.set_field_type(match declared.kind {
                Type::Counter => proto::MetricType::COUNTER,
                Type::Gauge => proto::MetricType::GAUGE,
                Type::Histogram => proto::MetricType::HISTOGRAM,
            });
            exported.set_metric(series.remove(&(*family as usize)).unwrap_or_default());
            exported
        };
        Family::ALL.iter().map(family).collect()
    }
}

fn pairs(declared: &Metric, values: &[String]) -> Vec<proto::LabelPair> {
    let pair = |(name, value): (&&str, &String)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value.clone());
        pair
    };
    declared.labels.iter().zip(values).map(pair).collect()
}

fn histogram(total: &Folded) -> proto::Histogram {
    let seconds = |micros: u64| micros as f64 / 1e6;
    let mut below = 0;
    let buckets = total.counts.iter().take(histogram::BUCKETS).enumerate().map(|(index, count)| {
        below += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_cumulative_count(below);
        bucket.set_upper_bound(seconds(histogram::bound_us(index)));
        bucket
    });
    let mut exported = proto::Histogram::default();
    exported.set_bucket(buckets.collect());
    exported.set_sample_count(total.counts.iter().sum());
    exported.set_sample_sum(seconds(total.sum_us));
    exported
}

#[cfg(test)]
mod tests;
