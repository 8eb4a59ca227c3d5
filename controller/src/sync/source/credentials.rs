//! What opens a repository, read from Secrets as Flux reads them. Printed by nobody, wiped when dropped. It must not let
//! a credential onto a way where others can read it.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::ByteString;
use sha2::{Digest as _, Sha256};
use url::Url;
use zeroize::Zeroizing;

use super::is_loopback;
use crate::sync::{
    ssh::{Login, LoginError},
    trust,
};

/// Entries of a Secret.
pub type SecretData = BTreeMap<String, ByteString>;

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
    /// A header cannot carry it.
    #[error("its bearerToken has characters that http cannot carry")]
    Token,
    /// Nobody knows which is meant.
    #[error("it has a bearerToken and a password: keep one of them")]
    Ambiguous,
    /// No certificate, or one without its key.
    #[error("its {0} cannot be read: it must be PEM")]
    NotPem(&'static str),
    /// They belong together.
    #[error("it has one of tls.crt and tls.key: a client certificate needs both")]
    HalfIdentity,
    /// SSH cannot use it.
    #[error("its {0}")]
    Login(#[from] LoginError),
    /// The URL takes none.
    #[error("{0} takes no credentials: remove source.secretRef")]
    NotTaken(String),
    /// No proxy of ours.
    #[error("its address {0}")]
    Proxy(&'static str),
}

/// What opens a repository.
pub enum Credentials {
    /// Everybody may read it.
    None,
    /// For http and https.
    Http(Http),
    /// For ssh.
    Ssh(Login),
}

/// What http and https take.
#[derive(Default)]
pub struct Http {
    pub login: Option<HttpLogin>,
    /// Certificates in PEM, trusted beside the usual ones.
    pub authorities: Option<Vec<u8>>,
    /// Certificate and key in PEM.
    pub identity: Option<Zeroizing<Vec<u8>>>,
}

/// How http and https say who asks.
pub enum HttpLogin {
    Basic { username: Zeroizing<String>, password: Zeroizing<String> },
    Bearer(Zeroizing<String>),
}

impl Credentials {
    /// Reads the entries that Flux reads.
    pub fn from_secret_data(scheme: &str, data: &SecretData) -> Result<Self, CredentialsError> {
        match &*scheme.to_ascii_lowercase() {
            "http" | "https" => Http::from_secret_data(data).map(Self::Http),
            "ssh" => {
                let needs = "identity (a private key) and known_hosts (the host's public key)";
                let [identity, known_hosts] = texts("ssh", data, ["identity", "known_hosts"], needs)?;
                Ok(Self::Ssh(Login::new(&identity, &known_hosts)?))
            }
            other => Err(CredentialsError::NotTaken(other.to_owned())),
        }
    }

    /// Bytes that differ when the credentials, or what is trusted, do.
    pub fn digest(&self) -> [u8; 32] {
        match self {
            Self::None => digest(&[b"none"]),
            Self::Ssh(login) => Sha256::digest(login.fingerprint()).into(),
            Self::Http(Http { login, authorities, identity }) => {
                let [kind, user, secret]: [&[u8]; 3] = match login {
                    None => [b"", b"", b""],
                    Some(HttpLogin::Basic { username, password }) => {
                        [b"basic", username.as_bytes(), password.as_bytes()]
                    }
                    Some(HttpLogin::Bearer(token)) => [b"bearer", b"", token.as_bytes()],
                };
                let authorities = authorities.as_deref().unwrap_or_default();
                let identity = identity.as_ref().map(|it| it.as_slice()).unwrap_or_default();
                digest(&[b"http", kind, user, secret, authorities, identity])
            }
        }
    }

    /// Why they cannot go to this URL, over this proxy.
    pub fn refused_at(&self, url: &Url, proxy: Option<&Proxy>) -> Option<&'static str> {
        let is_private = is_loopback(url) && proxy.is_none_or(|proxy| is_loopback(&proxy.address));
        match (url.scheme(), self) {
            ("http", Self::Http(http)) if http.identity.is_some() || http.authorities.is_some() => {
                Some("over http there are no certificates; use https, or remove ca.crt, tls.crt and tls.key")
            }
            ("http", Self::Http(Http { login: Some(_), .. })) if !is_private => {
                Some("over http everybody on the way could read the password; use https")
            }
            ("ssh", Self::None) => Some("ssh needs a Secret with identity and known_hosts, named in source.secretRef"),
            ("ssh" | "file", _) if proxy.is_some() => {
                Some("a proxy is for https and http; remove source.proxySecretRef")
            }
            ("http" | "https", Self::None | Self::Http(_)) | ("ssh", Self::Ssh(_)) | ("file", Self::None) => None,
            _ => Some("these credentials are for another kind of URL"),
        }
    }
}

impl Http {
    fn from_secret_data(data: &SecretData) -> Result<Self, CredentialsError> {
        let present = |key: &str| data.get(key).is_some_and(|value| !value.0.is_empty());
        let login = match (present("bearerToken"), present("username") || present("password")) {
            (true, true) => return Err(CredentialsError::Ambiguous),
            (true, false) => {
                let [token] = texts("http", data, ["bearerToken"], "it")?;
                if !token.chars().all(|c| c.is_ascii_graphic()) {
                    return Err(CredentialsError::Token);
                }
                Some(HttpLogin::Bearer(token))
            }
            // A certificate may be all that is needed.
            (false, false) if present("ca.crt") || present("tls.crt") || present("tls.key") => None,
            (false, _) => {
                let needs = "username and password, or bearerToken";
                let [username, password] = texts("http", data, ["username", "password"], needs)?;
                if username.contains(':') {
                    return Err(CredentialsError::Colon);
                }
                Some(HttpLogin::Basic { username, password })
            }
        };
        let bytes = |key: &str| data.get(key).map(|value| value.0.as_slice()).unwrap_or_default();
        let authorities = present("ca.crt").then(|| bytes("ca.crt").to_vec());
        if authorities.as_ref().is_some_and(|pem| trust::authorities(pem).is_none()) {
            return Err(CredentialsError::NotPem("ca.crt"));
        }
        let identity = match (present("tls.crt"), present("tls.key")) {
            (false, false) => None,
            (true, true) => Some(Zeroizing::new([bytes("tls.crt"), b"\n", bytes("tls.key")].concat())),
            _ => return Err(CredentialsError::HalfIdentity),
        };
        if identity.as_ref().is_some_and(|pem| reqwest::Identity::from_pem(pem).is_err()) {
            return Err(CredentialsError::NotPem("tls.crt or tls.key"));
        }
        Ok(Self { login, authorities, identity })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Http(_) => "Http(<redacted>)",
            Self::Ssh(_) => "Ssh(<redacted>)",
        })
    }
}

/// What stands between us and the host.
pub struct Proxy {
    pub address: Url,
    pub login: Option<(Zeroizing<String>, Zeroizing<String>)>,
}

impl Proxy {
    /// Reads `address`, and `username` and `password` where they are.
    pub fn from_secret_data(data: &SecretData) -> Result<Self, CredentialsError> {
        let [address] = texts("a proxy", data, ["address"], "address, such as http://proxy.example.com:3128")?;
        let address = Url::parse(&address).map_err(|_| CredentialsError::Proxy("is no URL"))?;
        if !matches!(address.scheme(), "http" | "https") {
            return Err(CredentialsError::Proxy("must begin with http:// or https://"));
        }
        if !address.username().is_empty() || address.password().is_some() {
            return Err(CredentialsError::Proxy("holds credentials; put them into username and password"));
        }
        let has_login = ["username", "password"].iter().any(|key| data.contains_key(*key));
        let login = has_login
            .then(|| texts("a proxy", data, ["username", "password"], "both of username and password, or none"))
            .transpose()?;
        Ok(Self { address, login: login.map(|[username, password]| (username, password)) })
    }

    /// See [`Credentials::digest`]: through another proxy the same name may be another host.
    pub fn digest(&self) -> [u8; 32] {
        let login = self.login.as_ref();
        let [username, password] =
            login.map(|(username, password)| [username.as_bytes(), password.as_bytes()]).unwrap_or_default();
        digest(&[b"proxy", self.address.as_str().as_bytes(), username, password])
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proxy(<redacted>)")
    }
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// The entries as text; the line's end that an editor or `echo` leaves behind is no part of it.
fn texts<const N: usize>(
    scheme: &'static str,
    data: &SecretData,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(entries: &[(&str, &str)]) -> SecretData {
        entries.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()))).collect()
    }

    fn read(scheme: &str, entries: &[(&str, &str)]) -> Result<Credentials, CredentialsError> {
        Credentials::from_secret_data(scheme, &secret(entries))
    }

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    const BASIC: [(&str, &str); 2] = [("username", "ada"), ("password", "s3cret\n")];
    const BEARER: [(&str, &str); 1] = [("bearerToken", "t0ken\n")];

    #[test]
    fn credentials_are_never_shown() {
        for entries in [BASIC.as_slice(), BEARER.as_slice()] {
            let shown = format!("{:?}", read("https", entries).unwrap());
            assert_eq!(shown, "Http(<redacted>)");
        }
        let Credentials::Http(Http { login: Some(HttpLogin::Basic { password, .. }), .. }) =
            read("https", &BASIC).unwrap()
        else {
            panic!("not basic")
        };
        assert_eq!(**password, *"s3cret", "the line's end is no part of a password");
        let proxy = secret(&[("address", "http://proxy:1"), ("username", "ada"), ("password", "s3cret")]);
        assert_eq!(format!("{:?}", Proxy::from_secret_data(&proxy).unwrap()), "Proxy(<redacted>)");
    }

    #[test]
    fn credentials_go_only_where_they_are_safe() {
        let (basic, bearer) = (read("https", &BASIC).unwrap(), read("https", &BEARER).unwrap());
        let near = Proxy::from_secret_data(&secret(&[("address", "http://127.0.0.1:1")])).unwrap();
        let far = Proxy::from_secret_data(&secret(&[("address", "http://proxy.example.com:1")])).unwrap();
        for login in [&basic, &bearer] {
            for (at, proxy, allowed) in [
                ("http://example.com/app.git", None, false),
                ("http://localhost.example.com/app.git", None, false),
                ("http://127.0.0.1:80/app.git", None, true),
                ("http://127.0.0.1:80/app.git", Some(&near), true),
                ("http://127.0.0.1:80/app.git", Some(&far), false),
                ("http://[::1]/app.git", None, true),
                ("https://example.com/app.git", None, true),
                ("https://example.com/app.git", Some(&far), true),
                ("ssh://git@example.com/app.git", None, false),
                ("file:///app.git", None, false),
            ] {
                assert_eq!(login.refused_at(&url(at), proxy).is_none(), allowed, "{at}");
            }
        }
        let none = Credentials::None;
        assert!(none.refused_at(&url("http://example.com/app.git"), Some(&far)).is_none());
        assert!(none.refused_at(&url("ssh://git@example.com/app.git"), None).is_some());
        assert!(none.refused_at(&url("file:///app.git"), Some(&near)).unwrap().contains("proxySecretRef"));
    }

    #[test]
    fn missing_entries_of_the_secret_are_named() {
        let tell = |scheme, entries: &[_]| read(scheme, entries).unwrap_err().to_string();
        let needs = "http needs username and password, or bearerToken";
        assert_eq!(tell("https", &BASIC[..1]), format!("it has no password: {needs}"));
        assert!(tell("https", &[]).starts_with("it has no username and no password:"));
        assert!(tell("ssh", &[("identity", "x")]).starts_with("it has no known_hosts:"));
        assert!(tell("ssh", &[("identity", "nonsense"), ("known_hosts", "x")]).contains("no private key"));
        assert!(tell("https", &[("username", "a:b"), ("password", "x")]).contains("colon"));
        assert!(tell("https", &[("bearerToken", "a b")]).contains("bearerToken"));
        assert!(tell("https", &[BASIC[0], BASIC[1], BEARER[0]]).contains("keep one"));
        assert!(tell("https", &[("ca.crt", "nonsense")]).contains("ca.crt"));
        assert!(tell("https", &[("tls.crt", "x")]).contains("needs both"));
        assert!(tell("https", &[("tls.crt", "x"), ("tls.key", "y")]).contains("PEM"));
        assert!(tell("file", &[]).contains("remove source.secretRef"));
        let binary = BTreeMap::from([
            ("username".to_owned(), ByteString(vec![0xff])),
            ("password".to_owned(), ByteString(b"x".to_vec())),
        ]);
        assert_eq!(Credentials::from_secret_data("http", &binary).unwrap_err().to_string(), "its username is not text");
        for address in ["", "socks5://x:1", "http://a:b@x:1", "proxy"] {
            let error = Proxy::from_secret_data(&secret(&[("address", address)])).unwrap_err().to_string();
            assert!(error.contains("address") && !error.contains("a:b"), "{error}");
        }
    }

    #[test]
    fn whatever_differs_is_told_apart() {
        let digests = [
            read("https", &[("username", "ada"), ("password", "one")]).unwrap().digest(),
            read("https", &[("username", "ada"), ("password", "two")]).unwrap().digest(),
            read("https", &[("username", "ad"), ("password", "aone")]).unwrap().digest(),
            read("https", &[("bearerToken", "adaone")]).unwrap().digest(),
            Credentials::None.digest(),
            Proxy::from_secret_data(&secret(&[("address", "http://proxy:1")])).unwrap().digest(),
            Proxy::from_secret_data(&secret(&[("address", "http://proxy:2")])).unwrap().digest(),
        ];
        let different: std::collections::HashSet<_> = digests.iter().collect();
        assert_eq!(different.len(), digests.len());
        let again = read("https", &[("username", "ada"), ("password", "one")]).unwrap().digest();
        assert_eq!(again, digests[0]);
    }
}
