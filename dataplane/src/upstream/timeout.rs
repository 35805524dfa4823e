//! Time limits on what origins do.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use glommio::timer::Timer;

/// The result of `future`, or `None` when it took longer than `limit`. The future is dropped then.
pub async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut timer = None;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        // Most operations are over at the first poll or two; the timer is armed only for those that are not.
        let timer = timer.get_or_insert_with(|| Box::pin(Timer::new(limit)));
        timer.as_mut().poll(cx).map(|_| None)
    })
    .await
}
