//! The loop that keeps a shard going: ring, lanes, inbox, and sleep when there is nothing to do.
//!
//! It is one task among the others of its executor. Each turn submits what the tasks have pushed, wakes those whose work
//! is done, takes what other shards have sent, and goes to the end of the queue. When a turn found nothing, it says that
//! it dozes, looks once more, and waits for the one eventfd that the ring and all doorbells signal.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use shoal_sys::doorbell::{Doorbell, DoorbellWaiter};
use shoal_sys::ring::Ring;

/// How long the executor's own reactor may go without a look.
const REACTOR_INTERVAL: Duration = Duration::from_micros(500);

/// Where a shard's work comes from, besides its own ring.
pub(super) trait Sources {
    /// Takes what others have sent. Returns how much that was.
    fn receive(&self) -> usize;
    /// Whether nothing waits to be received.
    fn is_idle(&self) -> bool;
}

/// Runs for ever, or until the ring fails.
pub(super) async fn drive(ring: Ring, bell: Doorbell, waiter: DoorbellWaiter, sources: impl Sources) -> io::Error {
    let waiter = Rc::new(waiter);
    let mut yielded = Instant::now();
    let mut sleep: Option<Pin<Box<dyn Future<Output = io::Result<()>>>>> = None;
    loop {
        let handled = match ring.turn() {
            Ok(handled) => handled + sources.receive(),
            Err(error) => return error,
        };
        if yielded.elapsed() > REACTOR_INTERVAL {
            // Timers and the blocking pool are looked at by glommio's reactor, when no task is left to run or its preemption
            // timer says so. We are always left to run, and the timer has been seen not to come.
            glommio::executor().yield_task_queue_now().await;
            yielded = Instant::now();
        }
        if handled > 0 {
            yield_now().await;
            continue;
        }
        // Tasks that were woken by others may be about to push: they run before we look again.
        yield_now().await;
        bell.doze();
        let asleep = match sources.is_idle() {
            true => ring.prepare_sleep(),
            false => Ok(false),
        };
        match asleep {
            Ok(true) => {}
            Ok(false) => {
                bell.awake();
                continue;
            }
            Err(error) => return error,
        }
        // The wait outlives a sleep that was ended by a push: it is taken up again by the next one.
        let wait = sleep.get_or_insert_with(|| {
            let waiter = Rc::clone(&waiter);
            Box::pin(async move { waiter.wait().await })
        });
        let mut first = true;
        let rung = std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = wait.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            if !std::mem::take(&mut first) {
                return Poll::Ready(None);
            }
            ring.set_driver(cx);
            Poll::Pending
        })
        .await;
        bell.awake();
        ring.awake();
        match rung {
            None => {}
            Some(Ok(())) => sleep = None,
            Some(Err(error)) => return error,
        }
    }
}

/// Lets every other task that is ready run first.
async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
