//! The packaged units.

use std::process::Command;

use super::*;

/// Runs `systemd-analyze`; true without it.
fn analyze(args: &[&str], unit: &Path) -> bool {
    let Ok(done) = Command::new("systemd-analyze")
        .args(args)
        .arg(unit)
        .output()
    else {
        return true;
    };
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    let text = text + &String::from_utf8_lossy(&done.stdout);
    let name = unit.file_name().unwrap().to_str().unwrap();
    let problems: Vec<_> = text
        .lines()
        .filter(|line| line.contains(name) && args[0] == "verify")
        .collect();
    assert!(done.status.success() && problems.is_empty(), "{text}");
    true
}

#[test]
fn the_units_are_valid_and_their_sandbox_leaves_an_exposure_below_3() {
    let dir = temp_dir();
    for program in ["publisher", "subscriber"] {
        let name = format!("iot-{program}@.service");
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("scripts/package.d")
            .join(&name);
        let text = fs::read_to_string(&source).unwrap();
        let metrics = format!("Environment=IOT_METRICS=%t/iot-pubsub/%i/{program}.prom");
        for line in [
            "Type=notify",
            "RuntimeDirectory=iot-pubsub/%i",
            "RuntimeDirectoryPreserve=yes",
            &metrics,
            "StartLimitIntervalSec=0",
            "Restart=always",
            "RestartPreventExitStatus=64 78",
            "ExecReload=kill -HUP $MAINPID",
        ] {
            assert!(text.lines().any(|l| l == line), "{name}: {line}");
        }
        analyze(&["security", "--offline=true", "--threshold=30"], &source);
        // The program need not be installed, and is not at its place of a package.
        let installed = dir.path().join(format!("iot-{program}@check.service"));
        fs::write(
            &installed,
            text.replace(&format!("ExecStart={program}"), "ExecStart=/bin/true"),
        )
        .unwrap();
        analyze(&["verify", "--man=no"], &installed);
    }
}
