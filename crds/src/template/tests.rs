//! What templates must not do: tell a value in an error, run without end, or take the program down.

use std::time::Instant;

use jiff::Timestamp;

use super::{
    Environment, MissingKey, TemplateError, functions,
    functions::Param,
    render,
    value::{Element, Run, Value},
};
use crate::Plaintext;

fn rendered(
    templates: &[(&str, Option<&str>)],
    values: &[(&str, &str)],
) -> Result<Vec<(String, String)>, TemplateError> {
    let owned = |text: &str| text.to_owned();
    let templates = templates.iter().map(|(key, template)| (owned(key), template.map(owned))).collect();
    let values = values.iter().map(|(key, value)| (owned(key), Plaintext::new(value.as_bytes().to_vec()))).collect();
    let environment = Environment { rng: &mut rand::rng(), now: Timestamp::UNIX_EPOCH };
    let text = |value: Plaintext| String::from_utf8_lossy(value.expose()).into_owned();
    Ok(render(&templates, &values, MissingKey::NoValue, environment)?
        .into_iter()
        .map(|(key, value)| (key, text(value)))
        .collect())
}

fn error(template: &str) -> String {
    rendered(&[("t", Some(template))], &[("pw", CANARY)]).unwrap_err().to_string()
}

fn output(template: &str) -> String {
    let rendered = rendered(&[("t", Some(template))], &[("pw", CANARY)]).unwrap();
    rendered.into_iter().next().unwrap().1
}

const CANARY: &str = "tiny-canary-4711";

#[test]
fn values_win_over_templates_and_templates_are_seen_as_written() {
    let templates = [
        ("pw", Some("shadow")),
        ("plain", Some("hello")),
        ("ref", Some("{{.plain}}-{{.pw|b64enc}}-{{.nope}}")),
        ("raw", Some("{{ .ref }}")),
        ("null", None),
        ("seen", Some("{{ .null }}")),
    ];
    let rendered = rendered(&templates, &[("pw", "s3"), ("null", "there")]).unwrap();
    let expected = [
        ("plain", "hello"),
        ("raw", "{{.plain}}-{{.pw|b64enc}}-{{.nope}}"),
        ("ref", "hello-czM=-<no value>"),
        ("seen", "there"),
    ];
    assert_eq!(rendered, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
}

#[test]
fn every_fault_is_named_with_its_template_line_and_function() {
    let templates = [("a", Some("ok\n{{ upper\n 1 }}")), ("b", Some("{{ nope }}")), ("c", Some("{{ .pw.x }}"))];
    let error = rendered(&templates, &[("pw", CANARY)]).unwrap_err().to_string();
    let expected = "template.data.a line 2: upper: wrong type of an argument: a string is expected; \
                    template.data.b line 1: the template cannot be read: function \"nope\" not defined; \
                    template.data.c line 1: only maps have fields";
    assert_eq!(error, expected);
}

#[test]
fn many_faults_are_counted_instead_of_shown() {
    let keys: Vec<String> = (0..9).map(|number| format!("k{number}")).collect();
    let templates: Vec<_> = keys.iter().map(|key| (key.as_str(), Some("{{ fail .pw }}"))).collect();
    let error = rendered(&templates, &[("pw", CANARY)]).unwrap_err().to_string();
    assert_eq!(error.matches("line 1").count(), 5, "{error}");
    assert!(error.ends_with("; and 4 more"), "{error}");
}

#[test]
fn fail_tells_the_templates_own_words_and_no_value() {
    assert_eq!(error(r#"{{ fail "set a user" }}"#), "template.data.t line 1: fail: the template gave up: set a user");
    for template in ["{{ fail .pw }}", "{{ .pw | fail }}", "{{ fail (print .pw) }}", "{{ $x := .pw }}{{ fail $x }}"] {
        assert!(!error(template).contains(CANARY), "{template}");
    }
}

#[test]
fn a_date_that_no_calendar_has_is_told() {
    for added in ["9223372036854775807 0 0", "0 9223372036854775807 0", "0 0 9223372036854775807"] {
        let error = error(&format!("{{{{ (now).AddDate {added} }}}}"));
        assert!(error.contains("the time is out of range"), "{added}: {error}");
    }
}

/// Every function is called with a secret in every place of an argument, raw and wrapped, beside what else it takes.
#[test]
fn no_error_of_any_function_holds_a_value() {
    let wraps = [
        "$.pw",
        "(list $.pw)",
        "(dict $.pw $.pw)",
        "(dict \"a\" $.pw)",
        "(splitList \"-\" $.pw)",
        "(fromJson (printf \"[%q]\" $.pw))",
        "(atoi $.pw)",
        "(len $.pw)",
        "(index $.pw 0)",
        "$",
    ];
    let mut failed = 0;
    for function in functions::all() {
        // What costs much or is random has no error that depends on more than one argument.
        let other = |param: Param| match param {
            Param::Int | Param::Counter => "3",
            Param::Float => "1.5",
            Param::Bool => "true",
            Param::Map => "(dict \"a\" 1)",
            Param::Time => "now",
            Param::Text => "\"[\"",
            Param::Any | Param::Reflected => "nil",
        };
        let params: Vec<Param> = function.fixed.iter().copied().chain(function.rest).chain(function.rest).collect();
        for count in 0..=params.len() + 1 {
            for secret in 0..count.max(1) {
                for wrap in wraps {
                    let arguments: Vec<&str> =
                        (0..count).map(|at| if at == secret { wrap } else { other(function.parameter(at)) }).collect();
                    let template = format!("{{{{ {} {} }}}}", function.name, arguments.join(" "));
                    if let Err(error) = rendered(&[("t", Some(&template))], &[("pw", CANARY)]) {
                        failed += 1;
                        let shown = format!("{error} {error:?}");
                        for part in ["canary", "4711", "tiny"] {
                            assert!(!shown.contains(part), "{template}: {shown}");
                        }
                    }
                }
            }
        }
    }
    assert!(failed > 5_000, "too few of them failed to mean anything: {failed}");
}

#[test]
fn no_error_of_the_language_holds_a_value() {
    let templates = [
        "{{ template .pw }}",
        "{{ .pw.field }}",
        "{{ .pw 1 }}",
        "{{ range .pw }}{{ end }}",
        "{{ $x := .pw }}{{ $x.y }}",
        "{{ index . .pw .pw }}",
        "{{ (index (list .pw) 0).x }}",
        "{{ template \"nope\" .pw }}",
        "{{ range $i, $j := len .pw }}{{ end }}",
        "{{ .pw | toDate }}",
        "{{ .pw | index (list 1) }}",
        "{{ call .pw }}",
        "{{ eq .pw (len .pw) }}",
        "{{ (dict .pw 1).x.y.z | upper }}",
        "{{ repeat 90000000 .pw }}",
    ];
    for template in templates {
        let error = error(template);
        assert!(!error.contains("canary"), "{template}: {error}");
    }
}

/// Templates that would take memory, time or stack without end. Each is refused, and soon.
#[test]
fn bombs_do_not_go_off() {
    let nested = |open: &str, close: &str, depth: usize| format!("{}{}", open.repeat(depth), close.repeat(depth));
    let twice =
        |at| format!(r#"{{{{define "d{at}"}}}}{{{{template "d{0}"}}}}{{{{template "d{0}"}}}}{{{{end}}}}"#, at + 1);
    let doubling = (0..60).map(twice).collect::<Vec<_>>().concat();
    let doubled = r#"{{ $x := "xxxxxxxxxxxxxxxx" }}{{ range until 60 }}{{ $x = print $x $x }}{{ end }}"#;
    let bombs = [
        r#"{{ repeat 600000000 "x" }}"#.to_owned(),
        r#"{{ repeat 9223372036854775807 "xx" }}"#.to_owned(),
        r"{{ range until 1000000000 }}{{ end }}".to_owned(),
        r"{{ range 9223372036854775807 }}{{ end }}".to_owned(),
        r"{{ range 9223372036854775807 }}x{{ end }}".to_owned(),
        r"{{ seq 1000000000 }}".to_owned(),
        r"{{ untilStep -9223372036854775808 9223372036854775807 1 }}".to_owned(),
        r#"{{ indent 1000000000 "x" }}"#.to_owned(),
        r#"{{ printf "%999999d%999999d%999999d" 1 2 3 | repeat 999 }}"#.to_owned(),
        r#"{{ printf "%.999999f" 1.5 | repeat 999 }}"#.to_owned(),
        r"{{ randAlphaNum 1000000000 }}".to_owned(),
        r"{{ randBytes 9223372036854775807 }}".to_owned(),
        r#"{{ range until 100 }}{{ bcrypt "x" }}{{ end }}"#.to_owned(),
        r#"{{ range until 100 }}{{ derivePassword 1 "long" "p" "u" "s" }}{{ end }}"#.to_owned(),
        r#"{{ define "a" }}{{ template "a" }}{{ end }}{{ template "a" }}"#.to_owned(),
        r#"{{ template "t" }}"#.to_owned(),
        r#"{{ define "a" }}{{ template "b" }}{{ end }}{{ define "b" }}{{ template "a" }}{{ end }}{{ template "a" }}"#.to_owned(),
        format!(r#"{doubling}{{{{define "d60"}}}}{{{{end}}}}{{{{template "d0"}}}}"#),
        doubled.to_owned(),
        r"{{ $x := list 1 }}{{ range until 60 }}{{ $x = list $x $x }}{{ end }}{{ $x }}".to_owned(),
        r"{{ $x := list 1 }}{{ range until 40 }}{{ $x = list $x $x }}{{ end }}{{ $x }}".to_owned(),
        r"{{ $x := list 1 }}{{ range until 100000 }}{{ $x = list $x }}{{ end }}".to_owned(),
        r#"{{ $d := dict }}{{ $_ := set $d "self" $d }}{{ $d }}"#.to_owned(),
        r#"{{ $d := dict }}{{ $_ := set $d "self" $d }}{{ toJson $d }}"#.to_owned(),
        r#"{{ $d := dict }}{{ $_ := set $d "self" (list $d) }}{{ deepCopy $d }}"#.to_owned(),
        r#"{{ $d := dict }}{{ $e := dict }}{{ $_ := set $d "x" $d }}{{ $_ := set $e "x" $e }}{{ deepEqual $d $e }}"#.to_owned(),
        r#"{{ $d := dict }}{{ $e := dict }}{{ $_ := set $d "x" $d }}{{ $_ := set $e "x" $e }}{{ merge $d $e }}"#.to_owned(),
        r#"{{ $d := dict }}{{ $x := $d }}{{ range until 100000 }}{{ $n := dict }}{{ $_ := set $x "n" $n }}{{ $x = $n }}{{ end }}{{ $d }}"#.to_owned(),
        r#"{{ fromJson (repeat 100000 "[") }}{{ mustFromJson (repeat 100000 "[") }}"#.to_owned(),
        r#"{{ $l := splitList "" (repeat 1000000 "x") }}"#.to_owned(),
        r#"{{ $s := repeat 1000000 "x" }}{{ range until 1000000 }}{{ $_ := contains "y" $s }}{{ end }}"#.to_owned(),
        r#"{{ $s := repeat 1000000 "ab" }}{{ range until 1000 }}{{ $_ := regexMatch "(a|b)*c" $s }}{{ end }}"#.to_owned(),
        r#"{{ regexReplaceAllLiteral ".*[^A-Z]|[A-Z]" (repeat 1000000 "A") "" }}"#.to_owned(),
        r#"{{ regexReplaceAll ".*[^A-Z]|[A-Z]" (repeat 1000000 "A") "$0" }}"#.to_owned(),
        r#"{{ regexFindAll ".*[^A-Z]|[A-Z]" (repeat 1000000 "A") -1 }}"#.to_owned(),
        r#"{{ regexSplit ".*[^A-Z]|[A-Z]" (repeat 1000000 "A") -1 }}"#.to_owned(),
        format!(r#"{{{{ regexReplaceAll "{}([ab]{{1000}}){{15}}" "a" "$1" }}}}"#, "()".repeat(300)),
        // More states than there is room for, each of hundreds of places.
        r#"{{ regexFind "[a-z]*[a-m][a-z]{900}0" (randAlpha 300000 | lower) }}"#.to_owned(),
        r#"{{ $a := repeat 500000 "x" | printf "%sa" }}{{ $b := repeat 500000 "x" | printf "%sb" }}{{ $l := list }}{{ range until 200 }}{{ $l = concat $l (list $a $b) }}{{ end }}{{ sortAlpha $l }}"#.to_owned(),
        r#"{{ $a := repeat 500000 "x" | printf "%sa" }}{{ $b := repeat 500000 "x" | printf "%sb" }}{{ $l := list }}{{ range until 500 }}{{ $l = append $l $a }}{{ end }}{{ has $b $l }}"#.to_owned(),
        r#"{{ $k := repeat 500000 "x" }}{{ $d := dict $k 1 }}{{ $e := dict $k 1 }}{{ range until 1000 }}{{ $_ := deepEqual $d $e }}{{ end }}"#.to_owned(),
        r#"{{ regexFind "((a{1000}){1000}){1000}" "a" }}"#.to_owned(),
        r#"{{ range until 100000 }}{{ $_ := regexFind "\\pL{900}" "a" }}{{ end }}"#.to_owned(),
        r#"{{ $s := repeat 100000 "x" }}{{ regexReplaceAll "" $s $s }}"#.to_owned(),
        r#"{{ $s := repeat 100000 "x" }}{{ regexReplaceAll "(x+)" $s "$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1" }}{{ $s | repeat 99 }}{{ $s | repeat 99 }}"#.to_owned(),
        r#"{{ $s := repeat 100000 "x" }}{{ replace "" $s $s }}"#.to_owned(),
        r#"{{ $s := repeat 100000 "x" }}{{ wrapWith 1 $s $s }}"#.to_owned(),
        r#"{{ $s := repeat 100000 "x" }}{{ join $s (splitList "" $s) }}"#.to_owned(),
        r#"{{ $s := repeat 100000 "x " }}{{ trimAll $s $s }}{{ $s | repeat 99 }}"#.to_owned(),
        r"{{ $l := until 100000 }}{{ uniq $l }}".to_owned(),
        format!("{{{{ mulf {} }}}}{{{{ repeat 2000000 \"x\" }}}}", "1.23456789e300 ".repeat(9_000)),
        nested("{{ if 1 }}", "{{ end }}", 100_000),
        nested("{{ range . }}", "{{ end }}", 100_000),
        nested("{{ block \"x\" . }}", "{{ end }}", 100_000),
        format!("{{{{ {} }}}}", nested("(", ")", 100_000)),
        format!("{{{{ {}1{} }}}}", "(print ".repeat(100_000), ")".repeat(100_000)),
        format!("{{{{ if 1 }}}}{}{{{{ end }}}}", "{{ else if 1 }}".repeat(100_000)),
        "{{ $x := 1 }}".repeat(100_000),
        "{{.}}".repeat(200_000),
        format!("{{{{ print {} }}}}", "1 ".repeat(500_000)),
        format!("{{{{ 1 {} }}}}", "| print ".repeat(100_000)),
        format!("{{{{ .a{} }}}}", ".b".repeat(300_000)),
        r#"{{ range list 1 2 }}{{ repeat 700000 "x" }}{{ end }}"#.to_owned(),
    ];
    for bomb in bombs {
        let begin = Instant::now();
        let outcome = rendered(&[("t", Some(&bomb))], &[("pw", CANARY)]);
        let shown: String = bomb.chars().take(120).collect();
        assert!(outcome.is_err(), "{shown}");
        // Far more than it takes; what would run for ever is caught.
        assert!(begin.elapsed().as_secs() < 60, "{shown}");
    }
}

#[test]
fn all_templates_together_render_no_more_than_a_secret_holds() {
    let half = r#"{{ repeat 600000 "x" }}"#;
    assert!(rendered(&[("a", Some(half))], &[]).is_ok());
    let error = rendered(&[("a", Some(half)), ("b", Some(half))], &[]).unwrap_err().to_string();
    assert_eq!(
        error,
        "template.data.b line 1: the templates of this SealedSecret render more than a Secret can hold (1 MiB)"
    );
}

#[test]
fn a_mebibyte_may_pass_through_some_functions() {
    let text = "x".repeat(500_000);
    let template = "{{ .big | b64enc | b64dec | upper | lower | trim | indent 2 | sha256sum }}";
    assert_eq!(rendered(&[("t", Some(template))], &[("big", &text)]).unwrap().len(), 1);
}

#[test]
fn a_large_text_may_have_many_matches() {
    let text = "some words, and more; ".repeat(20_000);
    let template = r#"{{ regexReplaceAll "\\s+" .big "_" | len }} {{ regexFindAll "[a-z]+" .big 60000 | len }}"#;
    let rendered = rendered(&[("t", Some(template))], &[("big", &text)]).unwrap();
    assert_eq!(rendered[0].1, "440000 60000");
}

#[test]
fn the_tree_of_the_deepest_template_can_be_walked() {
    let blocks = format!("{}x{}", "{{ if 1 }}".repeat(90), "{{ end }}".repeat(90));
    assert_eq!(output(&blocks), "x");
    let parentheses = format!("{{{{ {}\"x\"{} }}}}", "(print ".repeat(90), ")".repeat(90));
    assert_eq!(output(&parentheses), "x");
    let calls = r#"{{ define "down" }}{{ if gt . 0 }}{{ template "down" (int (sub . 1)) }}{{ else }}x{{ end }}{{ end }}{{ template "down" 60 }}"#;
    assert_eq!(output(calls), "x");
}

#[test]
fn dicts_that_hold_themselves_are_freed() {
    let mut rng = rand::rng();
    let run = Run::new(&mut rng, Timestamp::UNIX_EPOCH);
    let map = run.map(Element::Any).unwrap();
    let Value::Text(key) = run.text("self").unwrap() else { return };
    map.set(&run, key, Value::Map(map.clone())).unwrap();
    drop(run);
    assert_eq!(map.len(), 0, "the run empties what it made");
}

#[test]
fn functions_that_are_not_here_say_why() {
    for name in ["genPrivateKey", "genCA", "genSelfSignedCert", "buildCustomCert", "env", "getHostByName"] {
        let error = error(&format!("{{{{ {name} \"x\" }}}}"));
        assert!(error.contains(&format!("the function {name} ")), "{error}");
    }
}

#[test]
fn random_texts_differ_and_hold_what_they_should() {
    let template = "{{ randAlphaNum 20 }} {{ randAlphaNum 20 }} {{ uuidv4 }}";
    let drawn = output(template);
    let [a, b, uuid] = drawn.split(' ').collect::<Vec<_>>()[..] else { panic!("{drawn}") };
    assert!(a != b && a.len() == 20 && a.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
    let hash = output(r"{{ bcrypt .pw }}");
    assert!(hash.starts_with("$2a$10$") && bcrypt::verify(CANARY, &hash).unwrap());
}

#[test]
fn what_anyone_writes_is_rendered_or_refused() {
    // A small grammar of everything, in every wrong order; a fixed seed, so that a failure comes again.
    use rand::{Rng as _, SeedableRng as _};
    let mut rng = rand::rngs::StdRng::from_seed([3; 32]);
    let names: Vec<&str> =
        functions::all().map(|function| function.name).filter(|name| !name.contains("assw")).collect();
    let words = [
        "{{",
        "}}",
        "{{-",
        "-}}",
        " ",
        "if",
        "else",
        "end",
        "range",
        "with",
        "define",
        "template",
        "block",
        "break",
        "(",
        ")",
        "|",
        ".",
        ".pw",
        "$",
        "$x",
        ":=",
        "=",
        ",",
        "\"a\"",
        "`b`",
        "1",
        "-1",
        "1.5",
        "'c'",
        "nil",
        "true",
        "/*",
        "*/",
        "\n",
        "é",
        "\u{0}",
        "list",
        "dict",
        "until",
        "\"%5.2f%[1]*v\"",
        "9223372036854775807",
        "[",
        "\\",
    ];
    for _ in 0..20_000 {
        let count = rng.next_u32() % 24;
        let mut template = String::from("{{ ");
        for _ in 0..count {
            let draw = rng.next_u32() as usize;
            template.push_str(if draw.is_multiple_of(3) {
                names[draw / 3 % names.len()]
            } else {
                words[draw / 3 % words.len()]
            });
            template.push(' ');
        }
        template.push_str("}}");
        let _ = rendered(&[("t", Some(&template))], &[("pw", CANARY)]);
    }
}

#[test]
fn nothing_wrong_is_found_in_an_empty_set() {
    assert_eq!(rendered(&[], &[]), Ok(Vec::new()));
}
