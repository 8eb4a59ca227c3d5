//! One repository's mirror on disk: bare, a commit deep. It survives being killed at any moment, because a mirror is
//! either added to by Git's own rules (objects first, the branch last) or built aside and put in place by one rename.
//! It must not answer a commit of which an object is missing.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    fs,
    io::{self, ErrorKind},
    num::NonZeroU32,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use gix::{
    ObjectId, Repository,
    bstr::ByteSlice as _,
    progress::Discard,
    protocol::transport::client::{
        self, TransportWithoutIO as _,
        blocking_io::{Transport, http},
    },
    remote::{Direction, fetch},
    sec::identity::Account,
};
use parking_lot::{Mutex, RwLock};

use super::{Commit, Credentials, File, Source, SourceError, is_loopback};
use crate::sync::ssh::{self, Patience, SshError, Words};

/// A fetch adds a pack, and nothing joins them: beyond this many a mirror is slower, and larger, than a new one.
const MAX_PACKS: usize = 64;
/// A GitSync's manifests; etcd holds 2 to 8 GiB in all.
const MAX_BYTES: u64 = 32 << 20;
const MAX_FILES: usize = 10_000;
/// Entries looked at for one GitSync, and the length of a path: a few bytes of trees can unfold to any number of them.
const MAX_ENTRIES: usize = 250_000;
const MAX_PATH: usize = 1024;
/// The largest object that is unpacked: what a hostile repository may take of our memory.
const OBJECT_LIMIT: &str = "gitoxide.objects.allocLimit=268435456";
/// Indexing a pack takes memory for each thread, and the machine may have many.
const THREADS: &str = "pack.threads=2";
/// Mirrors that nothing asked for in this time are removed: tokens expire, and each has a mirror of its own.
const UNUSED: Duration = Duration::from_hours(72);
/// As much as is shown of what a host says.
const MAX_LINE: usize = 1024;
/// Where a mirror is built, beside the numbered ones.
const FRESH: &str = "fresh";
/// Touched whenever the mirror is asked for.
const USED: &str = "used";

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
    /// Commits that were looked through, by branch: what nothing has moved is not looked through again.
    whole: Mutex<HashMap<String, ObjectId>>,
}

/// One fetch.
pub struct Attempt<'a> {
    pub source: &'a Source,
    pub location: gix::Url,
    pub timeout: Duration,
    pub patience: Patience,
}

/// What a mirror has of a branch.
struct Present {
    tip: Option<ObjectId>,
    whole: Option<ObjectId>,
    packs: usize,
}

/// Why a mirror could not be brought up to date.
enum Failure {
    /// Another mirror would not help.
    Final(SourceError),
    /// Another mirror would.
    Mirror(String),
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::Final(error)
    }
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

    /// Whoever calls has the turn.
    pub fn fetch(&self, attempt: &Attempt) -> Result<Commit, SourceError> {
        let id = self.follow(attempt).map_err(|error| error.without(&self.folder))?;
        self.whole.lock().insert(attempt.source.branch().to_owned(), id);
        Ok(Commit(id))
    }

    fn follow(&self, attempt: &Attempt) -> Result<ObjectId, SourceError> {
        self.prepare().map_err(|error| attempt.storage(&error))?;
        let current = self.current();
        if let Some(current) = &current
            && !self.damaged.load(Ordering::Relaxed)
        {
            let updated = open(current).map_err(Failure::Mirror).and_then(|repository| {
                let whole = self.whole.lock().get(attempt.source.branch()).copied();
                let present = Present { tip: tip(&repository, attempt.source.branch()), whole, packs: packs(current) };
                attempt.transfer(&repository, Some(&present), &[])
            });
            match updated {
                Ok(id) => return Ok(id),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Mirror(_)) if attempt.patience.interrupt.load(Ordering::Relaxed) => {
                    return Err(attempt.late());
                }
                Err(Failure::Mirror(why)) => {
                    let why = hide(&why, &self.folder);
                    tracing::info!(url = attempt.source.url(), why, "fetching a mirror anew");
                }
            }
        }
        let id = self.renew(attempt, current.as_deref())?;
        self.damaged.store(false, Ordering::Relaxed);
        Ok(id)
    }

    /// From now on the mirror is taken for damaged; the next fetch replaces it.
    pub fn distrust(&self) {
        self.damaged.store(true, Ordering::Relaxed);
    }

    pub fn cached(&self, branch: &str) -> Option<Commit> {
        let _reading = self.reading.read();
        let repository = open(&self.current()?).ok()?;
        let id = tip(&repository, branch)?;
        whole(&repository, id, &AtomicBool::new(false)).ok()?;
        Some(Commit(id))
    }

    pub fn read(
        &self,
        url: &str,
        commit: &Commit,
        path: &str,
        wanted: fn(&str) -> bool,
    ) -> Result<Vec<File>, SourceError> {
        let parts = parts(path)?;
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
        let mut reader = Reader { repository: &repository, wanted, files: Vec::new(), bytes: 0, entries: 0 };
        let path = if parts.is_empty() { ".".to_owned() } else { parts.join("/") };
        match reader.start(root, &parts) {
            Ok(()) => Ok(reader.finish()),
            Err(Unread::Absent(why)) => {
                Err(SourceError::PathNotFound { url: url.to_owned(), path, commit: commit.clone(), why })
            }
            Err(Unread::TooMuch(limit)) => {
                Err(SourceError::TooLarge { url: url.to_owned(), path, commit: commit.clone(), limit })
            }
            Err(Unread::Damaged(why)) => Err(damaged(why)),
        }
    }

    /// Makes the folder, and at the first use in this process removes what a killed one left behind.
    fn prepare(&self) -> io::Result<()> {
        // What is private in Git is private here.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        fs::write(self.folder.join(USED), "")?;
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

    /// Builds a mirror aside, with the branches that the present one has, and puts it in its place.
    fn renew(&self, attempt: &Attempt, current: Option<&Path>) -> Result<ObjectId, SourceError> {
        if current.is_none() {
            self.sweep();
        }
        let others = current.and_then(|current| open(current).ok()).map(|old| branches(&old)).unwrap_or_default();
        let fresh = self.folder.join(FRESH);
        let storage = |error: io::Error| attempt.storage(&error);
        if fresh.exists() {
            fs::remove_dir_all(&fresh).map_err(storage)?;
        }
        let kind = gix::create::Kind::Bare;
        let made = gix::ThreadSafeRepository::init_opts(&fresh, kind, gix::create::Options::default(), options());
        let repository: Repository = made.map_err(|error| attempt.storage(&error))?.into();
        let id = attempt.transfer(&repository, None, &others).map_err(|failure| match failure {
            Failure::Final(error) => error,
            Failure::Mirror(why) => attempt.failed(why),
        })?;
        drop(repository);

        let next = numbers(&self.folder).max().map_or(0, |number| number + 1);
        fs::rename(&fresh, self.folder.join(next.to_string())).map_err(storage)?;
        if let Some(current) = current {
            let _nobody_reads = self.reading.write();
            // What stays behind is removed at the next start.
            let _ = fs::remove_dir_all(current);
        }
        self.whole.lock().clear();
        Ok(id)
    }

    /// Removes the mirrors beside this one that nothing asks for. What cannot be removed now can be later.
    fn sweep(&self) {
        let Some(folders) = self.folder.parent().and_then(|root| fs::read_dir(root).ok()) else { return };
        let ours = |folder: &PathBuf| folder.file_name().map(OsStr::len) == self.folder.file_name().map(OsStr::len);
        for folder in folders.flatten().map(|entry| entry.path()).filter(ours) {
            let used = fs::metadata(folder.join(USED)).and_then(|used| used.modified()).ok();
            if used.and_then(|used| SystemTime::now().duration_since(used).ok()).is_some_and(|age| age > UNUSED) {
                let _ = fs::remove_dir_all(folder);
            }
        }
    }
}

impl Attempt<'_> {
    /// Connects, asks for the branch's id, and takes what is new, with `others` when they are asked for.
    fn transfer(
        &self,
        repository: &Repository,
        present: Option<&Present>,
        others: &[String],
    ) -> Result<ObjectId, Failure> {
        let wanted = tracking(self.source.branch());
        let specs = [self.source.branch().to_owned()].into_iter().chain(others.iter().cloned()).collect::<HashSet<_>>();
        let specs: Vec<String> =
            specs.into_iter().map(|branch| format!("+refs/heads/{branch}:{}", tracking(&branch))).collect();
        let remote = repository
            .remote_at_without_url_rewrite(self.location.clone())
            .map(|remote| remote.with_fetch_tags(fetch::Tags::None))
            .and_then(|remote| remote.with_refspecs(specs.iter().map(String::as_str), Direction::Fetch))
            .map_err(|error| self.failed(text(&error)))?;
        let (mut connection, words) = self.connect(&remote)?;
        connection.set_credentials(|_| Ok(None));
        let told = |error: gix::Error| self.told(&error, &words);

        let ready = connection.prepare_fetch(Discard, gix::remote::ref_map::Options::default()).map_err(told)?;
        let mapping = ready.ref_map().mappings.iter().find(|m| m.local.as_ref().is_some_and(|local| *local == wanted));
        let there = mapping.and_then(|mapping| mapping.remote.peeled_id()).map(gix::oid::to_owned);
        let there = there.ok_or_else(|| SourceError::BranchNotFound { place: self.source.place() })?;
        let interrupt = &self.patience.interrupt;
        if let Some(present) = present {
            if present.tip == Some(there) {
                if present.whole != Some(there) {
                    whole(repository, there, interrupt).map_err(Failure::Mirror)?;
                }
                return Ok(there);
            }
            if present.packs >= MAX_PACKS {
                return Err(Failure::Mirror(format!("it has {MAX_PACKS} packs")));
            }
        }
        let received = ready.with_shallow(fetch::Shallow::DepthAtRemote(NonZeroU32::MIN)).receive(Discard, interrupt);
        let received = received.map_err(|error| match (self.told(&error, &words), present) {
            // What is no trouble of the host's may be one of the mirror's.
            (SourceError::FetchFailed { why, .. }, Some(_)) => Failure::Mirror(why),
            (error, Some(Present { tip: Some(tip), .. })) => match whole(repository, *tip, interrupt) {
                Ok(()) => Failure::Final(error),
                Err(why) => Failure::Mirror(why),
            },
            (error, _) => Failure::Final(error),
        })?;
        let protocol = received.handshake.server_protocol_version;
        if protocol != gix::protocol::transport::Protocol::V2 {
            tracing::debug!(
                url = self.source.url(),
                ?protocol,
                "the host speaks an old protocol and may send all history"
            );
        }
        whole(repository, there, interrupt).map_err(Failure::Mirror)?;
        if tip(repository, self.source.branch()) != Some(there) {
            return Err(Failure::Mirror("the branch could not be recorded".to_owned()));
        }
        Ok(there)
    }

    fn connect<'a, 'repo>(
        &self,
        remote: &'a gix::Remote<'repo>,
    ) -> Result<(gix::remote::Connection<'a, 'static, 'repo, Box<dyn Transport + Send>>, Words), SourceError> {
        let url = &self.source.url;
        if let Credentials::Ssh(login) = &*self.source.credentials {
            let (transport, words) =
                ssh::connect(login, url, self.patience.clone()).map_err(|error| self.ssh(error))?;
            return Ok((remote.to_connection_with_transport(Box::new(transport)), words));
        }
        let mut connection = remote.connect(Direction::Fetch).map_err(|error| match url.scheme() {
            "file" => SourceError::RepositoryNotFound { place: self.source.place(), why: text(&error) },
            _ => self.failed(text(&error)),
        })?;
        if url.scheme() == "file" {
            return Ok((connection, Words::default()));
        }
        let mut options =
            http::Options { backend: Some(http_client(self.timeout, is_loopback(url))), ..http::Options::default() };
        if let Credentials::Basic { username, password } = &*self.source.credentials {
            if url.scheme() == "https" {
                // At once and not when asked: that spares a request each time. A redirect elsewhere does not get it.
                let (username, password) = (username.to_string(), password.to_string());
                let account = Account { username, password, oauth_refresh_token: None };
                let set = connection.transport_mut().set_identity(account);
                set.map_err(|error| self.failed(error.to_string()))?;
            } else {
                let basic = BASE64_STANDARD.encode(format!("{}:{}", **username, **password));
                options.extra_headers.push(format!("Authorization: Basic {basic}"));
            }
        }
        connection.set_transport_options(Box::new(options));
        Ok((connection, Words::default()))
    }

    fn ssh(&self, error: SshError) -> SourceError {
        let place = self.source.place();
        match error {
            SshError::Unreachable(why) => SourceError::Unreachable { place, why },
            SshError::HostKey(why) => SourceError::HostKeyRefused { place, why },
            SshError::Refused(why) => SourceError::AuthenticationFailed { place, why },
            SshError::Impatient => self.late(),
        }
    }

    /// What the host or the way to it did, in one sentence.
    fn told(&self, error: &gix::Error, words: &Words) -> SourceError {
        let (place, cause) = (self.source.place(), text(error));
        let late = |error| kind(error) == Some(ErrorKind::TimedOut) || error.to_string().contains("timed out");
        if self.patience.interrupt.load(Ordering::Relaxed) || error.iter_errors().any(late) {
            return self.late();
        }
        let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::ReadOnlyFilesystem];
        if error.iter_errors().any(|error| kind(error).is_some_and(|kind| full.contains(&kind))) {
            return SourceError::StorageFailed { url: self.source.url().to_owned(), why: cause };
        }
        if let Some(said) = words.read().or_else(|| error_line(error)) {
            // 128 is git's own way to end without a word; it comes before anything else if there is no repository.
            let missing =
                ["not found", "does not exist", "not appear to be a git repo", "could not be found", "status 128"];
            let why = format!("the host says: {said}");
            return if missing.iter().any(|words| said.to_ascii_lowercase().contains(words)) {
                SourceError::RepositoryNotFound { place, why }
            } else {
                SourceError::Unreachable { place, why }
            };
        }
        let status = error
            .iter_errors()
            .find_map(|error| error.to_string().strip_prefix("Received HTTP status ").map(str::to_owned));
        if error.is_unauthenticated() || status.as_deref() == Some("401") {
            let why = match &*self.source.credentials {
                Credentials::None => {
                    "the host asks for credentials; put username and password into a Secret and name that in source.secretRef"
                }
                _ => "the host refuses the username and password in the Secret",
            };
            return SourceError::AuthenticationFailed { place, why: why.to_owned() };
        }
        match status.as_deref() {
            Some("403") => SourceError::AuthenticationFailed { place, why: format!("the host forbids it: {cause}") },
            Some("404" | "410") => SourceError::RepositoryNotFound { place, why: cause },
            Some(_) => SourceError::Unreachable { place, why: cause },
            None if error.is_retryable() || cause == CUT_OFF => SourceError::Unreachable { place, why: cause },
            None => SourceError::FetchFailed { place, why: cause },
        }
    }

    fn late(&self) -> SourceError {
        SourceError::Timeout { place: self.source.place(), after: self.timeout }
    }

    fn failed(&self, why: String) -> SourceError {
        SourceError::FetchFailed { place: self.source.place(), why }
    }

    fn storage(&self, error: &dyn std::error::Error) -> SourceError {
        SourceError::StorageFailed { url: self.source.url().to_owned(), why: error.to_string() }
    }
}

/// What is said of an answer that ends in its middle.
const CUT_OFF: &str = "the host ended its answer too early";

/// Bounds each step of a request. What stays on this machine needs no proxy.
fn http_client(timeout: Duration, direct: bool) -> Arc<std::sync::Mutex<http::reqwest::Options>> {
    let configure: Box<http::reqwest::ConfigureClientFn> = Box::new(move |builder| {
        let builder = builder.timeout(timeout).connect_timeout(timeout);
        Ok(if direct { builder.no_proxy() } else { builder })
    });
    Arc::new(std::sync::Mutex::new(http::reqwest::Options {
        configure_client: Some(configure),
        configure_request: None,
    }))
}

/// The cause that tells most.
fn text(error: &gix::Error) -> String {
    if error.iter_errors().any(|error| kind(error) == Some(ErrorKind::UnexpectedEof)) {
        return CUT_OFF.to_owned();
    }
    let missing = |error: &(dyn std::error::Error + 'static)| match error.downcast_ref()? {
        client::Error::InvokeProgram { command, .. } => {
            Some(format!("file:// needs the program {}, which is not here", command.display()))
        }
        _ => None,
    };
    let cause = error.iter_errors().find_map(missing).unwrap_or_else(|| error.probable_cause().to_string());
    // The URL stands elsewhere already.
    cause.split(" for url (").next().unwrap_or(&cause).to_owned()
}

/// What the host sent instead of an answer.
fn error_line(error: &gix::Error) -> Option<String> {
    let line = error.downcast_any_ref::<gix::protocol::transport::packetline::read::Error>()?;
    Some(line.message.to_str_lossy().chars().filter(|c| !c.is_control()).take(MAX_LINE).collect())
}

/// A mirror's path has no place in a message: its name says something, if little, of the credentials.
pub fn hide(why: &str, folder: &Path) -> String {
    why.replace(&*folder.to_string_lossy(), "the mirror")
}

fn kind(error: &(dyn std::error::Error + 'static)) -> Option<ErrorKind> {
    error.downcast_ref().map(io::Error::kind)
}

/// Nobody's configuration but ours.
fn options() -> gix::open::Options {
    gix::open::Options::isolated().with(gix::sec::Trust::Full).config_overrides([THREADS, OBJECT_LIMIT])
}

fn open(folder: &Path) -> Result<Repository, String> {
    gix::open_opts(folder, options()).map_err(|error| text(&error))
}

fn tracking(branch: &str) -> String {
    format!("refs/remotes/origin/{branch}")
}

fn tip(repository: &Repository, branch: &str) -> Option<ObjectId> {
    let reference = repository.try_find_reference(tracking(branch).as_str()).ok().flatten()?;
    Some(reference.try_id()?.detach())
}

fn branches(repository: &Repository) -> Vec<String> {
    let prefix = tracking("");
    let Ok(platform) = repository.references() else { return Vec::new() };
    let Ok(all) = platform.all() else { return Vec::new() };
    let branch = |name: &gix::refs::FullNameRef| name.as_bstr().to_str().ok()?.strip_prefix(&prefix).map(str::to_owned);
    all.flatten().filter_map(|reference| branch(reference.name())).collect()
}

/// Whether every object of the commit is there.
fn whole(repository: &Repository, id: ObjectId, interrupt: &AtomicBool) -> Result<(), String> {
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

fn packs(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder.join("objects/pack")) else { return 0 };
    entries.flatten().filter(|entry| entry.path().extension().is_some_and(|extension| extension == "pack")).count()
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

/// `""`, `.`, `./a/b/` and `/a` are as good as any.
fn parts(path: &str) -> Result<Vec<&str>, SourceError> {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") { Err(SourceError::InvalidPath { path: path.to_owned() }) } else { Ok(parts) }
}

enum Unread {
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
struct Reader<'a> {
    repository: &'a Repository,
    wanted: fn(&str) -> bool,
    files: Vec<File>,
    bytes: u64,
    entries: usize,
}

impl Reader<'_> {
    fn start(&mut self, mut tree: ObjectId, parts: &[&str]) -> Result<(), Unread> {
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

    fn finish(mut self) -> Vec<File> {
        self.files.sort_by(|one, other| one.path.cmp(&other.path));
        self.files
    }
}
