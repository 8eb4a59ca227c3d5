//! Templates render as upstream renders them: `testdata/templates/table.json` is what the real Sealed Secrets made.

use std::collections::BTreeMap;

use crds::{
    Plaintext,
    template::{Environment, MissingKey, render},
};
use jiff::Timestamp;
use rand::{SeedableRng as _, rngs::StdRng};
use serde::Deserialize;

#[derive(Deserialize)]
struct Table {
    values: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    output: Option<String>,
    error: Option<String>,
    /// What is said where a missing key is an error and nothing else is.
    missing: Option<String>,
}

/// Where ours differs from upstream on purpose, each with the reason.
const DIFFERENCES: &[(&str, &str)] = &[
    ("{{ 1i }}", "nobody computes with complex numbers in a Secret"),
    ("{{ 1+2i }}", "nobody computes with complex numbers in a Secret"),
    (r#"{{ float64 "0x1p-2" }}"#, "no hexadecimal floats"),
    (r#"{{ float64 "1_0" }}"#, "no underscores in floats"),
    (r#"{{ title "ǆ" }}"#, "four letters of Unicode have a title case that is not their upper case"),
    (
        r#"{{ $l := splitList "," "b,a" }}{{ $_ := sortAlpha $l }}{{ $l }}"#,
        "a function does not change its argument behind one's back",
    ),
    (r#"{{ b64dec "%%%" }}"#, "an error does not become the value of a Secret"),
    (r#"{{ b32dec "1" }}"#, "an error does not become the value of a Secret"),
    (r#"{{ derivePassword 1 "nope" "p" "u" "s" }}"#, "an error does not become the value of a Secret"),
    (r#"{{ htpasswd "a:b" "p" }}"#, "an error does not become the value of a Secret"),
    (r#"{{ regexFind "a**" "a" }}"#, "an operator on an operator is harmless"),
];

/// The bytes that the table writes as characters from U+E000 on, because JSON cannot hold them.
fn bytes(text: &str) -> Vec<u8> {
    let byte = |char: char| u8::try_from(u32::from(char).checked_sub(0xe000)?).ok();
    let mut buffer = [0; 4];
    text.chars()
        .flat_map(|char| {
            byte(char).map_or_else(|| char.encode_utf8(&mut buffer).as_bytes().to_vec(), |byte| vec![byte])
        })
        .collect()
}

#[test]
fn as_upstream_renders_them() {
    let table: Table = serde_json::from_str(include_str!("../../testdata/templates/table.json")).unwrap();
    let values = table.values.iter().map(|(name, value)| (name.clone(), Plaintext::new(bytes(value)))).collect();
    let render = |template: &String, missing| {
        let templates = BTreeMap::from([
            ("out".to_owned(), Some(template.clone())),
            ("sibling".to_owned(), Some("raw {{ .user }}".to_owned())),
        ]);
        let mut rng = StdRng::from_seed([7; 32]);
        let environment = Environment { rng: &mut rng, now: Timestamp::UNIX_EPOCH };
        render(&templates, &values, missing, environment)
    };
    let mut wrong = Vec::new();
    for Case { template, output, error, missing } in &table.cases {
        let ours = render(template, MissingKey::NoValue);
        let strict = render(template, MissingKey::Error).map_err(|error| error.to_string());
        if let Some(theirs) = missing {
            let key = theirs.split("no entry for key \"").nth(1).unwrap().trim_end_matches('"');
            let told = strict.as_ref().is_err_and(|ours| ours.ends_with(&format!(": there is no such key: {key}")));
            let named = strict.as_ref().is_err_and(|ours| ours.starts_with("template.data.out line "));
            assert!(told && named, "{template}: {strict:?}, {theirs}");
        } else {
            let same = match (&strict, &ours) {
                (Ok(strict), Ok(ours)) => strict["out"].expose() == ours["out"].expose(),
                (strict, ours) => strict.is_err() && ours.is_err(),
            };
            assert!(same, "{template}: a key that is not missing, {strict:?}");
        }
        let accepted = DIFFERENCES.iter().any(|(accepted, _)| accepted == template);
        let same = match (&ours, output) {
            (Ok(ours), Some(theirs)) => ours["out"].expose() == bytes(theirs),
            (Err(_), None) => true,
            _ => false,
        };
        if same == accepted {
            let ours = ours.map(|ours| String::from_utf8_lossy(ours["out"].expose()).into_owned());
            let ours = ours.map_err(|error| error.to_string());
            wrong.push(format!("{template}\n  ours:   {ours:?}\n  theirs: {output:?} {error:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), table.cases.len(), wrong.join("\n"));
}
