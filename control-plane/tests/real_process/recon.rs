//! Logs of CDNs, by `shoalctl` into the real process.

use std::fs;

use crate::ctl::Ctl;
use crate::support::{Control, Dir};

#[test]
fn logs_are_imported_once_and_listed() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    control.put("a");
    let ctl = Ctl::new(&dir, &control);
    let set = ctl.good(&["recon", "provider", "cdn", "--origins", "main", "--edges", "192.0.2.0/24,2001:db8::/32"]);
    assert_eq!(set, "provider cdn is set\n");
    assert!(ctl.good(&["recon", "providers"]).contains("192.0.2.0/24,2001:db8::/32"));

    let line = |second: u32| {
        format!(
            "202405010000{second:02} 198.51.100.1 edge.test /a/some/folders/of/a/longer/path/x.ts 518 22 2 206 NULL 12 \"UA\" \"-\" GET HTTP/1.1 hit\n"
        )
    };
    // Longer than any other body may be.
    let log: String = (0..10_000).map(|n| line(n % 60)).chain(["no line\n".to_owned()]).collect();
    assert!(log.len() > 1 << 20);
    let file = dir.path().join("cdn.log");
    fs::write(&file, &log).unwrap();
    let import = ["recon", "import", file.to_str().unwrap(), "--provider", "cdn", "--format", "tencent"];
    let done = ctl.good(&import);
    assert!(
        done.starts_with("10000 of 10001 lines counted, 5180000 bytes; 0 counted before, 0 of no channel, 1 not of"),
        "{done}"
    );
    assert!(done.contains("line 10001: ") && done.ends_with(": no line\n"), "{done}");
    assert!(ctl.good(&import).starts_with("these very bytes were imported before"));
    let (code, out, _) = ctl.run_with(&["recon", "import", "-", "--provider", "cdn", "--format", "tencent"], &line(7));
    assert!(code == 0 && out.starts_with("0 of 1 lines counted, 0 bytes; 1 counted before"), "{out}");
    let list = ctl.json(&["recon", "imports"]);
    let imports = list["items"].as_array().unwrap();
    assert_eq!(imports.len(), 2);

    // After a kill it is all there, and taken back it is not.
    control.kill();
    let control = Control::start(&dir);
    let ctl = Ctl::new(&dir, &control);
    assert_eq!(ctl.json(&["recon", "imports", "--provider", "cdn"]), list);
    for import in imports {
        ctl.good(&["recon", "forget", "cdn", import["digest"].as_str().unwrap()]);
    }
    assert!(ctl.good(&import).starts_with("10000 of 10001 lines counted"));

    assert!(
        ctl.good(&["recon", "limit", "default", "--percent", "2.5"]).starts_with("beyond 2.5 %, from 67108864 bytes")
    );
    let (code, _, err) = ctl.run(&["recon", "import", file.to_str().unwrap(), "--provider", "cdn", "--format", "w3c"]);
    assert!(code == 1 && err.contains("#Fields"), "{err}");
    let (code, _, err) = ctl.run(&["recon", "import", "/nowhere", "--provider", "cdn", "--format", "w3c"]);
    assert!(code == 2 && err.contains("/nowhere"), "{err}");
}
