//! Fetching ahead: orders are carried out one after the other, in the background, a few fetches at a time.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoal_link::channel::LimitPolicy;
use shoal_link::prefetch::{PrefetchItem, PrefetchOrder, PrefetchStat, PrefetchState};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::plane::ToShard;
use crate::routes::Limits;
use crate::shard::ShardCommand;

/// Fetches at the same time: viewers come first.
const AT_ONCE: usize = 4;
/// For one item; an origin that stands still is found much sooner.
const ITEM_TIMEOUT: Duration = Duration::from_secs(6 * 3600);
/// Orders that wait, run or are remembered.
const ORDERS_MAX: usize = 32;
/// Failures that are told in words.
const ERRORS_MAX: usize = 8;

/// All orders of a node.
#[derive(Debug)]
pub struct Prefetcher {
    orders: Mutex<Orders>,
    turn: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Orders {
    next_id: u64,
    list: VecDeque<Arc<Job>>,
}

/// One order under way.
#[derive(Debug)]
struct Job {
    order: PrefetchOrder,
    meter: Arc<Meter>,
    progress: watch::Sender<PrefetchStat>,
}

/// What the fetches of an order share, on whatever shard they are.
#[derive(Debug)]
pub struct Meter {
    bytes: AtomicU64,
    bytes_max: u64,
    stopped: AtomicBool,
    pace: Option<Arc<Limits>>,
}

impl Meter {
    fn new(bytes_per_second: u64, bytes_max: u64) -> Meter {
        let policy = LimitPolicy { bytes_per_second, ..LimitPolicy::default() };
        let (bytes, stopped) = (AtomicU64::new(0), AtomicBool::new(false));
        Meter { bytes, bytes_max, stopped, pace: Limits::compile(&policy, None) }
    }

    /// So many bytes were fetched; returns how long to wait before more are.
    pub fn count(&self, bytes: u64) -> Duration {
        if self.bytes.fetch_add(bytes, Relaxed).saturating_add(bytes) >= self.bytes_max {
            self.stopped.store(true, Relaxed);
        }
        self.pace.as_ref().map_or(Duration::ZERO, |pace| pace.reserve(bytes, Instant::now()))
    }

    /// Nothing more is to be fetched.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }
}

impl Default for Prefetcher {
    fn default() -> Self {
        Self { orders: Mutex::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl Prefetcher {
    /// Takes an order; it is over, or `wait_ms` have passed, when this returns.
    ///
    /// # Errors
    /// Too many orders wait.
    pub async fn order(&self, shards: &[ToShard], order: PrefetchOrder) -> Result<PrefetchStat, String> {
        let wait = Duration::from_millis(order.wait_ms.into());
        let job = self.add(order)?;
        let mut progress = job.progress.subscribe();
        tokio::spawn(carry_out(job, shards.to_vec(), Arc::clone(&self.turn)));
        let over = progress.wait_for(|stat| matches!(stat.state, PrefetchState::Done | PrefetchState::Stopped));
        // Over or not, and also if its task has failed: the last that is known.
        let _ = timeout(wait, over).await.map(|result| result.is_ok());
        let stat = progress.borrow().clone();
        Ok(stat)
    }

    /// Every order that is remembered, the oldest first; stops the one that is to be cancelled.
    ///
    /// # Errors
    /// There is none with this id.
    pub fn list(&self, cancel: Option<u64>) -> Result<Vec<PrefetchStat>, String> {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = cancel {
            let job = orders.list.iter().find(|job| job.progress.borrow().id == id);
            let job = job.ok_or_else(|| format!("there is no order {id} on this node; list them"))?;
            job.meter.stopped.store(true, Relaxed);
        }
        Ok(orders.list.iter().map(|job| job.stat()).collect())
    }

    fn add(&self, order: PrefetchOrder) -> Result<Arc<Job>, String> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if orders.list.len() >= ORDERS_MAX {
            let over = orders.list.iter().position(|job| job.is_over());
            let oldest =
                over.ok_or_else(|| format!("{ORDERS_MAX} orders wait on this node; cancel one, or try later"))?;
            orders.list.remove(oldest);
        }
        orders.next_id += 1;
        let stat = PrefetchStat {
            id: orders.next_id,
            channel: order.channel.clone(),
            state: PrefetchState::Waiting,
            items: order.items.len() as u64,
            fetched: 0,
            failed: 0,
            bytes: 0,
            errors: Vec::new(),
        };
        let meter = Arc::new(Meter::new(order.bytes_per_second, order.bytes_max));
        let job = Arc::new(Job { order, meter, progress: watch::Sender::new(stat) });
        orders.list.push_back(Arc::clone(&job));
        Ok(job)
    }
}

impl Job {
    fn stat(&self) -> PrefetchStat {
        PrefetchStat { bytes: self.meter.bytes.load(Relaxed), ..self.progress.borrow().clone() }
    }

    fn is_over(&self) -> bool {
        matches!(self.progress.borrow().state, PrefetchState::Done | PrefetchState::Stopped)
    }

    fn enter(&self, state: PrefetchState) {
        self.progress.send_modify(|stat| {
            stat.state = state;
            stat.bytes = self.meter.bytes.load(Relaxed);
        });
    }

    fn count(&self, item: &PrefetchItem, result: Result<(), String>) {
        // What was under way when the order was stopped is neither here nor there.
        if self.meter.is_stopped() && result.is_err() {
            return;
        }
        self.progress.send_modify(|stat| match result {
            Ok(()) => stat.fetched += 1,
            Err(reason) => {
                stat.failed += 1;
                if stat.errors.len() < ERRORS_MAX {
                    stat.errors.push(format!("{}: {reason}", item.path));
                }
            }
        });
    }
}

async fn carry_out(job: Arc<Job>, shards: Vec<ToShard>, turn: Arc<Semaphore>) {
    let turn = turn.acquire().await;
    job.enter(PrefetchState::Running);
    let mut under_way = JoinSet::new();
    // Any shard takes the order and asks the owner; in turn, so that none has all the work.
    for (shard, item) in shards.iter().cycle().zip(job.order.items.iter()) {
        if under_way.len() >= AT_ONCE {
            under_way.join_next().await;
        }
        if job.meter.is_stopped() {
            break;
        }
        under_way.spawn(fetch(Arc::clone(&job), Arc::clone(shard), item.clone()));
    }
    while under_way.join_next().await.is_some() {}
    let stat = job.progress.borrow().clone();
    let all = stat.fetched + stat.failed == stat.items;
    job.enter(if all { PrefetchState::Done } else { PrefetchState::Stopped });
    drop(turn);
    let stat = job.stat();
    tracing::info!(id = stat.id, channel = stat.channel, stat.fetched, stat.failed, stat.bytes, "prefetched");
}

async fn fetch(job: Arc<Job>, shard: ToShard, item: PrefetchItem) {
    let (done, answer) = oneshot::channel();
    let (channel, meter) = (job.order.channel.clone(), Arc::clone(&job.meter));
    let result = match shard(ShardCommand::Prefetch { channel, item: item.clone(), meter, done }) {
        false => Err("its shard has ended; the node is going down".to_owned()),
        true => match timeout(ITEM_TIMEOUT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("its shard ended before it was fetched".to_owned()),
            Err(_) => Err(format!("not fetched within {} s", ITEM_TIMEOUT.as_secs())),
        },
    };
    job.count(&item, result);
}
