//! The messages themselves.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::channel::Snapshot;
use crate::inspect::{CacheStat, Explanation, Inspect, ObjectStat, TopReport};
use crate::ledger::Batch;
use crate::node::{Endpoints, Health};
use crate::observation::Observation;
use crate::playback::Playback;
use crate::prefetch::{PrefetchOrder, PrefetchStat};

/// From the control plane to a data plane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlMessage {
    /// First frame; the answer to the data plane's hello.
    Hello {
        /// [`crate::PROTOCOL`] of the control plane.
        protocol: u32,
    },
    /// The whole configuration; sent after hello when the node's version differs, and at every change.
    Snapshot(Snapshot),
    /// Do this and answer with [`DataMessage::Done`].
    Command {
        /// Chosen by the control plane, unique on this connection.
        id: u64,
        /// What to do.
        command: Command,
    },
    /// The batch is durable at the control plane; the node may forget it.
    LedgerAck {
        /// Boot of the batch.
        boot: u64,
        /// Sequence of the batch.
        sequence: u64,
    },
}

/// What an operator may ask of a running data plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Command {
    /// Forget cached objects on every shard.
    Purge {
        /// Which ones.
        scope: PurgeScope,
    },
    /// Fetch objects into the cache, in the background.
    Prefetch {
        /// Which ones, and how fast.
        order: PrefetchOrder,
    },
    /// Tell how far such orders have come.
    Prefetches {
        /// Stop this one first.
        cancel: Option<u64>,
    },
    /// Say something about the cache.
    Inspect {
        /// What.
        question: Inspect,
    },
    /// Stop accepting viewers, finish what runs, then exit.
    Drain,
}

/// What a command that was carried out answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Objects purged.
    Count(u64),
    /// To [`Command::Prefetch`].
    Prefetch(Box<PrefetchStat>),
    /// To [`Command::Prefetches`].
    Prefetches(Vec<PrefetchStat>),
    /// To [`Inspect::Top`].
    Top(TopReport),
    /// To [`Inspect::Cache`].
    Cache(Box<CacheStat>),
    /// To [`Inspect::Object`].
    Object(Box<ObjectStat>),
    /// To [`Inspect::Explain`].
    Explanation(Box<Explanation>),
}

/// Which objects a purge takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "scope", rename_all = "snake_case")]
pub enum PurgeScope {
    /// One object.
    Object {
        /// Channel id.
        channel: String,
        /// Path below the channel's prefix, without a leading slash; with the allowed query, if any.
        path: String,
    },
    /// All objects of the channel whose path starts with this.
    Prefix {
        /// Channel id.
        channel: String,
        /// Start of the path below the channel's prefix.
        path: String,
    },
    /// All objects of the channel that its origin gave this tag (Surrogate-Key, Cache-Tag).
    Tag {
        /// Channel id.
        channel: String,
        /// The tag.
        tag: String,
    },
    /// All objects of a channel.
    Channel {
        /// Channel id.
        channel: String,
    },
    /// Everything.
    All,
}

/// [`DataMessage::Ledger`] of a batch that is JSON already.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WrittenUsage<'a> {
    /// The batch.
    Ledger(&'a RawValue),
}

/// From a data plane to the control plane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataMessage {
    /// First frame on a connection.
    Hello {
        /// [`crate::PROTOCOL`] of the data plane.
        protocol: u32,
        /// Stable name of the node, from its configuration.
        node: String,
        /// This run of the process.
        boot: u64,
        /// Release of the program, for people.
        software: String,
        /// Version of the snapshot it serves, if it has one.
        snapshot: Option<u64>,
        /// Base URL at which viewers reach it, from its configuration.
        public_url: Option<String>,
        /// Where it stands, as its configuration says: free text, such as `DE-BE` (ISO 3166-2).
        region: Option<String>,
        /// Where viewers reach it otherwise.
        endpoints: Box<Endpoints>,
    },
    /// A snapshot was applied on every shard.
    Applied {
        /// Its version.
        version: u64,
    },
    /// A snapshot was refused; the node goes on with the one it had.
    Refused {
        /// Its version.
        version: u64,
        /// Field, value and remedy.
        reason: String,
    },
    /// The answer to a command.
    Done {
        /// Id of the command.
        id: u64,
        /// What came of it, or why nothing did.
        result: Result<Reply, String>,
    },
    /// Peers whose registration began, changed or ended since the last of these. All that are registered follow each hello. What
    /// is lost comes again with the peer's next change: it only helps to choose.
    Observed(Vec<Observation>),
    /// Usage; repeated until acknowledged.
    Ledger(Batch),
    /// What players said of their playback since the last of these, about every ten seconds. What is lost stays lost: it is for
    /// statistics.
    Playback(Vec<Playback>),
    /// Every few seconds.
    Health(Box<Health>),
}
