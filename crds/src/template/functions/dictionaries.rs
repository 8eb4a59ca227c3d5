//! Sprig's functions on dicts. `set`, `unset` and the merges change the dict that they are given, as in Go.

use super::{
    super::value::{DEPTH, Element, Map, Outcome, Run, STEP, TOO_DEEP, Text as Bytes, Value},
    Arguments, Function,
    Param::{Any, Map as Dict, Text},
    basics::is_empty,
    function,
    strings::shown,
    variadic,
};

pub(super) const FUNCTIONS: &[Function] = &[
    variadic("dict", &[], Any, |run, it| {
        let map = run.map(Element::Any)?;
        for pair in it.rest(0).chunks(2) {
            let value = pair.get(1).map_or_else(|| run.text(""), |value| Ok(value.clone()))?;
            map.set(run, Bytes::new(shown(run, pair.first().unwrap_or(&Value::Nil))?), value)?;
        }
        Ok(Value::Map(map))
    }),
    function("get", &[Dict, Text], |run, it| {
        it.map(0).and_then(|map| map.get(it.text(1))).map_or_else(|| run.text(""), Ok)
    }),
    function("set", &[Dict, Text, Any], |run, it| {
        if let Some(map) = it.map(0) {
            map.set(run, Bytes::new(it.text(1).to_vec()), it.value(2).clone())?;
        }
        Ok(it.value(0).clone())
    }),
    function("unset", &[Dict, Text], |_, it| {
        if let Some(map) = it.map(0) {
            map.remove(it.text(1));
        }
        Ok(it.value(0).clone())
    }),
    function("hasKey", &[Dict, Text], |_, it| {
        Ok(Value::Bool(it.map(0).is_some_and(|map| map.get(it.text(1)).is_some())))
    }),
    variadic("pluck", &[Text], Dict, |run, it| {
        let maps = (1..=it.rest(1).len()).filter_map(|at| it.map(at));
        run.list(Element::Any, maps.filter_map(|map| map.get(it.text(0))).collect())
    }),
    // In the order of the keys; upstream's order is chance.
    variadic("keys", &[], Dict, |run, it| {
        let mut keys = Vec::new();
        for map in (0..it.rest(0).len()).filter_map(|at| it.map(at)) {
            keys.extend(map.entries(run)?.into_iter().map(|(key, _)| Value::Text(key)));
        }
        run.list(Element::Text, keys)
    }),
    function("values", &[Dict], |run, it| {
        let entries = it.map(0).map(|map| map.entries(run)).transpose()?.unwrap_or_default();
        run.list(Element::Any, entries.into_iter().map(|(_, value)| value).collect())
    }),
    variadic("pick", &[Dict], Text, |run, it| {
        let picked = run.map(Element::Any)?;
        for key in (1..=it.rest(1).len()).map(|at| it.text(at)) {
            if let Some(value) = it.map(0).and_then(|map| map.get(key)) {
                picked.set(run, Bytes::new(key.to_vec()), value)?;
            }
        }
        Ok(Value::Map(picked))
    }),
    variadic("omit", &[Dict], Text, |run, it| {
        let kept = run.map(Element::Any)?;
        for (key, value) in it.map(0).map(|map| map.entries(run)).transpose()?.unwrap_or_default() {
            run.charge(STEP * it.rest(1).len())?;
            if !(1..=it.rest(1).len()).any(|at| it.text(at) == &*key) {
                kept.set(run, key, value)?;
            }
        }
        Ok(Value::Map(kept))
    }),
    variadic("merge", &[Dict], Dict, |run, it| merged(run, it, false)),
    variadic("mustMerge", &[Dict], Dict, |run, it| merged(run, it, false)),
    variadic("mergeOverwrite", &[Dict], Dict, |run, it| merged(run, it, true)),
    variadic("mustMergeOverwrite", &[Dict], Dict, |run, it| merged(run, it, true)),
    variadic("dig", &[Any, Any, Any], Any, |_, it| {
        let [path @ .., default, dict] = it.rest(0) else {
            return Err("dig needs at least three arguments");
        };
        let mut value = dict.clone();
        for key in path {
            let (Value::Map(map), Value::Text(key)) = (&value, key) else {
                return Err("dig follows string keys through dicts");
            };
            if map.element() != Element::Any {
                return Err("dig follows string keys through dicts");
            }
            match map.get(key) {
                Some(found) => value = found,
                None => return Ok(default.clone()),
            }
        }
        Ok(value)
    }),
];

fn merged(run: &Run, it: &Arguments, overwrites: bool) -> Outcome {
    if let Some(target) = it.map(0) {
        for source in (1..=it.rest(1).len()).filter_map(|at| it.map(at)) {
            merge(run, target, source, overwrites, DEPTH)?;
        }
    }
    Ok(it.value(0).clone())
}

/// What is empty in the target, or missing, comes from the source; dicts in both are merged.
fn merge(run: &Run, target: &Map, source: &Map, overwrites: bool, depth: usize) -> Outcome<()> {
    let depth = depth.checked_sub(1).ok_or(TOO_DEEP)?;
    for (key, from) in source.entries(run)? {
        run.charge(STEP)?;
        match (target.get(&key), &from) {
            (Some(Value::Map(inner)), Value::Map(source)) if inner.element() == source.element() => {
                merge(run, &inner, source, overwrites, depth)?;
            }
            (Some(before), _) if !overwrites && !is_empty(&before) => {}
            // Nil is nothing to add.
            (None, Value::Absent | Value::Nil) => {}
            _ => target.set(run, key, from)?,
        }
    }
    Ok(())
}
