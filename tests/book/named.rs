//! The tests that pages name: a page that says what is tested must not speak of what is gone or has another name.

use std::{fs, path::Path};

use anyhow::Result;

use super::{Page, folder};

/// Pages that say what is tested, and by what.
const PAGES: [&str; 2] = ["git-sync.md", "sealing.md"];

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn is_file(words: &str, extension: &str) -> bool {
    Path::new(words).extension().is_some_and(|it| it == extension)
}

/// Where the test is that these words name, as a part of a path, and what it is called; `None` where they name something
/// else.
fn test(words: &str) -> Option<(String, &str)> {
    if let Some((module, name)) = words.split_once("::").filter(|(module, name)| is_name(module) && is_name(name)) {
        return Some((format!("/tests/{module}"), name));
    }
    match words.split_once(' ') {
        Some((file, name)) if is_file(file, "rs") && is_name(name) => Some((format!("/{file}"), name)),
        None if is_file(words, "rs") => Some((format!("/{words}"), "")),
        None if is_name(words) && words.matches('_').count() > 2 => Some((String::new(), words)),
        _ => None,
    }
}

/// The sources below a folder.
fn sources(folder: &Path) -> Result<Vec<(String, String)>> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources.extend(self::sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push((path.display().to_string(), fs::read_to_string(path)?));
        }
    }
    Ok(sources)
}

#[test]
fn tests_that_are_named_are_there() -> Result<()> {
    let workspace = folder().join("..").canonicalize()?;
    let mut sources = Vec::new();
    for package in ["cli", "controller", "crds", "tests"] {
        sources.extend(self::sources(&workspace.join(package))?);
    }
    let (mut seen, mut missing) = (0, Vec::new());
    for page in PAGES {
        for words in &Page::read(page)?.spans {
            let there = if is_file(words, "toml") {
                workspace.join("cli/tests").join(words).exists()
            } else if let Some((place, name)) = test(words) {
                let has = |text: &str| name.is_empty() || text.contains(&format!("fn {name}("));
                // The tests of a file may lie beside it.
                let is_it = |path: &str| path.contains(&place) || path.replace("/tests.rs", ".rs").contains(&place);
                sources.iter().any(|(path, text)| is_it(path) && has(text))
            } else {
                continue;
            };
            seen += 1;
            missing.extend((!there).then(|| format!("{page}: {words}")));
        }
    }
    assert!(seen > 200, "{seen}");
    assert!(missing.is_empty(), "{missing:#?}");
    Ok(())
}
