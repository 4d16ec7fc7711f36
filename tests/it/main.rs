//! The integration tests, all in one binary: real programs, a real broker, real time.
//!
//! | module          | what is in there                                             |
//! | --------------- | ------------------------------------------------------------ |
//! | `architecture`  | the import rules of docs/architecture.md, by reading sources |
//! | `attempts`      | hundreds of attempts that fail: no leak, no abort             |
//! | `aws`           | AWS IoT Core's limits, quota and manners                     |
//! | `backoff`       | when the programs connect again                              |
//! | `batch`         | several readings in one message                              |
//! | `bench`         | the measurements of `scripts/bench`, in short                |
//! | `bind`          | `--bind`, and link-local addresses with their interface        |
//! | `blame`         | for which ends of connections a message is given up          |
//! | `blocked`       | a reader that does not read, or leaves                        |
//! | `causes`        | who is blamed when a connection ends                          |
//! | `certs_dir`     | `--certs`, and certificates that end soon                    |
//! | `claim`         | `scripts/claim-thing`: fleet provisioning by claim               |
//! | `claim_policy`  | the policy of a claim certificate                                |
//! | `client_library` | the client library alone, against servers that break the rules |
//! | `configuration` | flags, environment, configuration file                       |
//! | `connect`       | what keeps a connection from coming about, or ends it        |
//! | `copies`        | copies of a queue file: nothing is taken for what it is not      |
//! | `descriptors`   | standard input, output, error: closed, non-blocking, left; what commands inherit |
//! | `draining`      | how fast the offline queue drains, and when faster           |
//! | `durable`       | the queue that outlives process and power                    |
//! | `exactly_once`  | what a broker sends again, `-C` and `--state` in a session that is kept |
//! | `exec`          | the subscriber's `--exec`: what a command is given, what becomes of it |
//! | `exit_codes`    | the publisher's exit codes and what is said about them       |
//! | `flags`         | the flags that both programs share                           |
//! | `flag_table`    | that every flag is described, completed and configurable |
//! | `formats`       | the subscriber's formats, against `mosquitto_sub`; terminals    |
//! | `fleet`         | many devices that come back at once, in simulated time       |
//! | `fuzz`          | mutated conversations: the short form of `scripts/fuzz`          |
//! | `hardware_keys` | keys in a TPM and in a PKCS#11 token                         |
//! | `harness`       | the vocabulary: brokers, programs, servers, proxy, certificates |
//! | `harness_works` | that the harness itself can be believed                      |
//! | `idle`          | how often a program wakes while nothing happens               |
//! | `identity`      | certificate, key and CA files, checked before the network    |
//! | `json_input`    | `--input json`                                               |
//! | `kept_session`  | a session that Mosquitto keeps: one message per run, brokers and subscribers that are ended |
//! | `log`           | outages, failures that repeat, JSON, the journal, `--quiet`   |
//! | `memory`        | limits on memory, and how little a large message takes        |
//! | `metrics`       | `--metrics` in each fault, `status`, `check` beside a running program |
//! | `misconfigured` | the mistakes people make, as `check` and a plain run see them   |
//! | `monitoring`    | the alert rules and the dashboard of `docs`, against Prometheus and what the programs write |
//! | `mqtt_js`       | MQTT.js reads what `publisher` sets, and the other way round   |
//! | `no_source`     | a publisher without a source flag: standard input decides |
//! | `offline`       | the broker away and back: what is kept, dropped, sent again  |
//! | `packet_sizes`  | packets as large as the broker takes, and a byte larger         |
//! | `packets`       | every packet of `tests/data/packets.tsv`, malformed or only unusual    |
//! | `plot`          | `subscriber --plot`: the chart in the terminal               |
//! | `payload_bytes` | payloads of any bytes and of many megabytes, in each form of output |
//! | `persistent`    | sessions that outlive the subscriber, which is killed            |
//! | `pipe_bridge`   | `subscriber -J \| publisher --input json` between two brokers   |
//! | `output`        | the subscriber's `--output`: rotated, moved away, full, torn   |
//! | `provision`     | `scripts/provision-thing`, against moto                       |
//! | `publish`       | sources, payloads, the `seq` property, receipts, summary     |
//! | `queue_command` | `publisher queue`: looking at a queue file, and mending it   |
//! | `rabbitmq`      | `RabbitMQ` 3.10 with mutual TLS                               |
//! | `received`      | what a subscriber makes of a message                         |
//! | `repeats`       | repeats and gaps, sessions, what is remembered, batches received |
//! | `request`       | `subscriber --request-topic`: requests and their answers       |
//! | `secrets`       | no secret in any error, files with secrets, files without an end |
//! | `sdk`           | the pure core against the behaviour of the AWS IoT Device SDK |
//! | `service`       | reports to a service manager, its watchdog, reloading, the units |
//! | `sharing`       | several subscribers of which each gets a part                 |
//! | `signals`       | stopping in time, whatever it is busy with                   |
//! | `simulated_days` | days of simulated time in the pure core, invariants at each step |
//! | `simulated_disk` | the durable queue over a disk that crashes at any step          |
//! | `slow_line`     | lines that take long for one message                         |
//! | `selection`     | what a subscriber leaves out and removes, when it ends, CSV  |
//! | `stamp`         | readings with their time, and repeated messages              |
//! | `socks`         | SOCKS5 proxies, and `ALL_PROXY`                              |
//! | `subscribe`     | filters, and the broker's answers to them                    |
//! | `table`         | `subscriber --table`: the table in the terminal               |
//! | `terminals`     | that nothing from outside reaches a terminal as it is           |
//! | `topic_templates` | `{hostname}` and the like in topics and in the client identifier |
//! | `through`       | HTTP proxies and WebSockets                                  |
//! | `tls`           | which servers are trusted, and how a fault is named          |
//! | `tls_limits`    | `--tls-min` and `--ciphers`                                  |
//! | `tls_session`   | TLS sessions that are resumed, and `--tls-session`           |
//! | `unix_socket`   | a broker on a Unix socket                                    |
//! | `unruly`        | brokers that break the protocol: what is said, and that nothing is lost |
//! | `versions`      | brokers that know no MQTT 5 and do not say so                 |
//! | `will_and_status` | the last will and the status topic, however a run ends         |
//! | `rotation`      | keys and certificates over years: requests, policies, `--rotate` |
//! | `routes`        | port 443, where 8883 is blocked                              |
//! | `window`        | unacknowledged messages: how many, lost, refused             |
//! | `wrong_files`   | files and certificates that are wrong, and how each is named |

// Tests measure real processes, so they read the real clock. They still never sleep.
#![allow(clippy::disallowed_methods)]

mod architecture;
mod attempts;
mod aws;
mod backoff;
mod batch;
mod bench;
mod bind;
mod blame;
mod blocked;
mod causes;
mod certs_dir;
mod claim;
mod claim_policy;
mod client_library;
mod configuration;
mod connect;
mod copies;
mod debug_log;
mod descriptors;
mod draining;
mod durable;
mod exactly_once;
mod exec;
mod exit_codes;
mod flag_table;
mod flags;
mod fleet;
mod formats;
mod fuzz;
mod hardware_keys;
mod harness;
mod harness_works;
mod identity;
mod idle;
mod json_input;
mod kept_session;
mod log;
mod manual;
mod memory;
mod metrics;
mod misconfigured;
mod monitoring;
mod mqtt_js;
mod no_source;
mod offline;
mod output;
mod packet_sizes;
mod packets;
mod payload_bytes;
mod persistent;
mod pipe_bridge;
mod plot;
mod properties;
mod provision;
mod publish;
mod queue_command;
mod rabbitmq;
mod received;
mod repeats;
mod request;
mod rotation;
mod routes;
mod scheduling;
mod sdk;
mod secrets;
mod selection;
mod service;
mod sharing;
mod signals;
mod simulated_days;
mod simulated_disk;
mod slow_line;
mod socks;
mod stamp;
mod subscribe;
mod suggestions;
mod table;
mod terminals;
mod through;
mod tls;
mod tls_limits;
mod tls_session;
mod topic_templates;
mod unix_socket;
mod unruly;
mod usage_errors;
mod versions;
mod will_and_status;
mod window;
mod wrong_files;
