//! One fetch: asks a host for a branch, takes what is new into a mirror, and says in one sentence what went wrong. It
//! must not show a credential, nor wait beyond the patience it got.

use std::{
    collections::HashSet,
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

use super::{
    Credentials, Source, SourceError, is_loopback,
    mirror::{tip, tracking, whole},
};
use crate::sync::ssh::{self, Patience, SshError, Words};

/// A fetch adds a pack, and nothing joins them: beyond this many a mirror is slower, and larger, than a new one.
const MAX_PACKS: usize = 64;
/// As much as is shown of what a host says.
const MAX_LINE: usize = 1024;

/// One fetch.
pub struct Attempt<'a> {
    pub source: &'a Source,
    pub location: gix::Url,
    pub timeout: Duration,
    pub patience: Patience,
}

/// What a mirror has of a branch.
pub struct Present {
    pub tip: Option<ObjectId>,
    pub whole: Option<ObjectId>,
    pub packs: usize,
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
    /// Connects, asks for the branch's id, and takes what is new, with `others` when they are asked for.
    pub fn transfer(
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

    pub fn late(&self) -> SourceError {
        SourceError::Timeout { place: self.source.place(), after: self.timeout }
    }

    pub fn failed(&self, why: String) -> SourceError {
        SourceError::FetchFailed { place: self.source.place(), why }
    }

    pub fn storage(&self, error: &dyn std::error::Error) -> SourceError {
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

/// What the host sent instead of an answer.
fn error_line(error: &gix::Error) -> Option<String> {
    let line = error.downcast_any_ref::<gix::protocol::transport::packetline::read::Error>()?;
    Some(line.message.to_str_lossy().chars().filter(|c| !c.is_control()).take(MAX_LINE).collect())
}

fn kind(error: &(dyn std::error::Error + 'static)) -> Option<ErrorKind> {
    error.downcast_ref().map(io::Error::kind)
}
