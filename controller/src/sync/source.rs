//! The Git side of a GitSync: fetches what is followed into a mirror on disk, and reads manifests straight out of the mirror's
//! object database. What was fetched once is there when Git is away. It must not show a credential, whatever goes
//! wrong, and must not let one slow host hold up another.

mod credentials;
mod error;
mod meter;
mod mirror;
mod origin;
mod range;
mod reference;
mod signed;
mod transfer;
mod tree;

use std::{
    cell::{Cell, OnceCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    num::NonZeroU32,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crds::git_sync::{GitSyncSpec, Renderer};
use gix::ObjectId;
use jiff::Timestamp;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use url::Url;

pub use self::{
    credentials::{Credentials, CredentialsError, Proxy, SecretData},
    error::SourceError,
    origin::{Source, is_loopback},
    reference::Reference,
    signed::{Signature, Signed, Walk},
};
use self::{mirror::Mirror, origin::locate, transfer::Attempt};
use super::{
    Key,
    permits::{Permit, Permits},
    render::{Problem, SourceFile},
    ssh::Patience,
};
use crate::pulse;

/// Commits that are fetched to find the last applied one among them, first and if that was not enough.
const SOME_HISTORY: u32 = 64;
const ALL_HISTORY: u32 = i32::MAX.unsigned_abs();

/// How long an answer is kept for others. Longer intervals ask for themselves.
const REMEMBERED: Duration = Duration::from_hours(1);

/// No fetch may take longer, however long it may.
const FOR_EVER: Duration = Duration::from_hours(8760);

/// Whoever gives up so shortly before the time of a fetch is over has waited to its end.
const ALMOST: Duration = Duration::from_secs(1);

/// A mirror goes when no GitSync has used it for so long. After a start each has used its own long before.
const UNUSED: Duration = Duration::from_mins(15);

/// Id of a commit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Commit(ObjectId);

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a commit says of itself: whoever may push writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// When it was made, by the clock of whoever made it.
    pub committed: Timestamp,
    /// Who wrote it, shortened.
    pub author: String,
    /// The first line of its message, shortened.
    pub subject: String,
}

/// What was found at the end of a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tip {
    /// The commit.
    pub commit: Commit,
    /// The annotated tag that led to it.
    pub tag: Option<ObjectId>,
    /// What of the repository is followed, as a revision shows it; empty for a commit by itself.
    name: String,
}

impl Tip {
    /// As Flux writes it: `main@sha1:…`, `v1.2.0@sha1:…`, `refs/pull/1/head@sha1:…`, `sha1:…`.
    pub fn revision(&self) -> String {
        let Self { commit, name, .. } = self;
        if name.is_empty() { format!("sha1:{commit}") } else { format!("{name}@sha1:{commit}") }
    }

    /// The tag that is followed, if one is.
    pub fn tag_name(&self) -> &str {
        self.name.strip_prefix("refs/tags/").unwrap_or(&self.name)
    }

    /// The other way round. Whether a tag led there it does not tell.
    pub fn from_revision(revision: &str) -> Option<Self> {
        let (name, id) = match revision.rsplit_once("@sha1:") {
            Some(both) => both,
            None => ("", revision.strip_prefix("sha1:")?),
        };
        let commit = Commit(ObjectId::from_hex(id.as_bytes()).ok()?);
        Some(Self { commit, tag: None, name: name.to_owned() })
    }
}

/// What a fetch came to.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// What the host has.
    pub tip: Tip,
    /// When it was asked.
    pub began: Instant,
    /// Which fallback answered, and why the others did not.
    pub fallback: Option<String>,
}

/// A mirror's name, and what of it is followed.
type Name = (String, Reference);

/// The last answer of a repository, for whoever wants to know the same.
struct Answer {
    began: Instant,
    outcome: Result<Fetched, SourceError>,
}

/// Where a fetch stands.
enum Look {
    /// It is over.
    Done(Fetched),
    /// There is something to take.
    News(Place),
}

/// One of the places of a source.
#[derive(Default)]
struct Place {
    number: usize,
    /// Why those before it did not answer.
    away: Vec<SourceError>,
}

/// A file of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// From the root of the repository.
    pub path: String,
    /// What it holds.
    pub bytes: Vec<u8>,
}

impl From<&File> for SourceFile {
    fn from(File { path, bytes }: &File) -> Self {
        Self { path: path.clone(), text: std::str::from_utf8(bytes).ok().map(str::to_owned) }
    }
}

/// What rendering a path of a commit reads, by Git's own ids: where two are equal, so is what is rendered.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The path, as the repository spells it.
    pub path: String,
    /// What renders.
    pub renderer: Renderer,
    /// Of all that stands at the path.
    all: ObjectId,
    files: BTreeMap<String, ObjectId>,
    /// Folders that must be there.
    pub folders: BTreeSet<String>,
    /// What a rendering would lack.
    pub problems: Vec<Problem>,
}

impl Survey {
    /// Differs when anything does that is read.
    pub fn digest(&self) -> String {
        let Self { path, renderer, all, files, folders, problems: _ } = self;
        let read = match renderer {
            Renderer::Plain => format!("{all}"),
            Renderer::Kustomize | Renderer::Helm => format!("{files:?} {folders:?}"),
        };
        format!("{:x?}", Sha256::digest(format!("{renderer:?} {path} {read}")).as_slice())
    }
}

/// Fetches of one namespace at once. Alone it is no slower for having a share: most of a fetch is waiting, and more of
/// them would only divide two cores.
const EACH: usize = 8;
/// Fetches at once. Four namespaces must have their share taken up by hosts that hang before another waits at all, and
/// then it waits for the first of these to give up.
const ALL: usize = 4 * EACH;
/// Packs that are taken at once, one of each namespace. Each takes memory for its largest file, and the container has to
/// hold all. Fewer would let fewer hosts that stop in the middle of one hold up the others.
const PACKS: usize = 4;

/// The mirrors below one folder: one for each URL and credentials, shared by the GitSyncs that have both in common.
pub struct Mirrors {
    root: PathBuf,
    file_root: Option<PathBuf>,
    timeout: Duration,
    max_size: u64,
    opened: Mutex<HashMap<String, Arc<Mirror>>>,
    /// The mirror that each GitSync used last.
    users: Mutex<HashMap<Key, String>>,
    /// Mirrors that none uses, and since when that is known.
    idle: Mutex<HashMap<String, Instant>>,
    answers: Arc<Mutex<HashMap<Name, Answer>>>,
    /// To ask.
    permits: Permits,
    /// To take what is new.
    packs: Permits,
}

impl Mirrors {
    /// `file_root` is the folder below which file:// may read, `timeout` the time that a fetch from one place may take,
    /// and `max_size` the bytes that it may bring.
    pub fn new(root: PathBuf, file_root: Option<PathBuf>, timeout: Duration, max_size: u64) -> Self {
        let (opened, users, idle) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (answers, permits, packs) = (Arc::default(), Permits::new(ALL, EACH), Permits::new(PACKS, 1));
        let timeout = timeout.min(FOR_EVER);
        Self { root, file_root, timeout, max_size, opened, users, idle, answers, permits, packs }
    }

    /// Asks for the newest commit, and transfers it when it is new. What is answered is whole, and on disk. Whoever
    /// shares the repository shares the answers: one that was asked for no earlier than `since` will do.
    pub async fn fetch(&self, source: &Source, since: Instant) -> Result<Fetched, SourceError> {
        self.ask(source, since, NonZeroU32::MIN).await
    }

    async fn ask(&self, source: &Source, since: Instant, depth: NonZeroU32) -> Result<Fetched, SourceError> {
        let asked = Instant::now();
        let interrupt = Interrupt::default();
        let mut news = None;
        loop {
            // Who has nothing new, or does not even answer, is not waited for by those that unpack. So who has to wait to
            // unpack asks once more then. Waiting for a turn is no fault of the host's. It comes before the turn at the
            // mirror, which others share.
            let permits = if news.is_some() { &self.packs } else { &self.permits };
            let permit = pulse::idle(permits.one(&source.user.0)).await;
            match self.look(source, (asked, since), depth, &interrupt, permit, news).await? {
                Look::Done(fetched) => return Ok(fetched),
                Look::News(place) => news = Some(place),
            }
        }
    }

    /// Asks, and with news transfers what there is.
    async fn look(
        &self,
        source: &Source,
        (asked, since): (Instant, Instant),
        depth: NonZeroU32,
        interrupt: &Interrupt,
        permit: Permit,
        news: Option<Place>,
    ) -> Result<Look, SourceError> {
        let places = u32::try_from(source.urls.len()).unwrap_or(u32::MAX);
        let within = self.timeout.saturating_mul(places);
        let late = || SourceError::Timeout { place: source.place(source.url()), after: self.timeout };
        let mirror = self.mirror(source);
        let name = (source.mirror(), source.reference.clone());
        let may_know = || depth == NonZeroU32::MIN && !mirror.is_distrusted();
        let known = || self.known(&name, asked, since).filter(|_| may_know());
        let work = async {
            if let Some(known) = known() {
                return known.map(Look::Done);
            }
            // Whoever fetches holds both until that really ended, even when nobody waits for it any more.
            let turn = mirror.turn.clone().lock_owned().await;
            if let Some(known) = known() {
                return known.map(Look::Done);
            }
            let began = Instant::now();
            let (here, file_root, timeout, limit) =
                (mirror.clone(), self.file_root.clone(), self.timeout, self.max_size);
            let (interrupt, answers, name) = (interrupt.0.clone(), self.answers.clone(), name.clone());
            let packs = self.packs.clone();
            run(&mirror, source.clone(), move |source| {
                let _held = (turn, permit);
                let (waited, pack) = (news.is_some(), OnceCell::new());
                let has_turn = || packs.at_once(&source.user.0).is_some_and(|permit| pack.set(permit).is_ok());
                let takes = || waited || pack.get().is_some() || has_turn();
                let is_given_up = Cell::new(false);
                let attempt = |url: &Url| {
                    let deadline = Instant::now() + timeout;
                    let patience = Patience { deadline, interrupt: interrupt.clone() };
                    let location = locate(source, url, file_root.as_deref())?;
                    let found =
                        here.fetch(&Attempt { source, url, location, timeout, limit, depth, takes: &takes, patience });
                    let is_cut_off = match &found {
                        Ok(_) | Err(SourceError::FetchTooLarge { .. }) => false,
                        Err(_) => interrupt.load(Ordering::Relaxed),
                    };
                    is_given_up.set(is_cut_off && Instant::now() + ALMOST < deadline);
                    found
                };
                let looked = first_that_answers(source, news.unwrap_or_default(), attempt, began, &interrupt);
                let outcome = match &looked {
                    Ok(Look::News(_)) => return looked,
                    Ok(Look::Done(fetched)) => Ok(fetched.clone()),
                    // Others ask themselves.
                    Err(_) if is_given_up.get() => return looked,
                    Err(error) => Err(error.clone()),
                };
                let mut answers = answers.lock();
                answers.retain(|_, answer| answer.began.elapsed() < REMEMBERED);
                answers.insert(name, Answer { began, outcome });
                looked
            })
            .await
        };
        pulse::idle(tokio::time::timeout(within, work)).await.unwrap_or_else(|_| Err(late()))
    }

    fn known(&self, name: &Name, asked: Instant, since: Instant) -> Option<Result<Fetched, SourceError>> {
        let answers = self.answers.lock();
        let answer = answers.get(name)?;
        let will_do = answer.began >= asked || (answer.began >= since && answer.outcome.is_ok());
        will_do.then(|| answer.outcome.clone())
    }

    /// What the mirror on disk has of it: what to go on with while Git is away.
    pub async fn cached(&self, source: &Source) -> Option<Tip> {
        let (mirror, reference) = (self.mirror(source), source.reference.clone());
        tokio::task::spawn_blocking(move || mirror.cached(&reference)).await.ok().flatten()
    }

    /// Fetches a commit that reading lacked, unless it came with what is followed: most often it does.
    pub async fn bring(&self, source: &Source, commit: &Commit) -> Result<(), SourceError> {
        let alone = source.at(commit);
        if self.cached(&alone).await.is_none() {
            self.fetch(&alone, Instant::now()).await?;
        }
        Ok(())
    }

    /// What is signed of a commit, and of the tag that led to it.
    pub async fn signed(&self, source: &Source, tip: &Tip) -> Result<Signed, SourceError> {
        let tag = tip.tag;
        self.visit(source, &tip.commit, move |mirror, url, commit| mirror.signed(url, commit, tag)).await
    }

    /// All commits that came since `base`: of the history no more is fetched than is needed to tell.
    pub async fn since(&self, source: &Source, tip: &Tip, base: &Commit) -> Result<Walk, SourceError> {
        if self.cached(&source.at(base)).await.is_none() {
            self.fetch(&source.at(base), Instant::now()).await?;
        }
        let here = source.at(&tip.commit);
        let mut walk = Walk::Shallow;
        for depth in [None, NonZeroU32::new(SOME_HISTORY), NonZeroU32::new(ALL_HISTORY)] {
            if let Some(depth) = depth {
                self.ask(&here, Instant::now(), depth).await?;
            }
            let base = base.clone();
            walk = self.visit(&here, &tip.commit, move |mirror, url, tip| mirror.since(url, tip, &base)).await?;
            if !matches!(walk, Walk::Shallow) {
                break;
            }
        }
        Ok(walk)
    }

    /// All files at and below `path` whose name is `wanted`, in the order of their paths, or the one file that `path`
    /// names. Hidden entries, links and submodules are passed over.
    pub async fn read(
        &self,
        source: &Source,
        commit: &Commit,
        path: &str,
        wanted: fn(&str) -> bool,
    ) -> Result<Vec<File>, SourceError> {
        let path = path.to_owned();
        self.visit(source, commit, move |mirror, url, commit| mirror.read(url, commit, &path, wanted)).await
    }

    /// Finds what rendering the path of a GitSync reads.
    pub async fn survey(&self, source: &Source, commit: &Commit, spec: &GitSyncSpec) -> Result<Survey, SourceError> {
        let spec = spec.clone();
        self.visit(source, commit, move |mirror, url, commit| mirror.survey(url, commit, &spec.path, &spec)).await
    }

    /// What a commit says of itself.
    pub async fn described(&self, source: &Source, commit: &Commit) -> Result<Description, SourceError> {
        self.visit(source, commit, Mirror::described).await
    }

    /// Reads what a survey found.
    pub async fn load(&self, source: &Source, commit: &Commit, survey: &Survey) -> Result<Vec<File>, SourceError> {
        let (path, files) = (survey.path.clone(), survey.files.clone());
        self.visit(source, commit, move |mirror, url, commit| mirror.load(url, commit, &path, &files)).await
    }

    async fn visit<T: Send + 'static>(
        &self,
        source: &Source,
        commit: &Commit,
        look: impl FnOnce(&Mirror, &str, &Commit) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let (mirror, commit) = (self.mirror(source), commit.clone());
        let here = mirror.clone();
        run(&here, source.clone(), move |source| look(&mirror, source.url(), &commit)).await
    }

    /// Removes the mirrors that no GitSync uses any more, because it went or its URL or credentials are others by now.
    /// Blocks.
    pub fn sweep(&self, is_there: impl Fn(&Key) -> bool, now: Instant) {
        self.users.lock().retain(|user, _| is_there(user));
        // What is there no longer is not answered.
        self.answers.lock().retain(|(name, _), _| self.is_used(name));
        let mut unused = mirror::folders(&self.root);
        unused.retain(|name| !self.is_used(name));
        let mut idle = self.idle.lock();
        idle.retain(|name, _| unused.contains(name));
        for name in unused {
            let since = *idle.entry(name.clone()).or_insert(now);
            if now.saturating_duration_since(since) >= UNUSED {
                self.open(name.clone()).remove(|| self.is_used(&name));
            }
        }
        // Of one that somebody still holds there must not be another.
        self.opened.lock().retain(|name, mirror| self.is_used(name) || Arc::strong_count(mirror) > 1);
    }

    fn is_used(&self, name: &str) -> bool {
        self.users.lock().values().any(|used| used == name)
    }

    fn mirror(&self, source: &Source) -> Arc<Mirror> {
        let name = source.mirror();
        self.users.lock().insert(source.user.clone(), name.clone());
        self.open(name)
    }

    fn open(&self, name: String) -> Arc<Mirror> {
        let mut opened = self.opened.lock();
        opened.entry(name).or_insert_with_key(|name| Arc::new(Mirror::new(self.root.join(name)))).clone()
    }
}

/// Goes on to the next place while nobody is there. With what was found, says which place it was, if not the first.
fn first_that_answers(
    source: &Source,
    Place { number, mut away }: Place,
    attempt: impl Fn(&Url) -> Result<Option<Tip>, SourceError>,
    began: Instant,
    interrupt: &AtomicBool,
) -> Result<Look, SourceError> {
    for (number, url) in source.urls.iter().enumerate().skip(number) {
        match attempt(url) {
            Ok(Some(tip)) => {
                let why = SourceError::together(away);
                let fallback = why.map(|why| format!("{url} is in use, because: {why}"));
                return Ok(Look::Done(Fetched { tip, began, fallback }));
            }
            Ok(None) => return Ok(Look::News(Place { number, away })),
            Err(error) if error.is_away() && !interrupt.load(Ordering::Relaxed) => away.push(error),
            Err(error) => return Err(error),
        }
    }
    Err(SourceError::together(away).unwrap_or(SourceError::Defect { url: source.url().to_owned() }))
}

/// Does what blocks. If it ends in a defect, a mirror that provokes it is not asked again.
async fn run<T: Send + 'static>(
    mirror: &Mirror,
    source: Source,
    work: impl FnOnce(&Source) -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    let url = source.url().to_owned();
    tokio::task::spawn_blocking(move || work(&source)).await.unwrap_or_else(|_| {
        mirror.distrust();
        Err(SourceError::Defect { url })
    })
}

/// Ends a fetch that nobody waits for any more.
#[derive(Default)]
struct Interrupt(Arc<AtomicBool>);

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
