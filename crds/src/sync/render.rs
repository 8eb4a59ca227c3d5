//! From files to the objects they ask for, each with the place it stands at. Pure: knows no Git and no cluster but the
//! kinds it is told. All problems of a commit are found at once; what has one is not applied.

use std::{collections::HashMap, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use kube::core::discovery::Scope;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    hook,
    ignore::{Ignored, Rules},
    images,
    kinds::Kinds,
    marks::{Marks, marks},
    object::{Manifest, ObjectId},
    order,
    substitute::{self, Room, Variables},
};
use crate::{
    git_sync::{GitSyncSpec, NAME_LABEL, NAMESPACE_LABEL},
    yaml,
};

/// A file of the repository.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Path in the repository.
    pub path: String,
    /// What it says; `None` for one that is not UTF-8.
    pub text: Option<String>,
}

/// Where in the repository something stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Path of the file.
    pub file: String,
    /// Line of the document, from 1; 0 where none is known.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// Why a place cannot be applied. Holds no content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What is wrong, and what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// An object that a file asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// What it is called.
    pub id: ObjectId,
    /// API version without the group.
    pub version: String,
    /// What is applied: the manifest with its namespace and our labels.
    pub body: Manifest,
    /// Changes when the body does.
    pub digest: String,
    /// What it says about how it is synced.
    pub marks: Marks,
    /// What of it the cluster decides.
    pub ignored: Ignored,
    /// Where it stands.
    pub place: Place,
}

/// Whose objects these are, and what is done to them.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// Of the GitSync; also where objects without a namespace go.
    pub namespace: &'a str,
    /// Of the GitSync.
    pub name: &'a str,
    /// What it asks for.
    pub spec: &'a GitSyncSpec,
}

/// Documents as they stand in the files, before kinds are known.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// Objects, with lists taken apart.
    pub objects: Vec<(Place, Value)>,
    /// What could not be read.
    pub problems: Vec<Problem>,
}

/// Reads all documents of all files, and replaces variables where that is asked for.
pub fn documents(files: &[SourceFile], variables: Option<&Variables>) -> Documents {
    let (mut read, mut room) = (Documents::default(), Room::default());
    for SourceFile { path, text } in files {
        let at = |line| Place { file: path.clone(), line };
        let Some(text) = text else {
            read.problems.push(Problem { place: at(1), what: "is not UTF-8 text".to_owned() });
            continue;
        };
        for yaml::Document { line, range, value } in yaml::documents(text) {
            match value {
                Ok(value) => match substitute::document(text, &range, value, variables, &mut room) {
                    Ok(value) => flatten(at(line), value, &mut read.objects),
                    Err(unknown) => {
                        read.problems
                            .extend(unknown.into_iter().map(|it| Problem { place: at(it.line), what: it.what }));
                    }
                },
                Err(error) => read.problems.push(Problem { place: at(error.line), what: error.problem }),
            }
        }
    }
    read
}

/// Makes objects of documents. Either all is well or the problems say everything that is not.
pub fn objects(documents: &Documents, kinds: &Kinds, owner: Owner<'_>) -> Result<Vec<Desired>, Vec<Problem>> {
    let mut problems = documents.problems.clone();
    let rules = Rules::new(&owner.spec.ignore).unwrap_or_else(|bad| {
        problems.extend(bad);
        Rules::default()
    });
    let mut found: HashMap<ObjectId, Place> = HashMap::new();
    let mut all = Vec::new();
    for (place, value) in &documents.objects {
        let checked = object(place, value, kinds, owner, &rules).and_then(|desired| {
            let first = found.get(&desired.id).map(|first| {
                format!("{} stands at {first} already; an object may stand in one place only", desired.id)
            });
            first.map_or(Ok(desired), Err)
        });
        match checked {
            Ok(desired) => {
                found.insert(desired.id.clone(), place.clone());
                all.push(desired);
            }
            Err(what) => problems.push(Problem { place: place.clone(), what }),
        }
    }
    if !problems.is_empty() {
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        return Err(problems);
    }
    all.sort_by_cached_key(|desired| (order::stage(&desired.id), desired.id.clone()));
    Ok(all)
}

fn object(place: &Place, value: &Value, kinds: &Kinds, owner: Owner<'_>, rules: &Rules) -> Result<Desired, String> {
    let Value::Object(_) = value else { return Err("is not an object with apiVersion and kind".to_owned()) };
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let api_version = text(&value["apiVersion"]).ok_or("apiVersion is missing")?;
    let kind = text(&value["kind"]).ok_or("kind is missing")?;
    let name = text(&value["metadata"]["name"]).or_else(|| generated(value));
    let name = name.ok_or_else(|| format!("{kind}: metadata.name is missing"))?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    if group == "kustomize.config.k8s.io" {
        return Err("a kustomization among plain files is not built: set spec.path to its folder".to_owned());
    }
    let known = kinds.get(group, version, &kind);
    let known = known.ok_or_else(|| format!("{kind} {name}: this cluster serves no {kind} in {api_version}"))?;
    let namespace = match (&known.scope, &owner.spec.target_namespace, &value["metadata"]["namespace"]) {
        (Scope::Cluster, ..) => String::new(),
        (Scope::Namespaced, Some(target), _) => target.clone(),
        (Scope::Namespaced, None, Value::Null) => owner.namespace.to_owned(),
        (Scope::Namespaced, None, namespace) => {
            text(namespace).ok_or_else(|| format!("{kind} {name}: metadata.namespace is not a name"))?
        }
    };
    let id = ObjectId { namespace, name, group: group.to_owned(), kind };
    if !owner.spec.allow_plain_secrets && is_plain_secret(&id, value) {
        return Err(format!(
            "{id} is a plain Secret: whoever can read the repository can read it. Seal it first: \
             seal -f {file} -w {file}, change its values, and commit that (or set spec.allowPlainSecrets)",
            file = place.file
        ));
    }
    let mut body = value.clone();
    images::change(&mut body, &owner.spec.images);
    let metadata = &mut body["metadata"];
    metadata["name"] = json!(id.name);
    if known.scope == Scope::Namespaced {
        metadata["namespace"] = json!(id.namespace);
    }
    let common = owner.spec.common_metadata.clone().unwrap_or_default();
    let mine = [(NAME_LABEL, owner.name), (NAMESPACE_LABEL, owner.namespace)];
    let mine = mine.map(|(key, value)| (key.to_owned(), value.to_owned()));
    for (field, added) in [
        ("labels", common.labels.into_iter().chain(mine).collect::<Vec<_>>()),
        ("annotations", common.annotations.into_iter().collect()),
    ] {
        if !added.is_empty() {
            add(metadata, field, added).map_err(|what| format!("{id}: {what}"))?;
        }
    }
    strip(&mut body);
    let texts = |field: &str| {
        let entries = body["metadata"][field].as_object().into_iter().flatten();
        entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
    };
    let mut marks = marks(&texts("labels"), &texts("annotations")).map_err(|what| format!("{id}: {what}"))?;
    // A hook is deleted before it runs again: what is to be kept, or holds what is others', is applied as anything else.
    if marks.kept || id.holds_others() {
        marks.hook = None;
    }
    let ignored = rules.of(&id);
    // With other rules it is another object to be applied.
    let rules = if ignored.is_none() { String::new() } else { format!("{ignored:?}") };
    let body = Manifest::from(&body);
    let digest = STANDARD_NO_PAD.encode(Sha256::new().chain_update(body.text()).chain_update(&rules).finalize());
    Ok(Desired { version: version.to_owned(), digest, marks, ignored, place: place.clone(), id, body })
}

/// The definitions among them.
pub fn definitions(desired: &[Desired]) -> impl Iterator<Item = Value> {
    desired.iter().filter(|it| it.id.kind == "CustomResourceDefinition").map(|it| it.body.value())
}

/// A hook may leave the end of its name open. It is the same while the manifest is, so that the next run finds it.
fn generated(value: &Value) -> Option<String> {
    let metadata = &value["metadata"];
    let annotations = metadata["annotations"].as_object()?;
    let is_hook = [hook::HOOK, "argocd.argoproj.io/hook"].iter().any(|key| annotations.contains_key(*key));
    let prefix = metadata["generateName"].as_str().filter(|_| is_hook)?;
    let digest = Sha256::digest(value.to_string());
    Some(digest.iter().take(4).fold(prefix.to_owned(), |name, byte| format!("{name}{byte:02x}")))
}

fn add(metadata: &mut Value, field: &str, added: Vec<(String, String)>) -> Result<(), String> {
    let metadata = metadata.as_object_mut().ok_or("metadata is not an object")?;
    let entries = metadata.entry(field).or_insert(Value::Null);
    if entries.is_null() {
        *entries = Value::Object(Map::new());
    }
    let entries = entries.as_object_mut().ok_or_else(|| format!("metadata.{field} is not an object"))?;
    entries.extend(added.into_iter().map(|(key, value)| (key, Value::String(value))));
    Ok(())
}

/// What only a server may say; an exported manifest often still holds it, and an apply with it fails.
fn strip(body: &mut Value) {
    if let Some(object) = body.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = body["metadata"].as_object_mut() {
        for field in
            ["generateName", "managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"]
        {
            metadata.remove(field);
        }
    }
}

fn is_plain_secret(id: &ObjectId, value: &Value) -> bool {
    let holds = |field: &str| value[field].as_object().is_some_and(|items| !items.is_empty());
    (id.group.as_str(), id.kind.as_str()) == ("", "Secret") && (holds("data") || holds("stringData"))
}

/// Takes lists apart.
pub fn flatten(place: Place, value: Value, into: &mut Vec<(Place, Value)>) {
    let is_list = value["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) && value["items"].is_array();
    match value {
        Value::Object(mut list) if is_list => {
            if let Some(Value::Array(items)) = list.remove("items") {
                items.into_iter().for_each(|item| flatten(place.clone(), item, into));
            }
        }
        value => into.push((place, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds() -> Kinds {
        let definition = |group: &str, kind: &str, scope: &str, version: &str| {
            json!({"kind": "CustomResourceDefinition", "spec": {
                "group": group, "scope": scope, "names": {"kind": kind, "plural": kind.to_lowercase()},
                "versions": [{"name": version}],
            }})
        };
        let definitions = [
            definition("", "ConfigMap", "Namespaced", "v1"),
            definition("", "Secret", "Namespaced", "v1"),
            definition("", "Namespace", "Cluster", "v1"),
        ];
        Kinds::default().with_definitions(definitions.iter())
    }

    fn render(files: &[(&str, &str)]) -> Result<Vec<Desired>, Vec<String>> {
        let files: Vec<_> =
            files.iter().map(|(path, text)| SourceFile { path: (*path).into(), text: Some((*text).into()) }).collect();
        let spec = GitSyncSpec::default();
        let owner = Owner { namespace: "team", name: "app", spec: &spec };
        objects(&documents(&files, None), &kinds(), owner)
            .map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn objects_are_labelled_placed_and_ordered() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: null}\n";
        let found = render(&[("app.yaml", text)]).unwrap();
        let ids: Vec<_> = found.iter().map(|desired| (desired.id.to_string(), desired.place.to_string())).collect();
        assert_eq!(
            ids,
            [
                ("Namespace shop".to_owned(), "app.yaml:5".to_owned()),
                ("ConfigMap team/a".to_owned(), "app.yaml:1".to_owned())
            ]
        );
        assert_eq!(found[0].body.value()["metadata"]["labels"][NAME_LABEL], "app");
        assert!(found[0].body.value()["metadata"].get("namespace").is_none());
        assert_eq!(found[1].body.value()["metadata"]["namespace"], "team");
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let problems = render(&[
            ("a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\nx: [\n---\nkind: ConfigMap\n"),
            ("b.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"),
            ("c.yaml", "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\n---\njust text\n"),
        ])
        .unwrap_err();
        let starts = ["a.yaml:5: ", "a.yaml:7: apiVersion", "b.yaml:1: ConfigMap team/a stands at a.yaml:1 already"];
        for start in starts {
            assert!(problems.iter().any(|problem| problem.starts_with(start)), "{start} in {problems:#?}");
        }
        assert_eq!(problems[3], "c.yaml:1: Widget w: this cluster serves no Widget in example.com/v1");
        assert_eq!(problems[4], "c.yaml:5: is not an object with apiVersion and kind");
    }

    #[test]
    fn a_plain_secret_is_refused_with_the_remedy_and_without_its_value() {
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\nstringData: {password: hunter2}\n";
        let problems = render(&[("db.yaml", secret)]).unwrap_err();
        assert!(problems[0].contains("seal -f db.yaml -w db.yaml"), "{problems:?}");
        assert!(!problems[0].contains("hunter2"));
        assert!(render(&[("db.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: empty}\n")]).is_ok());
    }

    #[test]
    fn lists_are_taken_apart_and_server_fields_left_out() {
        let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: a, uid: x, resourceVersion: '1'}\n";
        let found = render(&[("l.yaml", list)]).unwrap();
        let body = found[0].body.value();
        let metadata = body["metadata"].as_object().unwrap();
        assert_eq!(metadata.keys().collect::<Vec<_>>(), ["labels", "name", "namespace"]);
    }

    #[test]
    fn a_hook_may_leave_the_end_of_its_name_open() {
        let map = |annotation: &str, value: u8| {
            let text = format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  generateName: run-\n  annotations: {{{annotation}}}\ndata: {{k: '{value}'}}\n"
            );
            render(&[("a.yaml", &text)]).map(|mut found| found.remove(0))
        };
        let hook = "argocd.argoproj.io/hook: PreSync";
        let one = map(hook, 1).unwrap();
        assert!(one.id.name.starts_with("run-") && one.id.name.len() == 12, "{}", one.id.name);
        assert_eq!(one.body.value()["metadata"]["name"], one.id.name);
        assert!(one.body.value()["metadata"].get("generateName").is_none());
        assert_eq!(map(hook, 1).unwrap().id, one.id);
        assert_ne!(map(hook, 2).unwrap().id, one.id);
        assert!(map("example.com/hook: x", 1).unwrap_err()[0].contains("metadata.name is missing"));
    }

    #[test]
    fn what_may_not_go_is_no_hook() {
        let is_hook = |more: &str| {
            let text = format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  annotations: {{argocd.argoproj.io/hook: PreSync{more}}}\n"
            );
            render(&[("a.yaml", &text)]).unwrap().remove(0).marks.hook.is_some()
        };
        assert!(is_hook(""));
        assert!(!is_hook(", helm.sh/resource-policy: keep"));
        let id = |kind: &str| ObjectId {
            namespace: "shop".into(),
            name: "a".into(),
            group: String::new(),
            kind: kind.into(),
        };
        assert!(id("Namespace").holds_others() && id("PersistentVolumeClaim").holds_others());
        assert!(!id("ConfigMap").holds_others());
    }

    #[test]
    fn the_digest_follows_the_body() {
        let map = |value: &str| {
            let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata:\n  k: {value}\n");
            render(&[("a.yaml", &text)]).unwrap().remove(0).digest
        };
        assert_eq!(map("x"), map("x  # same"));
        assert_ne!(map("x"), map("z"));
    }
}
