//! Where an object holds values that variables brought from Secrets, and what is shown in their place. Pure. Of a value
//! neither a byte is left nor its length, on either side: what stood there before may be a secret too.

use crds::sync::substitute::Variables;
use serde_json::Value;

/// In the place of a value that is a secret.
const MASK: &str = "***";
/// The same where two values differ.
const BEFORE: &str = "*** (before)";
const AFTER: &str = "*** (after)";

/// A step on the way to a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Of a mapping.
    Key(String),
    /// Of a list: by its name, which stays when a server orders them otherwise, else by its place.
    Item { index: usize, name: Option<String> },
}

/// The way to a value; of no steps for all of it.
pub type Path = Vec<Step>;

/// What is not to be seen of an object.
#[derive(Debug, Default)]
pub struct Hidden<'a> {
    pub paths: Vec<Path>,
    /// Their values are not to be seen wherever they stand.
    pub variables: Option<&'a Variables>,
}

/// Where two forms of an object differ: as it is, and with something else in the place of what is secret.
pub fn paths(real: &Value, other: &Value) -> Vec<Path> {
    let mut found = Vec::new();
    compare(real, other, &mut Vec::new(), &mut found);
    found
}

fn compare(real: &Value, other: &Value, here: &mut Path, found: &mut Vec<Path>) {
    match (real, other) {
        (Value::Object(real), Value::Object(other)) if real.keys().eq(other.keys()) => {
            for ((key, real), other) in real.iter().zip(other.values()) {
                here.push(Step::Key(key.clone()));
                compare(real, other, here, found);
                here.pop();
            }
        }
        (Value::Array(real), Value::Array(other)) if real.len() == other.len() => {
            for (index, (real, other)) in real.iter().zip(other).enumerate() {
                let name = real["name"].as_str().filter(|name| other["name"] == **name).map(str::to_owned);
                here.push(Step::Item { index, name });
                compare(real, other, here, found);
                here.pop();
            }
        }
        (real, other) if real == other => {}
        _ => found.push(here.clone()),
    }
}

/// Shows of what lies there only whether it differs.
pub fn conceal(before: &mut Option<Value>, after: &mut Option<Value>, path: &[Step]) {
    let [old, new] = [before, after].map(|side| side.as_mut().and_then(|side| at(side, path)));
    match (old, new) {
        (Some(old), Some(new)) if old == new => (*old, *new) = (MASK.into(), MASK.into()),
        (Some(old), Some(new)) => (*old, *new) = (BEFORE.into(), AFTER.into()),
        (old, new) => [old, new].into_iter().flatten().for_each(|value| *value = MASK.into()),
    }
}

fn at<'a>(value: &'a mut Value, path: &[Step]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Item { index, name } => {
            let items = value.as_array_mut()?;
            let named = name.as_ref().and_then(|name| items.iter().position(|item| item["name"] == **name));
            items.get_mut(named.unwrap_or(*index))
        }
    })
}

/// Leaves out of all texts what the variables brought from Secrets.
pub fn mask(value: &mut Value, variables: &Variables) {
    match value {
        Value::String(text) => *text = variables.mask(text),
        Value::Array(items) => items.iter_mut().for_each(|item| mask(item, variables)),
        Value::Object(fields) => fields.values_mut().for_each(|field| mask(field, variables)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_secret_went_into_is_shown_on_neither_side() {
        let object = |secret: Value, port: Value| {
            json!({"data": {"open": "1", "login": secret, "port": port},
                "env": [{"name": "A", "value": "a"}, {"name": "B", "value": secret}], "args": ["x", secret]})
        };
        let found = paths(&object(json!("hunter2"), json!(7)), &object(json!("masked"), json!("masked")));
        assert_eq!(found.len(), 4, "{found:?}");
        // The server has more of them, in another order.
        let mut before = object(json!("old"), json!(6));
        before["env"] =
            json!([{"name": "C", "value": "c"}, {"name": "B", "value": "old"}, {"name": "A", "value": "a"}]);
        let (mut before, mut after) = (Some(before), Some(object(json!("hunter2"), json!(7))));
        found.iter().for_each(|path| conceal(&mut before, &mut after, path));
        let text = format!("{before:?} {after:?}");
        assert!(!text.contains("hunter2") && !text.contains("old") && !text.contains('7'), "{text}");
        let before = before.unwrap();
        assert_eq!(before["env"][1]["value"], BEFORE);
        assert_eq!((&before["env"][0]["value"], &before["data"]["open"]), (&json!("c"), &json!("1")));
    }

    #[test]
    fn where_a_secret_is_a_key_all_beside_it_is_hidden() {
        assert_eq!(
            paths(&json!({"data": {"hunter2": "1"}}), &json!({"data": {"masked": "1"}})),
            [[Step::Key("data".into())]]
        );
        assert_eq!(paths(&json!("hunter2"), &json!("masked")), [Path::new()]);
        let (mut before, mut after) = (None, Some(json!({"hunter2": "1"})));
        conceal(&mut before, &mut after, &[]);
        assert_eq!((before, after), (None, Some(json!(MASK))));
    }
}
