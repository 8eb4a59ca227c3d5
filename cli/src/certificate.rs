//! The certificate to seal with: where it comes from, and whether it may be used. Trusts what the user names; the
//! controller is asked through `cluster`.

use std::{fmt, path::PathBuf, time::Duration};

use crds::{Certificate, key::KeyError};
use jiff::{Timestamp, tz::TimeZone};
use reqwest::{StatusCode, Url};

use crate::{
    cluster::{self, Access, ClusterError, Controller},
    io::{Io, ReadError},
};

/// Long enough for a slow proxy, short enough for a build to say why it failed.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Where a certificate comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    File(PathBuf),
    Url(Url),
    Controller(Box<Access>, Controller),
}

/// Those of all recipients. The first one's cluster may have any controller, the others' ours.
#[derive(Clone, Debug)]
pub struct Origins {
    pub first: Origin,
    pub others: Vec<Origin>,
}

/// See [`Origins`].
#[derive(Debug)]
pub struct Certificates {
    pub first: Certificate,
    pub others: Vec<Certificate>,
}

/// A certificate, and the text it came as.
#[derive(Debug)]
pub struct Fetched {
    pub pem: String,
    pub certificate: Certificate,
}

/// Not a URL; does not show it, because it may hold a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(String);

/// Why there is no certificate to seal with.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("cannot fetch {url:?}")]
    Fetch { url: String, source: reqwest::Error },
    #[error("cannot fetch {url:?}: {status}")]
    Status { url: String, status: StatusCode },
    #[error("cannot use the certificate from {origin}")]
    Unusable { origin: String, source: KeyError },
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("failed to encrypt using an expired certificate on {0}")]
    Expired(String),
}

impl Origin {
    /// What `--cert` says: a file, a `file://` URL or an http(s) one.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let is = |scheme: &str| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
        let url = || Url::parse(text).map_err(|error| UrlError(error.to_string()));
        if is("http://") || is("https://") {
            return url().map(Self::Url);
        }
        if is("file://") {
            let path = url()?.to_file_path();
            return path.map(Self::File).map_err(|()| UrlError("it names another host's file".to_owned()));
        }
        Ok(Self::File(text.into()))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Url(url) => f.write_str(&presentable(url)),
            Self::Controller(_, Controller { namespace, name }) => write!(f, "the controller {namespace}/{name}"),
        }
    }
}

/// Gets the certificate, and says to a person which one it is.
pub async fn fetch(origin: &Origin, io: &mut Io<'_>) -> Result<Fetched, CertificateError> {
    let unusable = |source| CertificateError::Unusable { origin: origin.to_string(), source };
    let pem = match origin {
        Origin::File(path) => match io.read_text(Some(path)) {
            Err(ReadError::NotText { .. }) => return Err(unusable(KeyError::NotACertificate)), // DER, most likely
            read => read?.0.to_string(),
        },
        Origin::Url(url) => download(url).await?,
        Origin::Controller(access, controller) => {
            cluster::connect(access).await?.controller(controller).await?.certificate().await?
        }
    };
    let certificate = Certificate::from_pem(&pem).map_err(unusable)?;
    let (fingerprint, until) = (certificate.fingerprint(), day(certificate.not_after()));
    io.remark(&format!("certificate {fingerprint} from {origin}, valid until {until}"));
    Ok(Fetched { pem, certificate })
}

/// Gets the certificates of all recipients; fails when one of them may not be used any more.
pub async fn fetch_all(origins: &Origins, io: &mut Io<'_>) -> Result<Certificates, CertificateError> {
    let Origins { first, others } = origins;
    let mut all = Certificates { first: fetch_valid(first, io).await?, others: Vec::new() };
    for origin in others {
        all.others.push(fetch_valid(origin, io).await?);
    }
    Ok(all)
}

async fn fetch_valid(origin: &Origin, io: &mut Io<'_>) -> Result<Certificate, CertificateError> {
    let certificate = fetch(origin, io).await?.certificate;
    check_valid(&certificate, io.now)?;
    Ok(certificate)
}

/// Fails when sealing with this certificate would seal for a key that nobody should use any more.
pub fn check_valid(certificate: &Certificate, now: Timestamp) -> Result<(), CertificateError> {
    if now > certificate.not_after() {
        return Err(CertificateError::Expired(day(certificate.not_after())));
    }
    Ok(())
}

async fn download(url: &Url) -> Result<String, CertificateError> {
    let failed = |source: reqwest::Error| CertificateError::Fetch {
        url: presentable(url),
        source: source.without_url(), // it may hold a password
    };
    let client = reqwest::Client::builder().timeout(TIMEOUT).build().map_err(failed)?;
    let response = client.get(url.clone()).send().await.map_err(failed)?;
    match response.status() {
        StatusCode::OK => response.text().await.map_err(failed),
        status => Err(CertificateError::Status { url: presentable(url), status }),
    }
}

/// A URL without the user and password it may hold.
fn presentable(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail only for URLs that cannot hold any.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

fn day(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%B %-d, %Y").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_refused_from_the_second_after_its_last() {
        let certificate = Certificate::from_pem(include_str!("../../crds/testdata/new.crt")).unwrap();
        let end = certificate.not_after();
        assert!(check_valid(&certificate, end).is_ok());
        let late = check_valid(&certificate, end + jiff::SignedDuration::from_secs(1)).unwrap_err();
        assert_eq!(late.to_string(), "failed to encrypt using an expired certificate on October 27, 2126");
    }

    #[test]
    fn days_are_written_as_go_writes_them() {
        assert_eq!(day("2006-01-02T23:59:59Z".parse().unwrap()), "January 2, 2006");
    }

    #[test]
    fn an_origin_is_a_file_unless_it_is_a_url() {
        for (text, path) in
            [("cert.pem", "cert.pem"), ("c:\\cert.pem", "c:\\cert.pem"), ("file:///a%20b.pem", "/a b.pem")]
        {
            assert!(matches!(Origin::parse(text).unwrap(), Origin::File(file) if file.as_os_str() == path), "{text}");
        }
        assert!(matches!(Origin::parse("HTTPS://example.com/cert.pem").unwrap(), Origin::Url(_)));
        assert!(Origin::parse("https://").is_err());
    }

    #[test]
    fn a_url_is_shown_without_its_password() {
        let origin = Origin::parse("https://user:hunter2@example.com/cert.pem").unwrap();
        assert_eq!(origin.to_string(), "https://example.com/cert.pem");
    }
}
