//! The real kubectl, as a user has it, on a cluster of ours. It sees no configuration but the kubeconfig that it is
//! given, and it must stay the only way in which manifests of `deploy/` reach a cluster: that way is what we document.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    Cluster, chart,
    command::{self, Output},
    tools::Tool,
    wait::eventually,
};

/// The API server learns of RBAC by watching, within a second on a machine that does nothing else.
const RBAC: Duration = Duration::from_mins(2);

/// The custom resources of `crds/`.
const OURS: [&str; 2] = ["sealedsecrets.bitnami.com", "gitsyncs.signet.dev"];

impl Cluster {
    /// Runs the real kubectl as administrator; its stdout.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_as(self.kubeconfig(), args, "").await?.success()
    }

    /// Runs the real kubectl as somebody, with `stdin`.
    pub async fn kubectl_as(&self, kubeconfig: &Path, args: &[&str], stdin: &str) -> Result<Output> {
        let home = self.scratch().folder("kubectl")?;
        let mut kubectl = command::clean(Tool::Kubectl.path().await?, &home);
        command::run(kubectl.arg("--kubeconfig").arg(kubeconfig).args(args), stdin.as_bytes()).await
    }

    /// `kubectl apply` of a manifest's text, as administrator.
    pub async fn apply(&self, manifest: &str) -> Result<String> {
        self.kubectl_as(self.kubeconfig(), &["apply", "--server-side", "--force-conflicts", "--filename=-"], manifest)
            .await?
            .success()
    }

    /// Runs the real helm as administrator; its stdout.
    pub async fn helm(&self, args: &[&str]) -> Result<String> {
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig().display());
        chart::helm(&[args, &[&kubeconfig]].concat()).await?.success()
    }

    /// Applies `deploy/` as a user would, and waits until the custom resources are served.
    pub async fn deploy(&self) -> Result<()> {
        self.deploy_from("deploy").await
    }

    /// The same with another folder of the workspace.
    pub async fn deploy_from(&self, folder: &str) -> Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(folder);
        let folder = folder.to_str().context("the workspace's path is not UTF-8")?;
        self.kubectl(&["apply", "--server-side", "--kustomize", folder]).await?;
        self.established(&OURS).await
    }

    /// Applies our chart, rendered with these flags of helm, and waits likewise.
    pub async fn deploy_chart(&self, args: &[&str]) -> Result<()> {
        self.apply(&chart::template(args).await?.success()?).await?;
        self.established(&OURS).await
    }

    /// Waits until these custom resources are served. By name: tests beside this one delete theirs.
    pub async fn established(&self, names: &[&str]) -> Result<()> {
        let wait = ["wait", "--for=condition=established", "--timeout=5m", "customresourcedefinitions"];
        self.kubectl(&[&wait, names].concat()).await.map(drop)
    }

    /// Waits until rights that were just given count: until a ServiceAccount, such as `kube-system:operator`, may do this
    /// in a place, such as `--all-namespaces`.
    pub async fn may(&self, account: &str, verb: &str, resource: &str, place: &str) -> Result<()> {
        let who = format!("--as=system:serviceaccount:{account}");
        eventually(&format!("{account} to be let {verb} {resource} {place}"), RBAC, || async {
            // "no" is a failure.
            self.kubectl(&["auth", "can-i", verb, resource, &who, place]).await.map(Some)
        })
        .await
        .map(drop)
    }
}
