//! Sprig's functions on regular expressions, in RE2's syntax. What a pattern costs to compile is bounded by its size; what
//! its searches cost is paid for as they go.

use std::ops::Range;

use zeroize::Zeroizing;

use super::{
    super::value::{Buffer, Element, Outcome, Run, Value},
    Arguments, Function,
    Param::{Int, Text},
    basics::with,
    function,
    pattern::{Groups, Pattern},
};

/// Compiling costs this much at least, and more for a longer pattern: a few milliseconds where a pattern is just too large.
const COMPILE_WORK: usize = 64 << 10;
const COMPILE_WORK_PER_BYTE: usize = 256;

pub(super) const FUNCTIONS: &[Function] = &[
    // What is no pattern matches nothing, as upstream has it.
    function("regexMatch", &[Text, Text], |run, it| match matched(run, it) {
        Err(NO_PATTERN) => Ok(Value::Bool(false)),
        outcome => outcome,
    }),
    function("mustRegexMatch", &[Text, Text], matched),
    function("regexFind", &[Text, Text], found),
    function("mustRegexFind", &[Text, Text], found),
    function("regexFindAll", &[Text, Text, Int], all_found),
    function("mustRegexFindAll", &[Text, Text, Int], all_found),
    function("regexReplaceAll", &[Text, Text, Text], replaced),
    function("mustRegexReplaceAll", &[Text, Text, Text], replaced),
    function("regexReplaceAllLiteral", &[Text, Text, Text], replaced_literally),
    function("mustRegexReplaceAllLiteral", &[Text, Text, Text], replaced_literally),
    function("regexSplit", &[Text, Text, Int], split),
    function("mustRegexSplit", &[Text, Text, Int], split),
    function("regexQuoteMeta", &[Text], |run, it| {
        with(run, |out| {
            it.text(0).iter().try_for_each(|byte| {
                if br"\.+*?()|[]{}^$".contains(byte) {
                    out.push(b"\\")?;
                }
                out.push(&[*byte])
            })
        })
    }),
];

const NO_PATTERN: &str = "the text is not a regular expression, or one that is too large";

fn compile(run: &Run, it: &Arguments) -> Outcome<Pattern> {
    Pattern::new(&translation(run, it)?).ok_or(NO_PATTERN)
}

/// The pattern, paid for.
fn translation(run: &Run, it: &Arguments) -> Outcome<Zeroizing<String>> {
    let pattern = str::from_utf8(it.text(0)).map_err(|_| NO_PATTERN)?;
    run.charge(COMPILE_WORK + COMPILE_WORK_PER_BYTE * pattern.len())?;
    translated(pattern).map(Zeroizing::new).ok_or(NO_PATTERN)
}

/// A pattern of RE2 in the crate's words: RE2's `\\d`, `\\s`, `\\w` and `\\b` know ASCII only, `\\Q…\\E` quotes, a brace that
/// counts nothing stands for itself, and within brackets nothing but `[:…:]` nests and nothing but `-` operates.
fn translated(pattern: &str) -> Option<String> {
    let mut out = String::with_capacity(2 * pattern.len());
    let mut rest = pattern;
    let mut in_class = false;
    while let Some(char) = rest.chars().next() {
        let behind = &rest[char.len_utf8()..];
        rest = behind;
        match char {
            '\\' => {
                let escaped = behind.chars().next()?;
                rest = &behind[escaped.len_utf8()..];
                match escaped {
                    'Q' if !in_class => {
                        let (literal, behind) = rest.split_once("\\E").unwrap_or((rest, ""));
                        out.push_str(&regex::escape(literal));
                        rest = behind;
                    }
                    'd' | 's' | 'w' | 'D' | 'S' | 'W' => out.push_str(ascii_class(escaped)),
                    'b' | 'B' if !in_class => {
                        out.push_str(if escaped == 'b' { r"(?-u:\b)" } else { r"(?-u:\B)" });
                    }
                    '1'..='7' | '0' => {
                        let octal = rest.len() - rest.trim_start_matches(|char| matches!(char, '0'..='7')).len();
                        let digits = &behind[..=octal.min(2)];
                        // A single digit would refer back, which RE2 does not know either.
                        if digits.len() == 1 && escaped != '0' {
                            return None;
                        }
                        out.push_str(&quoted(char::from_u32(u32::from_str_radix(digits, 8).ok()?)?));
                        rest = &behind[digits.len()..];
                    }
                    'p' | 'P' | 'x' if rest.starts_with('{') => {
                        let (name, behind) = rest.split_once('}')?;
                        out.extend(['\\', escaped]);
                        out.push_str(name);
                        out.push('}');
                        rest = behind;
                    }
                    _ if escaped.is_ascii_punctuation() => out.push_str(&quoted(escaped)),
                    _ => out.extend(['\\', escaped]),
                }
            }
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                if let Some(negated) = rest.strip_prefix('^') {
                    out.push('^');
                    rest = negated;
                }
                // In first place, a bracket is one of the characters.
                if let Some(first) = rest.strip_prefix(']') {
                    out.push_str("\\]");
                    rest = first;
                }
            }
            '[' if rest.starts_with(':') && rest.contains(":]") => {
                let (name, behind) = rest.split_once(":]")?;
                if !NAMED_CLASSES.contains(&name.trim_start_matches(':').trim_start_matches('^')) {
                    return None;
                }
                out.push('[');
                out.push_str(name);
                out.push_str(":]");
                rest = behind;
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            // From what stands before it to itself.
            '-' if in_class && rest.starts_with('-') => {
                out.push('-');
                out.push_str(&quoted('-'));
                rest = &rest[1..];
            }
            '(' if !in_class && rest.strip_prefix('?').is_some_and(has_foreign_flag) => return None,
            '^' | '[' | '&' | '~' if in_class => out.push_str(&quoted(char)),
            '{' if !in_class => match repetition(rest) {
                Some(most) if most > MOST_REPEATED => return None,
                Some(_) => out.push('{'),
                None => out.push_str("\\{"),
            },
            _ => out.push(char),
        }
    }
    Some(out)
}

const NAMED_CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];

/// A flag that RE2 does not have.
fn has_foreign_flag(group: &str) -> bool {
    let end = group.find(|char: char| !char.is_ascii_alphabetic() && char != '-').unwrap_or(group.len());
    group[..end].contains(['x', 'u', 'R'])
}

/// RE2's bound.
const MOST_REPEATED: u32 = 1000;

/// What a brace counts at most, if it does count.
fn repetition(rest: &str) -> Option<u32> {
    let (inner, _) = rest.split_once('}')?;
    let (least, most) = inner.split_once(',').unwrap_or((inner, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let counts = !least.is_empty() && digits(least) && digits(most);
    counts.then(|| [least, most].iter().map(|text| text.parse().unwrap_or_default()).max().unwrap_or_default())
}

fn ascii_class(escaped: char) -> &'static str {
    match escaped {
        'd' => "[0-9]",
        's' => r"[\t\n\x0c\r ]",
        'w' => "[0-9A-Za-z_]",
        'D' => "[^0-9]",
        'S' => r"[^\t\n\x0c\r ]",
        _ => "[^0-9A-Za-z_]",
    }
}

/// A sign that stands for itself, within brackets as without.
fn quoted(char: char) -> String {
    format!("\\x{{{:x}}}", u32::from(char))
}

/// How many are asked for: less than none is all.
fn limit(it: &Arguments) -> usize {
    usize::try_from(it.int(2)).unwrap_or(usize::MAX)
}

fn matched(run: &Run, it: &Arguments) -> Outcome {
    compile(run, it)?.find(run, it.text(1), 0).map(|found| Value::Bool(found.is_some()))
}

fn found(run: &Run, it: &Arguments) -> Outcome {
    let found = compile(run, it)?.find(run, it.text(1), 0)?;
    run.text(found.and_then(|found| it.text(1).get(found)).unwrap_or_default())
}

fn all_found(run: &Run, it: &Arguments) -> Outcome {
    let matches = compile(run, it)?.matches(run, it.text(1)).take(limit(it));
    let texts = matches.map(|found| run.text(it.text(1).get(found?).unwrap_or_default()));
    let texts = texts.collect::<Outcome<Vec<_>>>()?;
    if texts.is_empty() { Ok(Run::nil_list(Element::Text)) } else { run.list(Element::Text, texts) }
}

fn replaced(run: &Run, it: &Arguments) -> Outcome {
    let names = memchr::memchr_iter(b'$', it.text(2)).count();
    if names == 0 {
        return replaced_literally(run, it);
    }
    let mut groups = Groups::new(run, &translation(run, it)?)?.ok_or(NO_PATTERN)?;
    replaced_by(run, it, |out, found| {
        // The replacement is at most as long as what it names, for each name in it.
        run.charge(it.text(2).len())?;
        run.charge(names.saturating_mul(found.len()))?;
        out.push(&groups.expand(run, it.text(1), found, it.text(2))?)
    })
}

fn replaced_literally(run: &Run, it: &Arguments) -> Outcome {
    replaced_by(run, it, |out, _| out.push(it.text(2)))
}

fn replaced_by(
    run: &Run,
    it: &Arguments,
    mut replace: impl FnMut(&mut Buffer, Range<usize>) -> Outcome<()>,
) -> Outcome {
    let matches = compile(run, it)?.matches(run, it.text(1));
    with(run, |out| {
        let mut end = 0;
        for found in matches {
            let found = found?;
            out.push(it.text(1).get(end..found.start).unwrap_or_default())?;
            end = found.end;
            replace(out, found)?;
        }
        out.push(it.text(1).get(end..).unwrap_or_default())
    })
}

fn split(run: &Run, it: &Arguments) -> Outcome {
    let (regex, text) = (compile(run, it)?, it.text(1));
    if it.int(2) == 0 {
        return Ok(Run::nil_list(Element::Text));
    }
    if !it.text(0).is_empty() && text.is_empty() {
        return run.texts([""]);
    }
    let mut pieces = Vec::new();
    let (mut begin, mut end) = (0, 0);
    for found in regex.matches(run, text) {
        let found = found?;
        if pieces.len() + 1 >= limit(it) {
            break;
        }
        end = found.start;
        if found.end != 0 {
            pieces.push(run.text(text.get(begin..end).unwrap_or_default())?);
        }
        begin = found.end;
    }
    if end != text.len() {
        pieces.push(run.text(text.get(begin..).unwrap_or_default())?);
    }
    run.list(Element::Text, pieces)
}
