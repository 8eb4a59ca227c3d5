//! The book of `docs/`: that it is whole, that its links lead somewhere, and that what a reader is told to type is typed
//! by a test. [`pages`] does what single pages say; a page whose commands need a story of their own is another test's,
//! with the same [`Desk`].

mod desk;
mod named;
mod page;
mod pages;

use std::{collections::BTreeMap, ffi::OsStr, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use harness::{binaries, command};

pub use desk::Desk;
pub use page::{Page, folder};

const CONTENTS: &str = "SUMMARY.md";
/// What is read beside the book.
const BESIDE: [&str; 5] = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "fuzz/README.md"];

/// All pages by their names.
fn pages() -> Result<BTreeMap<String, Page>> {
    let mut pages = BTreeMap::new();
    for entry in fs::read_dir(folder())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            let name = path.file_name().and_then(OsStr::to_str).context("a page's name is not UTF-8")?;
            pages.insert(name.to_owned(), Page::read(name)?);
        }
    }
    Ok(pages)
}

/// The pages and what lies beside the book, by their paths from the workspace.
fn texts() -> Result<BTreeMap<String, Page>> {
    let mut texts: BTreeMap<_, _> = pages()?.into_iter().map(|(name, page)| (format!("docs/{name}"), page)).collect();
    for name in BESIDE {
        texts.insert(name.to_owned(), Page::read(&format!("../{name}"))?);
    }
    Ok(texts)
}

#[test]
fn the_contents_name_every_page_once() -> Result<()> {
    let pages = pages()?;
    let mut named = pages[CONTENTS].links.clone();
    named.sort();
    let all: Vec<_> = pages.keys().filter(|name| *name != CONTENTS).cloned().collect();
    assert_eq!(named, all);
    let settings = fs::read_to_string(folder().join("book.toml"))?;
    assert!(settings.contains("src = \".\""), "mdBook looks for the pages here");
    Ok(())
}

#[test]
fn links_lead_somewhere() -> Result<()> {
    let (texts, mut wrong) = (texts()?, Vec::new());
    for (name, text) in &texts {
        for link in &text.links {
            if link.starts_with("https://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let beside = Path::new(name).parent().context("a folder")?;
            let target = if file.is_empty() { name.clone() } else { beside.join(file).display().to_string() };
            let workspace = folder().join("..");
            let page = texts.get(&target);
            let leads = page.is_some_and(|page| anchor.is_empty() || page.anchors.iter().any(|it| it == anchor));
            // What is no page has no anchors. The book's pages link to each other alone: mdBook knows no others.
            let is_file = anchor.is_empty() && !name.starts_with("docs/") && workspace.join(&target).exists();
            if !leads && !is_file {
                wrong.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn what_is_to_be_typed_is_typed_by_a_test() -> Result<()> {
    let mut tests = String::new();
    for place in [Path::new(env!("CARGO_MANIFEST_DIR")), &Path::new(env!("CARGO_MANIFEST_DIR")).join("book")] {
        for entry in fs::read_dir(place)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                tests += &fs::read_to_string(path)?;
            }
        }
    }
    for (name, page) in pages()? {
        let is_run = tests.contains(&format!("Page::read(\"{name}\")"));
        assert!(is_run || page.examples().next().is_none(), "no test does what {name} says");
        for words in &page.fences {
            assert!(
                !["sh", "bash", "shell", "zsh"].contains(&words.as_str()),
                "{name}: {words} is not run: console is"
            );
        }
    }
    // What the front page shows stands on a page that is run, or is a step of CI.
    let start = Page::read("quick-start.md")?;
    let ci = fs::read_to_string(folder().join("../.ci/run"))?;
    for example in Page::read("../README.md")?.examples() {
        let is_run = start.examples().any(|run| run.command == example.command) || ci.contains(&example.command);
        assert!(is_run, "$ {}", example.command);
    }
    Ok(())
}

/// What `seal … --help` says, by verb.
async fn help() -> Result<BTreeMap<String, String>> {
    let seal = binaries::seal().await?;
    let home = tempfile::tempdir()?;
    let mut help = BTreeMap::new();
    let mut open = vec![String::new()];
    while let Some(verb) = open.pop() {
        let mut ask = command::clean(&seal, home.path());
        ask.args(verb.split_whitespace()).arg("--help");
        let text = command::run(&mut ask, b"").await?.success()?;
        let listed = text.lines().skip_while(|line| !["Verbs:", "Commands:"].contains(line)).skip(1);
        for line in listed.take_while(|line| !line.is_empty()) {
            let name = line.split_whitespace().next().context("a verb")?;
            open.push(format!("{verb} {name}").trim().to_owned());
        }
        help.insert(verb, text);
    }
    Ok(help)
}

/// Every verb is shown at work, and what the text names in passing is there.
#[tokio::test]
async fn verbs_and_flags_are_as_they_are() -> Result<()> {
    let help = help().await?;
    ensure!(help.len() > 20, "{:?}", help.keys());
    let texts = texts()?;
    let is_group = |verb: &str| verb.is_empty() || help.keys().any(|it| it.starts_with(&format!("{verb} ")));
    for verb in help.keys().filter(|verb| !is_group(verb)) {
        let typed = format!("seal {verb} ");
        let shown = |page: &Page| page.examples().any(|it| format!("{} ", it.command).contains(&typed));
        assert!(texts.values().any(shown), "no page shows seal {verb}");
    }
    for (name, text) in &texts {
        for span in text.spans.iter().filter(|span| span.starts_with("seal ")) {
            let mut verb = String::new();
            for word in span.split_whitespace().skip(1) {
                let longer = format!("{verb} {word}").trim().to_owned();
                if help.contains_key(&longer) {
                    verb = longer;
                } else if let Some(flag) = word.strip_prefix("--") {
                    let flag = format!("--{}", flag.split('=').next().unwrap_or(flag));
                    let is_there = help[&verb].split_whitespace().any(|it| it.split('[').next() == Some(&flag));
                    assert!(is_there, "{name}: `{span}` has no {flag}");
                }
            }
            let first = span.split_whitespace().nth(1).unwrap_or_default();
            let is_verb = !verb.is_empty() || first.starts_with('-') || !first.chars().all(|c| c.is_ascii_lowercase());
            assert!(is_verb, "{name}: `{span}` is no verb");
        }
    }
    Ok(())
}
