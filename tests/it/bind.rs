//! `--bind`, and link-local addresses with their network interface: in networks of the test's own.

use openssl::nid::Nid;

use crate::harness::{
    Broker, Program, SOON, certs, free_port,
    namespace::{NetworkNamespace, skipped},
    odd_certs::{Purpose, Recipe},
    temp_dir,
};

/// Two cables between a device and a network with a broker: `east` (10.77.1.0/24, with `fe80::1` to `fe80::2`) and
/// `west` (10.77.2.0/24). The device has 10.77.1.2, 10.77.1.3 and 10.77.2.2, the broker 10.77.1.1 and 10.77.2.1.
struct Cables {
    device: NetworkNamespace,
    network: NetworkNamespace,
}

impl Cables {
    fn lay(test: &str) -> Option<Self> {
        let made = NetworkNamespace::new().zip(NetworkNamespace::new());
        let Some((device, network)) = made else {
            skipped(test, "no network namespaces here");
            return None;
        };
        for cable in ["east", "west"] {
            device.connect(&network, cable).unwrap();
        }
        for (end, address, cable) in [
            (&device, "10.77.1.2/24", "east"),
            (&device, "10.77.1.3/24", "east"),
            (&device, "10.77.2.2/24", "west"),
            (&network, "10.77.1.1/24", "east"),
            (&network, "10.77.2.1/24", "west"),
            (&device, "fe80::2/64 nodad", "east"),
            (&network, "fe80::1/64 nodad", "east"),
            (&device, "fd77::2/64 nodad", "east"),
            (&network, "fd77::1/64 nodad", "east"),
        ] {
            end.run(&format!("ip address add {address} dev {cable}"))
                .unwrap();
        }
        Some(Self { device, network })
    }

    /// A broker that everybody on the cables reaches, with TLS or without.
    fn broker(&self, lines: &str) -> Broker {
        let port = free_port();
        let listener = format!("listener {port}\n{lines}");
        let broker = Broker::builder().plain().line(&listener).port(port + 1);
        broker.under(self.network.enter()).start()
    }

    fn on_device(&self, program: Program) -> Program {
        program.under(self.device.enter())
    }
}

/// The broker's second listener.
fn port(broker: &Broker) -> u16 {
    broker.port() - 1
}

fn expect_connection_from(broker: &Broker, address: &str) {
    let from = format!("New connection from {address}:");
    let seen = broker.log().wait(SOON, |line| line.contains(&from));
    assert!(seen.is_some(), "{from}\n{}", broker.log().text());
}

#[test]
fn the_file_and_the_environment_name_the_address_too() {
    let broker = Broker::builder().plain().start();
    let by_file = Program::one_message().to(&broker);
    let by_file = by_file.config("bind = \"127.0.0.8\"\n");
    by_file.run(SOON).expect_code(0);
    expect_connection_from(&broker, "127.0.0.8");
    let by_variable = Program::one_message().to(&broker);
    let by_variable = by_variable.env("IOT_BIND", "127.0.0.9");
    by_variable.run(SOON).expect_code(0);
    expect_connection_from(&broker, "127.0.0.9");
}

#[test]
fn a_connection_comes_from_the_address_of_bind() {
    let Some(cables) = Cables::lay("a_connection_comes_from_the_address_of_bind") else {
        return;
    };
    let broker = cables.broker("");
    let port = port(&broker);
    let publish = |host: &str| {
        let url = format!("mqtt://{host}:{port}");
        cables.on_device(Program::one_message().args(["--endpoint", &url]))
    };
    publish("10.77.1.1").run(SOON).expect_code(0);
    expect_connection_from(&broker, "10.77.1.2");
    let bound = publish("10.77.1.1").args(["-A", "10.77.1.3"]);
    bound.run(SOON).expect_code(0);
    expect_connection_from(&broker, "10.77.1.3");
    publish("10.77.1.1")
        .env("IOT_BIND", "10.77.2.2")
        .run(SOON)
        .expect_code(0);
    expect_connection_from(&broker, "10.77.2.2");
    let bound = publish("[fd77::1]").args(["--bind", "fe80::2%east"]);
    bound.run(SOON).expect_code(0);
    expect_connection_from(&broker, "fe80::2");
    let check = cables.on_device(Program::publisher().arg("check"));
    let check = check.args([
        "--endpoint",
        &format!("mqtt://10.77.1.1:{port}"),
        "--bind",
        "10.77.1.3",
    ]);
    check.run(SOON).expect_code(0);
}

#[test]
fn a_connection_goes_over_the_network_interface_of_bind() {
    let Some(cables) = Cables::lay("a_connection_goes_over_the_network_interface_of_bind") else {
        return;
    };
    let broker = cables.broker("");
    let url = format!("mqtt://10.77.1.1:{}", port(&broker));
    let program = Program::one_message().args(["--endpoint", &url, "--bind", "west"]);
    // The route to this address goes over the other cable.
    cables.on_device(program).run(SOON).expect_code(0);
    expect_connection_from(&broker, "10.77.2.2");
}

#[test]
fn what_bind_names_and_does_not_exist_is_named_and_tried_again() {
    let Some(cables) = Cables::lay("what_bind_names_and_does_not_exist") else {
        return;
    };
    let broker = cables.broker("");
    let url = format!("mqtt://10.77.1.1:{}", port(&broker));
    let publish = |bind: &str| {
        let program = Program::one_message().args(["--endpoint", &url, "--bind", bind]);
        cables.on_device(program)
    };
    for (bind, part) in [
        (
            "south",
            "--bind south: there is no such network interface now",
        ),
        (
            "10.77.9.9",
            "--bind 10.77.9.9: this machine does not have this address now",
        ),
        ("::1", "has no address of the same kind"),
    ] {
        let outcome = publish(bind).args(["--flush-timeout", "0.2"]).run(SOON);
        outcome.expect_code(69).expect_stderr(part);
    }
    let url = format!("mqtt://[fd77::1]:{}", port(&broker));
    let zoned = Program::one_message().args(["--endpoint", &url, "--bind", "fe80::2%south"]);
    let zoned = zoned.args(["--flush-timeout", "0.2"]);
    let outcome = cables.on_device(zoned).run(SOON).expect_code(69);
    outcome.expect_stderr("--bind fe80::2%south: there is no such network interface now");
    let waiting = publish("10.77.1.4")
        .args(["--base-backoff", "0.1", "--max-backoff", "0.1"])
        .args(["--flush-timeout", "10"])
        .start();
    waiting.stderr_line(SOON, |line| line.contains("does not have this address now"));
    cables
        .device
        .run("ip address add 10.77.1.4/24 dev east")
        .unwrap();
    waiting.finish(SOON).expect_code(0);
    expect_connection_from(&broker, "10.77.1.4");
}

#[test]
fn an_interface_that_the_system_does_not_allow_is_a_named_fault() {
    let trace = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=setsockopt",
    ];
    let outcome = Program::one_message()
        .args(["--endpoint", "mqtt://127.0.0.1:9", "--bind", "lo"])
        .under(trace)
        .under(["-e", "inject=setsockopt:error=EPERM:when=1", "--"])
        .run(SOON);
    outcome
        .expect_code(78)
        .expect_stderr("--bind lo: this process may not bind to a network interface (EPERM")
        .expect_stderr("CAP_NET_RAW");
}

#[test]
fn bind_holds_for_the_connection_to_a_proxy() {
    use std::process::Stdio;

    use crate::harness::process::{Process, command};

    let Some(cables) = Cables::lay("bind_holds_for_the_connection_to_a_proxy") else {
        return;
    };
    let broker = cables.broker("");
    let mut proxy = command("nsenter");
    proxy.args(&cables.network.enter()[1..]);
    proxy.args(["microsocks", "-i", "10.77.2.1", "-p", "1080"]);
    proxy
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut proxy = Process::spawn(proxy);
    let log = crate::harness::lines::Lines::default();
    log.collect(proxy.child().stderr.take().unwrap());
    let url = format!("mqtt://10.77.1.1:{}", port(&broker));
    let program = Program::one_message().args(["--endpoint", &url, "--bind", "10.77.1.3"]);
    let program = program.args(["--proxy", "socks5h://10.77.2.1", "--base-backoff", "0.1"]);
    cables.on_device(program).run(SOON).expect_code(0);
    let seen = log.wait(SOON, |line| {
        line.contains("10.77.1.3: connected to 10.77.1.1")
    });
    assert!(seen.is_some(), "{}", log.text());
}

#[test]
fn a_link_local_address_is_reached_by_its_interface_and_checked_without_it() {
    let Some(cables) = Cables::lay("a_link_local_address_is_reached_by_its_interface") else {
        return;
    };
    let dir = temp_dir();
    let named = Recipe::new("broker", Purpose::Server)
        .dns(&[])
        .extension(Nid::SUBJECT_ALT_NAME, "IP:fe80::1");
    let named = named.by(&certs().authority.issued());
    let server = named.write(dir.path(), &[]);
    let tls = format!(
        "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true",
        certs().ca.display(),
        server.cert.display(),
        server.key.display()
    );
    let broker = cables.broker(&tls);
    let port = port(&broker);
    for endpoint in [
        format!("[fe80::1%east]:{port}"),
        format!("mqtts://[fe80::1%25east]:{port}"),
    ] {
        let program = Program::one_message().args(["--endpoint", &endpoint]);
        let program = program.ca(&certs().ca).identity(&certs().device);
        cables.on_device(program).run(SOON).expect_code(0);
    }
    let at = |host: &str| {
        let program = Program::publisher().arg("check").args(["--endpoint", host]);
        let program = program.args(["-p", &port.to_string(), "--connect-timeout", "1"]);
        cables.on_device(program.ca(&certs().ca).identity(&certs().device))
    };
    let check = at("fe80::1%east").run(SOON).expect_code(0);
    let text = check.stdout.text();
    assert!(
        text.contains(&format!("endpoint: [fe80::1%east]:{port}")),
        "{text}"
    );
    // The certificate is not for this one.
    let other = at("fd77::1").run(SOON).expect_code(78);
    assert!(other.stdout.text().contains("not for fd77::1"), "{other}");
    let none = at("fe80::1").run(SOON).expect_code(69);
    assert!(
        none.stdout
            .text()
            .contains("write it after %, as in [fe80::1%eth0]"),
        "{none}"
    );
    let south = at("fe80::1%south").run(SOON).expect_code(69);
    assert!(
        south
            .stdout
            .text()
            .contains("there is no network interface south now"),
        "{south}"
    );
}

#[test]
fn a_zone_is_not_sent_to_a_web_server_or_a_proxy() {
    let Some(cables) = Cables::lay("a_zone_is_not_sent_to_a_web_server_or_a_proxy") else {
        return;
    };
    let broker = cables.broker("protocol websockets");
    let url = format!("ws://[fe80::1%east]:{}", port(&broker));
    let program = Program::one_message().args(["--endpoint", &url]);
    cables.on_device(program).run(SOON).expect_code(0);
    for origin in ["--proxy", "HTTPS_PROXY"] {
        let program = Program::one_message().args(["--endpoint", "[fe80::1%east]"]);
        let program = match origin {
            "--proxy" => program.args(["--proxy", "socks5h://p"]),
            variable => program.env(variable, "http://p"),
        };
        let parts = [
            "does not know the network interface east",
            origin,
            "--proxy ''",
        ];
        program.run(SOON).expect_fault(64, &parts);
    }
}
