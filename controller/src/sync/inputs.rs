//! What a rendering reads. Kustomize and Helm see nothing but that, so what they may read is decided here, before they
//! run; and as long as none of it changes, nothing needs to be rendered again. Pure: the repository is an argument.

use std::collections::{BTreeMap, BTreeSet};

use crds::{
    git_sync::{GitSyncSpec, Renderer},
    sync::choice::{self, KUSTOMIZATIONS, resolve},
    yaml,
};
use serde_json::Value;

use super::render::{Place, Problem};

/// Folders that one kustomization may lead to.
const MAX_FOLDERS: usize = 1000;

/// What stands at a path. Links and submodules are neither: they could lead anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A file.
    File,
    /// A folder.
    Folder,
}

/// A commit's files. Paths have no empty part, `.` or `..`; the root is "".
pub trait Tree {
    /// Why it cannot be read.
    type Error;
    /// What stands there.
    fn entry(&self, path: &str) -> Result<Option<Entry>, Self::Error>;
    /// A file's text; `None` if it is none.
    fn text(&self, path: &str) -> Result<Option<String>, Self::Error>;
    /// All files at any depth below a folder.
    fn below(&self, folder: &str) -> Result<Vec<String>, Self::Error>;
}

/// What is to be rendered, by what, and from what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// What renders.
    pub renderer: Renderer,
    /// The files it reads; none for plain files, which are read as they are.
    pub files: BTreeSet<String>,
    /// Folders that must be there even when nothing in them is read.
    pub folders: BTreeSet<String>,
    /// What it would lack, or must not have.
    pub problems: Vec<Problem>,
}

impl Inputs {
    /// Of plain files.
    pub fn plain() -> Self {
        Self { renderer: Renderer::Plain, files: BTreeSet::new(), folders: BTreeSet::new(), problems: Vec::new() }
    }
}

/// Finds what rendering `path` reads.
pub fn inputs<T: Tree>(tree: &T, path: &str, spec: &GitSyncSpec) -> Result<Inputs, T::Error> {
    let renderer = spec.renderer.map_or_else(|| choose(tree, path), Ok)?;
    let found = Inputs { renderer, ..Inputs::plain() };
    match renderer {
        Renderer::Plain => Ok(found),
        Renderer::Kustomize => kustomize(tree, path, found),
        Renderer::Helm => helm(tree, path, spec, found),
    }
}

fn choose<T: Tree>(tree: &T, path: &str) -> Result<Renderer, T::Error> {
    choice::choose(|name| Ok(tree.entry(&join(path, name))? == Some(Entry::File)))
}

/// The kustomization of a folder.
fn kustomization<T: Tree>(tree: &T, folder: &str) -> Result<Option<String>, T::Error> {
    for name in KUSTOMIZATIONS {
        let path = join(folder, name);
        if tree.entry(&path)? == Some(Entry::File) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn helm<T: Tree>(tree: &T, path: &str, spec: &GitSyncSpec, mut found: Inputs) -> Result<Inputs, T::Error> {
    found.files.extend(tree.below(path)?);
    found.folders.insert(path.to_owned());
    for file in spec.helm.iter().flat_map(|helm| &helm.values_files) {
        match resolve(path, file) {
            Some(values) if tree.entry(&values)? == Some(Entry::File) => {
                found.files.insert(values);
            }
            _ => {
                let what = format!(
                    "there is no such file below {}; correct spec.helm.valuesFiles or push it",
                    if path.is_empty() { "." } else { path }
                );
                found.problems.push(Problem { place: Place { file: file.clone(), line: 0 }, what });
            }
        }
    }
    Ok(found)
}

/// Goes from kustomization to kustomization. Every text in one that names something in the repository is taken for a
/// reference: too much is harmless, and no field is forgotten.
fn kustomize<T: Tree>(tree: &T, path: &str, mut found: Inputs) -> Result<Inputs, T::Error> {
    let mut folders = vec![path.to_owned()];
    let mut texts: BTreeMap<String, Option<String>> = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        if found.folders.len() > MAX_FOLDERS || !found.folders.insert(folder.clone()) {
            continue;
        }
        let Some(file) = kustomization(tree, &folder)? else { continue };
        // The kustomization, and then the configurations of plugins that it names.
        let mut readings = vec![(file, true)];
        while let Some((file, is_kustomization)) = readings.pop() {
            found.files.insert(file.clone());
            if texts.contains_key(&file) {
                continue;
            }
            let text = texts.entry(file.clone()).or_insert(tree.text(&file)?);
            let Some(text) = text.clone() else { continue };
            for document in yaml::documents(&text) {
                let Ok(value) = document.value else {
                    // Whoever builds says it better, for it is not read as a manifest is.
                    continue;
                };
                for (field, named) in references(&value, is_kustomization) {
                    let plugin = ["generators", "transformers", "validators"].contains(&field);
                    match look(tree, &folder, named)? {
                        Some((target, Entry::Folder)) => folders.push(target),
                        Some((target, Entry::File)) if plugin => readings.push((target, false)),
                        Some((target, Entry::File)) => {
                            found.files.insert(target);
                        }
                        None if is_kustomization && ["resources", "bases", "components"].contains(&field) => {
                            let place = Place { file: file.clone(), line: line_of(&text, named) };
                            found.problems.push(Problem { place, what: missing(&folder, named) });
                        }
                        None => {}
                    }
                }
            }
        }
    }
    Ok(found)
}

/// All texts of a document, each with the field at the top that it stands in.
fn references(value: &Value, by_field: bool) -> Vec<(&str, &str)> {
    let Value::Object(fields) = value else { return Vec::new() };
    let mut all = Vec::new();
    for (field, value) in fields {
        let field = if by_field { field.as_str() } else { "" };
        let mut values = vec![value];
        while let Some(value) = values.pop() {
            match value {
                Value::String(text) => all.push((field, text.as_str())),
                Value::Array(items) => values.extend(items),
                Value::Object(items) => values.extend(items.values()),
                _ => {}
            }
        }
    }
    all
}

/// What a text names; generators write `key=path`.
fn look<T: Tree>(tree: &T, folder: &str, named: &str) -> Result<Option<(String, Entry)>, T::Error> {
    let candidates = [Some(named), named.split_once('=').map(|(_, path)| path)];
    for candidate in candidates.into_iter().flatten() {
        let is_path = !candidate.is_empty() && candidate.len() < 1024 && !candidate.contains(['\n', '\0']);
        if let Some(path) = Some(candidate).filter(|_| is_path).and_then(|candidate| resolve(folder, candidate))
            && let Some(entry) = tree.entry(&path)?
        {
            return Ok(Some((path, entry)));
        }
    }
    Ok(None)
}

fn missing(folder: &str, named: &str) -> String {
    if named.contains('\n') {
        return "resources written inline are not read; put them into a file".to_owned();
    }
    let remote = ["://", "?ref=", "git@", "github.com/"].iter().any(|mark| named.contains(mark));
    if remote {
        format!("{named} is elsewhere: nothing is fetched while rendering; copy it into the repository")
    } else if resolve(folder, named).is_none() {
        format!("{named} leads out of the repository")
    } else {
        format!("{named} is not in the repository at this commit (links and submodules are not followed)")
    }
}

/// A path below a folder.
pub fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

fn line_of(text: &str, named: &str) -> usize {
    text.lines().position(|line| line.contains(named)).map_or(0, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use crds::git_sync::Helm;

    use super::*;

    struct Files(BTreeMap<&'static str, &'static str>);

    impl Tree for Files {
        type Error = Infallible;

        fn entry(&self, path: &str) -> Result<Option<Entry>, Infallible> {
            let folder = format!("{path}/");
            let is_folder = path.is_empty() || self.0.keys().any(|file| file.starts_with(&folder));
            Ok(if self.0.contains_key(path) { Some(Entry::File) } else { is_folder.then_some(Entry::Folder) })
        }

        fn text(&self, path: &str) -> Result<Option<String>, Infallible> {
            Ok(self.0.get(path).map(|text| (*text).to_owned()))
        }

        fn below(&self, folder: &str) -> Result<Vec<String>, Infallible> {
            let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
            Ok(self.0.keys().filter(|file| file.starts_with(&prefix)).map(|file| (*file).to_owned()).collect())
        }
    }

    fn found(files: &[(&'static str, &'static str)], path: &str, spec: &GitSyncSpec) -> Inputs {
        let Ok(found) = inputs(&Files(files.iter().copied().collect()), path, spec);
        found
    }

    #[test]
    fn what_stands_there_chooses_and_the_spec_overrules() {
        let files =
            [("app/kustomization.yaml", ""), ("app/Chart.yaml", ""), ("chart/Chart.yaml", ""), ("plain/a.yaml", "")];
        let renderer =
            |path: &str, renderer| found(&files, path, &GitSyncSpec { renderer, ..GitSyncSpec::default() }).renderer;
        assert_eq!(renderer("app", None), Renderer::Kustomize);
        assert_eq!(renderer("chart", None), Renderer::Helm);
        assert_eq!(renderer("plain", None), Renderer::Plain);
        assert_eq!(renderer("app", Some(Renderer::Helm)), Renderer::Helm);
    }

    #[test]
    fn everything_that_a_kustomization_leads_to_is_read_and_nothing_else() {
        let files = [
            (
                "overlays/dev/kustomization.yaml",
                "resources: [../../base, ns.yaml]\npatches:\n- path: patch.yaml\nconfigMapGenerator:\n- name: c\n  files: [key=files/a.conf]\n  envs: [.env]\ntransformers: [labels.yaml]\n",
            ),
            ("overlays/dev/ns.yaml", "kind: Namespace"),
            ("overlays/dev/patch.yaml", ""),
            ("overlays/dev/files/a.conf", ""),
            ("overlays/dev/files/b.conf", ""),
            ("overlays/dev/.env", ""),
            ("overlays/dev/labels.yaml", "apiVersion: builtin\nkind: PatchTransformer\npath: deep.yaml\n"),
            ("overlays/dev/deep.yaml", ""),
            ("overlays/staging/kustomization.yaml", "resources: [../../base]"),
            ("base/kustomization.yml", "resources: [a.yaml]\ncomponents: [../component]\n"),
            ("base/a.yaml", ""),
            ("component/Kustomization", "kind: Component\nresources: [../base]"),
        ];
        let found = found(&files, "overlays/dev", &GitSyncSpec::default());
        assert_eq!(found.problems, []);
        let all: Vec<_> = files.iter().map(|(file, _)| *file).collect();
        let mut left_out = all.into_iter().filter(|file| !found.files.contains(*file));
        assert_eq!(left_out.next(), Some("overlays/dev/files/b.conf"));
        assert_eq!(left_out.next(), Some("overlays/staging/kustomization.yaml"));
        assert_eq!(left_out.next(), None);
    }

    #[test]
    fn what_is_elsewhere_outside_or_absent_is_told_with_its_line() {
        let text = "resources:\n- https://example.com/x.yaml\n- github.com/org/repo//base?ref=v1\n- ../../outside\n- absent.yaml\n- /etc/passwd\n";
        let found = found(&[("app/kustomization.yaml", text)], "app", &GitSyncSpec::default());
        let mut told: Vec<_> = found.problems.iter().map(Problem::to_string).collect();
        told.sort();
        for (told, (line, words)) in told.iter().zip([
            (2, "is elsewhere"),
            (3, "is elsewhere"),
            (4, "leads out"),
            (5, "is not in the repository"),
            (6, "leads out"),
        ]) {
            assert!(told.starts_with(&format!("app/kustomization.yaml:{line}: ")) && told.contains(words), "{told}");
        }
        assert_eq!(told.len(), 5);
    }

    #[test]
    fn a_chart_is_read_whole_with_its_values() {
        let files = [("c/Chart.yaml", ""), ("c/templates/a.yaml", ""), ("env/prod.yaml", ""), ("other", "")];
        let values_files = vec!["../env/prod.yaml".to_owned(), "../../x".to_owned(), "no.yaml".to_owned()];
        let helm = Some(Helm { values_files, ..Helm::default() });
        let found = found(&files, "c", &GitSyncSpec { helm, ..GitSyncSpec::default() });
        assert_eq!(found.files.len(), 3);
        assert_eq!(found.problems.len(), 2);
    }
}
