//! URIs inside HLS playlists and DASH manifests.

#![forbid(unsafe_code)]
