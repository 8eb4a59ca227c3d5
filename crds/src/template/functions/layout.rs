//! Go's layouts of time: the reference time `Mon Jan 2 15:04:05 MST 2006`, written as the time itself shall be.

use jiff::Zoned;

/// A piece of a layout.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Piece<'l> {
    Literal(&'l [u8]),
    Standard(&'static str),
    /// Digits behind a point or comma: its sign, how many, and whether zeros at the end are shown.
    Fraction(u8, usize, bool),
}

/// Longer ones stand before their beginnings.
const STANDARD: [&str; 32] = [
    "January",
    "Jan",
    "Monday",
    "Mon",
    "MST",
    "002",
    "01",
    "02",
    "03",
    "04",
    "05",
    "06",
    "15",
    "1",
    "2006",
    "2",
    "__2",
    "_2",
    "3",
    "4",
    "5",
    "PM",
    "pm",
    "-07:00:00",
    "-07:00",
    "-070000",
    "-0700",
    "-07",
    "Z07:00:00",
    "Z07:00",
    "Z0700",
    "Z07",
];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

fn pieces(layout: &[u8]) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut rest, mut literal) = (layout, 0);
    while let Some(piece) = rest.get(literal..).filter(|text| !text.is_empty()) {
        let Some((standard, length)) = standard(piece) else {
            // `_2006` is an underscore and a year.
            literal += 1;
            continue;
        };
        if literal > 0 {
            pieces.push(Piece::Literal(&rest[..literal]));
        }
        pieces.push(standard);
        rest = &piece[length..];
        literal = 0;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest));
    }
    pieces
}

fn standard(text: &[u8]) -> Option<(Piece<'static>, usize)> {
    if let [sign @ (b'.' | b','), digit @ (b'0' | b'9'), ..] = text {
        let count = text[1..].iter().take_while(|byte| *byte == digit).count();
        let ends = !text.get(count + 1).is_some_and(u8::is_ascii_digit);
        return ends.then_some((Piece::Fraction(*sign, count, *digit == b'0'), count + 1));
    }
    let known = STANDARD.iter().find(|name| text.starts_with(name.as_bytes()))?;
    let behind = &text[known.len()..];
    let is_word = matches!(*known, "Jan" | "Mon") && behind.first().is_some_and(u8::is_ascii_lowercase);
    let is_year = *known == "_2" && text.starts_with(b"_2006");
    (!is_word && !is_year).then_some((Piece::Standard(known), known.len()))
}

/// `time.Time.Format`.
pub(super) fn format(zoned: &Zoned, layout: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(layout.len() + 16);
    for piece in pieces(layout) {
        match piece {
            Piece::Literal(text) => out.extend_from_slice(text),
            Piece::Fraction(sign, count, zeros) => {
                let digits = format!("{:09}", zoned.subsec_nanosecond());
                let digits = digits.get(..count.min(9)).unwrap_or(&digits);
                let shown = if zeros { digits } else { digits.trim_end_matches('0') };
                if !shown.is_empty() {
                    out.push(sign);
                    out.extend_from_slice(shown.as_bytes());
                    if zeros {
                        out.extend(std::iter::repeat_n(b'0', count.saturating_sub(9)));
                    }
                }
            }
            Piece::Standard(standard) => out.extend_from_slice(shown(zoned, standard).as_bytes()),
        }
    }
    out
}

fn shown(zoned: &Zoned, standard: &str) -> String {
    let month = MONTHS.get(usize::from(zoned.month().unsigned_abs()) - 1).copied().unwrap_or_default();
    let day =
        DAYS.get(usize::from(zoned.weekday().to_monday_zero_offset().unsigned_abs())).copied().unwrap_or_default();
    let hour = match zoned.hour() % 12 {
        0 => 12,
        hour => hour,
    };
    match standard {
        "January" => month.to_owned(),
        "Jan" => month[..3].to_owned(),
        "Monday" => day.to_owned(),
        "Mon" => day[..3].to_owned(),
        "1" => zoned.month().to_string(),
        "01" => format!("{:02}", zoned.month()),
        "2" => zoned.day().to_string(),
        "_2" => format!("{:2}", zoned.day()),
        "02" => format!("{:02}", zoned.day()),
        "__2" => format!("{:3}", zoned.day_of_year()),
        "002" => format!("{:03}", zoned.day_of_year()),
        "15" => format!("{:02}", zoned.hour()),
        "3" => hour.to_string(),
        "03" => format!("{hour:02}"),
        "4" => zoned.minute().to_string(),
        "04" => format!("{:02}", zoned.minute()),
        "5" => zoned.second().to_string(),
        "05" => format!("{:02}", zoned.second()),
        "2006" => format!("{:04}", zoned.year()),
        "06" => format!("{:02}", zoned.year().rem_euclid(100)),
        "PM" => if zoned.hour() >= 12 { "PM" } else { "AM" }.to_owned(),
        "pm" => if zoned.hour() >= 12 { "pm" } else { "am" }.to_owned(),
        "MST" => zone_name(zoned),
        offset => shown_offset(zoned.offset().seconds(), offset),
    }
}

fn zone_name(zoned: &Zoned) -> String {
    let zone = zoned.time_zone();
    let info = zone.to_offset_info(zoned.timestamp());
    match zone.to_fixed_offset() {
        Ok(offset) if offset.seconds() != 0 => shown_offset(offset.seconds(), "-0700"),
        _ => info.abbreviation().to_owned(),
    }
}

fn shown_offset(seconds: i32, standard: &str) -> String {
    if standard.starts_with('Z') && seconds == 0 {
        return "Z".to_owned();
    }
    let sign = if seconds < 0 { '-' } else { '+' };
    let magnitude = seconds.unsigned_abs();
    let (hours, minutes, seconds) = (magnitude / 3600, magnitude / 60 % 60, magnitude % 60);
    match &standard[1..] {
        "07" => format!("{sign}{hours:02}"),
        "0700" => format!("{sign}{hours:02}{minutes:02}"),
        "07:00" => format!("{sign}{hours:02}:{minutes:02}"),
        "070000" => format!("{sign}{hours:02}{minutes:02}{seconds:02}"),
        _ => format!("{sign}{hours:02}:{minutes:02}:{seconds:02}"),
    }
}

/// What a text says of a time.
pub(super) struct Read {
    pub(super) year: i16,
    pub(super) month: i8,
    pub(super) day: i8,
    pub(super) hour: i8,
    pub(super) minute: i8,
    pub(super) second: i8,
    pub(super) nanosecond: i32,
    /// In seconds.
    pub(super) offset: Option<i32>,
}

/// `time.Parse`. A zone's abbreviation is skipped: it does not name a zone.
pub(super) fn parse(layout: &[u8], text: &[u8]) -> Option<Read> {
    let mut read = Read { year: 1, month: 1, day: 1, hour: 0, minute: 0, second: 0, nanosecond: 0, offset: None };
    let mut year_day = None;
    let mut afternoon = None;
    let mut has_year = false;
    let mut rest = text;
    let pieces = pieces(layout);
    for (at, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Literal(literal) => rest = skip(rest, literal)?,
            Piece::Fraction(_, count, zeros) => {
                if *zeros {
                    read.nanosecond = fraction(&mut rest, Some(*count))?;
                } else if matches!(rest, [b'.' | b',', b'0'..=b'9', ..]) {
                    read.nanosecond = fraction(&mut rest, None)?;
                }
            }
            Piece::Standard(standard) => match *standard {
                "January" => read.month = i8::try_from(name(&mut rest, &MONTHS, usize::MAX)? + 1).ok()?,
                "Jan" => read.month = i8::try_from(name(&mut rest, &MONTHS, 3)? + 1).ok()?,
                "Monday" => drop(name(&mut rest, &DAYS, usize::MAX)?),
                "Mon" => drop(name(&mut rest, &DAYS, 3)?),
                "1" | "01" => read.month = number(&mut rest, *standard == "01", 2)?,
                "2" | "_2" | "02" => {
                    if *standard == "_2" {
                        rest = rest.strip_prefix(b" ").unwrap_or(rest);
                    }
                    read.day = number(&mut rest, *standard == "02", 2)?;
                }
                "002" | "__2" => {
                    while *standard == "__2" && rest.starts_with(b" ") {
                        rest = &rest[1..];
                    }
                    year_day = Some(number::<i16>(&mut rest, *standard == "002", 3)?);
                }
                "15" => read.hour = number(&mut rest, false, 2)?,
                "3" | "03" => {
                    read.hour = number(&mut rest, *standard == "03", 2)?;
                    if read.hour > 12 {
                        return None;
                    }
                }
                "4" | "04" => read.minute = number(&mut rest, *standard == "04", 2)?,
                "5" | "05" => {
                    read.second = number(&mut rest, *standard == "05", 2)?;
                    // A fraction that the layout does not announce is read all the same.
                    let announced = matches!(pieces.get(at + 1), Some(Piece::Fraction(..)));
                    if !announced && matches!(rest, [b'.' | b',', b'0'..=b'9', ..]) {
                        read.nanosecond = fraction(&mut rest, None)?;
                    }
                }
                "2006" => {
                    read.year = number(&mut rest, true, 4)?;
                    has_year = true;
                }
                "06" => {
                    let year: i16 = number(&mut rest, true, 2)?;
                    read.year = if year >= 69 { 1900 + year } else { 2000 + year };
                    has_year = true;
                }
                "PM" | "pm" => {
                    let half = rest.get(..2)?;
                    let known: [&[u8]; 2] = if *standard == "PM" { [b"AM", b"PM"] } else { [b"am", b"pm"] };
                    afternoon = Some(known.iter().position(|name| *name == half)? == 1);
                    rest = &rest[2..];
                }
                "MST" => {
                    if let Some(behind) = rest.strip_prefix(b"UTC") {
                        (rest, read.offset) = (behind, Some(0));
                        continue;
                    }
                    let length = rest.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
                    if !(3..=5).contains(&length) {
                        return None;
                    }
                    rest = &rest[length..];
                }
                zone => read.offset = Some(offset(&mut rest, zone)?),
            },
        }
    }
    match afternoon {
        Some(true) if read.hour < 12 => read.hour += 12,
        Some(false) if read.hour == 12 => read.hour = 0,
        _ => {}
    }
    if let Some(day) = year_day {
        let date = jiff::civil::date(read.year, 1, 1).with().day_of_year(day).build().ok()?;
        (read.month, read.day) = (date.month(), date.day());
    }
    // Go's year without one is 0.
    if !has_year {
        read.year = 0;
    }
    rest.is_empty().then_some(read)
}

/// Skips a literal; a space of the layout stands for any number of them.
fn skip<'t>(mut text: &'t [u8], mut literal: &[u8]) -> Option<&'t [u8]> {
    while let Some((first, behind)) = literal.split_first() {
        if *first == b' ' {
            if !text.is_empty() && !text.starts_with(b" ") {
                return None;
            }
            literal = behind.trim_ascii_start();
            while text.starts_with(b" ") {
                text = &text[1..];
            }
            continue;
        }
        text = text.strip_prefix(&[*first])?;
        literal = behind;
    }
    Some(text)
}

fn name(rest: &mut &[u8], names: &[&str], length: usize) -> Option<usize> {
    let found = names.iter().position(|name| {
        let name = name.as_bytes();
        let name = name.get(..length).unwrap_or(name);
        rest.get(..name.len()).is_some_and(|text| text.eq_ignore_ascii_case(name))
    })?;
    let length = names.get(found)?.len().min(length);
    *rest = &rest[length..];
    Some(found)
}

/// Digits: exactly so many, or up to so many.
fn number<T: std::str::FromStr>(rest: &mut &[u8], exactly: bool, digits: usize) -> Option<T> {
    let count = rest.iter().take(digits).take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 || exactly && count < digits {
        return None;
    }
    let (number, behind) = rest.split_at(count);
    *rest = behind;
    str::from_utf8(number).ok()?.parse().ok()
}

fn fraction(rest: &mut &[u8], digits: Option<usize>) -> Option<i32> {
    let (sign, behind) = rest.split_first()?;
    let there = behind.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let count = digits.unwrap_or(there);
    if !matches!(sign, b'.' | b',') || there < count || count == 0 {
        return None;
    }
    let (number, behind) = behind.split_at(count);
    *rest = behind;
    let number = str::from_utf8(number).ok()?;
    format!("{:0<9}", number.get(..9).unwrap_or(number)).parse().ok()
}

fn offset(rest: &mut &[u8], standard: &str) -> Option<i32> {
    if standard.starts_with('Z') && rest.starts_with(b"Z") {
        *rest = &rest[1..];
        return Some(0);
    }
    let (sign, behind) = rest.split_first()?;
    let sign = match sign {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    *rest = behind;
    let mut seconds = 0;
    let mut scale = 3600;
    let fields = standard.bytes().filter(u8::is_ascii_digit).count() / 2;
    for at in 0..fields {
        if at > 0 && standard.contains(':') {
            *rest = rest.strip_prefix(b":")?;
        }
        seconds += number::<i32>(rest, true, 2)? * scale;
        scale /= 60;
    }
    Some(sign * seconds)
}
