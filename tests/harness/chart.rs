//! Our chart, rendered by the real helm, and which files of `deploy/` are its renderings: so that nothing of how the
//! controller is installed is written twice.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{
    command::{self, Output},
    scratch::Scratch,
    tools::Tool,
};

/// A file of `deploy/` that is made from the chart.
#[derive(Clone, Copy, Debug)]
pub struct Rendering {
    /// Below `deploy/`.
    pub file: &'static str,
    /// The folder of the `values.yaml` that it is made with; none for the defaults.
    pub values: Option<&'static str>,
    /// The one template that goes in, or else all.
    pub only: Option<&'static str>,
}

/// All of them.
pub const RENDERINGS: [Rendering; 7] = [
    Rendering { file: "install.yaml", values: None, only: None },
    Rendering { file: "sealing/install.yaml", values: Some("sealing"), only: None },
    Rendering { file: "namespaced/install.yaml", values: Some("namespaced"), only: None },
    Rendering { file: "selected/install.yaml", values: Some("selected"), only: None },
    Rendering { file: "authenticated/rbac.yaml", values: Some("authenticated"), only: Some("authenticated") },
    Rendering { file: "keys-operator/rbac.yaml", values: Some("keys-operator"), only: Some("keys-operator") },
    Rendering { file: "monitoring/prometheusrule.yaml", values: Some("monitoring"), only: Some("prometheusrule") },
];

/// What stands above each.
const HEAD: &str = "# Rendered from deploy/chart: cargo render. The definitions of crds/ go with it.\n";

/// `deploy/`.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("deploy")
}

impl Rendering {
    /// Where it lies.
    pub fn path(&self) -> PathBuf {
        folder().join(self.file)
    }

    /// What it should be.
    pub async fn render(&self) -> Result<String> {
        let mut args = vec!["--set=crds.install=false".to_owned()];
        args.extend(
            self.values.map(|values| format!("--values={}", folder().join(values).join("values.yaml").display())),
        );
        args.extend(self.only.map(|template| format!("--show-only=templates/{template}.yaml")));
        let text = template(&args.iter().map(String::as_str).collect::<Vec<_>>()).await?.success()?;
        let lines = text.lines().filter(|line| !line.starts_with("# Source: ")).map(str::trim_end);
        Ok(lines.fold(HEAD.to_owned(), |text, line| text + line + "\n"))
    }
}

/// `helm template` of our chart into kube-system, as the release `signet`.
pub async fn template(args: &[&str]) -> Result<Output> {
    let chart = folder().join("chart");
    let chart = chart.to_str().context("the workspace's path is not UTF-8")?;
    helm(&[&["template", "signet", chart, "--namespace=kube-system"], args].concat()).await
}

/// The real helm, which sees nothing of this machine's configuration.
pub async fn helm(args: &[&str]) -> Result<Output> {
    let home = Scratch::new("signet-helm-")?;
    let mut helm = command::clean(Tool::Helm.path().await?, home.path());
    command::run(helm.args(args), b"").await
}
