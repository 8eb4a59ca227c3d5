//! What is put in place of what, by example.

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
    let mut room = Room::default();
    documents.map(|it| document(text, &it.range, it.value.unwrap(), Some(&all), &mut room)).collect()
}

fn replaced(text: &str, variables: &Variables, depth: usize) -> Result<String, String> {
    super::replaced(text, variables, &mut Room::default(), depth)
}

#[test]
fn what_is_filled_in_is_bounded() {
    let all = variables(&[("long", &"a".repeat(400_000))]);
    for text in [format!("${{long//a/{}}}", "b".repeat(400_000)), "${long}".repeat(100)] {
        assert!(replaced(&text, &all, 0).unwrap_err().contains("too large"));
    }
    assert_eq!(replaced("${long//a/bc}", &all, 0).unwrap().len(), 800_000);
    let document = "a: ${long}\n---\n".repeat(100);
    assert!(read(&document, &[("long", &"a".repeat(400_000))]).is_err(), "of all together, too");
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
        ("${v/o/0}|${v//o/0}|${v/ world}|${v//x/y}|${v//}", "Hell0 world|Hell0 w0rld|Hello|Hello world|Hello world"),
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
    for value in [evil, "{a: b}", "[a]", "a: b", "# x", "- a", "*x", "&x y", "x # y", "\"a\" b", "--- a", "| x", ""] {
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
    let unknown =
        document(text, &second.range, value, Some(&variables(&[("x", "1")])), &mut Room::default()).unwrap_err();
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
    let mut nested = variables(&[]);
    assert!(nested.set("a_user", "admin", true) && nested.set("password", "admin-9f3k", true));
    assert_eq!(nested.mask("denied to admin: admin-9f3k"), "denied to ***: ***");
    assert_eq!(replaced("${password}", &all, 0).as_deref(), Ok("hunt\"er2"));
    let before = all.digest();
    all.set("password", "hunter3", true);
    assert_ne!(all.digest(), before);
}
