//! The only module that talks to an API server, and the only one that reads a kubeconfig. Asks the controller through
//! the API server's service proxy, as kubeseal does, so whoever may do that needs no other way in.

mod answer;
mod install;
mod keys;
mod kubeconfig;
mod sync;

use std::{
    env, io,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crds::{SealedSecret, unseal::ClearSecret};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::{
    Api, Client, Config,
    client::Body,
    config::{KubeConfigOptions, KubeconfigError},
};
use secrecy::SecretString;
use tokio::time::{Instant, sleep, timeout};

pub use self::{answer::Answer, install::Unready};
use self::{
    answer::{FIRST_PAUSE, PATIENCE, TRIES, said, wait},
    kubeconfig::effective,
};
use crate::sight::Seen;

/// As long as an API server itself gives a request.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Which kubeconfig, what of it, and what instead of what it says. Only what was given is there.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Instead of `$KUBECONFIG` and `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// Instead of the current one.
    pub context: Option<String>,
    /// Instead of the context's.
    pub cluster: Option<String>,
    pub user: Option<String>,
    /// Instead of the cluster's.
    pub server: Option<String>,
    pub certificate_authority: Option<PathBuf>,
    pub tls_server_name: Option<String>,
    pub insecure_skip_tls_verify: bool,
    pub proxy_url: Option<String>,
    pub disable_compression: bool,
    /// How long a request may take; zero is without end.
    pub request_timeout: Option<Duration>,
    /// Instead of the user's.
    pub token: Option<SecretString>,
    pub client_certificate: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    pub username: Option<String>,
    pub password: Option<SecretString>,
    pub impersonate: Option<String>,
    pub impersonate_groups: Vec<String>,
    pub impersonate_uid: Option<String>,
}

/// The controller's Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    pub namespace: String,
    pub name: String,
}

/// A connection.
pub struct Cluster {
    client: Client,
    server: String,
    timeout: Option<Duration>,
}

/// A namespace that nobody gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Implicit {
    pub namespace: String,
    /// Whether the context names it; if not it is `default`.
    pub named: bool,
}

/// The way to a controller.
pub struct Proxied<'a> {
    cluster: &'a Cluster,
    path: String,
    /// How often in a row it was tried again; a controller that is not there holds up the first question only.
    tried: AtomicU32,
}

/// What went wrong between here and the controller.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("invalid configuration: no configuration has been provided")]
    NoConfiguration,
    #[error("open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("the kubeconfig {} cannot be understood{}", path.display(), line.map_or_else(String::new, |line| format!(" (line {line})")))]
    Malformed { path: PathBuf, line: Option<u64> },
    #[error("context {0:?} does not exist")]
    Context(String),
    #[error("cluster {0:?} does not exist")]
    Cluster(String),
    #[error("auth info {0:?} does not exist")]
    User(String),
    #[error("invalid configuration")]
    Configuration(#[source] Box<KubeconfigError>),
    #[error("cannot set up a connection to the API server")]
    Connect(#[source] Box<kube::Error>),
    #[error("cannot get sealed secret service")]
    Service(#[source] Answer),
    #[error("the Service {namespace}/{name} has no port")]
    NoPort { namespace: String, name: String },
    #[error("cannot fetch certificate")]
    Certificate(#[source] Answer),
    #[error("unable to decrypt sealed secret: {name}")]
    Sealed { name: String, why: Option<String> },
    #[error("cannot read the SealedSecret of the cluster")]
    SealedSecret(#[source] Answer),
    #[error("cannot read the Secret that the values are taken from")]
    Secret(#[source] Answer),
    #[error("cannot validate sealed secret")]
    Validate(#[source] Answer),
    #[error("cannot re-encrypt secret")]
    ReEncrypt(#[source] Answer),
    #[error("cannot list the keys: the Secrets of the namespace {namespace}")]
    Keys { namespace: String, source: Answer },
    #[error("cannot change the key Secret {namespace}/{name}")]
    Mark { namespace: String, name: String, source: Answer },
    #[error("cannot make the key Secret {namespace}/{name}")]
    MakeKey { namespace: String, name: String, source: Answer },
    #[error("cannot read the namespace kube-system, which tells clusters apart")]
    Origin(#[source] Answer),
    #[error("cannot list the SealedSecrets of the cluster")]
    SealedSecrets(#[source] Answer),
    #[error("there is no GitSync {namespace}/{name}")]
    NoGitSync { namespace: String, name: String },
    #[error("cannot read the GitSync {namespace}/{name}")]
    GitSync { namespace: String, name: String, source: Answer },
    #[error("cannot list the GitSyncs")]
    GitSyncs(#[source] Answer),
    #[error("cannot change the GitSync {namespace}/{name}")]
    ChangeGitSync { namespace: String, name: String, source: Answer },
    #[error("cannot list the Events of the namespace {namespace}")]
    Events { namespace: String, source: Answer },
    #[error("cannot ask the API server what it serves")]
    Kinds(#[source] Answer),
    #[error("cannot read {object}")]
    Object { object: String, source: Answer },
    #[error("the API server would not take {object}")]
    Try { object: String, source: Answer },
    #[error("cannot apply {what}")]
    Apply { what: String, source: Answer },
    #[error("cannot apply {what}")]
    NoNamespace { what: String, namespace: String, source: Answer },
    #[error("cannot look at {what}")]
    Look { what: String, source: Answer },
    #[error("{0} are not defined in this cluster: is it the one that is meant? seal install --apply defines them")]
    Undefined(&'static str),
    #[error("{0:?} is not the name of a Service")]
    Name(String),
}

impl ClusterError {
    /// Whether the name of what was to be made is another's.
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::MakeKey { source, .. } if source.status() == Some(StatusCode::CONFLICT))
    }

    /// Whether what was asked about is not for whoever asked, or there is no such thing.
    pub fn is_hidden(&self) -> bool {
        let hidden = [Some(StatusCode::FORBIDDEN), Some(StatusCode::NOT_FOUND)];
        matches!(self, Self::Object { source, .. } if hidden.contains(&source.status()))
    }

    /// Whether the controller's Service may not be read, or not through.
    pub fn is_barred(&self) -> bool {
        matches!(self, Self::Service(source) | Self::Certificate(source) if source.is_forbidden())
    }

    /// Whether the namespace that something was to go to is not there.
    pub fn is_nowhere(&self) -> bool {
        matches!(self, Self::Try { source, .. } if source.status() == Some(StatusCode::NOT_FOUND))
    }

    /// Whether a GitSync could not be read this time, and may be the next.
    pub fn is_momentary(&self) -> bool {
        matches!(self, Self::GitSync { source, .. } if source.is_momentary())
    }

    /// Whether it would be the same with every other GitSync: nobody answers, or there is no such kind.
    pub fn is_of_all(&self) -> bool {
        match self {
            Self::GitSync { source, .. } => source.status().is_none(),
            Self::Undefined(_) => true,
            _ => false,
        }
    }

    /// Whether the cluster knows of no SealedSecrets at all.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Undefined("SealedSecrets"))
    }

    /// The same failure, or what it means when the API server has no such kind of objects.
    fn unless_undefined(self, kind: &'static str) -> Self {
        match &self {
            Self::SealedSecret(source)
            | Self::SealedSecrets(source)
            | Self::GitSync { source, .. }
            | Self::GitSyncs(source)
            | Self::ChangeGitSync { source, .. }
                if source.is_undefined() =>
            {
                Self::Undefined(kind)
            }
            _ => self,
        }
    }
}

/// Opens a connection: the kubeconfig's context or, without any kubeconfig, the pod's own account.
pub async fn connect(access: &Access) -> Result<Cluster, ClusterError> {
    let mut config = match effective(access)? {
        Some(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(|error| ClusterError::Configuration(Box::new(error)))?,
        None => Config::incluster().map_err(|_| ClusterError::NoConfiguration)?,
    };
    config.default_retry = false; // somebody waits: say at once what is wrong
    config.read_timeout = access.request_timeout.is_none().then_some(TIMEOUT);
    let server = address(&config.cluster_url);
    let client = Client::try_from(config).map_err(|error| ClusterError::Connect(Box::new(error)))?;
    Ok(Cluster { client, server, timeout: access.request_timeout.filter(|limit| !limit.is_zero()) })
}

/// A server without the user and password that its URL may hold.
fn address(url: &http::Uri) -> String {
    let host = url.host().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme_str().unwrap_or("https"), url.path().trim_end_matches('/'))
}

/// The namespace that the context names, or `default`; `None` without any configuration.
pub fn namespace(access: &Access) -> Result<Option<Implicit>, ClusterError> {
    let kubeconfig = match effective(access) {
        Err(ClusterError::NoConfiguration) => return Ok(None),
        found => found?,
    };
    let Some(kubeconfig) = kubeconfig else {
        let config = Config::incluster().ok();
        return Ok(config.map(|config| Implicit { namespace: config.default_namespace, named: true }));
    };
    let context = kubeconfig.contexts.into_iter().find_map(|named| named.context);
    let named = context.and_then(|context| context.namespace).filter(|namespace| !namespace.is_empty());
    Ok(Some(Implicit { named: named.is_some(), namespace: named.unwrap_or_else(|| "default".to_owned()) }))
}

impl Cluster {
    /// The API server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// A SealedSecret and its Secret, by the user's own rights.
    pub async fn seen(&self, namespace: &str, name: &str) -> Result<Seen, ClusterError> {
        let sealed = Api::<SealedSecret>::namespaced(self.client.clone(), namespace);
        let missing = |source| ClusterError::SealedSecret(source).unless_undefined("SealedSecrets");
        let sealed = self.within(sealed.get(name)).await.map_err(missing)?;
        let secrets = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let secret = self.within(secrets.get(name)).await.map(ClearSecret::new).map_err(ClusterError::Secret)?;
        Ok(Seen { sealed, secret })
    }

    /// The way to a controller: the first port of its Service, by name.
    pub async fn controller(&self, controller: &Controller) -> Result<Proxied<'_>, ClusterError> {
        let Controller { namespace, name } = controller;
        let services = Api::<Service>::namespaced(self.client.clone(), namespace);
        let service = self.within(services.get(name)).await.map_err(ClusterError::Service)?;
        let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
        let port = ports
            .into_iter()
            .next()
            .ok_or_else(|| ClusterError::NoPort { namespace: namespace.clone(), name: name.clone() })?;
        let port = port.name.unwrap_or_default();
        let path = format!("/api/v1/namespaces/{namespace}/services/http:{name}:{port}/proxy");
        Ok(Proxied { cluster: self, path, tried: AtomicU32::new(0) })
    }

    async fn within<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<T, Answer> {
        let answer = match self.timeout {
            Some(limit) => timeout(limit, call).await.map_err(|_| Answer::Late(limit))?,
            None => call.await,
        };
        answer.map_err(|error| Answer::of(error, &self.server))
    }
}

impl Proxied<'_> {
    /// The certificate that the controller seals with now.
    pub async fn certificate(&self) -> Result<String, ClusterError> {
        loop {
            match self.certificate_now().await {
                Err(ClusterError::Certificate(answer)) if self.bears(&answer).await => {}
                found => return found,
            }
        }
    }

    /// The same, for whoever asks again anyway.
    pub async fn certificate_now(&self) -> Result<String, ClusterError> {
        let request = Request::get(format!("{}/v1/cert.pem", self.path))
            .header(header::ACCEPT, "application/x-pem-file, */*")
            .body(Vec::new())
            .map_err(|_| ClusterError::Name(self.path.clone()))?;
        self.send(request).await.map_err(ClusterError::Certificate)
    }

    /// Fails unless the controller can open a SealedSecret.
    pub async fn verify(&self, name: &str, sealed: &str) -> Result<(), ClusterError> {
        self.post("/v1/verify", sealed).await?.map(drop).map_err(|answer| match answer.status() {
            Some(StatusCode::CONFLICT) => ClusterError::Sealed { name: name.to_owned(), why: answer.words() },
            _ => ClusterError::Validate(answer),
        })
    }

    /// A SealedSecret as the controller seals it now.
    pub async fn rotate(&self, sealed: &str) -> Result<String, ClusterError> {
        self.post("/v1/rotate", sealed).await?.map_err(ClusterError::ReEncrypt)
    }

    /// The answer's text. By hand, because kube takes any JSON of a refusal for one of the API server's.
    async fn send(&self, request: Request<Vec<u8>>) -> Result<String, Answer> {
        let client = &self.cluster.client;
        let (head, body) = self
            .cluster
            .within(async {
                let (head, body) = client.send(request.map(Body::from)).await?.into_parts();
                Ok((head, body.collect().await?.to_bytes()))
            })
            .await?;
        let text = String::from_utf8_lossy(&body);
        if head.status.is_success() {
            return Ok(text.into_owned());
        }
        Err(Answer::Refused { status: head.status, words: said(&text), wait: wait(&head.headers) })
    }

    /// Whether to ask once more, after a pause. What is asked here may be asked twice.
    async fn bears(&self, answer: &Answer) -> bool {
        if !answer.is_passing() {
            return false;
        }
        let tried = self.tried.fetch_add(1, Ordering::Relaxed);
        if tried >= TRIES {
            return false;
        }
        sleep(FIRST_PAUSE * 2_u32.pow(tried)).await;
        true
    }

    /// Asks the controller; as often as it takes when it limits how much it is asked.
    async fn post(&self, path: &str, body: &str) -> Result<Result<String, Answer>, ClusterError> {
        let deadline = Instant::now() + PATIENCE;
        // For a controller that asks who it is, and made for that controller alone.
        let token = env::var("SIGNET_TOKEN").ok().filter(|token| !token.is_empty());
        loop {
            let request = Request::post(format!("{}{path}", self.path))
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::ACCEPT, "application/json, */*");
            let request = token.iter().fold(request, |request, token| request.header("x-signet-token", token));
            let request = request.body(body.as_bytes().to_vec()).map_err(|_| ClusterError::Name(self.path.clone()))?;
            match self.send(request).await {
                Ok(answer) => {
                    self.tried.store(0, Ordering::Relaxed);
                    return Ok(Ok(answer));
                }
                Err(answer) if self.bears(&answer).await => {}
                Err(answer) => match answer.limited().filter(|wait| Instant::now() + *wait < deadline) {
                    Some(wait) => sleep(wait).await,
                    None => return Ok(Err(answer)),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_shown_without_a_password() {
        let shown = |url: &str| address(&url.parse().unwrap());
        assert_eq!(shown("https://me:hunter2@near:6443/"), "https://near:6443");
        assert_eq!(shown("https://[::1]:6443/k8s/one"), "https://[::1]:6443/k8s/one");
    }

    #[test]
    fn no_token_is_printed() {
        let access = Access { token: Some("hunter2".to_owned().into()), ..Access::default() };
        assert!(!format!("{access:?}").contains("hunter2"));
    }
}
