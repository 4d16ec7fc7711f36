//! What the reconnecting of a fleet after an outage looks like, with the programs' own backoff:
//! `fleet [FILE.svg [DEVICES [RATE]]]` prints a table of simulated outages, and draws one of
//! them. DEVICES (10,000) lose the broker at once; back again, it takes RATE (500) connections
//! a second. `docs/scale.md` says what to make of it.

#[path = "fleet/plot.rs"]
mod plot;
#[path = "fleet/simulation.rs"]
mod simulation;

use std::{
    env,
    error::Error,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use simulation::{Course, Denial, Scene, play};

/// `--jitter`, `--base-backoff` and `--max-backoff`.
type Flags = (f64, u64, u64);
const DRAWN: [Flags; 4] = [(0.0, 1, 32), (0.2, 1, 32), (0.5, 1, 32), (1.0, 1, 32)];
/// Of the outage that is drawn, in seconds.
const DRAWN_OUTAGE: u64 = 60;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    if args.len() > 3 {
        return Err("usage: fleet [FILE.svg [DEVICES [RATE]]]".into());
    }
    let number = |at: usize, default: u32| args.get(at).map_or(Ok(default), |arg| arg.parse());
    let (devices, rate) = (number(1, 10_000)?, number(2, 500)?);
    if devices == 0 || rate == 0 {
        return Err("DEVICES and RATE are at least 1".into());
    }
    let mut out = io::stdout().lock();
    // With full jitter the first attempts come within the base, and later ones half the maximum
    // apart on average: these let all devices come back at just that rate.
    let all = u64::from(devices.div_ceil(rate));
    let tuned = (1.0, all, (2 * all).max(32));
    writeln!(out, "{devices} devices, {rate} connections a second\n")?;
    writeln!(
        out,
        "| outage | not let in | jitter | base | max | most/s | 50 % back | 99 % | 100 % \
         | in vain | turned away |"
    )?;
    writeln!(
        out,
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )?;
    let mut drawn = Vec::new();
    for outage in [5, DRAWN_OUTAGE, 600] {
        for denial in [Denial::Refused, Denial::Silent] {
            for flags in DRAWN.into_iter().chain([tuned]) {
                let (jitter, base, max) = flags;
                let scene = Scene {
                    devices,
                    outage: Duration::from_secs(outage),
                    rate,
                    denial,
                    base: Duration::from_secs(base),
                    max: Duration::from_secs(max),
                    jitter,
                };
                let course = play(scene)?;
                writeln!(out, "{}", row(&scene, &course))?;
                if outage == DRAWN_OUTAGE && denial == Denial::Refused && DRAWN.contains(&flags) {
                    drawn.push((scene, course));
                }
            }
        }
    }
    if let Some(file) = args.first() {
        plot::draw(Path::new(file), &drawn)?;
    }
    Ok(())
}

fn row(scene: &Scene, course: &Course) -> String {
    let back = |percent| match course.back_by(percent, scene.devices) {
        Duration::MAX => "never".to_owned(),
        time => format!("{:.0} s", time.as_secs_f64()),
    };
    let each = |attempts: u32| f64::from(attempts) / f64::from(scene.devices);
    let denial = match scene.denial {
        Denial::Refused => "refused",
        Denial::Silent => "no answer",
    };
    format!(
        "| {} s | {denial} | {} | {} s | {} s | {} | {} | {} | {} | {:.1} | {:.1} |",
        scene.outage.as_secs(),
        scene.jitter,
        scene.base.as_secs(),
        scene.max.as_secs(),
        course.peak(scene.outage),
        back(50),
        back(99),
        back(100),
        each(course.in_vain),
        each(course.turned_away),
    )
}
