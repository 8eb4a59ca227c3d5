//! Where each value of one document stands. Knows nothing of edits.

use std::ops::Range;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, StructureStyle};

/// One document's text, and its values' places in it.
pub struct Tree<'a> {
    pub text: &'a str,
    pub root: Node,
    /// It is JSON as well, and has to stay that.
    json: bool,
}

/// A value. Its place leaves out an anchor and a tag before it.
#[derive(Debug)]
pub struct Node {
    pub span: Range<usize>,
    pub shape: Shape,
    /// Something refers to it, or may.
    pub anchored: bool,
}

#[derive(Debug)]
pub enum Shape {
    Scalar(ScalarStyle),
    Mapping { flow: bool, entries: Vec<Entry> },
    Sequence { flow: bool, items: Vec<Node> },
    Alias,
}

/// A key and its value.
#[derive(Debug)]
pub struct Entry {
    pub name: String,
    pub key: Range<usize>,
    pub key_style: ScalarStyle,
    pub value: Node,
}

struct Reader<'a> {
    text: &'a str,
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    /// Where the token before ended.
    behind: usize,
}

impl<'a> Tree<'a> {
    /// Reads a text that `crds::yaml` has read before, so that its limits have held.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        let mut options = Options::default();
        options.emit_comments = false;
        options.flow_nesting_limit = 512;
        options.block_nesting_limit = 512;
        let mut reader = Reader { text, parser: Parser::new_from_str_with_options(text, options), behind: 0 };
        loop {
            let (event, span) = reader.next()?;
            if !matches!(event, Event::StreamStart | Event::DocumentStart(..)) {
                let json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
                return Ok(Self { text, root: reader.node(&event, span)?, json });
            }
        }
    }
}

impl Tree<'_> {
    pub fn slice(&self, range: Range<usize>) -> &str {
        self.text.get(range).unwrap_or_default()
    }

    /// Where the key at the end of a path stands, or the last one of the path that is there, in an object or an item
    /// of a list.
    pub fn find(&self, items: &[usize], path: &[&str]) -> Option<usize> {
        let mut node = self.object(items)?;
        let mut at = node.span.start;
        for key in path {
            let Some(entry) = node.entry(key) else { break };
            (node, at) = (&entry.value, entry.key.start);
        }
        Some(at)
    }

    /// The scalar without quotes at the end of a path in an object or an item of a list. JSON has none.
    pub fn plain(&self, items: &[usize], path: &[&str]) -> Option<&str> {
        let node = path.iter().try_fold(self.object(items)?, |node, key| Some(&node.entry(key)?.value))?;
        let plain = matches!(node.shape, Shape::Scalar(ScalarStyle::Plain)) && !self.json;
        plain.then(|| self.slice(node.span.clone()))
    }

    /// The document's object, or an item of its list, or of a list in that.
    fn object(&self, items: &[usize]) -> Option<&Node> {
        items.iter().try_fold(&self.root, |node, item| {
            let Shape::Sequence { items, .. } = &node.entry("items")?.value.shape else { return None };
            items.get(item.checked_sub(1)?)
        })
    }

    /// As the text has them.
    pub fn line_break(&self) -> &'static str {
        if self.text.contains("\r\n") { "\r\n" } else { "\n" }
    }

    /// Whether the last line has its break.
    pub fn closed(&self) -> bool {
        self.text.ends_with('\n')
    }

    /// How a text is written where a value of this style stands.
    pub fn style(&self, style: ScalarStyle) -> ScalarStyle {
        if self.json { ScalarStyle::DoubleQuoted } else { style }
    }

    /// Behind the colon of an entry; `None` for a key that has none right behind it.
    pub fn colon(&self, entry: &Entry) -> Option<usize> {
        let rest = self.text.get(entry.key.end..)?;
        let space = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        rest.get(space..)?.starts_with(':').then_some(entry.key.end + space + 1)
    }

    /// Where an entry ends. The parser sees an absent value before the colon.
    pub fn end(&self, entry: &Entry) -> usize {
        let value = &entry.value.span;
        if value.is_empty() { self.colon(entry).unwrap_or(value.end).max(value.end) } else { value.end }
    }

    /// The lines of an entry that has them for itself.
    pub fn lines(&self, entry: &Entry) -> Option<Range<usize>> {
        let start = self.line_start(entry.key.start);
        if !self.slice(start..entry.key.start).trim().is_empty() {
            return None;
        }
        let end = line_end(self.text, self.end(entry));
        let rest = self.text.get(end..)?;
        let line_break = ["\r\n", "\n"].into_iter().find(|line_break| rest.starts_with(line_break));
        match line_break {
            Some(line_break) => Some(start..end + line_break.len()),
            // The last line of a text that does not end with a break: the one before goes.
            None => Some(self.text.get(..start)?.trim_end_matches(['\r', '\n']).len()..end),
        }
    }

    /// In characters, from 0.
    pub fn column(&self, at: usize) -> usize {
        self.slice(self.line_start(at)..at).chars().count()
    }

    /// What the line of a place begins with.
    pub fn indent(&self, at: usize) -> &str {
        let line = self.text.get(self.line_start(at)..).unwrap_or_default();
        line.get(..line.len() - line.trim_start_matches([' ', '\t']).len()).unwrap_or_default()
    }

    /// By how much a mapping within a mapping is indented; two where nothing shows it.
    pub fn step(&self) -> usize {
        self.narrowest(&self.root).unwrap_or(2)
    }

    /// The indentation of a key in flow style, and a step of it; `None` when it does not begin its line.
    pub fn layout(&self, key: usize) -> Option<(&str, &str)> {
        let own = self.indent(key);
        if own.len() != key - self.line_start(key) {
            return None;
        }
        let before = self.text.get(..self.line_start(key))?.lines().rev();
        let outer = before.map(|line| line.get(..line.len() - line.trim_start_matches([' ', '\t']).len()));
        let step = outer.flatten().filter(|outer| outer.len() < own.len()).find_map(|outer| own.strip_prefix(outer));
        Some((own, step.unwrap_or("  ")))
    }

    fn line_start(&self, at: usize) -> usize {
        self.text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |found| found + 1)
    }

    fn narrowest(&self, node: &Node) -> Option<usize> {
        match &node.shape {
            Shape::Mapping { flow: false, entries } => {
                let steps = entries.iter().filter_map(|entry| {
                    let step = match &entry.value.shape {
                        Shape::Mapping { flow: false, .. } => {
                            self.column(entry.value.span.start).checked_sub(self.column(entry.key.start))
                        }
                        _ => None,
                    };
                    step.into_iter().chain(self.narrowest(&entry.value)).min()
                });
                steps.filter(|step| *step > 0).min()
            }
            Shape::Sequence { flow: false, items } => items.iter().filter_map(|item| self.narrowest(item)).min(),
            _ => None,
        }
    }
}

impl Node {
    fn entry(&self, key: &str) -> Option<&Entry> {
        let Shape::Mapping { entries, .. } = &self.shape else { return None };
        entries.iter().find(|entry| entry.name == key)
    }

    /// Whether something in it is, or refers to, what stands elsewhere too.
    pub fn shared(&self) -> bool {
        self.anchored
            || match &self.shape {
                Shape::Scalar(_) => false,
                Shape::Alias => true,
                Shape::Mapping { entries, .. } => entries.iter().any(|entry| entry.value.shared()),
                Shape::Sequence { items, .. } => items.iter().any(Self::shared),
            }
    }
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), String> {
        let broken = |error: Option<&dyn std::fmt::Display>| {
            error.map_or_else(|| "it ends too early".to_owned(), ToString::to_string)
        };
        match self.parser.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(broken(Some(&error))),
            None => Err(broken(None)),
        }
    }

    fn node(&mut self, event: &Event<'a>, span: Span) -> Result<Node, String> {
        let range = span.byte_range().ok_or("it has no bytes")?;
        match event {
            Event::Scalar(_, style, anchor, _) => {
                let range = match style {
                    ScalarStyle::Literal | ScalarStyle::Folded => self.block_scalar(&range, *style),
                    _ => range,
                };
                self.behind = range.end;
                Ok(Node { span: range, shape: Shape::Scalar(*style), anchored: *anchor > 0 })
            }
            Event::Alias(_) => {
                self.behind = range.end;
                Ok(Node { span: range, shape: Shape::Alias, anchored: true })
            }
            Event::MappingStart(style, anchor, _) => {
                let flow = *style == StructureStyle::Flow;
                self.behind = range.end;
                let mut entries: Vec<Entry> = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::MappingEnd {
                        let inner = entries.last().map(|entry| entry.value.span.end);
                        let span = self.collection(flow, &range, span, inner);
                        return Ok(Node { span, shape: Shape::Mapping { flow, entries }, anchored: *anchor > 0 });
                    }
                    let Event::Scalar(name, key_style, ..) = &event else {
                        return Err("a key is not a scalar".to_owned());
                    };
                    let key = span.byte_range().ok_or("it has no bytes")?;
                    self.behind = key.end;
                    let (event, span) = self.next()?;
                    let value = self.node(&event, span)?;
                    entries.push(Entry { name: name.to_string(), key, key_style: *key_style, value });
                }
            }
            Event::SequenceStart(style, anchor, _) => {
                let flow = *style == StructureStyle::Flow;
                self.behind = range.end;
                let mut items: Vec<Node> = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::SequenceEnd {
                        let inner = items.last().map(|item| item.span.end);
                        let span = self.collection(flow, &range, span, inner);
                        return Ok(Node { span, shape: Shape::Sequence { flow, items }, anchored: *anchor > 0 });
                    }
                    items.push(self.node(&event, span)?);
                }
            }
            _ => Err("something else than a value stands here".to_owned()),
        }
    }

    /// From a block scalar's content to all of it: from its `|` or `>` to the end of its last line that counts.
    fn block_scalar(&self, content: &Range<usize>, style: ScalarStyle) -> Range<usize> {
        let sign = if style == ScalarStyle::Literal { '|' } else { '>' };
        // The header is the last line before the content; without content the parser points at the header itself.
        let before = self.text.get(self.behind..content.start).unwrap_or_default().trim_end();
        let line = before.rfind('\n').map_or(0, |found| found + 1);
        let found = before.get(line..).and_then(|header| header.find(sign)).map(|found| self.behind + line + found);
        let start = found.unwrap_or(content.start);
        let header = self.text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let indicator = header.split_whitespace().next().unwrap_or_default();
        let whole = self.text.get(start..content.end.max(start + header.len())).unwrap_or_default();
        if indicator.contains('+') {
            let body = whole.strip_suffix('\n').unwrap_or(whole);
            return start..start + body.strip_suffix('\r').unwrap_or(body).len();
        }
        // Spaces at the end of the last line are content, those on a line of their own are not.
        let last = start + whole.trim_end().len();
        start..line_end(self.text, last)
    }

    /// A block collection ends with what it holds; its own end is only seen at the next token.
    fn collection(&mut self, flow: bool, start: &Range<usize>, end: Span, inner: Option<usize>) -> Range<usize> {
        let closed = end.byte_range().map(|range| range.end).filter(|_| flow);
        let end = closed.or(inner).unwrap_or(start.end);
        self.behind = end;
        start.start..end
    }
}

/// The end of the line on which `at` stands, before its line break.
pub fn line_end(text: &str, at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    let line = rest.split('\n').next().unwrap_or_default();
    at + line.strip_suffix('\r').unwrap_or(line).len()
}
