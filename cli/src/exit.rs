//! How a run ends: errors to words, a remedy and an exit code, the same codes as kubeseal's. Decides nothing else.

use std::{borrow::Cow, error::Error as StdError, io, process::ExitCode};

use crate::{
    certificate::CertificateError, cluster::ClusterError, command::CommandError, commands, io::Io, output::OutputError,
};

/// The end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Not done; stderr says why.
    Failed = 1,
    /// The command line makes no sense; for `seal diff` any trouble, as diff(1) has it.
    Usage = 2,
    /// Not all could be read, so that nobody knows what is in the rest.
    Unreadable = 3,
    /// Refused, because of what would come of it.
    Refused = 4,
    /// Asked for, but not seen to be done in time.
    Late = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Whatever can end a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    Input(#[from] commands::input::InputError),
    #[error(transparent)]
    Merge(#[from] commands::merge_into::MergeError),
    #[error(transparent)]
    NoKeys(commands::input::Refused),
    #[error(transparent)]
    Keyring(#[from] commands::keyring::KeyringError),
    #[error(transparent)]
    Raw(#[from] commands::raw::RawError),
    #[error(transparent)]
    ReEncrypt(#[from] commands::re_encrypt::ReEncryptError),
    #[error(transparent)]
    Reseal(#[from] commands::reseal::ResealCommandError),
    #[error(transparent)]
    Backup(#[from] commands::keys::backup::BackupCommandError),
    #[error(transparent)]
    Restore(#[from] commands::keys::restore::RestoreError),
    #[error(transparent)]
    File(#[from] commands::sealed_file::FileError),
    #[error(transparent)]
    Item(#[from] commands::set::ItemError),
    #[error(transparent)]
    Edit(#[from] commands::edit::EditError),
    #[error(transparent)]
    Keys(#[from] commands::keys::KeysError),
    #[error(transparent)]
    Render(#[from] commands::sync::render::RenderError),
    #[error(transparent)]
    SyncDiff(#[from] commands::sync::diff::DiffError),
    #[error(transparent)]
    Sync(#[from] commands::sync::SyncError),
    #[error(transparent)]
    Install(#[from] commands::install::InstallError),
    #[error("cannot start")]
    Start(#[source] io::Error),
}

impl Error {
    /// What the user can do about it.
    fn remedy(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Install(error) => Some(error.remedy().into()),
            Self::Cluster(ClusterError::NoNamespace { namespace, .. }) => {
                Some(format!("Make it, then the same again: kubectl create namespace {namespace}").into())
            }
            _ => self.advice().map(Cow::Borrowed),
        }
    }

    /// That of it which is the same each time.
    fn advice(&self) -> Option<&str> {
        let cluster = match self {
            Self::Cluster(error) | Self::Certificate(CertificateError::Cluster(error)) => error,
            Self::Keys(error) => return error.remedy(),
            Self::Sync(error) => return error.remedy(),
            Self::Render(error) => return error.remedy(),
            Self::SyncDiff(error) => return error.remedy(),
            Self::NoKeys(_) => return Some("Name the private keys with --recovery-private-key"),
            Self::Certificate(CertificateError::Expired(_)) => {
                return Some("Fetch the controller's newest one with --fetch-cert");
            }
            _ => return None,
        };
        match cluster {
            ClusterError::NoConfiguration
            | ClusterError::Open { .. }
            | ClusterError::Malformed { .. }
            | ClusterError::Configuration(_) => Some(match self {
                Self::Certificate(_) => "Name a kubeconfig with --kubeconfig; sealing needs none with --cert",
                _ => "Name a kubeconfig with --kubeconfig",
            }),
            ClusterError::Sealed { why, .. } => why.as_deref(),
            ClusterError::Cluster(_) => Some("kubectl config get-clusters lists those that do"),
            ClusterError::User(_) => Some("kubectl config get-users lists those that do"),
            ClusterError::Context(_) => Some("kubectl config get-contexts lists those that do"),
            ClusterError::Service(_) | ClusterError::NoPort { .. } => Some(
                "Please, use the flag --controller-name and --controller-namespace to set up the name and namespace of the sealed secrets controller",
            ),
            ClusterError::Keys { source, .. }
            | ClusterError::Origin(source)
            | ClusterError::MakeKey { source, .. }
            | ClusterError::Mark { source, .. }
            | ClusterError::SealedSecrets(source) => {
                source.is_forbidden().then_some("deploy/keys-operator holds the rights that `seal keys` needs")
            }
            ClusterError::NoGitSync { .. } => Some("seal sync list -A shows those there are"),
            ClusterError::GitSync { source, .. }
            | ClusterError::GitSyncs(source)
            | ClusterError::ChangeGitSync { source, .. }
            | ClusterError::Events { source, .. } => {
                source.is_forbidden().then_some("deploy/sync-operator holds the rights that `seal sync` needs")
            }
            ClusterError::Try { source, .. } => source.is_forbidden().then_some(
                "It is only tried, but the API server wants the right to do it: patch, and create for what is new",
            ),
            ClusterError::Apply { source, .. } if source.is_forbidden() => {
                Some("Installing needs the rights of an administrator of the cluster")
            }
            ClusterError::Apply { source, .. } if source.to_string().contains("immutable") => {
                Some("Another controller's is in the way: docs/migration.md says how to take over")
            }
            ClusterError::Apply { .. }
            | ClusterError::NoNamespace { .. }
            | ClusterError::Look { .. }
            | ClusterError::Undefined(_)
            | ClusterError::Connect(_)
            | ClusterError::Kinds(_)
            | ClusterError::Object { .. }
            | ClusterError::Certificate(_)
            | ClusterError::SealedSecret(_)
            | ClusterError::Secret(_)
            | ClusterError::Validate(_)
            | ClusterError::ReEncrypt(_)
            | ClusterError::Name(_) => None,
        }
    }
}

/// Tells what a parser of flags has to tell: an error, or the help.
pub fn usage(error: &clap::Error, io: &mut Io<'_>) -> Exit {
    let text = error.render();
    if !error.use_stderr() {
        return match io.stdout.write_all(text.to_string().as_bytes()) {
            Ok(()) => Exit::Ok,
            Err(_) => Exit::Failed,
        };
    }
    let text = if io.colour { text.ansi().to_string() } else { text.to_string() };
    // Without stderr there is nobody to tell.
    let _ = io.stderr.write_all(text.as_bytes());
    Exit::Usage
}

/// Tells why a run failed: the error with all its causes, and what to do.
pub fn failure(error: &Error, io: &mut Io<'_>) -> Exit {
    io.error(&chain(error));
    if let Some(remedy) = error.remedy() {
        io.hint(&remedy);
    }
    match error {
        Error::Keys(error) => error.exit(),
        Error::Sync(error) => error.exit(),
        Error::Install(_) => Exit::Late,
        _ => Exit::Failed,
    }
}

/// An error and its causes, as Go writes them; a cause that its effect already told is not told again.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = said(error);
    let mut next = error.source();
    while let Some(cause) = next {
        let words = said(cause);
        if !text.ends_with(&words) && !text.ends_with(&cause.to_string()) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

/// Errors of the operating system in Go's words, which tools look for: `no such file or directory`.
fn said(error: &(dyn StdError + 'static)) -> String {
    let text = error.to_string();
    let code = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    match code.and_then(|code| text.strip_suffix(&format!(" (os error {code})"))) {
        Some(words) => words.chars().take(1).flat_map(char::to_lowercase).chain(words.chars().skip(1)).collect(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::ReadError;

    #[test]
    fn causes_follow_each_other_in_gos_words() {
        let error = Error::Certificate(CertificateError::Read(ReadError::Open {
            path: "cert.pem".into(),
            source: io::Error::from_raw_os_error(2),
        }));
        assert_eq!(chain(&error), "open cert.pem: no such file or directory");
    }
}
