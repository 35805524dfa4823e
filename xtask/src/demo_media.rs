//! `cargo xtask demo-media`: makes the sample video in demo/media with ffmpeg's test sources.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::{tools, workspace};

/// The playlist, below demo/media.
pub(crate) const PLAYLIST: &str = "hls/index.m3u8";

/// The MP4, below demo/media.
pub(crate) const MP4: &str = "video.mp4";

/// Length of the video. 24 s are six segments: enough to seek in, small enough for a repository.
const SECONDS: u32 = 24;

/// Length of a segment.
const SEGMENT_SECONDS: u32 = 4;

const FRAME_RATE: u32 = 25;

/// Makes it anew.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    anyhow::ensure!(tools::find("ffmpeg").is_some(), "ffmpeg is not installed; its Debian package is ffmpeg");
    let media = workspace::root().join("demo/media");
    drop(fs::remove_dir_all(&media));
    fs::create_dir_all(media.join("hls"))?;
    encode(&media)?;
    segment(&media)?;
    let playlist = fs::read_to_string(media.join(PLAYLIST))?;
    println!("{} segments in {}", playlist.matches("#EXTINF").count(), media.display());
    Ok(ExitCode::SUCCESS)
}

/// A moving test picture with the time in it, and a tone that beeps once a second.
fn encode(media: &Path) -> anyhow::Result<()> {
    let picture = format!("testsrc2=size=640x360:rate={FRAME_RATE}:duration={SECONDS}");
    let tone = format!("sine=frequency=330:beep_factor=4:sample_rate=48000:duration={SECONDS}");
    let time = "drawtext=text='shoal  %{pts\\:hms}':font=monospace:fontsize=36:fontcolor=white:box=1:boxcolor=black@0.6:\
                boxborderw=12:x=(w-tw)/2:y=h-80";
    let keyframes = (FRAME_RATE * SEGMENT_SECONDS).to_string();
    let mut ffmpeg = ffmpeg();
    ffmpeg.args(["-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", &tone, "-vf", time]);
    // Main profile, 4:2:0: every browser has it. Key frames at segment borders and nowhere else.
    ffmpeg.args([
        "-c:v",
        "libx264",
        "-profile:v",
        "main",
        "-level",
        "3.0",
        "-pix_fmt",
        "yuv420p",
        "-preset",
        "veryslow",
    ]);
    ffmpeg.args(["-crf", "34", "-maxrate", "160k", "-bufsize", "320k"]);
    ffmpeg.args(["-g", &keyframes, "-keyint_min", &keyframes, "-sc_threshold", "0"]);
    ffmpeg.args(["-c:a", "aac", "-ac", "1", "-b:a", "32k"]);
    // The index first, so that a player can seek before it has the rest.
    ffmpeg.args(["-movflags", "+faststart", "-map_metadata", "-1", "-fflags", "+bitexact"]);
    ffmpeg.args(["-flags:v", "+bitexact", "-flags:a", "+bitexact"]);
    workspace::run(ffmpeg.arg(media.join(MP4)))
}

/// The same pictures as HLS.
fn segment(media: &Path) -> anyhow::Result<()> {
    let mut ffmpeg = ffmpeg();
    ffmpeg.arg("-i").arg(media.join(MP4)).args(["-c", "copy", "-f", "hls", "-hls_playlist_type", "vod"]);
    ffmpeg.args(["-hls_time", &SEGMENT_SECONDS.to_string(), "-hls_flags", "independent_segments"]);
    ffmpeg.args(["-fflags", "+bitexact", "-hls_segment_filename"]).arg(media.join("hls/segment-%02d.ts"));
    workspace::run(ffmpeg.arg(media.join(PLAYLIST)))
}

fn ffmpeg() -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"]);
    command
}
