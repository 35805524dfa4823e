//! Accepting viewers, and clients of the relay.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use glommio::timer::sleep;
use rustls::ServerConfig;

use super::TurnListener;
use crate::http::connection;
use crate::http::context::Context;
use crate::telemetry::metrics::Counter;
use crate::udp::Udp;

/// How long to wait when the kernel has no descriptor left.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Connections that a shard takes on beyond its limit, to tell them so.
const BEYOND_LIMIT: usize = 64;

/// Connections taken on in one turn: a flood of them is not to keep those that are there already from being served.
const ACCEPTS_PER_TURN: usize = 32;

/// Accepts until the shard drains; with `tls`, for connections that start with a handshake.
pub(super) async fn accept(ctx: Rc<Context>, listener: OwnedFd, tls: Option<Arc<ServerConfig>>) {
    let serve = |socket| {
        ctx.stats.add(Counter::ConnectionsAccepted, 1);
        if ctx.connections.get() >= ctx.settings.connections_per_shard + BEYOND_LIMIT {
            ctx.stats.add(Counter::RefusedPerShard, 1);
            return;
        }
        let stream = ctx.ring.stream(socket);
        // Gone already.
        let Ok(peer) = stream.peer() else { return };
        glommio::spawn_local(connection::serve(Rc::clone(&ctx), stream, peer, tls.clone())).detach();
    };
    each(&ctx, listener, serve).await;
}

/// Accepts clients of the relay until the shard drains. Those that are there then are served as long as the shard.
pub(super) async fn accept_turn(ctx: Rc<Context>, udp: Rc<Udp>, listener: TurnListener) {
    let TurnListener { address, socket } = listener;
    let serve = |socket| {
        if let Some(serving) = udp.take_stream(socket, address) {
            glommio::spawn_local(serving).detach();
        }
    };
    each(&ctx, socket, serve).await;
}

/// Has each connection served until the shard drains.
async fn each(ctx: &Context, listener: OwnedFd, serve: impl Fn(OwnedFd)) {
    let acceptor = ctx.ring.accept(listener);
    let mut taken = 0;
    while !ctx.draining.get() {
        if taken == ACCEPTS_PER_TURN {
            ctx.ring.next_turn().await;
            taken = 0;
        }
        taken += 1;
        match acceptor.next().await {
            Ok(socket) => serve(socket),
            Err(error) => {
                tracing::warn!(%error, shard = ctx.shard, "cannot accept; is the limit of open files too low?");
                sleep(BACK_OFF).await;
            }
        }
    }
}
