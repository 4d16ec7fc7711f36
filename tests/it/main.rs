//! The integration tests, all in one binary: real programs, a real broker, real time.
//!
//! | module          | what is in there                                             |
//! | --------------- | ------------------------------------------------------------ |
//! | `harness`       | the vocabulary: brokers, programs, servers, proxy, certificates |
//! | `harness_works` | that the harness itself can be believed                      |
//! | `sdk`           | the pure core against the behaviour of the AWS IoT Device SDK |
//! | `simulated_days` | days of simulated time in the pure core, invariants at each step |

// Tests measure real processes, so they read the real clock. They still never sleep.
#![allow(clippy::disallowed_methods)]

mod harness;
mod harness_works;
mod sdk;
mod simulated_days;
