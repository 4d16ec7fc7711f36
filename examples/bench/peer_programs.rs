//! The programs of others, as far as they are there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

/// Where they are. Without one of them its rows are missing.
#[derive(clap::Args)]
pub(crate) struct PeerPrograms {
    /// A Python that has the modules of `peers-requirements.txt`; without it their rows are missing
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// The directory that `scripts/setup-mosquitto-sid` has made: Mosquitto's newest clients
    #[arg(long, value_name = "DIR")]
    mosquitto_sid: Option<PathBuf>,
    /// The program of `examples/bench/peers/rumqttc`
    #[arg(long, value_name = "FILE")]
    rumqttc: Option<PathBuf>,
}

impl PeerPrograms {
    /// One of the Python peers.
    pub(crate) fn python(&self, script: &str) -> Option<Command> {
        let mut command = Command::new(self.python.as_ref()?);
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/bench/peers");
        command.arg(peers.join(script));
        Some(command)
    }

    pub(crate) fn rumqttc(&self) -> Option<Command> {
        self.rumqttc.as_ref().map(Command::new)
    }

    /// `mosquitto_pub` or `mosquitto_sub` of Debian sid, with its own C library.
    pub(crate) fn mosquitto_sid(&self, program: &str) -> Option<Command> {
        let root = self.mosquitto_sid.as_ref()?;
        let mut command = Command::new(root.join("ld.so"));
        command.arg("--library-path").arg(root.join("lib"));
        command.arg(root.join("usr/bin").join(program));
        Some(command)
    }

    /// The same with its version: `mosquitto_pub 2.1.2`.
    pub(crate) fn mosquitto_sid_name(&self, program: &str) -> Option<String> {
        let said = first_line(self.mosquitto_sid(program)?.arg("--version"))?;
        Some(format!("{program} {}", said.split(' ').nth(2)?))
    }

    /// Versions of those that are there.
    pub(crate) fn versions(&self) -> anyhow::Result<Vec<String>> {
        let mut versions = Vec::new();
        if let Some(python) = &self.python {
            versions.extend(first_line(Command::new(python).arg("--version")));
            let list = "import importlib.metadata as m; print(', '.join(\
                f'{n} {m.version(n)}' for n in ('AWSIoTPythonSDK', 'paho-mqtt')))";
            let list = first_line(Command::new(python).args(["-c", list]));
            versions.push(list.context("the Python peers' modules")?);
        }
        if self.mosquitto_sid.is_some() {
            let name = self.mosquitto_sid_name("mosquitto_pub");
            let name = name.context("mosquitto_pub of Debian sid cannot be run")?;
            versions.push(format!("{name} of Debian sid"));
        }
        if self.rumqttc.is_some() {
            let lock = include_str!("peers/rumqttc/Cargo.lock");
            let version = lock.split("name = \"rumqttc\"\nversion = \"").nth(1);
            let version = version.and_then(|rest| rest.split('"').next());
            versions.push(format!("rumqttc {}", version.unwrap_or("?")));
        }
        Ok(versions)
    }

    /// Those that are not there.
    pub(crate) fn missing(&self) -> Option<String> {
        let missing: Vec<_> = [
            (self.python.is_none(), "the Python peers"),
            (self.mosquitto_sid.is_none(), "Mosquitto of Debian sid"),
            (self.rumqttc.is_none(), "rumqttc"),
        ]
        .into_iter()
        .filter_map(|(is_missing, name)| is_missing.then_some(name))
        .collect();
        let list = missing.join(", ");
        (!list.is_empty()).then(|| format!("Not there, so that their rows are missing: {list}"))
    }
}

/// The first line that it prints.
pub(crate) fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().next()?.trim().to_owned())
}
