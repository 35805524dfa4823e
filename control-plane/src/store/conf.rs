//! Apps, P2P rules, switches, and the keys of passes.

use shoal_conf::{App, Rule, Switch};

use super::documents::{ChangeError, Document, Record, Table, next_version};
use super::engine::{Row, Tx, values};
use super::{Store, StoreError, now_ms};
use crate::pass::KEY_BYTES;

/// Most things that are switched off at a time.
pub(super) const MAX_SWITCHES: u64 = 100_000;
/// Most documents of parameters that are remembered.
const MAX_PARAMETERS: u64 = 100_000;
/// The setting that each change of apps, rules, switches and pass keys moves.
pub(super) const VERSION: &str = "conf_version";

/// All that conf decides by, as of one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfDocuments {
    /// Moves with each change.
    pub version: u64,
    /// Every app.
    pub apps: Vec<App>,
    /// Every rule.
    pub rules: Vec<Rule>,
    /// What is switched off.
    pub off: Vec<Switch>,
    /// The keys of passes, the newest first.
    pub keys: Vec<PassKey>,
}

/// A key of passes.
#[derive(Clone, PartialEq, Eq)]
pub struct PassKey {
    /// Its number; a later key has a higher one.
    pub number: u32,
    /// Itself.
    pub secret: [u8; KEY_BYTES],
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds at which what it signed has expired; none: it is the newest.
    pub drop_ms: Option<u64>,
}

impl std::fmt::Debug for PassKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PassKey").field("number", &self.number).field("drop_ms", &self.drop_ms).finish_non_exhaustive()
    }
}

macro_rules! documents {
    ($($document:ty, $noun:literal, $table:literal;)*) => {$(
        impl Document for $document {
            const NOUN: &'static str = $noun;

            fn id(&self) -> &str {
                &self.id
            }
        }

        impl Table for $document {
            const TABLE: &'static str = $table;
            const VERSION: &'static str = VERSION;

            fn write(&self, tx: &mut Tx<'_>, record: &Record) -> Result<(), ChangeError> {
                tx.execute(
                    concat!(
                        "INSERT INTO ", $table, " (id, tenant, revision, updated_ms, document) VALUES ($1, $2, $3, $4, $5)
                         ON CONFLICT (id) DO UPDATE SET tenant = $2, revision = $3, updated_ms = $4, document = $5"
                    ),
                    &values![&self.id, &self.tenant, record.revision, record.updated_ms, &record.document],
                )?;
                Ok(())
            }
        }
    )*};
}

documents! {
    App, "app", "apps";
    Rule, "rule", "rules";
}

impl Store {
    /// The version of what [`Store::conf_documents`] gives.
    pub fn conf_version(&self) -> Result<u64, StoreError> {
        self.read(version)
    }

    /// All that conf decides by.
    pub fn conf_documents(&self) -> Result<ConfDocuments, StoreError> {
        let (version, apps, rules, off, keys) = self.view(|tx| {
            let mut documents = |table: &str| -> Result<Vec<String>, StoreError> {
                let rows = tx.query(&format!("SELECT document FROM {table} ORDER BY id"), &[])?;
                rows.iter().map(|row| row.get(0)).collect()
            };
            let (apps, rules) = (documents(App::TABLE)?, documents(Rule::TABLE)?);
            Ok((version(tx)?, apps, rules, switches(tx)?, keys(tx)?))
        })?;
        Ok(ConfDocuments {
            version,
            apps: apps.iter().map(|text| self.parse(text)).collect::<Result<_, _>>()?,
            rules: rules.iter().map(|text| self.parse(text)).collect::<Result<_, _>>()?,
            off,
            keys,
        })
    }

    /// What is switched off.
    pub fn switches(&self) -> Result<Vec<Switch>, StoreError> {
        self.read(switches)
    }

    /// Switches something off, or on again; false: there are too many already.
    pub fn switch(&self, switch: &Switch, on: bool) -> Result<bool, ChangeError> {
        let (channel, asset) = (switch.channel.clone().unwrap_or_default(), switch.asset.clone().unwrap_or_default());
        self.write(|tx| {
            if on {
                let sql = "DELETE FROM switches WHERE tenant = $1 AND channel = $2 AND asset = $3";
                tx.execute(sql, &values![&switch.tenant, &channel, &asset])?;
            } else {
                let count = tx.query_one("SELECT count(*) FROM switches", &[])?;
                if count.map_or(Ok(0), |row| row.get::<u64>(0))? >= MAX_SWITCHES {
                    return Ok(false);
                }
                tx.execute(
                    "INSERT INTO switches (tenant, channel, asset, since_ms) VALUES ($1, $2, $3, $4)
                     ON CONFLICT (tenant, channel, asset) DO NOTHING",
                    &values![&switch.tenant, &channel, &asset, now_ms()],
                )?;
            }
            next_version(tx, VERSION)?;
            Ok(true)
        })
    }

    /// Makes the first key of passes if there is none.
    pub fn ensure_pass_key(&self, secret: &[u8; KEY_BYTES]) -> Result<(), StoreError> {
        self.write(|tx| {
            if tx.query_one("SELECT number FROM pass_keys LIMIT 1", &[])?.is_some() {
                return Ok(());
            }
            // Another instance that starts at the same time makes the same number, and one of them stays.
            tx.execute(
                "INSERT INTO pass_keys (number, secret, created_ms, drop_ms) VALUES (1, $1, $2, NULL)
                 ON CONFLICT (number) DO NOTHING",
                &values![secret.as_slice(), now_ms()],
            )?;
            next_version(tx, VERSION)?;
            Ok(())
        })
    }

    /// Adds a key of passes. Those before it are dropped `overlap_ms` from now, if not earlier already.
    pub fn rotate_pass_keys(&self, secret: &[u8; KEY_BYTES], overlap_ms: u64) -> Result<PassKey, ChangeError> {
        self.write(|tx| {
            // Locks the setting first: two rotations at a time come one after the other.
            next_version(tx, VERSION)?;
            let created_ms = now_ms();
            tx.execute("DELETE FROM pass_keys WHERE drop_ms <= $1", &values![created_ms])?;
            tx.execute("UPDATE pass_keys SET drop_ms = $1 WHERE drop_ms IS NULL", &values![created_ms + overlap_ms])?;
            let newest = tx.query_one("SELECT max(number) FROM pass_keys", &[])?;
            let newest: Option<u32> = newest.map_or(Ok(None), |row| row.get(0))?;
            let number = newest.unwrap_or(0).saturating_add(1);
            tx.execute(
                "INSERT INTO pass_keys (number, secret, created_ms, drop_ms) VALUES ($1, $2, $3, NULL)",
                &values![number, secret.as_slice(), created_ms],
            )?;
            Ok(PassKey { number, secret: *secret, created_ms, drop_ms: None })
        })
    }

    /// Remembers a document of parameters by its digest.
    pub fn remember_parameters(&self, digest: &str, document: &str) -> Result<(), StoreError> {
        self.write(|tx| {
            let count = tx.query_one("SELECT count(*) FROM conf_parameters", &[])?;
            if count.map_or(Ok(0), |row| row.get::<u64>(0))? >= MAX_PARAMETERS {
                // Whoever asks for one that is gone asks conf again.
                tx.execute("DELETE FROM conf_parameters", &[])?;
            }
            tx.execute(
                "INSERT INTO conf_parameters (digest, document) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING",
                &values![digest, document],
            )?;
            Ok(())
        })
    }

    /// A document of parameters.
    pub fn parameters(&self, digest: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT document FROM conf_parameters WHERE digest = $1";
        let row = self.read(|tx| tx.query_one(sql, &values![digest]))?;
        row.map(|row| row.get(0)).transpose()
    }
}

fn version(tx: &mut Tx<'_>) -> Result<u64, StoreError> {
    let row = tx.query_one("SELECT value FROM settings WHERE name = $1", &values![VERSION])?;
    row.map_or(Ok(0), |row| row.get(0))
}

fn switches(tx: &mut Tx<'_>) -> Result<Vec<Switch>, StoreError> {
    let rows = tx.query("SELECT tenant, channel, asset FROM switches ORDER BY tenant, channel, asset", &[])?;
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let switch = |row: &Row| -> Result<Switch, StoreError> {
        Ok(Switch { tenant: row.get(0)?, channel: some(row.get(1)?), asset: some(row.get(2)?) })
    };
    rows.iter().map(switch).collect()
}

fn keys(tx: &mut Tx<'_>) -> Result<Vec<PassKey>, StoreError> {
    let name = tx.name().to_owned();
    let sql = "SELECT number, secret, created_ms, drop_ms FROM pass_keys ORDER BY number DESC";
    let rows = tx.query(sql, &[])?;
    let key = |row: &Row| -> Result<PassKey, StoreError> {
        let (number, secret): (u32, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let bad = |_| StoreError::corrupt(&name, format!("pass key {number} has another length"));
        let secret = secret.try_into().map_err(bad)?;
        Ok(PassKey { number, secret, created_ms: row.get(2)?, drop_ms: row.get(3)? })
    };
    rows.iter().map(key).collect()
}
