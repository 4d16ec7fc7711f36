//! `status`, `queue status`, and `check` beside a running program.

use super::*;

#[test]
fn the_status_of_a_program_is_an_exit_code() {
    let mut broker = Broker::start();
    let file = MetricsFile::new();
    let missing = file.status(Program::publisher());
    missing.expect_fault(
        66,
        &["iot.prom: --metrics cannot be read", "does publisher run"],
    );

    let mut running = file
        .given_to(fed().to(&broker).args(["-i", "pump"]))
        .start();
    file.wait(&running, |values| is(values, "connected", 1.0));
    let well = file.status(Program::publisher()).expect_code(0);
    let text = well.stdout.text();
    assert!(
        text.starts_with("ok: publisher pump: connected, 0 messages wait, 36"),
        "{text}"
    );
    let other = file.status(Program::subscriber());
    other.expect_fault(66, &["no file that subscriber has written"]);
    // The configuration file of the program names the file.
    let name = format!("metrics = \"{}\"\ntopic = \"t\"\n", file.path().display());
    let status = Program::publisher()
        .args(["status", "--json"])
        .config(&name);
    let status = status.run(SOON).expect_code(0).stdout.text();
    let status: Value = serde_json::from_str(&status).unwrap();
    let fields = ["ok", "connected", "client_id", "backlog", "exit"];
    let found = fields.map(|field| status[field].to_string());
    assert_eq!(found, ["true", "true", "\"pump\"", "0", "0"]);

    broker.kill();
    file.wait(&running, |values| is(values, "connected", 0.0));
    let offline = file.status(Program::publisher()).expect_code(69);
    let text = offline.stdout.text();
    assert!(
        text.starts_with("NOT WELL: publisher pump: not connected"),
        "{text}"
    );
    broker.start_again();
    running.send("x\n");
    running.close_stdin();
    running.finish(SOON).expect_code(0);
    let ended = file.status(Program::publisher()).expect_code(0);
    assert!(ended.stdout.text().contains("has ended"), "{ended}");
}

#[test]
fn the_queue_s_status_says_whether_the_publisher_that_drains_it_is_connected() {
    let mut broker = Broker::start();
    let queue = QueueFile::new();
    let publisher = queue.publisher().to(&broker).arg("-l").args(QUICKLY);
    let mut running = publisher.stdin_pipe().start();
    let shows = |running: &Running, connected: Value| {
        let found = wait_until(SOON, || {
            queue.path().exists() && queue.status()["connected"] == connected
        });
        assert!(found, "{connected} {}\n{running}", queue.status());
    };
    shows(&running, true.into());
    broker.kill();
    shows(&running, false.into());
    let text = queue.command(&["status"]).expect_code(0).stdout.text();
    assert!(
        text.contains("drains it now, and is not connected"),
        "{text}"
    );
    broker.start_again();
    shows(&running, true.into());
    running.send("x\n");
    running.close_stdin();
    running.finish(SOON).expect_code(0);
    assert_eq!(queue.status()["connected"], Value::Null);
}

#[test]
fn a_check_leaves_a_running_program_connected_unless_it_is_to_take_over() {
    let broker = Broker::start();
    let subscriber = Program::subscriber().to(&broker).args(["-t", "t", "-d"]);
    let subscriber = subscriber.args(["-i", "pump"]).start();
    subscriber.wait_subscribed();
    let check = || {
        let check = Program::publisher().arg("check").to(&broker);
        check.args(["-i", "pump", "-t", "t", "--json"])
    };
    let outcome = check().run(SOON).expect_code(0);
    let report: Value = serde_json::from_str(&outcome.stdout.text()).unwrap();
    assert!(report["days_left"].as_i64().unwrap() > 360, "{outcome}");
    assert_eq!(report["warnings"], Value::Array(Vec::new()), "{outcome}");
    let is_own = |line: &str| line.contains("as pump-check");
    assert!(
        broker.log().wait(SOON, is_own).is_some(),
        "{}",
        broker.log().text()
    );
    assert!(
        !subscriber.stderr.text().contains("trying again"),
        "{subscriber}"
    );
    check().arg("--takeover").run(SOON).expect_code(77);
    subscriber.stderr_line(SOON, |line| line.contains("trying again"));
}

#[test]
fn a_check_whose_client_identifier_is_refused_names_takeover() {
    let refusing = Server::plain(server::answer(&[0x20, 3, 0, 0x85, 0]));
    let check = || Program::subscriber().args(["check", "-i", "pump"]);
    let outcome = check().at_plain_port(refusing.port()).run(SOON);
    let text = outcome.expect_code(77).stdout.text();
    assert!(
        text.contains("\"pump-check\"") && text.contains("give --takeover"),
        "{text}"
    );
    let outcome = check().arg("--takeover").at_plain_port(refusing.port());
    let text = outcome.run(SOON).expect_code(77).stdout.text();
    assert!(!text.contains("--takeover"), "{text}");
    // Without an identifier there is nothing to take over.
    let check = Program::subscriber().args(["check", "--takeover"]);
    let outcome = check.at_plain_port(refusing.port()).run(SOON);
    outcome.expect_fault(64, &["--client-id"]);
}

#[test]
fn a_check_says_in_json_what_will_need_attention() {
    let dir = temp_dir();
    let broker = Broker::start();
    let soon = certs()
        .authority
        .client(dir.path(), "device", Validity::EndsSoon);
    let check = Program::publisher().args(["check", "--json"]);
    let check = check
        .endpoint(broker.port())
        .ca(&certs().ca)
        .identity(&soon);
    let outcome = check.run(SOON).expect_code(0);
    let report: Value = serde_json::from_str(&outcome.stdout.text()).unwrap();
    assert_eq!(report["days_left"], 20, "{outcome}");
    let warnings = report["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{outcome}");
    assert!(
        warnings[0].as_str().unwrap().contains("expires in 20 days"),
        "{outcome}"
    );
}
