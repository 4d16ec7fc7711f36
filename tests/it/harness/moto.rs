//! moto's server, which behaves as the control plane of AWS IoT Core does, and the scripts that talk to it.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    SOON, certs,
    lines::Lines,
    process::{Process, command},
    program, temp_dir,
};

/// Sends a command line to `tests/aws_cli_server.py`.
const AWS: &str = r#"#!/bin/bash
exec 3<>"/dev/tcp/127.0.0.1/$AWS_CLI_PORT" || exit 255
printf '%s\0' "$@" >&3 && printf '\0' >&3
LC_ALL=C
read -r code output errors <&3 || exit 255
read -r -N "$output" text <&3
printf %s "$text"
read -r -N "$errors" text <&3
printf %s "$text" >&2
exit "$code"
"#;

/// moto's server, on its own port, and the AWS CLI for it.
pub(crate) struct Moto {
    _processes: [Process; 2],
    /// With the client of the AWS CLI.
    bin: TempDir,
    cli_port: u16,
    cli: PathBuf,
    port: u16,
    path: String,
    /// The scripts with the CA of the tests in place of Amazon's.
    scripts: Option<TempDir>,
    broker_port: Option<u16>,
}

impl Moto {
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// Its certificates are signed by the CA of the tests, and its endpoint is the broker at this port.
    pub(crate) fn with_broker(port: u16) -> Self {
        Self::start_with(Some(port))
    }

    fn start_with(broker_port: Option<u16>) -> Self {
        let asked = script("setup-python")
            .args(["--path", "moto"])
            .output()
            .unwrap();
        assert!(
            asked.status.success(),
            "run scripts/setup-python moto: {asked:?}"
        );
        let bin = String::from_utf8(asked.stdout).unwrap().trim().to_owned();
        let mut moto = command(format!("{bin}/python"));
        moto.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/moto_server.py"));
        moto.args(["-H", "127.0.0.1", "-p", "0"]);
        if broker_port.is_some() {
            let ca = &certs().ca;
            moto.env("MOTO_CA_CERT", ca)
                .env("MOTO_CA_KEY", ca.with_file_name("ca.key"))
                .env("MOTO_ENDPOINT", "localhost");
        }
        moto.stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = Process::spawn(moto);
        let lines = Lines::default();
        lines.collect(process.child().stderr.take().unwrap());
        let running = |line: &str| line.contains("Running on http://127.0.0.1:");
        let line = lines.wait(SOON * 6, running).expect("moto_server listens");
        let port = port_in(&line.text);
        let mut cli = command(format!("{bin}/python"));
        cli.arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/aws_cli_server.py"
        ));
        cli.stdin(Stdio::null()).stdout(Stdio::piped());
        for (name, value) in credentials(port) {
            cli.env(name, value);
        }
        let mut cli = Process::spawn(cli);
        let lines = Lines::default();
        lines.collect(cli.child().stdout.take().unwrap());
        let line = lines
            .wait(SOON * 6, |_| true)
            .expect("the AWS CLI is loaded");
        let cli_directory = PathBuf::from(bin);
        let bin = temp_dir();
        let client = bin.path().join("aws");
        fs::write(&client, AWS).unwrap();
        fs::set_permissions(&client, fs::Permissions::from_mode(0o755)).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let programs = program::directory();
        Self {
            _processes: [process, cli],
            port,
            cli_port: port_in(&line.text),
            cli: cli_directory,
            path: format!("{}:{}:{path}", bin.path().display(), programs.display()),
            bin,
            scripts: broker_port.map(|_| copy_of_scripts()),
            broker_port,
        }
    }

    /// A command that takes moto for AWS.
    fn there(&self, mut command: Command) -> Command {
        for (name, value) in credentials(self.port) {
            command.env(name, value);
        }
        command.env("PATH", &self.path);
        command.env("AWS_CLI_PORT", self.cli_port.to_string());
        if let Some(port) = self.broker_port {
            command.env("IOT_PORT", port.to_string());
            // For other runs of the programs: no script uses it.
            command.env("IOT_ENDPOINT", "nowhere.invalid");
        }
        command.stdin(Stdio::null());
        command
    }

    /// A script with what it needs to run; in its own process group, so that a test can kill all of it.
    pub(crate) fn script(&self, name: &str) -> Command {
        let command = match &self.scripts {
            Some(dir) => Command::new(dir.path().join(name)),
            None => script(name),
        };
        let mut command = self.there(command);
        command.process_group(0);
        command
    }

    pub(crate) fn provision(&self, args: &[&str], dir: &Path) -> ScriptOutcome {
        let mut provision = self.script("provision-thing");
        ScriptOutcome::of(provision.args(args).arg(dir).output().unwrap())
    }

    /// Directories of programs, as in PATH.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The same with the AWS CLI itself, which takes a second to start.
    pub(crate) fn path_of_cli(&self) -> String {
        format!("{}:{}", self.cli.display(), self.path)
    }

    /// What the AWS CLI says, as JSON.
    pub(crate) fn aws(&self, args: &[&str]) -> Value {
        let mut aws = self.there(Command::new(self.bin.path().join("aws")));
        let output = aws.args(args).args(["--output", "json"]).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }
}

fn port_in(line: &str) -> u16 {
    line.rsplit(':').next().unwrap().trim().parse().unwrap()
}

fn credentials(port: u16) -> [(&'static str, String); 7] {
    let endpoint = format!("http://127.0.0.1:{port}");
    [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_DEFAULT_REGION", "eu-central-1"),
        ("AWS_MAX_ATTEMPTS", "1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
}

pub(crate) fn script(name: &str) -> Command {
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");
    Command::new(format!("{scripts}/{name}"))
}

/// Those for things, with the CA of the tests.
pub(crate) fn copy_of_scripts() -> TempDir {
    let dir = temp_dir();
    let scripts: PathBuf = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts").into();
    let names = [
        "provision-thing",
        "claim-thing",
        "thing-files.sh",
        "thing-rotation.sh",
    ];
    for name in names {
        fs::copy(scripts.join(name), dir.path().join(name)).unwrap();
    }
    fs::copy(&certs().ca, dir.path().join("AmazonRootCA1.pem")).unwrap();
    dir
}

#[derive(Debug)]
pub(crate) struct ScriptOutcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl ScriptOutcome {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn expect(&self, code: i32, parts: &[&str]) -> &Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let said = if code == 0 {
            &self.stdout
        } else {
            &self.stderr
        };
        for part in parts {
            assert!(said.contains(part), "not said: {part}\n{self:#?}");
        }
        assert_eq!(
            self.stderr.lines().count(),
            usize::from(code != 0),
            "{self:#?}"
        );
        self
    }
}
