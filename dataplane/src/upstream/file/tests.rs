use std::os::unix::fs::symlink;
use std::time::Duration;

use shoal_sys::arena::Arena;

use super::*;
use crate::testing::{Folder, folder, in_executor};

const LEN: usize = 600_000;

fn byte(at: usize) -> u8 {
    (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) as u8
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(byte).collect()
}

/// A root with a file, and a secret beside it.
fn media() -> (Folder, PathBuf) {
    let folder = folder();
    let root = folder.path().join("media");
    std::fs::create_dir_all(root.join("sub")).unwrap();
    std::fs::write(folder.path().join("secret"), "secret").unwrap();
    for name in ["a.ts", "sub/b.ts", "sp ace.ts", "100%.ts", "%zz"] {
        std::fs::write(root.join(name), bytes(LEN)).unwrap();
    }
    std::fs::write(root.join("empty"), "").unwrap();
    (folder, root)
}

fn whole(path: &str) -> Ask<'_> {
    Ask {
        path,
        range: None,
        known: None,
        revalidate: false,
        own_cors: false,
        asked: None,
        follow: None,
        cdn_loop: None,
    }
}

async fn status(root: &Path, path: &str) -> Result<u16, UpstreamError> {
    open(root, &whole(path), 0).await.map(|(head, _)| head.status)
}

/// Reads to the end, in blocks of 256 KiB, at most `limit` bytes at a time.
async fn read(body: &mut FileBody, limit: usize) -> Result<Vec<u8>, UpstreamError> {
    let arena = Arena::with_huge_max(4 << 20, 0).unwrap();
    let mut all = Vec::new();
    loop {
        let (block, filled) = body.fill(arena.alloc(256 << 10).unwrap(), limit).await;
        let (block, filled) = (block.unwrap().finish(), filled?);
        assert!(filled <= limit && filled == block.filled());
        if filled == 0 {
            return Ok(all);
        }
        all.extend_from_slice(block.bytes());
    }
}

#[test]
fn files_are_found_by_their_escaped_names() {
    let (_folder, root) = media();
    in_executor(move || async move {
        symlink("a.ts", root.join("link")).unwrap();
        symlink("../a.ts", root.join("sub/up")).unwrap();
        let found = [
            "a.ts",
            "/a.ts",
            "a.ts?x=1&y=../..",
            "sub/b.ts",
            "sub/../a.ts",
            "sp%20ace.ts",
            "100%25.ts",
            "100%.ts",
            "%zz",
            "%61.ts",
            "link",
            "sub/up",
        ];
        for path in found {
            let (head, mut body) = open(&root, &whole(path), 0).await.unwrap();
            assert_eq!((head.status, head.total), (200, Some(LEN as u64)), "{path}");
            assert!(read(&mut body, usize::MAX).await.unwrap() == bytes(LEN), "{path}");
        }
    });
}

#[test]
fn nothing_else_is_found_and_nothing_outside_the_root() {
    let (folder, root) = media();
    in_executor(move || async move {
        let outside = folder.path();
        symlink("../secret", root.join("out")).unwrap();
        symlink("..", root.join("outside")).unwrap();
        symlink(outside.join("secret"), root.join("absolute")).unwrap();
        symlink(root.join("a.ts"), root.join("absolute-inside")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        let (deep, long) = ("x/".repeat(3000), "x".repeat(300));
        let missing = [
            "",
            "/",
            ".",
            "..",
            "sub",
            "sub/",
            "missing",
            "a.ts/",
            "a.ts/x",
            "../secret",
            "/../secret",
            "sub/../../secret",
            "%2e%2e/secret",
            "%2E%2E/secret",
            "..%2fsecret",
            "sub%2fb.ts",
            "sub%2Fb.ts",
            "%2fetc/passwd",
            "//etc/passwd",
            "a.ts%00",
            "%00",
            "out",
            "outside/secret",
            "absolute",
            "absolute-inside",
            "loop",
            "pipe",
            &deep,
            &long,
        ];
        for path in missing {
            let (head, mut body) = open(&root, &whole(path), 0).await.unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!((head.status, head.total, head.length), (404, Some(0), Some(0)), "{path}");
            assert!(head.version_lines.is_empty() && read(&mut body, 10).await.unwrap().is_empty(), "{path}");
        }
        let error = status(&outside.join("gone"), "a.ts").await.unwrap_err();
        assert!(
            error.blames_origin() && error.to_string().contains("gone"),
            "no file is missing, the folder is: {error}"
        );
        assert!(status(&outside.join("secret"), "a.ts").await.is_err(), "the root is no folder");
    });
}

#[test]
fn ranges_are_cut_to_the_file() {
    let (_folder, root) = media();
    in_executor(move || async move {
        let size = LEN as u64;
        let cases = [
            ((0, None), 206, 0..LEN),
            ((0, Some(0)), 206, 0..1),
            ((262_143, Some(262_144)), 206, 262_143..262_145),
            ((5, Some(u64::MAX)), 206, 5..LEN),
            ((size - 1, None), 206, LEN - 1..LEN),
            ((size, None), 200, 0..LEN),
            ((u64::MAX, None), 200, 0..LEN),
        ];
        for (range, status, wanted) in cases {
            let (head, mut body) = open(&root, &Ask { range: Some(range), ..whole("a.ts") }, 0).await.unwrap();
            let length = wanted.len() as u64;
            assert_eq!((head.status, head.first, head.total), (status, wanted.start as u64, Some(size)), "{range:?}");
            assert_eq!((head.length, head.framing), (Some(length), BodyFraming::Length(length)), "{range:?}");
            assert!(read(&mut body, 100_000).await.unwrap() == bytes(LEN)[wanted], "{range:?}");
        }
        for range in [None, Some((0, None))] {
            let (head, mut body) = open(&root, &Ask { range, ..whole("empty") }, 0).await.unwrap();
            assert_eq!((head.status, head.total, head.framing), (200, Some(0), BodyFraming::None));
            assert!(read(&mut body, 10).await.unwrap().is_empty());
        }
        let (_, mut body) = open(&root, &whole("a.ts"), 0).await.unwrap();
        body.skip(599_990);
        assert!(read(&mut body, 4).await.unwrap() == bytes(LEN)[599_990..]);
        body.skip(u64::MAX);
        assert!(read(&mut body, 4).await.unwrap().is_empty());
    });
}

#[test]
fn a_version_is_known_by_size_and_time() {
    let (_folder, root) = media();
    in_executor(move || async move {
        let path = root.join("a.ts");
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789)).unwrap();
        let now = 1_700_000_001;
        let (head, _) = open(&root, &whole("a.ts"), now).await.unwrap();
        let lines = String::from_utf8(head.version_lines).unwrap();
        assert!(lines.starts_with("Last-Modified: Tue, 14 Nov 2023 22:13:20 GMT\r\nETag: \""), "{lines}");
        let known = head.validators;
        assert!(known.is_strong() && known.settled);
        assert!(!open(&root, &whole("a.ts"), 1_700_000_000).await.unwrap().0.validators.settled);

        let ask = |revalidate, range| Ask { known: Some(&known), revalidate, range, ..whole("a.ts") };
        let (head, mut body) = open(&root, &ask(true, None), now).await.unwrap();
        assert_eq!((head.status, read(&mut body, 10).await.unwrap().len()), (304, 0));
        assert_eq!(open(&root, &ask(false, Some((7, None))), now).await.unwrap().0.status, 206);

        // A nanosecond is enough to tell: the range is not of the version that was meant.
        file.set_modified(UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_790)).unwrap();
        assert_eq!(open(&root, &ask(true, None), now).await.unwrap().0.status, 200);
        let (head, _) = open(&root, &ask(false, Some((7, None))), now).await.unwrap();
        assert_eq!((head.status, head.first), (200, 0));
        assert!(!head.validators.same_bytes(&known));
    });
}

#[test]
fn a_file_that_changes_while_it_is_read_is_not_mixed() {
    let (_folder, root) = media();
    in_executor(move || async move {
        let path = root.join("a.ts");
        let changes: [fn(&Path); 4] = [
            |path| {
                let file = File::options().write(true).open(path).unwrap();
                file.write_all_at(b"other bytes", 500_000).unwrap();
                // Two writes within one tick of the kernel's clock have one time.
                file.set_modified(UNIX_EPOCH + Duration::from_secs(1)).unwrap();
            },
            |path| File::options().write(true).open(path).unwrap().set_len(100).unwrap(),
            |path| File::options().write(true).open(path).unwrap().set_len(0).unwrap(),
            |path| File::options().write(true).open(path).unwrap().set_len(LEN as u64 + 1).unwrap(),
        ];
        for (at, change) in changes.iter().enumerate() {
            std::fs::write(&path, bytes(LEN)).unwrap();
            let (_, mut body) = open(&root, &whole("a.ts"), 0).await.unwrap();
            let arena = Arena::with_huge_max(1 << 20, 0).unwrap();
            let (block, filled) = body.fill(arena.alloc(1000).unwrap(), 1000).await;
            assert_eq!(filled.unwrap(), 1000);
            assert!(block.unwrap().finish().bytes()[..] == bytes(1000));
            change(&path);
            let error = read(&mut body, 100_000).await.unwrap_err();
            assert!(matches!(error, UpstreamError::OtherVersion), "change {at}: {error}");
        }
        // One that is replaced as it should be, by renaming, is read to its end.
        std::fs::write(&path, bytes(LEN)).unwrap();
        let (_, mut body) = open(&root, &whole("a.ts"), 0).await.unwrap();
        std::fs::write(root.join("new"), "new").unwrap();
        std::fs::rename(root.join("new"), &path).unwrap();
        assert!(read(&mut body, 100_000).await.unwrap() == bytes(LEN));
        assert_eq!(open(&root, &whole("a.ts"), 0).await.unwrap().0.total, Some(3));
    });
}
