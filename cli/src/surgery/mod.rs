//! Edits of a manifest as text: whoever changes one item finds one item changed, and the comments, the order of keys,
//! quotes, indentation and line ends as they were. Pure over strings.
//!
//! The caller changes the parsed value; what differs from it is spliced into the text at the place where the parser
//! saw it. The result is read again and must say what was wanted, or there is no result: a wrong guess about YAML
//! becomes an error and never a wrong file. Why no library does it: yamlpatch reads with a second parser that
//! disagrees with Kubernetes about YAML 1.1, and yaml-edit brings one of its own; granit-parser is the one that
//! `crds::yaml` reads with.

mod scalar;
mod splice;
mod tree;

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value};

use tree::Tree;

/// Why a text cannot be edited. Names keys, never values.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SurgeryError {
    #[error("there is no document {0}")]
    NoDocument(usize),
    #[error("document {document} is not valid YAML: {problem}")]
    Syntax { document: usize, problem: String },
    #[error("document {document}: {path} is shared by a YAML anchor or alias: edit it by hand")]
    Shared { document: usize, path: Path },
    #[error("document {document}: {path} is written in a way that cannot be edited in place: edit it by hand")]
    Unsupported { document: usize, path: Path },
    #[error("document {document} would not say what it should after the edit, so it stays as it is: edit it by hand")]
    Mismatch { document: usize },
}

/// The way to a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Item(usize),
}

/// The smallest changes.
#[derive(Debug, PartialEq)]
enum Change {
    /// A key that was not there.
    Insert(String, Value),
    /// A key that is to go.
    Remove(String),
    /// A value of another shape for a key.
    Replace(String, Value),
    /// Another scalar.
    Set(Value),
}

/// Why a change cannot be made to the text of one document.
#[derive(Debug)]
enum Refusal {
    Syntax(String),
    Shared,
    Unsupported,
}

impl Path {
    fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    fn with(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("the document as a whole");
        }
        self.0.iter().enumerate().try_for_each(|(index, step)| match step {
            Step::Key(key) if index == 0 => f.write_str(key),
            Step::Key(key) => write!(f, ".{key}"),
            Step::Item(item) => write!(f, "[{item}]"),
        })
    }
}

/// Makes documents of a stream say what is wanted, and touches nothing else. Documents are counted from 0, as
/// [`crds::yaml::documents`] counts them.
pub fn rewrite(text: &str, wanted: &BTreeMap<usize, Value>) -> Result<String, SurgeryError> {
    let before = crds::yaml::documents(text);
    let mut result = String::with_capacity(text.len());
    let mut done = 0;
    for (&index, wanted) in wanted {
        let number = index + 1;
        let document = before.get(index).ok_or(SurgeryError::NoDocument(number))?;
        let have = document
            .value
            .as_ref()
            .map_err(|error| SurgeryError::Syntax { document: number, problem: error.to_string() })?;
        let mut part = text.get(document.range.clone()).unwrap_or_default().to_owned();
        for (path, change) in changes(have, wanted) {
            part = edit(&part, &path, &change).map_err(|refusal| refusal.at(number, path))?;
        }
        result.push_str(text.get(done..document.range.start).unwrap_or_default());
        result.push_str(&part);
        done = document.range.end;
    }
    result.push_str(text.get(done..).unwrap_or_default());

    let after = crds::yaml::documents(&result);
    for (index, document) in before.iter().enumerate() {
        let wanted = wanted.get(&index).map_or(document.value.as_ref(), Ok);
        if after.get(index).is_none_or(|after| after.value.as_ref().ok() != wanted.ok()) {
            return Err(SurgeryError::Mismatch { document: index + 1 });
        }
    }
    if after.len() == before.len() { Ok(result) } else { Err(SurgeryError::Mismatch { document: before.len() + 1 }) }
}

/// The line on which the key at the end of a path stands, or the last key of the path that is there. Counts documents
/// and a list's items from 1, as a place does.
pub fn line(text: &str, document: usize, items: &[usize], path: &[&str]) -> Option<usize> {
    let document = crds::yaml::documents(text).into_iter().nth(document.checked_sub(1)?)?;
    let tree = Tree::parse(text.get(document.range.clone())?).ok()?;
    let at = document.range.start + tree.find(items, path)?;
    Some(text.get(..at)?.matches('\n').count() + 1)
}

/// One document's text, to ask what is written in it.
pub struct Written<'a>(Option<Tree<'a>>);

impl<'a> Written<'a> {
    /// Nothing is written in what is no YAML.
    pub fn of(document: &'a str) -> Self {
        Self(Tree::parse(document).ok())
    }

    /// What stands without quotes at a path, or at one in an item of a list. `None` for what is in quotes, as all text of
    /// JSON is, or stands elsewhere.
    pub fn plain(&self, items: &[usize], path: &[&str]) -> Option<&str> {
        self.0.as_ref()?.plain(items, path)
    }
}

/// The mapping at a path, made where there is none, for callers that prepare a wanted value. `None` when something
/// else stands in the way.
pub fn mapping<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Map<String, Value>> {
    let mut here = value;
    for key in path {
        if here.is_null() {
            *here = Value::Object(Map::new());
        }
        here = here.as_object_mut()?.entry(*key).or_insert(Value::Null);
    }
    if here.is_null() {
        *here = Value::Object(Map::new());
    }
    here.as_object_mut()
}

fn edit(text: &str, path: &Path, change: &Change) -> Result<String, Refusal> {
    let tree = Tree::parse(text).map_err(Refusal::Syntax)?;
    splice::apply(&tree, path, change)
}

impl Refusal {
    fn at(self, document: usize, path: Path) -> SurgeryError {
        match self {
            Self::Syntax(problem) => SurgeryError::Syntax { document, problem },
            Self::Shared => SurgeryError::Shared { document, path },
            Self::Unsupported => SurgeryError::Unsupported { document, path },
        }
    }
}

/// What has to change for `have` to become `wanted`.
fn changes(have: &Value, wanted: &Value) -> Vec<(Path, Change)> {
    let mut changes = Vec::new();
    compare(have, wanted, &Path::default(), &mut changes);
    changes
}

fn compare(have: &Value, wanted: &Value, path: &Path, changes: &mut Vec<(Path, Change)>) {
    match (have, wanted) {
        (have, wanted) if have == wanted => {}
        // As good as an empty mapping.
        (Value::Null, Value::Object(_)) => compare(&Value::Object(Map::new()), wanted, path, changes),
        (Value::Object(have), Value::Object(wanted)) => {
            for (key, value) in have {
                match wanted.get(key) {
                    None => {}
                    Some(wanted) if in_place(value, wanted) => compare(value, wanted, &path.key(key), changes),
                    Some(wanted) => changes.push((path.clone(), Change::Replace(key.clone(), wanted.clone()))),
                }
            }
            let new = wanted.iter().filter(|(key, _)| !have.contains_key(*key));
            changes.extend(new.map(|(key, value)| (path.clone(), Change::Insert(key.clone(), value.clone()))));
            // Last, so that no mapping runs empty on the way.
            let old = have.keys().filter(|key| !wanted.contains_key(*key));
            changes.extend(old.map(|key| (path.clone(), Change::Remove(key.clone()))));
        }
        (Value::Array(have), Value::Array(wanted)) if have.len() == wanted.len() => {
            let pairs = have.iter().zip(wanted).enumerate();
            pairs.for_each(|(item, (have, wanted))| compare(have, wanted, &path.with(Step::Item(item)), changes));
        }
        (_, wanted) => changes.push((path.clone(), Change::Set(wanted.clone()))),
    }
}

/// Whether one can become the other where it stands.
fn in_place(have: &Value, wanted: &Value) -> bool {
    let scalar = |value: &Value| !value.is_object() && !value.is_array();
    match (have, wanted) {
        (Value::Object(_), Value::Object(_)) => true,
        (Value::Null, Value::Object(wanted)) => !wanted.is_empty(),
        (Value::Array(have), Value::Array(wanted)) => {
            have.len() == wanted.len() && have.iter().zip(wanted).all(|(have, wanted)| in_place(have, wanted))
        }
        (have, wanted) => have == wanted || (scalar(have) && scalar(wanted)),
    }
}

#[cfg(test)]
mod tests;
