//! `scripts/claim-thing`: a device gets its own certificate with one that many share, from a broker that provisions as
//! AWS IoT Core does (`harness::fleet`).

use std::{
    fs,
    os::unix::{fs::MetadataExt, fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{
    AwsLike, Fleet, Killer, Program, SOON, certs, fleet,
    moto::{ScriptOutcome, copy_of_scripts},
    program, temp_dir,
};

struct Device {
    fleet: Arc<Fleet>,
    broker: AwsLike,
    scripts: TempDir,
    parent: TempDir,
    path: String,
}

impl Device {
    fn new() -> Self {
        Self::of(Fleet::new("pumps", &["SerialNumber"]))
    }

    fn of(fleet: Fleet) -> Self {
        let fleet = Arc::new(fleet);
        let parent = temp_dir();
        let claim = parent.path().join("claim");
        fs::create_dir(&claim).unwrap();
        // As they are downloaded from the console.
        let device = &certs().device;
        fs::copy(&device.cert, claim.join("0123-certificate.pem.crt")).unwrap();
        let key = claim.join("0123-private.pem.key");
        fs::copy(&device.key, &key).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        fs::copy(&certs().ca, claim.join("AmazonRootCA1.pem")).unwrap();
        fs::write(claim.join("endpoint"), "localhost\n").unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        Self {
            broker: AwsLike::builder().fleet(Arc::clone(&fleet)).start(),
            fleet,
            scripts: copy_of_scripts(),
            parent,
            path: format!("{}:{path}", program::directory().display()),
        }
    }

    fn dir(&self) -> PathBuf {
        self.parent.path().join("made too").join("my certs")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.scripts.path().join("claim-thing"));
        command.arg("--claim").arg(self.parent.path().join("claim"));
        command.args(args);
        command
            .env("PATH", &self.path)
            .env("TMPDIR", self.parent.path());
        command.env("IOT_PORT", self.broker.port().to_string());
        command.stdin(Stdio::null()).process_group(0);
        command
    }

    /// With the usual template and parameter.
    fn usual(&self, args: &[&str]) -> Command {
        let mut command = self.command(&["--template", "pumps"]);
        command
            .args(args)
            .arg(self.dir())
            .arg("SerialNumber=pump-7");
        command
    }

    fn claim(&self, args: &[&str]) -> ScriptOutcome {
        ScriptOutcome::of(self.usual(args).output().unwrap())
    }

    /// What is in the directory connects as its thing, and as nothing else.
    fn expect_usable(&self, thing: &str) {
        let publish = |id: &[&str]| {
            let program = Program::publisher().args(["-m", "21.5", "--flush-timeout", "3"]);
            let program = program
                .arg("--config")
                .arg(self.dir().join("iot-pubsub.toml"));
            let port = self.broker.port().to_string();
            program.args(["--port", &port]).args(id).run(SOON)
        };
        publish(&[]).expect_code(0);
        publish(&["-i", "another"]).expect_code(77);
        let record = fs::read_to_string(self.dir().join("claimed-thing")).unwrap();
        let (name, id) = record.trim().split_once(' ').unwrap();
        assert_eq!(name, thing);
        assert!(self.fleet.certificates_of(thing).contains(&id.to_owned()));
    }

    /// Key and directory are for this group.
    fn expect_readable_for(&self, group: &str) {
        let group = nix::unistd::Group::from_name(group).unwrap().unwrap();
        let key = self.dir().join("private.pem.key");
        let configuration = self.dir().join("device-configuration.json");
        for (path, expected) in [(key, 0o640), (configuration, 0o640), (self.dir(), 0o750)] {
            assert_eq!(mode(&path), expected, "{}", path.display());
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!(metadata.gid(), group.gid.as_raw(), "{}", path.display());
            assert_eq!(metadata.uid(), nix::unistd::geteuid().as_raw());
        }
    }

    /// A certificate is there only with its key.
    fn expect_whole(&self) {
        if self.dir().join("device.pem.crt").exists() {
            self.expect_usable("pump-7");
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_device_gets_its_own_certificate_and_connects_with_it() {
    let configuration = json!({"thingName": "not this one", "site": [7, {"unit": "°C"}]});
    let fleet = Fleet::new("pumps", &["SerialNumber", "Site"]);
    let device = Device::of(fleet.device_configuration(configuration.clone()));
    let mut claim = device.usual(&["--topic", "site/7/{thing}"]);
    let claim = claim.arg("Site=the \"old\" one\\=7");
    // For other runs of the programs.
    let elsewhere = device.parent.path().join("elsewhere");
    for (name, value) in [
        ("IOT_ENDPOINT", "nowhere.invalid"),
        ("IOT_OUTPUT", elsewhere.to_str().unwrap()),
        ("IOT_STATE", elsewhere.to_str().unwrap()),
        ("IOT_METRICS", elsewhere.to_str().unwrap()),
    ] {
        claim.env(name, value);
    }
    ScriptOutcome::of(claim.output().unwrap()).expect(
        0,
        &[
            "made: certificate ",
            "of the thing pump-7, from a request: its key was not sent",
        ],
    );
    let dir = device.dir();
    assert!(!elsewhere.exists());
    device.expect_usable("pump-7");
    for (name, expected) in [
        ("private.pem.key", 0o600),
        ("device-configuration.json", 0o600),
        ("device.pem.crt", 0o644),
        ("AmazonRootCA1.pem", 0o644),
        ("endpoint", 0o644),
        ("iot-pubsub.toml", 0o644),
    ] {
        assert_eq!(mode(&dir.join(name)), expected, "{name}");
    }
    assert!(!dir.join("new-pair").exists());
    let config = fs::read_to_string(dir.join("iot-pubsub.toml")).unwrap();
    assert!(config.contains("topic = \"site/7/pump-7\""), "{config}");
    let written = fs::read(dir.join("device-configuration.json")).unwrap();
    let written: serde_json::Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(written, configuration);
    let requests = device.fleet.requests();
    let topics: Vec<_> = requests.iter().map(|(topic, _)| &**topic).collect();
    assert_eq!(
        topics,
        [
            fleet::CREATE,
            "$aws/provisioning-templates/pumps/provision/json"
        ]
    );
    assert!(
        !requests[0].1.to_string().contains("PRIVATE"),
        "{requests:?}"
    );
    assert_eq!(requests[1].1["parameters"]["Site"], "the \"old\" one\\=7");

    // Once more: nothing.
    let before = fs::read(dir.join("device.pem.crt")).unwrap();
    device
        .claim(&[])
        .expect(0, &["nothing to do", "the thing pump-7"]);
    assert_eq!(fs::read(dir.join("device.pem.crt")).unwrap(), before);
    assert_eq!(device.fleet.requests().len(), 2);
}

#[test]
fn a_certificate_of_somebody_else_is_left_alone_and_replaced_only_when_asked() {
    let device = Device::new();
    let dir = device.dir();
    fs::create_dir_all(&dir).unwrap();
    fs::copy(&certs().device.cert, dir.join("device.pem.crt")).unwrap();
    device
        .claim(&[])
        .expect(78, &["device.pem.crt: is there already", "--replace"]);
    fs::remove_file(dir.join("device.pem.crt")).unwrap();
    fs::copy(&certs().device.key, dir.join("private.pem.key")).unwrap();
    device
        .claim(&[])
        .expect(78, &["has a key and no device.pem.crt"]);
    assert_eq!(device.fleet.requests().len(), 0);
    fs::copy(&certs().device.cert, dir.join("device.pem.crt")).unwrap();
    let provisioned = dir.join("provisioned-thing");
    fs::write(&provisioned, "pump-7 arn policy\n").unwrap();
    // In the middle of a rotation.
    let earlier = dir.join("pair-0123456789ab");
    for pair in [&earlier, &dir.join("pair-ba9876543210")] {
        fs::create_dir(pair).unwrap();
        fs::write(pair.join("provisioned-thing"), "pump-7 arn policy\n").unwrap();
    }
    std::os::unix::fs::symlink("pair-ba9876543210", dir.join("pair")).unwrap();
    for args in [&[][..], &["--replace"]] {
        device
            .claim(args)
            .expect(78, &["provisioned-thing", "provision-thing --rotate"]);
        assert!(earlier.join("provisioned-thing").exists());
    }
    for pair in [earlier, dir.join("pair-ba9876543210")] {
        fs::remove_dir_all(pair).unwrap();
    }
    fs::remove_file(dir.join("pair")).unwrap();
    fs::remove_file(provisioned).unwrap();
    device.claim(&["--replace"]).expect(0, &["changed: "]);
    device.expect_usable("pump-7");

    let configuration = json!({"password": "p"});
    let device = Device::of(
        Fleet::new("pumps", &["SerialNumber"]).device_configuration(configuration.clone()),
    );
    let dir = device.dir();

    device.claim(&[]).expect(0, &["made: certificate"]);
    let pair = |name: &str| fs::read(dir.join(name)).unwrap();
    let (key, certificate) = (pair("private.pem.key"), pair("device.pem.crt"));
    let record = fs::read_to_string(dir.join("claimed-thing")).unwrap();
    let id = record.trim().split_once(' ').unwrap().1;
    let next = format!("next: make the certificate {id} inactive at AWS");
    device
        .claim(&["--replace"])
        .expect(0, &["changed: ", &next]);
    device.expect_usable("pump-7");
    assert!(pair("private.pem.key") != key && pair("device.pem.crt") != certificate);
    assert_eq!(device.fleet.certificates_of("pump-7").len(), 2);
    device.claim(&[]).expect(0, &["nothing to do"]);
    let of_template =
        |name: &str| -> serde_json::Value { serde_json::from_slice(&pair(name)).unwrap() };
    assert_eq!(of_template("device-configuration.json"), configuration);
    assert_eq!(mode(&dir.join("device-configuration.json")), 0o600);
    device
        .fleet
        .alter_answers(&device.fleet.provision_topic(), |text| {
            text.replace("deviceConfiguration", "other")
        });
    device.claim(&["--replace"]).expect(0, &["changed: "]);
    device.expect_usable("pump-7");

    assert!(!dir.join("device-configuration.json").is_symlink());

    // A record that is damaged: nothing is asked for, and the remedy in the message is one.
    let requests = device.fleet.requests().len();
    fs::write(dir.join("claimed-thing"), "").unwrap();
    for args in [&[][..], &["--replace"]] {
        device
            .claim(args)
            .expect(78, &["claimed-thing: does not hold", "--replace"]);
    }
    assert_eq!(device.fleet.requests().len(), requests);
    fs::remove_file(dir.join("claimed-thing")).unwrap();
    device.claim(&["--replace"]).expect(0, &["changed: "]);
    device.expect_usable("pump-7");
}

#[test]
fn what_aws_rejects_is_said_in_one_line() {
    let hook = |given: &serde_json::Value| given["SerialNumber"] != "stolen";
    let device = Device::of(Fleet::new("pumps", &["SerialNumber"]).hook(hook));
    let run = |template: &str, parameters: &[&str]| {
        let mut command = device.command(&["--template", template]);
        command.arg(device.dir()).args(parameters);
        ScriptOutcome::of(command.output().unwrap())
    };
    run("pumps", &["Serial=pump-7"]).expect(
        78,
        &[
            "400 InvalidParameters: Parameter SerialNumber is required",
            "the template pumps",
        ],
    );
    run("pumps", &["SerialNumber=stolen"]).expect(
        77,
        &[
            "403 AccessDenied: The pre-provisioning hook denied it; ",
            "hook",
        ],
    );
    device.fleet.expire_tokens(true);
    run("pumps", &["SerialNumber=pump-7"]).expect(
        69,
        &["400 InvalidCertificateOwnershipToken: ", "run this again"],
    );
    device.fleet.expire_tokens(false);
    // The claim may not subscribe to the topics of another template.
    run("valves", &["SerialNumber=pump-7"]).expect(
        77,
        &[
            "provisioning-templates/valves/provision/json",
            "refused the subscription",
        ],
    );
    assert!(!device.dir().join("device.pem.crt").exists());
    // Each began again with the same key.
    run("pumps", &["SerialNumber=pump-7"]).expect(0, &["made: certificate"]);
    let requests = device.fleet.requests();
    let keys = requests.iter().filter(|(topic, _)| topic == fleet::CREATE);
    let mut keys: Vec<_> = keys
        .map(|(_, request)| {
            let text = request["certificateSigningRequest"].as_str().unwrap();
            let request = openssl::x509::X509Req::from_pem(text.as_bytes()).unwrap();
            request.public_key().unwrap().public_key_to_der().unwrap()
        })
        .collect();
    assert_eq!(keys.len(), 5);
    keys.dedup();
    assert_eq!(keys.len(), 1);
    device.expect_usable("pump-7");
}

#[test]
fn a_certificate_for_another_key_and_a_broker_out_of_reach_are_no_success() {
    let device = Device::new();
    device.fleet.sign_another_key();
    device
        .claim(&[])
        .expect(76, &["no certificate for the key of this device"]);
    let nobody = crate::harness::free_port().to_string();
    let mut out_of_reach = device.usual(&["--timeout", "1"]);
    let out_of_reach = out_of_reach.env("IOT_PORT", nobody).output().unwrap();
    ScriptOutcome::of(out_of_reach).expect(69, &["localhost:"]);
    assert!(!device.dir().join("device.pem.crt").exists());
}

#[test]
fn an_answer_that_cannot_be_used_leaves_the_directory_as_it_was() {
    let device = Device::new();
    let dir = device.dir();
    let run = |args: &[&str], expect_as_before: &dyn Fn()| {
        for (answer, part) in [
            ("{a:1}", "no JSON object"),
            ("{\"a\"::1}", "no JSON object"),
            ("{,}", "no JSON object"),
            ("{\"a\":1,}", "no JSON object"),
            ("{\"a\"}", "no JSON object"),
            ("{}", "no certificate for the key"),
            ("{} {\"a\":\"b\"}", "no JSON object"),
            ("[1]", "no JSON object"),
            ("", "no JSON object"),
            ("{\"a\":\"b\"}", "no certificate for the key"),
        ] {
            device
                .fleet
                .alter_answers(fleet::CREATE, move |_| answer.to_owned());
            device.claim(args).expect(76, &[part]);
            expect_as_before();
        }
        let token = |text: String| text.replace("certificateOwnershipToken", "token");
        device.fleet.alter_answers(fleet::CREATE, token);
        device
            .claim(args)
            .expect(76, &["no certificateId or certificateOwnershipToken"]);
        expect_as_before();
        device.fleet.alter_answers(fleet::CREATE, |text| text);
        let provision = device.fleet.provision_topic();
        let no_name = |text: String| text.replace("thingName", "name");
        device.fleet.alter_answers(&provision, no_name);
        device.claim(args).expect(76, &["no usable thingName"]);
        expect_as_before();
        device.fleet.alter_answers(&provision, |text| text);
        device.claim(args).expect(0, &["made: certificate"]);
        device.expect_usable("pump-7");
    };
    run(&[], &|| {
        assert!(!dir.join("device.pem.crt").exists());
        assert!(!dir.join("private.pem.key").exists());
        assert!(dir.join("new-pair/private.pem.key").exists());
    });
    let pair = |name: &str| fs::read(dir.join(name)).unwrap();
    let before = (pair("device.pem.crt"), pair("private.pem.key"));
    run(&["--replace"], &|| {
        assert!(!dir.join("device.pem.crt").is_symlink());
        assert!(!dir.join("pair").exists());
        assert!(before == (pair("device.pem.crt"), pair("private.pem.key")));
    });
}

#[test]
fn an_answer_goes_to_the_connection_that_asked_with_either_version_of_mqtt() {
    let device = Device::new();
    let accepted = format!("{}/accepted", fleet::CREATE);
    let listener = Program::subscriber().at_port(device.broker.port());
    let listener = listener.args(["-i", "claim-listener", "-t", &accepted, "-d"]);
    let listener = listener.start();
    listener.wait_subscribed();
    // With the CA beside the script, and the endpoint as a flag.
    for name in ["AmazonRootCA1.pem", "endpoint"] {
        fs::remove_file(device.parent.path().join("claim").join(name)).unwrap();
    }
    device
        .claim(&[])
        .expect(64, &["--endpoint: is missing", "claim/endpoint"]);
    let mut claim = device.usual(&["--endpoint", "localhost"]);
    claim.env("IOT_MQTT_VERSION", "3.1.1");
    ScriptOutcome::of(claim.output().unwrap()).expect(0, &["made: certificate"]);
    let outcome = listener.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    outcome.expect_stdout("");
}

#[test]
fn what_is_typed_wrong_is_named() {
    let device = Device::new();
    let dir = device.dir();
    let dir = dir.to_str().unwrap();
    for (args, code, part) in [
        (&["--template", "pumps"][..], 64, "DIR: is missing"),
        (&[dir], 64, "--template"),
        (&["--template", "a/b", dir], 64, "a/b"),
        (
            &["--template", "pumps", dir, "SerialNumber"],
            64,
            "KEY=VALUE",
        ),
        (
            &["--template", "pumps", dir, "a=\n"],
            64,
            "control characters",
        ),
        (
            &["--template", "pumps", "--topic", "a\"b", dir],
            64,
            "--topic",
        ),
        (&["--template", "pumps", "--nosuch", dir], 64, "--nosuch"),
        (
            &["--template", "pumps", "--timeout", "1 h", dir],
            64,
            "--timeout",
        ),
        (&["--template", "pumps", "--csr", "x", dir], 64, "--key"),
        (
            &["--template", "pumps", "--group", "no such", dir],
            64,
            "no such group",
        ),
        (
            &["--template", "pumps", "--claim", "/none", dir],
            66,
            "/none",
        ),
        (&["--template", "pumps", "--key", "/none", dir], 66, "/none"),
    ] {
        let outcome = ScriptOutcome::of(device.command(args).output().unwrap());
        outcome.expect(code, &[part]);
    }
    assert_eq!(device.fleet.requests().len(), 0);
}

#[test]
fn a_group_may_read_the_key_and_a_given_key_stays_where_it_is() {
    let device =
        Device::of(Fleet::new("pumps", &["SerialNumber"]).device_configuration(json!({"a": 1})));
    // Any group but root's.
    device.claim(&["--group", "daemon"]).expect(0, &[]);
    device.expect_readable_for("daemon");
    // Without --group as it was, and with it as asked for.
    device.claim(&["--replace"]).expect(0, &["changed: "]);
    device.expect_readable_for("daemon");
    device
        .claim(&["--replace", "--group", "sys"])
        .expect(0, &["changed: "]);
    device.expect_readable_for("sys");
    assert_eq!(mode(device.dir().parent().unwrap()), 0o755);
    // Whoever owns it is warned of that.
    let check = Program::publisher().args(["check", "--takeover", "--allow-readable-key"]);
    let check = check.args(["--port", &device.broker.port().to_string(), "--config"]);
    check
        .arg(device.dir().join("iot-pubsub.toml"))
        .run(SOON)
        .expect_code(0);

    let device = Device::new();
    let key = device.parent.path().join("given \"key\"");
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-out"])
        .arg(&key)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    device
        .claim(&["--key", key.to_str().unwrap()])
        .expect(0, &[]);
    assert!(!device.dir().join("private.pem.key").exists());
    assert!(device.dir().join("device.csr").exists());
    device.expect_usable("pump-7");
}

#[test]
fn a_new_certificate_that_the_broker_does_not_accept_is_tried_again_by_the_next_run() {
    let device =
        Device::of(Fleet::new("pumps", &["SerialNumber"]).device_configuration(json!({"a": 1})));
    let dir = device.dir();
    // What the check connects to is what the directory says.
    fs::create_dir_all(&dir).unwrap();
    fs::write(
        dir.join("iot-pubsub.toml"),
        "endpoint = \"nowhere.invalid\"\ncerts = \".\"\n",
    )
    .unwrap();
    let refused = device.claim(&["--check-timeout", "0"]);
    refused.expect(69, &["is not accepted", "remove", "new-pair"]);
    for name in ["device.pem.crt", "device-configuration.json"] {
        assert!(!dir.join(name).exists());
    }
    let config = "endpoint = \"localhost\"\ncerts = \".\"\ntopic = \"t\"\nclient-id = \"pump-7\"\n";
    fs::write(dir.join("iot-pubsub.toml"), config).unwrap();
    device.claim(&[]).expect(0, &["done: "]);
    assert_eq!(device.fleet.certificates_of("pump-7").len(), 1);
    let kept = fs::read_to_string(dir.join("iot-pubsub.toml")).unwrap();
    assert_eq!(kept, config);
    device.expect_usable("pump-7");

    // Key and certificate are lost.
    for name in ["private.pem.key", "device.pem.crt"] {
        fs::remove_file(dir.join(name)).unwrap();
    }
    device.claim(&[]).expect(0, &["done: "]);
    device.expect_usable("pump-7");
}

#[test]
fn after_a_kill_at_each_step_the_same_command_completes_the_work() {
    let configuration = json!({"site": 7});
    let device = Device::of(
        Fleet::new("pumps", &["SerialNumber"]).device_configuration(configuration.clone()),
    );
    let killer = Killer::new();
    let run = |killer: &Killer, args: &[&str], check: &dyn Fn()| {
        killer.run(|| device.usual(args), &device.path, &device.dir(), check)
    };
    let kills = run(&killer, &[], &|| device.expect_whole());
    let steps = killer.steps();
    println!("{kills} kills: {steps}");
    for step in [
        fleet::CREATE,
        "provision/json",
        "publisher",
        "/device.pem.crt",
        "/device-configuration.json",
        "/claimed-thing",
    ] {
        assert!(steps.contains(step), "{step}: {steps}");
    }
    device.expect_usable("pump-7");
    assert!(!device.dir().join("new-pair").exists());
    device.claim(&[]).expect(0, &["nothing to do"]);

    let before = fs::read(device.dir().join("device.pem.crt")).unwrap();
    let killer = Killer::new();
    let kills = run(&killer, &["--replace"], &|| device.expect_usable("pump-7"));
    println!("{kills} kills: {}", killer.steps());
    assert!(kills >= 10, "{}", killer.steps());
    device.expect_usable("pump-7");
    assert!(fs::read(device.dir().join("device.pem.crt")).unwrap() != before);
    let written = fs::read(device.dir().join("device-configuration.json")).unwrap();
    let written: serde_json::Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(written, configuration);
}
