//! The other instances of this control plane: the changes they make, and the nodes that are connected to them.
//!
//! Instances that share a PostgreSQL find each other's changes there: each looks four times a second whether the snapshot has a newer
//! version, which it publishes to its own nodes, and whether others have orders for them. Every few seconds each notes that its nodes
//! are alive, and reads which are elsewhere.
//! With SQLite there is one instance, and nothing of this runs.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app::App;
use crate::link::Live;
use crate::orders;
use crate::store::{NodeRow, NodeSeen, StoreError, now_ms};
use crate::token::random_hex;

/// How often others' changes are looked for.
const POLL: Duration = Duration::from_millis(250);
/// The same after the database failed.
const POLL_FAILED: Duration = Duration::from_secs(2);
/// How often nodes are noted and read.
const EXCHANGE: Duration = Duration::from_secs(4);
/// Orders of others that are carried out at once; more wait.
const MAX_ORDERS: usize = 64;
/// A node that nobody saw for so long is not there.
pub const ALIVE: Duration = Duration::from_secs(15);
/// Hexadecimal digits of an instance's id.
const ID: usize = 16;

/// What is known of the other instances.
pub struct Instances {
    /// This instance; new with each start.
    pub id: String,
    signs: Mutex<HashMap<String, Sign>>,
    others: RwLock<Arc<BTreeMap<String, Elsewhere>>>,
}

/// A node that is connected to another instance.
#[derive(Debug, Clone)]
pub struct Elsewhere {
    /// That instance.
    pub instance: String,
    /// What the node said of itself there.
    pub live: Live,
}

/// When a row was last seen to change: clocks of instances may differ, but not in how fast they go.
struct Sign {
    last_seen_ms: u64,
    changed: Option<Instant>,
}

impl Instances {
    /// Knows nobody yet. Fails when there is no randomness.
    pub fn new() -> io::Result<Self> {
        let mut id = random_hex()?;
        id.truncate(ID);
        Ok(Self { id, signs: Mutex::default(), others: RwLock::default() })
    }

    /// Nodes that are connected elsewhere, as they were a few seconds ago.
    pub fn others(&self) -> Arc<BTreeMap<String, Elsewhere>> {
        Arc::clone(&self.others.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes in what the store has of all nodes.
    fn observe(&self, now: Instant, now_ms: u64, rows: Vec<NodeRow>) {
        let mut signs = self.signs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut earlier = std::mem::take(&mut *signs);
        let mut others = BTreeMap::new();
        for row in rows {
            let last_seen_ms = row.last_seen_ms;
            let changed = match earlier.remove(&row.node) {
                Some(sign) if sign.last_seen_ms == last_seen_ms => sign.changed,
                Some(_) => Some(now),
                // For the first look the clocks have to do.
                None => (Duration::from_millis(now_ms.abs_diff(last_seen_ms)) < ALIVE).then_some(now),
            };
            if let Some(live) = &row.live
                && row.instance != self.id
                && changed.is_some_and(|changed| now.saturating_duration_since(changed) < ALIVE)
            {
                // Written by an instance of another release, perhaps: what is not understood is left out.
                let live = serde_json::from_str(live).unwrap_or_else(|_| Live {
                    boot: row.boot,
                    software: row.software.clone(),
                    public_url: row.public_url.clone(),
                    snapshot: row.snapshot,
                    ..Live::default()
                });
                others.insert(row.node.clone(), Elsewhere { instance: row.instance, live });
            }
            signs.insert(row.node, Sign { last_seen_ms, changed });
        }
        *self.others.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(others);
    }
}

/// What the store is told of a node.
pub fn seen(node: &str, live: &Live) -> NodeSeen {
    NodeSeen {
        node: node.to_owned(),
        boot: live.boot,
        software: live.software.clone(),
        public_url: live.public_url.clone(),
        snapshot: live.snapshot,
        // Numbers and texts: it cannot fail.
        live: serde_json::to_string(live).unwrap_or_default(),
    }
}

/// Follows the other instances until `stop`.
pub async fn follow(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    if !app.shared() {
        return;
    }
    let mut running = JoinSet::new();
    let mut exchanged: Option<Instant> = None;
    // Orders from before this instance had nodes are not for them.
    let mut last_order = None;
    loop {
        let done = poll(&app, &mut last_order, &mut running).await;
        if exchanged.is_none_or(|at| at.elapsed() >= EXCHANGE) {
            exchanged = Some(Instant::now());
            exchange(&app).await;
        }
        let pause = if done.is_ok() { POLL } else { POLL_FAILED };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Looks once what others did and want. Failures are counted and logged.
async fn poll(app: &Arc<App>, last_order: &mut Option<u64>, running: &mut JoinSet<()>) -> Result<(), StoreError> {
    while running.try_join_next().is_some() {}
    let news = app.db(|store| store.news()).await?;
    if news.version > app.hub.newest().snapshot.version {
        app.hub.changed();
    }
    let last = last_order.get_or_insert(news.order);
    let room = MAX_ORDERS.saturating_sub(running.len());
    if news.order > *last && room > 0 {
        let (instance, after) = (app.instances.id.clone(), *last);
        let found = app.db(move |store| store.orders(&instance, after, room as u32)).await?;
        // Numbers between are our own, or gone.
        *last = if found.len() < room { news.order } else { found.last().map_or(news.order, |order| order.number) };
        for order in found {
            *last = order.number.max(*last);
            running.spawn(orders::carry_out(Arc::clone(app), order));
        }
    }
    Ok(())
}

/// Notes this instance's nodes, and reads the others'.
async fn exchange(app: &App) {
    let mut joined = Vec::new();
    for (node, live) in app.hub.nodes() {
        match live.joined {
            Some(connection) => joined.push((seen(&node, &live), connection)),
            // Its hello could not be written down then.
            None => app.joined(&node, &live).await,
        }
    }
    let instance = app.instances.id.clone();
    // Failures are counted and logged.
    if app.db(move |store| store.nodes_alive(&instance, &joined)).await.is_ok() {
        let _ = look(app).await;
    }
}

/// Reads which nodes are connected elsewhere.
pub(crate) async fn look(app: &App) -> Result<(), StoreError> {
    let rows = app.db(|store| store.nodes()).await?;
    app.instances.observe(Instant::now(), now_ms(), rows);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(node: &str, instance: &str, last_seen_ms: u64) -> NodeRow {
        NodeRow {
            node: node.to_owned(),
            boot: 1,
            software: "shoal".to_owned(),
            public_url: None,
            snapshot: None,
            first_seen_ms: 0,
            last_seen_ms,
            instance: instance.to_owned(),
            live: Some(serde_json::to_string(&Live { boot: 7, ..Live::default() }).unwrap()),
        }
    }

    fn there(instances: &Instances) -> Vec<String> {
        instances.others().keys().cloned().collect()
    }

    #[test]
    fn a_node_is_elsewhere_while_its_row_changes_whatever_the_clocks_say() {
        let instances = Instances::new().unwrap();
        let (start, clock) = (Instant::now(), 1_000_000_000);
        let at = |seconds| start + Duration::from_secs(seconds);
        let own = instances.id.clone();
        let rows = |old: u64, skewed: u64| {
            vec![
                row("fresh", "b", clock - 3_000),
                row("mine", &own, clock),
                row("old", "b", old),
                row("skewed", "c", skewed),
            ]
        };
        instances.observe(at(0), clock, rows(clock - 60_000, clock + 3_600_000));
        assert_eq!(there(&instances), ["fresh"]);
        // One whose clock is an hour ahead is there as soon as it is seen to move.
        instances.observe(at(4), clock + 4_000, rows(clock - 60_000, clock + 3_604_000));
        assert_eq!(there(&instances), ["fresh", "skewed"]);
        assert_eq!((instances.others()["skewed"].live.boot, &*instances.others()["skewed"].instance), (7, "c"));
        // Our clock jumps, and nothing changes but the time that went by.
        instances.observe(at(16), 5, rows(clock - 60_000, clock + 3_604_000));
        assert_eq!(there(&instances), ["skewed"]);
        instances.observe(at(20), 5, rows(clock - 59_000, clock + 3_604_000));
        assert_eq!(there(&instances), ["old"]);
    }

    #[test]
    fn what_an_unknown_release_wrote_and_what_has_gone() {
        let instances = Instances::new().unwrap();
        let strange = NodeRow { live: Some("[1".to_owned()), snapshot: Some(9), ..row("strange", "b", 1_000) };
        let gone = NodeRow { live: None, ..row("gone", "b", 1_000) };
        instances.observe(Instant::now(), 1_000, vec![strange, gone]);
        assert_eq!(there(&instances), ["strange"]);
        assert_eq!(instances.others()["strange"].live.snapshot, Some(9));
    }
}
