//! Go's `strconv`: quoted text, and the digits of numbers.

use super::value::{Buffer, Outcome, rune};

/// `strconv.Quote`, or `QuoteToASCII`.
pub(super) fn quote(out: &mut Buffer, text: &[u8], ascii: bool) -> Outcome<()> {
    out.push(b"\"")?;
    let mut rest = text;
    while let Some((char, width)) = rune(rest) {
        if width == 1 && char == char::REPLACEMENT_CHARACTER {
            out.push(format!("\\x{:02x}", rest[0]).as_bytes())?;
        } else {
            escaped(out, char, '"', ascii)?;
        }
        rest = &rest[width..];
    }
    out.push(b"\"")
}

pub(super) fn escaped(out: &mut Buffer, char: char, quote: char, ascii: bool) -> Outcome<()> {
    let short = match char {
        _ if char == quote || char == '\\' => {
            out.push(b"\\")?;
            return out.push_char(char);
        }
        '\x07' => "\\a",
        '\x08' => "\\b",
        '\x0c' => "\\f",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\x0b' => "\\v",
        _ if is_print(char) && (char.is_ascii() || !ascii) => return out.push_char(char),
        _ => "",
    };
    let code = u32::from(char);
    match code {
        _ if !short.is_empty() => out.push(short.as_bytes()),
        0..0x20 | 0x7f => out.push(format!("\\x{code:02x}").as_bytes()),
        0..0x1_0000 => out.push(format!("\\u{code:04x}").as_bytes()),
        _ => out.push(format!("\\U{code:08x}").as_bytes()),
    }
}

/// `unicode.IsPrint`: what Rust prints as it is behind a letter.
pub(super) fn is_print(char: char) -> bool {
    match char {
        ' '..='~' => true,
        '\0'..='\x7f' => false,
        _ => !format!("{:?}", format!("a{char}")).contains('\\'),
    }
}

/// Digits that show any float exactly.
const EXACT: usize = 1100;

/// `strconv.FormatFloat` for what is not negative. Without a precision: as many digits as tell the number apart.
pub(super) fn float_digits(float: f64, verb: char, precision: Option<usize>) -> String {
    if float.is_nan() {
        return "NaN".to_owned();
    }
    if float.is_infinite() {
        return "Inf".to_owned();
    }
    // No float has more digits than this; Rust refuses to write many more.
    let (precision, zeros) = match precision {
        Some(wanted) if verb == 'g' => (Some(wanted.min(EXACT)), String::new()),
        Some(wanted) => (Some(wanted.min(EXACT)), "0".repeat(wanted.saturating_sub(EXACT))),
        None => (None, String::new()),
    };
    let scientific = |precision: Option<usize>| {
        let shown = match precision {
            Some(precision) => format!("{float:.precision$e}"),
            None => format!("{float:e}"),
        };
        let (mantissa, exponent) = shown.split_once('e').unwrap_or((&shown, "0"));
        (mantissa.to_owned(), exponent.parse::<i32>().unwrap_or_default())
    };
    let exponential = |(mantissa, exponent): (String, i32)| {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{mantissa}{zeros}e{sign}{:02}", exponent.unsigned_abs())
    };
    match (verb, precision) {
        ('e', precision) => exponential(scientific(precision)),
        ('f', Some(precision)) => format!("{float:.precision$}{zeros}"),
        ('f', None) => format!("{float}"),
        (_, precision) => {
            let digits = precision.map(|precision| precision.max(1));
            let (mantissa, exponent) = scientific(digits.map(|digits| digits - 1));
            let mantissa = match mantissa.split_once('.') {
                Some((whole, fraction)) => {
                    let fraction = fraction.trim_end_matches('0');
                    if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") }
                }
                None => mantissa,
            };
            let count = i32::try_from(mantissa.len().saturating_sub(usize::from(mantissa.contains('.')))).unwrap_or(0);
            let mut limit = digits.map_or(6, |digits| i32::try_from(digits).unwrap_or(i32::MAX));
            if digits.is_some() && limit > count && count > exponent {
                limit = count;
            }
            if exponent < -4 || exponent >= limit {
                return exponential((mantissa, exponent));
            }
            let decimals = usize::try_from((count - 1 - exponent).max(0)).unwrap_or_default();
            match digits {
                Some(_) => format!("{float:.decimals$}"),
                None => format!("{float}"),
            }
        }
    }
}
