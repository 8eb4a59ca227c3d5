//! Work on a cluster that may not go on for ever: a benchmark sends thousands of requests, and one that is never
//! answered would hold it for hours. It must not judge what the work found.

use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::{Cluster, process::tail};

/// How often the servers are looked at, which costs a system call each.
const LOOK: Duration = Duration::from_millis(500);

impl Cluster {
    /// Does `work` as long as the API server and etcd run, and no longer than `limit`. The error names the phase and has the
    /// end of the log of the one that ended, or of the API server's.
    pub async fn phase<T>(&self, name: &str, limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
        let ended = async {
            while self.ensure_running().await.is_ok() {
                tokio::time::sleep(LOOK).await;
            }
        };
        let done = tokio::select! {
            done = tokio::time::timeout(limit, work) => {
                done.unwrap_or_else(|_| Err(anyhow!("not done after {limit:?}")))
            }
            () = ended => Err(anyhow!("a server ended meanwhile")),
        };
        match done {
            Ok(done) => Ok(done),
            Err(error) => {
                let server = match self.ensure_running().await {
                    Ok(()) => format!("the log of kube-apiserver ends with\n{}", tail(&self.log("kube-apiserver")?)),
                    Err(ended) => format!("{ended:#}"),
                };
                Err(error.context(server).context(format!("failed while this was done: {name}")))
            }
        }
    }
}
