//! The only module that talks to an API server, and the only one that reads a kubeconfig. Asks the controller through
//! the API server's service proxy, as kubeseal does, so whoever may do that needs no other way in.

mod install;
mod keys;
mod sync;

use std::{
    env, fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use crds::{SealedSecret, unseal::ClearSecret};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::{
    Api, Client, Config,
    client::Body,
    config::{
        AuthInfo, Cluster as ClusterInfo, KubeConfigOptions, Kubeconfig, KubeconfigError, NamedAuthInfo, NamedCluster,
        NamedContext,
    },
};
use secrecy::SecretString;
use tokio::time::{Instant, sleep, timeout};

use crate::sight::Seen;

/// As long as an API server itself gives a request.
const TIMEOUT: Duration = Duration::from_mins(1);

/// How long to come back to a controller that limits how much it is asked.
const PATIENCE: Duration = Duration::from_mins(5);
/// Upstream's controllers answer two requests a second.
const PAUSE: Duration = Duration::from_secs(1);
/// For one that says to come back at once, and means it.
const AT_LEAST: Duration = Duration::from_millis(100);

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
}

/// What went wrong between here and the controller.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("invalid configuration: no configuration has been provided")]
    NoConfiguration,
    #[error("open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("the kubeconfig {} cannot be understood", path.display())]
    Malformed { path: PathBuf },
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
    #[error("cannot look at {what}")]
    Look { what: String, source: Answer },
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

    /// Whether the namespace that something was to go to is not there.
    pub fn is_nowhere(&self) -> bool {
        matches!(self, Self::Try { source, .. } if source.status() == Some(StatusCode::NOT_FOUND))
    }

    /// Whether the cluster knows of no SealedSecrets at all.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::SealedSecrets(source) if source.status() == Some(StatusCode::NOT_FOUND))
    }
}

/// What came instead of what was asked for, in the other side's words only.
#[derive(Debug)]
pub enum Answer {
    Refused { status: StatusCode, words: Option<String>, wait: Option<Duration> },
    Failed(Box<kube::Error>),
    Late(Duration),
}

impl Answer {
    /// Whether whoever asked has no right to.
    pub fn is_forbidden(&self) -> bool {
        self.status() == Some(StatusCode::FORBIDDEN)
    }

    fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Failed(_) | Self::Late(_) => None,
        }
    }

    /// How long to wait before asking again, when that is all that is wrong.
    fn limited(&self) -> Option<Duration> {
        match self {
            Self::Refused { status: StatusCode::TOO_MANY_REQUESTS, wait, .. } => {
                Some(wait.unwrap_or(PAUSE).min(PATIENCE))
            }
            _ => None,
        }
    }

    fn words(self) -> Option<String> {
        match self {
            Self::Refused { words, .. } => words,
            Self::Failed(_) | Self::Late(_) => None,
        }
    }
}

impl From<kube::Error> for Answer {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(refusal) => Self::Refused {
                status: StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                words: said(&refusal.message),
                wait: None,
            },
            error => Self::Failed(Box::new(error)),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { words: Some(words), .. } => f.write_str(words),
            Self::Refused { status, words: None, .. } => write!(f, "the server answered {status}"),
            Self::Late(limit) => write!(f, "no answer within {} s (--request-timeout)", limit.as_secs_f32()),
            Self::Failed(error) => match &**error {
                kube::Error::Service(_) | kube::Error::HyperError(_) => f.write_str("no answer from the API server"),
                other => write!(f, "{other}"),
            },
        }
    }
}

impl std::error::Error for Answer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let Self::Failed(error) = self else { return None };
        match &**error {
            kube::Error::Service(source) => Some(&**source),
            kube::Error::HyperError(source) => Some(source),
            _ => None,
        }
    }
}

/// A refusal fit for a terminal: of JSON its message, of anything else the first line.
fn said(body: &str) -> Option<String> {
    let json = serde_json::from_str::<serde_json::Value>(body).ok();
    let field = |key| json.as_ref()?.get(key)?.as_str();
    let words = field("message").or_else(|| field("error")).unwrap_or(body);
    let line = words.lines().next()?.trim();
    let plain: String = line.chars().filter(|c| !c.is_control()).take(1000).collect();
    (!plain.is_empty()).then_some(plain)
}

/// How long the other side asks to be left alone. Dates, which it may also be, are not used by controllers.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).max(AT_LEAST))
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
    let Some(kubeconfig) = effective(access)? else {
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
        let sealed = self.within(sealed.get(name)).await.map_err(ClusterError::SealedSecret)?;
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
        Ok(Proxied { cluster: self, path })
    }

    async fn within<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<T, Answer> {
        let answer = match self.timeout {
            Some(limit) => timeout(limit, call).await.map_err(|_| Answer::Late(limit))?,
            None => call.await,
        };
        Ok(answer?)
    }
}

impl Proxied<'_> {
    /// The certificate that the controller seals with now.
    pub async fn certificate(&self) -> Result<String, ClusterError> {
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
                Ok(answer) => return Ok(Ok(answer)),
                Err(answer) => match answer.limited().filter(|wait| Instant::now() + *wait < deadline) {
                    Some(wait) => sleep(wait).await,
                    None => return Ok(Err(answer)),
                },
            }
        }
    }
}

/// The one context, cluster and user that count, with all that was given instead. `None` without any configuration.
fn effective(access: &Access) -> Result<Option<Kubeconfig>, ClusterError> {
    let named = [&access.context, &access.cluster, &access.user, &access.server].iter().any(|given| given.is_some());
    match kubeconfig(access)? {
        None if !named => Ok(None),
        found => settle(found.unwrap_or_default(), access).map(Some),
    }
}

/// What was given counts before what the files say; what was given by name must exist.
fn settle(kubeconfig: Kubeconfig, access: &Access) -> Result<Kubeconfig, ClusterError> {
    const NAME: &str = "given";
    let name = access.context.clone().or(kubeconfig.current_context).filter(|name| !name.is_empty());
    let mut contexts = kubeconfig.contexts.into_iter();
    let context = match name {
        Some(name) => Some(contexts.find(|it| it.name == name).ok_or(ClusterError::Context(name))?),
        None => None,
    };
    let mut context = context.and_then(|named| named.context).unwrap_or_default();

    let name = access.cluster.clone().unwrap_or_else(|| context.cluster.clone());
    let found = kubeconfig.clusters.into_iter().find(|it| it.name == name);
    let cluster = match found {
        None if access.cluster.is_some() => return Err(ClusterError::Cluster(name)),
        found => overridden_cluster(found.and_then(|it| it.cluster).unwrap_or_default(), access),
    };
    let name = access.user.clone().or(context.user.take()).unwrap_or_default();
    let found = kubeconfig.auth_infos.into_iter().find(|it| it.name == name);
    let user = match found {
        None if access.user.is_some() => return Err(ClusterError::User(name)),
        found => overridden_user(found.and_then(|it| it.auth_info).unwrap_or_default(), access),
    };

    if cluster.server.is_none() {
        return Err(ClusterError::NoConfiguration);
    }
    NAME.clone_into(&mut context.cluster);
    context.user = Some(NAME.to_owned());
    let name = || NAME.to_owned();
    Ok(Kubeconfig {
        clusters: vec![NamedCluster { name: name(), cluster: Some(cluster), ..NamedCluster::default() }],
        auth_infos: vec![NamedAuthInfo { name: name(), auth_info: Some(user), ..NamedAuthInfo::default() }],
        contexts: vec![NamedContext { name: name(), context: Some(context), ..NamedContext::default() }],
        current_context: Some(name()),
        ..Kubeconfig::default()
    })
}

fn overridden_cluster(mut cluster: ClusterInfo, access: &Access) -> ClusterInfo {
    if access.insecure_skip_tls_verify || access.certificate_authority.is_some() {
        cluster.insecure_skip_tls_verify = Some(access.insecure_skip_tls_verify);
        cluster.certificate_authority = access.certificate_authority.as_deref().map(text);
        cluster.certificate_authority_data = None;
    }
    if access.tls_server_name.is_some() || access.server.is_some() {
        cluster.tls_server_name.clone_from(&access.tls_server_name);
    }
    if let Some(server) = &access.server {
        let secured = cluster.certificate_authority.is_some()
            || cluster.certificate_authority_data.is_some()
            || cluster.insecure_skip_tls_verify == Some(true);
        let scheme = if secured { "https" } else { "http" };
        let whole = server.contains("://");
        cluster.server = Some(if whole { server.clone() } else { format!("{scheme}://{server}") });
    }
    cluster.proxy_url = access.proxy_url.clone().or(cluster.proxy_url);
    cluster.disable_compression = access.disable_compression.then_some(true).or(cluster.disable_compression);
    cluster
}

/// A token or a password given by hand is the way to authenticate, whatever else the user has.
fn overridden_user(mut user: AuthInfo, access: &Access) -> AuthInfo {
    if access.token.is_some() || access.username.is_some() || access.password.is_some() {
        let own = user;
        user = AuthInfo {
            token: access.token.clone(),
            username: access.username.clone().or(own.username.filter(|_| access.token.is_none())),
            password: access.password.clone().or(own.password.filter(|_| access.token.is_none())),
            token_file: None,
            exec: None,
            auth_provider: None,
            ..own
        };
    }
    if let Some(path) = &access.client_certificate {
        user.client_certificate = Some(text(path));
        user.client_certificate_data = None;
    }
    if let Some(path) = &access.client_key {
        user.client_key = Some(text(path));
        user.client_key_data = None;
    }
    user.impersonate = access.impersonate.clone().or(user.impersonate);
    user.impersonate_uid = access.impersonate_uid.clone().or(user.impersonate_uid);
    if !access.impersonate_groups.is_empty() {
        user.impersonate_groups = Some(access.impersonate_groups.clone());
    }
    user
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The kubeconfig by kubectl's rules: the one that was named, else all of `$KUBECONFIG` that exist, else the one at
/// home. `None` when there is none, or nothing in it.
fn kubeconfig(access: &Access) -> Result<Option<Kubeconfig>, ClusterError> {
    if let Some(path) = &access.kubeconfig {
        return read(path).map(Some);
    }
    let listed: Vec<PathBuf> = env::var_os("KUBECONFIG")
        .map(|list| env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect())
        .unwrap_or_default();
    let paths = if listed.is_empty() {
        env::home_dir().map(|home| home.join(".kube").join("config")).into_iter().collect()
    } else {
        listed
    };
    let mut merged = Kubeconfig::default();
    for path in paths {
        match read(&path) {
            Ok(kubeconfig) => {
                merged = merged.merge(kubeconfig).map_err(|error| ClusterError::Configuration(Box::new(error)))?;
            }
            Err(ClusterError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let empty = merged.clusters.is_empty() && merged.contexts.is_empty();
    Ok((!empty).then_some(merged))
}

/// Reads one file. What its parser says is kept back: it quotes the file, and the file holds tokens.
fn read(path: &Path) -> Result<Kubeconfig, ClusterError> {
    Kubeconfig::read_from(path).map_err(|error| match error {
        KubeconfigError::ReadConfig(source, path) => ClusterError::Open { path, source },
        KubeconfigError::Parse(_) => ClusterError::Malformed { path: path.to_owned() },
        error => ClusterError::Configuration(Box::new(error)),
    })
}

#[cfg(test)]
mod tests {
    use kube::config::Context;
    use secrecy::ExposeSecret as _;

    use super::*;

    const TWO: &str = "
clusters:
- {name: near, cluster: {server: 'https://near', certificate-authority-data: YQ==, tls-server-name: n, proxy-url: 'http://p'}}
- {name: far, cluster: {server: 'https://far'}}
users:
- {name: me, user: {token: old, client-certificate-data: YQ==, client-key-data: YQ==, as: none}}
- {name: robot, user: {exec: {command: false}}}
contexts:
- {name: a, context: {cluster: near, user: me, namespace: shop}}
- {name: b, context: {cluster: far}}
current-context: a
";

    fn settled(access: &Access) -> Result<(Context, ClusterInfo, AuthInfo), ClusterError> {
        let mut settled = settle(Kubeconfig::from_yaml(TWO).unwrap(), access)?;
        Ok((
            settled.contexts.remove(0).context.unwrap(),
            settled.clusters.remove(0).cluster.unwrap(),
            settled.auth_infos.remove(0).auth_info.unwrap(),
        ))
    }

    #[test]
    fn context_cluster_and_user_are_chosen_by_name() {
        let server = |access: &Access| settled(access).unwrap().1.server.unwrap();
        assert_eq!(server(&Access::default()), "https://near");
        assert_eq!(server(&Access { context: Some("b".to_owned()), ..Access::default() }), "https://far");
        assert_eq!(server(&Access { cluster: Some("far".to_owned()), ..Access::default() }), "https://far");
        let robot = settled(&Access { user: Some("robot".to_owned()), ..Access::default() }).unwrap();
        assert!(robot.2.exec.is_some() && robot.2.token.is_none());
        assert_eq!(robot.0.namespace.as_deref(), Some("shop"));
        for (access, words) in [
            (Access { context: Some("c".to_owned()), ..Access::default() }, "context \"c\" does not exist"),
            (Access { cluster: Some("c".to_owned()), ..Access::default() }, "cluster \"c\" does not exist"),
            (Access { user: Some("c".to_owned()), ..Access::default() }, "auth info \"c\" does not exist"),
        ] {
            assert_eq!(settled(&access).unwrap_err().to_string(), words);
        }
    }

    #[test]
    fn what_is_given_counts_before_the_kubeconfig() {
        let access = Access {
            server: Some("https://other".to_owned()),
            certificate_authority: Some("ca.crt".into()),
            proxy_url: Some("http://q".to_owned()),
            disable_compression: true,
            token: Some("new".to_owned().into()),
            client_certificate: Some("me.crt".into()),
            client_key: Some("me.key".into()),
            impersonate: Some("deploy".to_owned()),
            impersonate_groups: vec!["ops".to_owned()],
            impersonate_uid: Some("7".to_owned()),
            ..Access::default()
        };
        let (_, cluster, user) = settled(&access).unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://other"));
        assert_eq!(cluster.certificate_authority.as_deref(), Some("ca.crt"));
        assert!(cluster.certificate_authority_data.is_none(), "it would count before the file");
        assert!(cluster.tls_server_name.is_none(), "another server has another name");
        assert_eq!((cluster.proxy_url.as_deref(), cluster.disable_compression), (Some("http://q"), Some(true)));
        assert_eq!(user.token.unwrap().expose_secret(), "new");
        assert_eq!((user.client_certificate.as_deref(), user.client_certificate_data), (Some("me.crt"), None));
        assert!(user.client_key.as_deref() == Some("me.key") && user.client_key_data.is_none());
        assert_eq!((user.impersonate.as_deref(), user.impersonate_uid.as_deref()), (Some("deploy"), Some("7")));
        assert_eq!(user.impersonate_groups, Some(vec!["ops".to_owned()]));
    }

    #[test]
    fn unchecked_is_only_what_was_asked_to_be() {
        let (_, cluster, _) = settled(&Access::default()).unwrap();
        assert!(cluster.insecure_skip_tls_verify.is_none() && cluster.certificate_authority_data.is_some());
        let (_, cluster, _) = settled(&Access { insecure_skip_tls_verify: true, ..Access::default() }).unwrap();
        assert_eq!((cluster.insecure_skip_tls_verify, cluster.certificate_authority_data), (Some(true), None));
    }

    #[test]
    fn one_way_to_authenticate_is_given_at_a_time() {
        let basic = Access {
            username: Some("me".to_owned()),
            password: Some("p".to_owned().into()),
            user: Some("robot".to_owned()),
            ..Access::default()
        };
        let (_, _, user) = settled(&basic).unwrap();
        assert!(user.username.is_some() && user.password.is_some() && user.exec.is_none());
    }

    #[test]
    fn a_server_needs_no_kubeconfig_and_no_scheme() {
        let server =
            |access: Access| settle(Kubeconfig::default(), &access).unwrap().clusters[0].cluster.clone().unwrap();
        let bare = Access { server: Some("host:1".to_owned()), ..Access::default() };
        assert_eq!(server(bare.clone()).server.as_deref(), Some("http://host:1"));
        let secured = Access { insecure_skip_tls_verify: true, ..bare };
        assert_eq!(server(secured).server.as_deref(), Some("https://host:1"));
        assert!(matches!(settle(Kubeconfig::default(), &Access::default()), Err(ClusterError::NoConfiguration)));
    }

    #[test]
    fn a_refusal_is_one_plain_line() {
        assert_eq!(said("{\"message\": \"why\"}").unwrap(), "why");
        assert_eq!(said("{\"error\": \"why\"}").unwrap(), "why");
        assert_eq!(said("bad \u{1b}[31mthing\nmore").unwrap(), "bad [31mthing");
        assert_eq!(said(" \n"), None);
    }

    #[test]
    fn a_limit_says_when_to_come_back() {
        let refused = |status, after: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.extend(after.map(|after| (header::RETRY_AFTER, http::HeaderValue::from_static(after))));
            Answer::Refused { status, words: None, wait: wait(&headers) }.limited()
        };
        let limited = |after| refused(StatusCode::TOO_MANY_REQUESTS, after).unwrap();
        assert_eq!(limited(Some("7")), Duration::from_secs(7));
        assert_eq!(limited(Some("0")), AT_LEAST);
        assert_eq!((limited(None), limited(Some("soon"))), (PAUSE, PAUSE));
        assert_eq!(limited(Some("99999999999")), PATIENCE);
        assert_eq!(refused(StatusCode::SERVICE_UNAVAILABLE, Some("7")), None);
    }

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
