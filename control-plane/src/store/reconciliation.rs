//! Imported logs, and the figures that are compared with one another.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_report::logs::Measure;

use super::engine::{Row, Tx, Value, values};
use super::{Store, StoreError};
use crate::recon::compare::Figures;
use crate::recon::import::{ImportReport, Imported, Key, Sums};
use crate::recon::{Pair, Provider, Settings};

/// Most figures of one question: channels times hours.
pub const MAX_FIGURES: usize = 100_000;
/// Sessions of a channel and hour that are told apart; more are one.
const MAX_JOINED: usize = 500_000;
/// Bytes of a hash of a line.
const HASH: usize = 8;

/// Lines of an hour that were counted: in how many imports, and their hashes.
#[derive(Debug, Default)]
pub struct Seen {
    /// Imports.
    pub parts: u64,
    /// Hashes.
    pub hashes: HashSet<u64>,
}

/// What became of an import.
#[derive(Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is counted.
    New,
    /// The same bytes had been imported; the answer of then.
    Before(Box<ImportReport>),
    /// Another import of the CDN has counted lines of its hours meanwhile: nothing is stored.
    Raced,
}

/// Which figures are asked for.
#[derive(Debug, Clone, Default)]
pub struct FiguresQuery {
    /// First Unix hour.
    pub from_hour: u64,
    /// The Unix hour behind the last.
    pub to_hour: u64,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// Of this channel.
    pub channel: Option<String>,
}

impl Store {
    /// CDNs, by id.
    pub fn recon_providers(&self) -> Result<Vec<Provider>, StoreError> {
        self.read(|tx| {
            let rows = tx.query("SELECT document FROM recon_providers ORDER BY id", &[])?;
            rows.iter().map(|row| self.document(row, 0)).collect()
        })
    }

    /// One CDN.
    pub fn recon_provider(&self, id: &str) -> Result<Option<Provider>, StoreError> {
        self.read(|tx| {
            let row = tx.query_one("SELECT document FROM recon_providers WHERE id = $1", &values![id])?;
            row.map(|row| self.document(&row, 0)).transpose()
        })
    }

    /// Writes a CDN down; false: there are `limit` others already.
    pub fn recon_put_provider(&self, provider: &Provider, limit: u64) -> Result<bool, StoreError> {
        self.write(|tx| {
            let others = tx.query_one("SELECT count(*) FROM recon_providers WHERE id <> $1", &values![&provider.id])?;
            if others.map_or(Ok(0), |row| row.get::<u64>(0))? >= limit {
                return Ok(false);
            }
            tx.execute(
                "INSERT INTO recon_providers (id, document) VALUES ($1, $2)
                 ON CONFLICT (id) DO UPDATE SET document = excluded.document",
                &values![&provider.id, self.text(provider)?],
            )?;
            Ok(true)
        })
    }

    /// Forgets a CDN; what was imported stays. False: there was none.
    pub fn recon_delete_provider(&self, id: &str) -> Result<bool, StoreError> {
        self.write(|tx| Ok(tx.execute("DELETE FROM recon_providers WHERE id = $1", &values![id])? > 0))
    }

    /// A tenant's settings, or those that hold without any.
    pub fn recon_settings(&self, tenant: &str) -> Result<Settings, StoreError> {
        self.read(|tx| {
            let row = tx.query_one("SELECT document FROM recon_settings WHERE tenant = $1", &values![tenant])?;
            row.map_or(Ok(Settings::default()), |row| self.document(&row, 0))
        })
    }

    /// Every tenant's settings, where there are any.
    pub fn recon_all_settings(&self) -> Result<HashMap<String, Settings>, StoreError> {
        self.read(|tx| {
            let rows = tx.query("SELECT tenant, document FROM recon_settings", &[])?;
            rows.iter().map(|row| Ok((row.get(0)?, self.document(row, 1)?))).collect()
        })
    }

    /// Writes a tenant's settings down.
    pub fn recon_set(&self, tenant: &str, settings: &Settings) -> Result<(), StoreError> {
        self.write(|tx| {
            tx.execute(
                "INSERT INTO recon_settings (tenant, document) VALUES ($1, $2)
                 ON CONFLICT (tenant) DO UPDATE SET document = excluded.document",
                &values![tenant, self.text(settings)?],
            )
            .map(|_| ())
        })
    }

    /// Lines of a CDN's hour that were counted.
    pub fn recon_seen(&self, provider: &str, hour: u64) -> Result<Seen, StoreError> {
        self.read(|tx| {
            let mut seen = Seen::default();
            let sql = "SELECT hashes FROM recon_seen WHERE provider = $1 AND hour = $2";
            tx.each(sql, &values![provider, hour], |row| {
                seen.parts += 1;
                let bytes: Vec<u8> = row.get(0)?;
                seen.hashes.extend(bytes.as_chunks::<HASH>().0.iter().map(|hash| u64::from_le_bytes(*hash)));
                Ok::<_, StoreError>(())
            })?;
            Ok(seen)
        })
    }

    /// Stores an import whole, or not at all.
    pub fn recon_import(&self, imported: &Imported) -> Result<Stored, StoreError> {
        self.write(|tx| {
            let (provider, digest) = (&imported.report.provider, &imported.report.digest);
            let sql = "SELECT document FROM recon_imports WHERE provider = $1 AND digest = $2";
            if let Some(row) = tx.query_one(sql, &values![provider, digest])? {
                let report: ImportReport = self.document(&row, 0)?;
                return Ok(Stored::Before(Box::new(ImportReport { repeated: true, ..report })));
            }
            for (hour, parts) in &imported.before {
                let sql = "SELECT count(*) FROM recon_seen WHERE provider = $1 AND hour = $2";
                let now = tx.query_one(sql, &values![provider, *hour])?;
                if now.map_or(Ok(0), |row| row.get::<u64>(0))? != *parts {
                    return Ok(Stored::Raced);
                }
            }
            tx.execute(
                "INSERT INTO recon_imports (provider, digest, imported_ms, document) VALUES ($1, $2, $3, $4)",
                &values![provider, digest, imported.report.imported_ms, self.text(&imported.report)?],
            )?;
            let row = |(key, sums): (&Key, &Sums)| {
                let asker = if key.edge { "edge" } else { "viewer" };
                values![
                    key.hour,
                    provider,
                    &key.tenant,
                    &key.channel,
                    asker,
                    measure_name(imported.measure),
                    &key.session,
                    digest,
                    sums.requests,
                    sums.bytes,
                    sums.hits
                ]
            };
            let rows: Vec<Value> = imported.rows.iter().flat_map(row).collect();
            tx.batch(
                "INSERT INTO recon_log
                 (hour, provider, tenant, channel, asker, measure, session, digest, requests, bytes, hits) VALUES",
                11,
                "",
                &rows,
            )?;
            for (hour, hashes) in &imported.seen {
                let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect();
                tx.execute(
                    "INSERT INTO recon_seen (provider, hour, digest, hashes) VALUES ($1, $2, $3, $4)",
                    &values![provider, *hour, digest, bytes],
                )?;
            }
            Ok(Stored::New)
        })
    }

    /// Imports, the newest first.
    pub fn recon_imports(&self, provider: Option<&str>, limit: u32) -> Result<Vec<ImportReport>, StoreError> {
        self.read(|tx| {
            let rows = match provider {
                Some(provider) => tx.query(
                    "SELECT document FROM recon_imports WHERE provider = $1 ORDER BY imported_ms DESC, digest LIMIT $2",
                    &values![provider, limit],
                )?,
                None => tx.query(
                    "SELECT document FROM recon_imports ORDER BY imported_ms DESC, provider, digest LIMIT $1",
                    &values![limit],
                )?,
            };
            rows.iter().map(|row| self.document(row, 0)).collect()
        })
    }

    /// Takes an import back. False: there was none.
    pub fn recon_delete_import(&self, provider: &str, digest: &str) -> Result<bool, StoreError> {
        self.write(|tx| {
            let key = values![provider, digest];
            tx.execute("DELETE FROM recon_log WHERE provider = $1 AND digest = $2", &key)?;
            tx.execute("DELETE FROM recon_seen WHERE provider = $1 AND digest = $2", &key)?;
            Ok(tx.execute("DELETE FROM recon_imports WHERE provider = $1 AND digest = $2", &key)? > 0)
        })
    }

    /// Forgets hashes of lines of hours before this one: CDNs keep logs for a month, and none of an older one comes again.
    pub fn recon_forget(&self, hour: u64) -> Result<u64, StoreError> {
        self.write(|tx| tx.execute("DELETE FROM recon_seen WHERE hour < $1", &values![hour]))
    }

    /// All figures that can be compared. `upstream` and `direct` are those of hours of which a log of the CDN was imported, `edge` those
    /// of which SDKs reported.
    pub fn recon_figures(&self, query: &FiguresQuery) -> Result<Vec<Figures>, StoreError> {
        self.report(|tx| {
            let providers = tx.query("SELECT document FROM recon_providers", &[])?;
            let providers: Vec<Provider> =
                providers.iter().map(|row| self.document(row, 0)).collect::<Result<_, _>>()?;
            let mut figures = Join::default();
            logs(tx, query, &mut figures)?;
            upstream(tx, query, &providers, &mut figures)?;
            direct(tx, query, &mut figures)?;
            edge(tx, query, &mut figures)?;
            Ok(figures.finish())
        })
    }

    /// Delivered and counted bytes of each session of a channel and hour.
    pub fn recon_sessions(
        &self,
        pair: Pair,
        provider: &str,
        channel: &str,
        hour: u64,
    ) -> Result<HashMap<String, [u64; 2]>, StoreError> {
        self.report(|tx| {
            let mut sides: HashMap<String, [u64; 2]> = HashMap::new();
            let mut add = |side: usize, row: &Row| {
                let (session, bytes): (String, u64) = (row.get(0)?, row.get(1)?);
                let known = sides.len() < MAX_JOINED || sides.contains_key(&session);
                let sum = sides.entry(if known { session } else { String::new() }).or_default();
                if let Some(sum) = sum.get_mut(side) {
                    *sum = sum.saturating_add(bytes);
                }
                Ok::<_, StoreError>(())
            };
            let [delivered, counted] = match pair {
                Pair::Edge => [LEDGER_SESSIONS, EDGE_SESSIONS],
                Pair::Direct => [LOG_SESSIONS, DIRECT_SESSIONS],
                // The ledger does not know for whom a node asks a CDN.
                Pair::Upstream => [LOG_SESSIONS, ""],
            };
            let asker = if pair == Pair::Upstream { "edge" } else { "viewer" };
            let of_log = values![channel, hour, provider, asker];
            let of_ours = values![channel, hour];
            let delivered_values = if pair == Pair::Edge { &of_ours[..] } else { &of_log };
            tx.each(delivered, delivered_values, |row| add(0, &row))?;
            if !counted.is_empty() {
                tx.each(counted, &of_ours, |row| add(1, &row))?;
            }
            Ok(sides)
        })
    }

    fn document<T: DeserializeOwned>(&self, row: &Row, at: usize) -> Result<T, StoreError> {
        let text: String = row.get(at)?;
        serde_json::from_str(&text).map_err(|error| self.corrupt(format!("a document of reconciliation: {error}")))
    }

    fn text<T: Serialize>(&self, document: &T) -> Result<String, StoreError> {
        serde_json::to_string(document).map_err(|error| self.corrupt(format!("a document of reconciliation: {error}")))
    }
}

const LOG_SESSIONS: &str = "SELECT session, sum(bytes) FROM recon_log
     WHERE channel = $1 AND hour = $2 AND provider = $3 AND asker = $4 GROUP BY session";
const LEDGER_SESSIONS: &str = "SELECT session, sum(body_bytes) FROM ledger
     WHERE channel = $1 AND hour = $2 AND kind = 'client' GROUP BY session";
const EDGE_SESSIONS: &str =
    "SELECT session, sum(edge_bytes) FROM report_usage WHERE channel = $1 AND hour = $2 GROUP BY session";
const DIRECT_SESSIONS: &str =
    "SELECT session, sum(direct_bytes) FROM report_usage WHERE channel = $1 AND hour = $2 GROUP BY session";

/// Pair, hour, tenant, channel, provider.
type Place = (Pair, u64, String, String, String);

/// Figures that meet.
#[derive(Default)]
struct Join {
    sides: BTreeMap<Place, [u64; 2]>,
    /// Hours of which a log of the provider was imported, and of what its bytes are.
    covered: HashMap<(String, u64), Measure>,
}

impl Join {
    fn add(&mut self, place: Place, side: usize, bytes: u64) {
        if self.sides.len() >= MAX_FIGURES && !self.sides.contains_key(&place) {
            return;
        }
        if let Some(sum) = self.sides.entry(place).or_default().get_mut(side) {
            *sum = sum.saturating_add(bytes);
        }
    }

    fn finish(self) -> Vec<Figures> {
        let figures = |((pair, hour, tenant, channel, provider), [delivered, counted]): (Place, [u64; 2])| Figures {
            pair,
            hour,
            tenant,
            channel,
            provider,
            delivered,
            counted,
        };
        self.sides.into_iter().map(figures).collect()
    }
}

/// `WHERE` of a question.
fn within(query: &FiguresQuery) -> (String, Vec<Value>) {
    let mut sql = "hour >= $1 AND hour < $2".to_owned();
    let mut values = values![query.from_hour, query.to_hour].to_vec();
    for (column, wanted) in [("tenant", &query.tenant), ("channel", &query.channel)] {
        if let Some(wanted) = wanted {
            values.push(wanted.into());
            sql.push_str(&format!(" AND {column} = ${}", values.len()));
        }
    }
    (sql, values)
}

fn logs(tx: &mut Tx<'_>, query: &FiguresQuery, figures: &mut Join) -> Result<(), StoreError> {
    let (within, values) = within(query);
    let sql = format!(
        "SELECT hour, provider, tenant, channel, asker, sum(bytes) FROM recon_log
         WHERE {within} GROUP BY hour, provider, tenant, channel, asker"
    );
    tx.each(&sql, &values, |row| {
        let (hour, provider): (u64, String) = (row.get(0)?, row.get(1)?);
        let pair = if row.get::<String>(4)? == "edge" { Pair::Upstream } else { Pair::Direct };
        figures.add((pair, hour, row.get(2)?, row.get(3)?, provider), 0, row.get(5)?);
        Ok::<_, StoreError>(())
    })?;
    // Whatever the channel: a log that has nothing of one says that there was nothing.
    let sql =
        "SELECT hour, provider, max(measure) FROM recon_log WHERE hour >= $1 AND hour < $2 GROUP BY hour, provider";
    tx.each(sql, &values![query.from_hour, query.to_hour], |row| {
        let measure = if row.get::<String>(2)? == "wire" { Measure::Wire } else { Measure::Body };
        figures.covered.insert((row.get(1)?, row.get(0)?), measure);
        Ok(())
    })
}

fn upstream(
    tx: &mut Tx<'_>,
    query: &FiguresQuery,
    providers: &[Provider],
    figures: &mut Join,
) -> Result<(), StoreError> {
    let (within, values) = within(query);
    let sql = format!(
        "SELECT hour, tenant, channel, origin, sum(body_bytes), sum(wire_bytes) FROM ledger
         WHERE {within} AND kind = 'upstream' GROUP BY hour, tenant, channel, origin"
    );
    tx.each(&sql, &values, |row| {
        let (hour, origin): (u64, String) = (row.get(0)?, row.get(3)?);
        for provider in providers.iter().filter(|provider| provider.origins.contains(&origin)) {
            // Like with like: a log that counts heads is held against bytes with heads.
            let bytes = match figures.covered.get(&(provider.id.clone(), hour)) {
                None => continue,
                Some(Measure::Body) => row.get(4)?,
                Some(Measure::Wire) => row.get(5)?,
            };
            figures.add((Pair::Upstream, hour, row.get(1)?, row.get(2)?, provider.id.clone()), 1, bytes);
        }
        Ok(())
    })
}

fn direct(tx: &mut Tx<'_>, query: &FiguresQuery, figures: &mut Join) -> Result<(), StoreError> {
    let (within, values) = within(query);
    let sql = format!(
        "SELECT hour, tenant, channel, provider, sum(direct_bytes) FROM report_providers
         WHERE {within} GROUP BY hour, tenant, channel, provider"
    );
    tx.each(&sql, &values, |row| {
        let (hour, provider): (u64, String) = (row.get(0)?, row.get(3)?);
        if figures.covered.contains_key(&(provider.clone(), hour)) {
            figures.add((Pair::Direct, hour, row.get(1)?, row.get(2)?, provider), 1, row.get(4)?);
        }
        Ok(())
    })
}

fn edge(tx: &mut Tx<'_>, query: &FiguresQuery, figures: &mut Join) -> Result<(), StoreError> {
    let (within, values) = within(query);
    let sql = format!(
        "SELECT hour, tenant, channel, sum(edge_bytes) FROM report_usage WHERE {within} GROUP BY hour, tenant, channel"
    );
    let place = |row: &Row| Ok::<_, StoreError>((Pair::Edge, row.get(0)?, row.get(1)?, row.get(2)?, String::new()));
    tx.each(&sql, &values, |row| {
        figures.add(place(&row)?, 1, row.get(3)?);
        Ok::<_, StoreError>(())
    })?;
    let sql = format!(
        "SELECT hour, tenant, channel, sum(body_bytes) FROM ledger
         WHERE {within} AND kind = 'client' GROUP BY hour, tenant, channel"
    );
    tx.each(&sql, &values, |row| {
        // Of a channel whose players report nothing there is nothing to compare.
        let place = place(&row)?;
        if figures.sides.contains_key(&place) {
            figures.add(place, 0, row.get(3)?);
        }
        Ok(())
    })
}

fn measure_name(measure: Measure) -> &'static str {
    match measure {
        Measure::Body => "body",
        Measure::Wire => "wire",
    }
}
