//! Manifests as text: streams of YAML documents or JSON objects in, YAML out. Reads what the Kubernetes tools read
//! (YAML 1.1 booleans, old octals), each document by itself, so that a broken one spoils no other. Its errors say
//! where, never what: a manifest may be a Secret.

use std::ops::Range;

use serde::Serialize;
use serde_json::Value;

/// One document of a stream.
#[derive(Debug)]
pub struct Document {
    /// Line of its first content, from 1.
    pub line: usize,
    /// Its bytes in the stream, without the markers around them.
    pub range: Range<usize>,
    /// What it says. A stream's empty documents are left out.
    pub value: Result<Value, SyntaxError>,
}

/// Text that is not YAML. Holds no part of the text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct SyntaxError {
    /// Line in the whole stream, from 1.
    pub line: usize,
    /// What the parser expected.
    pub problem: String,
}

/// Reads a stream of documents. Never fails as a whole.
pub fn documents(text: &str) -> Vec<Document> {
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = json_stream(body).unwrap_or_else(|| split(body).iter().filter_map(read).collect());
    let mark = text.len() - body.len();
    found.iter_mut().for_each(|document| document.range = document.range.start + mark..document.range.end + mark);
    found
}

/// Writes one document, without a leading `---`.
pub fn to_string(value: &impl Serialize) -> Result<String, serde_saphyr::ser::Error> {
    let options = serde_saphyr::ser_options! { compact_list_indent: true, prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(value, options)
}

/// JSON objects one after the other, as `kubeseal` and `jq` write them; `None` when the text is anything else.
fn json_stream(text: &str) -> Option<Vec<Document>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let mut found = Vec::new();
    let mut offset = 0;
    while let Some(next) = stream.next() {
        let gap = text.get(offset..)?;
        let start = offset + gap.len() - gap.trim_start().len();
        offset = stream.byte_offset();
        found.push(Document { line: line_of(text, start), range: start..offset, value: Ok(next.ok()?) });
    }
    Some(found)
}

struct Chunk<'a> {
    line: usize,
    start: usize,
    text: &'a str,
}

/// Cuts at `---` and `...` markers: at the start of a line they are markers wherever they stand.
fn split(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let mut chunk = Chunk { line: 1, start: 0, text: "" };
    let mut offset = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let end = offset + line.len();
        let marker = ["---", "..."].into_iter().find_map(|marker| {
            line.strip_prefix(marker).filter(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
        });
        match marker {
            Some(rest) => {
                let start = end - rest.len();
                chunks.push(std::mem::replace(&mut chunk, Chunk { line: number + 1, start, text: rest }));
            }
            None => chunk.text = text.get(chunk.start..end).unwrap_or_default(),
        }
        offset = end;
    }
    chunks.push(chunk);
    chunks
}

fn read(chunk: &Chunk<'_>) -> Option<Document> {
    let blank = |line: &str| line.trim_start().is_empty() || line.trim_start().starts_with('#');
    let first = chunk.text.lines().position(|line| !blank(line))?;
    let line = chunk.line + first;
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        strict_booleans: false,
        with_snippet: false,
        // The defaults refuse large definitions and long streams; these still stop a bomb within 0.2 s.
        budget: serde_saphyr::budget! {
            max_depth: 512,
            flow_nesting_limit: 512,
            max_nodes: 4_000_000,
            max_events: 8_000_000,
        },
    };
    let value = serde_saphyr::from_str_with_options::<Value>(chunk.text, options).map_err(|error| {
        let within = error.location().map_or(first as u64, |location| location.line().saturating_sub(1));
        SyntaxError { line: chunk.line + usize::try_from(within).unwrap_or(first), problem: problem(&error) }
    });
    match value {
        Ok(Value::Null) => None,
        value => Some(Document { line, range: chunk.start..chunk.start + chunk.text.len(), value }),
    }
}

/// The parser's words without its own idea of the place, which begins anew with each document, and without keys.
fn problem(error: &serde_saphyr::Error) -> String {
    let words = match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { .. } => return "a key stands twice in one mapping".to_owned(),
        error => error.to_string(),
    };
    let place = error.location().map(|place| format!(" at line {}, column {}", place.line(), place.column()));
    place.and_then(|place| words.strip_suffix(&place).map(str::to_owned)).unwrap_or(words)
}

fn line_of(text: &str, offset: usize) -> usize {
    text.get(..offset).map_or(1, |before| before.matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(text: &str) -> Vec<(usize, Value)> {
        documents(text).into_iter().map(|document| (document.line, document.value.unwrap())).collect()
    }

    #[test]
    fn documents_know_their_lines() {
        let text = "# head\n---\n# a\na: 1\n---\n\n--- # b\nb: 2\n...\n---\nc: |\n  ---\n  x\n";
        assert_eq!(values(text), [(4, json!({"a": 1})), (8, json!({"b": 2})), (11, json!({"c": "---\nx\n"}))]);
    }

    #[test]
    fn documents_know_their_bytes() {
        let pieces = |text: &'static str| -> Vec<&str> {
            documents(text).into_iter().map(|document| text.get(document.range).unwrap()).collect()
        };
        assert_eq!(pieces("\u{feff}a: 1\n---\n---\r\nb: 2\r\n...\n--- {c: 3}"), ["a: 1\n", "\r\nb: 2\r\n", " {c: 3}"]);
        assert_eq!(pieces("\u{feff} {\"a\": 1}\n{\"b\": 2}\n"), ["{\"a\": 1}", "{\"b\": 2}"]);
    }

    #[test]
    fn json_objects_follow_each_other() {
        assert_eq!(values("{\"a\": 1}\n\n{\"b\":\n 2}"), [(1, json!({"a": 1})), (3, json!({"b": 2}))]);
        assert_eq!(values("{a: 1, b: yes}"), [(1, json!({"a": 1, "b": true}))]);
    }

    #[test]
    fn a_broken_document_spoils_no_other_and_shows_no_content() {
        let found = documents("a: 1\n---\npassword: \"hunter2\n---\nc: 3\n");
        assert_eq!(found.len(), 3);
        let error = found[1].value.as_ref().unwrap_err();
        assert!((3..=4).contains(&error.line), "{error}");
        assert_eq!(error.problem, "invalid indentation in multiline quoted scalar", "one place is enough");
        let twice = documents("a: {hunter2: 1, hunter2: 2}").remove(0).value.unwrap_err();
        assert_eq!(twice.to_string(), "line 1: a key stands twice in one mapping");
        assert!(found[0].value.is_ok() && found[2].value.is_ok());
    }

    #[test]
    fn values_mean_what_kubernetes_reads() {
        assert_eq!(values("mode: 0644\non: yes\ns: 'no'"), [(1, json!({"mode": 420, "on": true, "s": "no"}))]);
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut bomb = "a0: &a0 [x]\n".to_owned();
        for level in 1..40 {
            let nine = vec![format!("*a{}", level - 1); 9].join(",");
            bomb.extend([format!("a{level}: &a{level} [{nine}]\n")]);
        }
        assert!(documents(&bomb)[0].value.is_err());
    }

    #[test]
    fn yaml_reads_back() {
        let value =
            json!({"kind": "Secret", "tricky": {"no": "yes", "n": "0644", "e": "", "m": "a\nb\n"}, "l": [{"a": 1}]});
        assert_eq!(values(&to_string(&value).unwrap()), [(1, value)]);
    }
}
