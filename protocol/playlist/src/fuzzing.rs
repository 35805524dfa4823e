//! What the fuzz target and the replay of its corpus call.

use crate::{Addition, add_query_dash, add_query_hls};

/// Rewrites `body` as either kind, and checks what must hold for any body.
///
/// # Panics
/// When it does not hold.
pub fn playlist(body: &[u8]) {
    for rewrite in [add_query_hls, add_query_dash] {
        let addition = Addition { query: "ticket=AAAA", authorities: &["edge.example:8080"] };
        let mut once = Vec::new();
        if rewrite(body, &addition, &mut once).is_err() {
            assert!(once.is_empty(), "an error leaves nothing behind");
            continue;
        }
        let mut twice = Vec::new();
        let result = rewrite(&once, &addition, &mut twice);
        if result.is_ok() {
            assert_eq!(once, twice, "a second run changes nothing");
        }
        // A ticket added by one viewer's run never outlives another's.
        let other = Addition { query: "ticket=BBBB", ..addition };
        let (mut fresh, mut replaced) = (Vec::new(), Vec::new());
        if rewrite(body, &other, &mut fresh).is_ok() && rewrite(&once, &other, &mut replaced).is_ok() {
            assert_eq!(fresh, replaced, "another ticket replaces the first");
        }
    }
}
