//! What receivers of notifications get, and what they do not get.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, Result};
use aws_lc_rs::hmac;
use axum::{Router, extract::Request, extract::State, http::StatusCode};
use data_encoding::HEXLOWER;
use harness::{GitServer, Repository, TlsFront, background::listen, eventually, process::Signal};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::world::{Place, SOON, World, config_map, follow, start};

#[derive(Clone, Debug)]
struct Message {
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Message {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Takes everything that is posted to it.
#[derive(Clone, Default)]
struct Receiver {
    messages: Arc<Mutex<Vec<Message>>>,
    /// What it answers to the next ones, before it is well.
    answers: Arc<Mutex<Vec<StatusCode>>>,
    /// Set when those to /held may be answered.
    released: watch::Sender<bool>,
}

impl Receiver {
    fn start() -> Result<(Self, String)> {
        let receiver = Self::default();
        let (listener, port) = listen()?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let address = format!("http://127.0.0.1:{port}");
        let routes = Router::new().fallback(take).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok((receiver, address))
    }

    fn to(&self, path: &str) -> Vec<Message> {
        self.messages.lock().unwrap().iter().filter(|message| message.path.starts_with(path)).cloned().collect()
    }

    /// Waits for this many messages to a path, and answers the last of them.
    async fn last(&self, path: &str, count: usize) -> Result<Message> {
        let what = format!("{count} messages to {path}");
        let got =
            eventually(&what, SOON, || async { Ok(Some(self.to(path)).filter(|messages| messages.len() >= count)) });
        let mut got = got.await.with_context(|| format!("{:?}", self.to("")))?;
        assert_eq!(got.len(), count, "{got:?}");
        got.pop().context("no message")
    }
}

async fn take(State(receiver): State<Receiver>, request: Request) -> StatusCode {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default().to_vec();
    let headers = parts.headers.iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()));
    let message = Message { path: parts.uri.to_string(), headers: headers.collect(), body };
    let [hangs, is_held] = ["/hang", "/held"].map(|path| message.path.starts_with(path));
    receiver.messages.lock().unwrap().push(message);
    if hangs {
        pending::<()>().await;
    }
    if is_held {
        // It is never closed while somebody asks.
        let _ = receiver.released.subscribe().wait_for(|released| *released).await;
    }
    receiver.answers.lock().unwrap().pop().unwrap_or(StatusCode::OK)
}

fn signature(token: &str, body: &[u8]) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes()), body);
    format!("sha256={}", HEXLOWER.encode(tag.as_ref()))
}

/// Git was looked at again and again.
async fn tried(git: &GitServer) -> Result<()> {
    let asked = git.requests();
    eventually("Git to be asked again", SOON, || async { Ok((git.requests() >= asked + 4).then_some(())) }).await
}

async fn commit(repository: &Repository, map: &str) -> Result<String> {
    repository.write("map.yaml", map)?;
    repository.commit("a change").await
}

/// State and commit of each message, pending ones apart.
fn ends(messages: &[Message]) -> Vec<(String, String)> {
    let commit = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let state = |message: &Message| message.json()["state"].as_str().unwrap_or_default().to_owned();
    let all = messages.iter().map(|message| (state(message), commit(&message.path)));
    all.filter(|(state, _)| state != "pending").collect()
}

/// Receivers that are dead or do not answer hold up neither the sync nor the others; a restart repeats nothing.
#[tokio::test]
async fn an_incident_is_told_once_to_everybody_and_so_is_its_end() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("notify").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    let (receiver, address) = Receiver::start()?;
    for (name, path, token) in
        [("hook", "/hook", "s3cret"), ("chat", "/chat", ""), ("hub", "/hub", "t0ken"), ("lab", "/lab", "t1ken")]
    {
        let address = format!("{address}{path}");
        world.cluster.apply(&place.secret(name, &[("address", &address), ("token", token)])).await?;
    }
    world.cluster.apply(&place.secret("dead", &[("address", "http://127.0.0.1:1/hidden-path")])).await?;
    let all = json!(["Failed", "Waiting", "Recovered", "Applied", "Drift"]);
    let notify = json!([
        {"type": "Webhook", "secretRef": {"name": "dead"}, "events": all},
        {"type": "Webhook", "url": format!("{address}/hang"), "events": all},
        {"type": "Webhook", "secretRef": {"name": "hook"}, "events": all},
        {"type": "Slack", "secretRef": {"name": "chat"}},
        {"type": "GitHub", "secretRef": {"name": "hub"}},
        {"type": "GitLab", "secretRef": {"name": "lab"}},
    ]);
    let good = commit(&repository, &config_map("settings", "one")).await?;
    follow(&place, "app", &repository, json!({"notify": notify})).await?;
    place.applied("app", &good).await?;
    let applied = receiver.last("/hook", 1).await?;
    assert_eq!(applied.headers["x-signature"], signature("s3cret", &applied.body));
    assert_eq!(applied.json()["metadata"]["event"], "Applied");
    assert_eq!(applied.json()["metadata"]["revision"], format!("main@sha1:{good}"));
    let told = applied.json()["message"].as_str().unwrap_or_default().to_owned();
    assert!(told.contains("1 created") && told.contains("Ada <ada@example.com>: a change"), "{told}");

    let bad = commit(&repository, "kind: ConfigMap\n").await?;
    let failed = receiver.last("/hook", 2).await?.json();
    assert_eq!((&failed["reason"], &failed["severity"]), (&json!("BuildFailed"), &json!("error")));
    assert!(failed["message"].as_str().is_some_and(|it| it.contains("map.yaml:1: apiVersion is missing")), "{failed}");
    let chat = receiver.last("/chat", 1).await?.json();
    assert_eq!(chat["text"], format!("GitSync {}/app: BuildFailed", place.namespace));
    // What waits to be told goes with the process.
    for (path, state) in [("/hub/", "failure"), ("/lab/", "failed")] {
        eventually("the state of that commit", SOON, || async {
            Ok(ends(&receiver.to(path)).contains(&(state.to_owned(), bad.clone())).then_some(()))
        })
        .await?;
    }
    // Tried again and again, by another process too.
    tried(&git).await?;
    world.controller.kill().await?;
    world.controller.restart().await?;
    tried(&git).await?;

    let repaired = commit(&repository, &config_map("settings", "two")).await?;
    place.applied("app", &repaired).await?;
    assert_eq!(receiver.last("/hook", 3).await?.json()["metadata"]["event"], "Recovered");
    receiver.last("/chat", 2).await?;
    let ended = |failure: &str| {
        let end = |state: &str, commit: &str| (state.to_owned(), commit.to_owned());
        vec![end("success", &good), end(failure, &bad), end("success", &repaired)]
    };
    for (path, failure, header, value) in [
        ("/hub/repos/app/statuses/", "failure", "authorization", "Bearer t0ken"),
        ("/lab/api/v4/projects/app/statuses/", "failed", "private-token", "t1ken"),
    ] {
        eventually("the states of all commits", SOON, || async {
            Ok((ends(&receiver.to(path)) == ended(failure)).then_some(()))
        })
        .await
        .with_context(|| format!("{:?}", receiver.to(path)))?;
        assert!(receiver.to(path).iter().all(|message| message.headers[header] == value));
    }

    let wrong = json!({"data": {"value": "wrong"}});
    let meddler = PatchParams { field_manager: Some("meddler".to_owned()), ..PatchParams::default() };
    place.maps().patch("settings", &meddler, &Patch::Merge(wrong)).await?;
    let drift = receiver.last("/hook", 4).await?.json();
    assert!(drift["message"].as_str().is_some_and(|it| it.contains(".data.value by meddler")), "{drift}");
    assert!(!receiver.to("/hang").is_empty());
    let told = [world.controller.logs().await?, json!(place.syncs().get("app").await?.status).to_string()];
    for secret in ["s3cret", "t0ken", "t1ken", "hidden-path"] {
        assert!(told.iter().all(|told| !told.contains(secret)), "{secret}");
    }
    Ok(())
}

/// The counter of one kind of receiver.
async fn counted(place: &Place<'_>, kind: &str, outcome: &str) -> Result<f64> {
    let labels = format!("git_sync_notifications_total{{type=\"{kind}\",outcome=\"{outcome}\"}}");
    place.world.controller.metric(&format!("sealed_secrets_controller_{labels}")).await
}

#[tokio::test]
async fn a_receiver_that_refuses_is_told_of_once_and_one_that_stumbles_is_tried_again() -> Result<()> {
    let (place, git) = start("unheard").await?;
    let repository = git.create("app").await?;
    let (receiver, address) = Receiver::start()?;
    let first = commit(&repository, &config_map("settings", "one")).await?;
    receiver.answers.lock().unwrap().push(StatusCode::SERVICE_UNAVAILABLE);
    let notify = json!([{"type": "Webhook", "url": format!("{address}/hook"), "events": ["Applied"]}]);
    follow(&place, "app", &repository, json!({"notify": notify})).await?;
    place.applied("app", &first).await?;
    receiver.last("/hook", 2).await?;

    let before = counted(&place, "Webhook", "failed").await.unwrap_or_default();
    *receiver.answers.lock().unwrap() = vec![StatusCode::FORBIDDEN; 2];
    for (count, value) in [(3, "two"), (4, "three")] {
        let next = commit(&repository, &config_map("settings", value)).await?;
        place.applied("app", &next).await?;
        receiver.last("/hook", count).await?;
    }
    eventually("both refusals to be counted", SOON, || async {
        Ok((counted(&place, "Webhook", "failed").await? >= before + 2.0).then_some(()))
    })
    .await?;
    let told = place.event("NotificationFailed", "cannot notify Webhook: it answered 403 Forbidden").await?;
    assert!(!told.contains(&address), "{told}");
    let next = commit(&repository, &config_map("settings", "four")).await?;
    place.applied("app", &next).await?;
    assert_eq!(receiver.last("/hook", 5).await?.json()["metadata"]["revision"], format!("main@sha1:{next}"));
    let told = place.world.controller.logs().await?;
    let lines = told.lines().filter(|line| line.contains("cannot notify") && line.contains(&place.namespace));
    assert_eq!(lines.count(), 1);

    // What can never arrive is refused when it is written.
    for notify in [json!({"type": "Slack"}), json!({"type": "GitHub", "url": address}), json!({"url": "ftp://x"})] {
        let spec = json!({"spec": {"notify": [notify]}});
        let refused = place.syncs().patch("app", &PatchParams::default(), &Patch::Merge(&spec)).await;
        assert!(refused.is_err(), "{spec}");
    }
    Ok(())
}

#[tokio::test]
async fn a_receiver_may_have_an_authority_of_its_own() -> Result<()> {
    let (place, git) = start("authority").await?;
    let repository = git.create("app").await?;
    let (receiver, address) = Receiver::start()?;
    let port = address.rsplit(':').next().context("a port")?.parse()?;
    let front = TlsFront::open(&["localhost"], port)?;
    let hook = |path: &str| format!("https://localhost:{}{path}", front.port());
    let authority = front.certificates().authority.as_str();
    for (name, path, authority) in [("known", "/known", authority), ("strange", "/strange", ""), ("bad", "/bad", "PEM")]
    {
        let secret = place.secret(name, &[("address", &hook(path)), ("ca.crt", authority)]);
        place.world.cluster.apply(&secret).await?;
    }
    let first = commit(&repository, &config_map("settings", "one")).await?;
    let to = |name: &str| json!({"secretRef": {"name": name}, "events": ["Applied"]});
    follow(&place, "app", &repository, json!({"notify": [to("known"), to("strange"), to("bad")]})).await?;
    place.applied("app", &first).await?;
    receiver.last("/known", 1).await?;
    place.event("NotificationFailed", "Secret bad: its ca.crt cannot be read: it must be PEM").await?;

    // Nobody else's authority counts; with it, it is trusted from then on.
    let secret = place.secret("strange", &[("address", &hook("/strange")), ("ca.crt", authority)]);
    assert!(receiver.to("/strange").is_empty());
    place.world.cluster.apply(&secret).await?;
    let second = commit(&repository, &config_map("settings", "two")).await?;
    place.applied("app", &second).await?;
    receiver.last("/known", 2).await?;
    eventually("the other one to be told, too", SOON, || async {
        Ok((!receiver.to("/strange").is_empty()).then_some(()))
    })
    .await
}

#[tokio::test]
async fn what_waits_when_the_controller_ends_is_sent() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("ends").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    let (receiver, address) = Receiver::start()?;
    let notify = json!([
        {"url": format!("{address}/held"), "events": ["Applied"]},
        // It holds up nothing.
        {"url": "http://127.0.0.1:1/dead", "events": ["Applied"]},
    ]);
    let first = commit(&repository, &config_map("settings", "one")).await?;
    follow(&place, "app", &repository, json!({"notify": notify})).await?;
    place.applied("app", &first).await?;
    receiver.last("/held", 1).await?;
    let second = commit(&repository, &config_map("settings", "two")).await?;
    place.applied("app", &second).await?;
    world.controller.signal(Signal::TERM).await?;
    receiver.released.send_replace(true);
    eventually("what waited", SOON, || async {
        let told = receiver
            .to("/held")
            .iter()
            .any(|told| told.json()["metadata"]["revision"] == format!("main@sha1:{second}"));
        Ok(told.then_some(()))
    })
    .await?;
    eventually("the controller to end", SOON, || async { Ok((!world.controller.is_running().await?).then_some(())) })
        .await
}
