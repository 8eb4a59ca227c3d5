//! Reads single figures out of a Prometheus exposition. It must not take a metric that does not exist for an error:
//! a counter that never counted has no series yet.

use anyhow::{Context as _, Result};

/// The sum over the series of one metric; with the beginning of its labels (`name{a="b"`), over those alone.
pub fn sum(exposition: &str, name: &str) -> Result<f64> {
    let series = exposition.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        // Without labels the whole name must match: `a` is not `a_total`.
        rest.is_some_and(|rest| name.contains('{') || rest.starts_with([' ', '{']))
    });
    let mut total = 0.0;
    for line in series {
        let value = line.split(" # ").next().and_then(|line| line.split_whitespace().last());
        total += value.with_context(|| format!("no value: {line}"))?.parse::<f64>()?;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_sum_of_its_series_and_of_no_other() {
        let exposition =
            "# TYPE opened counter\nopened_total{ns=\"a\"} 2\nopened_total{ns=\"b c\"} 3 # {id=\"7\"} 1\nopened 9\n";
        let sum_of = |name| sum(exposition, name).unwrap().to_string();
        assert_eq!(sum_of("opened_total"), "5");
        assert_eq!(sum_of("opened_total{ns=\"b"), "3");
        assert_eq!(sum_of("opened"), "9");
        assert_eq!(sum_of("never_counted"), "0");
    }
}
