//! Sprig's functions on time. `now` is an argument of the rendering; the local zone is UTC, as in upstream's container;
//! other zones come from the time zone database that is part of this program.

use std::rc::Rc;

use jiff::{
    Span, Timestamp, Zoned,
    civil::{Date, Time},
    tz::{Offset, TimeZone, TimeZoneDatabase},
};

use super::{
    super::value::{Outcome, Run, Value, Width},
    Arguments, Function,
    Param::{self, Any, Text},
    function, layout,
};

const OUT_OF_RANGE: &str = "the time is out of range";

pub(super) const FUNCTIONS: &[Function] = &[
    function("now", &[], |run, _| Ok(time(now(run)))),
    function("date", &[Text, Any], |run, it| dated(run, it.text(0), it.value(1), b"UTC")),
    function("date_in_zone", &[Text, Any, Text], |run, it| dated(run, it.text(0), it.value(1), it.text(2))),
    function("dateInZone", &[Text, Any, Text], |run, it| dated(run, it.text(0), it.value(1), it.text(2))),
    function("htmlDate", &[Any], |run, it| dated(run, b"2006-01-02", it.value(0), b"UTC")),
    function("htmlDateInZone", &[Any, Text], |run, it| dated(run, b"2006-01-02", it.value(0), it.text(1))),
    function("date_modify", &[Text, Param::Time], |_, it| modified(it).or_else(|_| Ok(it.value(1).clone()))),
    function("dateModify", &[Text, Param::Time], |_, it| modified(it).or_else(|_| Ok(it.value(1).clone()))),
    function("must_date_modify", &[Text, Param::Time], |_, it| modified(it)),
    function("mustDateModify", &[Text, Param::Time], |_, it| modified(it)),
    function("toDate", &[Text, Text], |_, it| parse(it).or_else(|_| zero().map(time))),
    function("mustToDate", &[Text, Text], |_, it| parse(it)),
    function("unixEpoch", &[Param::Time], |run, it| run.text(seconds(it.value(0)).unwrap_or_default().to_string())),
    function("ago", &[Any], |run, it| {
        let passed = now(run).timestamp().as_nanosecond() - moment(run, it.value(0))?.timestamp().as_nanosecond();
        run.text(duration(round(passed, SECOND)))
    }),
    function("duration", &[Any], |run, it| {
        let seconds = match it.value(0) {
            Value::Int(Width::Int64, seconds) => *seconds,
            Value::Text(text) => str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or_default(),
            _ => 0,
        };
        run.text(duration(i128::from(seconds.wrapping_mul(1_000_000_000))))
    }),
    function("durationRound", &[Any], |run, it| {
        let nanoseconds = match it.value(0) {
            Value::Text(text) => nanoseconds(text).unwrap_or_default(),
            Value::Int(Width::Int64, nanoseconds) => i128::from(*nanoseconds),
            Value::Time(time) => now(run).timestamp().as_nanosecond() - time.timestamp().as_nanosecond(),
            _ => 0,
        };
        run.text(rounded(nanoseconds.unsigned_abs()))
    }),
];

const SECOND: i128 = 1_000_000_000;

fn now(run: &Run) -> Zoned {
    run.now.to_zoned(TimeZone::UTC)
}

fn time(zoned: Zoned) -> Value {
    Value::Time(Rc::new(zoned))
}

/// Go's zero time.
fn zero() -> Outcome<Zoned> {
    jiff::civil::date(1, 1, 1).to_zoned(TimeZone::UTC).map_err(|_| OUT_OF_RANGE)
}

fn seconds(value: &Value) -> Option<i64> {
    if let Value::Time(time) = value { Some(time.timestamp().as_second()) } else { None }
}

/// What a date function takes for a time: a time, seconds since the epoch, or else the present.
fn moment(run: &Run, value: &Value) -> Outcome<Zoned> {
    match value {
        Value::Time(time) => Ok((**time).clone()),
        Value::Int(Width::Int | Width::Int64, seconds) => {
            let timestamp = Timestamp::from_second(*seconds).map_err(|_| OUT_OF_RANGE)?;
            Ok(timestamp.to_zoned(TimeZone::UTC))
        }
        _ => Ok(now(run)),
    }
}

fn dated(run: &Run, layout: &[u8], date: &Value, zone: &[u8]) -> Outcome {
    let zone = match zone {
        b"" | b"UTC" | b"Local" => TimeZone::UTC,
        name => {
            let found = str::from_utf8(name).ok().and_then(|name| TimeZoneDatabase::bundled().get(name).ok());
            found.unwrap_or(TimeZone::UTC)
        }
    };
    let zoned = moment(run, date)?.with_time_zone(zone);
    run.text(layout::format(&zoned, layout))
}

fn modified(it: &Arguments) -> Outcome {
    let Value::Time(before) = it.value(1) else {
        return Err("a time is expected");
    };
    let by = nanoseconds(it.text(0)).and_then(|by| i64::try_from(by).ok()).ok_or("the text is not a duration")?;
    before.checked_add(Span::new().nanoseconds(by)).map(time).map_err(|_| OUT_OF_RANGE)
}

/// `time.ParseDuration`.
fn nanoseconds(text: &[u8]) -> Option<i128> {
    let text = str::from_utf8(text).ok()?;
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0i128;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number = rest.len() - rest.trim_start_matches(|char: char| char.is_ascii_digit() || char == '.').len();
        let (number, behind) = rest.split_at(number);
        let unit = behind.find(|char: char| char.is_ascii_digit() || char == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || number.len() > 18 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let parts: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        total += whole * scale + parts * scale / 10i128.pow(u32::try_from(fraction.len()).ok()?);
        if total > i128::from(i64::MAX) {
            return None;
        }
        rest = behind;
    }
    Some(if negative { -total } else { total })
}

/// To the nearest, and away from zero in the middle.
fn round(value: i128, to: i128) -> i128 {
    (value.abs() + to / 2) / to * to * value.signum()
}

/// `time.Duration.String`.
fn duration(nanoseconds: i128) -> String {
    let magnitude = nanoseconds.unsigned_abs();
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let decimal = |value: u128, unit: u128| {
        let digits = format!("{}.{:0width$}", value / unit, value % unit, width = unit.ilog10() as usize);
        digits.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match magnitude {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{magnitude}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(magnitude, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(magnitude, 1_000_000)),
        _ => {
            let minutes = magnitude / 60_000_000_000;
            let seconds = decimal(magnitude % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// Sprig's rough duration: the largest unit that is exceeded.
fn rounded(magnitude: u128) -> String {
    const HOUR: u128 = 3_600_000_000_000;
    let units = [
        (HOUR * 24 * 365, "y"),
        (HOUR * 24 * 30, "mo"),
        (HOUR * 24, "d"),
        (HOUR, "h"),
        (HOUR / 60, "m"),
        (HOUR / 3600, "s"),
    ];
    let unit = units.iter().find(|(unit, _)| magnitude > *unit);
    unit.map_or_else(|| "0s".to_owned(), |(unit, name)| format!("{}{name}", magnitude / unit))
}

/// `time.ParseInLocation`, in UTC.
fn parse(it: &Arguments) -> Outcome {
    const NO_DATE: &str = "the text is not a date in that layout";
    let read = layout::parse(it.text(0), it.text(1)).ok_or(NO_DATE)?;
    let layout::Read { year, month, day, hour, minute, second, nanosecond, offset } = read;
    let date = Date::new(year, month, day).map_err(|_| NO_DATE)?;
    let clock = Time::new(hour, minute, second, nanosecond).map_err(|_| NO_DATE)?;
    let offset = offset.map(Offset::from_seconds).transpose().map_err(|_| NO_DATE)?;
    let zone = offset.filter(|offset| offset.seconds() != 0).map_or(TimeZone::UTC, TimeZone::fixed);
    date.to_datetime(clock).to_zoned(zone).map(time).map_err(|_| OUT_OF_RANGE)
}

/// `time.Time.String`.
pub(in super::super) fn shown(zoned: &Zoned) -> Vec<u8> {
    layout::format(zoned, b"2006-01-02 15:04:05.999999999 -0700 MST")
}

/// The methods of Go's `time.Time` that give a number, a text or another time.
pub(in super::super) fn method(run: &Run, zoned: &Rc<Zoned>, name: &str, arguments: &[Value]) -> Outcome {
    let int = |value| Ok(Value::int(i64::from(value)));
    match (name, arguments) {
        ("Format", [Value::Text(layout)]) => run.text(layout::format(zoned, layout)),
        ("Unix", []) => Ok(Value::Int(Width::Int64, zoned.timestamp().as_second())),
        ("UnixMilli", []) => Ok(Value::Int(Width::Int64, zoned.timestamp().as_millisecond())),
        ("Year", []) => int(zoned.year().into()),
        ("Day", []) => int(i32::from(zoned.day())),
        ("YearDay", []) => int(i32::from(zoned.day_of_year())),
        ("Hour", []) => int(i32::from(zoned.hour())),
        ("Minute", []) => int(i32::from(zoned.minute())),
        ("Second", []) => int(i32::from(zoned.second())),
        ("Nanosecond", []) => int(zoned.subsec_nanosecond()),
        ("UTC" | "Local", []) => Ok(time(zoned.with_time_zone(TimeZone::UTC))),
        ("String", []) => run.text(shown(zoned)),
        ("IsZero", []) => Ok(Value::Bool(zero()?.timestamp() == zoned.timestamp())),
        ("AddDate", [Value::Int(Width::Int, years), Value::Int(Width::Int, months), Value::Int(Width::Int, days)]) => {
            added(zoned, *years, *months, *days).map(time).ok_or(OUT_OF_RANGE)
        }
        _ => Err("a time has no such method here, or not with these arguments"),
    }
}

/// `AddDate`: what exceeds a month goes on into the next, unlike with calendars.
fn added(zoned: &Zoned, years: i64, months: i64, days: i64) -> Option<Zoned> {
    let month = (i64::from(zoned.month()) - 1).checked_add(months)?;
    let year = i64::from(zoned.year()).checked_add(years)?.checked_add(month.div_euclid(12))?;
    let first = Date::new(i16::try_from(year).ok()?, i8::try_from(month.rem_euclid(12) + 1).ok()?, 1).ok()?;
    let days = days.checked_add(i64::from(zoned.day()) - 1)?;
    let date = first.checked_add(Span::new().try_days(days).ok()?).ok()?;
    date.to_datetime(zoned.time()).to_zoned(zoned.time_zone().clone()).ok()
}
