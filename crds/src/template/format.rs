//! Go's `fmt`: how a value looks when it is printed, and the verbs of `printf`.

use super::{
    functions::dates,
    strconv::{escaped, float_digits, is_print, quote},
    value::{Buffer, DEPTH, Outcome, Run, STEP, TOO_DEEP, Value, Width},
};

/// `fmt.Sprint` of one value.
pub(super) fn printed(run: &Run, value: &Value) -> Outcome<Vec<u8>> {
    let mut out = Buffer::new(run);
    Printer { out: &mut out, flags: Flags::default() }.value(value, 'v', DEPTH)?;
    Ok(out.into_bytes())
}

/// `fmt.Sprint`: a space stands between two values of which neither is a string.
pub(super) fn print(out: &mut Buffer, values: &[Value]) -> Outcome<()> {
    let mut before_is_text = true;
    for (at, value) in values.iter().enumerate() {
        let is_text = matches!(value, Value::Text(_));
        if at > 0 && !is_text && !before_is_text {
            out.push(b" ")?;
        }
        before_is_text = is_text;
        Printer { out, flags: Flags::default() }.value(value, 'v', DEPTH)?;
    }
    Ok(())
}

/// `fmt.Sprintln`.
pub(super) fn println(out: &mut Buffer, values: &[Value]) -> Outcome<()> {
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            out.push(b" ")?;
        }
        Printer { out, flags: Flags::default() }.value(value, 'v', DEPTH)?;
    }
    out.push(b"\n")
}

#[derive(Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools, reason = "they are the flags of fmt")]
struct Flags {
    plus: bool,
    minus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    /// `%#v`.
    source: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// The largest width or precision, as in Go.
const WIDEST: usize = 1_000_000;

/// `fmt.Sprintf`.
pub(super) fn printf(out: &mut Buffer, format: &[u8], values: &[Value]) -> Outcome<()> {
    let mut verbs = Verbs { rest: format, next: 0, count: values.len(), reordered: false, sound: true };
    while let Some(at) = verbs.rest.iter().position(|byte| *byte == b'%') {
        out.push(&verbs.rest[..at])?;
        verbs.rest = &verbs.rest[at + 1..];
        out.run().charge(STEP)?;
        let flags = verbs.flags(out, values)?;
        let Some((verb, width)) = super::value::rune(verbs.rest) else {
            return out.push(b"%!(NOVERB)");
        };
        verbs.rest = &verbs.rest[width..];
        let value = values.get(verbs.next);
        match value {
            _ if verb == '%' => out.push(b"%")?,
            Some(value) if verbs.sound => {
                verbs.next += 1;
                let source = verb == 'v' && flags.sharp;
                let flags = Flags { source, sharp: flags.sharp && !source, ..flags };
                Printer { out, flags }.value(value, verb, DEPTH)?;
            }
            _ => {
                out.push(b"%!")?;
                out.push_char(verb)?;
                out.push(if verbs.sound { b"(MISSING)" } else { b"(BADINDEX)" })?;
            }
        }
    }
    out.push(verbs.rest)?;
    let extra = values.get(verbs.next..).filter(|extra| !extra.is_empty() && !verbs.reordered);
    let Some(extra) = extra else {
        return Ok(());
    };
    out.push(b"%!(EXTRA ")?;
    for (at, value) in extra.iter().enumerate() {
        if at > 0 {
            out.push(b", ")?;
        }
        out.push(value.type_name().as_bytes())?;
        if !value.is_nil() {
            out.push(b"=")?;
            Printer { out, flags: Flags::default() }.value(value, 'v', DEPTH)?;
        }
    }
    out.push(b")")
}

/// The reading of a format: what is left of it, and which value comes next.
struct Verbs<'f> {
    rest: &'f [u8],
    next: usize,
    count: usize,
    /// Whether any verb chose its value.
    reordered: bool,
    /// Whether this verb chose one that there is.
    sound: bool,
}

impl Verbs<'_> {
    fn flags(&mut self, out: &mut Buffer, values: &[Value]) -> Outcome<Flags> {
        let mut flags = Flags::default();
        self.sound = true;
        while let Some((flag, behind)) = self.rest.split_first() {
            match flag {
                b'+' => flags.plus = true,
                b'-' => flags.minus = true,
                b'#' => flags.sharp = true,
                b' ' => flags.space = true,
                b'0' => flags.zero = true,
                _ => break,
            }
            self.rest = behind;
        }
        let mut chosen = self.index();
        if self.skip(b'*') {
            match values.get(self.next) {
                Some(Value::Int(_, width)) if width.unsigned_abs() <= WIDEST as u64 => {
                    flags.minus |= *width < 0;
                    flags.width = usize::try_from(width.unsigned_abs()).ok();
                }
                _ => out.push(b"%!(BADWIDTH)")?,
            }
            self.next += 1;
            chosen = false;
        } else if let Some(width) = digits(&mut self.rest) {
            self.sound &= !chosen;
            flags.width = Some(width).filter(|width| *width <= WIDEST);
        }
        if self.skip(b'.') {
            self.sound &= !chosen;
            chosen = self.index();
            if self.skip(b'*') {
                match values.get(self.next) {
                    Some(Value::Int(_, precision)) if usize::try_from(*precision).is_ok_and(|it| it <= WIDEST) => {
                        flags.precision = usize::try_from(*precision).ok();
                    }
                    _ => out.push(b"%!(BADPREC)")?,
                }
                self.next += 1;
                chosen = false;
            } else {
                flags.precision = digits(&mut self.rest).or(Some(0)).filter(|precision| *precision <= WIDEST);
            }
        }
        if !chosen {
            self.index();
        }
        Ok(flags)
    }

    fn skip(&mut self, byte: u8) -> bool {
        let behind = self.rest.strip_prefix(&[byte]);
        self.rest = behind.unwrap_or(self.rest);
        behind.is_some()
    }

    /// `[3]`: the third value is next.
    fn index(&mut self) -> bool {
        let Some(inner) = self.rest.strip_prefix(b"[") else {
            return false;
        };
        self.reordered = true;
        let Some(end) = inner.iter().position(|byte| *byte == b']') else {
            self.sound = false;
            self.rest = inner;
            return false;
        };
        let number = str::from_utf8(&inner[..end]).ok().and_then(|text| text.parse::<usize>().ok());
        self.rest = &inner[end + 1..];
        match number.filter(|number| (1..=self.count).contains(number)) {
            Some(number) => self.next = number - 1,
            None => self.sound = false,
        }
        number.is_some()
    }
}

fn digits(rest: &mut &[u8]) -> Option<usize> {
    let end = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    let (number, behind) = rest.split_at(end);
    *rest = behind;
    str::from_utf8(number).ok().filter(|text| !text.is_empty()).map(|text| text.parse().unwrap_or(usize::MAX))
}

struct Printer<'p, 'r> {
    out: &'p mut Buffer<'r>,
    flags: Flags,
}

impl Printer<'_, '_> {
    fn value(&mut self, value: &Value, verb: char, depth: usize) -> Outcome<()> {
        self.out.run().charge(STEP)?;
        let depth = depth.checked_sub(1).ok_or(TOO_DEEP)?;
        match (value, verb) {
            (_, 'T') => self.padded(value.type_name().as_bytes()),
            (Value::Absent | Value::Nil, 'v') => self.padded(b"<nil>"),
            (Value::Bool(bool), 't' | 'v') => self.padded(if *bool { b"true" } else { b"false" }),
            (Value::Int(width, int), _) => self.int(*width, *int, verb),
            (Value::Float(float), 'b' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'v') => self.float(*float, verb),
            (Value::Text(text), 's' | 'v' | 'x' | 'X' | 'q') => self.text(text, verb),
            (Value::List(list), _) if verb != 'p' => {
                if self.flags.source {
                    if list.is_nil() {
                        self.out.push(value.type_name().as_bytes())?;
                        return self.out.push(b"(nil)");
                    }
                    self.out.push(value.type_name().as_bytes())?;
                }
                self.out.push(if self.flags.source { b"{" } else { b"[" })?;
                for (at, item) in list.iter().enumerate() {
                    self.between(at)?;
                    self.element(item, verb, depth)?;
                }
                self.out.push(if self.flags.source { b"}" } else { b"]" })
            }
            (Value::Map(map), _) if verb != 'p' => {
                self.out.push(if self.flags.source { value.type_name() } else { "map" }.as_bytes())?;
                self.out.push(if self.flags.source { b"{" } else { b"[" })?;
                for (at, (key, item)) in map.entries(self.out.run())?.into_iter().enumerate() {
                    self.between(at)?;
                    self.value(&Value::Text(key), verb, depth)?;
                    self.out.push(b":")?;
                    self.element(&item, verb, depth)?;
                }
                self.out.push(if self.flags.source { b"}" } else { b"]" })
            }
            (Value::Time(time), 's' | 'v' | 'x' | 'X' | 'q') => self.text(&dates::shown(time), verb),
            (Value::Version(version), 's' | 'v' | 'x' | 'X' | 'q') => self.text(version.to_string().as_bytes(), verb),
            _ => self.bad(value, verb, depth),
        }
    }

    fn between(&mut self, at: usize) -> Outcome<()> {
        match (at, self.flags.source) {
            (0, _) => Ok(()),
            (_, true) => self.out.push(b", "),
            (_, false) => self.out.push(b" "),
        }
    }

    fn element(&mut self, item: &Value, verb: char, depth: usize) -> Outcome<()> {
        match item {
            Value::Absent | Value::Nil if self.flags.source => self.out.push(b"interface {}(nil)"),
            Value::Absent | Value::Nil => self.out.push(b"<nil>"),
            _ => self.value(item, verb, depth),
        }
    }

    fn bad(&mut self, value: &Value, verb: char, depth: usize) -> Outcome<()> {
        self.out.push(b"%!")?;
        self.out.push_char(verb)?;
        self.out.push(b"(")?;
        self.out.push(value.type_name().as_bytes())?;
        if !value.is_nil() {
            self.out.push(b"=")?;
            let flags = std::mem::take(&mut self.flags);
            self.flags = Flags { width: flags.width, precision: flags.precision, ..flags };
            self.flags.source = false;
            self.value(value, 'v', depth)?;
            self.flags = flags;
        }
        self.out.push(b")")
    }

    fn padded(&mut self, bytes: &[u8]) -> Outcome<()> {
        let length = super::value::runes(bytes).count();
        let missing = self.flags.width.unwrap_or_default().saturating_sub(length);
        if self.flags.minus {
            self.out.push(bytes)?;
            return self.out.repeat(b" ", missing);
        }
        self.out.repeat(if self.flags.zero { b"0" } else { b" " }, missing)?;
        self.out.push(bytes)
    }

    fn int(&mut self, width: Width, int: i64, verb: char) -> Outcome<()> {
        let magnitude = int.unsigned_abs();
        let (digits, prefix) = match verb {
            'v' if self.flags.source && width == Width::Byte => (format!("{magnitude:x}"), "0x"),
            'd' | 'v' => (magnitude.to_string(), ""),
            'b' => (format!("{magnitude:b}"), if self.flags.sharp { "0b" } else { "" }),
            'o' => (format!("{magnitude:o}"), if self.flags.sharp { "0" } else { "" }),
            'O' => (format!("{magnitude:o}"), "0o"),
            'x' => (format!("{magnitude:x}"), if self.flags.sharp { "0x" } else { "" }),
            'X' => (format!("{magnitude:X}"), if self.flags.sharp { "0X" } else { "" }),
            'c' | 'q' | 'U' => return self.character(int, verb),
            _ => return self.bad(&Value::Int(width, int), verb, DEPTH),
        };
        if self.flags.precision == Some(0) && int == 0 {
            return self.out.repeat(b" ", self.flags.width.unwrap_or_default());
        }
        let sign = match int {
            ..0 => "-",
            _ if self.flags.plus => "+",
            _ if self.flags.space => " ",
            _ => "",
        };
        let wanted = match (self.flags.precision, self.flags.width) {
            (Some(precision), _) => precision,
            (None, Some(width)) if self.flags.zero && !self.flags.minus => width.saturating_sub(sign.len()),
            _ => 0,
        };
        let mut number = Buffer::new(self.out.run());
        number.push(sign.as_bytes())?;
        number.push(prefix.as_bytes())?;
        number.repeat(b"0", wanted.saturating_sub(digits.len()))?;
        number.push(digits.as_bytes())?;
        self.flags.zero = false;
        self.padded(number.bytes())
    }

    fn character(&mut self, int: i64, verb: char) -> Outcome<()> {
        let char = u32::try_from(int).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
        match verb {
            'c' => self.padded(char.encode_utf8(&mut [0; 4]).as_bytes()),
            'q' => {
                let mut quoted = Buffer::new(self.out.run());
                quoted.push(b"'")?;
                escaped(&mut quoted, char, '\'', self.flags.plus)?;
                quoted.push(b"'")?;
                self.padded(quoted.bytes())
            }
            _ => {
                let digits = self.flags.precision.unwrap_or(4).clamp(4, 100);
                let mut shown = format!("U+{int:0digits$X}");
                if self.flags.sharp && is_print(char) {
                    shown = format!("{shown} '{char}'");
                }
                self.flags.zero = false;
                self.padded(shown.as_bytes())
            }
        }
    }

    fn float(&mut self, float: f64, verb: char) -> Outcome<()> {
        let precision = match (verb, self.flags.precision) {
            (_, Some(precision)) => Some(precision),
            ('e' | 'E' | 'f' | 'F', None) => Some(6),
            _ => None,
        };
        self.out.run().charge(precision.unwrap_or_default() * 2)?;
        let mut digits = float_digits(float.abs(), verb.to_ascii_lowercase(), precision);
        if verb.is_ascii_uppercase() {
            digits.make_ascii_uppercase();
        }
        let sign = match float {
            _ if float.is_sign_negative() && !float.is_nan() => "-",
            _ if self.flags.plus => "+",
            _ if self.flags.space => " ",
            _ => "",
        };
        if !float.is_finite() {
            self.flags.zero = false;
            let digits = if float.is_infinite() && sign.is_empty() { "+Inf".to_owned() } else { digits };
            return self.padded(format!("{sign}{digits}").as_bytes());
        }
        if self.flags.zero && !self.flags.minus {
            let missing = self.flags.width.unwrap_or_default().saturating_sub(sign.len() + digits.len());
            self.out.push(sign.as_bytes())?;
            self.out.repeat(b"0", missing)?;
            return self.out.push(digits.as_bytes());
        }
        self.padded(format!("{sign}{digits}").as_bytes())
    }

    fn text(&mut self, text: &[u8], verb: char) -> Outcome<()> {
        let verb = if self.flags.source { 'q' } else { verb };
        let kept = match (verb, self.flags.precision) {
            ('x' | 'X', Some(precision)) => &text[..precision.min(text.len())],
            (_, Some(precision)) => {
                let mut end = 0;
                for _ in 0..precision {
                    end += super::value::rune(&text[end..]).map_or(0, |(_, width)| width);
                }
                &text[..end]
            }
            (_, None) => text,
        };
        match verb {
            'x' | 'X' => {
                let mut digits = Buffer::new(self.out.run());
                let prefix: &[u8] = if verb == 'x' { b"0x" } else { b"0X" };
                for (at, byte) in kept.iter().enumerate() {
                    if at > 0 && self.flags.space {
                        digits.push(b" ")?;
                    }
                    if self.flags.sharp && (at == 0 || self.flags.space) {
                        digits.push(prefix)?;
                    }
                    let hex = if verb == 'x' { format!("{byte:02x}") } else { format!("{byte:02X}") };
                    digits.push(hex.as_bytes())?;
                }
                self.padded(digits.bytes())
            }
            'q' => {
                let mut quoted = Buffer::new(self.out.run());
                if self.flags.sharp && !kept.iter().any(|byte| *byte == b'`' || (*byte < b' ' && *byte != b'\t')) {
                    quoted.push(b"`")?;
                    quoted.push(kept)?;
                    quoted.push(b"`")?;
                } else {
                    quote(&mut quoted, kept, self.flags.plus)?;
                }
                self.padded(quoted.bytes())
            }
            _ => self.padded(kept),
        }
    }
}
