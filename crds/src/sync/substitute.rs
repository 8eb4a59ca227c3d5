//! `spec.postBuild`: variables in what was rendered, in Flux's words. Pure, strict, and only where it is asked for.
//!
//! Flux replaces in the text of a manifest before it is read. Then a value may bring its own lines and keys, so that
//! whoever writes the ConfigMap writes the manifest; and `"${n}"` becomes a number, because the quotes are lost on the
//! way. Replacing in the values after they were read has neither fault, but leaves no way to a number or a boolean. So
//! this replaces in the text, scalar by scalar: what stood in quotes or in a block stays a string, whatever the value is;
//! what stood bare may become a number, a boolean or null, as if it had been written there, and never more than one
//! scalar. Flux's own ways to ask for a string (a value of `"3"` with its quotes, or `!!str 3`) mean the same here.
//!
//! No crate is used: those that are kept know `${name}` and a default, not Flux's other forms, and none tells where.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
};

use granit_parser::{Event, Options, Parser, ScalarStyle};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    git_sync::{GitSyncSpec, PostBuild},
    yaml,
};

/// Objects with this label or annotation are left as they are.
const OPT_OUT: [&str; 2] = ["kustomize.toolkit.fluxcd.io/substitute", "gitsync.signet.dev/substitute"];
/// A secret value shorter than this cannot be told from an ordinary word in a message.
const SHORTEST: usize = 4;
/// What no secret is.
const MASKED: &str = "(masked: not a value)";
/// Defaults within defaults.
const DEPTH: usize = 16;

/// Names and values. Those that come from Secrets are never shown.
#[derive(Clone, Default, PartialEq)]
pub struct Variables {
    all: BTreeMap<String, Zeroizing<String>>,
    /// Names of those that are secret.
    hidden: BTreeSet<String>,
    /// Values that are, or were before they were set anew.
    secret: Vec<Zeroizing<String>>,
    /// Others may be set that are not known.
    is_partial: bool,
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.keys()).finish()
    }
}

impl Variables {
    /// Those of a spec that names all of them itself; none where some must be read, or nothing is to be replaced.
    pub fn of_spec(spec: &GitSyncSpec) -> Option<Self> {
        let PostBuild { substitute, .. } = spec.post_build.as_ref().filter(|it| it.substitute_from.is_empty())?;
        let mut variables = Self::default();
        for (name, value) in substitute {
            variables.set(name, value, false);
        }
        Some(variables)
    }

    /// Sets one; a later value goes before an earlier one. False for what cannot be a name.
    pub fn set(&mut self, name: &str, value: &str, is_secret: bool) -> bool {
        if !is_name(name) {
            return false;
        }
        // A file ends with a line break that nobody means.
        let value = Zeroizing::new(value.strip_suffix('\n').unwrap_or(value).to_owned());
        if is_secret && value.len() >= SHORTEST {
            self.secret.push(value.clone());
        }
        if is_secret {
            self.hidden.insert(name.to_owned());
        } else {
            self.hidden.remove(name);
        }
        self.all.insert(name.to_owned(), value);
        true
    }

    /// Sets all that a ConfigMap holds. Keys that are no names, such as file names, cannot be asked for.
    pub fn take_map(&mut self, map: &ConfigMap) {
        for (name, value) in map.data.iter().flatten() {
            self.set(name, value, false);
        }
    }

    /// Sets all that a Secret holds as text.
    pub fn take_secret(&mut self, secret: &Secret) {
        for (name, value) in secret.data.iter().flatten() {
            if let Ok(value) = std::str::from_utf8(&value.0) {
                self.set(name, value, true);
            }
        }
    }

    /// What comes next cannot be read: nobody knows the value of what is not set after it.
    pub fn doubt(&mut self) {
        self.all.clear();
        self.hidden.clear();
        self.is_partial = true;
    }

    /// Whether any came from a Secret.
    pub fn are_secret(&self) -> bool {
        !self.secret.is_empty() || !self.hidden.is_empty()
    }

    /// The same names, with something else in the place of what is secret: where that makes a difference, a secret is.
    #[must_use]
    pub fn masked(&self) -> Self {
        let mut masked = self.clone();
        for name in &self.hidden {
            masked.all.insert(name.clone(), Zeroizing::new(MASKED.to_owned()));
        }
        masked
    }

    /// Changes when any of them does. Tells nothing of them.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for (name, value) in &self.all {
            hasher.update(format!("{name}={}:", value.len()));
            hasher.update(value.as_bytes());
        }
        let digest: Vec<String> = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        digest.concat()
    }

    /// A message without the secret ones. The API server quotes values that it does not like.
    pub fn mask(&self, message: &str) -> String {
        let quoted = |secret: &Zeroizing<String>| Zeroizing::new(format!("{:?}", secret.as_str()));
        let quoted: Vec<_> = self.secret.iter().map(quoted).collect();
        let quoted = quoted.iter().map(|secret| secret.trim_matches('"'));
        let mut forms: Vec<&str> = self.secret.iter().map(|secret| secret.as_str()).chain(quoted).collect();
        // One may be part of another, of which the rest would be shown.
        forms.sort_by_key(|form| Reverse(form.len()));
        forms.iter().fold(message.to_owned(), |text, form| text.replace(form, "***"))
    }
}

/// What cannot be replaced. Holds no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// In the text of which the document is a part, from 1.
    pub line: usize,
    /// What is wrong, and what to do.
    pub what: String,
}

/// How much may be filled into what is rendered at once. A value may be asked for any number of times, and may be made
/// longer each time.
#[derive(Debug)]
pub struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(32 << 20)
    }
}

impl Room {
    fn take(&mut self, bytes: usize) -> Result<(), String> {
        self.0 = self.0.checked_sub(bytes).ok_or("is too large with its variables, or what comes before it is")?;
        Ok(())
    }
}

/// One document of a text with its variables replaced; as it was where nothing is asked for or to be replaced.
pub fn document(
    text: &str,
    range: &Range<usize>,
    value: Value,
    variables: Option<&Variables>,
    room: &mut Room,
) -> Result<Value, Vec<Unknown>> {
    let Some(variables) = variables else { return Ok(value) };
    let source = text.get(range.clone()).unwrap_or_default();
    if !source.contains("${") || opted_out(&value) {
        return Ok(value);
    }
    let before = text.get(..range.start).unwrap_or_default().matches('\n').count();
    let (mut result, mut end, mut unknown) = (String::with_capacity(source.len()), 0, Vec::new());
    for scalar in scalars(source) {
        match replaced(&scalar.text, variables, room, 0) {
            Ok(new) => {
                result += source.get(end..scalar.range.start).unwrap_or_default();
                result += &if scalar.is_bare { bare(&new) } else { quoted(&new) };
                end = scalar.range.end;
            }
            Err(what) => unknown.push(Unknown { line: before + scalar.line, what }),
        }
    }
    if !unknown.is_empty() {
        return Err(unknown);
    }
    result += source.get(end..).unwrap_or_default();
    let read = yaml::documents(&result).into_iter().next().and_then(|document| document.value.ok());
    read.ok_or_else(|| {
        vec![Unknown { line: before + 1, what: "cannot be read once its variables are replaced".to_owned() }]
    })
}

fn opted_out(value: &Value) -> bool {
    let metadata = &value["metadata"];
    let said = |key: &&str| [&metadata["annotations"][key], &metadata["labels"][key]].map(|said| said == "disabled");
    OPT_OUT.iter().flat_map(said).any(|is_out| is_out)
}

struct Scalar {
    text: String,
    range: Range<usize>,
    line: usize,
    /// A value without quotes or tag.
    is_bare: bool,
}

/// Those that hold a variable.
fn scalars(source: &str) -> Vec<Scalar> {
    let mut options = Options::default();
    options.emit_comments = false;
    options.flow_nesting_limit = 512;
    options.block_nesting_limit = 512;
    let mut found = Vec::new();
    // Of each mapping that is open, whether a key is next.
    let mut open: Vec<Option<bool>> = Vec::new();
    let mut behind = 0;
    for event in Parser::new_from_str_with_options(source, options) {
        // It was read before.
        let Ok((event, span)) = event else { break };
        let before = behind;
        behind = span.byte_range().map_or(behind, |range| range.end.max(behind));
        match &event {
            Event::SequenceEnd | Event::MappingEnd => {
                open.pop();
            }
            Event::Scalar(..) | Event::Alias(..) | Event::SequenceStart(..) | Event::MappingStart(..) => {
                let is_key = open.last().copied().flatten().unwrap_or_default();
                if let Some(Some(is_next)) = open.last_mut() {
                    *is_next = !*is_next;
                }
                match &event {
                    Event::SequenceStart(..) => open.push(None),
                    Event::MappingStart(..) => open.push(Some(true)),
                    Event::Scalar(text, style, _, tag) if text.contains("${") => {
                        let Some(range) = span.byte_range() else { continue };
                        // The line break after a block is not part of it.
                        let end = source.get(range.clone()).map_or(range.end, |it| range.start + it.trim_end().len());
                        let is_bare = *style == ScalarStyle::Plain && tag.is_none() && !is_key;
                        let sign = match style {
                            ScalarStyle::Literal => Some('|'),
                            ScalarStyle::Folded => Some('>'),
                            _ => None,
                        };
                        let start = sign.map_or(range.start, |sign| header(source, before..range.start, sign));
                        let (text, range) = (text.to_string(), start..end);
                        found.push(Scalar { text, range, line: span.start.line(), is_bare });
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    found
}

/// Where a block begins whose content is known: at the sign on the last line before it.
fn header(source: &str, before: Range<usize>, sign: char) -> usize {
    let text = source.get(before.clone()).unwrap_or_default().trim_end();
    let line = text.rfind('\n').map_or(0, |found| found + 1);
    let found = text.get(line..).and_then(|line| line.find(sign));
    found.map_or(before.end, |found| before.start + line + found)
}

/// As YAML, where anything may stand that is one scalar.
fn bare(text: &str) -> String {
    let trimmed = text.trim();
    if ["null", "~"].contains(&trimmed) {
        return trimmed.to_owned();
    }
    let value = yaml::documents(trimmed).into_iter().next().and_then(|document| document.value.ok());
    let is_text = trimmed.starts_with(['"', '\'']) || trimmed.starts_with("!!str ");
    match value {
        Some(Value::Number(_)) => trimmed.to_owned(),
        Some(Value::Bool(_)) if ["true", "false"].iter().any(|it| trimmed.eq_ignore_ascii_case(it)) => {
            trimmed.to_owned()
        }
        Some(Value::String(said)) if is_text => quoted(&said),
        _ => quoted(text),
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A text with its variables replaced, or what is wrong with the first that cannot be.
fn replaced(text: &str, variables: &Variables, room: &mut Room, depth: usize) -> Result<String, String> {
    let (mut result, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(escaped) = before.strip_suffix('$') {
            result += escaped;
            result += "${";
            rest = &from[2..];
            continue;
        }
        result += before;
        let end = closing(from).ok_or_else(|| unknown_form(from))?;
        let filled = expression(&from[2..end], variables, room, depth)?;
        room.take(filled.len())?;
        result += &filled;
        rest = &from[end + 1..];
    }
    Ok(result + rest)
}

/// Where the brace is closed that a text begins with.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => open += 1,
            '}' if open == 1 => return Some(at),
            '}' => open = open.saturating_sub(1),
            _ => {}
        }
    }
    None
}

fn expression(inner: &str, variables: &Variables, room: &mut Room, depth: usize) -> Result<String, String> {
    let form = || unknown_form(&format!("${{{inner}}}"));
    let (is_length, named) = inner.strip_prefix('#').map_or((false, inner), |rest| (true, rest));
    let end = named.find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_')).unwrap_or(named.len());
    let (name, operation) = named.split_at(end);
    let is_form = operation.is_empty() || operation.starts_with([':', '=', '-', '/', '^', ',']);
    if !is_name(name) || !is_form || depth > DEPTH {
        return Err(form());
    }
    let value = variables.all.get(name).map(|value| value.as_str());
    if value.is_none() && variables.is_partial {
        return Err(format!("the variable {name} may be in what cannot be read"));
    }
    let filled = value.filter(|value| !value.is_empty());
    for (mark, value) in [(":=", filled), (":-", filled), ("=", value), ("-", value)] {
        if let Some(default) = operation.strip_prefix(mark) {
            return match value {
                Some(value) => Ok(value.to_owned()),
                None => replaced(default, variables, room, depth + 1),
            };
        }
    }
    let value = value.ok_or_else(|| {
        format!(
            "the variable {name} is not defined: name it in spec.postBuild, give it a default (${{{name}:=...}}), or \
             write $${{ where no variable is meant"
        )
    })?;
    let upper = |text: &str| text.to_uppercase();
    let lower = |text: &str| text.to_lowercase();
    let first = |change: fn(&str) -> String| {
        let end = value.chars().next().map_or(0, char::len_utf8);
        change(&value[..end]) + &value[end..]
    };
    match operation {
        "" if is_length => return Ok(value.chars().count().to_string()),
        "" => return Ok(value.to_owned()),
        _ if is_length => return Err(form()),
        "^^" => return Ok(upper(value)),
        ",," => return Ok(lower(value)),
        "^" => return Ok(first(str::to_uppercase)),
        "," => return Ok(first(str::to_lowercase)),
        _ => {}
    }
    if let Some(part) = operation.strip_prefix(':') {
        let (position, length) =
            part.split_once(':').map_or((part, None), |(position, length)| (position, Some(length)));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| form());
        let length = length.map(number).transpose()?.unwrap_or(usize::MAX);
        return Ok(value.chars().skip(number(position)?).take(length).collect());
    }
    let all = operation.strip_prefix("//").map(|rest| (rest, usize::MAX));
    let Some((rest, times)) = all.or_else(|| operation.strip_prefix('/').map(|rest| (rest, 1))) else {
        return Err(form());
    };
    let (pattern, new) = rest.split_once('/').unwrap_or((rest, ""));
    if pattern.is_empty() {
        return Ok(value.to_owned());
    }
    room.take(value.matches(pattern).take(times).count().saturating_mul(new.len()))?;
    Ok(value.replacen(pattern, new, times))
}

fn unknown_form(text: &str) -> String {
    let shown: String = text.chars().take(40).collect();
    format!(
        "{shown} is no variable: write $${{ where none is meant, or annotate the object with \
         {}: disabled",
        OPT_OUT[0]
    )
}

fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

#[cfg(test)]
mod tests;
