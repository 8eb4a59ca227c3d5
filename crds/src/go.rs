//! Words as Go reads them: scripts and charts that drive upstream's programs drive ours.

/// What Go's `strconv.ParseBool` takes: `true`, `T`, `1` and the like.
pub fn parse_bool(word: &str) -> Result<bool, &'static str> {
    match word {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("use true or false"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_go_takes() {
        assert!(["1", "t", "T", "true", "TRUE", "True"].iter().all(|word| parse_bool(word) == Ok(true)));
        assert!(["0", "f", "F", "false", "FALSE", "False"].iter().all(|word| parse_bool(word) == Ok(false)));
        assert!(["", "yes", "tRUE", "2"].iter().all(|word| parse_bool(word).is_err()));
    }
}
