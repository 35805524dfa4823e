//! Accepting viewers.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use glommio::timer::sleep;
use rustls::ServerConfig;

use crate::http::connection;
use crate::http::context::Context;
use crate::telemetry::metrics::Counter;

/// How long to wait when the kernel has no descriptor left.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Connections that a shard takes on beyond its limit, to tell them so.
const BEYOND_LIMIT: usize = 64;

/// Connections taken on in one turn: a flood of them is not to keep those that are there already from being served.
const ACCEPTS_PER_TURN: usize = 32;

/// Accepts until the shard drains; with `tls`, for connections that start with a handshake.
pub(super) async fn accept(ctx: Rc<Context>, listener: OwnedFd, tls: Option<Arc<ServerConfig>>) {
    let acceptor = ctx.ring.accept(listener);
    let mut taken = 0;
    while !ctx.draining.get() {
        if taken == ACCEPTS_PER_TURN {
            ctx.ring.next_turn().await;
            taken = 0;
        }
        taken += 1;
        let socket = match acceptor.next().await {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, shard = ctx.shard, "cannot accept; is the limit of open files too low?");
                sleep(BACK_OFF).await;
                continue;
            }
        };
        ctx.stats.add(Counter::ConnectionsAccepted, 1);
        if ctx.connections.get() >= ctx.settings.connections_per_shard + BEYOND_LIMIT {
            ctx.stats.add(Counter::RefusedPerShard, 1);
            continue;
        }
        let stream = ctx.ring.stream(socket);
        // Gone already.
        let Ok(peer) = stream.peer() else { continue };
        glommio::spawn_local(connection::serve(Rc::clone(&ctx), stream, peer, tls.clone())).detach();
    }
}
