//! Any text renders as a template or is refused: within its bounds of work and output, and no error tells a value.
#![no_main]

use std::collections::BTreeMap;

use crds::{
    Plaintext,
    template::{Environment, MissingKey, render},
};
use libfuzzer_sys::fuzz_target;

/// In no template that is not given it.
const VALUE: &str = "kwyjibo-4711";
/// A Secret holds no more.
const MEBIBYTE: usize = 1 << 20;

fuzz_target!(|template: &str| {
    let templates = BTreeMap::from([("rendered".to_owned(), Some(template.to_owned()))]);
    let values = BTreeMap::from([("pw".to_owned(), Plaintext::new(VALUE.as_bytes().to_vec()))]);
    let environment = Environment { rng: &mut rand::rng(), now: jiff::Timestamp::UNIX_EPOCH };
    let missing = if template.len().is_multiple_of(2) { MissingKey::NoValue } else { MissingKey::Error };
    match render(&templates, &values, missing, environment) {
        Ok(rendered) => assert!(rendered["rendered"].expose().len() <= 2 * MEBIBYTE),
        Err(error) => assert!(template.contains(VALUE) || !error.to_string().contains(VALUE), "{error}"),
    }
});
