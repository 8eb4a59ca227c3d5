//! What may stand after a flag, and what is said of all else.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    num::NonZeroU32,
};

use crds::key_secret;
use jiff::{SignedDuration, Timestamp, fmt::strtime};

pub(super) fn duration(text: &str) -> Result<SignedDuration, String> {
    let parsed = if text == "0" { Some(SignedDuration::ZERO) } else { text.parse().ok() };
    parsed
        .filter(|duration| !duration.is_negative())
        .ok_or_else(|| "not a duration such as 30s, 10m or 720h".to_owned())
}

pub(super) fn some_time(text: &str) -> Result<SignedDuration, String> {
    let duration = duration(text)?;
    if duration.is_zero() { Err("must be longer than 0".to_owned()) } else { Ok(duration) }
}

/// A number of bytes, with Kubernetes' binary suffixes.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)];
    let (number, shift) =
        units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift))).unwrap_or((text, 0));
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "not a size such as 512Mi or 2Gi".to_owned())
}

/// Go's RFC1123Z.
pub(super) fn cutoff(text: &str) -> Result<Option<Timestamp>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    strtime::parse("%a, %d %b %Y %H:%M:%S %z", text)
        .and_then(|time| time.to_timestamp())
        .map(Some)
        .map_err(|_| "not a time such as \"Mon, 02 Jan 2006 15:04:05 -0700\" (date -R writes this form)".to_owned())
}

pub(super) fn qps(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|qps: &f64| qps.is_finite() && *qps != 0.0)
        .ok_or_else(|| "must be a number above 0, or a negative one for no limit".to_owned())
}

/// What negative numbers stand for: more than ever wait.
const ANY_NUMBER: NonZeroU32 = NonZeroU32::MIN.saturating_add(1 << 20);

pub(super) fn burst(text: &str) -> Result<NonZeroU32, String> {
    match text.parse::<i64>() {
        Ok(..0) => Ok(ANY_NUMBER),
        _ => some(text).map_err(|error| format!("{error}, or a negative one for any number")),
    }
}

pub(super) fn some(text: &str) -> Result<NonZeroU32, String> {
    text.parse().map_err(|_| "must be a number above 0".to_owned())
}

pub(super) fn annotations(list: &str) -> Result<BTreeMap<String, String>, String> {
    pairs(list)
}

pub(super) fn labels(list: &str) -> Result<BTreeMap<String, String>, String> {
    let labels = pairs(list)?;
    for (key, value) in &labels {
        if key == key_secret::LABEL {
            return Err(format!("{key} marks the key Secrets and is always set"));
        }
        if !value.is_empty() && !is_name(value) {
            return Err(format!("{value:?} cannot be the value of a label"));
        }
    }
    Ok(labels)
}

/// `key=value,key=value`. A value may hold further `=`.
fn pairs(list: &str) -> Result<BTreeMap<String, String>, String> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is not of the form key=value"))?;
        let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
        if !is_name(name) || !prefix.is_none_or(is_domain) {
            return Err(format!("{key:?} cannot be the key of a label or annotation"));
        }
        Ok((key.to_owned(), value.to_owned()))
    };
    list.split(',').filter(|part| !list.is_empty() || !part.is_empty()).map(pair).collect()
}

pub(super) fn namespaces(list: &str) -> Result<BTreeSet<String>, String> {
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let fits = name.len() <= 63 && !name.contains('.') && is_domain(name);
            fits.then(|| name.to_owned()).ok_or_else(|| format!("{name:?} cannot be the name of a namespace"))
        })
        .collect()
}

/// What Kubernetes takes for a label's value, and for the name in its key.
fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.len() <= 63
        && text.chars().all(inner)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

fn is_domain(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    // Go's short form for all addresses, those of IPv4 too.
    let full = if text.starts_with(':') { format!("[::]{text}") } else { text.to_owned() };
    full.parse().map_err(|_| "not an address such as :8080 or 127.0.0.1:8080".to_owned())
}

pub(super) fn key_size(text: &str) -> Result<u32, String> {
    [2048, 3072, 4096, 8192]
        .into_iter()
        .find(|bits| bits.to_string() == text)
        .ok_or_else(|| "must be 2048, 3072, 4096 or 8192".to_owned())
}

pub(super) fn key_prefix(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !text.is_empty() && text.len() <= 245 && text.chars().all(fits) {
        return Ok(text.to_owned());
    }
    Err("must be at most 245 lower-case letters, digits and dashes".to_owned())
}
