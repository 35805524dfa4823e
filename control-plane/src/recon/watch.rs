//! The metrics of reconciliation: of hours lately settled, every minute. Each instance reads the same store, so they say the same.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::compare::{Comparison, SETTLE_S};
use crate::app::App;
use crate::store::{FiguresQuery, StoreError, now_ms};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(60);
/// Hours that alerts are counted over.
const HOURS: u64 = 24;
/// Differences with a series of their own: those of the last settled hour with the most bytes.
pub const MAX_SERIES: usize = 100;
/// Hours after which hashes of imported lines are forgotten: ten days more than CDNs keep logs.
const FORGET_HOURS: u64 = 40 * 24;

/// Looks until `stop`.
pub async fn run(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        // A failure is counted and logged by what asks; the metrics stay as they were.
        let _ = look(&app, now_ms() / 1000).await;
    }
}

/// One look, at `now` in Unix seconds.
async fn look(app: &App, now: u64) -> Result<(), StoreError> {
    let settled = now.saturating_sub(SETTLE_S) / 3600;
    let query = FiguresQuery { from_hour: settled.saturating_sub(HOURS), to_hour: settled, ..FiguresQuery::default() };
    let comparisons = app
        .db(move |store| {
            store.recon_forget(settled.saturating_sub(FORGET_HOURS))?;
            let settings = store.recon_all_settings()?;
            let of = |tenant: &str| settings.get(tenant).copied().unwrap_or_default();
            let figures = store.recon_figures(&query)?;
            let compare = |figures: super::compare::Figures| {
                let settings = of(&figures.tenant);
                figures.compare(&settings, now)
            };
            Ok(figures.into_iter().map(compare).collect::<Vec<Comparison>>())
        })
        .await?;
    let newest = settled.saturating_sub(1) * 3600;
    app.metrics.reconciliation(&comparisons, newest);
    Ok(())
}
