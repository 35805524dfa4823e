//! What the rest of the process may ask a shard about its part of the cache.

use std::rc::Rc;

use shoal_link::inspect::{Explanation, ObjectStat, Probe};
use tokio::sync::oneshot;

use crate::http::context::Context;
use crate::http::explain::explain;
use crate::http::popular::Demands;
use crate::slices::key::SliceKey;

/// A question, and where the answer goes.
#[derive(Debug)]
pub enum ShardQuestion {
    /// What its viewers asked for lately.
    Demands(oneshot::Sender<Demands>),
    /// The objects that hold most of its RAM.
    Largest {
        /// Of this channel only.
        channel: Option<String>,
        /// How many.
        most: usize,
        /// With their bytes.
        done: oneshot::Sender<Vec<(SliceKey, u64)>>,
    },
    /// How much of its RAM these objects hold.
    Weigh {
        /// The objects; those of other shards weigh nothing.
        keys: Vec<SliceKey>,
        /// Bytes, in the same order.
        done: oneshot::Sender<Vec<u64>>,
    },
    /// What is kept of an object.
    Object {
        /// Channel id.
        channel: String,
        /// Path below the channel's prefix, with the allowed query.
        path: String,
        /// None where another shard owns it, or there is no such channel.
        done: oneshot::Sender<Option<ObjectStat>>,
    },
    /// What would happen to a request.
    Explain {
        /// The request.
        probe: Probe,
        /// None where another shard answers.
        done: oneshot::Sender<Option<Explanation>>,
    },
}

/// Answers. An answer that nobody waits for any more needs no receiver.
pub(super) async fn answer(ctx: &Rc<Context>, question: ShardQuestion) {
    let store = ctx.slices.store();
    match question {
        ShardQuestion::Demands(done) => drop(done.send(ctx.popular.demands(ctx.clock.now_ms()))),
        ShardQuestion::Largest { channel, most, done } => {
            let largest = store.largest(channel.as_deref(), most, || ctx.ring.next_turn()).await;
            drop(done.send(largest));
        }
        ShardQuestion::Weigh { keys, done } => {
            drop(done.send(keys.iter().map(|key| store.ram_bytes(key)).collect()));
        }
        ShardQuestion::Object { channel, path, done } => {
            drop(done.send(object(ctx, &channel, &path).await));
        }
        ShardQuestion::Explain { probe, done } => drop(done.send(explain(ctx, &probe).await)),
    }
}

async fn object(ctx: &Rc<Context>, channel: &str, path: &str) -> Option<ObjectStat> {
    let routes = ctx.routes();
    let channel = routes.channel(channel)?;
    let key = SliceKey::new(ctx.key_seed, &channel.id, path, "");
    match ctx.slices.owns(&key) {
        true => Some(ctx.slices.store().stat(ctx.shard, &key, channel).await),
        false => None,
    }
}
