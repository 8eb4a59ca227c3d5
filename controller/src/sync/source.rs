//! The Git side of a GitSync: fetches what is followed into a mirror on disk, and reads manifests straight out of the mirror's
//! object database. What was fetched once is there when Git is away. It must not show a credential, whatever goes
//! wrong, and must not let one slow host hold up another.

mod credentials;
mod error;
mod meter;
mod mirror;
mod range;
mod reference;
mod signed;
mod transfer;
mod tree;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::{self, Write as _},
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crds::git_sync::{GitSource, GitSyncSpec, Renderer};
use gix::ObjectId;
use jiff::Timestamp;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use url::{Host, Url};

pub use self::{
    credentials::{Credentials, CredentialsError, Proxy, SecretData},
    error::SourceError,
    reference::Reference,
    signed::{Signature, Signed, Walk},
};
use self::{error::Place, mirror::Mirror, transfer::Attempt};
use super::{
    render::{Problem, SourceFile},
    ssh::Patience,
};
use crate::pulse;

/// Commits that are fetched to find the last applied one among them, first and if that was not enough.
const SOME_HISTORY: u32 = 64;
const ALL_HISTORY: u32 = i32::MAX.unsigned_abs();

/// How long an answer is kept for others. Longer intervals ask for themselves.
const REMEMBERED: Duration = Duration::from_hours(1);

/// Where to fetch from, and what.
#[derive(Clone, Debug)]
pub struct Source {
    /// The first counts; the others are for while it cannot be reached.
    urls: Vec<Url>,
    reference: Reference,
    credentials: Arc<Credentials>,
    proxy: Option<Arc<Proxy>>,
}

impl Source {
    /// Refuses what could show a credential, and what can be no source.
    pub fn new(spec: &GitSource, credentials: Credentials, proxy: Option<Proxy>) -> Result<Self, SourceError> {
        let urls = [&spec.url].into_iter().chain(&spec.fallback_urls).map(|url| parse(url));
        let urls = urls.collect::<Result<Vec<_>, _>>()?;
        for url in &urls {
            if let Some(why) = credentials.refused_at(url, proxy.as_ref()) {
                return Err(SourceError::InvalidCredentials { url: url.to_string(), why });
            }
        }
        let reference = Reference::new(&spec.reference)?;
        Ok(Self { urls, reference, credentials: Arc::new(credentials), proxy: proxy.map(Arc::new) })
    }

    /// The same repository, but this commit of it.
    #[must_use]
    pub fn at(&self, commit: &Commit) -> Self {
        let branch = match &self.reference {
            Reference::Branch(branch) => Some(branch.clone()),
            Reference::Commit { branch, .. } => branch.clone(),
            _ => None,
        };
        Self { reference: Reference::Commit { id: commit.0, branch }, ..self.clone() }
    }

    /// The URL. It holds no credentials, so it can be shown.
    pub fn url(&self) -> &str {
        self.urls.first().map(Url::as_str).unwrap_or_default()
    }

    fn place(&self, url: &str) -> Place {
        Place { url: url.to_owned(), what: self.reference.to_string() }
    }

    /// Name of the mirror's folder: who has other credentials has another mirror, and so sees nothing by being second.
    /// The same for whoever is led elsewhere by the same name, over a proxy or to a host that only he trusts: what he
    /// is given is for nobody else.
    fn mirror(&self) -> String {
        let mut hasher = Sha256::new();
        for url in &self.urls {
            hasher.update(url.as_str());
            hasher.update([0]);
        }
        hasher.update(self.credentials.digest());
        hasher.update(self.proxy.as_ref().map(|proxy| proxy.digest()).unwrap_or_default());
        hasher.finalize().iter().fold(String::new(), |mut name, byte| {
            // Writing to a String cannot fail.
            let _ = write!(name, "{byte:02x}");
            name
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.reference, self.url())
    }
}

fn parse(text: &str) -> Result<Url, SourceError> {
    // Of what is no URL nobody knows where the password stands: it is not shown.
    let no_url = |why: String| SourceError::InvalidUrl { url: "this URL".to_owned(), why };
    if !text.contains("://") {
        return Err(no_url("write it as https://host/path or ssh://git@host/path".to_owned()));
    }
    let url = Url::parse(text).map_err(|error| no_url(error.to_string()))?;
    let is_http = matches!(url.scheme(), "http" | "https");
    let why = if url.password().is_some() || (is_http && !url.username().is_empty()) {
        "it holds credentials; put them into a Secret and name that in source.secretRef"
    } else if url.query().is_some() || url.fragment().is_some() {
        "it has a query or a fragment, which Git does not use"
    } else if !is_http && !matches!(url.scheme(), "ssh" | "file") {
        "it must begin with https://, http://, ssh:// or file://"
    } else if (url.scheme() == "file") == url.host_str().is_some_and(|host| !host.is_empty()) {
        if url.scheme() == "file" { "a file is on no other host" } else { "it names no host" }
    } else if url.path().trim_matches('/').is_empty() {
        "it names no repository"
    } else {
        return Ok(url);
    };
    let mut shown = url;
    // These fail for URLs that cannot have them.
    let _ = (shown.set_username(""), shown.set_password(None));
    shown.set_query(None);
    shown.set_fragment(None);
    Err(SourceError::InvalidUrl { url: shown.to_string(), why: why.to_owned() })
}

/// Whether what is sent stays on this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

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

/// The mirrors below one folder: one for each URL and credentials, shared by the GitSyncs that have both in common.
pub struct Mirrors {
    root: PathBuf,
    file_root: Option<PathBuf>,
    timeout: Duration,
    max_size: u64,
    opened: Mutex<HashMap<String, Arc<Mirror>>>,
    answers: Arc<Mutex<HashMap<Name, Answer>>>,
}

impl Mirrors {
    /// `file_root` is the folder below which file:// may read, `timeout` the time that a fetch from one place may take,
    /// and `max_size` the bytes that it may bring.
    pub fn new(root: PathBuf, file_root: Option<PathBuf>, timeout: Duration, max_size: u64) -> Self {
        Self { root, file_root, timeout, max_size, opened: Mutex::default(), answers: Arc::default() }
    }

    /// Asks for the newest commit, and transfers it when it is new. What is answered is whole, and on disk. Whoever
    /// shares the repository shares the answers: one that was asked for no earlier than `since` will do.
    pub async fn fetch(&self, source: &Source, since: Instant) -> Result<Fetched, SourceError> {
        self.ask(source, since, NonZeroU32::MIN).await
    }

    async fn ask(&self, source: &Source, since: Instant, depth: NonZeroU32) -> Result<Fetched, SourceError> {
        let asked = Instant::now();
        let interrupt = Interrupt::default();
        let places = u32::try_from(source.urls.len()).unwrap_or(u32::MAX);
        let within = self.timeout.saturating_mul(places);
        let late = || SourceError::Timeout { place: source.place(source.url()), after: self.timeout };
        let mirror = self.mirror(source);
        let name = (source.mirror(), source.reference.clone());
        let work = async {
            // Whoever fetches holds the turn until that really ended, even when nobody waits for it any more.
            let turn = mirror.turn.clone().lock_owned().await;
            if depth == NonZeroU32::MIN
                && let Some(known) = self.known(&name, asked, since)
            {
                return known;
            }
            let began = Instant::now();
            let (here, file_root, timeout, limit) =
                (mirror.clone(), self.file_root.clone(), self.timeout, self.max_size);
            let (interrupt, answers) = (interrupt.0.clone(), self.answers.clone());
            run(&mirror, source.clone(), move |source| {
                let _turn = turn;
                let attempt = |url: &Url| {
                    let patience = Patience { deadline: Instant::now() + timeout, interrupt: interrupt.clone() };
                    let location = locate(source, url, file_root.as_deref())?;
                    here.fetch(&Attempt { source, url, location, timeout, limit, depth, patience })
                };
                let outcome = first_that_answers(source, attempt, &interrupt).map(|(tip, fallback)| Fetched {
                    tip,
                    began,
                    fallback,
                });
                let mut answers = answers.lock();
                answers.retain(|_, answer| answer.began.elapsed() < REMEMBERED);
                answers.insert(name, Answer { began, outcome: outcome.clone() });
                outcome
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
    /// names. Hidden entries, links and submodules are passed over. What a damaged mirror has lost is fetched again.
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
        look: impl Fn(&Mirror, &str, &Commit) -> Result<T, SourceError> + Clone + Send + 'static,
    ) -> Result<T, SourceError> {
        let once = || {
            let (mirror, commit, look) = (self.mirror(source), commit.clone(), look.clone());
            let here = mirror.clone();
            async move { run(&here, source.clone(), move |source| look(&mirror, source.url(), &commit)).await }
        };
        // What is followed first: that makes a damaged mirror anew, and is most often the very commit.
        for again in [source.clone(), source.at(commit)] {
            match once().await {
                Err(SourceError::MirrorDamaged { .. } | SourceError::CommitNotFound { .. }) => {
                    self.fetch(&again, Instant::now()).await?;
                }
                seen => return seen,
            }
        }
        once().await
    }

    fn mirror(&self, source: &Source) -> Arc<Mirror> {
        let name = source.mirror();
        let mut opened = self.opened.lock();
        opened.entry(name).or_insert_with_key(|name| Arc::new(Mirror::new(self.root.join(name)))).clone()
    }
}

/// Goes on to the next place while nobody is there. With what was found, says which place it was, if not the first.
fn first_that_answers(
    source: &Source,
    attempt: impl Fn(&Url) -> Result<Tip, SourceError>,
    interrupt: &AtomicBool,
) -> Result<(Tip, Option<String>), SourceError> {
    let mut away = Vec::new();
    for url in &source.urls {
        match attempt(url) {
            Ok(tip) => {
                let why = SourceError::together(away);
                return Ok((tip, why.map(|why| format!("{url} is in use, because: {why}"))));
            }
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

/// What gix shall connect to. A file:// URL must lead below `file_root`, whatever links are on the way; of what is
/// elsewhere it is not even told whether it exists.
fn locate(source: &Source, url: &Url, file_root: Option<&Path>) -> Result<gix::Url, SourceError> {
    let invalid = |why: String| SourceError::InvalidUrl { url: url.to_string(), why };
    if url.scheme() != "file" {
        return gix::url::parse(url.as_str()).map_err(|error| invalid(error.to_string()));
    }
    let refused = |why: &str| Err(invalid(why.to_owned()));
    let Some(root) = file_root else {
        return refused("the controller reads no files; start it with --git-file-root to allow them below a folder");
    };
    let Ok(path) = url.to_file_path() else { return refused("it is no path on this machine") };
    let Ok(real_root) = root.canonicalize() else {
        return refused("the folder given as --git-file-root does not exist");
    };
    if !path.starts_with(root) && !path.starts_with(&real_root) {
        return refused("it is not below --git-file-root");
    }
    let not_found = |error: std::io::Error| SourceError::RepositoryNotFound {
        place: source.place(url.as_str()),
        why: error.to_string(),
    };
    let path = path.canonicalize().map_err(not_found)?;
    if !path.starts_with(&real_root) {
        return refused("it is not below --git-file-root");
    }
    gix::Url::try_from(path).map_err(|error| invalid(error.to_string()))
}

#[cfg(test)]
mod tests;
