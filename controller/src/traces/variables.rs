//! What the variables `OTEL_…` say that the SDK does not read, or takes for something else without a word. Pure: what a
//! variable holds is asked of the caller. The SDK reads the others itself: see docs/traces.md.

/// Whether they let anybody be traced at all. An error says which of them cannot be obeyed.
pub fn are_wanted(variable: impl Fn(&str) -> Option<String>) -> Result<bool, String> {
    let given = |name: &str| variable(name).filter(|value| !value.is_empty());
    if given("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(false);
    }
    let must_be = |name: &str, known: &[&str]| match given(name) {
        Some(value) if !known.contains(&value.as_str()) => {
            Err(format!("{name} is {value:?}, and must be {}", known.join(" or ")))
        }
        value => Ok(value),
    };
    if must_be("OTEL_TRACES_EXPORTER", &["otlp", "none"])?.as_deref() == Some("none") {
        return Ok(false);
    }
    for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        // The first that is given counts.
        if must_be(name, &["http/protobuf"])?.is_some() {
            break;
        }
    }
    let samplers = [
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ];
    let sampler = must_be("OTEL_TRACES_SAMPLER", &samplers)?;
    if sampler.is_some_and(|sampler| sampler.ends_with("traceidratio"))
        && let Some(ratio) = given("OTEL_TRACES_SAMPLER_ARG")
        && !ratio.parse().is_ok_and(|ratio| (0.0..=1.0).contains(&ratio))
    {
        return Err(format!("OTEL_TRACES_SAMPLER_ARG is {ratio:?}, and must be a number from 0 to 1"));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(variables: &[(&str, &str)]) -> Result<bool, String> {
        are_wanted(|name| variables.iter().find(|it| it.0 == name).map(|it| it.1.to_owned()))
    }

    #[test]
    fn nobody_is_traced_where_a_variable_says_so() {
        assert_eq!(wanted(&[]), Ok(true));
        assert_eq!(wanted(&[("OTEL_SDK_DISABLED", "True"), ("OTEL_TRACES_SAMPLER", "odd")]), Ok(false));
        assert_eq!(wanted(&[("OTEL_SDK_DISABLED", "1")]), Ok(true), "true is the only word for it");
        assert_eq!(wanted(&[("OTEL_TRACES_EXPORTER", "none")]), Ok(false));
        assert_eq!(wanted(&[("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "")]), Ok(true));
    }

    #[test]
    fn what_cannot_be_obeyed_is_named() {
        for (name, value, why) in [
            ("OTEL_TRACES_EXPORTER", "zipkin", "otlp or none"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "http/protobuf"),
            ("OTEL_TRACES_SAMPLER", "xray", "traceidratio"),
        ] {
            let told = wanted(&[(name, value)]).unwrap_err();
            assert!(told.starts_with(name) && told.contains(value) && told.contains(why), "{told}");
        }
        let own = [("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
        assert_eq!(wanted(&own), Ok(true), "that of traces counts");
        let ratio = |text| {
            wanted(&[("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", text)]).is_ok()
        };
        assert_eq!(
            ["0", "0.25", "1", "", "1.5", "10%", "NaN"].map(ratio),
            [true, true, true, true, false, false, false]
        );
    }
}
