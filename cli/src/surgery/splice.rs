//! One change to the text of one document. Whether the result says what it should is checked by the caller.

use std::ops::Range;

use granit_parser::ScalarStyle;
use serde_json::Value;

use super::{
    Change, Path, Refusal, Step,
    scalar::{self, Look},
    tree::{Entry, Node, Shape, Tree, line_end},
};

/// A value, and what it stands in.
struct Spot<'a> {
    node: &'a Node,
    /// The key that it belongs to, when it is in a mapping.
    owner: Option<&'a Entry>,
    /// Within `{}` or `[]`.
    in_flow: bool,
}

/// The text with the change made.
pub fn apply(tree: &Tree<'_>, path: &Path, change: &Change) -> Result<String, Refusal> {
    let spot = find(tree, path)?;
    let (range, replacement) = match change {
        Change::Set(value) => set(tree, &spot, value)?,
        Change::Remove(key) => remove(tree, &spot, key)?,
        Change::Replace(key, value) => replace(tree, &spot, key, value)?,
        Change::Insert(key, value) => insert(tree, &spot, key, value)?,
    };
    let (before, after) = (tree.text.get(..range.start), tree.text.get(range.end..));
    Ok([before.unwrap_or_default(), &replacement, after.unwrap_or_default()].concat())
}

fn find<'a>(tree: &'a Tree<'_>, path: &Path) -> Result<Spot<'a>, Refusal> {
    let mut spot = Spot { node: &tree.root, owner: None, in_flow: false };
    for step in &path.0 {
        if spot.node.anchored {
            return Err(Refusal::Shared);
        }
        spot = match (&spot.node.shape, step) {
            (Shape::Mapping { flow, entries }, Step::Key(key)) => {
                let owner = entries.iter().find(|entry| entry.name == *key).ok_or(Refusal::Shared)?;
                Spot { node: &owner.value, owner: Some(owner), in_flow: *flow }
            }
            (Shape::Sequence { flow, items }, Step::Item(item)) => {
                Spot { node: items.get(*item).ok_or(Refusal::Unsupported)?, owner: None, in_flow: *flow }
            }
            _ => return Err(Refusal::Unsupported),
        };
    }
    if spot.node.anchored { Err(Refusal::Shared) } else { Ok(spot) }
}

fn set(tree: &Tree<'_>, spot: &Spot<'_>, value: &Value) -> Result<(Range<usize>, String), Refusal> {
    let Shape::Scalar(style) = spot.node.shape else { return Err(Refusal::Unsupported) };
    let span = spot.node.span.clone();
    let block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
    let mut lines = tree.slice(span.clone()).lines();
    let header = lines.next().filter(|_| block).unwrap_or_default();
    let content = lines.find(|line| !line.trim().is_empty()).unwrap_or_default();
    let indent = content.get(..content.len() - content.trim_start().len()).unwrap_or_default();
    let text = scalar::write(
        value,
        &Look {
            style: if block && indent.is_empty() { ScalarStyle::DoubleQuoted } else { tree.style(style) },
            flow: spot.in_flow,
            indent,
            line_break: tree.line_break(),
            closed: tree.closed(),
            remark: header.trim_start_matches(|c: char| "|>+-".contains(c) || c.is_ascii_digit()),
        },
    );
    if !span.is_empty() {
        return Ok((span, text));
    }
    let colon = spot.owner.and_then(|owner| tree.colon(owner)).ok_or(Refusal::Unsupported)?;
    Ok((colon..colon, format!(" {text}")))
}

fn remove(tree: &Tree<'_>, spot: &Spot<'_>, key: &str) -> Result<(Range<usize>, String), Refusal> {
    let Shape::Mapping { flow, entries } = &spot.node.shape else { return Err(Refusal::Unsupported) };
    // What the parsed value has and the text has not came through a merge key.
    let index = entries.iter().position(|entry| entry.name == key).ok_or(Refusal::Shared)?;
    let entry = entries.get(index).ok_or(Refusal::Unsupported)?;
    if entry.value.shared() {
        return Err(Refusal::Shared);
    }
    let (before, after) = (index.checked_sub(1).and_then(|index| entries.get(index)), entries.get(index + 1));
    let gone = match (flow, before, after) {
        (true, None, None) => spot.node.span.start + 1..spot.node.span.end - 1,
        (true, Some(before), _) => tree.end(before)..tree.end(entry),
        (true, None, Some(after)) => entry.key.start..after.key.start,
        (false, None, None) => {
            let Some(owner) = spot.owner else { return Ok((spot.node.span.clone(), "{}".to_owned())) };
            let colon = tree.colon(owner).ok_or(Refusal::Unsupported)?;
            let lines = tree.lines(entry).ok_or(Refusal::Unsupported)?;
            let between = tree.slice(colon..lines.start);
            return Ok((colon..lines.end, format!(" {{}}{between}")));
        }
        (false, _, after) => match (tree.lines(entry), after) {
            (Some(lines), _) => lines,
            // The first key of a list's item, beside its dash.
            (None, Some(after)) if tree.column(entry.key.start) == tree.column(after.key.start) => {
                entry.key.start..after.key.start
            }
            (None, _) => return Err(Refusal::Unsupported),
        },
    };
    Ok((gone, String::new()))
}

/// Keeps the place, and a comment behind the old value.
fn replace(tree: &Tree<'_>, spot: &Spot<'_>, key: &str, value: &Value) -> Result<(Range<usize>, String), Refusal> {
    let Shape::Mapping { flow, entries } = &spot.node.shape else { return Err(Refusal::Unsupported) };
    let entry = entries.iter().find(|entry| entry.name == key).ok_or(Refusal::Shared)?;
    if entry.value.shared() {
        return Err(Refusal::Shared);
    }
    let (start, end) = (entry.key.start, tree.end(entry));
    let manner = Manner::new(tree, entry.key_style);
    if *flow {
        return Ok((start..end, format!("{}: {}", manner.key(key, true), manner.flow(value, tree.layout(start)))));
    }
    let line_end = line_end(tree.text, end);
    let text = manner.block(key, value, &" ".repeat(tree.column(start)));
    let (first, rest) = text.split_at(text.find(manner.line_break).unwrap_or(text.len()));
    Ok((start..line_end, [first.trim_start(), tree.slice(end..line_end), rest].concat()))
}

fn insert(tree: &Tree<'_>, spot: &Spot<'_>, key: &str, value: &Value) -> Result<(Range<usize>, String), Refusal> {
    match &spot.node.shape {
        Shape::Mapping { flow, entries } if !entries.is_empty() => {
            let neighbour = neighbour(entries, key).ok_or(Refusal::Unsupported)?;
            let beside = if *flow { insert_in_flow } else { insert_in_block };
            Ok(beside(tree, entries, neighbour, (key, value)))
        }
        Shape::Mapping { .. } | Shape::Scalar(_) => insert_first(tree, spot, (key, value)),
        Shape::Sequence { .. } | Shape::Alias => Err(Refusal::Unsupported),
    }
}

/// The entry to stand after: by name where all are in order, else the last.
fn neighbour<'a>(entries: &'a [Entry], key: &str) -> Option<&'a Entry> {
    let sorted = entries.is_sorted_by(|a, b| a.name <= b.name);
    entries.iter().rev().find(|entry| sorted && entry.name.as_str() < key).or(entries.last())
}

fn insert_in_block(
    tree: &Tree<'_>,
    _: &[Entry],
    neighbour: &Entry,
    (key, value): (&str, &Value),
) -> (Range<usize>, String) {
    let at = line_end(tree.text, tree.end(neighbour));
    let indent = " ".repeat(tree.column(neighbour.key.start));
    let entry = Manner::of(tree, neighbour).block(key, value, &indent);
    (at..at, tree.line_break().to_owned() + &entry)
}

fn insert_in_flow(
    tree: &Tree<'_>,
    entries: &[Entry],
    neighbour: &Entry,
    (key, value): (&str, &Value),
) -> (Range<usize>, String) {
    let colon = Some(tree.slice(neighbour.key.end..neighbour.value.span.start));
    let colon = colon.filter(|text| text.trim() == ":" && !text.contains('\n')).unwrap_or(": ");
    let start = neighbour.key.start;
    let layout = tree.layout(start);
    let gap = match layout {
        Some((indent, _)) => format!("{}{indent}", tree.line_break()),
        None if entries.first().is_some_and(|first| first.key == neighbour.key) => colon.replace(':', ""),
        None => tree.slice(tree.text.get(..start).map_or(0, |text| text.trim_end().len())..start).to_owned(),
    };
    let manner = Manner::of(tree, neighbour);
    let at = tree.end(neighbour);
    (at..at, format!(",{gap}{}{colon}{}", manner.key(key, true), manner.flow(value, layout)))
}

/// Into `{}`, or where there is nothing yet.
fn insert_first(
    tree: &Tree<'_>,
    spot: &Spot<'_>,
    (key, value): (&str, &Value),
) -> Result<(Range<usize>, String), Refusal> {
    let span = spot.node.span.clone();
    let whole = Value::Object([(key.to_owned(), value.clone())].into_iter().collect());
    let Some(owner) = spot.owner else {
        return Ok((span, Manner::new(tree, ScalarStyle::Plain).flow(&whole, None)));
    };
    let colon = tree.colon(owner).ok_or(Refusal::Unsupported)?;
    if !tree.slice(colon..span.start.max(colon)).trim().is_empty() {
        return Err(Refusal::Unsupported); // a tag
    }
    let manner = Manner::new(tree, owner.key_style);
    let end = span.end.max(colon);
    if spot.in_flow {
        return Ok((colon..end, format!(" {}", manner.flow(&whole, tree.layout(owner.key.start)))));
    }
    let line_end = line_end(tree.text, end);
    let remark = tree.slice(end..line_end).trim_end();
    let indent = format!("{}{}", " ".repeat(tree.column(owner.key.start)), manner.step);
    Ok((colon..line_end, format!("{remark}{}{}", tree.line_break(), manner.block(key, value, &indent))))
}

/// How new entries are written.
struct Manner<'a> {
    key: ScalarStyle,
    value: ScalarStyle,
    line_break: &'a str,
    closed: bool,
    /// One step of a block's indentation.
    step: String,
}

impl<'a> Manner<'a> {
    fn new(tree: &'a Tree<'_>, style: ScalarStyle) -> Self {
        let step = " ".repeat(tree.step());
        let style = tree.style(style);
        Self { key: style, value: style, line_break: tree.line_break(), closed: tree.closed(), step }
    }

    /// As a neighbour is written.
    fn of(tree: &'a Tree<'_>, neighbour: &Entry) -> Self {
        let value = match neighbour.value.shape {
            Shape::Scalar(style) if !neighbour.value.span.is_empty() => tree.style(style),
            _ => neighbour.key_style,
        };
        Self { value, ..Self::new(tree, neighbour.key_style) }
    }

    fn key(&self, key: &str, flow: bool) -> String {
        self.scalar(&Value::from(key), self.key, flow, "")
    }

    fn scalar(&self, value: &Value, style: ScalarStyle, flow: bool, indent: &str) -> String {
        let Self { line_break, closed, .. } = *self;
        scalar::write(value, &Look { style, flow, indent, line_break, closed, remark: "" })
    }

    /// Lines of an entry; the last one without its break.
    fn block(&self, key: &str, value: &Value, indent: &str) -> String {
        let deeper = format!("{indent}{}", self.step);
        let key = format!("{indent}{}:", self.key(key, false));
        match value {
            Value::Object(fields) if !fields.is_empty() => fields.iter().fold(key, |text, (key, value)| {
                format!("{text}{}{}", self.line_break, self.block(key, value, &deeper))
            }),
            Value::Array(items) if !items.is_empty() => items
                .iter()
                .fold(key, |text, item| format!("{text}{}{indent}- {}", self.line_break, self.flow(item, None))),
            Value::Object(_) | Value::Array(_) => format!("{key} {}", self.flow(value, None)),
            Value::String(text) if text.contains('\n') => {
                format!("{key} {}", self.scalar(value, ScalarStyle::Literal, false, &deeper))
            }
            scalar => format!("{key} {}", self.scalar(scalar, self.value, false, &deeper)),
        }
    }

    /// A value in one line or, with the indentation of its first line and a step of it, in several.
    fn flow(&self, value: &Value, layout: Option<(&str, &str)>) -> String {
        let inner = layout.map(|(indent, step)| format!("{indent}{step}"));
        let deeper = inner.as_deref().zip(layout.map(|(_, step)| step));
        let (open, parts, close): (_, Vec<String>, _) = match value {
            Value::Object(fields) => {
                let pair =
                    |(key, value): (&String, &Value)| format!("{}: {}", self.key(key, true), self.flow(value, deeper));
                ('{', fields.iter().map(pair).collect(), '}')
            }
            Value::Array(items) => ('[', items.iter().map(|item| self.flow(item, deeper)).collect(), ']'),
            scalar => return self.scalar(scalar, self.value, true, ""),
        };
        match (inner, layout) {
            (Some(inner), Some((indent, _))) if !parts.is_empty() => {
                let (line_break, between) = (self.line_break, format!(",{}{inner}", self.line_break));
                format!("{open}{line_break}{inner}{}{line_break}{indent}{close}", parts.join(&between))
            }
            _ => format!("{open}{}{close}", parts.join(", ")),
        }
    }
}
