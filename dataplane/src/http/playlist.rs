//! Playlists that carry the viewer's ticket on their URIs. The cached copy stays as it is.

use shoal_playlist::{Addition, MAX_BODY, add_query_dash, add_query_hls};

use super::body::BodySender;
use crate::slices::flight::BlockError;

/// The playlist with `ticket` on each URI that leads here. `None`: it is none, or too long; to be sent as it is.
pub async fn rewritten(
    body: &mut BodySender<'_>,
    path: &str,
    ticket: &str,
    host: Option<&str>,
) -> Result<Option<Vec<u8>>, BlockError> {
    let Some(bytes) = body.collect(MAX_BODY).await? else { return Ok(None) };
    let authorities: &[&str] = &[host.unwrap_or_default()];
    let addition = Addition { query: ticket, authorities: if host.is_some() { authorities } else { &[] } };
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 2);
    let is_dash = path.rsplit('.').next().is_some_and(|extension| extension.eq_ignore_ascii_case("mpd"));
    let add = if is_dash { add_query_dash } else { add_query_hls };
    match add(&bytes, &addition, &mut out) {
        Ok(()) => Ok(Some(out)),
        Err(error) => {
            tracing::debug!(%error, "a playlist is sent without tickets");
            Ok(None)
        }
    }
}
