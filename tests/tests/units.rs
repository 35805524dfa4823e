//! The systemd units are what systemd takes them for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use shoal_tests::tool;

const UNITS: &[&str] =
    &["shoal-control.service", "shoal-dataplane.service", "shoal-dataplane.socket", "shoal-xdp.service"];

/// Exposure, times ten, above which a unit is not hardened (`systemd-analyze security`).
const MAX_EXPOSURE: &str = "30";

/// The units, with programs that exist in place of the installed ones.
fn installed(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("shoal-units-{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("the temporary folder is writable");
    for program in ["shoal-dataplane", "shoal-control", "shoal-xdp"] {
        let file = dir.join(program);
        fs::write(&file, "#!/bin/sh\n").expect("the temporary folder is writable");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    for unit in UNITS {
        let text = fs::read_to_string(source.join(unit)).expect("the unit is in the repository");
        assert!(text.contains("shoal"), "{unit} is empty");
        let text = text.replace("/usr/bin/shoal-", &format!("{}/shoal-", dir.display()));
        fs::write(dir.join(unit), text).expect("the temporary folder is writable");
    }
    dir
}

#[test]
fn systemd_accepts_the_units() {
    let Some(analyze) = tool::need("systemd_accepts_the_units", "systemd-analyze") else { return };
    let dir = installed("verify");
    let mut command = Command::new(analyze);
    // Manual pages of a package that is not installed are no fault of a unit.
    command.args(["verify", "--man=no", "--recursive-errors=no"]).args(UNITS.iter().map(|unit| dir.join(unit)));
    let output = tool::run(&mut command);
    let said = String::from_utf8_lossy(&output.stderr);
    drop(fs::remove_dir_all(&dir));
    assert!(output.status.success() && !said.contains("shoal"), "{}\n{said}", output.status);
}

#[test]
fn services_are_hardened() {
    let Some(analyze) = tool::need("services_are_hardened", "systemd-analyze") else { return };
    let dir = installed("security");
    for unit in UNITS.iter().filter(|unit| unit.ends_with(".service")) {
        let mut command = Command::new(&analyze);
        command.args(["security", "--offline=true", "--no-pager", "--threshold", MAX_EXPOSURE]).arg(dir.join(unit));
        let output = tool::run(&mut command);
        assert!(
            output.status.success(),
            "{unit}:\n{}{}",
            tool::stdout(&output),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    drop(fs::remove_dir_all(&dir));
}
