//! A page of `docs/` as a test reads it: its commands with what they are to answer, the files that it shows, its headings
//! and its links. Pure but for reading the page; it must not know what the commands are for.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use harness::chart;
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// `docs/`.
pub fn folder() -> PathBuf {
    chart::folder().with_file_name("docs")
}

/// One page.
#[derive(Debug, Default)]
pub struct Page {
    pub steps: Vec<Step>,
    /// What links to its headings end in.
    pub anchors: Vec<String>,
    /// Where its links lead.
    pub links: Vec<String>,
    /// What stands in the text as code.
    pub spans: Vec<String>,
    /// The words above its blocks of code: ```` ```console ````.
    pub fences: Vec<String>,
}

/// What a reader does.
#[derive(Debug)]
pub struct Step {
    /// The last heading above it.
    pub heading: String,
    /// How many blocks stand above that of this step.
    pub block: usize,
    pub does: Does,
}

#[derive(Debug)]
pub enum Does {
    /// Keeps what a block shows in the file that it names: ```` ```yaml file=db.yaml ````.
    Write { file: String, text: String },
    /// Types a command.
    Run(Example),
}

/// A command and what it is to answer.
#[derive(Debug, Default)]
pub struct Example {
    pub command: String,
    /// Where the page shows no answer it may be anything.
    pub answer: String,
    pub code: i32,
}

impl Step {
    pub fn runs(&self, command: &str) -> bool {
        matches!(&self.does, Does::Run(example) if example.command == command)
    }
}

impl Page {
    pub fn read(name: &str) -> Result<Self> {
        let path = folder().join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
        Ok(Self::parse(&text))
    }

    pub fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let (mut heading, mut is_heading) = (String::new(), false);
        let mut block: Option<String> = None;
        for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Heading { .. }) => (heading, is_heading) = (String::new(), true),
                Event::End(TagEnd::Heading(_)) => {
                    is_heading = false;
                    page.anchors.push(anchor(&heading));
                }
                Event::Start(Tag::Link { dest_url, .. }) => page.links.push(dest_url.to_string()),
                Event::Start(Tag::CodeBlock(kind)) => {
                    let words = if let CodeBlockKind::Fenced(words) = kind { words.to_string() } else { String::new() };
                    page.fences.push(words);
                    block = Some(String::new());
                }
                Event::End(TagEnd::CodeBlock) => {
                    let (words, text) = (page.fences.last().cloned(), block.take());
                    page.steps.extend(
                        steps(&words.unwrap_or_default(), &text.unwrap_or_default()).into_iter().map(|does| Step {
                            heading: heading.clone(),
                            block: page.fences.len() - 1,
                            does,
                        }),
                    );
                }
                Event::Text(text) | Event::Code(text) if is_heading => heading += &text,
                Event::Text(text) => block.iter_mut().for_each(|block| *block += &text),
                Event::Code(text) => page.spans.push(text.to_string()),
                _ => {}
            }
        }
        page
    }

    pub fn examples(&self) -> impl Iterator<Item = &Example> {
        self.steps.iter().filter_map(|step| match &step.does {
            Does::Run(example) => Some(example),
            Does::Write { .. } => None,
        })
    }
}

/// What mdBook and Git hosts make of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn steps(words: &str, text: &str) -> Vec<Does> {
    if let Some(file) = words.split(' ').find_map(|word| word.strip_prefix("file=")) {
        return vec![Does::Write { file: file.to_owned(), text: text.to_owned() }];
    }
    let mut examples: Vec<Example> = Vec::new();
    for line in text.lines().filter(|_| words == "console") {
        match (line.strip_prefix("$ "), examples.last_mut()) {
            (Some(command), _) => examples.push(Example { command: command.to_owned(), ..Example::default() }),
            (None, Some(last)) if last.command.ends_with('\\') => last.command += &["\n", line].concat(),
            (None, Some(last)) => match line.strip_prefix("? ").and_then(|code| code.parse().ok()) {
                Some(code) => last.code = code,
                None => last.answer += &[line, "\n"].concat(),
            },
            (None, None) => {}
        }
    }
    examples.into_iter().map(Does::Run).collect()
}

/// Whether a text is as a pattern says: `[..]` is anything within a line, a line `...` any lines, and how many blanks is
/// no matter.
pub fn is_like(text: &str, pattern: &str) -> bool {
    let plain = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    lines_are_like(&plain(text), &plain(pattern))
}

fn lines_are_like(text: &[String], pattern: &[String]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((any, rest)) if any == "..." => (0..=text.len()).any(|skipped| lines_are_like(&text[skipped..], rest)),
        Some((first, rest)) => {
            text.split_first().is_some_and(|(line, more)| line_is_like(line, first) && lines_are_like(more, rest))
        }
    }
}

fn line_is_like(line: &str, pattern: &str) -> bool {
    let mut parts: Vec<&str> = pattern.split("[..]").collect();
    let Some(last) = parts.pop().filter(|_| !parts.is_empty()) else { return line == pattern };
    let Some(mut rest) = line.strip_prefix(parts.remove(0)) else { return false };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn patterns_take_what_they_should() {
    assert!(is_like("a  b 7s ago x\n", "a b [..] ago x\n") && is_like("main@1f", "main@[..]"));
    assert!(is_like("a\nb\nc\n", "...\nc\n") && is_like("a d d", "a [..] d") && is_like("", "...\n"));
    for (text, pattern) in
        [("a\nb\n", "a\n"), ("ab", "a"), ("xa", "a[..]"), ("a b c", "a [..] d"), ("a\n", "...\nb\n"), ("ab", "[..]a")]
    {
        assert!(!is_like(text, pattern), "{text:?} is like {pattern:?}");
    }
}

#[test]
fn pages_are_read() {
    let page = Page::parse(
        "# A `b` c\n\n[x](y.md#z) and `seal get`\n\n```yaml file=a.yaml\na: 1\n```\n\n```console\n$ one \\\n  more\n\
         said\n? 2\n$ two\n```\n",
    );
    assert_eq!(
        (page.anchors[0].as_str(), page.links[0].as_str(), page.spans[0].as_str()),
        ("a-b-c", "y.md#z", "seal get")
    );
    let [Does::Write { file, text }, Does::Run(one), Does::Run(two)] =
        &page.steps.iter().map(|it| &it.does).collect::<Vec<_>>()[..]
    else {
        panic!("{page:?}")
    };
    assert_eq!((file.as_str(), text.as_str()), ("a.yaml", "a: 1\n"));
    assert_eq!((one.command.as_str(), one.answer.as_str(), one.code), ("one \\\n  more", "said\n", 2));
    assert_eq!((two.command.as_str(), two.code, page.steps[1].block), ("two", 0, 1));
}
