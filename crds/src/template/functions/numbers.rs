//! Sprig's arithmetic. It never fails on what is no number: that counts as 0, as upstream has it.

use bigdecimal::BigDecimal;

use super::{
    super::{
        literal,
        value::{Buffer, Element, Outcome, Run, Value, Width},
    },
    Arguments, Function,
    Param::{Any, Float, Int},
    basics::with,
    function,
    strings::shown,
    variadic,
};

pub(super) const FUNCTIONS: &[Function] = &[
    function("atoi", &[super::Param::Text], |_, it| {
        let text = str::from_utf8(it.text(0)).ok();
        Ok(Value::int(text.and_then(|text| text.parse().ok()).unwrap_or_default()))
    }),
    function("int", &[Any], |_, it| Ok(Value::int(int(it.value(0))))),
    function("int64", &[Any], |_, it| Ok(int64(int(it.value(0))))),
    function("float64", &[Any], |_, it| Ok(Value::Float(float(it.value(0))))),
    function("toDecimal", &[Any], |run, it| {
        let octal = String::from_utf8(shown(run, it.value(0))?).unwrap_or_default();
        Ok(int64(i64::from_str_radix(&octal, 8).unwrap_or_default()))
    }),
    function("add1", &[Any], |_, it| Ok(int64(int(it.value(0)).wrapping_add(1)))),
    variadic("add", &[], Any, |_, it| Ok(int64(it.rest(0).iter().map(int).fold(0, i64::wrapping_add)))),
    function("sub", &[Any, Any], |_, it| Ok(int64(int(it.value(0)).wrapping_sub(int(it.value(1)))))),
    function("div", &[Any, Any], |_, it| divided(it, i64::checked_div)),
    function("mod", &[Any, Any], |_, it| divided(it, i64::checked_rem)),
    variadic("mul", &[Any], Any, |_, it| Ok(int64(it.rest(0).iter().map(int).fold(1, i64::wrapping_mul)))),
    function("add1f", &[Any], |run, it| {
        let one = [it.value(0).clone(), Value::int(1)];
        decimal(run, &one, |a, b| Some(a + b))
    }),
    variadic("addf", &[], Any, |run, it| decimal(run, it.rest(0), |a, b| Some(a + b))),
    variadic("subf", &[Any], Any, |run, it| decimal(run, it.rest(0), |a, b| Some(a - b))),
    variadic("divf", &[Any], Any, |run, it| decimal(run, it.rest(0), quotient)),
    variadic("mulf", &[Any], Any, |run, it| decimal(run, it.rest(0), |a, b| Some(a * b))),
    variadic("max", &[Any], Any, |_, it| Ok(int64(it.rest(0).iter().map(int).max().unwrap_or_default()))),
    variadic("biggest", &[Any], Any, |_, it| Ok(int64(it.rest(0).iter().map(int).max().unwrap_or_default()))),
    variadic("min", &[Any], Any, |_, it| Ok(int64(it.rest(0).iter().map(int).min().unwrap_or_default()))),
    variadic("maxf", &[Any], Any, |_, it| Ok(extreme(it, f64::max))),
    variadic("minf", &[Any], Any, |_, it| Ok(extreme(it, f64::min))),
    function("floor", &[Any], |_, it| Ok(Value::Float(float(it.value(0)).floor()))),
    function("ceil", &[Any], |_, it| Ok(Value::Float(float(it.value(0)).ceil()))),
    variadic("round", &[Any, Int], Float, |_, it| {
        let on = if let Some(Value::Float(on)) = it.rest(2).first() { *on } else { 0.5 };
        let power = 10f64.powi(i32::try_from(it.int(1).clamp(-400, 400)).unwrap_or_default());
        let digit = power * float(it.value(0));
        Ok(Value::Float(if digit.fract() >= on { digit.ceil() } else { digit.floor() } / power))
    }),
    function("until", &[Int], |run, it| {
        let count = it.int(0);
        listed(run, 0, count, if count < 0 { -1 } else { 1 })
    }),
    function("untilStep", &[Int, Int, Int], |run, it| listed(run, it.int(0), it.int(1), it.int(2))),
    variadic("seq", &[], Int, sequence),
    function("randInt", &[Int, Int], |run, it| {
        let span = it.int(1).checked_sub(it.int(0)).and_then(|span| u64::try_from(span).ok()).filter(|span| *span > 0);
        let drawn = run.below(span.ok_or("the maximum must be larger than the minimum")?);
        Ok(Value::int(it.int(0).wrapping_add_unsigned(drawn)))
    }),
];

fn int64(int: i64) -> Value {
    Value::Int(Width::Int64, int)
}

/// What `cast.ToInt64` makes of it.
#[allow(clippy::cast_possible_truncation, reason = "a float beyond is as large as can be")]
pub(super) fn int(value: &Value) -> i64 {
    match value {
        Value::Bool(bool) => i64::from(*bool),
        Value::Int(_, int) => *int,
        Value::Float(float) => *float as i64,
        Value::Text(text) => {
            str::from_utf8(text).ok().map(without_zeros).and_then(literal::integer).unwrap_or_default()
        }
        _ => 0,
    }
}

/// `12.00` is a whole number.
fn without_zeros(text: &str) -> &str {
    text.split_once('.')
        .filter(|(_, zeros)| !zeros.is_empty() && zeros.bytes().all(|byte| byte == b'0'))
        .map_or(text, |(whole, _)| whole)
}

/// What `cast.ToFloat64` makes of it.
#[allow(clippy::cast_precision_loss, reason = "Go's conversion")]
fn float(value: &Value) -> f64 {
    match value {
        Value::Bool(bool) => f64::from(u8::from(*bool)),
        Value::Int(_, int) => *int as f64,
        Value::Float(float) => *float,
        Value::Text(text) => str::from_utf8(text).ok().and_then(literal::float).unwrap_or_default(),
        _ => 0.0,
    }
}

fn divided(it: &Arguments, divide: fn(i64, i64) -> Option<i64>) -> Outcome {
    divide(int(it.value(0)), int(it.value(1))).map(int64).ok_or("division by zero, or out of range")
}

fn extreme(it: &Arguments, choose: fn(f64, f64) -> f64) -> Value {
    Value::Float(it.rest(0).iter().map(float).reduce(choose).unwrap_or_default())
}

/// Decimal arithmetic, so that 0.1 and 0.2 are 0.3.
fn decimal(run: &Run, values: &[Value], operate: impl Fn(BigDecimal, BigDecimal) -> Option<BigDecimal>) -> Outcome {
    const NO_NUMBER: &str = "no finite number results";
    let exact = |value: &Value| format!("{:e}", float(value)).parse::<BigDecimal>().map_err(|_| NO_NUMBER);
    let Some((first, others)) = values.split_first() else {
        return Ok(Value::Float(0.0));
    };
    let mut result = exact(first)?;
    for other in others {
        run.charge(usize::try_from(result.digits()).unwrap_or(usize::MAX))?;
        result = operate(result, exact(other)?).ok_or(NO_NUMBER)?;
    }
    result.to_string().parse().map(Value::Float).map_err(|_| NO_NUMBER)
}

/// To sixteen places, half away from zero.
fn quotient(a: BigDecimal, b: BigDecimal) -> Option<BigDecimal> {
    let zero = BigDecimal::from(0);
    (b != zero).then(|| (a / b).with_scale_round(16, bigdecimal::RoundingMode::HalfUp))
}

/// The numbers from one to before another.
fn steps(start: i64, stop: i64, step: i64) -> (i64, usize) {
    let distance = if step > 0 { i128::from(stop) - i128::from(start) } else { i128::from(start) - i128::from(stop) };
    let step_size = i128::from(step.unsigned_abs()).max(1);
    let forward = if stop < start { step < 0 } else { step > 0 };
    let count = if forward { (distance.max(0) + step_size - 1) / step_size } else { 0 };
    (step, usize::try_from(count).unwrap_or(usize::MAX))
}

fn listed(run: &Run, start: i64, stop: i64, step: i64) -> Outcome {
    let (step, count) = steps(start, stop, step);
    run.charge(count.saturating_mul(16))?;
    let numbers = (0..count).scan(start, |next, _| {
        let number = *next;
        *next = next.wrapping_add(step);
        Some(Value::int(number))
    });
    run.list(Element::Int, numbers.collect())
}

fn sequence(run: &Run, it: &Arguments) -> Outcome {
    let (start, step, end) = match it.rest(0).len() {
        1 => (1, None, it.int(0)),
        2 => (it.int(0), None, it.int(1)),
        3 => (it.int(0), Some(it.int(1)), it.int(2)),
        _ => return run.text(""),
    };
    let direction = if end < start { -1 } else { 1 };
    if direction < 0 && step.is_some_and(|step| step > 0) {
        return run.text("");
    }
    let (step, count) = steps(start, end.saturating_add(direction), step.unwrap_or(direction));
    run.charge(count)?;
    with(run, |out: &mut Buffer| {
        let mut number = start;
        (0..count).try_for_each(|at| {
            if at > 0 {
                out.push(b" ")?;
            }
            out.push(number.to_string().as_bytes())?;
            number = number.wrapping_add(step);
            Ok(())
        })
    })
}
