//! Go's literals: strings with their escapes, and numbers that are of several types until they are used.

/// A number as Go's templates keep it: what it can be taken for.
#[derive(Clone, Copy)]
pub(super) struct Number {
    pub(super) int: Option<i64>,
    pub(super) float: f64,
    /// Whether it is a float where nobody asks for a type.
    pub(super) is_float: bool,
}

/// The number, or `None` for what Go refuses. Complex and hexadecimal floating numbers are refused, too.
pub(super) fn number(text: &str) -> Option<Number> {
    if text.starts_with('\'') {
        let rune = unquote(text).and_then(|bytes| String::from_utf8(bytes).ok())?;
        let mut chars = rune.chars();
        let int = i64::from(u32::from(chars.next()?));
        return chars.next().is_none().then(|| whole(int));
    }
    if let Some(int) = integer(text) {
        return Some(whole(int));
    }
    let float = float(text).filter(|_| text.contains(['.', 'e', 'E']) && !text.contains('_'))?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "the comparison tells what was lost"
    )]
    #[allow(clippy::float_cmp, reason = "exact or not at all")]
    let int = (float as i64 as f64 == float).then_some(float as i64);
    Some(Number { int, float, is_float: true })
}

fn whole(int: i64) -> Number {
    #[allow(clippy::cast_precision_loss, reason = "Go's conversion")]
    Number { int: Some(int), float: int as f64, is_float: false }
}

/// `strconv.ParseInt(text, 0, 64)`.
pub(super) fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefixed = |lower, upper| digits.strip_prefix(lower).or_else(|| digits.strip_prefix(upper));
    let (radix, digits) = prefixed("0x", "0X")
        .map(|digits| (16, digits))
        .or_else(|| prefixed("0b", "0B").map(|digits| (2, digits)))
        .or_else(|| prefixed("0o", "0O").map(|digits| (8, digits)))
        .or_else(|| digits.strip_prefix('0').filter(|rest| !rest.is_empty()).map(|digits| (8, digits)))
        .unwrap_or((10, digits));
    // Underscores stand between digits, or behind the prefix of a base.
    let digits = if radix == 10 { digits } else { digits.strip_prefix('_').unwrap_or(digits) };
    if digits.starts_with(['_', '+', '-']) || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(&digits.replace('_', ""), radix).ok()?);
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// `strconv.ParseFloat(text, 64)`, but for hexadecimal and underscores.
pub(super) fn float(text: &str) -> Option<f64> {
    text.parse().ok().filter(|float: &f64| float.is_finite() || !text.contains(|char: char| char.is_ascii_digit()))
}

/// `strconv.Unquote`, for strings in double quotes and backquotes and for characters. The bytes need not be UTF-8.
pub(super) fn unquote(quoted: &str) -> Option<Vec<u8>> {
    let quote = quoted.chars().next()?;
    let inner = quoted.strip_prefix(quote)?.strip_suffix(quote)?;
    if quote == '`' {
        return Some(inner.replace('\r', "").into());
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(char) = rest.chars().next() {
        rest = &rest[char.len_utf8()..];
        if char != '\\' {
            bytes.extend(char.encode_utf8(&mut [0; 4]).bytes());
            continue;
        }
        let escape = rest.chars().next()?;
        let mut number = |skip: usize, digits: usize, radix| {
            let text = rest.get(skip..skip + digits).filter(|text| text.chars().all(|char| char.is_digit(radix)))?;
            let value = u32::from_str_radix(text, radix).ok()?;
            rest = &rest[skip + digits..];
            Some(value)
        };
        let byte = match escape {
            'a' => 0x07,
            'b' => 0x08,
            'f' => 0x0c,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 0x0b,
            '\\' => b'\\',
            '\'' | '"' if escape == quote => u8::try_from(escape).ok()?,
            '0'..='7' => {
                bytes.push(u8::try_from(number(0, 3, 8)?).ok()?);
                continue;
            }
            'x' => {
                let byte = u8::try_from(number(1, 2, 16)?).ok()?;
                // As a character it is a code point.
                if quote == '\'' {
                    bytes.extend(char::from(byte).encode_utf8(&mut [0; 4]).bytes());
                } else {
                    bytes.push(byte);
                }
                continue;
            }
            'u' | 'U' => {
                let char = char::from_u32(number(1, if escape == 'u' { 4 } else { 8 }, 16)?)?;
                bytes.extend(char.encode_utf8(&mut [0; 4]).bytes());
                continue;
            }
            _ => return None,
        };
        bytes.push(byte);
        rest = &rest[1..];
    }
    Some(bytes)
}
