//! A message as its receiver reads it: address, headers and body. Pure. It holds a token, so it cannot be printed.

use aws_lc_rs::hmac;
use crds::sync::notify::{NotifyKind, Occasion};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use url::Url;
use zeroize::Zeroizing;

use super::{
    notify::{News, State, What},
    source::is_loopback,
};

/// Longest description of a commit's state: GitHub takes 140 letters, GitLab 255.
const DESCRIPTION: usize = 140;

/// Whom a message is about.
#[derive(Clone, Debug)]
pub struct About {
    /// Of the GitSync.
    pub namespace: String,
    /// Of the GitSync.
    pub name: String,
    /// Of the GitSync.
    pub uid: String,
    /// Its repository.
    pub url: String,
    /// When, as RFC 3339 has it.
    pub at: String,
}

/// The way to a receiver, as the Secret and the spec say.
#[derive(Clone, Copy, Default)]
pub struct Way<'a> {
    /// Where to.
    pub address: Option<&'a str>,
    /// What lets in, or signs.
    pub token: Option<&'a str>,
    /// Who else may say who is there, in PEM.
    pub authorities: Option<&'a str>,
}

/// What goes over the wire.
pub struct Letter {
    /// Where to. It may hold a token itself.
    pub address: Zeroizing<String>,
    /// Whether that is this machine, to which no proxy leads.
    pub is_near: bool,
    /// Name and value.
    pub header: Option<(&'static str, Zeroizing<String>)>,
    /// JSON.
    pub body: Vec<u8>,
}

/// Why there is none. Shows nothing of the Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    /// It is not there.
    #[error("there is no address: give it as url, or as address in the Secret")]
    NoAddress,
    /// It is not there.
    #[error("the Secret has no token")]
    NoToken,
    /// It is no address.
    #[error("the address is no http or https URL")]
    BadAddress,
    /// Others could read it.
    #[error("over http everybody on the way could read the token; use https")]
    Plain,
    /// Nobody asks for a certificate.
    #[error("over http there are no certificates; use https, or remove ca.crt from the Secret")]
    Untrusted,
    /// Nobody knows which repository it is there.
    #[error("source.url names no repository on a host, which the state of a commit belongs to")]
    Repository,
}

/// Writes it.
pub fn letter(
    kind: NotifyKind,
    news: &News,
    about: &About,
    Way { address, token, authorities }: Way<'_>,
) -> Result<Letter, Unsendable> {
    let filled = |text: Option<&str>| text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    let (address, token) = (filled(address), filled(token).map(Zeroizing::new));
    let (address, header, body) = match kind {
        NotifyKind::Webhook => {
            let body = event(news, about).to_string();
            let sign = |token: Zeroizing<String>| {
                let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes()), body.as_bytes());
                ("x-signature", format!("sha256={}", HEXLOWER.encode(tag.as_ref())))
            };
            (address.ok_or(Unsendable::NoAddress)?, token.map(sign), body)
        }
        NotifyKind::Slack => (address.ok_or(Unsendable::NoAddress)?, None, chat(news, about).to_string()),
        NotifyKind::GitHub => {
            let (host, path, commit) = repository(news, about)?;
            let base = address.unwrap_or_else(|| match host.as_str() {
                "github.com" => "https://api.github.com".to_owned(),
                host => format!("https://{host}/api/v3"),
            });
            let state: &str = state(news).into();
            let body = json!({"state": state, "context": context(about), "description": short(news)});
            let header = ("authorization", format!("Bearer {}", token.ok_or(Unsendable::NoToken)?.as_str()));
            let address = format!("{}/repos/{path}/statuses/{commit}", base.trim_end_matches('/'));
            (address, Some(header), body.to_string())
        }
        NotifyKind::GitLab => {
            let (host, path, commit) = repository(news, about)?;
            let base = address.unwrap_or_else(|| format!("https://{host}"));
            let state = match state(news) {
                State::Pending => "pending",
                State::Success => "success",
                State::Failure => "failed",
            };
            let body = json!({"state": state, "name": context(about), "description": short(news)});
            let header = ("private-token", token.ok_or(Unsendable::NoToken)?.to_string());
            let (base, path) = (base.trim_end_matches('/'), path.replace('/', "%2F"));
            (format!("{base}/api/v4/projects/{path}/statuses/{commit}"), Some(header), body.to_string())
        }
    };
    let (address, header) = (Zeroizing::new(address), header.map(|(name, value)| (name, Zeroizing::new(value))));
    let url = Url::parse(&address).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let url = url.ok_or(Unsendable::BadAddress)?;
    let is_near = is_loopback(&url);
    if authorities.is_some() && url.scheme() == "http" {
        return Err(Unsendable::Untrusted);
    }
    // A signature shows nothing of what it was made with.
    if header.is_some() && kind != NotifyKind::Webhook && url.scheme() == "http" && !is_near {
        return Err(Unsendable::Plain);
    }
    Ok(Letter { address, is_near, header, body: body.into_bytes() })
}

/// As Flux's notification controller posts it.
fn event(news: &News, about: &About) -> Value {
    let About { namespace, name, uid, url, at } = about;
    let event = match news.what {
        What::Event(occasion) => occasion.into(),
        What::Commit(_) => "Commit",
    };
    json!({
        "involvedObject": {
            "apiVersion": "signet.dev/v1alpha1", "kind": "GitSync", "namespace": namespace, "name": name, "uid": uid,
        },
        "severity": if is_bad(news) { "error" } else { "info" },
        "timestamp": at,
        "message": news.message,
        "reason": news.reason,
        "metadata": {"event": event, "revision": news.revision, "source": url},
        "reportingController": "signet-controller",
    })
}

/// As Slack, Mattermost and Rocket.Chat take it.
fn chat(news: &News, about: &About) -> Value {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let title = format!("GitSync {}/{}: {}", about.namespace, about.name, news.reason);
    json!({
        "text": escaped(&title),
        "attachments": [{
            "color": if is_bad(news) { "danger" } else { "good" },
            "text": escaped(&news.message),
            "fields": [{"title": "revision", "value": escaped(&news.revision), "short": false}],
        }],
    })
}

fn is_bad(news: &News) -> bool {
    matches!(news.what, What::Event(Occasion::Failed | Occasion::Drift) | What::Commit(State::Failure))
}

fn state(news: &News) -> State {
    match news.what {
        What::Commit(state) => state,
        What::Event(_) => State::Pending,
    }
}

fn context(about: &About) -> String {
    format!("signet/{}/{}", about.namespace, about.name)
}

fn short(news: &News) -> String {
    news.message.chars().take(DESCRIPTION).collect()
}

/// Host, path and commit.
fn repository(news: &News, about: &About) -> Result<(String, String, String), Unsendable> {
    let url = Url::parse(&about.url).map_err(|_| Unsendable::Repository)?;
    let host = url.host_str().ok_or(Unsendable::Repository)?;
    let port = url.port().filter(|_| url.scheme() != "ssh").map(|port| format!(":{port}")).unwrap_or_default();
    let path = url.path().trim_matches('/').trim_end_matches(".git");
    let commit = news.revision.rsplit(':').next().unwrap_or_default();
    if path.is_empty() || commit.is_empty() {
        return Err(Unsendable::Repository);
    }
    Ok((format!("{host}{port}"), path.to_owned(), commit.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(what: What) -> News {
        let (reason, message) = ("BuildFailed".to_owned(), "a <b> & c".to_owned());
        News { what, reason, message, revision: "main@sha1:abc".to_owned() }
    }

    fn about(url: &str) -> About {
        let (namespace, name, uid, at) = ("shop".into(), "app".into(), "u".into(), "2026-01-01T00:00:00Z".into());
        About { namespace, name, uid, url: url.into(), at }
    }

    fn sent(
        kind: NotifyKind,
        url: &str,
        address: Option<&str>,
        token: Option<&str>,
    ) -> Result<(String, Value), Unsendable> {
        let is_state = matches!(kind, NotifyKind::GitHub | NotifyKind::GitLab);
        let what = if is_state { What::Commit(State::Failure) } else { What::Event(Occasion::Failed) };
        let letter = letter(kind, &news(what), &about(url), Way { address, token, ..Way::default() })?;
        Ok((letter.address.to_string(), serde_json::from_slice(&letter.body).unwrap()))
    }

    #[test]
    fn commit_states_go_to_the_host_of_the_source() {
        use NotifyKind::{GitHub, GitLab};
        for (kind, url, base, expected) in [
            (GitHub, "https://github.com/a/b.git", None, "https://api.github.com/repos/a/b/statuses/abc"),
            (GitHub, "ssh://git@git.corp:22/a/b", None, "https://git.corp/api/v3/repos/a/b/statuses/abc"),
            (GitHub, "https://x/a/b", Some("https://y:1/"), "https://y:1/repos/a/b/statuses/abc"),
            (GitHub, "https://x/a/b", Some("http://127.0.0.1:1"), "http://127.0.0.1:1/repos/a/b/statuses/abc"),
            (GitLab, "https://lab:8443/g/h/p", None, "https://lab:8443/api/v4/projects/g%2Fh%2Fp/statuses/abc"),
        ] {
            let (address, body) = sent(kind, url, base, Some("t\n")).unwrap();
            assert_eq!(address, expected);
            let state = if kind == GitHub { "failure" } else { "failed" };
            assert_eq!((&body["state"], &body["description"]), (&json!(state), &json!("a <b> & c")));
        }
        let refused = |kind, url, address, token| sent(kind, url, address, token).unwrap_err();
        assert_eq!(refused(GitHub, "file:///a/b", None, Some("t")), Unsendable::Repository);
        assert_eq!(refused(GitLab, "https://x/a", None, Some(" ")), Unsendable::NoToken);
        assert_eq!(refused(GitLab, "https://x/a", Some("http://y"), Some("t")), Unsendable::Plain);
    }

    #[test]
    fn an_address_is_needed() {
        use NotifyKind::{Slack, Webhook};
        assert_eq!(sent(Slack, "https://x/a", None, None).unwrap_err(), Unsendable::NoAddress);
        assert_eq!(sent(Webhook, "https://x/a", Some("file:///etc"), None).unwrap_err(), Unsendable::BadAddress);
        assert_eq!(
            sent(Webhook, "https://x/a", Some("http://in.the.cluster/"), Some("k")).unwrap().0,
            "http://in.the.cluster/"
        );
    }

    #[test]
    fn an_authority_is_for_https() {
        let to = |address| {
            let way = Way { address: Some(address), authorities: Some("pem"), ..Way::default() };
            let news = news(What::Event(Occasion::Failed));
            letter(NotifyKind::Webhook, &news, &about("https://x/a"), way).map(drop)
        };
        assert_eq!(to("https://y"), Ok(()));
        assert_eq!([to("http://y"), to("HTTP://127.0.0.1")], [Err(Unsendable::Untrusted); 2]);
    }

    #[test]
    fn chats_get_no_markup_of_ours() {
        let (_, body) = sent(NotifyKind::Slack, "https://x/a", Some("https://hooks/x"), None).unwrap();
        assert_eq!(body["text"], "GitSync shop/app: BuildFailed");
        assert_eq!(body["attachments"][0]["text"], "a &lt;b&gt; &amp; c");
        assert_eq!(body["attachments"][0]["color"], "danger");
    }

    #[test]
    fn webhooks_are_signed_as_flux_signs_them() {
        let news = news(What::Event(Occasion::Recovered));
        let way = Way { address: Some("https://y"), token: Some("key"), ..Way::default() };
        let letter = letter(NotifyKind::Webhook, &news, &about("https://x/a"), way).unwrap();
        let (name, value) = letter.header.unwrap();
        let tag = HEXLOWER.decode(value.strip_prefix("sha256=").unwrap().as_bytes()).unwrap();
        assert_eq!(name, "x-signature");
        assert!(hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, b"key"), &letter.body, &tag).is_ok());
        let body: Value = serde_json::from_slice(&letter.body).unwrap();
        assert_eq!((&body["severity"], &body["metadata"]["event"]), (&json!("info"), &json!("Recovered")));
        assert_eq!(body["involvedObject"]["name"], "app");
    }
}
