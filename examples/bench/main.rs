//! The programs and their peers on the same work, in turn: wall time, CPU and memory of each
//! process alone, as one table of medians and ratios, and throughput against round-trip time as a
//! plot. `scripts/bench` builds and installs what it needs; `docs/performance.md` says how to read
//! it. It measures: being slow is no error.

mod contest;
mod counting_relay;
mod line_peer;
mod measure;
mod peer_programs;
mod plot;
mod report;
mod separate_cores;
mod stage;
mod work;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use peer_programs::PeerPrograms;
use report::Report;
use stage::Stage;
use work::Plan;

#[derive(Parser)]
#[command(name = "bench", about = "Measures the programs against their peers")]
struct Args {
    /// What to measure [default: all]
    #[arg(value_name = "WORK")]
    works: Vec<Work>,
    /// Small numbers and one round, under two minutes: shows that it works, and little more
    #[arg(long)]
    quick: bool,
    /// How often each is measured; the table has the medians [default: 5, or 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Messages in the backlog [default: 10,000,000, or 1,000,000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    backlog: Option<u32>,
    #[command(flatten)]
    peers: PeerPrograms,
    /// A directory for what is made on the way; a queue in memory would be no queue [default: a new one
    /// beside the programs]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write the table into DIR/performance.md, between its two marks, and the plot beside it
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Work {
    /// One message, start to exit
    Single,
    /// Bytes on the wire for one message
    Bytes,
    /// Lines from standard input
    Publish,
    /// Lines into batches, and out of them
    Batch,
    /// Messages into a file
    Receive,
    /// A million lines: what memory they take
    Memory,
    /// A backlog in the queue's file
    Backlog,
    /// Doing next to nothing: CPU, wake-ups, bytes written to the disk
    Idle,
    /// Throughput against round-trip time
    Trips,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let plan = Plan::new(args.quick, args.rounds, args.backlog);
    if let Some(dir) = &args.record {
        report::place(dir)?;
    }
    let mut stage = Stage::set(args.peers, args.dir.as_deref())?;
    let mut report = Report::new(&stage, &plan)?;
    if args.quick || !args.works.is_empty() {
        report.about("A part, or small numbers: not a measurement to go by");
    }
    let mut failed = None;
    for work in Work::value_variants() {
        if !args.works.is_empty() && !args.works.contains(work) {
            continue;
        }
        let done = match work {
            Work::Single => work::single::single(&mut stage, &plan, &mut report),
            Work::Bytes => work::bytes::bytes(&stage, &plan, &mut report),
            Work::Publish => work::lines::lines(&mut stage, &plan, &mut report),
            Work::Batch => work::batch::batch(&stage, &plan, &mut report),
            Work::Receive => work::receive::receive(&stage, &plan, &mut report),
            Work::Memory => work::keep::memory(&stage, &plan, &mut report),
            Work::Backlog => work::keep::backlog(&mut stage, &plan, &mut report),
            Work::Idle => work::idle::idle(&stage, &plan, &mut report),
            Work::Trips => work::trips::trips(&mut stage, &plan, &mut report),
        };
        if let Err(why) = done {
            let name = work.to_possible_value().map(|v| v.get_name().to_owned());
            let name = name.unwrap_or_default();
            report.about(&format!("{name} failed, rows are missing: {why:#}"));
            failed = Some(why.context(format!("while measuring: {name}")));
        }
    }
    print!("{report}");
    if let Some(dir) = &args.record {
        report.record(dir)?;
    }
    failed.map_or(Ok(()), Err)
}
