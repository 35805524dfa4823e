//! The console's style sheet and script: in the program, at URLs that change with their content.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::access::secret::hash;

/// A browser need not ask again: another content has another URL.
const FOREVER: &str = "public, max-age=31536000, immutable";
/// Digits of the hash in a URL.
const DIGITS: usize = 16;

struct Asset {
    name: String,
    media_type: &'static str,
    content: &'static str,
}

static STYLE: LazyLock<Asset> =
    LazyLock::new(|| asset("console", "css", "text/css; charset=utf-8", include_str!("console.css")));
static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| asset("console", "js", "text/javascript; charset=utf-8", include_str!("console.js")));
static ICON: LazyLock<Asset> = LazyLock::new(|| asset("shoal", "svg", "image/svg+xml", include_str!("shoal.svg")));

fn asset(name: &str, end: &str, media_type: &'static str, content: &'static str) -> Asset {
    let digits: String = hash(content).chars().take(DIGITS).collect();
    Asset { name: format!("{name}-{digits}.{end}"), media_type, content }
}

pub(super) fn style_url() -> String {
    format!("/console/assets/{}", STYLE.name)
}

pub(super) fn script_url() -> String {
    format!("/console/assets/{}", SCRIPT.name)
}

pub(super) fn icon_url() -> String {
    format!("/console/assets/{}", ICON.name)
}

pub(super) async fn serve(Path(name): Path<String>) -> Response {
    match [&*STYLE, &*SCRIPT, &*ICON].into_iter().find(|asset| asset.name == name) {
        Some(asset) => ([(header::CONTENT_TYPE, asset.media_type), (header::CACHE_CONTROL, FOREVER)], asset.content)
            .into_response(),
        None => (StatusCode::NOT_FOUND, "there is no such file\n").into_response(),
    }
}
