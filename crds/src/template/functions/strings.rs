//! Sprig's functions on strings: trimming, cutting, replacing, quoting, splitting. Lengths count bytes, as in Go.

use super::{
    super::{
        format, strconv,
        value::{Buffer, COMPARED, Element, List, Outcome, Run, Text as Bytes, Value, runes},
    },
    Arguments, Function,
    Param::{Any, Int, Text},
    basics::with,
    function, variadic,
};

const OUT_OF_BOUNDS: &str = "the bounds do not lie within the string";

pub(super) const FUNCTIONS: &[Function] = &[
    function("trim", &[Text], |run, it| run.text(trim(it.text(0), char::is_whitespace))),
    function("trimall", &[Text, Text], trim_all),
    function("trimAll", &[Text, Text], trim_all),
    function("trimSuffix", &[Text, Text], |run, it| {
        run.text(it.text(1).strip_suffix(it.text(0)).unwrap_or(it.text(1)))
    }),
    function("trimPrefix", &[Text, Text], |run, it| {
        run.text(it.text(1).strip_prefix(it.text(0)).unwrap_or(it.text(1)))
    }),
    function("nospace", &[Text], |run, it| {
        // Byte by byte, as upstream has it: what is not ASCII comes out as if it were Latin-1.
        with(run, |out| {
            let has_space = it.text(0).iter().any(|byte| char::from(*byte).is_whitespace());
            if !has_space {
                return out.push(it.text(0));
            }
            let chars = it.text(0).iter().map(|byte| char::from(*byte));
            chars.filter(|char| !char.is_whitespace()).try_for_each(|char| out.push_char(char))
        })
    }),
    function("repeat", &[Int, Text], |run, it| {
        if it.int(0) < 0 {
            return Err("the count is negative");
        }
        with(run, |out| out.repeat(it.text(1), it.count(0)))
    }),
    function("substr", &[Int, Int, Text], |run, it| {
        let (start, end, text) = (it.int(0), it.int(1), it.text(2));
        let cut = match (usize::try_from(start), usize::try_from(end)) {
            (Err(_), end) => text.get(..end.map_err(|_| OUT_OF_BOUNDS)?),
            (Ok(start), Ok(end)) if end <= text.len() => text.get(start..end),
            (Ok(start), _) => text.get(start..),
        };
        run.text(cut.ok_or(OUT_OF_BOUNDS)?)
    }),
    function("trunc", &[Int, Text], |run, it| {
        let text = it.text(1);
        let length = usize::try_from(it.int(0).unsigned_abs()).unwrap_or(usize::MAX);
        let cut = if it.int(0) < 0 { text.get(text.len().saturating_sub(length)..) } else { text.get(..length) };
        run.text(cut.unwrap_or(text))
    }),
    function("abbrev", &[Int, Text], |run, it| abbreviate(run, it.text(1), 0, it.int(0))),
    function("abbrevboth", &[Int, Int, Text], |run, it| {
        let (left, right) = (it.int(0), it.int(1));
        if left > 0 && right < 7 {
            return run.text(it.text(2));
        }
        abbreviate(run, it.text(2), left, right)
    }),
    function("wrap", &[Int, Text], |run, it| with(run, |out| wrap(out, it.text(1), it.int(0), b"", false))),
    function("wrapWith", &[Int, Text, Text], |run, it| {
        with(run, |out| wrap(out, it.text(2), it.int(0), it.text(1), true))
    }),
    function("contains", &[Text, Text], |_, it| Ok(Value::Bool(find(it.text(1), it.text(0)).is_some()))),
    function("hasPrefix", &[Text, Text], |_, it| Ok(Value::Bool(it.text(1).starts_with(it.text(0))))),
    function("hasSuffix", &[Text, Text], |_, it| Ok(Value::Bool(it.text(1).ends_with(it.text(0))))),
    variadic("quote", &[], Any, |run, it| {
        spaced(run, it, |out, value| strconv::quote(out, &shown(run, value)?, false))
    }),
    variadic("squote", &[], Any, |run, it| {
        spaced(run, it, |out, value| {
            out.push(b"'")?;
            out.push(&shown(run, value)?)?;
            out.push(b"'")
        })
    }),
    variadic("cat", &[], Any, |run, it| spaced(run, it, |out, value| out.push(&shown(run, value)?))),
    function("indent", &[Int, Text], |run, it| with(run, |out| indent(out, it))),
    function("nindent", &[Int, Text], |run, it| {
        with(run, |out| {
            out.push(b"\n")?;
            indent(out, it)
        })
    }),
    function("replace", &[Text, Text, Text], |run, it| {
        with(run, |out| {
            let [old, new, text] = [it.text(0), it.text(1), it.text(2)];
            // Nothing stands before, between and behind all runes.
            if old.is_empty() {
                out.push(new)?;
            }
            split(text, old, usize::MAX).enumerate().try_for_each(|(at, part)| {
                if at > 0 && !old.is_empty() {
                    out.push(new)?;
                }
                out.push(part)?;
                if old.is_empty() { out.push(new) } else { Ok(()) }
            })
        })
    }),
    function("plural", &[Text, Text, Int], |_, it| Ok(it.value(usize::from(it.int(2) != 1)).clone())),
    function("toString", &[Any], |run, it| run.text(shown(run, it.value(0))?)),
    function("toStrings", &[Any], |run, it| strings(run, it.value(0)).map(Value::List)),
    function("join", &[Text, Any], |run, it| {
        let texts = strings(run, it.value(1))?;
        with(run, |out| {
            texts.iter().enumerate().try_for_each(|(at, text)| {
                if at > 0 {
                    out.push(it.text(0))?;
                }
                if let Value::Text(text) = text { out.push(text) } else { Ok(()) }
            })
        })
    }),
    function("split", &[Text, Text], |run, it| numbered(run, it.text(1), it.text(0), usize::MAX)),
    function("splitn", &[Text, Int, Text], |run, it| {
        let pieces = usize::try_from(it.int(1)).unwrap_or(usize::MAX);
        numbered(run, it.text(2), it.text(0), pieces)
    }),
    function("splitList", &[Text, Text], |run, it| run.texts(split(it.text(1), it.text(0), usize::MAX))),
    function("sortAlpha", &[Any], |run, it| {
        if !matches!(it.value(0), Value::List(_)) {
            return run.texts([shown(run, it.value(0))?]);
        }
        let mut texts: Vec<Bytes> = strings(run, it.value(0))?.iter().filter_map(as_text).collect();
        // Each is compared with others about as often as the list can be halved, and read to its end if they are alike.
        let read = texts.iter().fold(0, |read: usize, text| read.saturating_add(text.len() / COMPARED));
        let halves = std::iter::successors(Some(texts.len()), |left| (*left > 1).then_some(left / 2));
        run.charge(read.saturating_mul(halves.count()))?;
        texts.sort();
        run.list(Element::Text, texts.into_iter().map(Value::Text).collect())
    }),
];

fn as_text(value: &Value) -> Option<Bytes> {
    if let Value::Text(text) = value { Some(text.clone()) } else { None }
}

/// Sprig's `strval`: a string as it is, the rest as it is printed.
pub(super) fn shown(run: &Run, value: &Value) -> Outcome<Vec<u8>> {
    match value {
        Value::Text(text) => {
            run.charge(text.len())?;
            Ok(text.to_vec())
        }
        other => format::printed(run, other),
    }
}

/// Sprig's `strslice`: each item as a string, without what is nil; what is no list is its only item.
pub(super) fn strings(run: &Run, value: &Value) -> Outcome<List> {
    let made = match value {
        Value::List(list) if list.element() == Element::Text => return Ok(list.clone()),
        Value::List(list) => {
            let texts = list.iter().filter(|item| !item.is_nil()).map(|item| match item {
                Value::Text(text) => Ok(Value::Text(text.clone())),
                other => run.text(shown(run, other)?),
            });
            run.list(Element::Text, texts.collect::<Outcome<_>>()?)?
        }
        Value::Absent | Value::Nil => run.list(Element::Text, Vec::new())?,
        other => run.texts([shown(run, other)?])?,
    };
    if let Value::List(list) = made { Ok(list) } else { Err("a list is expected") }
}

fn spaced(run: &Run, it: &Arguments, write: impl Fn(&mut Buffer, &Value) -> Outcome<()>) -> Outcome {
    with(run, |out| {
        it.rest(0).iter().filter(|value| !value.is_nil()).enumerate().try_for_each(|(at, value)| {
            if at > 0 {
                out.push(b" ")?;
            }
            write(out, value)
        })
    })
}

fn trim_all(run: &Run, it: &Arguments) -> Outcome {
    let cut: Vec<char> = runes(it.text(0)).collect();
    run.charge(cut.len() * it.text(1).len().min(1 << 20))?;
    run.text(trim(it.text(1), |char| cut.contains(&char)))
}

fn trim(text: &[u8], drop: impl Fn(char) -> bool) -> &[u8] {
    let mut rest = text;
    while let Some((_, width)) = super::super::value::rune(rest).filter(|(char, _)| drop(*char)) {
        rest = &rest[width..];
    }
    loop {
        // The last rune is one to four bytes long.
        let last = (1..=4.min(rest.len())).find_map(|width| {
            let (kept, last) = rest.split_at(rest.len() - width);
            let decoded = str::from_utf8(last).ok().and_then(|last| last.chars().next());
            decoded.map(|char| (kept, char))
        });
        match last {
            Some((kept, char)) if drop(char) => rest = kept,
            None if !rest.is_empty() && drop(char::REPLACEMENT_CHARACTER) => rest = &rest[..rest.len() - 1],
            _ => return rest,
        }
    }
}

fn abbreviate(run: &Run, text: &[u8], offset: i64, width: i64) -> Outcome {
    let width = usize::try_from(width).unwrap_or_default();
    if width < 4 || text.len() <= width {
        return run.text(text);
    }
    let marker = b"...".as_slice();
    let offset = usize::try_from(offset).unwrap_or_default().min(text.len()).min(text.len() - (width - 3));
    if offset <= 4 {
        return run.text([&text[..width - 3], marker].concat());
    }
    if width < 7 {
        return run.text("");
    }
    if offset + width - 3 < text.len() {
        return run.text([marker, &text[offset..offset + width - 6], marker].concat());
    }
    run.text([marker, &text[text.len() - (width - 3)..]].concat())
}

fn wrap(out: &mut Buffer, text: &[u8], width: i64, newline: &[u8], cuts_words: bool) -> Outcome<()> {
    let width = usize::try_from(width).unwrap_or_default().max(1);
    let newline = if newline.is_empty() { b"\n" } else { newline };
    let mut rest = text;
    while rest.len() > width {
        if let Some(behind) = rest.strip_prefix(b" ") {
            rest = behind;
            continue;
        }
        let line = &rest[..=width];
        let (end, skipped) = match line.iter().rposition(|byte| *byte == b' ') {
            Some(space) => (space, 1),
            None if cuts_words => (width, 0),
            None => match rest[width..].iter().position(|byte| *byte == b' ') {
                Some(space) => (width + space, 1),
                None => break,
            },
        };
        out.run().charge(width)?;
        out.push(&rest[..end])?;
        out.push(newline)?;
        rest = &rest[end + skipped..];
    }
    out.push(rest)
}

fn indent(out: &mut Buffer, it: &Arguments) -> Outcome<()> {
    if it.int(0) < 0 {
        return Err("the count is negative");
    }
    split(it.text(1), b"\n", usize::MAX).enumerate().try_for_each(|(at, line)| {
        if at > 0 {
            out.push(b"\n")?;
        }
        out.repeat(b" ", it.count(0))?;
        out.push(line)
    })
}

/// Where the pattern first stands.
fn find(text: &[u8], pattern: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, pattern)
}

/// `strings.SplitN`: an empty separator stands between every two runes.
pub(super) fn split<'t>(text: &'t [u8], separator: &'t [u8], pieces: usize) -> impl Iterator<Item = &'t [u8]> {
    let mut rest = (pieces > 0).then_some(text).filter(|text| !separator.is_empty() || !text.is_empty());
    let mut left = pieces;
    std::iter::from_fn(move || {
        let text = rest?;
        left -= 1;
        let cut = match super::super::value::rune(text) {
            _ if left == 0 => None,
            Some((_, width)) if separator.is_empty() => (width < text.len()).then_some((width, width)),
            _ => find(text, separator).map(|at| (at, at + separator.len())),
        };
        let (piece, behind) = match cut {
            Some((end, next)) => (&text[..end], Some(&text[next..])),
            None => (text, None),
        };
        rest = behind;
        Some(piece)
    })
}

fn numbered(run: &Run, text: &[u8], separator: &[u8], pieces: usize) -> Outcome {
    let map = run.map(Element::Text)?;
    for (at, piece) in split(text, separator, pieces).enumerate() {
        map.set(run, Bytes::new(format!("_{at}").into()), run.text(piece)?)?;
    }
    Ok(Value::Map(map))
}
