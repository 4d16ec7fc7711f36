//! The broker on a separate core, for work of which it would be the limit.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// While this exists, the broker runs on the first core, and what this thread starts runs on the others.
pub(crate) struct SeparateCores {
    broker: Pid,
    before: CpuSet,
}

fn this_thread() -> Pid {
    Pid::from_raw(0)
}

impl SeparateCores {
    /// None if there is only one core.
    pub(crate) fn new(broker: Pid) -> anyhow::Result<Option<Self>> {
        let before = sched_getaffinity(this_thread())?;
        let mut cores = Vec::new();
        for core in 0..CpuSet::count() {
            if before.is_set(core)? {
                cores.push(core);
            }
        }
        let [first, others @ ..] = &cores[..] else {
            return Ok(None);
        };
        if others.is_empty() {
            return Ok(None);
        }
        let set = |cores: &[usize]| -> anyhow::Result<CpuSet> {
            let mut set = CpuSet::new();
            for core in cores {
                set.set(*core)?;
            }
            Ok(set)
        };
        sched_setaffinity(broker, &set(&[*first])?)?;
        let separate = Self { broker, before };
        sched_setaffinity(this_thread(), &set(others)?)?;
        Ok(Some(separate))
    }
}

impl Drop for SeparateCores {
    fn drop(&mut self) {
        for pid in [self.broker, this_thread()] {
            // The broker may have ended.
            let _ = sched_setaffinity(pid, &self.before);
        }
    }
}
