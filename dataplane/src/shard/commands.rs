//! What the rest of the process asks of a shard.

use std::rc::Rc;
use std::sync::Arc;

use shoal_link::prefetch::PrefetchItem;

use super::{ShardCommand, inspect};
use crate::http::context::Context;
use crate::link::prefetch::Meter;
use crate::slices::key::SliceKey;
use crate::slices::store::{OpenRequest, Want};

/// Carries out one command; long ones in a task of their own.
pub(super) fn carry_out(ctx: &Rc<Context>, command: ShardCommand) {
    match command {
        ShardCommand::Purge { scope, done } => {
            let ctx = Rc::clone(ctx);
            glommio::spawn_local(async move {
                let store = ctx.slices.store();
                let (purged, burial) = store.purge(&scope, ctx.key_seed, || ctx.ring.next_turn()).await;
                if let Some(burial) = burial {
                    burial.done().await;
                }
                // An answer that nobody waits for any more needs no receiver.
                let _ = done.send(purged);
            })
            .detach();
        }
        ShardCommand::Prefetch { channel, item, meter, done } => {
            let ctx = Rc::clone(ctx);
            glommio::spawn_local(async move {
                let _ = done.send(prefetch(&ctx, &channel, &item, &meter).await);
            })
            .detach();
        }
        ShardCommand::Inspect(question) => {
            let ctx = Rc::clone(ctx);
            glommio::spawn_local(async move { inspect::answer(&ctx, question).await }).detach();
        }
        // The shard's UDP half has them, and was asked before.
        ShardCommand::ObserveAgain => {}
        ShardCommand::Drain => ctx.draining.set(true),
    }
}

/// Fetches one object, or a part of it, into the cache of its owner.
async fn prefetch(ctx: &Rc<Context>, channel: &str, item: &PrefetchItem, meter: &Meter) -> Result<(), String> {
    let routes = ctx.routes();
    let channel = routes.channel(channel).ok_or_else(|| format!("there is no channel `{channel}`"))?;
    let (path, query) = item.path.split_once('?').unwrap_or((&item.path, ""));
    let key = SliceKey::new(ctx.key_seed, &channel.id, path, query);
    let ranged = item.first > 0 || item.last.is_some();
    let request = OpenRequest {
        key,
        channel: Arc::clone(channel),
        want: Want { first: item.first, last: item.last, ranged },
        asked: None,
        revalidate: false,
        private: false,
        cdn_loop: None,
    };
    let opened = ctx.slices.open(&request).await.map_err(|error| error.to_string())?;
    if opened.version.status != 200 {
        return Err(format!("the origin answered {}", opened.version.status));
    }
    if opened.version.exclusive {
        return Err("the origin does not allow it to be kept (Cache-Control or Set-Cookie)".to_owned());
    }
    if opened.version.total().is_some_and(|total| item.first >= total && item.first > 0) {
        return Err(format!("byte {} lies behind its end", item.first));
    }
    let store = ctx.slices.store();
    let last = item.last.map_or(u32::MAX, |last| store.index_of(last));
    for index in store.index_of(item.first)..=last {
        let mut have = 0;
        while have < store.block_bytes() {
            if meter.is_stopped() {
                return Err("stopped".to_owned());
            }
            // No further ahead of what is wanted now than for a viewer who reads on.
            let block = ctx.slices.block(&request.key, &opened.version, index, have, last).await;
            let Some(block) = block.map_err(|error| error.to_string())? else { return Ok(()) };
            if have == 0 {
                // Asked for by name: it counts as used twice, which earns it a place in the main queue, and on disk.
                block.touch();
            }
            let wait = meter.count((block.filled() - have) as u64);
            have = block.filled();
            if !wait.is_zero() {
                ctx.ring.sleep(wait).await;
            }
        }
        if index == u32::MAX {
            break;
        }
    }
    Ok(())
}
