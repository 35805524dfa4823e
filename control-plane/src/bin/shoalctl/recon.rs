//! Reconciliation: CDNs' logs in, comparisons out.

use std::fs::File;
use std::path::Path;

use serde_json::{Value, json};
use shoal_control::api::{ImportList, ProviderList, ReconciliationReport, SessionReport};
use shoal_control::recon::import::ImportReport;
use shoal_control::recon::{Provider, Settings};
use ureq::http::Method;

use crate::arguments::{Import, Recon};
use crate::client::{Failure, encode};
use crate::run::{Run, age};
use crate::table::{Align, Table};

const BASE: &str = "/reconciliation";

impl Run {
    pub(crate) fn recon(&self, command: &Recon) -> Result<(), Failure> {
        match command {
            Recon::Import(import) => self.import(import),
            Recon::Imports { provider } => {
                let query: Vec<(&str, &str)> =
                    provider.iter().map(|provider| ("provider", provider.as_str())).collect();
                let list: ImportList = self.client.get(&format!("{BASE}/logs"), &query)?;
                self.print(&list, || imports(&list))
            }
            Recon::Forget { provider, digest } => {
                let path = format!("{BASE}/logs/{}/{}", encode(provider), encode(digest));
                let gone: Value = self.client.call(Method::DELETE, &path, None)?;
                self.print(&gone, || "the import does not count any more\n".to_owned())
            }
            Recon::Provider { id, origins, edges, session } => {
                let body = json!({"origins": origins, "edges": edges, "session_parameter": session});
                let path = format!("{BASE}/providers/{}", encode(id));
                let provider: Provider = self.client.call(Method::PUT, &path, Some(&body))?;
                self.print(&provider, || format!("provider {} is set\n", provider.id))
            }
            Recon::Providers => {
                let list: ProviderList = self.client.get(&format!("{BASE}/providers"), &[])?;
                self.print(&list, || providers(&list))
            }
            Recon::Limit { tenant, percent, min_bytes } => self.limit(tenant, *percent, *min_bytes),
            Recon::Show { channel, tenant, pair, from, to, alerts } => {
                let [from, to] = [from, to].map(|time| time.map(|time| time.to_string()));
                let mut query: Vec<(&str, &str)> = Vec::new();
                let given = [("channel", channel), ("tenant", tenant), ("pair", pair), ("from", &from), ("to", &to)];
                query.extend(given.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))));
                if *alerts {
                    query.push(("alerts", "true"));
                }
                let report: ReconciliationReport = self.client.get(BASE, &query)?;
                self.print(&report, || comparisons(&report))
            }
            Recon::Sessions { channel, hour, pair, provider, limit } => {
                let limit = limit.to_string();
                let mut query = vec![("pair", pair.as_str()), ("limit", limit.as_str())];
                query.extend(provider.iter().map(|provider| ("provider", provider.as_str())));
                let path = format!("{BASE}/{}/{hour}/sessions", encode(channel));
                let report: SessionReport = self.client.get(&path, &query)?;
                self.print(&report, || sessions(&report))
            }
        }
    }

    fn import(&self, import: &Import) -> Result<(), Failure> {
        let mut path = format!("{BASE}/logs?provider={}&format={}", encode(&import.provider), encode(&import.format));
        let more = [
            ("log_format", &import.log_format),
            ("host", &import.host),
            ("zone", &import.zone),
            ("bytes", &import.bytes),
        ];
        for (name, value) in more.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
            path.push_str(&format!("&{name}={}", encode(value)));
        }
        let report: ImportReport = if import.file == Path::new("-") {
            self.client.upload(&path, &mut std::io::stdin().lock())?
        } else {
            let name = import.file.display();
            let mut file = File::open(&import.file).map_err(|error| Failure::Usage(format!("{name}: {error}")))?;
            self.client.upload(&path, &mut file)?
        };
        self.print(&report, || imported(&report))
    }

    fn limit(&self, tenant: &str, percent: Option<f64>, min_bytes: Option<u64>) -> Result<(), Failure> {
        let path = format!("{BASE}/settings/{}", encode(tenant));
        let mut settings: Settings = self.client.get(&path, &[])?;
        if percent.is_some() || min_bytes.is_some() {
            settings.alert_percent = percent.unwrap_or(settings.alert_percent);
            settings.min_bytes = min_bytes.unwrap_or(settings.min_bytes);
            let body = json!({"alert_percent": settings.alert_percent, "min_bytes": settings.min_bytes});
            settings = self.client.call(Method::PUT, &path, Some(&body))?;
        }
        self.print(&settings, || format!("beyond {} %, from {} bytes on\n", settings.alert_percent, settings.min_bytes))
    }
}

fn imported(report: &ImportReport) -> String {
    let mut text = String::new();
    if report.repeated {
        text.push_str("these very bytes were imported before; nothing is counted twice\n");
    }
    text.push_str(&format!(
        "{} of {} lines counted, {} bytes; {} counted before, {} of no channel, {} not of the format\nimport {}\n",
        report.counted, report.lines, report.bytes, report.counted_before, report.unmapped, report.bad, report.digest
    ));
    for bad in &report.first_bad {
        text.push_str(&format!("line {}: {}: {}\n", bad.line, bad.reason, bad.text));
    }
    text
}

fn imports(list: &ImportList) -> String {
    let mut table = Table::new(&[
        ("PROVIDER", Align::Left),
        ("IMPORTED", Align::Left),
        ("LINES", Align::Right),
        ("COUNTED", Align::Right),
        ("BYTES", Align::Right),
        ("IMPORT", Align::Left),
    ]);
    for one in &list.items {
        table.row(vec![
            one.provider.clone(),
            age(one.imported_ms),
            one.lines.to_string(),
            one.counted.to_string(),
            one.bytes.to_string(),
            one.digest.clone(),
        ]);
    }
    table.to_string()
}

fn providers(list: &ProviderList) -> String {
    let mut table = Table::new(&[("PROVIDER", Align::Left), ("ORIGINS", Align::Left), ("EDGES", Align::Left)]);
    for one in &list.items {
        let edges: Vec<String> = one.edges.iter().map(ToString::to_string).collect();
        table.row(vec![one.id.clone(), one.origins.join(","), edges.join(",")]);
    }
    table.to_string()
}

fn comparisons(report: &ReconciliationReport) -> String {
    let mut table = Table::new(&[
        ("HOUR", Align::Right),
        ("PAIR", Align::Left),
        ("CHANNEL", Align::Left),
        ("PROVIDER", Align::Left),
        ("DELIVERED", Align::Right),
        ("COUNTED", Align::Right),
        ("DIFFERENCE", Align::Right),
        ("", Align::Left),
    ]);
    for one in &report.items {
        table.row(vec![
            one.hour.to_string(),
            one.pair.name().to_owned(),
            one.channel.clone(),
            one.provider.clone(),
            one.delivered_bytes.to_string(),
            one.counted_bytes.to_string(),
            format!("{:+.2}%", one.difference_percent),
            if one.alert { "ALERT" } else { "" }.to_owned(),
        ]);
    }
    let more = if report.truncated { "there are more; ask for less time or one channel\n" } else { "" };
    format!("{table}{more}")
}

fn sessions(report: &SessionReport) -> String {
    let mut table = Table::new(&[
        ("SESSION", Align::Left),
        ("DELIVERED", Align::Right),
        ("COUNTED", Align::Right),
        ("DIFFERENCE", Align::Right),
        ("SHARE", Align::Right),
    ]);
    for one in &report.items {
        table.row(vec![
            if one.session.is_empty() { "(none)".to_owned() } else { one.session.clone() },
            one.delivered_bytes.to_string(),
            one.counted_bytes.to_string(),
            format!("{:+}", one.difference_bytes),
            format!("{:.1}%", one.share_percent),
        ]);
    }
    table.to_string()
}
