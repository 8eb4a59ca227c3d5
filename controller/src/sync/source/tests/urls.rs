//! What a URL may say, and which sources share a mirror. Nothing is fetched.

use std::collections::HashSet;

use crds::git_sync::GitSource;
use k8s_openapi::ByteString;

use super::of;
use crate::sync::source::{Credentials, Proxy, SecretData, Source};

#[test]
fn urls_that_hold_credentials_are_refused_without_showing_them() {
    let urls = [
        "https://ada:s3cret@example.com/app.git",
        "https://s3cret@example.com/app.git",
        "https://example.com/app.git?token=s3cret",
        "https://example.com/app.git#s3cret",
        "ssh://git:s3cret@example.com/app.git",
        "https://ada:s3cret@:80:/x",
        "ada:s3cret@example.com/app",
        "ftp://ada:s3cret@example.com/app.git",
    ];
    for url in urls {
        let error = of(url, "main").unwrap_err();
        assert_eq!(error.reason(), "InvalidUrl", "{url}");
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }
    let error = of(urls[0], "main").unwrap_err().to_string();
    assert!(error.contains("https://example.com/app.git") && error.contains("source.secretRef"), "{error}");
    let error = of("git@example.com:app.git", "main").unwrap_err().to_string();
    assert!(error.contains("ssh://git@host/path"), "{error}");
    for url in ["https://", "https://example.com", "ssh:///app", "git://example.com/app", "file://other/app", ""] {
        assert!(of(url, "main").is_err(), "{url}");
    }
}

#[test]
fn who_trusts_or_goes_another_way_has_another_mirror() {
    let data = |entries: &[(&str, &str)]| -> SecretData {
        entries.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()))).collect()
    };
    let mirror = |fallback: Option<&str>, password: Option<&str>, proxy: Option<&str>| {
        let spec = GitSource {
            url: "https://example.com/app.git".to_owned(),
            fallback_urls: fallback.into_iter().map(str::to_owned).collect(),
            ..GitSource::default()
        };
        let credentials = match password {
            Some(password) => {
                Credentials::from_secret_data("https", &data(&[("username", "ada"), ("password", password)])).unwrap()
            }
            None => Credentials::None,
        };
        let proxy = proxy.map(|address| Proxy::from_secret_data(&data(&[("address", address)])).unwrap());
        Source::new(&spec, credentials, proxy).unwrap().mirror()
    };
    let mirrors = [
        mirror(None, None, None),
        mirror(Some("https://example.org/app.git"), None, None),
        mirror(None, Some("one"), None),
        mirror(None, Some("two"), None),
        mirror(None, None, Some("http://proxy:1")),
    ];
    let different: HashSet<_> = mirrors.iter().collect();
    assert_eq!(different.len(), mirrors.len());
    assert_eq!(mirror(None, Some("one"), None), mirrors[2]);
}
