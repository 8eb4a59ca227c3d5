//! Sprig's functions on base64, base32 and JSON, written as Go writes them.

use std::fmt;

use data_encoding::BASE32;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};

use super::{
    super::{
        strconv,
        value::{Buffer, DEPTH, Element, Outcome, Run, STEP, TOO_DEEP, Text as Bytes, Value, rune},
    },
    Function,
    Param::{Any, Text},
    basics::with,
    function,
};
use crate::base64;

pub(super) const FUNCTIONS: &[Function] = &[
    function("b64enc", &[Text], |run, it| run.text(base64::encode(it.text(0)))),
    function("b64dec", &[Text], |run, it| {
        let decoded = str::from_utf8(it.text(0)).ok().and_then(base64::decode);
        run.text(decoded.ok_or("the text is not base64")?)
    }),
    function("b32enc", &[Text], |run, it| run.text(BASE32.encode(it.text(0)))),
    function("b32dec", &[Text], |run, it| {
        let joined: Vec<u8> = it.text(0).iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
        run.text(BASE32.decode(&joined).map_err(|_| "the text is not base32")?)
    }),
    function("fromJson", &[Text], |run, it| match parse(run, it.text(0)) {
        Ok(value) => Ok(value),
        Err(NO_JSON) => Ok(Value::Nil),
        Err(why) => Err(why),
    }),
    function("mustFromJson", &[Text], |run, it| parse(run, it.text(0))),
    function("toJson", &[Any], |run, it| json(run, it.value(0), None, true)),
    function("mustToJson", &[Any], |run, it| json(run, it.value(0), None, true)),
    function("toPrettyJson", &[Any], |run, it| json(run, it.value(0), Some(0), true)),
    function("mustToPrettyJson", &[Any], |run, it| json(run, it.value(0), Some(0), true)),
    function("toRawJson", &[Any], |run, it| json(run, it.value(0), None, false)),
    function("mustToRawJson", &[Any], |run, it| json(run, it.value(0), None, false)),
];

const NO_JSON: &str = "the text is not JSON";

fn json(run: &Run, value: &Value, indent: Option<usize>, html: bool) -> Outcome {
    with(run, |out| write(out, value, indent, html, DEPTH))
}

fn write(out: &mut Buffer, value: &Value, indent: Option<usize>, html: bool, depth: usize) -> Outcome<()> {
    out.run().charge(STEP)?;
    let depth = depth.checked_sub(1).ok_or(TOO_DEEP)?;
    match value {
        Value::Absent | Value::Nil => out.push(b"null"),
        Value::Bool(bool) => out.push(if *bool { b"true" } else { b"false" }),
        Value::Int(_, int) => out.push(int.to_string().as_bytes()),
        Value::Float(float) if !float.is_finite() => Err("JSON has no such number"),
        Value::Float(float) => out.push(number(*float).as_bytes()),
        Value::Text(text) => quote(out, text, html),
        Value::Time(time) => {
            let layout = b"2006-01-02T15:04:05.999999999Z07:00";
            quote(out, &super::layout::format(time, layout), html)
        }
        Value::Version(version) => quote(out, version.to_string().as_bytes(), html),
        Value::List(list) if list.is_nil() => out.push(b"null"),
        Value::List(list) => {
            let inner = indent.map(|indent| indent + 2);
            out.push(b"[")?;
            for (at, item) in list.iter().enumerate() {
                begin(out, at, inner)?;
                write(out, item, inner, html, depth)?;
            }
            end(out, list.is_empty(), indent)?;
            out.push(b"]")
        }
        Value::Map(map) => {
            let inner = indent.map(|indent| indent + 2);
            let entries = map.entries(out.run())?;
            out.push(b"{")?;
            for (at, (key, item)) in entries.iter().enumerate() {
                begin(out, at, inner)?;
                quote(out, key, html)?;
                out.push(if indent.is_some() { b": " } else { b":" })?;
                write(out, item, inner, html, depth)?;
            }
            end(out, entries.is_empty(), indent)?;
            out.push(b"}")
        }
    }
}

fn begin(out: &mut Buffer, at: usize, indent: Option<usize>) -> Outcome<()> {
    if at > 0 {
        out.push(b",")?;
    }
    indent.map_or(Ok(()), |indent| line(out, indent))
}

fn end(out: &mut Buffer, empty: bool, indent: Option<usize>) -> Outcome<()> {
    indent.filter(|_| !empty).map_or(Ok(()), |indent| line(out, indent))
}

fn line(out: &mut Buffer, indent: usize) -> Outcome<()> {
    out.push(b"\n")?;
    out.repeat(b" ", indent)
}

/// As JavaScript writes it: an exponent for what is very small or very large.
fn number(float: f64) -> String {
    let magnitude = float.abs();
    if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        let shown = strconv::float_digits(magnitude, 'e', None).replace("e-0", "e-");
        return if float < 0.0 { format!("-{shown}") } else { shown };
    }
    format!("{float}")
}

fn quote(out: &mut Buffer, text: &[u8], html: bool) -> Outcome<()> {
    out.push(b"\"")?;
    let mut rest = text;
    while let Some((char, width)) = rune(rest) {
        match char {
            '"' => out.push(b"\\\"")?,
            '\\' => out.push(b"\\\\")?,
            '\n' => out.push(b"\\n")?,
            '\r' => out.push(b"\\r")?,
            '\t' => out.push(b"\\t")?,
            '\x08' => out.push(b"\\b")?,
            '\x0c' => out.push(b"\\f")?,
            '\0'..' ' | '\u{2028}' | '\u{2029}' => out.push(format!("\\u{:04x}", u32::from(char)).as_bytes())?,
            '<' | '>' | '&' if html => out.push(format!("\\u{:04x}", u32::from(char)).as_bytes())?,
            char::REPLACEMENT_CHARACTER if width == 1 => out.push(b"\\ufffd")?,
            _ => out.push(&rest[..width])?,
        }
        rest = &rest[width..];
    }
    out.push(b"\"")
}

fn parse(run: &Run, text: &[u8]) -> Outcome {
    run.charge(text.len())?;
    let mut reader = serde_json::Deserializer::from_slice(text);
    // The library's error quotes the text; only ours leaves here, and a bound that was hit before it.
    let failed = std::cell::Cell::new(None);
    let value = Reader { run, failed: &failed }.deserialize(&mut reader);
    match (value.and_then(|value| reader.end().map(|()| value)), failed.take()) {
        (Ok(value), None) => Ok(value),
        (_, why) => Err(why.unwrap_or(NO_JSON)),
    }
}

/// Builds values that are paid for as they are read.
#[derive(Clone, Copy)]
struct Reader<'r> {
    run: &'r Run,
    failed: &'r std::cell::Cell<Option<&'static str>>,
}

impl Reader<'_> {
    fn paid<T, E: serde::de::Error>(self, outcome: Outcome<T>) -> Result<T, E> {
        outcome.map_err(|why| {
            self.failed.set(Some(why));
            E::custom(why)
        })
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }

    fn visit_bool<E>(self, bool: bool) -> Result<Value, E> {
        Ok(Value::Bool(bool))
    }

    #[allow(clippy::cast_precision_loss, reason = "Go reads every number as a float")]
    fn visit_i64<E>(self, int: i64) -> Result<Value, E> {
        Ok(Value::Float(int as f64))
    }

    #[allow(clippy::cast_precision_loss, reason = "Go reads every number as a float")]
    fn visit_u64<E>(self, int: u64) -> Result<Value, E> {
        Ok(Value::Float(int as f64))
    }

    fn visit_f64<E>(self, float: f64) -> Result<Value, E> {
        Ok(Value::Float(float))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        self.paid(self.run.text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            self.paid(self.run.charge(STEP))?;
            items.push(item);
        }
        self.paid(self.run.list(Element::Any, items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let map = self.paid(self.run.map(Element::Any))?;
        while let Some(key) = access.next_key::<String>()? {
            let value = access.next_value_seed(self)?;
            self.paid(map.set(self.run, Bytes::new(key.into()), value))?;
        }
        Ok(Value::Map(map))
    }
}
