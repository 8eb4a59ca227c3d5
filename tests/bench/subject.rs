//! Who does the work: our controller and upstream's, started alike and asked alike. Each brings its own flags and
//! rights; everything else is the same for both.

use std::{
    cell::Cell,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use harness::{
    Cluster,
    background::free_port,
    binaries, controller, eventually, metrics,
    process::Process,
    tools::{Tool, UPSTREAM_ACCOUNT},
};

use crate::usage;

/// Nothing happens for so long: what was to be done is done.
const QUIET: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_mins(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Signet,
    Upstream,
}

/// Upstream's limit on its own requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limits {
    Default,
    Lifted,
}

/// A running controller; killed when dropped.
pub struct Subject {
    process: Process,
    metrics_port: u16,
    http_port: u16,
    /// When it was started.
    pub since: Instant,
}

impl Subject {
    /// Starts one; it is not ready on return.
    pub async fn start(kind: Kind, cluster: &Cluster, limits: Limits) -> Result<Self> {
        let (http_port, metrics_port) = (free_port()?, free_port()?);
        let mut command = match kind {
            Kind::Signet => signet(cluster).await?,
            Kind::Upstream => upstream(cluster, limits).await?,
        };
        command
            .arg(format!("--listen-addr=127.0.0.1:{http_port}"))
            .arg(format!("--listen-metrics-addr=127.0.0.1:{metrics_port}"))
            .env("POD_NAMESPACE", "kube-system");
        let since = Instant::now();
        let process = Process::start(cluster.scratch(), &format!("{kind:?}").to_lowercase(), &mut command)?;
        Ok(Self { process, metrics_port, http_port, since })
    }

    /// Processor time so far.
    pub fn cpu(&self) -> Result<Duration> {
        usage::cpu(self.process.id())
    }

    /// Processor time since it had used so much.
    pub fn cpu_since(&self, before: Duration) -> Result<Duration> {
        Ok(self.cpu()?.saturating_sub(before))
    }

    /// The most memory so far, in bytes.
    pub fn peak(&self) -> Result<u64> {
        usage::peak(self.process.id())
    }

    /// RSA operations so far; only ours counts them.
    pub async fn rsa_operations(&self) -> Result<f64> {
        self.metric("sealed_secrets_controller_rsa_operations_total").await
    }

    /// The sum over the series of one metric.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        metrics::sum(&get(self.metrics_port, "/metrics").await?, name)
    }

    /// Waits until it is ready and has nothing to do any more.
    pub async fn idle(&self) -> Result<()> {
        self.until("readiness", async || Ok(get(self.http_port, "/readyz").await.is_ok())).await?;
        let since = Cell::new((Instant::now(), self.cpu()?));
        self.until("nothing to be done", async || {
            let cpu = self.cpu()?;
            // One tick may be a heartbeat.
            if cpu > since.get().1 + Duration::from_millis(10) {
                since.set((Instant::now(), cpu));
            }
            Ok(since.get().0.elapsed() > QUIET)
        })
        .await
    }

    /// Ends it as Kubernetes would.
    pub async fn end(self) -> Result<()> {
        self.process.terminate(Duration::from_secs(30)).await.map(drop)
    }

    /// What runs no more is not waited for.
    async fn until(&self, what: &str, look: impl AsyncFn() -> Result<bool>) -> Result<()> {
        eventually(what, PATIENCE, || async {
            let running = self.process.ensure_running();
            let reached = running.is_err() || look().await?;
            Ok(reached.then_some(running))
        })
        .await?
    }
}

/// As `deploy/` runs it.
async fn signet(cluster: &Cluster) -> Result<Command> {
    let kubeconfig = cluster.kubeconfig_for_service_account("kube-system", "sealed-secrets-controller").await?;
    let (flags, variables) = controller::deployed(cluster, "kube-system", "sealed-secrets-controller").await?;
    let mut command = Command::new(binaries::signet_controller().await?);
    command
        .env_clear()
        .envs(variables)
        .args(flags)
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--git-cache={}", cluster.scratch().folder("git")?.display()))
        .arg(format!("--kustomize={}", Tool::Kustomize.path().await?.display()));
    Ok(command)
}

/// As its manifests run it, but with every right: ours has only those of `deploy/`.
async fn upstream(cluster: &Cluster, limits: Limits) -> Result<Command> {
    const ACCOUNT: &str = r#"{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "upstream", "namespace": "kube-system"}}
---
{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "upstream"},
 "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
 "subjects": [{"kind": "ServiceAccount", "name": "upstream", "namespace": "kube-system"}]}"#;
    cluster.apply(ACCOUNT).await?;
    let scratch = cluster.scratch();
    let account = scratch.folder("upstream-account")?;
    scratch.file("upstream-account/token", cluster.service_account_token("kube-system", "upstream").await?)?;
    std::fs::copy(scratch.path().join("ca.crt"), account.join("ca.crt"))?;
    let (host, port) = cluster
        .server()
        .strip_prefix("https://")
        .and_then(|server| server.rsplit_once(':'))
        .context("the API server has no address")?;
    let mut command = Command::new(Tool::UpstreamController.path().await?);
    command
        .env_clear()
        .env("KUBERNETES_SERVICE_HOST", host)
        .env("KUBERNETES_SERVICE_PORT", port)
        .env(UPSTREAM_ACCOUNT, account)
        .arg("--key-renew-period=0");
    if limits == Limits::Lifted {
        command.arg("--kubeclient-qps=-1");
    }
    Ok(command)
}

/// The body of a 2xx answer.
async fn get(port: u16, path: &str) -> Result<String> {
    harness::install_crypto();
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
    Ok(client.get(format!("http://127.0.0.1:{port}{path}")).send().await?.error_for_status()?.text().await?)
}
