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
    /// Only what stands below `spec` of the one object, as other programs read it.
    pub is_spec: bool,
}

/// All of them.
pub const RENDERINGS: [Rendering; 9] = [
    Rendering { file: "install.yaml", values: None, only: None, is_spec: false },
    Rendering { file: "sealing/install.yaml", values: Some("sealing"), only: None, is_spec: false },
    Rendering { file: "namespaced/install.yaml", values: Some("namespaced"), only: None, is_spec: false },
    Rendering { file: "selected/install.yaml", values: Some("selected"), only: None, is_spec: false },
    single("authenticated/rbac.yaml", "authenticated", "authenticated"),
    single("keys-operator/rbac.yaml", "keys-operator", "keys-operator"),
    single("sync-operator/rbac.yaml", "sync-operator", "sync-operator"),
    single("monitoring/prometheusrule.yaml", "monitoring", "prometheusrule"),
    Rendering { is_spec: true, ..single("monitoring/rules.yaml", "monitoring", "prometheusrule") },
];

/// One template.
const fn single(file: &'static str, values: &'static str, template: &'static str) -> Rendering {
    Rendering { file, values: Some(values), only: Some(template), is_spec: false }
}

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
        if self.is_spec {
            let below = lines.skip_while(|line| *line != "spec:").skip(1);
            return Ok(below.fold(HEAD.to_owned(), |text, line| text + line.strip_prefix("  ").unwrap_or(line) + "\n"));
        }
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
