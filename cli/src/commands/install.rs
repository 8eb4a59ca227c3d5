//! `seal install`: prints the manifests of this version, or applies them and waits until the controller is ready.

use std::time::Duration;

use crds::yaml;
use tokio::time::{Instant, sleep};

use crate::{
    cluster::{self, Controller},
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
    #[error("the controller is not ready after {} s: {why}", after.as_secs())]
    Late { after: Duration, why: String },
}

impl InstallError {
    /// What to do about it.
    pub fn remedy(&self) -> &str {
        match self {
            Self::Late { .. } => {
                "It may still become so: kubectl describe pods -A -l app.kubernetes.io/name=signet says more"
            }
        }
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
    let mut applied = Vec::new();
    for object in yaml::documents(&text).into_iter().filter_map(|document| document.value.ok()) {
        applied.push(format!("applied {}\n", cluster.apply(&object).await?));
    }
    output::write(applied.concat().as_bytes(), None, io)?;
    let controller = Controller { namespace, name: NAME.to_owned() };
    let deadline = Instant::now() + timeout;
    while let Some(why) = cluster.not_ready(&controller).await? {
        if Instant::now() >= deadline {
            return Err(InstallError::Late { after: timeout, why }.into());
        }
        sleep(PAUSE).await;
    }
    output::write(b"the controller is ready\n", None, io)?;
    Ok(Exit::Ok)
}
