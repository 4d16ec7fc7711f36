//! Several programs on the same work, in turn, and what they took.

use crate::measure::Measure;

/// Runs the work once.
pub(crate) type Run<'a> = Box<dyn FnMut() -> anyhow::Result<Measure> + 'a>;

/// One that takes part.
pub(crate) struct Entry<'a> {
    pub(crate) name: String,
    /// Messages in a run.
    pub(crate) count: u32,
    pub(crate) run: Run<'a>,
}

impl<'a> Entry<'a> {
    pub(crate) fn new(
        name: impl Into<String>,
        count: u32,
        run: impl FnMut() -> anyhow::Result<Measure> + 'a,
    ) -> Self {
        Self {
            name: name.into(),
            count,
            run: Box::new(run),
        }
    }
}

/// What one of them took.
pub(crate) struct Standing {
    pub(crate) name: String,
    /// Messages that were sent in a run.
    pub(crate) count: u32,
    measures: Vec<Measure>,
    /// Messages of a run that arrived, the fewest; where nobody counted, all.
    pub(crate) arrived: u32,
}

/// All of them, round by round: what disturbs the machine for a while disturbs all. In another order
/// each time, because who comes after a large program finds the caches cold, and who comes after a
/// similar one finds them warm.
pub(crate) fn contest(rounds: u32, mut entries: Vec<Entry<'_>>) -> anyhow::Result<Vec<Standing>> {
    let mut standings: Vec<_> = entries
        .iter()
        .map(|entry| Standing {
            name: entry.name.clone(),
            count: entry.count,
            measures: Vec::new(),
            arrived: entry.count,
        })
        .collect();
    for round in 0..rounds {
        let mut both: Vec<_> = entries.iter_mut().zip(&mut standings).collect();
        fastrand::Rng::with_seed(round.into()).shuffle(&mut both);
        for (entry, standing) in both {
            standing.add((entry.run)()?);
        }
    }
    Ok(standings)
}

impl Standing {
    fn add(&mut self, measure: Measure) {
        self.count_arrived(&measure);
        self.measures.push(measure);
    }

    /// Regards what arrived in this run, which may have been done for that alone.
    pub(crate) fn count_arrived(&mut self, measure: &Measure) {
        self.arrived = measure.arrived.unwrap_or(self.arrived).min(self.arrived);
    }

    pub(crate) fn has_lost_some(&self) -> bool {
        self.arrived < self.count
    }

    fn median(&self, of: impl Fn(&Measure) -> f64) -> f64 {
        median(self.measures.iter().map(of).collect())
    }

    /// Seconds a run.
    pub(crate) fn wall(&self) -> f64 {
        self.median(|measure| measure.wall.as_secs_f64())
    }

    /// Messages that arrived, per second.
    pub(crate) fn rate(&self) -> f64 {
        f64::from(self.arrived) / self.wall()
    }

    /// CPU time a message, in microseconds.
    pub(crate) fn cpu(&self) -> f64 {
        self.median(|measure| measure.cpu.as_secs_f64()) * 1e6 / f64::from(self.count)
    }

    /// Resident memory at most, in megabytes (of 2^20 bytes).
    pub(crate) fn peak(&self) -> f64 {
        #[allow(clippy::cast_precision_loss)] // Megabytes.
        self.median(|measure| measure.peak as f64 / 1_048_576.0)
    }
}

/// The one in the middle; of an even number the lower.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len().saturating_sub(1) / 2;
    numbers.get(middle).copied().unwrap_or(f64::NAN)
}
