//! `seal install`: prints the manifests of this version, or applies them and waits until the controller is ready.

use std::time::Duration;

use crds::yaml;
use tokio::time::{Instant, sleep};

use crate::{
    cluster::{self, Controller, Unready},
    command,
    exit::{Error, Exit},
    io::Io,
    manifests::{Watch, manifests},
    output,
    verbs::install::Install,
};

const PAUSE: Duration = Duration::from_millis(500);
const NAME: &str = "sealed-secrets-controller";

/// What went wrong, besides the cluster's own refusals.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("the controller is not ready after {} s: {}, of the image {}", after.as_secs(), unready.why, unready.image)]
    Late { after: Duration, namespace: String, unready: Unready },
}

impl InstallError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        let Self::Late { namespace, .. } = self;
        format!(
            "It may still become so: kubectl -n {namespace} describe pods -l app.kubernetes.io/name=signet says what is \
             in the way. An image elsewhere is named with --image"
        )
    }
}

pub async fn run(command: Install, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Install { apply, timeout, namespace, sealing_only, namespaces, namespace_selector, image, connection } =
        command;
    let watch = match namespace_selector {
        Some(selector) => Watch::Selected(selector),
        None if !namespaces.is_empty() => Watch::Listed(namespaces),
        None if sealing_only => Watch::Sealing,
        None => Watch::All,
    };
    let text = manifests(&watch, &namespace, image.as_deref());
    if !apply {
        output::write(text.as_bytes(), None, io)?;
        return Ok(Exit::Ok);
    }
    let cluster = cluster::connect(&command::access(connection)?).await?;
    // Each at once: whatever fails later, these are done.
    for object in yaml::documents(&text).into_iter().filter_map(|document| document.value.ok()) {
        let what = cluster.apply(&object).await?;
        output::write(format!("applied {what}\n").as_bytes(), None, io)?;
    }
    let controller = Controller { namespace, name: NAME.to_owned() };
    let deadline = Instant::now() + timeout;
    let mut is_told = false;
    while let Some(unready) = cluster.not_ready(&controller).await? {
        let Controller { namespace, name } = &controller;
        if Instant::now() >= deadline {
            return Err(InstallError::Late { after: timeout, namespace: namespace.clone(), unready }.into());
        }
        if !is_told {
            let (limit, image) = (timeout.as_secs(), unready.image);
            let waits =
                format!("waiting up to {limit} s for the Deployment {namespace}/{name}, of the image {image}\n");
            output::write(waits.as_bytes(), None, io)?;
            is_told = true;
        }
        sleep(PAUSE).await;
    }
    output::write(b"the controller is ready\n", None, io)?;
    Ok(Exit::Ok)
}
