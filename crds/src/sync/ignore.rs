//! Fields that Git names and the cluster decides: `spec.ignore`. Where an object is there already, such a field is left
//! out of what is applied if another manager has it, so that it stays as that one wants it, and is applied as it stands if
//! nobody else has it, because leaving out what is ours alone would delete it. What is not there yet is made as Git says.
//! Pure.

use regex::Regex;
use serde_json::{Map, Value};

use super::{
    FIELD_MANAGER,
    object::ObjectId,
    render::{Place, Problem},
};
use crate::git_sync::IgnoreRule;

/// What of one object is ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// JSON pointers.
    pub paths: Vec<String>,
    /// Whatever these field managers have.
    pub managers: Vec<String>,
}

impl Ignored {
    /// Whether nothing is.
    pub fn is_none(&self) -> bool {
        self.paths.is_empty() && self.managers.is_empty()
    }
}

/// The rules of a GitSync, read once for all its objects.
#[derive(Debug, Default)]
pub struct Rules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    group: Option<String>,
    kind: Option<String>,
    name: Option<Regex>,
    namespace: Option<Regex>,
    ignored: Ignored,
}

impl Rules {
    /// Reads them. What is wrong is told by its place in the spec.
    pub fn new(rules: &[IgnoreRule]) -> Result<Self, Vec<Problem>> {
        let (mut read, mut problems) = (Vec::new(), Vec::new());
        for (number, IgnoreRule { paths, managers, target }) in rules.iter().enumerate() {
            let at = |field: &str| Place { file: format!("spec.ignore[{number}]{field}"), line: 0 };
            if let Some(bad) = paths.iter().find(|path| !path.starts_with('/')) {
                let what = format!("{bad:?} is no JSON pointer, such as /spec/replicas");
                problems.push(Problem { place: at(".paths"), what });
            }
            let target = target.clone().unwrap_or_default();
            let mut pattern = |field: &str, text: &Option<String>| {
                let read = text.as_ref().map(|text| Regex::new(&format!("^(?:{text})$"))).transpose();
                read.unwrap_or_else(|_| {
                    let what = "is no regular expression".to_owned();
                    problems.push(Problem { place: at(&format!(".target.{field}")), what });
                    None
                })
            };
            let (name, namespace) = (pattern("name", &target.name), pattern("namespace", &target.namespace));
            let ignored = Ignored { paths: paths.clone(), managers: managers.clone() };
            read.push(Rule { group: target.group, kind: target.kind, name, namespace, ignored });
        }
        if problems.is_empty() { Ok(Self(read)) } else { Err(problems) }
    }

    /// What of an object is ignored.
    pub fn of(&self, id: &ObjectId) -> Ignored {
        let is = |wanted: &Option<String>, text: &str| wanted.as_deref().is_none_or(|wanted| wanted == text);
        let fits = |wanted: &Option<Regex>, text: &str| wanted.as_ref().is_none_or(|wanted| wanted.is_match(text));
        let mut all = Ignored::default();
        for rule in &self.0 {
            let Rule { group, kind, name, namespace, ignored: Ignored { paths, managers } } = rule;
            if is(group, &id.group) && is(kind, &id.kind) && fits(name, &id.name) && fits(namespace, &id.namespace) {
                all.paths.extend(paths.iter().cloned());
                all.managers.extend(managers.iter().cloned());
            }
        }
        all
    }
}

/// What is applied to an object that is there.
pub fn payload(mut body: Value, ignored: &Ignored, live: &Value) -> Value {
    let entries = live["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    let others = || entries.iter().filter(|entry| entry["manager"] != FIELD_MANAGER);
    for manager in &ignored.managers {
        for entry in others().filter(|entry| entry["manager"] == manager.as_str()) {
            leave_out(&mut body, &entry["fieldsV1"]);
        }
    }
    for path in &ignored.paths {
        let held = others().any(|entry| holds(&entry["fieldsV1"], &body, path));
        match (live.pointer(path), body.pointer_mut(path)) {
            (Some(value), Some(field)) if !held => *field = value.clone(),
            (_, Some(_)) => remove(&mut body, path),
            (_, None) => {}
        }
    }
    body
}

/// Whether a list of fields names the field that a pointer leads to, or something that holds it whole.
fn holds(fields: &Value, body: &Value, path: &str) -> bool {
    let (mut fields, mut body) = (fields, body);
    for part in path.split('/').skip(1).map(unescaped) {
        let (child, next) = match body {
            Value::Array(items) => {
                let Some(item) = part.parse().ok().and_then(|index: usize| items.get(index)) else { return false };
                (item_of(fields, item).map(|(_, child)| child), item)
            }
            Value::Object(map) => {
                let Some(next) = map.get(&part) else { return false };
                (fields.get(format!("f:{part}")), next)
            }
            _ => return false,
        };
        let Some(child) = child else { return false };
        if child.as_object().is_some_and(Map::is_empty) {
            return true;
        }
        (fields, body) = (child, next);
    }
    true
}

/// What a list of fields says of one item of a list.
fn item_of<'a>(fields: &'a Value, item: &Value) -> Option<(&'a str, &'a Value)> {
    let is_it = |key: &str| match key.split_at_checked(2) {
        Some(("k:", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            !keys.is_empty() && keys.iter().all(|(key, value)| item.get(key) == Some(value))
        }
        Some(("v:", value)) => serde_json::from_str::<Value>(value).is_ok_and(|value| value == *item),
        _ => false,
    };
    fields.as_object()?.iter().find(|(key, _)| is_it(key)).map(|(key, child)| (key.as_str(), child))
}

/// Leaves out all that a list of fields names. An item of a list keeps the keys that it is told by.
fn leave_out(body: &mut Value, fields: &Value) {
    match body {
        Value::Object(map) => {
            for (key, child) in fields.as_object().into_iter().flatten() {
                let Some(name) = key.strip_prefix("f:") else { continue };
                if !child.as_object().is_some_and(|child| child.keys().any(|key| key != ".")) {
                    map.remove(name);
                } else if let Some(value) = map.get_mut(name) {
                    leave_out(value, child);
                }
            }
        }
        Value::Array(items) => items.retain_mut(|item| {
            let Some((key, child)) = item_of(fields, item) else { return true };
            let Some(keys) = key.strip_prefix("k:") else { return false };
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            leave_out(item, child);
            if let Value::Object(map) = item {
                map.extend(keys);
            }
            true
        }),
        _ => {}
    }
}

fn remove(body: &mut Value, path: &str) {
    let Some((parent, last)) = path.rsplit_once('/') else { return };
    match body.pointer_mut(parent) {
        Some(Value::Object(map)) => {
            map.remove(&unescaped(last));
        }
        Some(Value::Array(items)) => {
            if let Some(index) = last.parse().ok().filter(|index: &usize| *index < items.len()) {
                items.remove(index);
            }
        }
        _ => {}
    }
}

fn unescaped(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::git_sync::IgnoreTarget;

    fn paths(paths: &[&str]) -> Ignored {
        Ignored { paths: paths.iter().map(|path| (*path).to_owned()).collect(), managers: Vec::new() }
    }

    fn live(spec: &Value, entries: &[(&str, Value)]) -> Value {
        let entries: Vec<_> = entries
            .iter()
            .map(|(manager, fields)| json!({"manager": manager, "fieldsV1": {"f:spec": fields}}))
            .collect();
        json!({"metadata": {"managedFields": entries}, "spec": spec})
    }

    #[test]
    fn what_another_has_is_left_out_and_what_nobody_has_is_left_as_it_stands() {
        let body = json!({"spec": {"replicas": 3, "paused": false}});
        let ignored = paths(&["/spec/replicas", "/spec/absent/deep"]);
        let ours = (FIELD_MANAGER, json!({"f:replicas": {}, "f:paused": {}}));
        let alone = live(&json!({"replicas": 7}), std::slice::from_ref(&ours));
        assert_eq!(payload(body.clone(), &ignored, &alone)["spec"], json!({"replicas": 7, "paused": false}));
        let scaled = live(&json!({"replicas": 7}), &[ours.clone(), ("hpa", json!({"f:replicas": {}}))]);
        assert_eq!(payload(body.clone(), &ignored, &scaled)["spec"], json!({"paused": false}));
        let whole = live(&json!({"replicas": 7}), &[("hpa", json!({}))]);
        assert_eq!(payload(body.clone(), &ignored, &whole)["spec"], json!({"paused": false}));
        assert_eq!(payload(body.clone(), &ignored, &live(&json!({}), &[ours]))["spec"], json!({"paused": false}));
    }

    #[test]
    fn a_pointer_leads_into_lists_and_through_slashes() {
        let body = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}],
            "labels": {"x/y~z": "1"}}});
        let fields =
            json!({"f:containers": {"k:{\"name\":\"b\"}": {".": {}, "f:image": {}}}, "f:labels": {"f:x/y~z": {}}});
        let ignored = paths(&["/spec/containers/1/image", "/spec/labels/x~1y~0z", "/spec/containers/0/image"]);
        let there =
            json!({"containers": [{"name": "a", "image": "2"}, {"name": "b", "image": "2"}], "labels": {"x/y~z": "2"}});
        let applied = payload(body.clone(), &ignored, &live(&there, &[("other", fields)]));
        let expected = json!({"containers": [{"name": "a", "image": "2"}, {"name": "b"}], "labels": {}});
        assert_eq!(applied["spec"], expected);
    }

    #[test]
    fn what_a_manager_has_is_left_out_but_for_the_keys_of_lists() {
        let body = json!({"spec": {"replicas": 3, "args": ["x", "y"],
            "containers": [{"name": "a", "image": "1", "env": []}, {"name": "b", "image": "1"}]}});
        let fields = json!({"f:replicas": {}, "f:args": {"v:\"x\"": {}},
            "f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}, "f:image": {}}}});
        let ignored = Ignored { paths: Vec::new(), managers: vec!["tool".to_owned()] };
        let applied = payload(body.clone(), &ignored, &live(&json!({}), &[("tool", fields.clone())]));
        let expected = json!({"args": ["y"], "containers": [{"name": "a", "env": []}, {"name": "b", "image": "1"}]});
        assert_eq!(applied["spec"], expected);
        assert_eq!(payload(body.clone(), &ignored, &live(&json!({}), &[("another", fields)])), body);
    }

    #[test]
    fn rules_are_for_the_objects_they_name() {
        let id = |kind: &str, name: &str| ObjectId {
            namespace: "shop".into(),
            name: name.into(),
            group: "apps".into(),
            kind: kind.into(),
        };
        let target =
            IgnoreTarget { kind: Some("Deployment".into()), name: Some("web-.*".into()), ..IgnoreTarget::default() };
        let rule = |path: &str, target| IgnoreRule { paths: vec![path.into()], target, ..IgnoreRule::default() };
        let rules = Rules::new(&[rule("/a", Some(target.clone())), rule("/b", None)]).unwrap();
        assert_eq!(rules.of(&id("Deployment", "web-1")), paths(&["/a", "/b"]));
        for (kind, name) in [("Deployment", "web"), ("Deployment", "my-web-1"), ("StatefulSet", "web-1")] {
            assert_eq!(rules.of(&id(kind, name)), paths(&["/b"]));
        }
        let bad = IgnoreTarget { name: Some("(".into()), ..target };
        let problems = Rules::new(&[rule("/a", None), rule("spec", Some(bad))]).unwrap_err();
        let problems: Vec<_> = problems.iter().map(Problem::to_string).collect();
        assert_eq!(
            problems,
            [
                "spec.ignore[1].paths: \"spec\" is no JSON pointer, such as /spec/replicas",
                "spec.ignore[1].target.name: is no regular expression",
            ]
        );
    }
}
