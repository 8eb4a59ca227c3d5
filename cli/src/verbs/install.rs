//! What was typed after `seal install`. Decides nothing.

use std::time::Duration;

use clap::Args;

use crate::{args::Connection, command, manifests::NAMESPACE};

pub const INSTALL: &str = "\
Example:
  seal install | kubectl apply --server-side -f -
  seal install --apply

Prints the manifests of this version of Signet, with a reason beside each right; with --apply it applies them and waits \
until the controller is ready. Out of the box it looks after the SealedSecrets and GitSyncs of all namespaces. The \
Helm chart can more: docs/install.md. A running Sealed Secrets controller goes first: docs/migration.md.

Exit codes: 0 done, 1 not, 2 the command line makes no sense, 5 applied, but not ready in time.";

#[derive(Debug, Args)]
pub struct Install {
    /// Apply the manifests, and wait
    #[arg(long)]
    pub apply: bool,
    /// How long to wait until the controller is ready: 30s, 2m, or seconds
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = command::duration, requires = "apply")]
    pub timeout: Duration,
    /// Namespace of the controller and its keys; it must be there
    #[arg(short, long, default_value = NAMESPACE, value_parser = name)]
    pub namespace: String,
    /// Without Git: no GitSync is followed
    #[arg(long, group = "watch")]
    pub sealing_only: bool,
    /// Look only after the SealedSecrets of these namespaces and its own; they must be there
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = name, group = "watch")]
    pub namespaces: Vec<String>,
    /// Look only after those of the namespaces with these labels; the rights in each are yours to give
    #[arg(long, value_name = "SELECTOR", value_parser = selector, group = "watch")]
    pub namespace_selector: Option<String>,
    /// Image of the controller, instead of this version's
    #[arg(long, value_parser = image)]
    pub image: Option<String>,
    #[command(flatten)]
    pub connection: Connection,
}

// What is put into a manifest's text must not be able to mean anything else there.

fn name(text: &str) -> Result<String, &'static str> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits =
        (1..=63).contains(&text.len()) && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-');
    fits.then(|| text.to_owned()).ok_or("not the name of a namespace")
}

fn selector(text: &str) -> Result<String, &'static str> {
    let fits = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=!,() ".contains(c));
    fits.then(|| text.to_owned()).ok_or("not a selector such as team=blue")
}

fn image(text: &str) -> Result<String, &'static str> {
    let fits = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:@".contains(c));
    (fits && text.starts_with(|c: char| c.is_ascii_alphanumeric()))
        .then(|| text.to_owned())
        .ok_or("not an image such as registry.example.com/signet:1.0")
}
