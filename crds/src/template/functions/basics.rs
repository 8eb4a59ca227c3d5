//! The functions of Go's `text/template` itself, and sprig's on types and emptiness.

use super::{
    super::{
        format, strconv,
        value::{Buffer, DEPTH, Element, Map, Outcome, Run, STEP, TOO_DEEP, Value, Width, rune},
    },
    Arguments, Function,
    Param::{Any, Bool, Reflected, Text},
    function, variadic,
};

pub(super) const FUNCTIONS: &[Function] = &[
    // The evaluator keeps these two: they do not evaluate all of their arguments.
    variadic("and", &[Reflected], Reflected, |_, _| Ok(Value::Absent)),
    variadic("or", &[Reflected], Reflected, |_, _| Ok(Value::Absent)),
    function("not", &[Reflected], |_, it| Ok(Value::Bool(!it.value(0).truth()))),
    variadic("call", &[Reflected], Reflected, |_, _| Err("no value here is a function that could be called")),
    function("len", &[Reflected], |_, it| length(it.value(0))),
    variadic("index", &[Reflected], Reflected, |_, it| {
        it.rest(1).iter().try_fold(indexable(it.value(0))?, |value, at| index(&value, at))
    }),
    variadic("print", &[], Any, |run, it| with(run, |out| format::print(out, it.rest(0)))),
    variadic("println", &[], Any, |run, it| with(run, |out| format::println(out, it.rest(0)))),
    variadic("printf", &[Text], Any, |run, it| with(run, |out| format::printf(out, it.text(0), it.rest(1)))),
    variadic("html", &[], Any, |run, it| with(run, |out| html(out, &joined(run, it)?))),
    variadic("js", &[], Any, |run, it| with(run, |out| js(out, &joined(run, it)?))),
    variadic("urlquery", &[], Any, |run, it| with(run, |out| urlquery(out, &joined(run, it)?))),
    variadic("eq", &[Reflected], Reflected, |run, it| {
        let others = it.rest(1);
        if others.is_empty() {
            return Err("missing argument for comparison");
        }
        for other in others {
            if equal(run, it.value(0), other)? {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }),
    function("ne", &[Reflected, Reflected], |run, it| equal(run, it.value(0), it.value(1)).map(|is| Value::Bool(!is))),
    function("lt", &[Reflected, Reflected], |_, it| Ok(Value::Bool(compare(it)?.is_lt()))),
    function("le", &[Reflected, Reflected], |_, it| Ok(Value::Bool(compare(it)?.is_le()))),
    function("gt", &[Reflected, Reflected], |_, it| Ok(Value::Bool(compare(it)?.is_gt()))),
    function("ge", &[Reflected, Reflected], |_, it| Ok(Value::Bool(compare(it)?.is_ge()))),
    function("hello", &[], |run, _| run.text("Hello!")),
    function("fail", &[Text], |_, _| {
        Err("the template gave up, with a message that is not shown since it is not literal")
    }),
    variadic("default", &[Any], Any, |_, it| {
        let given = it.rest(1).first().filter(|given| !is_empty(given));
        Ok(given.unwrap_or(it.value(0)).clone())
    }),
    function("empty", &[Any], |_, it| Ok(Value::Bool(is_empty(it.value(0))))),
    variadic("coalesce", &[], Any, |_, it| {
        Ok(it.rest(0).iter().find(|value| !is_empty(value)).cloned().unwrap_or(Value::Nil))
    }),
    variadic("all", &[], Any, |_, it| Ok(Value::Bool(!it.rest(0).iter().any(is_empty)))),
    variadic("any", &[], Any, |_, it| Ok(Value::Bool(!it.rest(0).iter().all(is_empty)))),
    function("ternary", &[Any, Any, Bool], |_, it| Ok(it.value(usize::from(!it.bool(2))).clone())),
    function("typeOf", &[Any], |run, it| run.text(it.value(0).type_name())),
    function("typeIs", &[Text, Any], |_, it| Ok(Value::Bool(it.text(0) == it.value(1).type_name().as_bytes()))),
    function("typeIsLike", &[Text, Any], |_, it| {
        let name = it.value(1).type_name();
        Ok(Value::Bool([name, name.trim_start_matches('*')].iter().any(|name| name.as_bytes() == it.text(0))))
    }),
    function("kindOf", &[Any], |run, it| run.text(it.value(0).kind())),
    function("kindIs", &[Text, Any], |_, it| Ok(Value::Bool(it.text(0) == it.value(1).kind().as_bytes()))),
    function("deepEqual", &[Any, Any], |run, it| it.value(0).equal(it.value(1), run, DEPTH).map(Value::Bool)),
    function("deepCopy", &[Any], |run, it| copy(run, it.value(0), DEPTH)),
    function("mustDeepCopy", &[Any], |run, it| copy(run, it.value(0), DEPTH)),
];

/// Text made by writing it.
pub(super) fn with(run: &Run, write: impl FnOnce(&mut Buffer) -> Outcome<()>) -> Outcome {
    let mut out = Buffer::new(run);
    write(&mut out)?;
    out.text()
}

/// Sprig's emptiness: false, 0, "", nil, no items.
pub(super) fn is_empty(value: &Value) -> bool {
    !value.truth()
}

fn length(value: &Value) -> Outcome {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(list) => list.len(),
        Value::Map(map) => map.len(),
        _ => return Err("only strings, lists and maps have a length"),
    };
    Ok(Value::int(i64::try_from(length).unwrap_or(i64::MAX)))
}

fn indexable(value: &Value) -> Outcome {
    if value.is_nil() { Err("index of nil") } else { Ok(value.clone()) }
}

fn index(value: &Value, index: &Value) -> Outcome {
    match (value, index) {
        (Value::Text(_) | Value::List(_), Value::Int(_, at)) => {
            let at = usize::try_from(*at).map_err(|_| "index out of range")?;
            let found = match value {
                Value::Text(text) => text.get(at).map(|byte| Value::Int(Width::Byte, i64::from(*byte))),
                Value::List(list) => list.get(at).cloned(),
                _ => None,
            };
            found.ok_or("index out of range")
        }
        (Value::Map(map), Value::Text(key)) => {
            let found = map.get(key);
            found.map_or_else(|| if map.element() == Element::Text { Ok(empty()) } else { Ok(Value::Nil) }, Ok)
        }
        (Value::Text(_) | Value::List(_), _) => Err("the index of a string or list must be an integer"),
        (Value::Map(_), _) => Err("the key of a map must be a string"),
        (Value::Absent | Value::Nil, _) => Err("index of nil"),
        _ => Err("only strings, lists and maps have an index"),
    }
}

fn empty() -> Value {
    Value::Text(super::super::value::Text::new(Vec::new()))
}

#[derive(PartialEq)]
enum Basic {
    Bool,
    Int,
    Float,
    Text,
    Other,
}

fn basic(value: &Value) -> Basic {
    match value {
        Value::Bool(_) => Basic::Bool,
        Value::Int(..) => Basic::Int,
        Value::Float(_) => Basic::Float,
        Value::Text(_) => Basic::Text,
        _ => Basic::Other,
    }
}

fn equal(run: &Run, a: &Value, b: &Value) -> Outcome<bool> {
    run.charge(STEP)?;
    Ok(match (a, b) {
        (Value::Int(_, a), Value::Int(_, b)) => a == b,
        (a, b) if a.is_nil() || b.is_nil() => is_nil(a) && is_nil(b),
        (a, b) if basic(a) != basic(b) => return Err("values of different types cannot be compared"),
        (Value::List(_) | Value::Map(_), _) | (_, Value::List(_) | Value::Map(_)) => {
            if a.kind() != b.kind() {
                return Err("values of different types cannot be compared");
            }
            if !is_nil(a) && !is_nil(b) {
                return Err("lists and maps cannot be compared; use deepEqual");
            }
            is_nil(a) == is_nil(b)
        }
        (a, b) => a.equal(b, run, DEPTH)?,
    })
}

fn is_nil(value: &Value) -> bool {
    value.is_nil() || matches!(value, Value::List(list) if list.is_nil())
}

fn compare(it: &Arguments) -> Outcome<std::cmp::Ordering> {
    match (it.value(0), it.value(1)) {
        (Value::Int(_, a), Value::Int(_, b)) => Ok(a.cmp(b)),
        // What is no number is neither smaller nor larger; Go calls it larger.
        (Value::Float(a), Value::Float(b)) => Ok(a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Greater)),
        (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
        _ => Err("only two integers, two floats or two strings can be ordered"),
    }
}

/// A map or list of its own, all the way down.
fn copy(run: &Run, value: &Value, depth: usize) -> Outcome {
    run.charge(STEP)?;
    let depth = depth.checked_sub(1).ok_or(TOO_DEEP)?;
    match value {
        Value::List(list) if !list.is_nil() => {
            let items = list.iter().map(|item| copy(run, item, depth)).collect::<Outcome<_>>()?;
            run.list(list.element(), items)
        }
        Value::Map(map) => {
            let copied: Map = run.map(map.element())?;
            for (key, value) in map.entries(run)? {
                copied.set(run, key, copy(run, &value, depth)?)?;
            }
            Ok(Value::Map(copied))
        }
        other => Ok(other.clone()),
    }
}

/// The arguments as one text; what is missing is `<no value>`, as where it is rendered.
fn joined(run: &Run, it: &Arguments) -> Outcome<Vec<u8>> {
    let values = it.rest(0).iter().map(|value| if value.is_nil() { run.text("<no value>") } else { Ok(value.clone()) });
    let mut out = Buffer::new(run);
    format::print(&mut out, &values.collect::<Outcome<Vec<_>>>()?)?;
    Ok(out.into_bytes())
}

fn html(out: &mut Buffer, text: &[u8]) -> Outcome<()> {
    text.iter().try_for_each(|byte| match byte {
        0 => out.push("\u{fffd}".as_bytes()),
        b'"' => out.push(b"&#34;"),
        b'\'' => out.push(b"&#39;"),
        b'&' => out.push(b"&amp;"),
        b'<' => out.push(b"&lt;"),
        b'>' => out.push(b"&gt;"),
        byte => out.push(&[*byte]),
    })
}

fn js(out: &mut Buffer, text: &[u8]) -> Outcome<()> {
    let mut rest = text;
    while let Some((char, width)) = rune(rest) {
        match char {
            '\\' | '\'' | '"' => {
                out.push(b"\\")?;
                out.push_char(char)?;
            }
            '<' | '>' | '&' | '=' | '\0'..' ' => out.push(format!("\\u{:04X}", u32::from(char)).as_bytes())?,
            _ if char.is_ascii() || strconv::is_print(char) => out.push(&rest[..width])?,
            _ => out.push(format!("\\u{:04X}", u32::from(char)).as_bytes())?,
        }
        rest = &rest[width..];
    }
    Ok(())
}

fn urlquery(out: &mut Buffer, text: &[u8]) -> Outcome<()> {
    text.iter().try_for_each(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(&[*byte]),
        b' ' => out.push(b"+"),
        byte => out.push(format!("%{byte:02X}").as_bytes()),
    })
}
