//! `scripts/provision-thing`, with the real AWS CLI against moto's server, and what `check` says
//! of the directory that it fills.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use serde_json::Value;

use crate::harness::{
    Program, SOON,
    moto::{Moto, ScriptOutcome, script},
    temp_dir,
};

/// Mode and time of change of each file.
fn state(dir: &Path) -> BTreeMap<String, (u32, i64, i64)> {
    let entries = dir.read_dir().unwrap().map(Result::unwrap);
    let seen = entries.map(|entry| {
        let meta = entry.metadata().unwrap();
        let name = entry.file_name().into_string().unwrap();
        (
            name,
            (
                meta.permissions().mode() & 0o777,
                meta.mtime(),
                meta.mtime_nsec(),
            ),
        )
    });
    seen.collect()
}

/// The steps of a check that went well.
fn passed(dir: &Path) -> Vec<String> {
    let check = Program::publisher()
        .args(["check", "--json", "--certs"])
        .arg(dir);
    let check = check.args(["--connect-timeout", "2"]).run(SOON);
    let report: Value = serde_json::from_str(&check.stdout.text()).unwrap();
    let steps = report["steps"].as_array().unwrap().iter();
    let passed = steps.filter(|step| step["status"] == "ok");
    passed
        .map(|step| step["step"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_thing_is_provisioned_once_checked_changed_and_deleted() {
    let moto = Moto::start();
    let parent = temp_dir();
    let dir = parent.path().join("certs");
    let first = moto.provision(&["pump-7"], &dir);
    first.expect(
        0,
        &[
            "made: thing pump-7",
            "made: certificate ",
            "publisher check --config",
        ],
    );

    let before = state(&dir);
    let mode = |name: &str| before.get(name).map(|(mode, ..)| *mode);
    assert_eq!(mode("private.pem.key"), Some(0o600), "{before:?}");
    assert_eq!(mode("device.pem.crt"), Some(0o644));
    assert_eq!(mode("AmazonRootCA1.pem"), Some(0o644));
    let endpoint = fs::read_to_string(dir.join("endpoint")).unwrap();
    assert!(
        endpoint
            .trim_end()
            .ends_with("-ats.iot.eu-central-1.amazonaws.com"),
        "{endpoint}"
    );

    // The endpoint's name is moto's invention; up to the name look-up all is in order.
    let in_order = [
        "CA file",
        "certificate file",
        "key file",
        "key and certificate",
        "dates",
    ];
    let steps = passed(&dir);
    assert!(
        in_order.iter().all(|step| steps.iter().any(|s| s == step)),
        "{steps:?}"
    );
    let config = dir.join("iot-pubsub.toml");
    let run = Program::one_message().arg("--config").arg(&config);
    let run = run.args(["--flush-timeout", "3"]).run(SOON).expect_code(69);
    run.expect_stderr("does not resolve");

    moto.provision(&["pump-7"], &dir)
        .expect(0, &["nothing to do: pump-7 is complete"]);
    assert_eq!(state(&dir), before, "a second run changes nothing");

    let policy = |version: &str| {
        let args = ["iot", "get-policy", "--policy-name", "pump-7-iot-pubsub"];
        let policy = moto.aws(&args);
        assert_eq!(policy["defaultVersionId"], version);
        let document: Value =
            serde_json::from_str(policy["policyDocument"].as_str().unwrap()).unwrap();
        document.to_string()
    };
    let document = policy("1");
    for part in [
        "client/pump-7",
        "topic/temperature",
        "topicfilter/temperature",
        "iot:Connect",
        "iot:Publish",
        "iot:Receive",
        "iot:Subscribe",
    ] {
        assert!(document.contains(part), "{part}: {document}");
    }
    assert!(
        !document.contains("\"*\"") && !document.contains("iot:*"),
        "{document}"
    );
    let topic = ["pump-7", "--topic", "site/1"];
    moto.provision(&topic, &dir)
        .expect(0, &["changed: policy", "site/1"]);
    assert!(policy("2").contains("topic/site/1"));

    let delete = ["pump-7", "--delete"];
    moto.provision(&delete, &dir)
        .expect(0, &["deleted: certificate", "deleted: thing pump-7"]);
    assert!(!dir.exists());
    for (what, list) in [
        ("things", "list-things"),
        ("certificates", "list-certificates"),
        ("policies", "list-policies"),
    ] {
        let left = moto.aws(&["iot", list]);
        assert_eq!(left[what].as_array().map(Vec::len), Some(0), "{left}");
    }
    moto.provision(&delete, &dir)
        .expect(0, &["nothing to do: pump-7 is not there"]);
}

#[test]
fn files_of_somebody_else_are_left_alone() {
    let moto = Moto::start();
    let dir = temp_dir();
    let key = dir.path().join("private.pem.key");
    fs::write(&key, "precious").unwrap();
    let before = state(dir.path());
    let refused = moto.provision(&["pump-7"], dir.path());
    refused.expect(78, &["private.pem.key"]);
    assert_eq!(state(dir.path()), before);
    assert_eq!(fs::read_to_string(&key).unwrap(), "precious");
    let things = moto.aws(&["iot", "list-things"]);
    assert_eq!(
        things["things"].as_array().map(Vec::len),
        Some(0),
        "{things}"
    );
}

#[test]
fn what_is_typed_wrong_and_a_cloud_out_of_reach_are_named() {
    let dir = temp_dir();
    let run =
        |args: &[&str]| ScriptOutcome::of(script("provision-thing").args(args).output().unwrap());
    for args in [
        &[][..],
        &["a b"],
        &["x", "y", "z"],
        &["--nosuch"],
        &["x", "--topic", "a/#"],
    ] {
        assert_eq!(run(args).code, Some(64), "{args:?}");
    }
    let moto = Moto::start();
    let mut out_of_reach = moto.script("provision-thing");
    let nobody = format!("http://127.0.0.1:{}", crate::harness::free_port());
    out_of_reach
        .env("PATH", moto.path_of_cli())
        .env("AWS_ENDPOINT_URL", nobody);
    let out_of_reach = out_of_reach.arg("pump-7").arg(dir.path().join("certs"));
    let out_of_reach = ScriptOutcome::of(out_of_reach.output().unwrap());
    assert_eq!(out_of_reach.code, Some(69), "{out_of_reach:#?}");
    assert_eq!(out_of_reach.stderr.lines().count(), 1, "{out_of_reach:#?}");
}
