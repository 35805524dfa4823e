//! The loop that keeps a shard going: ring, lanes, inbox, and sleep when there is nothing to do.
//!
//! It is one task among the others of its executor. Each turn submits what the tasks have pushed, wakes those whose work
//! is done, takes what other shards have sent, and goes to the end of the queue. When a turn found nothing, and a short
//! look finds nothing either, it says that it dozes, looks once more, and waits for the one eventfd that the ring and all doorbells signal.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use shoal_sys::doorbell::{Doorbell, DoorbellWaiter};
use shoal_sys::ring::Ring;

/// Where a shard's work comes from, besides its own ring.
pub(super) trait Sources {
    /// Takes what others have sent. Returns how much that was.
    fn receive(&self) -> usize;
    /// Whether nothing waits to be received.
    fn is_idle(&self) -> bool;
}

/// Runs for ever, or until the ring fails. The executor's own reactor gets its turn every `reactor_interval`.
pub(super) async fn drive(
    ring: Ring,
    bell: Doorbell,
    waiter: DoorbellWaiter,
    sources: impl Sources,
    reactor_interval: Duration,
) -> io::Error {
    let mut sleep = Sleep { waiter: Rc::new(waiter), wait: None };
    let mut patience = Patience::default();
    let mut stepped_aside = Instant::now();
    loop {
        let handled = match ring.turn() {
            Ok(handled) => handled + sources.receive(),
            Err(error) => return error,
        };
        if stepped_aside.elapsed() > reactor_interval {
            // glommio looks at its rings, timers and blocking pool when no task is left to run. We are always left to run,
            // unless we wait for something that has happened already.
            bell.ring_self();
            if let Err(error) = sleep.until_rung().await {
                return error;
            }
            stepped_aside = Instant::now();
        }
        if handled > 0 {
            // Every other task that is ready runs first.
            glommio::executor().yield_now().await;
            continue;
        }
        // Tasks that were woken by others may be about to push: they run before we look again.
        glommio::executor().yield_now().await;
        if patience.finds(|| ring.has_work() || !sources.is_idle()) {
            continue;
        }
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
        let asleep_at = Instant::now();
        let slept = sleep.until_rung_or_pushed(&ring).await;
        bell.awake();
        ring.awake();
        // The reactor has had its turn.
        stepped_aside = Instant::now();
        patience.slept(stepped_aside - asleep_at);
        if let Err(error) = slept {
            return error;
        }
    }
}

/// Longest look for work before a sleep. To fall asleep and be woken keeps the core busy, too, and the answer waits for it.
const LOOK_MAX: Duration = Duration::from_micros(30);

/// Looking for work before a sleep, where that has been worth it lately: where the last sleep was shorter than the look, or the
/// last look found something. A shard with little to do sleeps at once.
#[derive(Default)]
struct Patience {
    worth_it: bool,
}

impl Patience {
    /// Whether there is work, or comes within [`LOOK_MAX`].
    fn finds(&mut self, work: impl Fn() -> bool) -> bool {
        if !self.worth_it {
            return false;
        }
        let since = Instant::now();
        loop {
            if work() {
                return true;
            }
            if since.elapsed() > LOOK_MAX {
                self.worth_it = false;
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// Learns from how long a sleep was.
    fn slept(&mut self, time: Duration) {
        self.worth_it = time < LOOK_MAX;
    }
}

/// The wait for the doorbell. It outlives a sleep that was ended by a push: the next one takes it up again.
struct Sleep {
    waiter: Rc<DoorbellWaiter>,
    wait: Option<Pin<Box<dyn Future<Output = io::Result<()>>>>>,
}

impl Sleep {
    /// Waits for the doorbell.
    async fn until_rung(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// Waits for the doorbell, or until a task pushes to the ring.
    async fn until_rung_or_pushed(&mut self, ring: &Ring) -> io::Result<()> {
        let mut first = true;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(rung) = self.poll(cx) {
                return Poll::Ready(rung);
            }
            if !std::mem::take(&mut first) {
                return Poll::Ready(Ok(()));
            }
            ring.set_driver(cx);
            Poll::Pending
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let waiter = &self.waiter;
        let wait = self.wait.get_or_insert_with(|| {
            let waiter = Rc::clone(waiter);
            Box::pin(async move { waiter.wait().await })
        });
        let rung = std::task::ready!(wait.as_mut().poll(cx));
        self.wait = None;
        Poll::Ready(rung)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_shard_looks_for_work_only_where_it_comes_soon() {
        let looks = Cell::new(0_u32);
        let work = |after: u32| {
            let looks = &looks;
            looks.set(0);
            move || {
                looks.set(looks.get() + 1);
                looks.get() > after
            }
        };
        let mut patience = Patience::default();
        assert!(!patience.finds(work(0)) && looks.get() == 0, "not before a short sleep");
        patience.slept(LOOK_MAX * 2);
        assert!(!patience.finds(work(0)) && looks.get() == 0, "nor after a long one");
        patience.slept(LOOK_MAX / 2);
        assert!(patience.finds(work(3)) && looks.get() == 4);
        assert!(patience.finds(work(0)), "what found something goes on");
        assert!(!patience.finds(work(u32::MAX)) && looks.get() > 0, "it ends");
        assert!(!patience.finds(work(0)) && looks.get() == 0, "and is not tried again");
    }
}
