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
        let hide = |text: String, secret: &Zeroizing<String>| {
            let quoted = Zeroizing::new(format!("{:?}", secret.as_str()));
            text.replace(secret.as_str(), "***").replace(quoted.trim_matches('"'), "***")
        };
        self.secret.iter().fold(message.to_owned(), hide)
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

/// One document of a text with its variables replaced; as it was where nothing is asked for or to be replaced.
pub fn document(
    text: &str,
    range: &Range<usize>,
    value: Value,
    variables: Option<&Variables>,
) -> Result<Value, Vec<Unknown>> {
    let Some(variables) = variables else { return Ok(value) };
    let source = text.get(range.clone()).unwrap_or_default();
    if !source.contains("${") || opted_out(&value) {
        return Ok(value);
    }
    let before = text.get(..range.start).unwrap_or_default().matches('\n').count();
    let (mut result, mut end, mut unknown) = (String::with_capacity(source.len()), 0, Vec::new());
    for scalar in scalars(source) {
        match replaced(&scalar.text, variables, 0) {
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
fn replaced(text: &str, variables: &Variables, depth: usize) -> Result<String, String> {
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
        result += &expression(&from[2..end], variables, depth)?;
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

fn expression(inner: &str, variables: &Variables, depth: usize) -> Result<String, String> {
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
            return value.map_or_else(|| replaced(default, variables, depth + 1), |value| Ok(value.to_owned()));
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
    Ok(if pattern.is_empty() { value.to_owned() } else { value.replacen(pattern, new, times) })
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
mod tests {
    use serde_json::json;

    use super::*;

    fn variables(all: &[(&str, &str)]) -> Variables {
        let mut variables = Variables::default();
        for (name, value) in all {
            assert!(variables.set(name, value, false));
        }
        variables
    }

    fn read(text: &str, all: &[(&str, &str)]) -> Result<Vec<Value>, Vec<Unknown>> {
        let all = variables(all);
        let documents = yaml::documents(text).into_iter();
        documents.map(|it| document(text, &it.range, it.value.unwrap(), Some(&all))).collect()
    }

    #[test]
    fn fluxs_forms() {
        let all = variables(&[("v", "Hello world"), ("empty", ""), ("n", "0123456")]);
        for (text, expected) in [
            ("${v}, ${v}!", "Hello world, Hello world!"),
            ("${v:=x}${v:-x}", "Hello worldHello world"),
            ("${none:=x}${none:-y}${none=z}${none-}", "xyz"),
            ("${empty:=x}${empty:-y}[${empty=z}]", "xy[]"),
            ("${none:=${v:0:5}}", "Hello"),
            ("${none:={\"a\": {}}}", "{\"a\": {}}"),
            ("${n:3}|${n:2:3}|${n:9}|${n:0:99}", "3456|234||0123456"),
            (
                "${v/o/0}|${v//o/0}|${v/ world}|${v//x/y}|${v//}",
                "Hell0 world|Hell0 w0rld|Hello|Hello world|Hello world",
            ),
            ("${v^^}|${v,,}|${v,}|${#v}|${empty^}", "HELLO WORLD|hello world|hello world|11|"),
            ("$${v}|$v|$$|$${none:=x}|$$${v}", "${v}|$v|$$|${none:=x}|$${v}"),
        ] {
            assert_eq!(replaced(text, &all, 0).as_deref(), Ok(expected), "{text}");
        }
        for bad in ["${v", "${}", "${!v}", "${v[@]}", "${v?no}", "${1}", "${v%x}", "${v:a}", "${v:1:b}", "${#v:1}"] {
            let why = replaced(bad, &all, 0).unwrap_err();
            assert!(why.contains("is no variable: write $${"), "{bad}: {why}");
        }
        let deep = format!("{}x{}", "${none:=".repeat(40), "}".repeat(40));
        assert!(replaced(&deep, &all, 0).is_err());
    }

    #[test]
    fn quotes_decide_what_a_value_may_become() {
        let text = "a: ${n}\nb: \"${n}\"\nc: '${n}'\nd: ${flag}\ne: |\n  ${n}\n  more\nf: [\"${n}\", 1]\n${n}: ${n}\n\
                    g: !!str ${n}\nh: ${quote}\ni: ${tag}\nj: ${no}\nk: ${null}\nl: &x ${n}\nm: >-\n  ${n}\nn: ${empty:=}\n";
        let all = [("n", "3"), ("flag", "true"), ("quote", "\"3\""), ("tag", "!!str 3"), ("no", "NO"), ("null", "~")];
        let expected = json!({
            "a": 3, "b": "3", "c": "3", "d": true, "e": "3\nmore\n", "f": ["3", 1], "3": 3, "g": "3", "h": "3", "i": "3",
            "j": "NO", "k": null, "l": 3, "m": "3", "n": "",
        });
        assert_eq!(read(text, &all).unwrap(), [expected]);
        assert_eq!(read("{\"a\": \"${n}\"}", &all).unwrap(), [json!({"a": "3"})]);
    }

    #[test]
    fn a_value_cannot_bring_its_own_keys() {
        let evil = "x\nspec: {privileged: true}";
        for value in [evil, "{a: b}", "[a]", "a: b", "# x", "- a", "*x", "&x y", "x # y", "\"a\" b", "--- a", "| x", ""]
        {
            let found = read("a: ${v}\nb: \"${v}\"\nc: |\n  ${v}\nd: end\n", &[("v", value)]).unwrap();
            let expected = json!({"a": value, "b": value, "c": format!("{value}\n"), "d": "end"});
            assert_eq!(found, [expected], "{value}");
        }
    }

    #[test]
    fn what_is_not_defined_is_told_with_its_line() {
        let text = "a: ${x}\n---\n# ${comment}\nb: 1\nc: \"${y}\"\nd:\n- ${z:1}\n";
        let documents = yaml::documents(text);
        let second = &documents[1];
        let value = second.value.as_ref().unwrap().clone();
        let unknown = document(text, &second.range, value, Some(&variables(&[("x", "1")]))).unwrap_err();
        let lines: Vec<_> = unknown.iter().map(|it| (it.line, &it.what[..17])).collect();
        assert_eq!(lines, [(5, "the variable y is"), (7, "the variable z is")]);
        for (field, key) in [("labels", OPT_OUT[0]), ("annotations", OPT_OUT[0]), ("annotations", OPT_OUT[1])] {
            let text = format!("metadata: {{{field}: {{{key}: disabled}}}}\na: \"${{x}}\"\n");
            assert_eq!(read(&text, &[]).unwrap()[0]["a"], "${x}");
        }
    }

    #[test]
    fn what_may_be_elsewhere_has_no_default() {
        let mut all = variables(&[("before", "1")]);
        all.doubt();
        all.set("after", "2", false);
        assert_eq!(replaced("${after}", &all, 0).as_deref(), Ok("2"));
        for text in ["${before}", "${before:=x}", "${none:-x}", "${none=x}"] {
            assert!(replaced(text, &all, 0).unwrap_err().contains("may be in what cannot be read"), "{text}");
        }
    }

    #[test]
    fn what_is_secret_can_be_told_from_what_is_not() {
        let mut all = variables(&[("open", "visible"), ("now", "open")]);
        for name in ["short", "was"] {
            all.set(name, "x", true);
        }
        all.set("was", "open now", false);
        all.set("now", "secret", true);
        let masked = all.masked();
        for (name, is_secret) in [("open", false), ("short", true), ("was", false), ("now", true)] {
            let text = format!("a: ${{{name}}}");
            let [real, other] = [&all, &masked].map(|all| replaced(&text, all, 0).unwrap());
            assert_eq!(real != other, is_secret, "{name}");
        }
        assert!(all.are_secret() && !variables(&[("open", "1")]).are_secret());
    }

    #[test]
    fn secret_values_are_never_shown() {
        let mut all = variables(&[("open", "visible")]);
        assert!(all.set("password", "hunt\"er2\n", true) && !all.set("not a name", "x", true));
        assert_eq!(all.mask("is hunt\"er2 or \"hunt\\\"er2\", visible"), "is *** or \"***\", visible");
        assert_eq!(format!("{all:?}"), "[\"open\", \"password\"]");
        assert_eq!(replaced("${password}", &all, 0).as_deref(), Ok("hunt\"er2"));
        let before = all.digest();
        all.set("password", "hunter3", true);
        assert_ne!(all.digest(), before);
    }
}
