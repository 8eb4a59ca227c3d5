//! One repository's mirror on disk: bare, a commit deep. It survives being killed at any moment, because a mirror is
//! either added to by Git's own rules (objects first, the branch last) or built aside and put in place by one rename.
//! It must not answer a commit of which an object is missing.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crds::git_sync::GitSyncSpec;
use gix::{ObjectId, Repository, bstr::ByteSlice as _};
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};

use super::{
    Commit, Description, File, Reference, Signed, SourceError, Survey, Tip, Walk,
    reference::{highest, remote, tags},
    signed,
    transfer::{Attempt, Failure, Present, text},
    tree::{self, Files, Reader, Unread, parts},
};
use crate::sync::inputs::{Entry, Inputs, inputs};

/// The largest object that is unpacked: what a hostile repository may take of our memory.
const OBJECT_LIMIT: &str = "gitoxide.objects.allocLimit=268435456";
/// Indexing a pack takes memory for each thread, and the machine may have many.
const THREADS: &str = "pack.threads=2";
/// Where a mirror is built, beside the numbered ones.
const FRESH: &str = "fresh";
/// Letters that are kept of what a commit says of itself.
const LINE: usize = 100;

/// A folder with the mirror in it, under a number that grows when it is replaced.
pub struct Mirror {
    folder: PathBuf,
    /// Whose turn it is to fetch.
    pub turn: Arc<tokio::sync::Mutex<()>>,
    /// Held while reading, so that a superseded mirror stays until nobody reads it.
    reading: RwLock<()>,
    /// What a killed predecessor left behind was removed.
    tidied: AtomicBool,
    /// Reading failed.
    damaged: AtomicBool,
    /// Commits that were looked through, by what leads to them: what nothing has moved is not looked through again.
    whole: Mutex<HashMap<String, ObjectId>>,
}

impl Mirror {
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            turn: Arc::default(),
            reading: RwLock::default(),
            tidied: AtomicBool::default(),
            damaged: AtomicBool::default(),
            whole: Mutex::default(),
        }
    }

    /// Whoever calls has the turn. `None` if there is something new that the attempt does not take.
    pub fn fetch(&self, attempt: &Attempt) -> Result<Option<Tip>, SourceError> {
        let followed = self.follow(attempt).map_err(|error| error.without(&self.folder))?;
        Ok(followed.map(|(tracking, tip)| {
            self.whole.lock().insert(tracking, tip.commit.0);
            tip
        }))
    }

    fn follow(&self, attempt: &Attempt) -> Result<Option<(String, Tip)>, SourceError> {
        self.prepare().map_err(|error| attempt.storage(&error))?;
        let current = self.current();
        if let Some(current) = &current
            && !self.damaged.load(Ordering::Relaxed)
        {
            let updated = open(current).map_err(Failure::Mirror).and_then(|repository| {
                let (packs, bytes) = packs(current);
                let present = Present { whole: &self.whole, packs, bytes };
                attempt.transfer(&repository, Some(&present), &[])
            });
            match updated {
                Ok(tip) => return Ok(tip),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Mirror(_)) if attempt.patience.interrupt.load(Ordering::Relaxed) => {
                    return Err(attempt.late());
                }
                Err(Failure::Mirror(_)) if !(attempt.takes)() => {}
                Err(Failure::Mirror(why)) => {
                    let why = hide(&why, &self.folder);
                    tracing::info!(url = attempt.source.url(), why, "fetching a mirror anew");
                }
            }
        }
        let renewed = self.renew(attempt, current.as_deref())?;
        if renewed.is_some() {
            self.damaged.store(false, Ordering::Relaxed);
        }
        Ok(renewed)
    }

    /// From now on the mirror is taken for damaged; the next fetch replaces it.
    pub fn distrust(&self) {
        self.damaged.store(true, Ordering::Relaxed);
    }

    /// Whether the next fetch replaces it: no earlier answer will do.
    pub fn is_distrusted(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    pub fn cached(&self, reference: &Reference) -> Option<Tip> {
        let _reading = self.reading.read();
        let repository = open(&self.current()?).ok()?;
        let all = names(&repository);
        let (tracking, shown) = match reference {
            Reference::Semver { range, .. } => {
                let tags = all.iter().filter_map(|name| Some((name.strip_prefix(&tags())?, name)));
                let (tag, name) = highest(range, tags)?;
                (name.clone(), tag)
            }
            other => (other.tracking()?, other.shown()),
        };
        let tip = match reference {
            // Whatever led to it.
            Reference::Commit { id, .. } => Tip { commit: Commit(*id), tag: None, name: shown.to_owned() },
            _ => peeled(&repository, id_at(&repository, &tracking)?, shown).ok()?,
        };
        whole(&repository, tip.commit.0, &AtomicBool::new(false)).ok()?;
        Some(tip)
    }

    pub fn signed(&self, url: &str, commit: &Commit, tag: Option<ObjectId>) -> Result<Signed, SourceError> {
        self.visit(url, commit, "", |repository, _| signed::signed(repository, commit.0, tag))
    }

    pub fn since(&self, url: &str, tip: &Commit, base: &Commit) -> Result<Walk, SourceError> {
        self.visit(url, tip, "", |repository, _| signed::since(repository, tip.0, base.0))
    }

    pub fn read(
        &self,
        url: &str,
        commit: &Commit,
        path: &str,
        wanted: fn(&str) -> bool,
    ) -> Result<Vec<File>, SourceError> {
        let parts = parts(path)?;
        self.visit(url, commit, &shown(&parts), |repository, root| {
            let mut reader = Reader::new(repository, wanted);
            reader.start(root, &parts)?;
            Ok(reader.finish())
        })
    }

    pub fn described(&self, url: &str, commit: &Commit) -> Result<Description, SourceError> {
        self.visit(url, commit, "", |repository, _| {
            let damaged = |error: &dyn std::error::Error| Unread::Damaged(error.to_string());
            let found = repository.find_commit(commit.0).map_err(|error| damaged(&error))?;
            let seconds = found.time().map_err(|error| damaged(&error))?.seconds;
            let committed = Timestamp::from_second(seconds).map_err(|error| damaged(&error))?;
            let author = found.author().map_err(|error| damaged(&error))?;
            let author = line(format!("{} <{}>", author.name, author.email).as_bytes());
            let subject = line(found.message().map_err(|error| damaged(&error))?.title);
            Ok(Description { committed, author, subject })
        })
    }

    pub fn survey(&self, url: &str, commit: &Commit, path: &str, spec: &GitSyncSpec) -> Result<Survey, SourceError> {
        let parts = parts(path)?;
        self.visit(url, commit, &shown(&parts), |repository, root| {
            let (entry, id) = tree::find(repository, root, &parts)?;
            let files = Files::new(repository, root);
            let path = parts.join("/");
            let Inputs { renderer, files: read, folders, problems } = match entry {
                Entry::Folder => inputs(&files, &path, spec)?,
                Entry::File => Inputs::plain(),
            };
            let mut ids = BTreeMap::new();
            for path in read {
                ids.extend(files.find(&path)?.map(|(_, id)| (path, id)));
            }
            Ok(Survey { path, renderer, all: id, files: ids, folders, problems })
        })
    }

    pub fn load(
        &self,
        url: &str,
        commit: &Commit,
        path: &str,
        files: &BTreeMap<String, ObjectId>,
    ) -> Result<Vec<File>, SourceError> {
        self.visit(url, commit, path, |repository, _| {
            let mut reader = Reader::new(repository, |_| true);
            reader.these(files)?;
            Ok(reader.finish())
        })
    }

    /// Looks into a commit; the repository, and its root, stay as they are meanwhile.
    fn visit<T>(
        &self,
        url: &str,
        commit: &Commit,
        path: &str,
        look: impl FnOnce(&Repository, ObjectId) -> Result<T, Unread>,
    ) -> Result<T, SourceError> {
        let gone = || SourceError::CommitNotFound { url: url.to_owned(), commit: commit.clone() };
        let damaged = |why: String| {
            self.distrust();
            SourceError::MirrorDamaged { url: url.to_owned(), why }.without(&self.folder)
        };
        let _reading = self.reading.read();
        let repository = open(&self.current().ok_or_else(gone)?).map_err(damaged)?;
        let found =
            repository.try_find_object(commit.0).map_err(|error| damaged(error.to_string()))?.ok_or_else(gone)?;
        let root = found.try_into_commit().and_then(|commit| Ok(commit.tree_id()?.detach()));
        let root = root.map_err(|error| damaged(error.to_string()))?;
        let path = || path.to_owned();
        look(&repository, root).map_err(|unread| match unread {
            Unread::Absent(why) => {
                SourceError::PathNotFound { url: url.to_owned(), path: path(), commit: commit.clone(), why }
            }
            Unread::TooMuch(limit) => {
                SourceError::TooLarge { url: url.to_owned(), path: path(), commit: commit.clone(), limit }
            }
            Unread::Damaged(why) => damaged(why),
        })
    }

    /// Makes the folder, and at the first use in this process removes what a killed one left behind.
    fn prepare(&self) -> io::Result<()> {
        // What is private in Git is private here.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        if self.tidied.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let current = self.current();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.is_dir() && current.as_ref() != Some(&path) {
                fs::remove_dir_all(path)?;
            }
        }
        current.map_or(Ok(()), |current| tidy(&current))
    }

    /// The newest mirror.
    fn current(&self) -> Option<PathBuf> {
        let number = numbers(&self.folder).max()?;
        Some(self.folder.join(number.to_string()))
    }

    /// Builds a mirror aside, with what the present one follows, and puts it in its place. What grew too large may follow
    /// more than one fetch may bring: then what else it follows comes when it is asked for.
    fn renew(&self, attempt: &Attempt, current: Option<&Path>) -> Result<Option<(String, Tip)>, SourceError> {
        let small = current.filter(|current| packs(current).1 <= attempt.room());
        let others = small.and_then(|current| open(current).ok()).map(|old| names(&old)).unwrap_or_default();
        let others: Vec<String> = others.iter().filter_map(|name| remote(name)).collect();
        let fresh = self.folder.join(FRESH);
        let storage = |error: io::Error| attempt.storage(&error);
        if fresh.exists() {
            fs::remove_dir_all(&fresh).map_err(storage)?;
        }
        let kind = gix::create::Kind::Bare;
        let made = gix::ThreadSafeRepository::init_opts(&fresh, kind, gix::create::Options::default(), options());
        let repository: Repository = made.map_err(|error| attempt.storage(&error))?.into();
        let taken = attempt.transfer(&repository, None, &others).map_err(|failure| match failure {
            Failure::Final(error) => error,
            Failure::Mirror(why) => attempt.failed(why),
        })?;
        drop(repository);
        let Some(tip) = taken else { return Ok(None) };

        let next = numbers(&self.folder).max().map_or(0, |number| number + 1);
        fs::rename(&fresh, self.folder.join(next.to_string())).map_err(storage)?;
        if let Some(current) = current {
            let _nobody_reads = self.reading.write();
            // What stays behind is removed at the next start.
            let _ = fs::remove_dir_all(current);
        }
        self.whole.lock().clear();
        Ok(Some(tip))
    }

    /// Removes it, unless somebody fetches or reads it, or by now wants to. What cannot be removed now can be later.
    pub fn remove(&self, is_wanted: impl FnOnce() -> bool) {
        let (Ok(_turn), Some(_nobody_reads)) = (self.turn.try_lock(), self.reading.try_write()) else { return };
        if !is_wanted() {
            self.whole.lock().clear();
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// The folders of all mirrors below this one: each is named by a digest.
pub fn folders(root: &Path) -> Vec<String> {
    let names = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let is_ours = |name: &String| name.len() == 64 && name.bytes().all(|letter| letter.is_ascii_hexdigit());
    names.filter_map(|name| name.into_string().ok()).filter(is_ours).collect()
}

/// A mirror's path has no place in a message: its name says something, if little, of the credentials.
pub fn hide(why: &str, folder: &Path) -> String {
    why.replace(&*folder.to_string_lossy(), "the mirror")
}

fn shown(parts: &[&str]) -> String {
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

/// Nobody's configuration but ours.
fn options() -> gix::open::Options {
    gix::open::Options::isolated().with(gix::sec::Trust::Full).config_overrides([THREADS, OBJECT_LIMIT])
}

/// A repository on this machine.
pub fn open(folder: &Path) -> Result<Repository, String> {
    gix::open_opts(folder, options()).map_err(|error| text(&error))
}

/// Where a reference of the mirror leads, a tag not peeled.
pub fn id_at(repository: &Repository, name: &str) -> Option<ObjectId> {
    let reference = repository.try_find_reference(name).ok().flatten()?;
    Some(reference.try_id()?.detach())
}

/// The commit at the end, and the tag that led to it.
pub fn peeled(repository: &Repository, id: ObjectId, name: &str) -> Result<Tip, String> {
    let object = repository.find_object(id).map_err(|error| text(&error))?;
    let tag = (object.kind == gix::object::Kind::Tag).then_some(id);
    let commit = object.peel_to_commit().map_err(|error| text(&error))?;
    Ok(Tip { commit: Commit(commit.id), tag, name: name.to_owned() })
}

/// Everything that the mirror follows.
fn names(repository: &Repository) -> Vec<String> {
    let Ok(platform) = repository.references() else { return Vec::new() };
    let Ok(all) = platform.all() else { return Vec::new() };
    all.flatten().filter_map(|reference| reference.name().as_bstr().to_str().ok().map(str::to_owned)).collect()
}

/// Whether every object of the commit is there.
pub fn whole(repository: &Repository, id: ObjectId, interrupt: &AtomicBool) -> Result<(), String> {
    let root = repository.find_commit(id).and_then(|commit| Ok(commit.tree_id()?.detach()));
    let mut trees = vec![root.map_err(|error| text(&error))?];
    let mut seen = HashSet::new();
    while let Some(id) = trees.pop() {
        if interrupt.load(Ordering::Relaxed) {
            return Err("there was no time to look through it".to_owned());
        }
        let tree = repository.find_tree(id).map_err(|error| text(&error))?;
        for entry in tree.iter() {
            let entry = entry.map_err(|error| text(&error))?;
            let (id, mode) = (entry.oid().to_owned(), entry.mode());
            if mode.is_commit() || !seen.insert(id) {
                continue;
            }
            if mode.is_tree() {
                trees.push(id);
            } else if !repository.has_object(id) {
                return Err(format!("the object {id} is missing"));
            }
        }
    }
    Ok(())
}

/// One line of no more than [`LINE`] letters: what a stranger wrote, on its way to logs, statuses and terminals.
fn line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let words =
        text.split(|letter: char| letter.is_whitespace() || letter.is_control()).filter(|word| !word.is_empty());
    let text = words.collect::<Vec<_>>().join(" ");
    let is_long = text.chars().count() > LINE;
    if is_long { text.chars().take(LINE - 1).chain(['…']).collect() } else { text }
}

/// How many packs there are, and how much they and what belongs to them take.
fn packs(folder: &Path) -> (usize, u64) {
    let entries = fs::read_dir(folder.join("objects/pack")).into_iter().flatten().flatten();
    entries.fold((0, 0), |(packs, bytes), entry| {
        let is_pack = entry.path().extension().is_some_and(|extension| extension == "pack");
        (packs + usize::from(is_pack), bytes + entry.metadata().map_or(0, |metadata| metadata.len()))
    })
}

fn numbers(folder: &Path) -> impl Iterator<Item = u64> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok())
}

/// Removes locks that nobody holds any more, and packs that were never finished.
fn tidy(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            tidy(&path)?;
            continue;
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let alone = |other: &str| name.starts_with("pack-") && !path.with_extension(other).exists();
        let left_behind = match path.extension().and_then(|extension| extension.to_str()) {
            Some("lock") => true,
            Some("pack") => alone("idx"),
            Some("idx") => alone("pack"),
            _ => name.starts_with(".tmp") || name.starts_with("tmp_"),
        };
        if left_behind {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
