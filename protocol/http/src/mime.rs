//! Media types by file name.

/// Longest extension in [`TYPES`].
const LONGEST: usize = 5;

const TYPES: [(&str, &str); 40] = [
    // Streaming first: the table is searched from the top.
    ("ts", "video/mp2t"),
    ("m4s", "video/iso.segment"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("mpd", "application/dash+xml"),
    ("mp4", "video/mp4"),
    ("m4v", "video/mp4"),
    ("m4a", "audio/mp4"),
    ("cmfv", "video/mp4"),
    ("cmfa", "audio/mp4"),
    ("flv", "video/x-flv"),
    ("f4v", "video/mp4"),
    ("webm", "video/webm"),
    ("mkv", "video/x-matroska"),
    ("mov", "video/quicktime"),
    ("aac", "audio/aac"),
    ("mp3", "audio/mpeg"),
    ("ac3", "audio/ac3"),
    ("ec3", "audio/eac3"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("vtt", "text/vtt; charset=utf-8"),
    ("srt", "application/x-subrip"),
    ("ttml", "application/ttml+xml"),
    ("key", "application/octet-stream"),
    ("bin", "application/octet-stream"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("png", "image/png"),
    ("webp", "image/webp"),
    ("gif", "image/gif"),
    ("svg", "image/svg+xml"),
    ("ico", "image/vnd.microsoft.icon"),
    ("html", "text/html; charset=utf-8"),
    ("js", "text/javascript; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("json", "application/json"),
    ("swf", "application/vnd.adobe.flash.movie"),
    ("wasm", "application/wasm"),
    ("txt", "text/plain; charset=utf-8"),
];

/// Media type for the extension of a path's last segment, without regard to case; `None` when unknown.
#[must_use]
pub fn for_path(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next()?;
    let (_, extension) = name.rsplit_once('.')?;
    if extension.len() > LONGEST {
        return None;
    }
    TYPES.iter().find(|(known, _)| known.eq_ignore_ascii_case(extension)).map(|(_, media_type)| *media_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_extension() {
        for (path, expected) in [
            ("/a/live.m3u8", Some("application/vnd.apple.mpegurl")),
            ("/a/MANIFEST.MPD", Some("application/dash+xml")),
            ("/a/1.ts", Some("video/mp2t")),
            ("/a/1.m4s", Some("video/iso.segment")),
            ("/a/1.mp4", Some("video/mp4")),
            ("/a/1.flv", Some("video/x-flv")),
            ("/a/1.vtt", Some("text/vtt; charset=utf-8")),
            ("/a.ts/b", None),
            ("/a/b.", None),
            ("/a/b.unknown", None),
            ("/a/b.tar", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(for_path(path), expected, "{path}");
        }
    }

    #[test]
    fn the_table_is_sound() {
        for (i, (extension, media_type)) in TYPES.iter().enumerate() {
            assert!(extension.len() <= LONGEST, "{extension}");
            assert!(TYPES[..i].iter().all(|(other, _)| other != extension), "{extension} twice");
            assert!(media_type.contains('/'), "{media_type}");
        }
    }
}
