use proptest::{collection::btree_map, prelude::*};
use serde::Serialize as _;
use serde_json::json;

use super::*;

/// Edits the only document of a text.
fn edited(text: &str, change: impl FnOnce(&mut Value)) -> Result<String, SurgeryError> {
    let mut wanted = crds::yaml::documents(text).remove(0).value.unwrap();
    change(&mut wanted);
    rewrite(text, &BTreeMap::from([(0, wanted)]))
}

fn set(text: &str, path: &str, value: impl Into<Value>) -> String {
    let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
    let parents: Vec<&str> = parent.split('.').filter(|step| !step.is_empty()).collect();
    let result = edited(text, |wanted| drop(mapping(wanted, &parents).unwrap().insert(key.to_owned(), value.into())));
    result.unwrap_or_else(|error| panic!("{text:?} {path}: {error}"))
}

fn unset(text: &str, path: &str) -> String {
    let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
    let parents: Vec<&str> = parent.split('.').filter(|step| !step.is_empty()).collect();
    let result = edited(text, |wanted| drop(mapping(wanted, &parents).unwrap().remove(key)));
    result.unwrap_or_else(|error| panic!("{text:?} {path}: {error}"))
}

#[test]
fn a_value_is_replaced_in_its_own_style() {
    for (before, after) in [
        ("a: old # why\nb: 1\n", "a: new # why\nb: 1\n"),
        ("a: 'old' # why\n", "a: 'new' # why\n"),
        ("a: \"old\"\n", "a: \"new\"\n"),
        ("a:   old   \n", "a:   new   \n"),
        ("a: >-\n  old\n  er\nb: 1\n", "a: >-\n  new\nb: 1\n"),
        ("a: | # why\n    old\n\n\n# next\nb: 1\n", "a: |- # why\n    new\n\n\n# next\nb: 1\n"),
        ("a:\n  old\n  er\n", "a:\n  new\n"),
        ("a:\nb: 1\n", "a: new\nb: 1\n"),
        ("a: # why\nb: 1\n", "a: new # why\nb: 1\n"),
        ("a: ~\n", "a: new\n"),
        ("{a: old, b: 1}\n", "{a: new, b: 1}\n"),
        ("{\"a\":\"old\"}", "{\"a\":\"new\"}"),
        ("{\n\t\"a\": 7,\n\t\"b\": 1\n}\n", "{\n\t\"a\": \"new\",\n\t\"b\": 1\n}\n"),
        ("\u{feff}a: old\r\nb: 1\r\n", "\u{feff}a: new\r\nb: 1\r\n"),
        ("a: !!str old\n", "a: !!str new\n"),
        ("? a\n: old\n", "? a\n: new\n"),
        ("a: old", "a: new"),
    ] {
        assert_eq!(set(before, "a", "new"), after, "{before:?}");
    }
}

#[test]
fn what_a_style_cannot_hold_is_quoted() {
    for (before, value, after) in [
        ("a: old\n", "yes", "a: \"yes\"\n"),
        ("a: old\n", "0644", "a: \"0644\"\n"),
        ("a: old\n", "a: b", "a: \"a: b\"\n"),
        ("a: old\n", "", "a: \"\"\n"),
        ("{a: old}\n", "x,y", "{a: \"x,y\"}\n"),
        ("a: 'old'\n", "it's", "a: 'it''s'\n"),
        ("a: 'old'\n", "x\ny", "a: \"x\\ny\"\n"),
        ("a: old\n", "\u{7f}\u{85}\u{2028}", "a: \"\\u007f\\u0085\\u2028\"\n"),
        ("a: |\n  old\n", " x\n", "a: \" x\\n\"\n"),
        ("a: |\n  old\n", "x\n\ny\n", "a: |\n  x\n\n  y\n"),
        ("a: >-\n  old\n", "x\ny", "a: |-\n  x\n  y\n"),
        ("a: |-\n  old", "x\n", "a: \"x\\n\""),
        ("a: |+\n  old\n\n\nb: 1\n", "x\n", "a: |\n  x\nb: 1\n"),
    ] {
        assert_eq!(set(before, "a", value), after, "{before:?} {value:?}");
    }
    assert_eq!(set("a: true\n", "a", json!(false)), "a: false\n");
    assert_eq!(set("a: x\n", "a", Value::Null), "a: null\n");
}

#[test]
fn a_key_finds_its_place() {
    for (before, after) in [
        // In order: by name. In no order: at the end.
        ("a: x\nc: y # why\n# tail\n", "a: x\nb: new\nc: y # why\n# tail\n"),
        ("c: y\na: x # why\n# tail\n", "c: y\na: x # why\nb: new\n# tail\n"),
        ("a: x", "a: x\nb: new"),
        ("'a': 'x'\r\n", "'a': 'x'\r\n'b': 'new'\r\n"),
        ("a: |\n  x\n\n# tail\n", "a: |\n  x\nb: |-\n  new\n\n# tail\n"),
        ("a:\n  k:\n  - x\n  - y: z # why\n# tail\n", "a:\n  k:\n  - x\n  - y: z # why\nb: new\n# tail\n"),
        ("a:\n", "a:\nb: new\n"),
        ("{a: x}\n", "{a: x, b: new}\n"),
        ("{a: x, c: }\n", "{a: x, b: new, c: }\n"),
        ("{a: x, 0: y}\n", "{a: x, 0: y, b: new}\n"),
        ("{\"a\":\"x\",\"c\":\"y\"}", "{\"a\":\"x\",\"b\":\"new\",\"c\":\"y\"}"),
        ("{\"a\":\"x\"}", "{\"a\":\"x\",\"b\":\"new\"}"),
        ("{\"a\": \"x\"}", "{\"a\": \"x\", \"b\": \"new\"}"),
        ("{\n\t\"a\": \"x\"\n}\n", "{\n\t\"a\": \"x\",\n\t\"b\": \"new\"\n}\n"),
        ("{\r\n    \"a\": 1,\r\n    \"c\": 2\r\n}", "{\r\n    \"a\": 1,\r\n    \"b\": \"new\",\r\n    \"c\": 2\r\n}"),
        ("{}", "{\"b\": \"new\"}"),
    ] {
        assert_eq!(set(before, "b", "new"), after, "{before:?}");
    }
}

#[test]
fn parents_are_made() {
    for (before, after) in [
        ("spec: {}\n", "spec:\n  t:\n    l:\n      x: new\n"),
        ("spec: # why\nz: 1\n", "spec: # why\n  t:\n    l:\n      x: new\nz: 1\n"),
        ("spec: null # why\n", "spec: # why\n  t:\n    l:\n      x: new\n"),
        ("m:\n    n: 1\nspec:\n    a: 1\n", "m:\n    n: 1\nspec:\n    a: 1\n    t:\n        l:\n            x: new\n"),
        ("- spec:\n    t:\n      a: {b: c}\n", "- spec:\n    t:\n      a: {b: c}\n"),
        ("spec: {t: {}}\n", "spec: {t: {l: {x: new}}}\n"),
        (
            "{\n  \"spec\": {\n    \"t\": {}\n  }\n}\n",
            "{\n  \"spec\": {\n    \"t\": {\n      \"l\": {\n        \"x\": \"new\"\n      }\n    }\n  }\n}\n",
        ),
        ("{\"spec\": null}", "{\"spec\": {\"t\": {\"l\": {\"x\": \"new\"}}}}"),
    ] {
        if before.starts_with('-') {
            let result = edited(before, |wanted| {
                mapping(&mut wanted[0], &["spec", "t", "l"]).unwrap().insert("x".to_owned(), "new".into());
            });
            assert_eq!(result.unwrap(), "- spec:\n    t:\n      a: {b: c}\n      l:\n        x: new\n");
        } else {
            assert_eq!(set(before, "spec.t.l.x", "new"), after, "{before:?}");
        }
    }
}

#[test]
fn lists_and_long_texts_are_written_in_blocks() {
    assert_eq!(set("a: 1\n", "f", json!(["x", "no"])), "a: 1\nf:\n- x\n- \"no\"\n");
    assert_eq!(
        set("a: 1\n", "m", json!({"l": [], "o": {}, "t": "x\ny\n"})),
        "a: 1\nm:\n  l: []\n  o: {}\n  t: |\n    x\n    y\n"
    );
    assert_eq!(set("f:\n- x\n- y # why\n", "f", json!(["x", "z"])), "f:\n- x\n- z # why\n");
    assert_eq!(set("f:\n- x\n- y\n- z\ng: 1\n", "f", json!(["x", "z"])), "f:\n- x\n- z\ng: 1\n");
}

#[test]
fn a_key_goes_and_leaves_no_gap() {
    for (before, after) in [
        ("# head\na: 1\n# own\nb: x # gone\nc: 2\n", "# head\na: 1\n# own\nc: 2\n"),
        ("a: 1\nb:\n  k: |\n    x\n\n    y\n# tail\n", "a: 1\n# tail\n"),
        ("a: 1\r\nb: x\r\n", "a: 1\r\n"),
        ("a: 1\nb: x", "a: 1"),
        ("b: x\na: 1", "a: 1"),
        ("b:\na: 1\n", "a: 1\n"),
        ("{a: 1, b: x, c: 2}\n", "{a: 1, c: 2}\n"),
        ("{b: x, c: 2}\n", "{c: 2}\n"),
        ("{a: 1, b: x}\n", "{a: 1}\n"),
        ("{\"b\":\"x\"}", "{}"),
        ("{\n  \"a\": 1,\n  \"b\": \"x\"\n}\n", "{\n  \"a\": 1\n}\n"),
    ] {
        assert_eq!(unset(before, "b"), after, "{before:?}");
    }
    assert_eq!(unset("a:\n  # own\n  b: x\nc: 1\n", "a.b"), "a: {}\n  # own\nc: 1\n");
    let item = edited("- b: 1\n  c: 2\n", |wanted| drop(wanted[0].as_object_mut().unwrap().remove("b")));
    assert_eq!(item.unwrap(), "- c: 2\n");
}

#[test]
fn only_the_documents_that_change_are_touched() {
    let text = "# one\na: 1\n---\n# two\na: 1 # why\n...\n---\na: 1\n";
    let wanted = BTreeMap::from([(1, json!({"a": 2})), (2, json!({"a": 1}))]);
    assert_eq!(rewrite(text, &wanted).unwrap(), "# one\na: 1\n---\n# two\na: 2 # why\n...\n---\na: 1\n");
    let stream = "{\"a\": 1}\n{\"a\": 1}\n";
    assert_eq!(rewrite(stream, &BTreeMap::from([(1, json!({"a": 2}))])).unwrap(), "{\"a\": 1}\n{\"a\": 2}\n");
    assert_eq!(rewrite("", &wanted), Err(SurgeryError::NoDocument(2)));
    let error = rewrite("a: hunter2: x\n", &BTreeMap::from([(0, json!({}))])).unwrap_err().to_string();
    assert!(error.starts_with("document 1 is not valid YAML: line 1: ") && !error.contains("hunter2"), "{error}");
}

#[test]
fn what_is_shared_is_left_alone() {
    let refused = |text, change: fn(&mut Value)| edited(text, change).unwrap_err().to_string();
    let words = |path: &str| format!("document 1: {path} is shared by a YAML anchor or alias: edit it by hand");
    assert_eq!(refused("a: &x {k: v}\nb: *x\n", |value| value["a"]["k"] = "w".into()), words("a.k"));
    assert_eq!(refused("a: &x {k: v}\nb: *x\n", |value| value["b"]["k"] = "w".into()), words("b.k"));
    assert_eq!(refused("a: &x v\nb: *x\n", |value| value["a"] = "w".into()), words("a"));
    let gone = |value: &mut Value| drop(value.as_object_mut().unwrap().remove("a"));
    assert_eq!(refused("a: {k: &x v}\nb: *x\n", gone), words("the document as a whole"));
    let merged = "x: &x {k: v}\ny:\n  <<: *x\n  z: 1\n";
    assert_eq!(
        edited(merged, |value| drop(value["y"].as_object_mut().unwrap().remove("k"))).unwrap_err().to_string(),
        words("y")
    );
    assert_eq!(set(merged, "y.z", json!(2)), "x: &x {k: v}\ny:\n  <<: *x\n  z: 2\n", "beside it is fine");
}

#[test]
fn a_path_has_a_line() {
    let text = "# head\na: 1\n---\nitems:\n- a: {b: 1}\n- a:\n    # why\n    b: 1\n";
    for (document, items, path, expected) in [
        (1, &[][..], &["a"][..], Some(2)),
        (2, &[], &["items"], Some(4)),
        (2, &[1], &["a", "b"], Some(5)),
        (2, &[2], &["a", "b"], Some(8)),
        (2, &[2], &["a", "c", "d"], Some(6)),
        (2, &[3], &["a"], None),
        (3, &[], &[], None),
    ] {
        assert_eq!(line(text, document, items, path), expected, "{document} {items:?} {path:?}");
    }
}

/// Values as manifests have them: mappings of mappings, lists and scalars.
fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "[a-zA-Z0-9+/=]{0,20}",
        "[ -~\u{a0}-\u{ff}\n\t]{0,12}",
        "([ -~]{1,8}\n){1,3}",
        Just("yes".to_owned()),
        any::<String>(),
    ];
    let scalar = prop_oneof![
        8 => text.prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<i32>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    scalar.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            4 => mapping_of(inner.clone()),
            1 => prop::collection::vec(inner, 0..3).prop_map(Value::from),
        ]
    })
}

fn mapping_of(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let key = prop_oneof![9 => "[a-e](\\.[a-c]{1,3})?", 1 => "[ -~]{1,6}"];
    btree_map(key, value, 0..5).prop_map(|fields| fields.into_iter().collect::<Map<_, _>>().into())
}

#[derive(Clone, Copy, Debug)]
enum Style {
    Block,
    Commented,
    Crlf,
    Unclosed,
    Json,
    Tabs,
    Compact,
}

fn written(value: &Value, style: Style) -> String {
    let block = || crds::yaml::to_string(value).unwrap();
    match style {
        Style::Block => block(),
        // Behind each line that a comment may follow, and above the first.
        Style::Commented => {
            let line = |line: &str| {
                if line.ends_with([':', 'l', 'e']) { format!("{line} # kept\n") } else { format!("{line}\n") }
            };
            let text = "# kept\n".to_owned() + &block().lines().map(line).collect::<String>();
            let same = crds::yaml::documents(&text).pop().is_some_and(|document| document.value.as_ref() == Ok(value));
            if same { text } else { block() }
        }
        Style::Crlf => block().replace('\n', "\r\n"),
        Style::Unclosed => block().trim_end_matches('\n').to_owned(),
        Style::Json => serde_json::to_string_pretty(value).unwrap() + "\n",
        Style::Tabs => {
            let mut text = Vec::new();
            let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, tabs)).unwrap();
            String::from_utf8(text).unwrap()
        }
        Style::Compact => value.to_string(),
    }
}

fn style() -> impl Strategy<Value = Style> {
    prop::sample::select(vec![
        Style::Block,
        Style::Commented,
        Style::Crlf,
        Style::Unclosed,
        Style::Json,
        Style::Tabs,
        Style::Compact,
    ])
}

/// `a` with some of `b`: an edit that leaves much as it is.
fn blend(a: &Value, b: &Value) -> Value {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return b.clone() };
    let mut result = a.clone();
    for (index, (key, value)) in b.iter().enumerate() {
        let old = result.remove(key);
        if index % 3 != 2 {
            result.insert(key.clone(), old.map_or_else(|| value.clone(), |old| blend(&old, value)));
        }
    }
    result.into()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_edit_says_what_was_wanted_or_nothing(a in mapping_of(value()), b in mapping_of(value()), style in style()) {
        let text = written(&a, style);
        let read = crds::yaml::documents(&text);
        prop_assume!(read.len() == 1 && read[0].value.is_ok());
        let have = read[0].value.as_ref().unwrap();
        prop_assert_eq!(&rewrite(&text, &BTreeMap::from([(0, have.clone())])).unwrap(), &text);
        let wanted = blend(have, &b);
        let result = rewrite(&text, &BTreeMap::from([(0, wanted.clone())]));
        match result {
            Ok(result) => {
                prop_assert_eq!(crds::yaml::documents(&result).remove(0).value.unwrap(), wanted.clone());
                if matches!(style, Style::Json | Style::Tabs | Style::Compact) {
                    prop_assert_eq!(&serde_json::from_str::<Value>(&result).unwrap(), &wanted, "JSON stays JSON");
                }
                prop_assert!(!matches!(style, Style::Crlf) || !result.replace("\r\n", "").contains('\n'));
            }
            Err(error) => prop_assert!(false, "{text:?} -> {wanted}: {error}"),
        }
    }

    #[test]
    fn what_is_added_and_taken_away_again_leaves_no_trace(a in mapping_of(value()), style in style(), new in value()) {
        let mut a = a;
        a.as_object_mut().unwrap().extend([("x".to_owned(), 1.into()), ("y".to_owned(), "z".into())]);
        let text = written(&a, style);
        prop_assume!(crds::yaml::documents(&text)[0].value.as_ref() == Ok(&a));
        let more = set(&text, "zz", new);
        prop_assert_eq!(unset(&more, "zz"), text);
    }
}
