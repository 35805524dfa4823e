//! Active health: GETs that tell whether an origin is up before a viewer has to find out. The first shard makes them.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use glommio::timer::sleep;
use rustls::ClientConfig;
use shoal_sys::ring::Ring;

use crate::clock::Clock;
use crate::http::context::Context;
use crate::routes::{HealthEvent, OriginState};
use crate::upstream::{Ask, UpstreamLimits, Upstreams};

/// How often it is looked whether a check is due.
const LOOK: Duration = Duration::from_millis(100);

/// Checks under way at a time.
const CHECKS_MAX: usize = 64;

/// Channel and origin.
type Checked = (Arc<str>, Arc<str>);

/// Makes the checks of all channels until the shard drains.
pub(super) async fn check_origins(
    ctx: Rc<Context>,
    ring: Ring,
    clock: Clock,
    limits: UpstreamLimits,
    tls: Arc<ClientConfig>,
) {
    let upstreams = Rc::new(Upstreams::new(ring, clock.clone(), limits, tls, Arc::clone(&ctx.node)));
    let mut due: HashMap<Checked, u64> = HashMap::new();
    let running: Rc<RefCell<HashSet<Checked>>> = Rc::default();
    while !ctx.draining.get() {
        let now_ms = clock.now_ms();
        let routes = ctx.routes();
        let checked = routes.channels().flat_map(|channel| {
            let origins = channel.origins.iter().filter(|origin| origin.health_path.is_some());
            origins.map(move |origin| (channel, origin))
        });
        let mut seen = HashMap::new();
        let mut started = 0;
        for (channel, origin) in checked {
            let key = (Arc::clone(&channel.id), Arc::clone(&origin.id));
            let mut at = due.get(&key).copied().unwrap_or(now_ms);
            if at <= now_ms && started < CHECKS_MAX && running.borrow_mut().insert(key.clone()) {
                started += 1;
                at = now_ms + u64::from(origin.health_interval_ms.max(100));
                let check = check(Rc::clone(&upstreams), Arc::clone(origin), clock.clone());
                let (running, key) = (Rc::clone(&running), key.clone());
                glommio::spawn_local(async move {
                    check.await;
                    running.borrow_mut().remove(&key);
                })
                .detach();
            }
            seen.insert(key, at);
        }
        due = seen;
        drop(routes);
        sleep(LOOK).await;
    }
}

async fn check(upstreams: Rc<Upstreams>, origin: Arc<OriginState>, clock: Clock) {
    let Some(path) = &origin.health_path else { return };
    let ask = Ask {
        path,
        range: None,
        known: None,
        revalidate: false,
        own_cors: true,
        asked: None,
        follow: None,
        cdn_loop: None,
    };
    let event = match upstreams.fetch(&origin, &ask).await {
        Ok((head, body)) => {
            body.finish();
            if (200..400).contains(&head.status) { HealthEvent::CheckPassed } else { HealthEvent::CheckFailed }
        }
        Err(error) => {
            tracing::debug!(origin = %origin.id, %error, "health check failed");
            HealthEvent::CheckFailed
        }
    };
    if let Some(up) = origin.health.handle(event, clock.now_ms()) {
        tracing::info!(origin = %origin.id, up, "a health check changed the origin's state");
    }
}
