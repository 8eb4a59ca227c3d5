//! The files of folders, for the verbs that go through a whole repository.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::exit;

/// What there is to read, in the order of its names, and what stands in the way.
#[derive(Debug, Default)]
pub struct Files {
    pub files: Vec<PathBuf>,
    pub unreadable: Vec<String>,
}

/// Why a folder cannot be searched.
#[derive(Debug, thiserror::Error)]
#[error("open {}", path.display())]
struct FolderError {
    path: PathBuf,
    source: io::Error,
}

/// The files to read: what was named, and of folders what ends as manifests do. What is hidden, and what a link leads
/// to, is left out unless it was named itself.
pub fn find(paths: Vec<PathBuf>) -> Files {
    let mut found = Files::default();
    paths.into_iter().for_each(|path| search(path, true, &mut found));
    found
}

fn search(path: PathBuf, named: bool, found: &mut Files) {
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    if path == Path::new("-") && named {
        return found.files.push(path);
    }
    let metadata = if named { fs::metadata(&path) } else { fs::symlink_metadata(&path) };
    let failed = |source| exit::chain(&FolderError { path: path.clone(), source });
    match metadata {
        Err(source) => found.unreadable.push(failed(source)),
        Ok(_) if hidden && !named => {}
        Ok(metadata) if metadata.is_dir() => {
            let entries = fs::read_dir(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            match entries {
                Ok(entries) => {
                    let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
                    paths.sort();
                    paths.into_iter().for_each(|path| search(path, false, found));
                }
                Err(source) => found.unreadable.push(failed(source)),
            }
        }
        Ok(metadata) => {
            let extension = path.extension().and_then(|extension| extension.to_str());
            if named || metadata.is_file() && matches!(extension, Some("yaml" | "yml" | "json")) {
                found.files.push(path);
            }
        }
    }
}
