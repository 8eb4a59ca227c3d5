//! Sprig's functions on lists. None changes its list; each makes another.

use super::{
    super::value::{DEPTH, Element, List, Outcome, Run, Value},
    Arguments, Function,
    Param::{Any, Int},
    basics::is_empty,
    function, variadic,
};

pub(super) const FUNCTIONS: &[Function] = &[
    variadic("list", &[], Any, |run, it| run.list(Element::Any, it.rest(0).to_vec())),
    variadic("tuple", &[], Any, |run, it| run.list(Element::Any, it.rest(0).to_vec())),
    function("append", &[Any, Any], append),
    function("push", &[Any, Any], append),
    function("mustAppend", &[Any, Any], append),
    function("mustPush", &[Any, Any], append),
    function("prepend", &[Any, Any], prepend),
    function("mustPrepend", &[Any, Any], prepend),
    function("first", &[Any], |_, it| Ok(it.list(0)?.first().cloned().unwrap_or(Value::Nil))),
    function("mustFirst", &[Any], |_, it| Ok(it.list(0)?.first().cloned().unwrap_or(Value::Nil))),
    function("last", &[Any], |_, it| Ok(it.list(0)?.last().cloned().unwrap_or(Value::Nil))),
    function("mustLast", &[Any], |_, it| Ok(it.list(0)?.last().cloned().unwrap_or(Value::Nil))),
    function("rest", &[Any], |run, it| part(run, it.list(0)?.split_first().map(|(_, rest)| rest))),
    function("mustRest", &[Any], |run, it| part(run, it.list(0)?.split_first().map(|(_, rest)| rest))),
    function("initial", &[Any], |run, it| part(run, it.list(0)?.split_last().map(|(_, rest)| rest))),
    function("mustInitial", &[Any], |run, it| part(run, it.list(0)?.split_last().map(|(_, rest)| rest))),
    function("reverse", &[Any], reverse),
    function("mustReverse", &[Any], reverse),
    function("uniq", &[Any], uniq),
    function("mustUniq", &[Any], uniq),
    function("compact", &[Any], compact),
    function("mustCompact", &[Any], compact),
    variadic("without", &[Any], Any, without),
    variadic("mustWithout", &[Any], Any, without),
    function("has", &[Any, Any], has),
    function("mustHas", &[Any, Any], has),
    variadic("slice", &[Any], Any, slice),
    variadic("mustSlice", &[Any], Any, slice),
    variadic("concat", &[], Any, concat),
    function("chunk", &[Int, Any], chunk),
    function("mustChunk", &[Int, Any], chunk),
];

fn append(run: &Run, it: &Arguments) -> Outcome {
    run.list(Element::Any, [it.list(0)?, &[it.value(1).clone()][..]].concat())
}

fn prepend(run: &Run, it: &Arguments) -> Outcome {
    run.list(Element::Any, [&[it.value(1).clone()][..], it.list(0)?].concat())
}

fn part(run: &Run, items: Option<&[Value]>) -> Outcome {
    items.map_or_else(|| Ok(Run::nil_list(Element::Any)), |items| run.list(Element::Any, items.to_vec()))
}

fn reverse(run: &Run, it: &Arguments) -> Outcome {
    run.list(Element::Any, it.list(0)?.iter().rev().cloned().collect())
}

fn among(run: &Run, items: &[Value], item: &Value) -> Outcome<bool> {
    for other in items {
        if item.equal(other, run, DEPTH)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn uniq(run: &Run, it: &Arguments) -> Outcome {
    let mut kept: Vec<Value> = Vec::new();
    for item in it.list(0)?.iter() {
        if !among(run, &kept, item)? {
            kept.push(item.clone());
        }
    }
    run.list(Element::Any, kept)
}

fn compact(run: &Run, it: &Arguments) -> Outcome {
    run.list(Element::Any, it.list(0)?.iter().filter(|item| !is_empty(item)).cloned().collect())
}

fn without(run: &Run, it: &Arguments) -> Outcome {
    let mut kept = Vec::new();
    for item in it.list(0)?.iter() {
        if !among(run, it.rest(1), item)? {
            kept.push(item.clone());
        }
    }
    run.list(Element::Any, kept)
}

fn has(run: &Run, it: &Arguments) -> Outcome {
    if it.value(1).is_nil() {
        return Ok(Value::Bool(false));
    }
    among(run, it.list(1)?, it.value(0)).map(Value::Bool)
}

fn slice(run: &Run, it: &Arguments) -> Outcome {
    let list: &List = it.list(0)?;
    if list.is_empty() {
        return Ok(Value::Nil);
    }
    let bound = |at: usize, missing: usize| {
        let index = it.rest(1).get(at).map(super::numbers::int);
        index.map_or(Some(missing), |index| usize::try_from(index).ok())
    };
    let bounds = bound(0, 0).zip(bound(1, list.len()));
    let items = bounds.and_then(|(start, end)| list.get(start..end)).ok_or("the bounds do not lie within the list")?;
    run.list(list.element(), items.to_vec())
}

fn concat(run: &Run, it: &Arguments) -> Outcome {
    let mut items = Vec::new();
    for at in 0..it.rest(0).len() {
        let list = it.list(at)?;
        run.charge(list.len())?;
        items.extend(list.iter().cloned());
    }
    if items.is_empty() { Ok(Run::nil_list(Element::Any)) } else { run.list(Element::Any, items) }
}

fn chunk(run: &Run, it: &Arguments) -> Outcome {
    let size =
        usize::try_from(it.int(0)).ok().filter(|size| *size > 0).ok_or("the size of a chunk must be positive")?;
    let chunks = it.list(1)?.chunks(size).map(|chunk| run.list(Element::Any, chunk.to_vec()));
    run.list(Element::List, chunks.collect::<Outcome<_>>()?)
}
