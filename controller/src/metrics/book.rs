//! Puts metrics into a registry, and makes the table of all of them by the same lines of code: what is told of is there.
//! It must not know what is counted.

use std::{
    fmt::{self, Write as _},
    hash::Hash,
};

use prometheus_client::{
    metrics::{
        family::{Family, MetricConstructor},
        gauge::Gauge,
    },
    registry::{Metric, Registry},
};

/// What the names of all our metrics begin with.
pub const PREFIX: &str = "sealed_secrets_controller";

/// A registry under [`PREFIX`].
pub struct Book<'a> {
    registry: &'a mut Registry,
    whole: bool,
}

impl<'a> Book<'a> {
    /// With `whole` each metric has a series, counted or not.
    pub fn new(registry: &'a mut Registry, whole: bool) -> Self {
        Self { registry: registry.sub_registry_with_prefix(PREFIX), whole }
    }

    /// A metric of one series.
    pub fn one(&mut self, name: &str, help: &str, metric: impl Metric) {
        self.registry.register(name, help, metric);
    }

    /// A number that may be unknown.
    pub fn known(&mut self, name: &str, help: &str, value: Option<i64>) {
        if let Some(value) = value.or(self.whole.then_some(0)) {
            let gauge: Gauge = Gauge::default();
            gauge.set(value);
            self.one(name, help, gauge);
        }
    }

    /// A metric of a series for each set of labels.
    pub fn family<L, M, C>(&mut self, name: &str, help: &str, family: Family<L, M, C>)
    where
        L: Clone + Default + Eq + Hash,
        C: MetricConstructor<M>,
        Family<L, M, C>: Metric,
    {
        if self.whole {
            drop(family.get_or_create(&L::default()));
        }
        self.one(name, help, family);
    }
}

/// One row for each metric of an exposition in the plain form: name, type, labels and help.
pub fn rows(exposition: &str) -> Result<String, fmt::Error> {
    let mut rows = String::new();
    for block in exposition.split("# HELP ").filter(|block| block.starts_with(PREFIX)) {
        let mut lines = block.lines();
        let (name, help) = lines.next().and_then(|line| line.split_once(' ')).unwrap_or_default();
        let kind = lines.next().and_then(|line| line.rsplit(' ').next()).unwrap_or_default();
        let labels = lines.next().and_then(|sample| Some(sample.split_once('{')?.1.split_once('}')?.0));
        let labels = labels.unwrap_or_default().split(',').filter_map(|label| Some(label.split_once('=')?.0));
        let labels = labels.collect::<Vec<_>>().join(", ");
        let (name, help) = (name.trim_start_matches(PREFIX).trim_start_matches('_'), help.trim_end_matches('.'));
        writeln!(rows, "| `{name}` | {kind} | {labels} | {help} |")?;
    }
    Ok(rows)
}
