//! The two forms in which a scraper reads metrics: the library writes OpenMetrics; the plain text format of Prometheus,
//! upstream's only one, is made from it.

use std::fmt::{self, Write as _};

use prometheus_client::{encoding::text::encode, registry::Registry};

/// A form of the exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The text format of Prometheus, version 0.0.4.
    Plain,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What an `Accept` header asks for. OpenMetrics only by name.
    pub fn accepted(accept: Option<&str>) -> Self {
        let named = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
        if named { Self::OpenMetrics } else { Self::Plain }
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes all metrics of a registry.
pub fn render(registry: &Registry, format: Format) -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    match format {
        Format::OpenMetrics => Ok(text),
        Format::Plain => plain(&text),
    }
}

/// A counter is declared under the name of its samples, buckets are written as Go writes numbers, nothing ends the text.
fn plain(text: &str) -> Result<String, fmt::Error> {
    let mut out = String::with_capacity(text.len());
    let mut help = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            writeln!(out, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}")?;
        } else if let Some((before, (bound, after))) =
            line.split_once("le=\"").and_then(|(before, rest)| Some((before, rest.split_once(".0\"")?)))
        {
            writeln!(out, "{before}le=\"{bound}\"{after}")?;
        } else if !line.starts_with('#') {
            writeln!(out, "{line}")?;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};

    use super::*;

    #[test]
    fn the_plain_form_is_what_gos_library_writes() {
        let mut registry = Registry::with_prefix("p");
        let counter: Counter = Counter::default();
        counter.inc_by(2);
        registry.register("opened", "Opened", counter);
        let gauge: Family<Vec<(&str, &str)>, Gauge> = Family::default();
        gauge.get_or_create(&vec![("reason", "a \"b\"\n")]).set(-1);
        registry.register("state", "State", gauge);
        let histogram = Histogram::new([0.5, 1.0, 10.0]);
        histogram.observe(0.75);
        registry.register("wait_seconds", "Wait", histogram);
        let expected = "# HELP p_opened_total Opened.\n# TYPE p_opened_total counter\np_opened_total 2\n\
            # HELP p_state State.\n# TYPE p_state gauge\np_state{reason=\"a \\\"b\\\"\\n\"} -1\n\
            # HELP p_wait_seconds Wait.\n# TYPE p_wait_seconds histogram\np_wait_seconds_sum 0.75\np_wait_seconds_count 1\n\
            p_wait_seconds_bucket{le=\"0.5\"} 0\np_wait_seconds_bucket{le=\"1\"} 1\n\
            p_wait_seconds_bucket{le=\"10\"} 1\np_wait_seconds_bucket{le=\"+Inf\"} 1\n";
        assert_eq!(render(&registry, Format::Plain).unwrap(), expected);
        assert!(render(&registry, Format::OpenMetrics).unwrap().ends_with("# EOF\n"));
    }

    #[test]
    fn openmetrics_is_for_who_names_it() {
        assert_eq!(Format::accepted(None), Format::Plain);
        assert_eq!(Format::accepted(Some("text/plain;version=0.0.4, */*")), Format::Plain);
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(Format::accepted(Some(prometheus)), Format::OpenMetrics);
    }
}
