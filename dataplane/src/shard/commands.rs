//! What the rest of the process asks of a shard.

use std::rc::Rc;
use std::sync::Arc;

use super::{ShardCommand, inspect};
use crate::http::context::Context;
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
        ShardCommand::Prefetch { channel, path, done } => {
            let ctx = Rc::clone(ctx);
            glommio::spawn_local(async move {
                let _ = done.send(prefetch(&ctx, &channel, &path).await);
            })
            .detach();
        }
        ShardCommand::Inspect(question) => {
            let ctx = Rc::clone(ctx);
            glommio::spawn_local(async move { inspect::answer(&ctx, question).await }).detach();
        }
        ShardCommand::Drain => ctx.draining.set(true),
    }
}

/// Fetches one object whole into the cache of its owner. Returns its bytes.
async fn prefetch(ctx: &Rc<Context>, channel: &str, path: &str) -> Result<u64, String> {
    let routes = ctx.routes();
    let channel = routes.channel(channel).ok_or_else(|| format!("there is no channel `{channel}`"))?;
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let key = SliceKey::new(ctx.key_seed, &channel.id, path, query);
    let request = OpenRequest {
        key,
        channel: Arc::clone(channel),
        want: Want { first: 0, last: None, ranged: false },
        asked: None,
        revalidate: false,
        private: false,
        cdn_loop: None,
    };
    let opened = ctx.slices.open(&request).await.map_err(|error| error.to_string())?;
    if opened.version.status != 200 {
        return Err(format!("the origin answered {} for `{path}`", opened.version.status));
    }
    if opened.version.exclusive {
        return Err(format!("the origin does not allow `{path}` to be kept (Cache-Control or Set-Cookie)"));
    }
    let block_bytes = ctx.slices.store().block_bytes();
    let mut fetched = 0;
    for index in 0..u32::MAX {
        let mut have = 0;
        while have < block_bytes {
            let block = ctx.slices.block(&request.key, &opened.version, index, have, u32::MAX).await;
            match block.map_err(|error| error.to_string())? {
                Some(block) => {
                    fetched += (block.filled() - have) as u64;
                    have = block.filled();
                }
                None => return Ok(fetched),
            }
        }
    }
    Ok(fetched)
}
