//! A local folder as an origin: served like any other, and nothing outside of it.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::json;
use shoal_tests::client::{self, Request, Response};
use shoal_tests::content::Content;
use shoal_tests::lab::Lab;
use shoal_tests::rng::{Rng, seed};
use shoal_tests::verdict::Spec;
use shoal_tests::with_one_and_four_shards;

with_one_and_four_shards!(a_folder_is_an_origin);

const BLOCK: u64 = 64 << 10;

fn a_folder_is_an_origin(shards: u32) {
    let mut rng = Rng::new(seed());
    let lab = Lab::start(shards);
    let folder = lab.dir().join("media");
    fs::create_dir_all(folder.join("sub dir")).expect("our own folder");
    let sizes = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 7 * BLOCK + 5];
    for size in sizes {
        let bytes = Content::new("file", 0).bytes(0, size as usize);
        fs::write(folder.join(format!("{size}.bin")), bytes).expect("our own folder");
    }
    fs::write(folder.join("sub dir/ü.txt"), "fine").expect("our own folder");
    fs::write(lab.dir().join("secret.txt"), "secret").expect("our own folder");
    symlink(lab.dir().join("secret.txt"), folder.join("link.txt")).expect("our own folder");
    lab.put_channel(&json!({
        "id": "disk", "prefix": "/disk/", "cache": {"default_ttl_ms": 500},
        "origins": [{"id": "folder", "url": format!("file:{}", folder.display())}]
    }));
    let get = |target: &str| client::expect(lab.http(), &Request::get(target));

    let right = |answer: &Response, first: u64, len: u64| {
        answer.body.len() as u64 == len && Content::new("file", 0).first_difference(first, &answer.body).is_none()
    };
    for size in sizes {
        let path = format!("/disk/{size}.bin");
        let whole = get(&path);
        assert!(whole.status() == 200 && right(&whole, 0, size), "{path}: {:?}", whole.head);
        for _ in 0..40 {
            let spec = Spec::random(&mut rng, size, BLOCK);
            let answer = client::expect(lab.http(), &Request::range(&path, &format!("bytes={spec}")));
            match spec.resolve(size) {
                Some((first, last)) => {
                    assert!(answer.status() == 206 && right(&answer, first, last + 1 - first), "{spec} of {path}");
                }
                None => assert!(matches!(answer.status(), 200 | 416), "{spec} of {path}: {:?}", answer.head),
            }
        }
    }
    let tagged = get("/disk/1.bin");
    let again = Request::get("/disk/1.bin").header("If-Modified-Since", tagged.field("last-modified"));
    assert_eq!(client::expect(lab.http(), &again).status(), 304);
    assert_eq!(get("/disk/sub%20dir/%C3%BC.txt").text(), "fine");

    // What is not below the folder is not there.
    for path in [
        "missing.bin",
        "sub%20dir",
        "sub%20dir/",
        "",
        "../secret.txt",
        "%2e%2e/secret.txt",
        "..%2fsecret.txt",
        "sub%20dir/../../secret.txt",
        "link.txt",
        "/etc/passwd",
        "1.bin/",
        "1.bin/x",
    ] {
        let answer = get(&format!("/disk/{path}"));
        assert!(matches!(answer.status(), 400 | 403 | 404), "{path}: {} {}", answer.status(), answer.text());
        assert!(!answer.text().contains("secret\n") && answer.text() != "secret", "{path}");
    }

    // A file that is replaced is a new version, once the old one is no longer fresh.
    let path = folder.join("65536.bin");
    fs::write(&path, Content::new("file", 1).bytes(0, BLOCK as usize)).expect("our own folder");
    let file = File::options().write(true).open(&path).expect("our own file");
    file.set_modified(SystemTime::now() + Duration::from_secs(5)).expect("our own file");
    thread::sleep(Duration::from_millis(1000));
    let new = get("/disk/65536.bin");
    assert_eq!(new.body.len() as u64, BLOCK);
    assert_eq!(Content::new("file", 1).first_difference(0, &new.body), None);
    lab.report_handovers("files");
}
