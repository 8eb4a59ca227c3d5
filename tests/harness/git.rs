//! A Git host on loopback: real smart HTTP by git's own `http-backend`, with the troubles of a real host on demand
//! (outage, credentials). It must not interpret what passes through it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, Response, StatusCode, header},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::sync::watch;

use crate::{
    background::{Background, listen},
    command,
    repository::Repository,
    scratch::Scratch,
};

/// The server; gone, with its repositories, when dropped.
pub struct GitServer {
    site: Arc<Site>,
    _serving: Background,
    _scratch: Scratch,
}

/// What the server and its repositories share.
pub(crate) struct Site {
    pub(crate) port: u16,
    /// The bare repositories.
    pub(crate) root: PathBuf,
    /// The work trees.
    pub(crate) work: PathBuf,
    pub(crate) home: PathBuf,
    stopped: AtomicBool,
    paused: watch::Sender<bool>,
    requests: AtomicU64,
    /// The Authorization header that is asked for.
    authorization: Mutex<Option<String>>,
}

impl GitServer {
    /// Serves on a free loopback port.
    pub fn start() -> Result<Self> {
        let scratch = Scratch::new("signet-git-")?;
        let (listener, port) = listen()?;
        let site = Arc::new(Site {
            port,
            root: scratch.folder("served")?,
            work: scratch.folder("work")?,
            home: scratch.folder("home")?,
            stopped: AtomicBool::new(false),
            paused: watch::Sender::new(false),
            requests: AtomicU64::new(0),
            authorization: Mutex::new(None),
        });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&site));
        let serving = Background::run("git", || async {
            Ok(axum::serve(tokio::net::TcpListener::from_std(listener)?, app).await?)
        })?;
        Ok(Self { site, _serving: serving, _scratch: scratch })
    }

    /// Makes an empty repository with the branch `main`.
    pub async fn create(&self, name: &str) -> Result<Repository> {
        Repository::create(Arc::clone(&self.site), name).await
    }

    /// The folder of the bare repositories, such as an SSH server may serve too.
    pub fn root(&self) -> &Path {
        &self.site.root
    }

    /// An outage: every request is answered with 503.
    pub fn stop(&self) {
        self.site.stopped.store(true, Ordering::Relaxed);
    }

    /// A host that hangs: no request is answered.
    pub fn pause(&self) {
        self.site.paused.send_replace(true);
    }

    /// The end of either.
    pub fn resume(&self) {
        self.site.stopped.store(false, Ordering::Relaxed);
        self.site.paused.send_replace(false);
    }

    /// From now on only these credentials are let in; our own pushes carry them.
    pub fn require_basic(&self, user: &str, password: &str) {
        let header = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
        self.require(header);
    }

    /// The same with a token.
    pub fn require_bearer(&self, token: &str) {
        self.require(format!("Bearer {token}"));
    }

    fn require(&self, header: String) {
        *self.site.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(header);
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.site.port
    }

    /// How many requests came so far, refused ones included.
    pub fn requests(&self) -> u64 {
        self.site.requests.load(Ordering::Relaxed)
    }
}

impl Site {
    /// What git is told: nobody's configuration, a fixed author, and the credentials that the server asks for.
    pub(crate) fn git_environment(&self) -> Vec<(&'static str, String)> {
        let mut environment: Vec<(&'static str, String)> = [
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_AUTHOR_NAME", "Ada"),
            ("GIT_AUTHOR_EMAIL", "ada@example.com"),
            ("GIT_COMMITTER_NAME", "Ada"),
            ("GIT_COMMITTER_EMAIL", "ada@example.com"),
        ]
        .map(|(name, value)| (name, value.to_owned()))
        .into();
        if let Some(header) = self.authorization() {
            environment.push(("GIT_CONFIG_COUNT", "1".to_owned()));
            environment.push(("GIT_CONFIG_KEY_0", "http.extraHeader".to_owned()));
            environment.push(("GIT_CONFIG_VALUE_0", format!("Authorization: {header}")));
        }
        environment
    }

    fn authorization(&self) -> Option<String> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn answer(State(site): State<Arc<Site>>, request: Request) -> Response<Body> {
    site.requests.fetch_add(1, Ordering::Relaxed);
    // It is never closed while somebody asks.
    let _ = site.paused.subscribe().wait_for(|paused| !paused).await;
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if site.stopped.load(Ordering::Relaxed) {
        return refusal(StatusCode::SERVICE_UNAVAILABLE);
    }
    if site.authorization().is_some_and(|wanted| shown != Some(&wanted)) {
        let mut refused = refusal(StatusCode::UNAUTHORIZED);
        refused.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Basic realm=\"git\""));
        return refused;
    }
    http_backend(&site, request).await.unwrap_or_else(|_| refusal(StatusCode::INTERNAL_SERVER_ERROR))
}

fn refusal(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Runs git's CGI program on the request, as a web server would.
async fn http_backend(site: &Site, request: Request) -> Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await?;
    let text = |headers: &HeaderMap, name: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let mut git = command::clean("git", &site.home);
    git.arg("http-backend")
        .envs(site.git_environment())
        .env("GIT_PROJECT_ROOT", &site.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", head.method.as_str())
        .env("PATH_INFO", head.uri.path())
        .env("QUERY_STRING", head.uri.query().unwrap_or_default())
        .env("REMOTE_ADDR", "127.0.0.1")
        .env("CONTENT_TYPE", text(&head.headers, "content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", text(&head.headers, "content-encoding"))
        .env("GIT_PROTOCOL", text(&head.headers, "git-protocol"));
    response(command::run_bytes(&mut git, &body).await?.stdout)
}

/// Reads what a CGI program writes: headers, among them perhaps the status, an empty line, the body.
fn response(mut cgi: Vec<u8>) -> Result<Response<Body>> {
    let end = cgi.windows(4).position(|window| window == b"\r\n\r\n").context("git http-backend wrote no headers")?;
    let body = cgi.split_off(end + 4);
    let mut builder = Response::builder();
    for line in std::str::from_utf8(&cgi)?.trim_end().lines() {
        let (name, value) = line.split_once(": ").context("not a header")?;
        builder = match name {
            "Status" => builder.status(value.split(' ').next().unwrap_or(value)),
            name => builder.header(name, value),
        };
    }
    Ok(builder.body(Body::from(body))?)
}
