//! The control link's server: data planes connect over a Unix socket (frames and messages: `shoal_link`).

mod connection;
mod frames;
mod hub;
mod listener;
mod playback;
mod told;

pub use hub::{Answer, Hub, Live, Published, Refused, Seen};
pub use listener::{BindError, Listener};
pub use playback::{PlaybackFeed, Told};

pub use connection::serve;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::app::App;

/// How long a failed snapshot waits before it is tried again.
const PUBLISH_RETRY: Duration = Duration::from_secs(1);

/// Publishes the newest snapshot after each change, until `stop`. Changes that come while one is being read make one
/// snapshot together.
pub async fn publish(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = app.hub.wait_changed() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        if publish_now(&app).await.is_err() {
            app.hub.changed();
            tokio::time::sleep(PUBLISH_RETRY).await;
        }
    }
}

/// Reads and publishes the newest snapshot.
pub async fn publish_now(app: &App) -> Result<(), crate::store::StoreError> {
    let snapshot = app.db(|store| store.snapshot()).await?;
    match Published::new(snapshot) {
        Ok(published) => app.hub.publish(published),
        // Trying again would not make it smaller.
        Err(error) => tracing::error!(%error, "the snapshot cannot be sent; delete channels or split the node's load"),
    }
    Ok(())
}
