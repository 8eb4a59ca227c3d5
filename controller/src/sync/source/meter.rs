//! Counts what a fetch brings while it comes, and ends it when it is too much: what a host sends is not ours to say,
//! and the disk is everybody's. The transfer reports its bytes as progress, so that is where they are counted.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use gix::progress::{Count, Id, MessageLevel, NestedProgress, Progress, Step, StepShared, UNKNOWN, Unit};

/// What gix calls the bytes of the pack that it reads.
const PACK: Id = *b"BWRB";

/// Shared by all that counts.
struct Total {
    bytes: AtomicU64,
    limit: u64,
    exceeded: AtomicBool,
    interrupt: Arc<AtomicBool>,
}

/// A progress that nobody looks at.
#[derive(Clone)]
pub struct Meter {
    total: Arc<Total>,
    id: Id,
    step: StepShared,
}

impl Meter {
    /// Sets `interrupt` beyond `limit` bytes.
    pub fn new(limit: u64, interrupt: Arc<AtomicBool>) -> Self {
        let total = Total { bytes: AtomicU64::default(), limit, exceeded: AtomicBool::default(), interrupt };
        Self { total: Arc::new(total), id: UNKNOWN, step: StepShared::default() }
    }

    /// Whether it was too much.
    pub fn is_exceeded(&self) -> bool {
        self.total.exceeded.load(Ordering::Relaxed)
    }
}

impl Count for Meter {
    fn set(&self, step: Step) {
        self.step.store(step, Ordering::Relaxed);
    }

    fn step(&self) -> Step {
        self.step.load(Ordering::Relaxed)
    }

    fn inc_by(&self, step: Step) {
        self.step.fetch_add(step, Ordering::Relaxed);
        if self.id != PACK {
            return;
        }
        let bytes = u64::try_from(step).unwrap_or(u64::MAX);
        if self.total.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > self.total.limit {
            self.total.exceeded.store(true, Ordering::Relaxed);
            self.total.interrupt.store(true, Ordering::Relaxed);
        }
    }

    fn counter(&self) -> StepShared {
        self.step.clone()
    }
}

impl Progress for Meter {
    fn init(&mut self, _max: Option<Step>, _unit: Option<Unit>) {}

    fn set_name(&mut self, _name: String) {}

    fn name(&self) -> Option<String> {
        None
    }

    fn id(&self) -> Id {
        self.id
    }

    fn message(&self, _level: MessageLevel, _message: String) {}
}

impl NestedProgress for Meter {
    type SubProgress = Self;

    fn add_child(&mut self, name: impl Into<String>) -> Self {
        self.add_child_with_id(name, UNKNOWN)
    }

    fn add_child_with_id(&mut self, _name: impl Into<String>, id: Id) -> Self {
        Self { total: self.total.clone(), id, step: StepShared::default() }
    }
}
