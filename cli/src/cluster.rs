//! The only module that talks to an API server, and the only one that reads a kubeconfig. Asks the controller through
//! the API server's service proxy, as kubeseal does, so whoever may do that needs no other way in.

use std::{
    env, fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

/// As long as an API server itself gives a request.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Which kubeconfig, and what of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Instead of `$KUBECONFIG` and `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// Instead of the current one.
    pub context: Option<String>,
}

/// The controller's Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    pub namespace: String,
    pub name: String,
}

/// A connection.
pub struct Cluster(Client);

/// What went wrong between here and the controller.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("invalid configuration: no configuration has been provided")]
    NoConfiguration,
    #[error("open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("the kubeconfig {} cannot be understood", path.display())]
    Malformed { path: PathBuf },
    #[error("invalid configuration: context {0:?} does not exist")]
    Context(String),
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
    #[error("{0:?} is not the name of a Service")]
    Name(String),
}

/// An API server's refusal, in its own words only.
#[derive(Debug)]
pub struct Answer(Box<kube::Error>);

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            kube::Error::Api(status) if !status.message.is_empty() => f.write_str(&status.message),
            kube::Error::Api(status) => write!(f, "the server answered {}", status.code),
            kube::Error::Service(_) | kube::Error::HyperError(_) => f.write_str("no answer from the API server"),
            other => write!(f, "{other}"),
        }
    }
}

impl std::error::Error for Answer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            kube::Error::Service(source) => Some(&**source),
            kube::Error::HyperError(source) => Some(source),
            _ => None,
        }
    }
}

/// Opens a connection: the kubeconfig's context or, without any kubeconfig, the pod's own account.
pub async fn connect(access: &Access) -> Result<Cluster, ClusterError> {
    let mut config = match kubeconfig(access)? {
        Some(kubeconfig) => {
            let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| match error {
                KubeconfigError::LoadContext(context) => ClusterError::Context(context),
                error => ClusterError::Configuration(Box::new(error)),
            })?
        }
        None => Config::incluster().map_err(|_| ClusterError::NoConfiguration)?,
    };
    config.default_retry = false; // somebody waits: say at once what is wrong
    config.read_timeout = Some(TIMEOUT);
    Client::try_from(config).map(Cluster).map_err(|error| ClusterError::Connect(Box::new(error)))
}

/// The namespace that the context names, or `default`; `None` without any configuration.
pub fn namespace(access: &Access) -> Result<Option<String>, ClusterError> {
    let Some(kubeconfig) = kubeconfig(access)? else {
        return Ok(Config::incluster().ok().map(|config| config.default_namespace));
    };
    Ok(Some(context_namespace(&kubeconfig, access.context.as_deref())?))
}

impl Cluster {
    /// The certificate that the controller seals with now.
    pub async fn certificate(&self, controller: &Controller) -> Result<String, ClusterError> {
        let path = format!("{}/v1/cert.pem", self.proxy(controller).await?);
        let request = http::Request::get(path)
            .header(http::header::ACCEPT, "application/x-pem-file, */*")
            .body(Vec::new())
            .map_err(|_| ClusterError::Name(controller.name.clone()))?;
        self.0.request_text(request).await.map_err(|error| ClusterError::Certificate(Answer(Box::new(error))))
    }

    /// The way to the controller: the first port of its Service, by name.
    async fn proxy(&self, controller: &Controller) -> Result<String, ClusterError> {
        let Controller { namespace, name } = controller;
        let service = Api::<Service>::namespaced(self.0.clone(), namespace)
            .get(name)
            .await
            .map_err(|error| ClusterError::Service(Answer(Box::new(error))))?;
        let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
        let port = ports
            .into_iter()
            .next()
            .ok_or_else(|| ClusterError::NoPort { namespace: namespace.clone(), name: name.clone() })?;
        let port = port.name.unwrap_or_default();
        Ok(format!("/api/v1/namespaces/{namespace}/services/http:{name}:{port}/proxy"))
    }
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

fn context_namespace(kubeconfig: &Kubeconfig, context: Option<&str>) -> Result<String, ClusterError> {
    let named = context.or(kubeconfig.current_context.as_deref()).filter(|name| !name.is_empty());
    let found = kubeconfig.contexts.iter().find(|context| Some(context.name.as_str()) == named);
    match (found, context) {
        (None, Some(missing)) => Err(ClusterError::Context(missing.to_owned())),
        (found, _) => Ok(found
            .and_then(|found| found.context.as_ref()?.namespace.clone())
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or_else(|| "default".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_is_the_contexts() {
        let kubeconfig = Kubeconfig::from_yaml(
            "contexts:\n- {name: a, context: {cluster: c, namespace: shop}}\n- {name: b, context: {cluster: c}}\ncurrent-context: a\n",
        )
        .unwrap();
        assert_eq!(context_namespace(&kubeconfig, None).unwrap(), "shop");
        assert_eq!(context_namespace(&kubeconfig, Some("b")).unwrap(), "default");
        assert!(context_namespace(&kubeconfig, Some("c")).is_err());
    }
}
