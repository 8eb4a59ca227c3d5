//! One Kubernetes cluster of our own: a real API server with its store, ready in seconds, gone without a trace. It must
//! never touch another cluster: every client, and kubectl, is given this cluster's kubeconfig and nothing else.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use axum::http::Request;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Namespace, ServiceAccount},
    rbac::v1::ClusterRole,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::sync::{Mutex, OnceCell};

use crate::{
    control_plane::{self, ControlPlane, Server},
    kubeconfig::{self, Credentials, render},
    process::Signal,
    proxy::Proxy,
    scratch::Scratch,
    wait::eventually,
};

/// Three seconds are usual; a machine that builds beside it needs more.
const START: Duration = Duration::from_mins(5);

/// Longer than any test, as nothing renews the token.
const TOKEN_SECONDS: i64 = 24 * 60 * 60;

/// What a cluster has besides its API server.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClusterOptions {
    /// Garbage collection, namespace deletion, ServiceAccounts, aggregated roles and the controllers of workloads.
    pub controller_manager: bool,
    /// A log of what the accounts of kube-system ask for: see [`Cluster::audited`].
    pub audit: bool,
}

/// A running cluster; stopped and removed when dropped, or when this process is gone.
pub struct Cluster {
    control_plane: ControlPlane,
    pub(crate) proxy: Proxy,
    pods: AtomicU16,
    /// A Service leads to one at a time, whoever publishes.
    pub(crate) publishing: Mutex<()>,
    scratch: Arc<Scratch>,
}

/// The cluster that all tests of this process share; each takes a [`Cluster::namespace`] of its own in it.
pub async fn shared() -> Result<&'static Cluster> {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    SHARED.get_or_try_init(Cluster::start).await
}

/// The same with kube-controller-manager: for what needs garbage collection or namespaces that go away.
pub async fn shared_with_controllers() -> Result<&'static Cluster> {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    SHARED
        .get_or_try_init(|| {
            Cluster::start_with(ClusterOptions { controller_manager: true, ..ClusterOptions::default() })
        })
        .await
}

impl Cluster {
    /// An API server and its store, ready.
    pub async fn start() -> Result<Self> {
        Self::start_with(ClusterOptions::default()).await
    }

    /// A cluster with more or less in it, ready.
    pub async fn start_with(options: ClusterOptions) -> Result<Self> {
        let started = Self::try_start(options).await;
        match started {
            // Another program took the port between our look and the server's start: it will not do so twice.
            Err(error) if format!("{error:#}").contains("address already in use") => Self::try_start(options).await,
            started => started,
        }
    }

    async fn try_start(options: ClusterOptions) -> Result<Self> {
        let scratch = Arc::new(Scratch::new("signet-cluster-")?);
        let egress = scratch.path().join("egress.sock");
        let proxy = Proxy::start(&egress)?;
        let control_plane = ControlPlane::start(&scratch, &egress, options).await?;
        let mut cluster = Self { control_plane, proxy, pods: AtomicU16::new(1), publishing: Mutex::default(), scratch };
        cluster.ready().await?;
        if options.controller_manager {
            cluster.control_plane.start_controller_manager(&cluster.scratch).await?;
            cluster.ready().await?;
        }
        Ok(cluster)
    }

    async fn ready(&self) -> Result<()> {
        let client = self.admin().await?;
        let ready = async || -> Result<Option<()>> {
            // While it is not ready the answer is a list, in which single checks are "ok".
            if client.request_text(Request::get("/readyz").body(Vec::new())?).await?.trim() != "ok" {
                return Ok(None);
            }
            Api::<ClusterRole>::all(client.clone()).get("cluster-admin").await?;
            Api::<Namespace>::all(client.clone()).get("kube-system").await?;
            Api::<Namespace>::all(client.clone()).get("default").await?;
            if self.control_plane.has_controller_manager() {
                Api::<ServiceAccount>::namespaced(client.clone(), "default").get("default").await?;
            }
            Ok(Some(()))
        };
        eventually("the API server to be ready", START, || async {
            match self.ensure_running().await {
                Ok(()) => Ok(ready().await?.map(Ok)),
                Err(ended) => Ok(Some(Err(ended))),
            }
        })
        .await?
    }

    /// The administrator's client, for the runtime of the caller: cheap, so make one per test.
    pub async fn admin(&self) -> Result<Client> {
        self.client_for(self.kubeconfig()).await
    }

    /// A client that knows nothing but that file; for the runtime of the caller.
    pub async fn client_for(&self, kubeconfig: &Path) -> Result<Client> {
        kubeconfig::client(kubeconfig).await
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.control_plane.kubeconfig
    }

    /// A kubeconfig by which one is the ServiceAccount, which must exist, and may what RBAC lets it.
    pub async fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        self.kubeconfig_through(self.server(), namespace, name).await
    }

    /// The same over another address of the API server.
    pub async fn kubeconfig_through(&self, server: &str, namespace: &str, name: &str) -> Result<PathBuf> {
        // Of its own: whoever reads another may do so now.
        static WRITTEN: AtomicUsize = AtomicUsize::new(1);
        let token = self.service_account_token(namespace, name).await?;
        let text = render(server, &self.control_plane.authority, &Credentials::Token(&token), namespace);
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        self.scratch.file(&format!("{namespace}.{name}.{number}.kubeconfig"), text)
    }

    /// The ServiceAccount's token, as a Pod finds it in a file; `ca.crt` in [`Self::scratch`] goes with it.
    pub async fn service_account_token(&self, namespace: &str, name: &str) -> Result<String> {
        let spec = TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = Api::<ServiceAccount>::namespaced(self.admin().await?, namespace)
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("failed to get a token for the ServiceAccount {namespace}/{name}"))?;
        Ok(answer.status.context("the API server gave no token")?.token)
    }

    /// Makes a namespace that no other test uses; its name.
    pub async fn namespace(&self, prefix: &str) -> Result<String> {
        let metadata = ObjectMeta { generate_name: Some(format!("{prefix}-")), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        let made = Api::<Namespace>::all(self.admin().await?).create(&PostParams::default(), &namespace).await?;
        made.metadata.name.context("the API server made a namespace without a name")
    }

    /// Ends the API server without warning and has it back, with its data, on the same address.
    pub async fn restart_api_server(&self) -> Result<()> {
        self.stop(Server::ApiServer).await?;
        self.resume(Server::ApiServer).await
    }

    /// Ends one of its servers without warning.
    pub async fn stop(&self, server: Server) -> Result<()> {
        self.control_plane.stop(server).await
    }

    /// Any other signal, such as `Signal::STOP` for one that takes every connection and answers none.
    pub async fn signal(&self, server: Server, signal: Signal) -> Result<()> {
        self.control_plane.signal(server, signal).await
    }

    /// Has it back, with its data, on the same address, and waits until all of it is ready.
    pub async fn resume(&self, server: Server) -> Result<()> {
        self.resume_all(&[server]).await
    }

    /// The same with several, of which none is ready before all are there.
    pub async fn resume_all(&self, servers: &[Server]) -> Result<()> {
        for server in servers {
            self.control_plane.resume(*server).await?;
        }
        self.ready().await
    }

    /// The address of the API server.
    pub fn server(&self) -> &str {
        &self.control_plane.server
    }

    /// The process id of the API server.
    pub async fn api_server_id(&self) -> u32 {
        self.control_plane.api_server_id().await
    }

    /// An error with the end of its log when one of its servers runs no more.
    pub async fn ensure_running(&self) -> Result<()> {
        self.control_plane.ensure_running().await
    }

    /// The log of `etcd`, `kube-apiserver` or `kube-controller-manager`.
    pub fn log(&self, program: &str) -> Result<String> {
        control_plane::log(&self.scratch, program)
    }

    /// Every request of an account of kube-system, as the API server's audit log tells it: with what was sent and
    /// answered, but for Secrets.
    pub fn audited(&self) -> Result<Vec<serde_json::Value>> {
        let path = self.scratch.path().join(control_plane::AUDIT_LOG);
        let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
        // The last line may be half written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(whole.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    }

    /// The folder that is removed with the cluster, for what belongs to it.
    pub fn scratch(&self) -> &Arc<Scratch> {
        &self.scratch
    }

    /// A pod address that no other pod has, from the range for benchmarks, which is nobody's network.
    pub(crate) fn next_pod_ip(&self) -> Result<Ipv4Addr> {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        ensure!(number != 0, "no pod addresses left");
        let [high, low] = number.to_be_bytes();
        Ok(Ipv4Addr::new(198, 18, high, low))
    }
}
