//! One fetch: asks a host for a reference, takes what is new into a mirror, and says in one sentence what went wrong. It
//! must not show a credential, nor wait beyond the patience it got.

use std::{
    collections::{HashMap, HashSet},
    io::{self, ErrorKind},
    num::NonZeroU32,
    sync::{Arc, atomic::Ordering},
    time::Duration,
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

use parking_lot::Mutex;
use url::Url;

use super::{
    Credentials, Reference, Source, SourceError, Tip,
    credentials::{Http, HttpLogin, Proxy},
    is_loopback,
    meter::Meter,
    mirror::{self, id_at, peeled, whole},
    reference::{highest, tags},
};
use crate::sync::{
    ssh::{self, Patience, SshError, Words},
    trust,
};

/// A fetch adds a pack, and nothing joins them: beyond this many a mirror is slower, and larger, than a new one.
const MAX_PACKS: usize = 64;
/// As much as is shown of what a host says.
const MAX_LINE: usize = 1024;

/// One fetch.
pub struct Attempt<'a> {
    pub source: &'a Source,
    /// The one of its places that is asked.
    pub url: &'a Url,
    pub location: gix::Url,
    pub timeout: Duration,
    /// Bytes that may come.
    pub limit: u64,
    /// Commits of history that shall be there.
    pub depth: NonZeroU32,
    /// Whether it takes what is new, or only says that there is something. Asked where there is.
    pub takes: &'a dyn Fn() -> bool,
    pub patience: Patience,
}

/// What a mirror has.
pub struct Present<'a> {
    /// Commits that were looked through.
    pub whole: &'a Mutex<HashMap<String, ObjectId>>,
    pub packs: usize,
    /// How much these take on disk.
    pub bytes: u64,
}

/// What is asked of the host, by its full name or id, and how it is shown.
struct Wanted {
    remote: String,
    tracking: String,
    shown: String,
}

/// Why a mirror could not be brought up to date.
pub enum Failure {
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

impl Attempt<'_> {
    /// Bytes up to which a mirror is added to. Beside what one fetch brings there is room for changes, so that a large
    /// repository does not come anew with each.
    pub fn room(&self) -> u64 {
        self.limit.saturating_add(self.limit / 2)
    }

    /// Connects, asks where the reference leads, and takes what is new, with `others` when they are asked for. Answers
    /// what the mirror calls it, too; `None` if there is something that it does not take.
    pub fn transfer(
        &self,
        repository: &Repository,
        present: Option<&Present>,
        others: &[String],
    ) -> Result<Option<(String, Tip)>, Failure> {
        let wanted = self.wanted(repository)?;
        if let Reference::Commit { id, .. } = &self.source.reference
            && self.depth == NonZeroU32::MIN
            && repository.has_object(*id)
        {
            // It never moves: there is nothing to ask for.
            whole(repository, *id, &self.patience.interrupt).map_err(Failure::Mirror)?;
            return tip(repository, *id, wanted).map(Some);
        }
        match self.take(repository, present, others, &wanted, self.depth) {
            // Some hosts hand out only what a reference leads to: then it is somewhere behind one.
            Err(Failure::Final(SourceError::ReferenceNotFound { place, why })) => {
                let Reference::Commit { id, branch } = &self.source.reference else {
                    return Err(Failure::Final(SourceError::ReferenceNotFound { place, why }));
                };
                let Some(branch) = branch else {
                    let why =
                        format!("{why}; a host that hands out no commits by their ids needs source.ref.branch, too");
                    return Err(Failure::Final(SourceError::ReferenceNotFound { place, why }));
                };
                let branch = Reference::Branch(branch.clone());
                let behind = named(&branch).ok_or_else(|| self.failed("it has no name".to_owned()))?;
                let all = NonZeroU32::new(super::ALL_HISTORY).unwrap_or(NonZeroU32::MIN);
                if self.take(repository, present, others, &behind, all)?.is_none() {
                    return Ok(None);
                }
                if !repository.has_object(*id) {
                    let why = format!("{why}, and it is not on {branch}");
                    return Err(Failure::Final(SourceError::ReferenceNotFound { place, why }));
                }
                whole(repository, *id, &self.patience.interrupt).map_err(Failure::Mirror)?;
                tip(repository, *id, wanted).map(Some)
            }
            Err(failure) => Err(failure),
            Ok(found) => found.map(|id| tip(repository, id, wanted)).transpose(),
        }
    }

    /// What is to be asked for. Of several tags the highest, which costs another question.
    fn wanted(&self, repository: &Repository) -> Result<Wanted, Failure> {
        let Reference::Semver { range, .. } = &self.source.reference else {
            return named(&self.source.reference)
                .ok_or_else(|| Failure::Final(self.failed("it has no name".to_owned())));
        };
        let remote = self.remote(repository, &[format!("+refs/tags/*:{}*", tags())])?;
        let (mut connection, words) = self.connect(&remote)?;
        connection.set_credentials(|_| Ok(None));
        let told = |error: gix::Error| self.told(&error, &words, None);
        let (map, _) = connection.ref_map(Discard, gix::remote::ref_map::Options::default()).map_err(told)?;
        let names = map.mappings.iter().filter_map(|mapping| mapping.remote.as_name()?.to_str().ok());
        let all = names.filter_map(|name| name.strip_prefix("refs/tags/")).map(|tag| (tag, ()));
        let (tag, ()) = highest(range, all).ok_or_else(|| self.absent())?;
        named(&Reference::Tag(tag.to_owned())).ok_or_else(|| Failure::Final(self.absent()))
    }

    fn remote<'repo>(
        &self,
        repository: &'repo Repository,
        specs: &[String],
    ) -> Result<gix::Remote<'repo>, SourceError> {
        let remote = repository
            .remote_at_without_url_rewrite(self.location.clone())
            .map(|remote| remote.with_fetch_tags(fetch::Tags::None))
            .and_then(|remote| remote.with_refspecs(specs.iter().map(String::as_str), Direction::Fetch));
        remote.map_err(|error| self.failed(text(&error)))
    }

    fn absent(&self) -> SourceError {
        SourceError::ReferenceNotFound { place: self.place(), why: self.source.reference.remedy().to_owned() }
    }

    /// Takes one reference, and `others` with it. Answers where it leads; `None` if there is something that it does not
    /// take.
    fn take(
        &self,
        repository: &Repository,
        present: Option<&Present>,
        others: &[String],
        Wanted { remote: wanted, tracking, .. }: &Wanted,
        depth: NonZeroU32,
    ) -> Result<Option<ObjectId>, Failure> {
        let spec = format!("+{wanted}:{tracking}");
        let others = others.iter().filter(|other| *other != wanted).collect::<HashSet<_>>();
        let others = others.into_iter().filter_map(|name| Some(format!("+{name}:{}", named_as(name)?)));
        let specs: Vec<String> = [spec].into_iter().chain(others).collect();
        let remote = self.remote(repository, &specs)?;
        let (mut connection, words) = self.connect(&remote)?;
        connection.set_credentials(|_| Ok(None));
        let meter = Meter::new(self.limit, self.patience.interrupt.clone());
        let told = |error: gix::Error| self.told(&error, &words, Some(&meter));

        let ready = connection.prepare_fetch(Discard, gix::remote::ref_map::Options::default()).map_err(told)?;
        let mapping =
            ready.ref_map().mappings.iter().find(|m| m.local.as_ref().is_some_and(|local| *local == **tracking));
        let there =
            mapping.and_then(|mapping| Some(mapping.remote.as_id()?.to_owned())).ok_or_else(|| self.absent())?;
        let interrupt = &self.patience.interrupt;
        let here = id_at(repository, tracking);
        if let Some(present) = present {
            if here == Some(there) && depth == NonZeroU32::MIN {
                let known = present.whole.lock().get(tracking).copied();
                let commit = peeled(repository, there, "").map_err(Failure::Mirror)?.commit.0;
                if known != Some(commit) {
                    whole(repository, commit, interrupt).map_err(Failure::Mirror)?;
                }
                return Ok(Some(there));
            }
            if present.packs >= MAX_PACKS {
                return Err(Failure::Mirror(format!("it has {MAX_PACKS} packs")));
            }
            if present.bytes > self.room() {
                return Err(Failure::Mirror(format!("it takes {} MiB", present.bytes >> 20)));
            }
        }
        if !(self.takes)() {
            return Ok(None);
        }
        let received = ready.with_shallow(fetch::Shallow::DepthAtRemote(depth)).receive(meter.clone(), interrupt);
        let received = received.map_err(|error| match (self.told(&error, &words, Some(&meter)), present, here) {
            // What is no trouble of the host's may be one of the mirror's.
            (SourceError::FetchFailed { why, .. }, Some(_), _) => Failure::Mirror(why),
            (error, Some(_), Some(here)) => {
                let found = peeled(repository, here, "");
                match found.and_then(|found| whole(repository, found.commit.0, interrupt)) {
                    Err(why) if !interrupt.load(Ordering::Relaxed) => Failure::Mirror(why),
                    _ => Failure::Final(error),
                }
            }
            (error, ..) => Failure::Final(error),
        })?;
        let protocol = received.handshake.server_protocol_version;
        if protocol != gix::protocol::transport::Protocol::V2 {
            tracing::debug!(
                url = self.url.as_str(),
                ?protocol,
                "the host speaks an old protocol and may send all history"
            );
        }
        let commit = peeled(repository, there, "").map_err(Failure::Mirror)?.commit.0;
        whole(repository, commit, interrupt).map_err(Failure::Mirror)?;
        if id_at(repository, tracking) != Some(there) {
            return Err(Failure::Mirror("the reference could not be recorded".to_owned()));
        }
        Ok(Some(there))
    }

    fn connect<'a, 'repo>(
        &self,
        remote: &'a gix::Remote<'repo>,
    ) -> Result<(gix::remote::Connection<'a, 'static, 'repo, Box<dyn Transport + Send>>, Words), SourceError> {
        let url = self.url;
        if let Credentials::Ssh(login) = &*self.source.credentials {
            let (transport, words) =
                ssh::connect(login, url, self.patience.clone()).map_err(|error| self.ssh(error))?;
            return Ok((remote.to_connection_with_transport(Box::new(transport)), words));
        }
        let mut connection = remote.connect(Direction::Fetch).map_err(|error| match url.scheme() {
            "file" => SourceError::RepositoryNotFound { place: self.place(), why: text(&error) },
            _ => self.failed(text(&error)),
        })?;
        if url.scheme() == "file" {
            return Ok((connection, Words::default()));
        }
        let client = http_client(self.timeout, url, self.source);
        let mut options = http::Options { backend: Some(client), ..http::Options::default() };
        let login = match &*self.source.credentials {
            Credentials::Http(http) => http.login.as_ref(),
            _ => None,
        };
        match login {
            Some(HttpLogin::Basic { username, password }) if url.scheme() == "https" => {
                // At once and not when asked: that spares a request each time. A redirect elsewhere does not get it.
                let (username, password) = (username.to_string(), password.to_string());
                let account = Account { username, password, oauth_refresh_token: None };
                let set = connection.transport_mut().set_identity(account);
                set.map_err(|error| self.failed(error.to_string()))?;
            }
            // With a header of ours gix follows no redirect.
            Some(HttpLogin::Basic { username, password }) => {
                let basic = BASE64_STANDARD.encode(format!("{}:{}", **username, **password));
                options.extra_headers.push(format!("Authorization: Basic {basic}"));
            }
            Some(HttpLogin::Bearer(token)) => {
                options.extra_headers.push(format!("Authorization: Bearer {}", **token));
            }
            None => {}
        }
        connection.set_transport_options(Box::new(options));
        Ok((connection, Words::default()))
    }

    fn ssh(&self, error: SshError) -> SourceError {
        let place = self.place();
        match error {
            SshError::Unreachable(why) => SourceError::Unreachable { place, why },
            SshError::HostKey(why) => SourceError::HostKeyRefused { place, why },
            SshError::Refused(why) => SourceError::AuthenticationFailed { place, why },
            SshError::Impatient => self.late(),
        }
    }

    /// What the host or the way to it did, in one sentence.
    fn told(&self, error: &gix::Error, words: &Words, meter: Option<&Meter>) -> SourceError {
        let (place, cause) = (self.place(), text(error));
        if meter.is_some_and(Meter::is_exceeded) {
            return SourceError::FetchTooLarge { place, limit: self.limit };
        }
        let late = |error| kind(error) == Some(ErrorKind::TimedOut) || error.to_string().contains("timed out");
        if self.patience.interrupt.load(Ordering::Relaxed) || error.iter_errors().any(late) {
            return self.late();
        }
        let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::ReadOnlyFilesystem];
        if error.iter_errors().any(|error| kind(error).is_some_and(|kind| full.contains(&kind))) {
            return SourceError::StorageFailed { url: self.url.to_string(), why: cause };
        }
        if let Some(said) = words.read().or_else(|| error_line(error)) {
            // 128 is git's own way to end without a word; it comes before anything else if there is no repository.
            let missing =
                ["not found", "does not exist", "not appear to be a git repo", "could not be found", "status 128"];
            let why = format!("the host says: {said}");
            // What git says of a commit that it has not, and of one that it does not hand out.
            if ["not our ref", "unadvertised object"].iter().any(|words| said.contains(words)) {
                return SourceError::ReferenceNotFound { place, why };
            }
            return if missing.iter().any(|words| said.to_ascii_lowercase().contains(words)) {
                SourceError::RepositoryNotFound { place, why }
            } else {
                SourceError::Unreachable { place, why }
            };
        }
        if let Some(why) = self.missing() {
            return SourceError::ReferenceNotFound { place, why };
        }
        let status = error
            .iter_errors()
            .find_map(|error| error.to_string().strip_prefix("Received HTTP status ").map(str::to_owned));
        // The host's TLS speaks of ours: no other place would change that.
        if let Some((_, alert)) = cause.split_once("received fatal alert: ")
            && ["Certificate", "UnknownCa", "AccessDenied"].iter().any(|word| alert.contains(word))
        {
            let why = format!(
                "the host wants a client certificate that it trusts ({alert}); put one into tls.crt and tls.key of the Secret named in source.secretRef"
            );
            return SourceError::AuthenticationFailed { place, why };
        }
        if error.is_unauthenticated() || status.as_deref() == Some("401") {
            let why = match &*self.source.credentials {
                Credentials::None => {
                    "the host asks for credentials; put username and password, or bearerToken, into a Secret and name that in source.secretRef"
                }
                _ => "the host refuses the credentials in the Secret",
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

    /// Beside us git ends as soon as it is asked for what it has not, and its word about that may be lost with the pipe.
    fn missing(&self) -> Option<String> {
        let Reference::Commit { id, .. } = &self.source.reference else { return None };
        let folder = gix::path::from_bstr(self.location.path.as_bstr()).ok()?;
        let is_missing = self.url.scheme() == "file" && mirror::open(&folder).is_ok_and(|there| !there.has_object(*id));
        is_missing.then(|| "the repository does not hold it".to_owned())
    }

    fn place(&self) -> super::error::Place {
        self.source.place(self.url.as_str())
    }

    pub fn late(&self) -> SourceError {
        SourceError::Timeout { place: self.place(), after: self.timeout }
    }

    pub fn failed(&self, why: String) -> SourceError {
        SourceError::FetchFailed { place: self.place(), why }
    }

    pub fn storage(&self, error: &dyn std::error::Error) -> SourceError {
        SourceError::StorageFailed { url: self.url.to_string(), why: error.to_string() }
    }
}

/// What is said of an answer that ends in its middle.
const CUT_OFF: &str = "the host ended its answer too early";

fn named(reference: &Reference) -> Option<Wanted> {
    let (remote, tracking) = (reference.remote()?, reference.tracking()?);
    Some(Wanted { remote, tracking, shown: reference.shown().to_owned() })
}

fn named_as(remote: &str) -> Option<String> {
    Reference::Name(remote.to_owned()).tracking()
}

fn tip(
    repository: &Repository,
    id: ObjectId,
    Wanted { tracking, shown, .. }: Wanted,
) -> Result<(String, Tip), Failure> {
    Ok((tracking, peeled(repository, id, &shown).map_err(Failure::Mirror)?))
}

/// Bounds each step of a request, and trusts whom the Secret says. What stays on this machine needs no proxy but one
/// that was asked for.
fn http_client(timeout: Duration, url: &Url, source: &Source) -> Arc<std::sync::Mutex<http::reqwest::Options>> {
    let (direct, proxy, credentials) = (is_loopback(url), source.proxy.clone(), source.credentials.clone());
    let configure: Box<http::reqwest::ConfigureClientFn> = Box::new(move |builder| {
        let mut builder = builder.timeout(timeout).connect_timeout(timeout);
        if let Some(proxy) = &proxy {
            builder = builder.proxy(through(proxy).map_err(gix::Error::from_error)?);
        } else if direct {
            builder = builder.no_proxy();
        }
        match &*credentials {
            Credentials::Http(http @ (Http { authorities: Some(_), .. } | Http { identity: Some(_), .. })) => {
                if let Some(pem) = &http.authorities {
                    let authorities = reqwest::Certificate::from_pem_bundle(pem).map_err(gix::Error::from_error)?;
                    builder = builder.tls_certs_merge(authorities);
                }
                if let Some(pem) = &http.identity {
                    builder = builder.identity(reqwest::Identity::from_pem(pem).map_err(gix::Error::from_error)?);
                }
            }
            _ => builder = builder.tls_backend_preconfigured(trust::usual().map_err(gix::Error::from_error)?),
        }
        Ok(builder)
    });
    Arc::new(std::sync::Mutex::new(http::reqwest::Options {
        configure_client: Some(configure),
        configure_request: None,
    }))
}

fn through(proxy: &Proxy) -> reqwest::Result<reqwest::Proxy> {
    let through = reqwest::Proxy::all(proxy.address.as_str())?;
    Ok(match &proxy.login {
        Some((username, password)) => through.basic_auth(username, password),
        None => through,
    })
}

/// The cause that tells most.
pub fn text(error: &gix::Error) -> String {
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

/// What the host sent instead of an answer. Where gix takes it for a part of one, it quotes it.
fn error_line(error: &gix::Error) -> Option<String> {
    let line = error.downcast_any_ref::<gix::protocol::transport::packetline::read::Error>();
    let quoted = |error: &(dyn std::error::Error + 'static)| {
        let text = error.to_string();
        Some(text.split_once(": \"ERR ")?.1.trim_end_matches('"').to_owned())
    };
    let line = line.map(|line| line.message.to_str_lossy().into_owned());
    let line = line.or_else(|| error.iter_errors().find_map(quoted))?;
    Some(line.chars().filter(|c| !c.is_control()).take(MAX_LINE).collect())
}

fn kind(error: &(dyn std::error::Error + 'static)) -> Option<ErrorKind> {
    error.downcast_ref().map(io::Error::kind)
}
