//! Flags that other MQTT clients have and these programs lack, or call otherwise: the answer to each. PURE.
//!
//! The names are those of `mosquitto_pub` and `mosquitto_sub` (their manual pages, versions 2.0 and 2.1), of MQTTX
//! and of the samples of the AWS IoT SDKs. Nothing here depends on a value: it may be a secret.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

use Programs::{Both, Publisher, Subscriber};

/// Which programs an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Programs {
    Both,
    Publisher,
    Subscriber,
}

impl Programs {
    fn include(self, program: &str) -> bool {
        match self {
            Both => true,
            Publisher => program == "publisher",
            Subscriber => program == "subscriber",
        }
    }
}

/// Names, separated by spaces; whose; the cause and the remedy.
type Row = (&'static str, Programs, &'static str);

const HELP: &str = "-h is help; the broker goes to --endpoint";
const VERSION: &str = "-V is the version of this program; for that of MQTT use --mqtt-version 5, or --mqtt-version 3.1.1";

const ANSWERS: &[Row] = &[
    // The broker.
    ("--hostname --broker --server", Both, "use --endpoint"),
    (
        "-L --url",
        Both,
        "one URL for everything is not supported; use --endpoint mqtts://HOST:PORT, --topic, --username and \
         --password-file",
    ),
    (
        "--protocol",
        Both,
        "the protocol is part of the endpoint; use --endpoint mqtts://HOST, or wss://, mqtt://, ws://",
    ),
    (
        "--use-websocket --use_websocket --websocket --websockets --ws",
        Both,
        "use --endpoint wss://HOST:PORT/PATH",
    ),
    (
        "--unix",
        Both,
        "Unix sockets are not supported; use --endpoint with a host name",
    ),
    (
        "-S --srv",
        Both,
        "SRV records are not looked up; use --endpoint HOST:PORT",
    ),
    (
        "-A --bind",
        Both,
        "the local address cannot be chosen: the routes of the system decide; leave it out",
    ),
    ("--nodelay", Both, "TCP_NODELAY is always set; leave it out"),
    (
        "--proxy-host --proxy_host --proxy-port --proxy_port",
        Both,
        "use --proxy http://HOST:PORT, or the variable HTTPS_PROXY",
    ),
    // MQTT.
    (
        "-V --protocol-version --mqttVersion",
        Both,
        "use --mqtt-version 5, or --mqtt-version 3.1.1",
    ),
    ("-k --keepalive --keepAlive", Both, "use --keep-alive"),
    (
        "--client_id --clientid --thing_name",
        Both,
        "use --client-id",
    ),
    (
        "-I --id-prefix",
        Both,
        "there is no prefix: without --client-id the identifier is random; use --client-id",
    ),
    (
        "--will-topic --will-payload --will-message --will-qos --will-retain",
        Both,
        "there is no last will; leave it out",
    ),
    (
        "-x --session-expiry-interval",
        Subscriber,
        "use --persistent with --session-expiry",
    ),
    (
        "-c --disable-clean-session --no-clean --no-clean-session",
        Subscriber,
        "use --persistent with --client-id; --session-expiry says for how long",
    ),
    (
        "-x --session-expiry-interval -c --disable-clean-session --no-clean --no-clean-session",
        Publisher,
        "needs no session of the broker: what is not delivered waits in a queue of its own; use --queue FILE",
    ),
    (
        "-D --property --user-properties --content-type --response-topic",
        Publisher,
        "no property of MQTT 5 can be set but the expiry of messages; use --expiry",
    ),
    (
        "-D --property --user-properties",
        Subscriber,
        "no property of MQTT 5 can be set but the expiry of the session; use --session-expiry",
    ),
    ("-M", Publisher, "use --max-inflight"),
    (
        "-M --max-inflight",
        Subscriber,
        "at most 1 MiB of messages waits to be handled; leave it out",
    ),
    // User and password.
    ("--user", Both, "use --username"),
    (
        "-P --pw --pass --password",
        Both,
        "everybody on the machine can read a password in an argument; write it to a file, and use --password-file",
    ),
    (
        "--key-passphrase --key-password --passphrase --keypass",
        Both,
        "everybody on the machine can read a passphrase in an argument; write it to a file, and use \
         --key-passphrase-file",
    ),
    // TLS.
    (
        "--insecure --no-verify --skip-verify --tls-insecure",
        Both,
        "does not exist: certificate and host name of the broker are always verified; for a CA of your own use --cafile",
    ),
    (
        "--ca-file --ca-cert --ca_cert --cacert --root_ca --trust-store",
        Both,
        "use --cafile",
    ),
    (
        "--capath",
        Both,
        "a directory of CAs is not supported; put them into one file, and use --cafile",
    ),
    (
        "--cert-file --cert_file --certificate --client-cert --certfile",
        Both,
        "use --cert",
    ),
    (
        "--key-file --key_file --private-key --privateKey --keyfile --client-key",
        Both,
        "use --key",
    ),
    (
        "--keyform --tls-keyform --tls-engine --tls-engine-kpass-sha1",
        Both,
        "keys are read from PEM files only; use --key",
    ),
    (
        "--tls-use-os-certs",
        Both,
        "the CAs of the system are trusted unless --cafile or --certs is given; leave it out",
    ),
    (
        "--tls-version",
        Both,
        "TLS 1.3 and 1.2 are always accepted, and nothing older; leave it out",
    ),
    (
        "--ciphers --ciphersuites",
        Both,
        "ciphers cannot be chosen: those of OpenSSL for TLS 1.2 and 1.3 are used; leave it out",
    ),
    (
        "--tls-alpn --alpn",
        Both,
        "AWS IoT Core on port 443 is asked for by ALPN automatically; leave it out",
    ),
    (
        "--psk --psk-identity",
        Both,
        "pre-shared keys are not supported; use --cert and --key",
    ),
    ("--no-tls", Both, "use --endpoint mqtt://HOST:PORT"),
    (
        "--signing_region --signing-region --region",
        Both,
        "requests are not signed: AWS IoT Core is reached with --cert and --key; leave it out",
    ),
    // Publishing.
    (
        "--repeat --repeat-delay",
        Publisher,
        "a message is sent once; for N times at an interval use --count N --interval D --exec printf TEXT",
    ),
    (
        "--stdin",
        Publisher,
        "use --stdin-line for a message per line, --stdin-file for one message",
    ),
    (
        "--payload --message-file",
        Publisher,
        "use --message TEXT, or --file FILE",
    ),
    (
        "-m --message -f --file -l --stdin-line -s --stdin-file -n --null-message -r --retain",
        Subscriber,
        "is a flag of publisher: subscriber sends nothing",
    ),
    ("-W", Publisher, "use --deadline"),
    (
        "-F --format -N -R --no-retained --retained-only",
        Publisher,
        "is a flag of subscriber: publisher receives nothing",
    ),
    // Receiving.
    (
        "-E --exit-after-subscribe",
        Subscriber,
        "there is no such flag; to test a subscription use subscriber check --topic FILTER",
    ),
    (
        "-T --filter-out --exclude",
        Subscriber,
        "no topic can be left out of a filter; give narrower filters with --topic",
    ),
    (
        "-U --unsubscribe",
        Subscriber,
        "with --state a filter that is not given any more is unsubscribed; use --persistent --state FILE",
    ),
    (
        "--pretty",
        Subscriber,
        "JSON is written on one line; use --json, and jq to lay it out",
    ),
    (
        "--random-filter",
        Subscriber,
        "every message is printed; leave it out",
    ),
    (
        "--remove-retained",
        Subscriber,
        "retained messages are not removed; use publisher --topic TOPIC --retain --null-message for each",
    ),
    (
        "--retain-handling",
        Subscriber,
        "use --no-retained, or --retained-only",
    ),
    (
        "-w --watch --message-rate",
        Subscriber,
        "use --plot for a chart, which shows the rate as well",
    ),
    // The program.
    ("-o --options-file", Both, "use --config FILE"),
    (
        "--verbosity --log-level",
        Both,
        "use --debug or --quiet, or the variable RUST_LOG",
    ),
    (
        "--reconnect-period",
        Both,
        "use --base-backoff and --max-backoff",
    ),
    (
        "--maximum-reconnect-times",
        Publisher,
        "attempts are not counted; use --flush-timeout or --deadline",
    ),
    (
        "--maximum-reconnect-times",
        Subscriber,
        "attempts are not counted; use --timeout",
    ),
];

/// The answer to the first flag on a command line that `root` does not have, or that stands alone there; none if
/// there is none, or nobody has it.
pub(super) fn answer(root: &Command, typed: &[OsString]) -> Option<String> {
    let mut command = root;
    let mut commands = 0;
    let mut words = typed.iter().skip(1).map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        if let Some(long) = word.strip_prefix("--") {
            let (name, joined) = match long.split_once('=') {
                Some((name, _)) => (name, true),
                None => (long, false),
            };
            if name.is_empty() || ["help", "version"].contains(&name) {
                return None;
            }
            match find(command, |arg| has_long(arg, name)).map(takes) {
                None => return look_up(root, &format!("--{name}")),
                Some(Takes::Rest) => return None,
                Some(Takes::One) if !joined => drop(words.next()),
                Some(Takes::One | Takes::None) => {}
            }
        } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            for (at, letter) in letters.char_indices() {
                let alone = typed.len() == commands + 2 && letters.len() == letter.len_utf8();
                match letter {
                    'h' | 'V' if alone => return None,
                    'h' if connects(command) => return Some(HELP.to_owned()),
                    'h' => return None,
                    'V' if command.get_name() == root.get_name() => {
                        return Some(VERSION.to_owned());
                    }
                    _ => {}
                }
                match find(command, |arg| arg.get_short() == Some(letter)).map(takes) {
                    None => return look_up(root, &format!("-{letter}")),
                    Some(Takes::Rest) => return None,
                    Some(Takes::One) => {
                        if at + letter.len_utf8() == letters.len() {
                            words.next();
                        }
                        break;
                    }
                    Some(Takes::None) => {}
                }
            }
        } else if let Some(below) = command.find_subcommand(&*word) {
            (command, commands) = (below, commands + 1);
        }
    }
    None
}

fn look_up(root: &Command, flag: &str) -> Option<String> {
    let mut rows = ANSWERS.iter();
    let (.., text) = rows.find(|(names, programs, _)| {
        programs.include(root.get_name()) && names.split(' ').any(|name| name == flag)
    })?;
    Some(format!("{flag}: {text}"))
}

fn find(command: &Command, fits: impl Fn(&Arg) -> bool) -> Option<&Arg> {
    command.get_arguments().find(|arg| fits(arg))
}

fn has_long(arg: &Arg, name: &str) -> bool {
    arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
}

/// Whether the command has to know a broker.
fn connects(command: &Command) -> bool {
    find(command, |arg| arg.get_long() == Some("endpoint")).is_some()
}

/// How many values a flag takes.
enum Takes {
    None,
    One,
    /// All that follows.
    Rest,
}

fn takes(arg: &Arg) -> Takes {
    match arg.get_action() {
        ArgAction::Set | ArgAction::Append => match arg.get_num_args() {
            Some(range) if range.max_values() > 1 => Takes::Rest,
            _ => Takes::One,
        },
        _ => Takes::None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{Args as _, CommandFactory as _};

    use super::*;
    use crate::common::cli::args::{ConnectionArgs, LogArgs};
    use crate::common::cli::check_args::CheckArgs;

    /// As much of a program's own flags as is needed here.
    fn program(name: &'static str) -> Command {
        let flag = |name: &'static str| Arg::new(name).long(name);
        let command = LogArgs::augment_args(ConnectionArgs::augment_args(Command::new(name)))
            .version("1")
            .arg(flag("topic").short('t').action(ArgAction::Append))
            .arg(flag("qos").short('q'))
            .arg(flag("exec").num_args(1..).allow_hyphen_values(true))
            .arg(flag("verbose").short('v').action(ArgAction::SetTrue));
        let command = match name {
            "publisher" => command.arg(flag("message").short('m').allow_hyphen_values(true)),
            _ => command.arg(flag("format").short('F').allow_hyphen_values(true)),
        };
        let mut command = command.subcommand(CheckArgs::command()).subcommand(
            Command::new("queue").subcommand(Command::new("status").arg(flag("queue"))),
        );
        command.build();
        command
    }

    fn answers(name: &'static str, line: &str) -> Option<String> {
        let words = std::iter::once(name).chain(line.split_whitespace());
        answer(
            &program(name),
            &words.map(OsString::from).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn each_name_has_one_answer_for_each_program_and_no_flag_of_ours_has_any() {
        for name in ["publisher", "subscriber"] {
            let mut seen = BTreeSet::new();
            for (names, programs, text) in ANSWERS {
                for flag in names.split(' ').filter(|_| programs.include(name)) {
                    assert!(seen.insert(flag), "{name} {flag} twice");
                    let word = flag.trim_start_matches('-');
                    let short = flag.len() == 2;
                    assert!(short || flag.starts_with("--"), "{flag}");
                    let command = program(name);
                    let ours = if short {
                        find(&command, |arg| arg.get_short() == word.chars().next())
                    } else {
                        find(&command, |arg| has_long(arg, word))
                    };
                    let ours = ours.is_some();
                    assert!(!ours || ["h", "V"].contains(&word), "{name} has {flag}");
                    assert!(!text.contains('\n') && !text.ends_with('.'), "{text}");
                }
            }
        }
    }

    #[test]
    fn every_flag_of_an_answer_exists() {
        let mut longs = BTreeSet::from(
            [
                "--password-file",
                "--queue",
                "--expiry",
                "--max-inflight",
                "--persistent",
                "--session-expiry",
                "--state",
                "--no-retained",
                "--retained-only",
                "--plot",
                "--json",
                "--deadline",
                "--flush-timeout",
                "--timeout",
                "--count",
                "--interval",
                "--exec",
                "--stdin-line",
                "--stdin-file",
                "--file",
                "--message",
                "--retain",
                "--null-message",
                "--topic",
            ]
            .map(str::to_owned),
        );
        let shared = LogArgs::augment_args(ConnectionArgs::augment_args(Command::new("x")));
        longs.extend(
            shared
                .get_arguments()
                .filter_map(Arg::get_long)
                .map(|long| format!("--{long}")),
        );
        for (_, _, text) in ANSWERS {
            let words = text.split(|c: char| c.is_whitespace() || ",;".contains(c));
            for flag in words.filter(|word| word.starts_with("--")) {
                assert!(longs.contains(flag), "{flag}: {text}");
            }
        }
    }

    #[test]
    fn the_letters_of_mosquitto_are_answered_with_ours() {
        for (line, expected) in [
            ("-h localhost -t t -m x", "--endpoint"),
            ("-t t -h localhost", "--endpoint"),
            ("-hlocalhost", "--endpoint"),
            ("-t t -dh", "--endpoint"),
            ("check -h localhost", "--endpoint"),
            ("-V mqttv5 -t t", "--mqtt-version 5"),
            ("-t t -Vmqttv311", "--mqtt-version 3.1.1"),
            ("-t t -V", "--mqtt-version 5"),
            ("check -V 5", "--mqtt-version 5"),
            ("-e x -k 60", "--keep-alive"),
            ("-dk60", "--keep-alive"),
            ("-t t -P secret", "--password-file"),
            ("--pw=secret", "--password-file"),
            ("-Psecret", "--password-file"),
            ("--insecure", "always verified"),
            ("-L mqtt://me:secret@h/t", "--endpoint"),
            ("-q 1 -I abc", "--client-id"),
            ("-m -h -A 10.0.0.1", "routes"),
        ] {
            let text = answers("publisher", line).unwrap_or_default();
            assert!(text.contains(expected), "{line}: {text}");
            assert!(!text.contains("secret"), "{text}");
        }
        let subscriber = |line| answers("subscriber", line).unwrap_or_default();
        assert!(subscriber("-c -i x").contains("--persistent"));
        assert!(subscriber("-F -k -x 5").contains("--session-expiry"));
        assert!(subscriber("-t t -m x").contains("publisher"));
        assert!(answers("publisher", "-c").is_some_and(|text| text.contains("--queue")));
    }

    #[test]
    fn what_is_ours_or_nobody_s_and_what_is_a_value_has_no_answer() {
        for line in [
            "-h",
            "-V",
            "--help",
            "check -h",
            "queue -h",
            "queue status -h",
            "queue status --queue q -h",
            "-t t --help",
            "-t -h",
            "-m -h -t t",
            "-m-h",
            "--message -k",
            "--message=-k",
            "-t t --exec cmd -h -k 1",
            "-t t -- -h",
            "-z",
            "--zzz",
            "-",
            "-t t x",
            "--host x --id y --ca z",
        ] {
            assert_eq!(answers("publisher", line), None, "{line}");
        }
    }
}
