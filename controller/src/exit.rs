//! How the controller ends: for each reason a code of its own, so that who restarts it, or reads why it does not start,
//! need not read the log. Pure.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use http::Uri;
use kube::config::{InClusterError, KubeconfigError};
use strum::IntoEnumIterator as _;

use crate::context::{chain, line};

/// The end of the process. The numbers are promised: see docs/install.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumIter)]
pub enum Exit {
    /// It was told to.
    Told = 0,
    /// A fault, or none of the others.
    Failed = 1,
    /// Flags or variables.
    Usage = 2,
    /// No kubeconfig, no Pod.
    Configuration = 3,
    /// No API server.
    Unreachable = 4,
    /// No definitions.
    Undefined = 5,
    /// No rights.
    Forbidden = 6,
    /// No place to listen.
    Address = 7,
}

/// Why the controller does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// There is a kubeconfig, but none that can be used.
    #[error("cannot use the kubeconfig {}: {why}; correct it, or name another with --kubeconfig", path.display())]
    Kubeconfig {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// There is none, and no Pod around.
    #[error("not running in a Pod; name a kubeconfig with --kubeconfig")]
    NoPod(#[source] InClusterError),
    /// The configuration does not make a connection.
    #[error("cannot make a client for the API server; see --kubeconfig")]
    Connection(#[source] kube::Error),
    /// Others listen there.
    #[error("cannot listen on {address}; choose another with --listen-addr or --listen-metrics-addr")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The first request came to nothing.
    #[error("cannot list {plural}: {why}; {}", remedy(*code))]
    List {
        /// Of what.
        plural: String,
        /// The API server's code, if it said anything.
        code: Option<u16>,
        /// Why not.
        why: String,
    },
}

fn remedy(code: Option<u16>) -> &'static str {
    match code {
        Some(400) => "see --label-selector and --namespace-selector",
        Some(404) => {
            "the cluster does not know them: apply crds/crds.yaml first, or install with `seal install --apply`"
        }
        Some(401) => "the API server does not know who asks: see the ServiceAccount, or --kubeconfig",
        Some(403) => {
            "the account lacks the right: apply deploy/install.yaml, or the manifests of the mode that is meant"
        }
        _ => "see whether the API server is up and can be reached from here, over HTTPS_PROXY if that is set",
    }
}

impl StartError {
    /// A kubeconfig that is none. Nothing of it is quoted: credentials stand in it.
    pub fn kubeconfig(path: &Path, error: &KubeconfigError) -> Self {
        let why = match error {
            KubeconfigError::Parse(_) => {
                line(error).map_or_else(|| "it is none".to_owned(), |line| format!("it is none (line {line})"))
            }
            KubeconfigError::ReadConfig(error, _) => error.to_string(),
            error => chain(error),
        };
        Self::Kubeconfig { path: path.to_owned(), why }
    }

    /// A list that did not come from the API server of this address.
    pub fn list(plural: &str, server: &Uri, error: &kube::Error) -> Self {
        let (code, why) = match error {
            kube::Error::Api(status) => (Some(status.code), status.message.clone()),
            // Before its host there may be a password.
            error => {
                let (scheme, place) =
                    (server.scheme_str().unwrap_or("http"), server.authority().map_or("", |it| it.as_str()));
                let host = place.rsplit('@').next().unwrap_or_default();
                (None, format!("{scheme}://{host}: {}", chain(error)))
            }
        };
        Self::List { plural: plural.to_owned(), code, why }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Kubeconfig { .. } | Self::NoPod(_) | Self::Connection(_) => Exit::Configuration,
            Self::Listen { .. } => Exit::Address,
            Self::List { code, .. } => match code {
                Some(400) => Exit::Usage,
                Some(401 | 403) => Exit::Forbidden,
                Some(404) => Exit::Undefined,
                _ => Exit::Unreachable,
            },
        }
    }
}

impl Exit {
    /// What an error comes to.
    pub fn of(error: &anyhow::Error) -> Self {
        error.downcast_ref::<StartError>().map_or(Self::Failed, StartError::exit)
    }

    /// What it means, and what to do about it.
    pub fn meaning(self) -> (&'static str, &'static str) {
        match self {
            Self::Told => ("it was told to end (SIGTERM, SIGINT), or to print its help or version", ""),
            Self::Failed => {
                ("a part of it failed while it ran", "the last line of the log says which; it may be restarted")
            }
            Self::Usage => (
                "a flag or variable is wrong, or two do not go together",
                "the message names it; `--help` has them all",
            ),
            Self::Configuration => (
                "no kubeconfig that can be used, and no Pod around it",
                "`--kubeconfig`, or the Pod's ServiceAccount token",
            ),
            Self::Unreachable => {
                ("the API server cannot be reached", "it may be restarted; else see address, proxy and certificates")
            }
            Self::Undefined => (
                "SealedSecrets or GitSyncs are not defined in the cluster",
                "apply `crds/crds.yaml`, or `seal install --apply`",
            ),
            Self::Forbidden => (
                "it has no right to list them, or the API server does not know it",
                "apply the manifests of its mode: see above",
            ),
            Self::Address => {
                ("an address is taken, or not of this machine", "`--listen-addr`, `--listen-metrics-addr`")
            }
        }
    }

    /// All of them, for docs/install.md.
    pub fn table() -> String {
        let rows = Self::iter().map(|exit| {
            let (meaning, remedy) = exit.meaning();
            format!("| {} | {meaning} | {remedy} |\n", exit as u8)
        });
        rows.fold("| code | meaning | what to do |\n|---|---|---|\n".to_owned(), |table, row| table + &row)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn the_table_for_users_is_this_one() {
        let guide = include_str!("../../docs/install.md");
        assert!(guide.contains(&Exit::table()), "docs/install.md must hold this:\n{}", Exit::table());
    }

    #[test]
    fn each_refusal_has_its_code_and_its_remedy() {
        let list = |code| {
            let status = Status { code, message: "no".to_owned(), ..Status::default() };
            StartError::list("gitsyncs", &Uri::default(), &kube::Error::Api(status.boxed()))
        };
        for (code, exit, remedy) in [
            (400, Exit::Usage, "--label-selector"),
            (401, Exit::Forbidden, "ServiceAccount"),
            (403, Exit::Forbidden, "deploy/install.yaml"),
            (404, Exit::Undefined, "crds/crds.yaml"),
            (503, Exit::Unreachable, "can be reached"),
        ] {
            let error = list(code);
            assert!(error.to_string().starts_with("cannot list gitsyncs: no; ") && error.to_string().contains(remedy));
            assert_eq!(Exit::of(&anyhow::Error::from(error).context("starting")), exit, "{code}");
        }
        let away = kube::Error::Service(io::Error::from(io::ErrorKind::ConnectionRefused).into());
        let away = StartError::list("gitsyncs", &Uri::from_static("https://user:pass@10.0.0.1:6443/prefix"), &away);
        let told = "cannot list gitsyncs: https://10.0.0.1:6443: connection refused; see whether the API server is up";
        assert!(away.to_string().starts_with(told), "{away}");
        assert_eq!(away.exit(), Exit::Unreachable);
        assert_eq!(Exit::of(&anyhow::anyhow!("a part of the controller panicked")), Exit::Failed);
    }
}
