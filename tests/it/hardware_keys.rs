//! Keys in a TPM and in a PKCS#11 token, which providers of OpenSSL open.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Public};
use tempfile::TempDir;

use crate::harness::certs::Pair;
use crate::harness::namespace::skipped;
use crate::harness::odd_certs::{Purpose, Recipe, file};
use crate::harness::process::command;
use crate::harness::tpm::{PASSWORD, Tpm, succeed};
use crate::harness::{Broker, Program, SOON, certs, temp_dir};

/// The device's certificate for this key, signed by the usual CA.
fn certificate(dir: &Path, key: &PKey<Public>) -> PathBuf {
    let issuer = certs().authority.issued();
    let pem = Recipe::new("device", Purpose::Client).certify(key, &issuer);
    file(dir, "device.pem.crt", pem)
}

fn with_new_key(tpm: &Tpm, dir: &Path, options: &[&str]) -> Pair {
    let key = tpm.new_key("key.pem", options);
    let cert = certificate(dir, &tpm.public_key(&key));
    Pair { cert, key }
}

fn connected(program: Program, broker: &Broker, pair: &Pair) -> Program {
    let program = program.endpoint(broker.port());
    program.ca(&certs().ca).identity(pair)
}

#[test]
fn readings_flow_with_a_key_in_a_tpm_and_a_check_passes() {
    let dir = temp_dir();
    let mut broker = Broker::start();
    let tpm = Tpm::with_resource_manager();
    let pair = with_new_key(&tpm, dir.path(), &[]);
    let with_tpm = |program| connected(tpm.given_to(program), &broker, &pair);

    let check = with_tpm(Program::publisher().arg("check")).run(SOON);
    let check = check.expect_code(0);
    assert!(
        check.stdout.text().contains("the key is in the TPM"),
        "{check}"
    );
    let backoff = ["--base-backoff", "0.2", "--max-backoff", "0.2"];
    let subscriber = Program::subscriber().args(["-t", "t", "-C", "2", "-d"]);
    let subscriber = with_tpm(subscriber.args(backoff)).start();
    subscriber.wait_subscribed();
    with_tpm(Program::one_message()).run(SOON).expect_code(0);
    subscriber.stdout_line(SOON, |line| line == "hello");

    // Each new connection is made with the TPM again.
    let granted = |line: &str| line.contains(": subscribed with QoS");
    let before = subscriber.stderr.count();
    broker.restart();
    let again = subscriber.stderr.wait_from(before, SOON, granted);
    assert!(again.is_some(), "{subscriber}");
    let with_tpm = |program| connected(tpm.given_to(program), &broker, &pair);
    with_tpm(Program::one_message()).run(SOON).expect_code(0);
    subscriber.finish(SOON).expect_code(0);
}

/// The CA's and the broker's keys are of a kind that this TPM does not have: it verifies nothing, and
/// the device's key is the only one in it.
#[test]
fn a_tpm_has_one_key_loaded_however_often_a_program_connects_and_none_afterwards() {
    const RECONNECTS: usize = 5;
    let dir = temp_dir();
    let recipe = |name, purpose| {
        let key = PKey::generate_ed25519().unwrap();
        Recipe::new(name, purpose)
            .key(key)
            .digest(MessageDigest::null())
    };
    let ca = recipe("ed25519 CA", Purpose::Ca).root();
    let server = recipe("localhost", Purpose::Server).by(&ca);
    let ca_file = file(dir.path(), "ca.pem", ca.pem());
    let server = server.write(dir.path(), &[]);
    let broker = Broker::builder().server(server).client_ca(ca_file.clone());
    let mut broker = broker.start();
    let tpm = Tpm::start();
    let key = tpm.new_key("key.pem", &[]);
    let pem = Recipe::new("device", Purpose::Client)
        .digest(MessageDigest::null())
        .certify(&tpm.public_key(&key), &ca);
    let pair = Pair {
        cert: file(dir.path(), "device.pem.crt", pem),
        key,
    };
    let port = broker.port();
    let with_tpm = |program: Program| {
        let program = tpm.given_to(program).endpoint(port);
        program.ca(&ca_file).identity(&pair)
    };
    let backoff = ["--base-backoff", "0.2", "--max-backoff", "0.2"];
    let subscriber = Program::subscriber().args(["-t", "t", "-d"]).args(backoff);
    let subscriber = with_tpm(subscriber).start();
    subscriber.wait_subscribed();
    let granted = |line: &str| line.contains(": subscribed with QoS");
    for _ in 0..RECONNECTS {
        let before = subscriber.stderr.count();
        broker.restart();
        let again = subscriber.stderr.wait_from(before, SOON, granted);
        assert!(again.is_some(), "{subscriber}");
    }
    let end = nix::sys::signal::Signal::SIGTERM;
    subscriber.finish_by(end, SOON).expect_code(0);
    assert_eq!(tpm.loaded_keys(), 0, "subscriber");

    with_tpm(Program::one_message()).run(SOON).expect_code(0);
    assert_eq!(tpm.loaded_keys(), 0, "publisher");
    with_tpm(Program::publisher().arg("check"))
        .run(SOON)
        .expect_code(0);
    assert_eq!(tpm.loaded_keys(), 0, "check");
    // One that never connects.
    broker.stop();
    let brief = ["--flush-timeout", "0.3"];
    with_tpm(Program::one_message().args(brief))
        .run(SOON)
        .expect_code(69);
    assert_eq!(tpm.loaded_keys(), 0, "offline");
}

#[test]
fn what_prevents_the_use_of_a_tpm_key_is_named() {
    let dir = temp_dir();
    let broker = Broker::start();
    let tpm = Tpm::with_resource_manager();
    let pair = with_new_key(&tpm, dir.path(), &[]);
    let offered = |program, pair| connected(program, &broker, pair);
    let with_tpm = |pair| offered(tpm.given_to(Program::one_message()), pair);
    let refused = |program: Program, code, parts: &[&str]| {
        program.run(SOON).expect_fault(code, parts);
    };

    // No provider is active; none is installed; the TPM is not there.
    let inactive = with_tpm(&pair).env("OPENSSL_CONF", "/dev/null");
    refused(
        inactive,
        78,
        &[
            "is a TPM key",
            "does not activate tpm2-openssl",
            "OPENSSL_CONF",
        ],
    );
    let missing = with_tpm(&pair).env("OPENSSL_CONF", "/dev/null");
    let missing = missing.env("OPENSSL_MODULES", dir.path().to_str().unwrap());
    refused(
        missing,
        78,
        &["no provider tpm2", "install tpm2-openssl", "OPENSSL_CONF"],
    );
    let unreachable = with_tpm(&pair).env("TPM2OPENSSL_TCTI", "swtpm:host=127.0.0.1,port=1");
    refused(
        unreachable,
        69,
        &[
            "the TPM cannot be reached",
            "IO failure",
            "TPM2OPENSSL_TCTI",
        ],
    );

    // Another TPM, another certificate, no TPM key.
    let other = Tpm::start();
    let elsewhere = offered(other.given_to(Program::one_message()), &pair);
    refused(elsewhere, 78, &["this TPM does not know it"]);
    let cert = certs().device.cert.clone();
    let mixed = Pair {
        cert,
        key: pair.key.clone(),
    };
    refused(with_tpm(&mixed), 78, &["is not the key of the certificate"]);
    let text = fs::read_to_string(&certs().ca).unwrap();
    let text = text.replace("CERTIFICATE", "TSS2 PRIVATE KEY");
    let key = file(dir.path(), "no.pem", text);
    let invalid = Pair {
        cert: pair.cert.clone(),
        key,
    };
    refused(with_tpm(&invalid), 78, &["what it holds is no TPM key"]);

    // A password.
    let locked = with_new_key(
        &tpm,
        dir.path(),
        &["-pkeyopt", &format!("user-auth:{PASSWORD}")],
    );
    refused(
        with_tpm(&locked),
        78,
        &["has a password", "--key-passphrase-file"],
    );
    let passphrase = |text| {
        let path = file(dir.path(), text, text);
        with_tpm(&locked).arg("--key-passphrase-file").arg(path)
    };
    refused(
        passphrase("wrong"),
        78,
        &["does not open with what --key-passphrase-file holds"],
    );
    passphrase(PASSWORD).run(SOON).expect_code(0);
}

#[test]
fn a_token_s_key_without_a_provider_is_named() {
    let dir = temp_dir();
    let cert = certs().device.cert.clone();
    let uri = "pkcs11:token=dev;object=key;type=private?pin-value=482913";
    let key = token_key(dir.path(), "key.pem", uri);
    let program = Program::one_message().endpoint(1).ca(&certs().ca);
    let program = program.identity(&Pair { cert, key });
    let program = program.env("OPENSSL_MODULES", dir.path().to_str().unwrap());
    let outcome = program.run(SOON);
    let parts = [
        "names a key in a PKCS#11 token",
        "install pkcs11-provider",
        "OPENSSL_CONF",
    ];
    outcome.expect_fault(78, &parts);
}

#[test]
fn a_tpm_that_goes_away_is_named_and_tried_again() {
    let dir = temp_dir();
    let mut broker = Broker::start();
    let mut tpm = Tpm::with_resource_manager();
    let pair = with_new_key(&tpm, dir.path(), &[]);
    let backoff = ["--base-backoff", "0.2", "--max-backoff", "0.2"];
    let subscriber = Program::subscriber().args(["-t", "t", "-d"]).args(backoff);
    let subscriber = connected(tpm.given_to(subscriber), &broker, &pair).start();
    subscriber.wait_subscribed();
    tpm.stop();
    broker.restart();
    subscriber.stderr_line(SOON, |line| {
        line.contains("is a TPM key") && line.contains("trying again")
    });
}

/// A TPM refuses all passphrases for a while after a few wrong ones.
#[test]
fn a_passphrase_that_the_tpm_has_refused_is_not_sent_again() {
    let dir = temp_dir();
    let mut broker = Broker::start();
    let tpm = Tpm::with_resource_manager();
    let locked = ["-pkeyopt", &format!("user-auth:{PASSWORD}")];
    let pair = with_new_key(&tpm, dir.path(), &locked);
    let passphrase = file(dir.path(), "passphrase", PASSWORD);
    let flags = [
        "-t",
        "t",
        "-d",
        "--base-backoff",
        "0.1",
        "--max-backoff",
        "0.1",
    ];
    let subscriber = Program::subscriber().args(flags);
    let subscriber = subscriber.arg("--key-passphrase-file").arg(&passphrase);
    let subscriber = connected(tpm.given_to(subscriber), &broker, &pair).start();
    subscriber.wait_subscribed();
    assert_eq!(tpm.refused_passphrases(), 0);

    file(dir.path(), "passphrase", "wrong");
    let mut seen = subscriber.stderr.count();
    broker.restart();
    for _ in 0..4 {
        let refused = |line: &str| line.contains("does not open with what --key-passphrase-file");
        let line = subscriber.stderr.wait_from(seen, SOON, refused);
        assert!(line.is_some(), "{subscriber}");
        seen = subscriber.stderr.count();
    }
    assert_eq!(tpm.refused_passphrases(), 1, "{subscriber}");
    file(dir.path(), "passphrase", PASSWORD);
    let granted = |line: &str| line.contains(": subscribed with QoS");
    let again = subscriber.stderr.wait_from(seen, SOON, granted);
    assert!(again.is_some(), "{subscriber}");
}

const PIN: &str = "482913";
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// A token of the test's own, in files (`SoftHSM`), with one key.
struct Token {
    softhsm: PathBuf,
    module: PathBuf,
    dir: TempDir,
}

impl Token {
    /// None, with a message, where the provider is not packaged: before Debian 13.
    fn start(test: &str) -> Option<Self> {
        let Some(module) = provider_module() else {
            skipped(test, "this system has no package pkcs11-provider");
            return None;
        };
        let dir = temp_dir();
        let tokens = dir.path().join("tokens");
        fs::create_dir(&tokens).unwrap();
        let content = format!("directories.tokendir = {}\n", tokens.display());
        let softhsm = file(dir.path(), "softhsm2.conf", content);
        let token = Self {
            softhsm,
            module,
            dir,
        };
        let new = [
            "--init-token",
            "--free",
            "--label",
            "dev",
            "--so-pin",
            "0000",
            "--pin",
            PIN,
        ];
        succeed(token.tool("softhsm2-util").args(new));
        let new = [
            "--keypairgen",
            "--key-type",
            "EC:prime256v1",
            "--label",
            "key",
            "--id",
            "01",
        ];
        let access = ["--module", MODULE, "--login", "--pin", PIN];
        succeed(token.tool("pkcs11-tool").args(access).args(new));
        Some(token)
    }

    fn tool(&self, name: &str) -> std::process::Command {
        let mut tool = command(name);
        tool.env("SOFTHSM2_CONF", &self.softhsm)
            .stdin(Stdio::null());
        tool
    }

    fn configuration(&self, name: &str, lines: &str) -> PathBuf {
        let text = format!(
            "openssl_conf = a\n[a]\nproviders = b\n[b]\ndefault = c\npkcs11 = d\n[c]\nactivate = 1\n\
             [d]\nactivate = 1\nmodule = {}\npkcs11-module-path = {MODULE}\n\
             pkcs11-module-quirks = no-deinit\n{lines}\n",
            self.module.display()
        );
        file(self.dir.path(), name, text)
    }

    fn public_key(&self) -> PKey<Public> {
        let read = [
            "--module",
            MODULE,
            "--read-object",
            "--type",
            "pubkey",
            "--id",
            "01",
        ];
        let output = succeed(self.tool("pkcs11-tool").args(read));
        PKey::public_key_from_der(&output.stdout).unwrap()
    }

    fn program(&self, configuration: &Path) -> Program {
        let program = Program::one_message().env("OPENSSL_CONF", configuration.to_str().unwrap());
        program.env("SOFTHSM2_CONF", self.softhsm.to_str().unwrap())
    }
}

/// What `uri2pem` of `pkcs11-provider` writes.
fn token_key(dir: &Path, name: &str, uri: &str) -> PathBuf {
    let text =
        |tag: u8, text: &str| [&[tag, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let both = [text(0x1a, "PKCS#11 Provider URI v1.0"), text(0x0c, uri)].concat();
    let size = u8::try_from(both.len()).unwrap();
    let der = [&[0x30, 0x81, size], &both[..]].concat();
    let base64 = data_encoding::BASE64.encode(&der);
    let pem = format!(
        "-----BEGIN PKCS#11 PROVIDER URI-----\n{base64}\n-----END PKCS#11 PROVIDER URI-----\n"
    );
    file(dir, name, pem)
}

/// `IOT_TEST_PKCS11_PROVIDER` may name another file than that of the package.
fn provider_module() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("IOT_TEST_PKCS11_PROVIDER") {
        return Some(path.into());
    }
    let directories = fs::read_dir("/usr/lib").ok()?.flatten();
    let candidates = directories.map(|entry| entry.path().join("ossl-modules/pkcs11.so"));
    candidates.into_iter().find(|path| path.exists())
}

#[test]
fn a_key_in_a_token_is_used_and_what_prevents_that_is_named() {
    let Some(token) = Token::start("a_key_in_a_token_is_used_and_what_prevents_that_is_named")
    else {
        return;
    };
    let dir = temp_dir();
    let broker = Broker::start();
    let cert = certificate(dir.path(), &token.public_key());
    let pair = |name: &str, uri: &str| Pair {
        cert: cert.clone(),
        key: token_key(token.dir.path(), name, uri),
    };
    let usual = pair("usual.pem", "pkcs11:token=dev;object=key;type=private");
    let with_pin = token.configuration("pin.cnf", &format!("pkcs11-module-token-pin = {PIN}"));
    let asks = token.configuration("asks.cnf", "");
    let given =
        |configuration: &Path, pair: &Pair| connected(token.program(configuration), &broker, pair);

    given(&with_pin, &usual).run(SOON).expect_code(0);
    let source = file(dir.path(), "pin", PIN);
    let uri = format!(
        "pkcs11:token=dev;object=key;type=private?pin-source=file:{}",
        source.display()
    );
    given(&asks, &pair("source.pem", &uri))
        .run(SOON)
        .expect_code(0);
    let passphrase = |text| {
        let path = file(dir.path(), text, text);
        given(&asks, &usual).arg("--key-passphrase-file").arg(path)
    };
    passphrase(PIN).run(SOON).expect_code(0);

    let refused = |program: Program, code, parts: &[&str]| {
        program.run(SOON).expect_fault(code, parts);
    };
    refused(
        given(&asks, &usual),
        78,
        &["the PIN of the token is missing", "--key-passphrase-file"],
    );
    refused(
        passphrase("000000"),
        78,
        &["the token does not accept the PIN", "token=dev"],
    );
    let wrong = pair(
        "wrong.pem",
        "pkcs11:token=dev;object=key;type=private?pin-value=000000",
    );
    refused(
        given(&asks, &wrong),
        78,
        &["the token does not accept the PIN", "in the URI"],
    );
    let unknown = pair("unknown.pem", "pkcs11:token=dev;object=other;type=private");
    refused(
        given(&with_pin, &unknown),
        78,
        &["the token has no such key", "object=other"],
    );
    let gone = pair("gone.pem", "pkcs11:token=gone;object=key;type=private");
    refused(given(&with_pin, &gone), 69, &["within reach", "token=gone"]);
    let text = fs::read_to_string(&with_pin)
        .unwrap()
        .replace(MODULE, "/nosuch.so");
    let unstartable = file(dir.path(), "module.cnf", text);
    refused(
        given(&unstartable, &usual),
        69,
        &["module of the token does not start"],
    );
    let mixed = Pair {
        cert: certs().device.cert.clone(),
        key: usual.key.clone(),
    };
    refused(
        given(&with_pin, &mixed),
        78,
        &["is not the key of the certificate"],
    );
}
