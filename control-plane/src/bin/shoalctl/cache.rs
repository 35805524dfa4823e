//! What nodes say of their caches, for people.

use std::fmt::Write as _;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shoal_control::api::{CacheReport, NodeAnswer};
use shoal_link::inspect::{CacheStat, Explanation, ObjectStat, TopReport, VariantStat};
use shoal_link::prefetch::{PrefetchStat, PrefetchState};
use ureq::http::Method;

use crate::arguments::{Cache, Prefetch};
use crate::client::Failure;
use crate::input;
use crate::run::{Run, name_nodes};
use crate::table::{Align, Table};

impl Run {
    pub(crate) fn cache(&self, command: &Cache) -> Result<(), Failure> {
        match command {
            Cache::Prefetch(prefetch) => self.prefetch(prefetch),
            Cache::Prefetches { nodes } => self.ask("/prefetch", Vec::new(), &nodes.join(","), prefetches),
            Cache::Cancel { node, order } => {
                let path = format!("/nodes/{}/prefetch/{order}", crate::client::encode(node));
                self.report(&self.client.call(Method::DELETE, &path, None)?, prefetches)
            }
            Cache::Top { by, channel, limit, nodes } => {
                let (limit, nodes) = (limit.to_string(), nodes.join(","));
                let mut query = vec![("by", by.as_str()), ("limit", limit.as_str())];
                query.extend(channel.as_deref().map(|channel| ("channel", channel)));
                self.ask("/cache/top", query, &nodes, top)
            }
            Cache::Stat { url: None, nodes } => self.ask("/cache/stat", Vec::new(), &nodes.join(","), stat),
            Cache::Stat { url: Some(url), nodes } => {
                self.ask("/cache/object", vec![("url", url.as_str())], &nodes.join(","), object)
            }
            Cache::Explain { url, method, headers, client, nodes } => {
                let body = json!({ "url": url, "method": method, "headers": headers, "client": client });
                let nodes: Vec<String> = nodes.iter().map(|node| crate::client::encode(node)).collect();
                let path = match nodes.is_empty() {
                    true => "/cache/explain".to_owned(),
                    false => format!("/cache/explain?nodes={}", nodes.join(",")),
                };
                self.report(&self.client.call(Method::POST, &path, Some(&body))?, explanation)
            }
        }
    }

    pub(crate) fn prefetch(&self, prefetch: &Prefetch) -> Result<(), Failure> {
        let mut items: Vec<Value> = prefetch.paths.iter().map(|path| json!({ "path": path })).collect();
        if let Some(file) = &prefetch.file {
            items.extend(input::items(&input::text(file)?)?);
        }
        for item in &mut items {
            // A leading slash would make it a viewer's URL.
            let path = item["path"].as_str().unwrap_or_default().trim_start_matches('/').to_owned();
            item["path"] = path.into();
        }
        let mut body = json!({
            "channel": prefetch.channel,
            "items": items,
            "bytes_per_second": prefetch.rate,
            "bytes_max": prefetch.bytes_max,
        });
        name_nodes(&mut body, &prefetch.nodes);
        let path = format!("/prefetch?wait_ms={}", prefetch.wait * 1000);
        let report: CacheReport<PrefetchStat> = self.client.call(Method::POST, &path, Some(&body))?;
        self.report(&report, |stat| prefetches(&vec![stat.clone()]))
    }

    fn ask<'a, T: DeserializeOwned + Serialize>(
        &self,
        path: &str,
        mut query: Vec<(&'a str, &'a str)>,
        nodes: &'a str,
        show: fn(&T) -> String,
    ) -> Result<(), Failure> {
        if !nodes.is_empty() {
            query.push(("nodes", nodes));
        }
        self.report(&self.client.get(path, &query)?, show)
    }

    fn report<T: Serialize>(&self, report: &CacheReport<T>, show: fn(&T) -> String) -> Result<(), Failure> {
        self.print(report, || {
            if report.results.is_empty() {
                return "no node is connected\n".to_owned();
            }
            let mut text = String::new();
            for (at, NodeAnswer { node, answer, error }) in report.results.iter().enumerate() {
                let gap = if at == 0 { "" } else { "\n" };
                let shown = match answer {
                    Some(answer) => show(answer),
                    None => format!("{}\n", error.as_deref().unwrap_or("no answer")),
                };
                let _ = write!(text, "{gap}node {node}\n{shown}");
            }
            text
        })?;
        if report.ok { Ok(()) } else { Err(Failure::Nodes) }
    }
}

fn prefetches(list: &Vec<PrefetchStat>) -> String {
    let mut table = Table::new(&[
        ("ORDER", Align::Right),
        ("CHANNEL", Align::Left),
        ("STATE", Align::Left),
        ("ITEMS", Align::Right),
        ("FETCHED", Align::Right),
        ("FAILED", Align::Right),
        ("BYTES", Align::Right),
    ]);
    for stat in list {
        let state = match stat.state {
            PrefetchState::Waiting => "waiting",
            PrefetchState::Running => "running",
            PrefetchState::Done => "done",
            PrefetchState::Stopped => "stopped",
        };
        table.row(vec![
            stat.id.to_string(),
            stat.channel.clone(),
            state.to_owned(),
            stat.items.to_string(),
            stat.fetched.to_string(),
            stat.failed.to_string(),
            size(stat.bytes),
        ]);
    }
    let errors: String = list.iter().flat_map(|stat| &stat.errors).map(|error| format!("  {error}\n")).collect();
    format!("{table}{errors}")
}

fn top(report: &TopReport) -> String {
    let mut table = Table::new(&[
        ("REQUESTS", Align::Right),
        ("SENT", Align::Right),
        ("IN RAM", Align::Right),
        ("CHANNEL", Align::Left),
        ("PATH", Align::Left),
    ]);
    for object in &report.objects {
        table.row(vec![
            object.requests.to_string(),
            size(object.bytes),
            size(object.ram_bytes),
            object.channel.clone(),
            object.path.clone(),
        ]);
    }
    format!("of the last {} s\n{table}", report.seconds)
}

fn stat(stat: &CacheStat) -> String {
    let mut rows = Rows::default();
    rows.add("objects", stat.objects);
    let of = |bytes, all| format!("{} of {}", size(bytes), size(all));
    rows.add("RAM", format!("{} in {} blocks", of(stat.ram_bytes, stat.ram_capacity_bytes), stat.ram_blocks));
    match stat.disk_capacity_bytes {
        0 => rows.add("disk", "none"),
        bytes => rows.add("disk", format!("{} blocks in {}", stat.disk_blocks, size(bytes))),
    }
    rows.add("evicted", stat.evicted_objects);
    rows.add("purged", stat.purged_objects);
    let ratio = stat.hit_permille.map(|permille| format!("{}.{} %", permille / 10, permille % 10));
    rows.add("hit ratio", ratio.unwrap_or_else(|| "no requests yet".to_owned()));
    for requests in stat.requests.iter().filter(|requests| requests.requests > 0) {
        rows.add(&format!("  {}", requests.cache), requests.requests);
    }
    rows.add("to viewers", size(stat.viewer_bytes));
    rows.add("from sources", size(stat.origin_bytes));
    rows.add("counted for", format!("{} s", stat.uptime_s));
    let mut table = Table::new(&[
        ("SHARD", Align::Right),
        ("OBJECTS", Align::Right),
        ("IN RAM", Align::Right),
        ("OF OTHERS", Align::Right),
        ("ON DISK", Align::Right),
        ("FETCHES", Align::Right),
    ]);
    for (at, shard) in stat.shards.iter().enumerate() {
        table.row(vec![
            at.to_string(),
            shard.objects.to_string(),
            size(shard.ram_bytes),
            size(shard.front_bytes),
            shard.disk_blocks.to_string(),
            shard.flights.to_string(),
        ]);
    }
    format!("{}{table}", rows.0)
}

fn object(stat: &ObjectStat) -> String {
    let mut rows = Rows::default();
    rows.add("channel", &stat.channel);
    rows.add("path", &stat.path);
    rows.add("shard", stat.shard);
    if stat.fetching > 0 {
        rows.add("fetching", stat.fetching);
    }
    if stat.pass_ms > 0 {
        rows.add("not shared", format!("for {} ms more", stat.pass_ms));
    }
    if stat.variants.is_empty() && stat.on_disk.is_none() {
        rows.add("kept", "nothing");
    }
    for variant in &stat.variants {
        variant_rows(&mut rows, "in RAM", variant);
    }
    if let Some(variant) = &stat.on_disk {
        variant_rows(&mut rows, "on disk", variant);
    }
    rows.0
}

fn variant_rows(rows: &mut Rows, place: &str, variant: &VariantStat) {
    let total = variant.total_bytes.map_or_else(|| "unknown length".to_owned(), |bytes| format!("{bytes} bytes"));
    rows.add(place, format!("{} of {total}", variant.status));
    for line in &variant.selected_by {
        rows.add("  chosen by", line);
    }
    for (name, value) in
        [("  type", &variant.content_type), ("  etag", &variant.etag), ("  cache-control", &variant.cache_control)]
    {
        if let Some(value) = value {
            rows.add(name, value);
        }
    }
    if !variant.tags.is_empty() {
        rows.add("  tags", variant.tags.join(" "));
    }
    rows.add("  age", format!("{} s", variant.age_s));
    let fresh = match variant.fresh_ms {
        ms @ 1.. => format!("for {ms} ms more, by {}", variant.fresh_by),
        ms => format!("not since {} ms, by {}", -ms, variant.fresh_by),
    };
    rows.add("  fresh", fresh);
    let stale = (variant.stale_while_revalidate_ms, variant.stale_if_error_ms);
    rows.add("  stale", format!("{} ms while asked for, {} ms while sources fail", stale.0, stale.1));
    rows.add(
        "  blocks",
        format!("{} in RAM ({}), {} on disk", variant.ram_blocks, size(variant.ram_bytes), variant.disk_blocks),
    );
    if variant.flights > 0 {
        rows.add("  fetches", variant.flights);
    }
}

fn explanation(explanation: &Explanation) -> String {
    let mut rows = Rows::default();
    for step in &explanation.steps {
        rows.add(&step.what, &step.says);
    }
    for source in &explanation.sources {
        let kind = if source.parent { "parent" } else { "origin" };
        let state = if source.up { "" } else { ", which fails" };
        rows.add("source", format!("{kind} {} {}{state}", source.id, source.url));
    }
    if let Some(stat) = &explanation.object {
        rows.0.push_str(&object(stat));
    }
    let status = explanation.status.map(|status| format!(" with {status}")).unwrap_or_default();
    format!("{}{status}\n{}", explanation.verdict, rows.0)
}

/// Lines of a name and a value.
#[derive(Default)]
struct Rows(String);

impl Rows {
    fn add(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "  {name:<16} {value}");
    }
}

/// Bytes in the largest unit that leaves a whole number of at least two digits, or in bytes.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        10_485_760..10_737_418_240 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_at_least_two_digits() {
        let shown = [0, 10_239, 10_240, 10 << 20, (10 << 30) - 1, 10 << 30].map(size);
        assert_eq!(shown, ["0 B", "10239 B", "10 KiB", "10 MiB", "10239 MiB", "10 GiB"]);
    }
}
