//! Device telemetry over MQTT with X.509 mutual TLS.
