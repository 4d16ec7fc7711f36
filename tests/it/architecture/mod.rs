//! The import rules of `docs/architecture.md`, checked by reading the sources.
//!
//! A search in plain text, on purpose: it can be read in a minute, and a rule that is
//! broken in a way it does not see is broken on purpose.

mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use imports::{Imports, circle, module};

/// A file below `src`.
struct Source {
    /// Its path below `src`.
    path: String,
    text: String,
}

impl Source {
    /// What is compiled into the programs: no comments, and nothing after the first
    /// `#[cfg(test)]`, which begins the test module at the end of a file.
    fn code(&self) -> String {
        let code = self.text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = code.lines().map(|line| match line.find("//") {
            Some(0) => "",
            Some(at) if line[..at].ends_with(' ') => &line[..at],
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The comment that opens the file.
    fn module_doc(&self) -> String {
        let lines = self.text.lines().map_while(|l| l.strip_prefix("//!"));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn is_pure(&self) -> bool {
        self.module_doc().contains("PURE")
    }

    fn is_below(&self, directory: &str) -> bool {
        self.path.starts_with(directory)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut directories = vec![root().join("src")];
    while let Some(directory) = directories.pop() {
        for entry in directory.read_dir().unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let below = path.strip_prefix(root().join("src")).unwrap();
                found.push(Source {
                    path: below.to_str().unwrap().to_owned(),
                    text: fs::read_to_string(&path).unwrap(),
                });
            }
        }
    }
    assert!(found.len() > 20, "only {} files", found.len());
    found
}

/// Expects none of `words` in the code of the files that `concerned` picks.
fn expect_nowhere(concerned: impl Fn(&Source) -> bool, words: &[&str]) {
    let mut breaches = Vec::new();
    for source in sources().iter().filter(|source| concerned(source)) {
        for (number, line) in (1..).zip(source.code().lines()) {
            let found = words.iter().filter(|word| has_word(line, word));
            breaches.extend(found.map(|word| format!("src/{}:{number}: {word}", source.path)));
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

/// Whether `word` stands in `line` by itself, not as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let in_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        let part_of_more = before.ends_with(in_name) && word.starts_with(in_name)
            || after.starts_with(in_name) && word.ends_with(in_name);
        !part_of_more
    })
}

#[test]
fn the_two_programs_know_nothing_of_each_other() {
    let use_of = |name: &str| [format!("{name}::"), format!("::{name}")];
    for (directory, other) in [("publisher/", "subscriber"), ("subscriber/", "publisher")] {
        let words = use_of(other);
        expect_nowhere(|s| s.is_below(directory), &[&words[0], &words[1]]);
    }
    expect_nowhere(|s| s.path == "bin/publisher.rs", &["subscriber::"]);
    expect_nowhere(|s| s.path == "bin/subscriber.rs", &["publisher::"]);
}

#[test]
fn common_imports_neither_program() {
    let words = ["publisher::", "::publisher", "subscriber::", "::subscriber"];
    expect_nowhere(|s| s.is_below("common/"), &words);
}

#[test]
fn only_the_client_names_paho() {
    expect_nowhere(
        // It knows the name under which Paho logs, to keep it quiet.
        |s| !s.is_below("common/client/") && s.path != "common/runtime/logging/mod.rs",
        &["paho_mqtt", "paho_mqtt_sys"],
    );
    let words = ["paho_mqtt::", "use paho_mqtt"];
    expect_nowhere(|s| s.path == "common/runtime/logging/mod.rs", &words);
}

#[test]
fn only_the_transport_names_openssl_and_websockets() {
    let is_transport = |s: &Source| s.is_below("common/transport/");
    assert!(sources().iter().any(is_transport));
    expect_nowhere(
        // It knows the name under which it logs, to keep it quiet.
        |s| !is_transport(s) && s.path != "common/runtime/logging/mod.rs",
        &["openssl", "tungstenite", "httparse", "TcpStream"],
    );
    let words = ["openssl", "tungstenite::", "use tungstenite"];
    expect_nowhere(|s| s.path == "common/runtime/logging/mod.rs", &words);
    let above = ["common::client", "publisher::queue", "publisher::store"];
    expect_nowhere(is_transport, &above);
}

#[test]
fn client_and_queue_know_nothing_of_each_other() {
    expect_nowhere(
        |s| s.is_below("common/client/"),
        &["queue", "store::", "::store"],
    );
    let is_queue = |s: &Source| s.is_below("publisher/queue/");
    assert!(sources().iter().any(is_queue));
    expect_nowhere(is_queue, &["client", "store::", "::store"]);
    expect_nowhere(|s| s.is_below("publisher/store/"), &["client"]);
}

#[test]
fn only_the_queue_s_store_and_the_subscriber_s_state_name_sqlite_s_library() {
    let is_store = |s: &Source| {
        let is_state = s.path == "subscriber/session/state_file.rs"
            || s.is_below("subscriber/session/state_file/");
        is_state || s.is_below("publisher/store/")
    };
    assert!(sources().iter().any(is_store));
    expect_nowhere(|s| !is_store(s), &["rusqlite"]);
}

#[test]
fn identifiers_and_seeds_come_from_the_operating_system() {
    let words = [
        "getrandom",
        "fastrand::Rng::new",
        "Rng::new()",
        "fastrand::u64",
    ];
    expect_nowhere(|s| s.path != "common/runtime/random.rs", &words);
}

#[test]
fn only_the_display_names_the_terminal_s_libraries() {
    let is_display = |s: &Source| s.is_below("subscriber/display/");
    assert!(sources().iter().any(is_display));
    expect_nowhere(|s| !is_display(s), &["ratatui", "crossterm"]);
}

#[test]
fn only_the_command_line_names_clap() {
    let parses = |s: &Source| s.path.ends_with("/args.rs") || s.is_below("common/cli/");
    expect_nowhere(|s| !parses(s), &["clap"]);
}

#[test]
fn only_the_signal_guard_and_the_bins_end_the_process() {
    let may = |s: &Source| s.path == "common/runtime/signals.rs" || s.is_below("bin/");
    let words = ["process::exit", "process::abort", "process::{exit"];
    expect_nowhere(|s| !may(s), &words);
}

/// What code needs to know of a fault is in its `kind`, `exit` and `permanent`, or in the error that it was
/// made of; texts are for people, and change.
#[test]
fn nothing_is_decided_by_searching_the_text_of_a_fault() {
    let texts = [
        "message",
        "remedy",
        "reason",
        "reasons",
        "why",
        "cause",
        "detail",
        "described",
        "to_string()",
    ];
    let searches = [
        ".contains(\"",
        ".starts_with(\"",
        ".ends_with(\"",
        ".find(\"",
        ".split(\"",
        ".split_once(\"",
        ".matches(\"",
        " == \"",
        " != \"",
    ];
    let words = texts
        .iter()
        .flat_map(|text| searches.map(|s| format!("{text}{s}")));
    let words: Vec<String> = words.collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    expect_nowhere(|_| true, &words);
}

#[test]
fn pure_files_touch_no_clock_thread_channel_file_socket_log_or_paho() {
    let words = [
        "Instant::now",
        "SystemTime::now",
        ".elapsed()",
        "std::thread",
        "thread::",
        "mpsc",
        "std::fs",
        "fs::",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "ToSocketAddrs",
        "UnixStream",
        "std::io",
        "io::",
        "std::env",
        "std::process",
        "println!",
        "eprintln!",
        "print!",
        "eprint!",
        "dbg!",
        "log::",
        "trace!",
        "debug!",
        "info!",
        "warn!",
        "error!",
        "runtime::clock",
        "runtime::timed_receive",
        "clock()",
        "fastrand",
        "getrandom",
        "random::",
        "paho_mqtt",
        "openssl",
    ];
    expect_nowhere(Source::is_pure, &words);
}

#[test]
fn the_table_in_the_docs_names_the_pure_files() {
    let doc = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let mut documented = BTreeSet::new();
    for row in doc.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        if let [file, "yes", _] = cells[..] {
            documented.insert(file.trim_matches('`').trim_end_matches('/').to_owned());
        }
    }
    let pure = sources().into_iter().filter(Source::is_pure);
    let pure: BTreeSet<_> = pure.map(|source| source.path).collect();
    assert_eq!(
        documented, pure,
        "documented on the left, marked PURE right"
    );
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    for source in sources() {
        assert!(!source.module_doc().is_empty(), "src/{}", source.path);
    }
}

#[test]
fn files_stay_short_enough_to_be_read() {
    let lines = |source: &Source| source.text.lines().count();
    let long = sources().into_iter().filter(|s| lines(s) > 600);
    let long: Vec<_> = long
        .map(|s| format!("src/{}: {}", s.path, lines(&s)))
        .collect();
    assert!(long.is_empty(), "more than 600 lines: {long:#?}");
}

#[test]
fn a_bin_only_parses_runs_and_ends() {
    for source in sources().iter().filter(|s| s.is_below("bin/")) {
        let lines = source.text.lines().count();
        assert!(lines < 40, "src/{}: {lines} lines", source.path);
    }
}

/// The layers, from top to bottom: each may import from those behind it.
const LAYERS: [(&str, &[&str]); 3] = [
    (
        "common",
        &[
            "check",
            "cli",
            "connection",
            "client",
            "transport",
            "broker",
            "acks",
            "metrics",
            "runtime",
            "mqtt",
            "fault",
            "escape",
        ],
    ),
    (
        "publisher",
        &[
            "args",
            "queue_command",
            "run",
            "config",
            "report",
            "input",
            "outbox",
            "store",
            "queue",
        ],
    ),
    (
        "subscriber",
        &[
            "args",
            "run",
            "config",
            "message_receiver",
            "session",
            "output",
            "display",
            "render",
            "sequence",
        ],
    ),
];

#[test]
fn imports_between_the_layers_point_down() {
    let imports = Imports::of(&sources());
    for (part, layers) in LAYERS {
        let layer = |module: &[String]| {
            let entry = module.get(1).filter(|_| module[0] == part)?;
            let position = layers.iter().position(|layer| layer == entry);
            Some(position.unwrap_or_else(|| panic!("{part}/{entry} is in no layer")))
        };
        let mut upwards = Vec::new();
        for (from, targets) in &imports.edges {
            for target in targets {
                if let (Some(above), Some(below)) = (layer(from), layer(target))
                    && above > below
                {
                    upwards.push(format!("{} -> {}", from.join("::"), target.join("::")));
                }
            }
        }
        assert!(upwards.is_empty(), "{upwards:#?}");
    }
}

#[test]
fn no_module_imports_from_itself_through_others() {
    let imports = Imports::of(&sources());
    assert!(imports.edges.values().map(BTreeSet::len).sum::<usize>() > 300);
    let circle = circle(&imports.edges);
    assert!(circle.is_none(), "{circle:#?}");
}

#[test]
fn no_directory_imports_from_itself_through_others() {
    let imports = Imports::of(&sources());
    let depth = sources().iter().map(|source| module(source).len()).max();
    for depth in 1..depth.unwrap() {
        let group = |module: &[String]| module.get(..depth).map(<[String]>::to_vec);
        let circle = circle(&imports.grouped(group));
        assert!(circle.is_none(), "{circle:#?}");
    }
}

#[test]
fn the_imports_are_read_as_they_are_written() {
    let source = |path: &str, text: &str| Source {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    let sources = [
        source("a/mod.rs", "mod b;\nmod c;\npub use b::{B, Other};\n"),
        source("a/b.rs", "use crate::{\n    d::{self, D},\n    e,\n};\n"),
        source("a/c.rs", "fn f() { super::Other::new(); }\n"),
        source("d.rs", "fn f() { e::f(&crate::a::c::NUMBER); }\n"),
        source("e.rs", "#[cfg(test)]\nmod tests { use crate::a; }\n"),
    ];
    let imports = Imports::of(&sources);
    let edges: Vec<_> = imports
        .edges
        .iter()
        .map(|(from, targets)| {
            let targets: Vec<_> = targets.iter().map(|target| target.join("::")).collect();
            format!("{} -> {}", from.join("::"), targets.join(" "))
        })
        .collect();
    assert_eq!(
        edges,
        [
            "a -> a::b",
            "a::b -> d e",
            "a::c -> a::b",
            "d -> a::c",
            "e -> "
        ]
    );
    let circle = circle(&imports.edges);
    assert_eq!(circle.unwrap(), ["a::b", "d", "a::c", "a::b"]);
}

#[test]
fn a_type_has_its_impls_in_one_file() {
    let sources = sources();
    let imports = Imports::of(&sources);
    let mut homes: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for source in &sources {
        let code = source.code();
        for line in code.lines().filter(|line| line.starts_with("impl")) {
            let Some(name) = implementing_type(line) else {
                continue;
            };
            let is_defined_here = ["struct", "enum"].iter().any(|kind| {
                code.lines()
                    .any(|line| has_word(line, &format!("{kind} {name}")))
            });
            let home = if is_defined_here {
                Some(module(source))
            } else {
                imports.type_home(source, name)
            };
            if let Some(home) = home {
                let name = format!("{}::{name}", home.join("::"));
                homes.entry(name).or_default().insert(&source.path);
            }
        }
    }
    assert!(homes.len() > 100, "{} types", homes.len());
    homes.retain(|_, files| files.len() > 1);
    assert!(homes.is_empty(), "{homes:#?}");
}

/// The name of the type for which `line` begins an `impl`.
fn implementing_type(line: &str) -> Option<&str> {
    let mut rest = line.strip_prefix("impl")?;
    if rest.starts_with('<') {
        let mut depth = 0;
        let end = rest.find(|c| {
            depth += match c {
                '<' => 1,
                '>' => -1,
                _ => 0,
            };
            depth == 0
        })?;
        rest = &rest[end + 1..];
    }
    let subject = rest
        .split_once(" for ")
        .map_or(rest, |(_, subject)| subject);
    let name = subject
        .trim_start_matches([' ', '&'])
        .split([' ', '<', '{'])
        .next()?;
    let name = name.rsplit("::").next()?;
    (!name.is_empty()).then_some(name)
}

#[test]
fn a_directory_has_few_entries() {
    for (part, most) in [("common", 12), ("publisher", 10), ("subscriber", 10)] {
        let entries = root().join("src").join(part).read_dir().unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        let names: Vec<_> = names.filter(|name| name != "mod.rs").collect();
        assert!(names.len() <= most, "src/{part}: {names:?}");
    }
}
