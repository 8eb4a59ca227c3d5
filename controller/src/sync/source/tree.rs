//! Reads the files below a path straight out of the object database, within limits: how much a repository holds is not
//! ours to say. It follows no link, and leaves no folder of the repository.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
};

use gix::{ObjectId, Repository, bstr::ByteSlice as _};

use super::{File, SourceError, transfer::text};
use crate::sync::inputs::{Entry, Tree, join};

/// A GitSync's manifests; etcd holds 2 to 8 GiB in all.
const MAX_BYTES: u64 = 32 << 20;
const MAX_FILES: usize = 10_000;
/// Entries looked at for one GitSync, and the length of a path: a few bytes of trees can unfold to any number of them.
const MAX_ENTRIES: usize = 250_000;
const MAX_PATH: usize = 1024;
/// A kustomization; more is no text to look for references in.
const MAX_TEXT: u64 = 1 << 20;

/// `""`, `.`, `./a/b/` and `/a` are as good as any.
pub fn parts(path: &str) -> Result<Vec<&str>, SourceError> {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") { Err(SourceError::InvalidPath { path: path.to_owned() }) } else { Ok(parts) }
}

pub enum Unread {
    Absent(&'static str),
    TooMuch(&'static str),
    Damaged(String),
}

impl From<gix::Error> for Unread {
    fn from(error: gix::Error) -> Self {
        Self::Damaged(text(&error))
    }
}

/// What a path leads to.
pub fn find(repository: &Repository, mut tree: ObjectId, parts: &[&str]) -> Result<(Entry, ObjectId), Unread> {
    for (index, part) in parts.iter().enumerate() {
        let found = repository.find_tree(tree)?;
        let entry = found.find_entry(*part).ok_or(Unread::Absent("there is no such path"))?;
        let (id, mode, last) = (entry.oid().to_owned(), entry.mode(), index + 1 == parts.len());
        if mode.is_tree() {
            tree = id;
        } else if mode.is_blob() && last {
            return Ok((Entry::File, id));
        } else {
            return Err(Unread::Absent(if mode.is_blob() {
                "a file stands where a folder should"
            } else {
                "a link or a submodule stands there, which is not followed,"
            }));
        }
    }
    Ok((Entry::Folder, tree))
}

/// The names in a folder, with what stands there.
type Names = HashMap<String, (Entry, ObjectId)>;

/// A commit's files, for whoever decides what to read.
pub struct Files<'a> {
    repository: &'a Repository,
    root: ObjectId,
    known: RefCell<HashMap<ObjectId, Names>>,
}

impl<'a> Files<'a> {
    pub fn new(repository: &'a Repository, root: ObjectId) -> Self {
        Self { repository, root, known: RefCell::default() }
    }

    /// What stands at a path, and its id.
    pub fn find(&self, path: &str) -> Result<Option<(Entry, ObjectId)>, Unread> {
        let mut found = (Entry::Folder, self.root);
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let next = match found {
                (Entry::Folder, tree) => self.names(tree, |names| names.get(part).copied())?,
                (Entry::File, _) => None,
            };
            let Some(next) = next else { return Ok(None) };
            found = next;
        }
        Ok(Some(found))
    }

    fn names<T>(&self, tree: ObjectId, ask: impl FnOnce(&Names) -> T) -> Result<T, Unread> {
        let mut known = self.known.borrow_mut();
        if let Some(names) = known.get(&tree) {
            return Ok(ask(names));
        }
        let mut names = Names::new();
        for entry in self.repository.find_tree(tree)?.iter() {
            let entry = entry?;
            let (name, mode) = (entry.filename().to_str(), entry.mode());
            let kind = if mode.is_tree() { Some(Entry::Folder) } else { mode.is_blob().then_some(Entry::File) };
            // Git forbids such names, but nobody makes a hostile host keep to that.
            let Some(name) = name.ok().filter(|name| !["", ".", ".."].contains(name) && !name.contains(['/', '\0']))
            else {
                continue;
            };
            names.extend(kind.map(|kind| (name.to_owned(), (kind, entry.oid().to_owned()))));
        }
        if known.values().map(Names::len).sum::<usize>() + names.len() > MAX_ENTRIES {
            return Err(Unread::TooMuch("250,000 entries"));
        }
        Ok(ask(known.entry(tree).or_insert(names)))
    }
}

impl Tree for Files<'_> {
    type Error = Unread;

    fn entry(&self, path: &str) -> Result<Option<Entry>, Unread> {
        Ok(self.find(path)?.map(|(entry, _)| entry))
    }

    fn text(&self, path: &str) -> Result<Option<String>, Unread> {
        let Some((Entry::File, id)) = self.find(path)? else { return Ok(None) };
        if self.repository.find_header(id)?.size() > MAX_TEXT {
            return Ok(None);
        }
        Ok(String::from_utf8(self.repository.find_blob(id)?.take_data()).ok())
    }

    fn below(&self, folder: &str) -> Result<Vec<String>, Unread> {
        let Some((Entry::Folder, root)) = self.find(folder)? else { return Ok(Vec::new()) };
        let (mut folders, mut files) = (vec![(root, folder.to_owned())], Vec::new());
        while let Some((tree, folder)) = folders.pop() {
            let names: Vec<_> =
                self.names(tree, |names| names.iter().map(|(name, found)| (join(&folder, name), *found)).collect())?;
            for (path, (entry, id)) in names {
                if path.len() > MAX_PATH {
                    return Err(Unread::TooMuch("1,024 letters in a path"));
                }
                match entry {
                    Entry::Folder => folders.push((id, path)),
                    Entry::File if files.len() == MAX_FILES => return Err(Unread::TooMuch("10,000 files")),
                    Entry::File => files.push(path),
                }
            }
        }
        Ok(files)
    }
}

/// Gathers files, within the limits.
pub struct Reader<'a> {
    repository: &'a Repository,
    wanted: fn(&str) -> bool,
    files: Vec<File>,
    bytes: u64,
    entries: usize,
}

impl<'a> Reader<'a> {
    pub fn new(repository: &'a Repository, wanted: fn(&str) -> bool) -> Self {
        Self { repository, wanted, files: Vec::new(), bytes: 0, entries: 0 }
    }

    pub fn start(&mut self, root: ObjectId, parts: &[&str]) -> Result<(), Unread> {
        match find(self.repository, root, parts)? {
            (Entry::Folder, tree) => self.folders(tree, parts.join("/")),
            (Entry::File, id) => self.take(parts.join("/"), id),
        }
    }

    /// Takes these files, wherever they are.
    pub fn these(&mut self, files: &BTreeMap<String, ObjectId>) -> Result<(), Unread> {
        files.iter().try_for_each(|(path, id)| self.take(path.clone(), *id))
    }

    fn folders(&mut self, root: ObjectId, path: String) -> Result<(), Unread> {
        // No recursion: how deep the folders go is not ours to say, and the stack ends.
        let mut folders = vec![(root, path)];
        while let Some((id, folder)) = folders.pop() {
            for entry in self.repository.find_tree(id)?.iter() {
                let entry = entry?;
                self.entries += 1;
                if self.entries > MAX_ENTRIES {
                    return Err(Unread::TooMuch("250,000 entries"));
                }
                let (name, mode) = (entry.filename().to_str_lossy(), entry.mode());
                if name.starts_with('.') || !(mode.is_tree() || (mode.is_blob() && (self.wanted)(&name))) {
                    continue;
                }
                let path = if folder.is_empty() { name.into_owned() } else { format!("{folder}/{name}") };
                if path.len() > MAX_PATH {
                    return Err(Unread::TooMuch("1,024 letters in a path"));
                }
                let id = entry.oid().to_owned();
                if mode.is_tree() { folders.push((id, path)) } else { self.take(path, id)? }
            }
        }
        Ok(())
    }

    fn take(&mut self, path: String, id: ObjectId) -> Result<(), Unread> {
        // Asked before it is unpacked.
        self.bytes = self.bytes.saturating_add(self.repository.find_header(id)?.size());
        if self.bytes > MAX_BYTES {
            return Err(Unread::TooMuch("32 MiB"));
        }
        if self.files.len() == MAX_FILES {
            return Err(Unread::TooMuch("10,000 files"));
        }
        let bytes = self.repository.find_blob(id)?.take_data();
        self.files.push(File { path, bytes });
        Ok(())
    }

    pub fn finish(mut self) -> Vec<File> {
        self.files.sort_by(|one, other| one.path.cmp(&other.path));
        self.files
    }
}
