//! Reads the files below a path straight out of the object database, within limits: how much a repository holds is not
//! ours to say. It follows no link, and leaves no folder of the repository.

use gix::{ObjectId, Repository, bstr::ByteSlice as _};

use super::{File, SourceError, transfer::text};

/// A GitSync's manifests; etcd holds 2 to 8 GiB in all.
const MAX_BYTES: u64 = 32 << 20;
const MAX_FILES: usize = 10_000;
/// Entries looked at for one GitSync, and the length of a path: a few bytes of trees can unfold to any number of them.
const MAX_ENTRIES: usize = 250_000;
const MAX_PATH: usize = 1024;

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

    pub fn start(&mut self, mut tree: ObjectId, parts: &[&str]) -> Result<(), Unread> {
        for (index, part) in parts.iter().enumerate() {
            let found = self.repository.find_tree(tree)?;
            let entry = found.find_entry(*part).ok_or(Unread::Absent("there is no such path"))?;
            let (id, mode, last) = (entry.oid().to_owned(), entry.mode(), index + 1 == parts.len());
            if mode.is_tree() {
                tree = id;
            } else if mode.is_blob() && last {
                return self.take(parts.join("/"), id);
            } else {
                return Err(Unread::Absent(if mode.is_blob() {
                    "a file stands where a folder should"
                } else {
                    "a link or a submodule stands there, which is not followed,"
                }));
            }
        }
        self.folders(tree, parts.join("/"))
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
