//! Kubeconfig files, written and read: the only way in which anything learns of a cluster. It must not look at
//! KUBECONFIG, at ~/.kube or at proxy variables, or a test could reach a cluster that somebody needs.

use std::path::Path;

use anyhow::{Context as _, Result};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::certificates::Pair;

/// Proof of who asks.
pub enum Credentials<'a> {
    Certificate(&'a Pair),
    Token(&'a str),
}

/// A kubeconfig's text; JSON, which is YAML too.
pub fn render(server: &str, authority: &str, credentials: &Credentials<'_>, namespace: &str) -> String {
    let user: Value = match credentials {
        Credentials::Certificate(pair) => json!({
            "client-certificate-data": BASE64_STANDARD.encode(&pair.certificate),
            "client-key-data": BASE64_STANDARD.encode(&pair.key),
        }),
        Credentials::Token(token) => json!({ "token": token }),
    };
    let cluster = json!({ "server": server, "certificate-authority-data": BASE64_STANDARD.encode(authority) });
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test", "namespace": namespace } }],
        "clusters": [{ "name": "test", "cluster": cluster }],
        "users": [{ "name": "test", "user": user }],
    })
    .to_string()
}

/// A client for the runtime that calls this: a client dies with the runtime that it was made in.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    crate::install_crypto();
    let read = Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("failed to read the kubeconfig {}", kubeconfig.display()))?;
    let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    config.proxy_url = None;
    Ok(Client::try_from(config)?)
}
