//! Where a GitSync's repository is, and what of it is followed. It must not show a credential.

use std::{
    fmt::{self, Write as _},
    path::Path,
    sync::Arc,
};

use crds::git_sync::GitSource;
use sha2::{Digest as _, Sha256};
use url::{Host, Url};

use super::{Commit, Credentials, Proxy, Reference, SourceError, error::Place};
use crate::sync::Key;

/// Where to fetch from, and what.
#[derive(Clone, Debug)]
pub struct Source {
    /// The first counts; the others are for while it cannot be reached.
    pub(super) urls: Vec<Url>,
    pub(super) reference: Reference,
    pub(super) credentials: Arc<Credentials>,
    pub(super) proxy: Option<Arc<Proxy>>,
    /// The GitSync: in its namespace's turn it is fetched, and for it the mirror is kept.
    pub(super) user: Key,
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
        let (credentials, proxy, user) = (Arc::new(credentials), proxy.map(Arc::new), Key::default());
        Ok(Self { urls, reference, credentials, proxy, user })
    }

    /// The same, for this GitSync.
    #[must_use]
    pub fn of(self, user: Key) -> Self {
        Self { user, ..self }
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

    pub(super) fn place(&self, url: &str) -> Place {
        Place { url: url.to_owned(), what: self.reference.to_string() }
    }

    /// Name of the mirror's folder: who has other credentials has another mirror, and so sees nothing by being second.
    /// The same for whoever is led elsewhere by the same name, over a proxy or to a host that only he trusts: what he
    /// is given is for nobody else.
    pub(super) fn mirror(&self) -> String {
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

/// What gix shall connect to. A file:// URL must lead below `file_root`, whatever links are on the way; of what is
/// elsewhere it is not even told whether it exists.
pub(super) fn locate(source: &Source, url: &Url, file_root: Option<&Path>) -> Result<gix::Url, SourceError> {
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
