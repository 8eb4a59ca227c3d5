//! Sealed values in what is passed over: a chart's template, a file of values, a GitSync. Who asks whether anything is
//! left has to hear of them. Pure, and a guess: a value shows no more than how long its parts are.

use std::borrow::Cow;

use crds::base64;
use serde_json::Value;

use crate::manifest::Fault;

/// How many there seem to be in an object or, where it cannot be read, in its text.
pub fn sealed_values(object: &Result<Value, Fault>, text: &str) -> usize {
    match object {
        Ok(value) => in_value(value),
        Err(_) => in_text(text),
    }
}

fn in_value(value: &Value) -> usize {
    match value {
        Value::String(text) => in_text(&unfolded(text)),
        Value::Array(values) => values.iter().map(in_value).sum(),
        Value::Object(fields) => fields.values().map(in_value).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// A value may stand on several lines.
fn unfolded(text: &str) -> Cow<'_, str> {
    let is_one = text.chars().all(|c| is_base64(c) || c == '=' || c.is_ascii_whitespace());
    if is_one { text.split_ascii_whitespace().collect::<String>().into() } else { text.into() }
}

fn in_text(text: &str) -> usize {
    text.split(|c| !is_base64(c)).filter(|run| is_sealed(run)).count()
}

fn is_base64(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '+' || c == '/'
}

/// It begins with the length of what the key encrypts, and is long enough to hold that and a tag.
fn is_sealed(run: &str) -> bool {
    let head = run.get(..4).and_then(base64::decode);
    let Some(&[high, low, _]) = head.as_deref() else { return false };
    let length = usize::from(u16::from_be_bytes([high, low]));
    (128..=2048).contains(&length) && length % 128 == 0 && run.len() >= (2 + length + 16) * 4 / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> String {
        base64::encode(&[&[2, 0][..], &[7; 512], &[9; 20]].concat())
    }

    #[test]
    fn sealed_values_are_seen_wherever_they_stand() {
        let seen = |object: Value| sealed_values(&Ok(object), "");
        let value = sealed();
        let (first, rest) = value.split_at(76);
        assert_eq!(seen(serde_json::json!({"db": {"password": value, "folded": format!("{first}\n {rest}")}})), 2);
        assert_eq!(seen(serde_json::json!([format!("a: '{value}' # x\nb: {value}\n")])), 2);
        let chart = format!("metadata: {{{{ .Release.Name }}}}\n    a: {value}\n    b: \"{value}\"\n");
        assert_eq!(sealed_values(&Err(Fault::Syntax(String::new())), &chart), 2);
    }

    #[test]
    fn what_is_cut_off_or_something_else_is_none() {
        let others = [
            sealed()[..600].to_owned(),
            base64::encode(&[7; 600]),
            "AgA".to_owned(),
            base64::encode(b"-----BEGIN CERTIFICATE-----\nMIIE").repeat(30),
            "0".repeat(900),
            "ä".repeat(500),
        ];
        for other in others {
            assert_eq!(sealed_values(&Ok(Value::String(other.clone())), ""), 0, "{other}");
        }
    }
}
