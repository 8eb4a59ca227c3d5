//! Sprig's functions on words and their case. A character has one upper and one lower case of one character, as in Go.

use super::{
    super::value::{Buffer, Outcome, Run, runes},
    Arguments, Function,
    Param::Text,
    basics::with,
    function,
};

pub(super) const FUNCTIONS: &[Function] = &[
    function("upper", &[Text], |run, it| mapped(run, it, |_, char| upper(char))),
    function("lower", &[Text], |run, it| mapped(run, it, |_, char| lower(char))),
    function("title", &[Text], |run, it| {
        mapped(run, it, |before, char| if before.is_none_or(separates) { upper(char) } else { char })
    }),
    function("untitle", &[Text], |run, it| {
        mapped(run, it, |before, char| if before.is_none_or(char::is_whitespace) { lower(char) } else { char })
    }),
    function("swapcase", &[Text], |run, it| {
        mapped(run, it, |_, char| match char {
            _ if char.is_uppercase() => lower(char),
            _ if char.is_lowercase() => upper(char),
            _ => char,
        })
    }),
    function("initials", &[Text], |run, it| {
        with(run, |out| {
            // Byte by byte, as upstream has it.
            let mut gap = true;
            it.text(0).iter().map(|byte| char::from(*byte)).try_for_each(|char| {
                let begins = gap && !char.is_whitespace();
                gap = char.is_whitespace();
                if begins { out.push_char(char) } else { Ok(()) }
            })
        })
    }),
    function("camelcase", &[Text], |run, it| with(run, |out| camel(out, it.text(0)))),
    function("snakecase", &[Text], |run, it| with(run, |out| separated(out, it.text(0), '_'))),
    function("kebabcase", &[Text], |run, it| with(run, |out| separated(out, it.text(0), '-'))),
];

/// Each character replaced, knowing the one before it.
fn mapped(run: &Run, it: &Arguments, map: impl Fn(Option<char>, char) -> char) -> Outcome {
    with(run, |out| {
        let mut before = None;
        runes(it.text(0)).try_for_each(|char| {
            let mapped = map(before, char);
            before = Some(char);
            out.push_char(mapped)
        })
    })
}

fn upper(char: char) -> char {
    let mut upper = char.to_uppercase();
    upper.next().filter(|_| upper.next().is_none()).unwrap_or(char)
}

fn lower(char: char) -> char {
    char.to_lowercase().next().unwrap_or(char)
}

/// What ends a word for Go's `strings.Title`.
fn separates(char: char) -> bool {
    match char {
        '_' => false,
        '\0'..='\x7f' => !char.is_ascii_alphanumeric(),
        _ => !char.is_alphanumeric() && char.is_whitespace(),
    }
}

fn connects(char: char) -> bool {
    matches!(char, '-' | '_') || char.is_whitespace()
}

fn camel(out: &mut Buffer, text: &[u8]) -> Outcome<()> {
    let mut chars = runes(text).peekable();
    let mut last = None;
    while let Some(connector) = chars.next_if(|char| connects(*char)) {
        out.push_char(connector)?;
        last = Some(connector);
    }
    let Some(first) = chars.next() else {
        // Upstream's way with nothing but connectors: one more.
        return last.map_or(Ok(()), |last| out.push_char(last));
    };
    let mut runs_upper = first.is_uppercase();
    let mut before = upper(first);
    for char in chars {
        let mut current = char;
        if connects(char) && connects(before) {
            out.push_char(before)?;
            before = char;
            continue;
        }
        if connects(before) {
            runs_upper = char.is_uppercase();
            current = upper(char);
        } else {
            if runs_upper && char.is_uppercase() {
                current = lower(char);
            } else {
                runs_upper = false;
            }
            out.push_char(before)?;
        }
        before = current;
    }
    out.push_char(before)
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Number,
    Upper,
    Alphabet,
    Connector,
    Punctuation,
    Other,
}

fn kind(char: char) -> Kind {
    match char {
        _ if connects(char) => Kind::Connector,
        _ if is_punctuation(char) => Kind::Punctuation,
        _ if char.is_uppercase() => Kind::Upper,
        _ if char.is_alphabetic() => Kind::Alphabet,
        _ if char.is_numeric() => Kind::Number,
        _ => Kind::Other,
    }
}

/// `unicode.IsPunct`: of ASCII's, the symbols `$+<=>^`|~` are none.
fn is_punctuation(char: char) -> bool {
    match char {
        '$' | '+' | '<' | '=' | '>' | '^' | '`' | '|' | '~' => false,
        '\0'..='\x7f' => char.is_ascii_punctuation(),
        '\u{a1}' | '\u{a7}' | '\u{ab}' | '\u{b6}' | '\u{b7}' | '\u{bb}' | '\u{bf}' => true,
        _ => matches!(char, '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205e}' | '\u{3001}'..='\u{3003}'),
    }
}

/// The words of an identifier: a run of one kind, an upper-case letter with the small ones behind it, or an
/// abbreviation up to the word behind it.
fn words(text: &[u8]) -> Vec<(Kind, Vec<char>)> {
    let chars: Vec<char> = runes(text).filter(|char| *char != char::REPLACEMENT_CHARACTER).collect();
    let mut words = Vec::new();
    let mut rest = chars.as_slice();
    while let Some(first) = rest.first() {
        let of = kind(*first);
        let run = |from: usize, kinds: &[Kind]| {
            from + rest[from..].iter().take_while(|char| kinds.contains(&kind(**char))).count()
        };
        let end = match of {
            Kind::Upper => match rest.get(1).map(|char| kind(*char)) {
                Some(Kind::Upper) => {
                    let end = run(1, &[Kind::Upper]);
                    let goes_on = rest.get(end).is_some_and(|char| kind(*char) == Kind::Alphabet);
                    if goes_on { end - 1 } else { end }
                }
                Some(Kind::Alphabet) => run(1, &[Kind::Alphabet]),
                _ => 1,
            },
            of => run(1, &[of]),
        };
        let (word, behind) = rest.split_at(end);
        words.push((of, word.to_vec()));
        rest = behind;
    }
    words
}

/// `snake_case` and its like, with upstream's rules on numbers.
fn separated(out: &mut Buffer, text: &[u8], connector: char) -> Outcome<()> {
    let words = words(text);
    let mut at = 0;
    let is = |at: usize, kinds: &[Kind]| words.get(at).is_some_and(|(of, _)| kinds.contains(of));
    let write = |out: &mut Buffer, at: usize| {
        let Some((of, word)) = words.get(at) else {
            return Ok(());
        };
        word.iter().try_for_each(|char| match of {
            Kind::Connector => out.push_char(connector),
            Kind::Upper => out.push_char(lower(*char)),
            _ => out.push_char(*char),
        })
    };
    let joins = [Kind::Connector, Kind::Punctuation];
    while at + 1 < words.len() {
        let Some((before, _)) = words.get(at) else {
            return Ok(());
        };
        if *before != Kind::Connector {
            write(out, at)?;
        }
        at += 1;
        match before {
            Kind::Number => {
                while is(at, &[Kind::Alphabet, Kind::Number]) {
                    write(out, at)?;
                    at += 1;
                }
                if at < words.len() && !is(at, &joins) {
                    out.push_char(connector)?;
                }
            }
            Kind::Connector => write(out, at - 1)?,
            Kind::Punctuation => {}
            _ if !is(at, &[Kind::Number]) => {
                if !is(at, &joins) {
                    out.push_char(connector)?;
                }
            }
            _ if at + 1 == words.len() => {}
            _ => {
                let number = at;
                at += 1;
                if !is(at, &[Kind::Alphabet]) {
                    write(out, number)?;
                    if !is(at, &joins) {
                        out.push_char(connector)?;
                    }
                    continue;
                }
                out.push_char(connector)?;
                write(out, number)?;
                while is(at, &[Kind::Alphabet, Kind::Number]) {
                    write(out, at)?;
                    at += 1;
                }
                if at < words.len() && !is(at, &joins) {
                    out.push_char(connector)?;
                }
            }
        }
    }
    write(out, at)
}
