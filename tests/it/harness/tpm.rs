//! A TPM 2.0 of the test's own (`swtpm`), without or with a resource manager (`tpm2-abrmd`), and keys made in it.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use openssl::pkey::{PKey, Public};
use openssl::x509::X509Req;
use tempfile::TempDir;

use super::{
    SOON, free_port,
    lines::Lines,
    odd_certs::file,
    process::{Process, command},
    program::Program,
    temp_dir, wait_until,
};

/// What activates the provider. `tpm2-openssl` before 1.2 signs only if it is preferred.
const CONFIGURATION: &str = "openssl_conf = a\n[a]\nproviders = b\nalg_section = d\n\
                             [b]\ndefault = c\ntpm2 = c\n[c]\nactivate = 1\n\
                             [d]\ndefault_properties = ?tpm2.signature\n";

/// Of keys that have one.
pub(crate) const PASSWORD: &str = "secret";

/// The processes are killed, and their files removed, when dropped.
pub(crate) struct Tpm {
    tcti: String,
    bus: String,
    /// An OpenSSL configuration that activates the provider `tpm2`.
    configuration: PathBuf,
    // In the order in which they are dropped.
    manager: Option<ResourceManager>,
    swtpm: Process,
    dir: TempDir,
}

struct ResourceManager {
    log: Lines,
    _manager: Process,
    _bus: Process,
}

impl Tpm {
    /// A bare TPM, that holds three keys.
    pub(crate) fn start() -> Self {
        Self::start_with(|_, _| (None, String::new()))
    }

    /// One behind a resource manager, which gives every process the whole TPM.
    pub(crate) fn with_resource_manager() -> Self {
        let mut tpm = Self::start_with(|dir, tcti| {
            let (manager, bus) = ResourceManager::start(dir, tcti);
            (Some(manager), bus)
        });
        tpm.tcti = "tabrmd:bus_type=session".into();
        let answers = || tpm.tool("tpm2_getcap").arg("handles-transient").output();
        let is_ready = || answers().is_ok_and(|output| output.status.success());
        let ready = wait_until(SOON, is_ready);
        let log = tpm.manager.as_ref().map(|manager| manager.log.text());
        assert!(ready, "tpm2-abrmd: {log:?}");
        tpm
    }

    fn start_with(manager: impl FnOnce(&Path, &str) -> (Option<ResourceManager>, String)) -> Self {
        let dir = temp_dir();
        let (port, swtpm) = start_swtpm(dir.path());
        let tcti = format!("swtpm:host=127.0.0.1,port={port}");
        let (manager, bus) = manager(dir.path(), &tcti);
        Self {
            tcti,
            bus,
            configuration: file(dir.path(), "openssl.cnf", CONFIGURATION),
            manager,
            swtpm,
            dir,
        }
    }

    /// What a program needs that uses this TPM.
    pub(crate) fn environment(&self) -> [(&str, &str); 4] {
        let configuration = self.configuration.to_str().unwrap();
        [
            ("OPENSSL_CONF", configuration),
            ("TPM2OPENSSL_TCTI", &self.tcti),
            ("DBUS_SESSION_BUS_ADDRESS", &self.bus),
            // Its library reports on standard error what the error line says as well.
            ("TSS2_LOG", "all+none"),
        ]
    }

    pub(crate) fn given_to(&self, program: Program) -> Program {
        let set = |program: Program, (name, value)| program.env(name, value);
        self.environment().into_iter().fold(program, set)
    }

    fn tool(&self, name: &str) -> Command {
        let mut tool = command(name);
        tool.envs(self.environment())
            .env("TPM2TOOLS_TCTI", &self.tcti);
        tool.stdin(Stdio::null());
        tool
    }

    /// A new key on P-256, which is in the TPM: the file is of use only with this TPM.
    pub(crate) fn new_key(&self, name: &str, options: &[&str]) -> PathBuf {
        let path = self.dir.path().join(name);
        let mut openssl = self.tool("openssl");
        openssl.args([
            "genpkey",
            "-propquery",
            "?provider=tpm2",
            "-algorithm",
            "EC",
        ]);
        openssl.args(["-pkeyopt", "group:P-256"]).args(options);
        succeed(openssl.arg("-out").arg(&path));
        path
    }

    /// The public half, by way of a certificate request that the TPM has signed.
    pub(crate) fn public_key(&self, key: &Path) -> PKey<Public> {
        let mut openssl = self.tool("openssl");
        openssl.args(["req", "-new", "-propquery", "?provider=tpm2"]);
        // Asked for only if the key has a password.
        openssl.args(["-passin", &format!("pass:{PASSWORD}")]);
        let output = succeed(openssl.args(["-subj", "/CN=device", "-key"]).arg(key));
        let request = X509Req::from_pem(&output.stdout).unwrap();
        request.public_key().unwrap()
    }

    /// Keys that are loaded. A bare TPM answers only while no program is connected to it.
    pub(crate) fn loaded_keys(&self) -> usize {
        let output = succeed(self.tool("tpm2_getcap").arg("handles-transient"));
        String::from_utf8_lossy(&output.stdout).lines().count()
    }

    /// How many wrong passphrases it has counted.
    pub(crate) fn refused_passphrases(&self) -> u32 {
        let output = succeed(self.tool("tpm2_getcap").arg("properties-variable"));
        let text = String::from_utf8_lossy(&output.stdout);
        let mut values = text.lines().filter_map(|line| line.split_once(": "));
        let counter = values.find(|(name, _)| name.trim() == "TPM2_PT_LOCKOUT_COUNTER");
        let digits = counter.expect("the counter").1.trim_start_matches("0x");
        u32::from_str_radix(digits, 16).unwrap()
    }

    pub(crate) fn stop(&mut self) {
        self.swtpm.signal(nix::sys::signal::Signal::SIGKILL);
        assert!(self.swtpm.wait(SOON).is_some(), "swtpm");
    }
}

impl ResourceManager {
    /// It and the address of its bus.
    fn start(dir: &Path, tcti: &str) -> (Self, String) {
        let socket = dir.join("bus");
        let address = format!("unix:path={}", socket.display());
        let mut bus = command("dbus-daemon");
        bus.args(["--session", "--nofork", "--address", &address]);
        let bus = Process::spawn(silent(bus));
        assert!(wait_until(SOON, || socket.exists()), "dbus-daemon");
        let mut manager = silent(command("tpm2-abrmd"));
        manager.args(["--session", "--allow-root", "--tcti", tcti]);
        manager.env("DBUS_SESSION_BUS_ADDRESS", &address);
        manager.stderr(Stdio::piped());
        let mut manager = Process::spawn(manager);
        let log = Lines::default();
        log.collect(manager.child().stderr.take().unwrap());
        let manager = Self {
            log,
            _manager: manager,
            _bus: bus,
        };
        (manager, address)
    }
}

fn silent(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null());
    command
}

/// The library expects the control channel at the next port.
fn start_swtpm(dir: &Path) -> (u16, Process) {
    loop {
        // No other test gets the same two.
        let port = free_port();
        if free_port() != port + 1 {
            continue;
        }
        let mut swtpm = command("swtpm");
        swtpm.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"]);
        swtpm
            .arg("--tpmstate")
            .arg(format!("dir={}", dir.display()));
        let channel = |port| format!("type=tcp,port={port},bindaddr=127.0.0.1");
        swtpm.arg("--server").arg(channel(port));
        swtpm.arg("--ctrl").arg(channel(port + 1));
        let mut process = Process::spawn(silent(swtpm));
        let listens = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err();
        let mut has_ended = false;
        let decided = wait_until(SOON, || {
            has_ended = process.wait(Duration::ZERO).is_some();
            has_ended || (listens(port) && listens(port + 1))
        });
        assert!(decided, "swtpm does not listen");
        // Another process has taken one of the ports.
        if !has_ended {
            return (port, process);
        }
    }
}

pub(crate) fn succeed(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output
}
