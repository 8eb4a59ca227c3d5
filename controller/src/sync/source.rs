//! The Git side of a GitSync: fetches a branch into a mirror on disk, and reads manifests straight out of the mirror's
//! object database. What was fetched once is there when Git is away. It must not show a credential, whatever goes
//! wrong, and must not let one slow host hold up another.

mod mirror;
mod transfer;
mod tree;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crds::git_sync::{GitSyncSpec, Renderer};
use gix::ObjectId;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use url::{Host, Url};
use zeroize::Zeroizing;

use self::{mirror::Mirror, transfer::Attempt};
use super::{
    render::{Problem, SourceFile},
    ssh::{Login, LoginError, Patience},
};

/// Why a source gives nothing. The text says what was done, to what, why it failed and what to do.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum SourceError {
    /// The URL can be no source.
    #[error("cannot use {url} as a Git source: {why}")]
    InvalidUrl { url: String, why: String },
    /// There can be no such branch.
    #[error("cannot follow the branch {branch:?}: this is no name of a branch")]
    InvalidBranch { branch: String },
    /// The path leads out of the repository.
    #[error("cannot read the path {path:?}: it must stay in the repository, without ..")]
    InvalidPath { path: String },
    /// Credentials are missing, or of a kind that the URL cannot take.
    #[error("cannot fetch from {url}: {why}")]
    InvalidCredentials { url: String, why: &'static str },
    /// The host does not let us in.
    #[error("cannot fetch {place}: {why}")]
    AuthenticationFailed { place: Place, why: String },
    /// The host is not the one that known_hosts knows.
    #[error("cannot fetch {place}: the host cannot be trusted: {why}")]
    HostKeyRefused { place: Place, why: String },
    /// The host has no such repository, or does not show it to us.
    #[error("cannot fetch {place}: there is no such repository, or the credentials may not see it ({why})")]
    RepositoryNotFound { place: Place, why: String },
    /// The repository has no such branch.
    #[error("cannot fetch {place}: the repository has no such branch; push it, or correct source.ref.branch")]
    BranchNotFound { place: Place },
    /// The host cannot be reached, or is in trouble.
    #[error("cannot fetch {place}: {why}; check that the host is well and can be reached from here")]
    Unreachable { place: Place, why: String },
    /// The host takes too long.
    #[error("cannot fetch {place}: it took longer than {} s (--git-timeout)", after.as_secs_f32())]
    Timeout { place: Place, after: Duration },
    /// Something else went wrong between the host and us.
    #[error("cannot fetch {place}: {why}")]
    FetchFailed { place: Place, why: String },
    /// The mirror's folder cannot be written.
    #[error("cannot keep a mirror of {url}: {why}; check the volume given as --git-cache")]
    StorageFailed { url: String, why: String },
    /// The mirror cannot be read; the next fetch replaces it.
    #[error("cannot read the mirror of {url}, which will be fetched anew: {why}")]
    MirrorDamaged { url: String, why: String },
    /// The mirror does not have the commit.
    #[error("cannot read the commit {commit} of {url}: it is no longer in the mirror; a newer one will be fetched")]
    CommitNotFound { url: String, commit: Commit },
    /// The repository has no such path.
    #[error("cannot read the path {path:?} of {url}: {why} at the commit {commit}; correct spec.path or push it")]
    PathNotFound { url: String, path: String, commit: Commit, why: &'static str },
    /// There is more than the controller wants to hold.
    #[error(
        "cannot read the path {path:?} of {url} at the commit {commit}: it holds more than {limit}; split it into several GitSyncs"
    )]
    TooLarge { url: String, path: String, commit: Commit, limit: &'static str },
    /// A bug.
    #[error("cannot work on the mirror of {url}: a defect of the controller ended the attempt")]
    Defect { url: String },
}

impl SourceError {
    /// Its kind, such as `BranchNotFound`: the reason of a condition, the label of a metric.
    pub fn reason(&self) -> &'static str {
        self.into()
    }

    /// Without the mirror's folder.
    fn without(mut self, folder: &Path) -> Self {
        if let Self::RepositoryNotFound { why, .. }
        | Self::Unreachable { why, .. }
        | Self::FetchFailed { why, .. }
        | Self::StorageFailed { why, .. }
        | Self::MirrorDamaged { why, .. } = &mut self
        {
            *why = mirror::hide(why, folder);
        }
        self
    }
}

/// A branch of a repository, as errors name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    url: String,
    branch: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the branch {} of {}", self.branch, self.url)
    }
}

/// Why a Secret holds no credentials. Never holds a part of them.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Entries are missing.
    #[error("it has no {missing}: {scheme} needs {needs}")]
    Missing { scheme: &'static str, missing: String, needs: &'static str },
    /// An entry is binary.
    #[error("its {0} is not text")]
    NotText(&'static str),
    /// Basic authentication has no way to write it.
    #[error("its username has a colon in it, which http cannot carry")]
    Colon,
    /// SSH cannot use it.
    #[error("its {0}")]
    Login(#[from] LoginError),
    /// The URL takes none.
    #[error("{0} takes no credentials: remove source.secretRef")]
    NotTaken(String),
}

/// What opens a repository. Printed by nobody, wiped when dropped.
pub enum Credentials {
    /// Everybody may read it.
    None,
    /// For http and https.
    Basic { username: Zeroizing<String>, password: Zeroizing<String> },
    /// For ssh.
    Ssh(Login),
}

impl Credentials {
    /// Reads the entries that Flux reads: `username` and `password` for http, `identity` and `known_hosts` for ssh.
    pub fn from_secret_data(scheme: &str, data: &BTreeMap<String, ByteString>) -> Result<Self, CredentialsError> {
        match &*scheme.to_ascii_lowercase() {
            "http" | "https" => {
                let [username, password] = texts("http", data, ["username", "password"], "username and password")?;
                if username.contains(':') {
                    return Err(CredentialsError::Colon);
                }
                Ok(Self::Basic { username, password })
            }
            "ssh" => {
                let needs = "identity (a private key) and known_hosts (the host's public key)";
                let [identity, known_hosts] = texts("ssh", data, ["identity", "known_hosts"], needs)?;
                Ok(Self::Ssh(Login::new(&identity, &known_hosts)?))
            }
            other => Err(CredentialsError::NotTaken(other.to_owned())),
        }
    }

    /// Bytes that differ when the credentials do.
    fn digest(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        let parts: [&[u8]; 3] = match self {
            Self::None => [b"none", b"", b""],
            Self::Basic { username, password } => [b"basic", username.as_bytes(), password.as_bytes()],
            Self::Ssh(login) => return Sha256::digest(login.fingerprint()).into(),
        };
        for part in parts {
            hasher.update(part.len().to_be_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Basic { .. } => "Basic(<redacted>)",
            Self::Ssh(_) => "Ssh(<redacted>)",
        })
    }
}

/// The entries as text; the line's end that an editor or `echo` leaves behind is no part of it.
fn texts<const N: usize>(
    scheme: &'static str,
    data: &BTreeMap<String, ByteString>,
    keys: [&'static str; N],
    needs: &'static str,
) -> Result<[Zeroizing<String>; N], CredentialsError> {
    let missing: Vec<&str> =
        keys.into_iter().filter(|key| data.get(*key).is_none_or(|value| value.0.is_empty())).collect();
    if !missing.is_empty() {
        return Err(CredentialsError::Missing { scheme, missing: missing.join(" and no "), needs });
    }
    let mut read = keys.map(|_| Zeroizing::new(String::new()));
    for (slot, key) in read.iter_mut().zip(keys) {
        let bytes = data.get(key).map(|value| value.0.as_slice()).unwrap_or_default();
        let text = std::str::from_utf8(bytes).map_err(|_| CredentialsError::NotText(key))?;
        text.trim_end_matches(['\r', '\n']).clone_into(slot);
    }
    Ok(read)
}

/// Where to fetch from.
#[derive(Clone, Debug)]
pub struct Source {
    url: Url,
    branch: String,
    credentials: Arc<Credentials>,
}

impl Source {
    /// Refuses what could show a credential, and what can be no source.
    pub fn new(url: &str, branch: &str, credentials: Credentials) -> Result<Self, SourceError> {
        let url = parse(url)?;
        let invalid = |why| Err(SourceError::InvalidCredentials { url: url.to_string(), why });
        match (url.scheme(), &credentials) {
            ("http", Credentials::Basic { .. }) if !is_loopback(&url) => {
                return invalid("over http everybody on the way could read the password; use https");
            }
            ("ssh", Credentials::None) => {
                return invalid("ssh needs a Secret with identity and known_hosts, named in source.secretRef");
            }
            ("http" | "https", Credentials::None | Credentials::Basic { .. })
            | ("ssh", Credentials::Ssh(_))
            | ("file", Credentials::None) => {}
            _ => return invalid("these credentials are for another kind of URL"),
        }
        if gix::refs::FullName::try_from(format!("refs/heads/{branch}")).is_err() {
            return Err(SourceError::InvalidBranch { branch: branch.to_owned() });
        }
        Ok(Self { url, branch: branch.to_owned(), credentials: Arc::new(credentials) })
    }

    /// The URL. It holds no credentials, so it can be shown.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// The branch that is followed.
    pub fn branch(&self) -> &str {
        &self.branch
    }

    fn place(&self) -> Place {
        Place { url: self.url.to_string(), branch: self.branch.clone() }
    }

    /// Name of the mirror's folder: who has other credentials has another mirror, and so sees nothing by being second.
    fn mirror(&self) -> String {
        let mut hasher = Sha256::new_with_prefix(self.url.as_str());
        hasher.update(self.credentials.digest());
        hasher.finalize().iter().fold(String::new(), |mut name, byte| {
            // Writing to a String cannot fail.
            let _ = write!(name, "{byte:02x}");
            name
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place().fmt(f)
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
fn is_loopback(url: &Url) -> bool {
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

impl Commit {
    /// Of a revision such as branch@sha1:commit.
    pub fn of_revision(revision: &str) -> Option<Self> {
        ObjectId::from_hex(revision.rsplit_once(':')?.1.as_bytes()).ok().map(Self)
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
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
    opened: Mutex<HashMap<String, Arc<Mirror>>>,
}

impl Mirrors {
    /// `file_root` is the folder below which file:// may read, `timeout` the time that a fetch may take.
    pub fn new(root: PathBuf, file_root: Option<PathBuf>, timeout: Duration) -> Self {
        Self { root, file_root, timeout, opened: Mutex::default() }
    }

    /// Asks for the branch's commit, and transfers it when it is new. What is answered is whole, and on disk.
    pub async fn fetch(&self, source: &Source) -> Result<Commit, SourceError> {
        let interrupt = Interrupt::default();
        let patience = Patience { deadline: Instant::now() + self.timeout, interrupt: interrupt.0.clone() };
        let late = SourceError::Timeout { place: source.place(), after: self.timeout };
        let (mirror, file_root, timeout) = (self.mirror(source), self.file_root.clone(), self.timeout);
        let (turn, source) = (mirror.turn.clone(), source.clone());
        let work = async {
            // Whoever fetches holds the turn until that really ended, even when nobody waits for it any more.
            let turn = turn.lock_owned().await;
            run(&mirror.clone(), source.clone(), move |source| {
                let _turn = turn;
                let location = locate(source, file_root.as_deref())?;
                mirror.fetch(&Attempt { source, location, timeout, patience })
            })
            .await
        };
        tokio::time::timeout(self.timeout, work).await.unwrap_or(Err(late))
    }

    /// The branch's commit that the mirror on disk has: what to go on with while Git is away.
    pub async fn cached(&self, source: &Source) -> Option<Commit> {
        let (mirror, branch) = (self.mirror(source), source.branch.clone());
        tokio::task::spawn_blocking(move || mirror.cached(&branch)).await.ok().flatten()
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

    /// When a commit was made, by the clock of whoever made it.
    pub async fn committed(&self, source: &Source, commit: &Commit) -> Result<Timestamp, SourceError> {
        self.visit(source, commit, Mirror::committed).await
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
        match once().await {
            Err(SourceError::MirrorDamaged { .. } | SourceError::CommitNotFound { .. }) => {
                self.fetch(source).await?;
                once().await
            }
            seen => seen,
        }
    }

    fn mirror(&self, source: &Source) -> Arc<Mirror> {
        let name = source.mirror();
        let mut opened = self.opened.lock();
        opened.entry(name).or_insert_with_key(|name| Arc::new(Mirror::new(self.root.join(name)))).clone()
    }
}

/// Does what blocks. If it ends in a defect, a mirror that provokes it is not asked again.
async fn run<T: Send + 'static>(
    mirror: &Mirror,
    source: Source,
    work: impl FnOnce(&Source) -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    let url = source.url.to_string();
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
fn locate(source: &Source, file_root: Option<&Path>) -> Result<gix::Url, SourceError> {
    let invalid = |why: String| SourceError::InvalidUrl { url: source.url.to_string(), why };
    if source.url.scheme() != "file" {
        return gix::url::parse(source.url.as_str()).map_err(|error| invalid(error.to_string()));
    }
    let refused = |why: &str| Err(invalid(why.to_owned()));
    let Some(root) = file_root else {
        return refused("the controller reads no files; start it with --git-file-root to allow them below a folder");
    };
    let Ok(path) = source.url.to_file_path() else { return refused("it is no path on this machine") };
    let Ok(real_root) = root.canonicalize() else {
        return refused("the folder given as --git-file-root does not exist");
    };
    if !path.starts_with(root) && !path.starts_with(&real_root) {
        return refused("it is not below --git-file-root");
    }
    let not_found =
        |error: std::io::Error| SourceError::RepositoryNotFound { place: source.place(), why: error.to_string() };
    let path = path.canonicalize().map_err(not_found)?;
    if !path.starts_with(&real_root) {
        return refused("it is not below --git-file-root");
    }
    gix::Url::try_from(path).map_err(|error| invalid(error.to_string()))
}

#[cfg(test)]
mod tests;
