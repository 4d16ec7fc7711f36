//! Keys and certificates over years: `scripts/provision-thing` with signing requests, with one policy for many things,
//! and `--rotate`, against moto and a broker that accepts the certificates that moto signs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    AwsLike, Killer, Program, SOON,
    moto::{Moto, ScriptOutcome},
    temp_dir,
};

struct Site {
    moto: Moto,
    broker: AwsLike,
    parent: TempDir,
}

impl Site {
    fn new() -> Self {
        Self::with_broker(AwsLike::builder().start())
    }

    fn with_broker(broker: AwsLike) -> Self {
        Self {
            moto: Moto::with_broker(broker.port()),
            broker,
            parent: temp_dir(),
        }
    }

    fn dir(&self) -> PathBuf {
        self.parent.path().join("my certs")
    }

    fn provision(&self, args: &[&str]) -> ScriptOutcome {
        self.moto.provision(args, &self.dir())
    }

    /// The broker accepts what is in use, and AWS has its certificate as active.
    fn expect_usable(&self) {
        let port = self.broker.port().to_string();
        let check = Program::publisher().args(["check", "-i", "pump-7-test", "--port", &port]);
        let check = check.arg("--certs").arg(self.dir());
        check.run(SOON).expect_code(0);
        assert_eq!(self.status(&certificate_in(&self.dir())), "ACTIVE");
    }

    fn certificates(&self) -> Vec<Value> {
        let answer = self.moto.aws(&["iot", "list-certificates"]);
        answer["certificates"].as_array().unwrap().clone()
    }

    fn status(&self, id: &str) -> String {
        let all = self.certificates();
        let found = all.iter().find(|c| c["certificateId"] == *id);
        found.map_or("gone".to_owned(), |c| {
            c["status"].as_str().unwrap().to_owned()
        })
    }

    /// What is left of an interrupted request is a certificate without rights.
    fn expect_one_in_use(&self) {
        let things = self
            .moto
            .aws(&["iot", "list-thing-principals", "--thing-name", "pump-7"]);
        assert_eq!(
            things["principals"].as_array().unwrap().len(),
            1,
            "{things}"
        );
        let all = self.certificates();
        let active = all.iter().filter(|c| c["status"] == "ACTIVE").count();
        assert_eq!(active, 1, "{all:?}");
        assert!(all.len() <= 2, "{all:?}");
        assert!(!self.dir().join("new-pair").exists());
    }
}

/// The identifier of the certificate that the directory says is in use.
fn certificate_in(dir: &Path) -> String {
    let record = fs::read_to_string(dir.join("provisioned-thing")).unwrap();
    let arn = record.split(' ').nth(1).unwrap();
    arn.rsplit('/').next().unwrap().trim().to_owned()
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = dir.read_dir().unwrap().map(Result::unwrap);
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A key and a signing request for it, outside of the directory.
fn request(dir: &Path, name: &str) -> PathBuf {
    let (key, csr) = (
        dir.join(format!("{name}.key")),
        dir.join(format!("{name}.csr")),
    );
    let made = Command::new("openssl")
        .args(["req", "-new", "-nodes", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=pump-7"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&csr)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    csr
}

#[test]
fn the_key_is_made_here_and_the_certificate_is_for_it() {
    let site = Site::new();
    site.provision(&["pump-7"])
        .expect(0, &["its key was not sent"]);
    let key = fs::read_to_string(site.dir().join("private.pem.key")).unwrap();
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"), "an EC key");
    site.expect_usable();
    site.provision(&["pump-7"])
        .expect(0, &["nothing to do: pump-7 is complete"]);
}

#[test]
fn a_request_is_enough_and_its_key_stays_elsewhere() {
    let site = Site::new();
    let [csr, other] = ["one", "two"].map(|name| request(site.parent.path(), name));
    let csr = csr.to_str().unwrap();
    site.provision(&["pump-7", "--csr", csr])
        .expect(0, &["made: certificate", "next: copy"]);
    let dir = site.dir();
    assert!(!dir.join("private.pem.key").exists());
    let port = site.broker.port().to_string();
    let check = Program::publisher().args(["check", "-e", "localhost", "--port", &port]);
    let check = check.arg("--cafile").arg(dir.join("AmazonRootCA1.pem"));
    let check = check.arg("--cert").arg(dir.join("device.pem.crt"));
    let check = check.arg("--key").arg(csr.replace(".csr", ".key"));
    check.run(SOON).expect_code(0);
    site.provision(&["pump-7"])
        .expect(0, &["nothing to do: pump-7 is complete"]);
    site.provision(&["pump-7", "--csr", other.to_str().unwrap()])
        .expect(78, &["two.csr: is not the request of", "--rotate"]);
    site.provision(&["pump-7", "--csr", "/etc/hostname"])
        .expect(66, &["/etc/hostname: is not a signing request"]);
    site.provision(&["pump-7", "--delete"])
        .expect(0, &["deleted: certificate"]);
    assert!(!dir.exists());
}

#[test]
fn one_policy_serves_many_things() {
    let site = Site::new();
    let dir = |name: &str| site.parent.path().join(name);
    let fleet = ["--policy", "fleet", "--topic", "site/{thing}/t"];
    for name in ["pump-7", "pump-8"] {
        let args = [&[name][..], &fleet].concat();
        site.moto
            .provision(&args, &dir(name))
            .expect(0, &["made: certificate"]);
        let config = fs::read_to_string(dir(name).join("iot-pubsub.toml")).unwrap();
        assert!(
            config.contains(&format!("topic = \"site/{name}/t\"")),
            "{config}"
        );
        site.moto
            .provision(&[name], &dir(name))
            .expect(0, &["nothing to do", "kept: policy fleet"]);
    }
    let policies = site.moto.aws(&["iot", "list-policies"]);
    assert_eq!(
        policies["policies"].as_array().unwrap().len(),
        1,
        "{policies}"
    );
    let policy = site
        .moto
        .aws(&["iot", "get-policy", "--policy-name", "fleet"]);
    let document = policy["policyDocument"].as_str().unwrap();
    let variable = "${iot:Connection.Thing.ThingName}";
    for part in [
        "client/",
        "client/V-*",
        "topic/site/V/t",
        "topicfilter/site/V/t",
    ] {
        let part = part.replace('V', variable);
        assert!(document.contains(&part), "{part}: {document}");
    }
    assert!(!document.contains("pump"), "{document}");
    site.moto
        .provision(&["pump-7", "--delete"], &dir("pump-7"))
        .expect(0, &["kept: policy fleet", "deleted: thing pump-7"]);
    site.moto
        .provision(&["pump-8"], &dir("pump-8"))
        .expect(0, &["nothing to do"]);
}

#[test]
fn a_thing_can_change_to_the_policy_of_many() {
    let site = Site::new();
    site.provision(&["pump-7"]).expect(0, &["made: policy"]);
    site.provision(&["pump-7", "--policy", "fleet"]).expect(
        0,
        &["made: policy fleet", "deleted: policy pump-7-iot-pubsub"],
    );
    let config = fs::read_to_string(site.dir().join("iot-pubsub.toml")).unwrap();
    assert!(
        config.contains("topic = \"pump-7/temperature\""),
        "{config}"
    );
    site.expect_usable();
    site.provision(&["pump-7"]).expect(0, &["nothing to do"]);
}

#[test]
fn a_rotation_replaces_the_pair_and_later_retires_the_old_certificate() {
    let site = Site::new();
    site.provision(&["pump-7"]).expect(0, &[]);
    let dir = site.dir();
    let (first, old_key) = (
        certificate_in(&dir),
        fs::read(dir.join("private.pem.key")).unwrap(),
    );
    let young = ["pump-7", "--rotate", "--if-older-than", "1d"];
    site.provision(&young).expect(0, &["nothing to do"]);
    site.provision(&["pump-7", "--rotate"])
        .expect(0, &["made: certificate", "changed: ", "active until"]);
    let second = certificate_in(&dir);
    assert_ne!(first, second);
    assert_ne!(old_key, fs::read(dir.join("private.pem.key")).unwrap());
    site.expect_usable();
    assert_eq!(site.status(&first), "ACTIVE");
    // Later runs retire the old one, and do not begin another rotation meanwhile.
    site.provision(&["pump-7", "--rotate"])
        .expect(0, &["active until"]);
    site.provision(&["pump-7"]).expect(0, &["nothing to do"]);
    assert_eq!(certificate_in(&dir), second);
    site.provision(&["pump-7", "--rotate", "--retire-after", "0"])
        .expect(
            0,
            &[
                "inactive: the new one has connected",
                "deleted: certificate",
            ],
        );
    assert_eq!(site.status(&first), "gone");
    site.expect_usable();
    site.expect_one_in_use();
    assert_eq!(
        entries(&dir)
            .iter()
            .filter(|n| n.starts_with("pair-"))
            .count(),
        1
    );
    // The next one, all at once.
    site.provision(&["pump-7", "--rotate", "--retire-after", "0"])
        .expect(0, &["made: certificate", "deleted: certificate"]);
    site.expect_usable();
    site.expect_one_in_use();
    site.provision(&["pump-7", "--delete"])
        .expect(0, &["deleted: the files"]);
    assert!(!dir.exists());
    assert!(site.certificates().is_empty());
}

/// Makes the configuration name a key outside of the directory.
fn name_key(config: &Path, key: &Path) {
    let text = fs::read_to_string(config).unwrap();
    let mut lines: Vec<_> = text
        .lines()
        .filter(|line| {
            !["certs", "cafile", "cert", "key"].contains(&line.split(' ').next().unwrap())
        })
        .collect();
    let files = format!(
        "cafile = \"AmazonRootCA1.pem\"\ncert = \"device.pem.crt\"\nkey = \"{}\"",
        key.display()
    );
    lines.insert(1, &files);
    fs::write(config, lines.join("\n") + "\n").unwrap();
}

#[test]
fn a_rotation_of_a_key_that_is_elsewhere_takes_a_request_of_it_or_of_a_new_one() {
    let site = Site::new();
    let outside = site.parent.path();
    let [csr, other] = ["one", "two"].map(|name| request(outside, name));
    let (csr_text, other_text) = (csr.to_str().unwrap(), other.to_str().unwrap());
    site.provision(&["pump-7", "--csr", csr_text])
        .expect(0, &[]);
    let dir = site.dir();
    let config = dir.join("iot-pubsub.toml");
    let first = certificate_in(&dir);
    let rotate = |more: &[&str]| {
        site.provision(&[&["pump-7", "--rotate", "--check-timeout", "0"], more].concat())
    };
    rotate(&[]).expect(64, &["device.csr: the key is elsewhere", "--csr"]);
    rotate(&["--csr", csr_text]).expect(78, &["names no key"]);
    let expect_accepted = |key: &Path| {
        let port = site.broker.port().to_string();
        let check = Program::publisher().args(["check", "-i", "pump-7-test", "--port", &port]);
        let check = check.arg("--config").arg(&config).arg("--key").arg(key);
        check.run(SOON).expect_code(0);
        assert_eq!(site.status(&certificate_in(&dir)), "ACTIVE");
        assert!(!dir.join("private.pem.key").exists());
    };

    // The same key: only the certificate is new.
    name_key(&config, &csr.with_extension("key"));
    rotate(&["--csr", csr_text]).expect(0, &["changed: ", "active until"]);
    let second = certificate_in(&dir);
    assert_ne!(first, second);
    expect_accepted(&csr.with_extension("key"));
    rotate(&["--retire-after", "0"]).expect(
        0,
        &[
            "inactive: the new one has connected",
            "deleted: certificate",
        ],
    );
    assert_eq!(site.status(&first), "gone");

    // A new key: nothing changes before the configuration names it.
    rotate(&["--csr", other_text]).expect(78, &["the pair in use is left as it is"]);
    assert_eq!(certificate_in(&dir), second);
    expect_accepted(&csr.with_extension("key"));
    rotate(&["--csr", csr_text]).expect(78, &["was begun with another key than that of"]);
    name_key(&config, &other.with_extension("key"));
    rotate(&["--csr", other_text]).expect(0, &["which was begun", "changed: ", "active until"]);
    assert_ne!(certificate_in(&dir), second);
    expect_accepted(&other.with_extension("key"));
    let in_use = fs::read_to_string(dir.join("device.csr")).unwrap();
    assert_eq!(in_use, fs::read_to_string(&other).unwrap());
    rotate(&["--retire-after", "0"]).expect(0, &["deleted: certificate"]);
    site.expect_one_in_use();
    site.provision(&["pump-7"]).expect(0, &["nothing to do"]);
}

#[test]
fn a_new_certificate_that_is_not_accepted_replaces_nothing() {
    let broker = AwsLike::builder().allow_client_ids(|id| id != "pump-7-check");
    let site = Site::with_broker(broker.start());
    site.provision(&["pump-7"]).expect(0, &[]);
    let first = certificate_in(&site.dir());
    let rotate = ["pump-7", "--rotate", "--check-timeout", "0"];
    for _ in 0..2 {
        site.provision(&rotate).expect(
            77,
            &["is not accepted, and the pair in use is left as it is"],
        );
        assert_eq!(certificate_in(&site.dir()), first);
        site.expect_usable();
    }
    assert_eq!(
        site.certificates().len(),
        2,
        "the second run went on with the same certificate"
    );
    site.provision(&["pump-7", "--delete"])
        .expect(0, &["deleted: the files"]);
    assert!(site.certificates().is_empty());
}

#[test]
fn after_a_kill_at_each_step_the_same_command_completes_the_work() {
    let site = Site::new();
    let killer = Killer::new();
    let run = |killer: &Killer, args: &[&str], check: &dyn Fn()| {
        let command = || {
            let mut run = site.moto.script("provision-thing");
            run.args(args).arg(site.dir());
            run.env("TMPDIR", site.parent.path());
            run
        };
        killer.run(command, site.moto.path(), &site.dir(), check)
    };
    let kills = run(&killer, &["pump-7"], &|| ());
    assert!(kills >= 8, "{:?}", killer.steps());
    site.expect_usable();
    site.expect_one_in_use();
    let left = site.certificates().len();

    let killer = Killer::new();
    let rotate = ["pump-7", "--rotate", "--retire-after", "0"];
    let first = certificate_in(&site.dir());
    let kills = run(&killer, &rotate, &|| site.expect_usable());
    println!("{kills} kills: {:?}", killer.steps());
    assert!(kills >= 18, "{:?}", killer.steps());
    site.expect_usable();
    assert_ne!(certificate_in(&site.dir()), first);
    assert_eq!(site.status(&first), "gone");
    // Of each request that was killed, a certificate is left that can do nothing.
    assert!(site.certificates().len() <= left + 1);
    site.provision(&["pump-7"]).expect(0, &["nothing to do"]);
}
