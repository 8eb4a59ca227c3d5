//! What Kustomize and Helm wrote, as documents with the places in the repository that they come from; and what they
//! said when they failed, as problems. Pure. It shows one line of what they said: the rest may quote manifests.

use std::collections::HashMap;

use crds::{
    sync::{
        choice::{KUSTOMIZATIONS, resolve},
        substitute::{self, Room, Unknown, Variables},
    },
    yaml,
};
use serde_json::Value;

use super::{
    inputs::join,
    render::{Documents, Place, Problem, SourceFile, flatten},
};

/// Where a work tree holds the repository.
pub const REPOSITORY: &str = "repo";
/// Kustomize's note of where an object was read. We ask for it, and take it away again.
const ORIGIN: &str = "config.kubernetes.io/origin";
/// As much as is shown of what a program says.
const MAX_WORDS: usize = 600;

/// What is built instead of the kustomization itself, to learn where each object comes from.
pub fn wrapper(path: &str) -> String {
    let root = join(REPOSITORY, path);
    format!("resources: [{}]\nbuildMetadata: [originAnnotations]\n", Value::String(root))
}

/// Reads what `kustomize build` wrote.
pub fn kustomized(output: &str, files: &[SourceFile], path: &str, variables: Option<&Variables>) -> Documents {
    let (mut read, mut room) = (Documents::default(), Room::default());
    let mut originals = Originals::of(files);
    for document in yaml::documents(output) {
        match document.value {
            Ok(mut value) => {
                let place = origin(&mut value).and_then(|origin| originals.place(&value, origin));
                let place = place.unwrap_or_else(|| Place { file: kustomization(files, path), line: 0 });
                match substitute::document(output, &document.range, value, variables, &mut room) {
                    Ok(mut value) => {
                        // It is there again where something was replaced.
                        origin(&mut value);
                        flatten(place, value, &mut read.objects);
                    }
                    Err(unknown) => read.problems.extend(unfilled(&place, unknown)),
                }
            }
            Err(error) => {
                let what = format!("kustomize wrote what is no manifest: {}", error.problem);
                read.problems.push(Problem { place: Place { file: kustomization(files, path), line: 0 }, what });
            }
        }
    }
    read
}

/// Its lines are the output's, which nobody sees.
fn unfilled(place: &Place, unknown: Vec<Unknown>) -> impl Iterator<Item = Problem> {
    unknown.into_iter().map(|it| Problem { place: place.clone(), what: it.what })
}

/// Takes the note off an object.
fn origin(value: &mut Value) -> Option<String> {
    let metadata = value.get_mut("metadata")?.as_object_mut()?;
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let note = annotations.remove(ORIGIN);
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
    let note = note?;
    let note = note.as_str()?;
    let line = |key: &str| note.lines().find_map(|line| line.strip_prefix(key));
    let path = line("path: ").or_else(|| line("configuredIn: "))?;
    resolve("", path)?.strip_prefix(&format!("{REPOSITORY}/")).map(str::to_owned)
}

/// Where the objects of the repository's files stand; a file is read once, however many objects come from it.
struct Originals<'a> {
    files: &'a [SourceFile],
    read: HashMap<String, Option<Vec<Original>>>,
}

/// What is known of an object in its file.
struct Original {
    kind: Value,
    name: String,
    line: usize,
}

impl<'a> Originals<'a> {
    fn of(files: &'a [SourceFile]) -> Self {
        Self { files, read: HashMap::new() }
    }

    /// The file, and in it the first document that the object may have been: overlays change names by their ends.
    fn place(&mut self, value: &Value, file: String) -> Option<Place> {
        let originals =
            self.read.entry(file.clone()).or_insert_with_key(|file| originals(self.files, file)).as_ref()?;
        let name = value["metadata"]["name"].as_str().unwrap_or_default();
        let matches = |original: &&Original| original.kind == value["kind"] && name.contains(&original.name);
        let line = originals.iter().find(matches).map_or(0, |original| original.line);
        Some(Place { file, line })
    }
}

/// What stands in a file with a name; `None` where there is no such file.
fn originals(files: &[SourceFile], path: &str) -> Option<Vec<Original>> {
    let source = files.iter().find(|source| source.path == path)?;
    let documents = source.text.as_deref().map(yaml::documents).unwrap_or_default();
    let named = documents.into_iter().filter_map(|document| {
        let mut value = document.value.ok()?;
        let name = value["metadata"]["name"].as_str()?.to_owned();
        Some(Original { kind: value["kind"].take(), name, line: document.line })
    });
    Some(named.collect())
}

/// The kustomization of a folder.
fn kustomization(files: &[SourceFile], folder: &str) -> String {
    let names = KUSTOMIZATIONS.iter().map(|name| join(folder, name));
    let there = names.into_iter().find(|name| files.iter().any(|file| file.path == *name));
    there.unwrap_or_else(|| join(folder, KUSTOMIZATIONS[0]))
}

/// Reads what `helm template` wrote.
pub fn templated(output: &str, path: &str, variables: Option<&Variables>) -> Documents {
    let (mut read, mut room) = (Documents::default(), Room::default());
    for document in yaml::documents(output) {
        let text = output.get(document.range.clone()).unwrap_or_default();
        let place = Place { file: template(text, path), line: 0 };
        match document.value {
            Ok(value) => match substitute::document(output, &document.range, value, variables, &mut room) {
                Ok(value) => flatten(place, value, &mut read.objects),
                Err(unknown) => read.problems.extend(unfilled(&place, unknown)),
            },
            Err(error) => {
                let what = format!("renders to what is no manifest: {}", error.problem);
                read.problems.push(Problem { place, what });
            }
        }
    }
    read
}

/// Helm writes `# Source: chart/templates/a.yaml`, the chart by its name.
fn template(document: &str, path: &str) -> String {
    let source = document.lines().find_map(|line| line.strip_prefix("# Source: "));
    in_chart(source.unwrap_or("Chart.yaml"), path)
}

fn in_chart(source: &str, path: &str) -> String {
    join(path, source.split_once('/').map_or(source, |(_, file)| file))
}

/// What `kustomize build` says when it fails, at the kustomization that it failed in.
pub fn kustomize_problem(said: &str, work: &str, files: &[SourceFile], path: &str) -> Problem {
    let said = words(said, work);
    let said = said.strip_prefix("Error: ").unwrap_or(&said);
    // It tells its way from the root, one kustomization after the other.
    let mark = "recursed accumulation of path '";
    let last = said.rfind(mark).and_then(|at| said.get(at + mark.len()..)?.split_once("': "));
    let (folder, what) = last.unwrap_or((path, said));
    let folder = if folder == REPOSITORY { "" } else { folder.trim_start_matches("repo/") };
    let place = Place { file: kustomization(files, folder), line: 0 };
    Problem { place, what: format!("kustomize cannot build it: {}", what.trim_end_matches('\'')) }
}

/// What `helm template` says when it fails, at the template that it names.
pub fn helm_problem(said: &str, work: &str, path: &str) -> Problem {
    let said = words(said, work);
    let said = said.strip_prefix("Error: ").unwrap_or(&said);
    let marks = ["template: ", "parse error at (", "YAML parse error on ", "execution error at ("];
    let named = marks.iter().find_map(|mark| said.split_once(mark)).map(|(_, rest)| rest);
    let place = named.filter(|rest| rest.contains("/templates/")).and_then(|rest| {
        let mut parts = rest.split([':', ')']);
        let file = parts.next()?;
        let line = parts.next().and_then(|line| line.trim().parse().ok()).unwrap_or(0);
        Some(Place { file: in_chart(file, path), line })
    });
    let place = place.unwrap_or_else(|| Place { file: join(path, "Chart.yaml"), line: 0 });
    let absent = said.contains("missing in charts/ directory");
    let hint =
        if absent { "; nothing is fetched while rendering: run helm dependency build and commit charts/" } else { "" };
    Problem { place, what: format!("helm cannot render it: {said}{hint}") }
}

/// The line that counts, without the work tree's own path.
fn words(said: &str, work: &str) -> String {
    let line =
        said.lines().find(|line| line.starts_with("Error: ")).or_else(|| said.lines().next()).unwrap_or_default();
    let mut line = line.replace(&format!("{work}/"), "");
    if let Some((end, _)) = line.char_indices().nth(MAX_WORDS) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.to_owned(), text: Some(text.to_owned()) }
    }

    #[test]
    fn an_object_is_traced_to_its_line_and_loses_the_note() {
        let files =
            [file("base/all.yaml", "kind: A\nmetadata: {name: x}\n---\nkind: ConfigMap\nmetadata: {name: c}\n")];
        let output = "kind: ConfigMap\nmetadata:\n  annotations:\n    config.kubernetes.io/origin: |\n      path: repo/base/all.yaml\n  name: dev-c\n---\nkind: ConfigMap\nmetadata:\n  annotations:\n    mine: kept\n    config.kubernetes.io/origin: |\n      configuredIn: repo/dev/kustomization.yaml\n  name: made\n";
        let read = kustomized(output, &files, "dev", None);
        assert_eq!(read.problems, []);
        let places: Vec<_> = read.objects.iter().map(|(place, _)| place.to_string()).collect();
        assert_eq!(places, ["base/all.yaml:4", "dev/kustomization.yaml"]);
        assert_eq!(read.objects[0].1["metadata"].get("annotations"), None);
        assert_eq!(read.objects[1].1["metadata"]["annotations"], serde_json::json!({"mine": "kept"}));
    }

    #[test]
    fn a_template_is_named_by_its_path_in_the_repository() {
        let output = "---\n# Source: podinfo/templates/a.yaml\nkind: A\n---\n# Source: podinfo/charts/sub/templates/b.yaml\nkind: [\n";
        let read = templated(output, "charts/pi", None);
        assert_eq!(read.objects[0].0.to_string(), "charts/pi/templates/a.yaml");
        assert!(read.problems[0].to_string().starts_with("charts/pi/charts/sub/templates/b.yaml: renders to what"));
    }

    #[test]
    fn what_failed_is_told_where_it_failed() {
        let files = [file("base/kustomization.yml", "")];
        let said = "Error: accumulating resources: accumulation err='accumulating resources from 'repo/dev': '/w/repo/dev' must resolve to a file': recursed accumulation of path '/w/repo/dev': accumulating resources: accumulation err='accumulating resources from '../base': '/w/repo/base' must resolve to a file': recursed accumulation of path '/w/repo/base': loading KV pairs: file sources: [a.conf]: no such file\nsecret line\n";
        let problem = kustomize_problem(said, "/w", &files, "dev").to_string();
        let expected =
            "base/kustomization.yml: kustomize cannot build it: loading KV pairs: file sources: [a.conf]: no such file";
        assert_eq!(problem, expected);

        let said = "Error: template: podinfo/templates/a.yaml:3:9: executing \"a\" at <.Values.x.y>: nil pointer\n";
        let problem = helm_problem(said, "/w", "charts/pi").to_string();
        assert!(problem.starts_with("charts/pi/templates/a.yaml:3: helm cannot render it: "), "{problem}");
        let said = "Error: found in Chart.yaml, but missing in charts/ directory: redis\n";
        let problem = helm_problem(said, "/w", "c").to_string();
        assert!(problem.starts_with("c/Chart.yaml: ") && problem.ends_with("commit charts/"), "{problem}");
        assert!(helm_problem(&"x".repeat(5000), "/w", "c").to_string().len() < 1000);
    }
}
