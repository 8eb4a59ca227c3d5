//! `seal sync`: what an operator asks of what follows Git, one verb in each file. It writes nothing but annotations and
//! `spec.suspend` of a GitSync.

pub mod approve;
pub mod change;
pub mod diff;
pub mod list;
pub mod render;
pub mod show;
pub mod status;
pub mod tree;
pub mod variables;
pub mod wait;

use crds::GitSync;
use jiff::Timestamp;
use kube::{Resource as _, core::DeserializeGuard};

use crate::{
    cluster::{self, Cluster, ClusterError},
    command,
    exit::{self, Error, Exit},
    idle::Idle,
    io::Io,
    verbs::sync::{At, Lookout, Names, Sync},
    verdict::State,
};

/// Does what a verb of the group says.
pub async fn run(verb: Sync, io: &mut Io<'_>) -> Result<Exit, Error> {
    match verb {
        Sync::List(command) => list::run(command, io).await,
        Sync::Status(command) => status::run(command, io).await,
        Sync::Diff(command) => diff::run(command, io).await,
        Sync::Plan(command) => approve::plan(command, io).await,
        Sync::Approve(command) => approve::run(command, io).await,
        Sync::Now(command) => wait::now(command, io).await,
        Sync::Wait(command) => wait::run(command, io).await,
        Sync::Suspend(command) => change::suspend(command, true, io).await,
        Sync::Resume(command) => change::suspend(command, false, io).await,
        Sync::Rollback(command) => change::rollback(command, io).await,
        Sync::History(command) => show::history(command, io).await,
        Sync::Tree(command) => tree::run(command, io).await,
        Sync::Events(command) => show::events(command, io).await,
        Sync::Render(command) => render::run(command, io).await,
    }
}

/// Why a verb of the group did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    #[error("{0:?} is no name of a GitSync: NAME, or NAMESPACE/NAME")]
    Name(String),
    #[error("{0}: nothing was waited for")]
    Nothing(String),
    #[error("{0} is suspended: nothing is done until it is resumed")]
    Suspended(String),
    #[error("no plan of {0} waits for leave")]
    NoPlan(String),
    #[error("the plan of {key} that waits is {waits}, and not {wanted}")]
    OtherPlan { key: String, waits: String, wanted: String },
    #[error("nobody can be asked whether the plan of {0} is to be carried out")]
    Unasked(String),
    #[error("the plan of {0} was not allowed")]
    Declined(String),
    #[error("cannot read the answer")]
    Answer(#[source] std::io::Error),
    #[error("the history of {key} has no revision {wanted}")]
    NoRevision { key: String, wanted: String },
    #[error("the history of {0} has no other revision than the present one")]
    NoOther(String),
    #[error("not as wanted within {} s: {}", after.as_secs(), keys.join(", "))]
    Late { keys: Vec<String>, after: std::time::Duration },
}

impl SyncError {
    /// What to do about it.
    pub fn remedy(&self) -> Option<&str> {
        match self {
            Self::Name(_) | Self::NoPlan(_) | Self::Declined(_) | Self::Answer(_) | Self::NoOther(_) => None,
            Self::Nothing(_) => {
                Some("Are cluster and namespace those that are meant? seal sync list -A shows every GitSync")
            }
            Self::Suspended(_) => Some("seal sync resume goes on"),
            Self::OtherPlan { .. } => Some("See seal sync plan, and decide anew"),
            Self::Unasked(_) => Some("--plan with the digest allows this very plan, --yes whatever waits"),
            Self::NoRevision { .. } => Some("seal sync history shows them all"),
            Self::Late { .. } => Some("It goes on all the same; seal sync status tells how it fares"),
        }
    }

    /// How a run ends with it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::OtherPlan { .. } | Self::Unasked(_) | Self::Declined(_) => Exit::Refused,
            Self::Late { .. } => Exit::Late,
            Self::Name(_)
            | Self::Nothing(_)
            | Self::Suspended(_)
            | Self::NoPlan(_)
            | Self::Answer(_)
            | Self::NoRevision { .. }
            | Self::NoOther(_) => Exit::Failed,
        }
    }
}

/// Namespace and name.
pub type Key = (String, String);

/// One that was looked for.
pub type Found = Result<DeserializeGuard<GitSync>, ClusterError>;

/// A cluster, and the namespace of names that have none.
pub struct Site {
    pub cluster: Cluster,
    pub namespace: String,
}

impl Site {
    /// Connects.
    pub async fn at(at: At) -> Result<Self, Error> {
        let At { namespace, connection } = at;
        let access = command::access(connection)?;
        let namespace = match namespace.filter(|namespace| !namespace.is_empty()) {
            Some(namespace) => namespace,
            None => cluster::namespace(&access)?.map_or_else(|| "default".to_owned(), |it| it.namespace),
        };
        Ok(Self { cluster: cluster::connect(&access).await?, namespace })
    }

    /// Which one is meant.
    pub fn key(&self, name: &str) -> Result<Key, SyncError> {
        let (namespace, only) = name.split_once('/').unwrap_or((&self.namespace, name));
        let whole = !namespace.is_empty() && !only.is_empty() && !only.contains('/');
        whole.then(|| (namespace.to_owned(), only.to_owned())).ok_or_else(|| SyncError::Name(name.to_owned()))
    }

    /// Which ones are meant.
    pub async fn keys(&self, which: &Names, io: &mut Io<'_>) -> Result<Vec<Key>, Error> {
        if which.names.is_empty() {
            return Ok(self.all(which, false, io).await?.into_iter().map(|(key, _)| key).collect());
        }
        Ok(which.names.iter().map(|name| self.key(name)).collect::<Result<_, _>>()?)
    }

    /// The same, each as it is or why it was not seen. Fails where no other would be seen either.
    pub async fn found(&self, which: &Names, waits: bool, io: &mut Io<'_>) -> Result<Vec<(Key, Found)>, Error> {
        if which.names.is_empty() {
            return Ok(self.all(which, waits, io).await?.into_iter().map(|(key, it)| (key, Ok(it))).collect());
        }
        let mut all = Vec::new();
        for (namespace, name) in self.keys(which, io).await? {
            match self.cluster.any_git_sync(&namespace, &name).await {
                Err(error) if error.is_of_all() => return Err(error.into()),
                found => all.push(((namespace, name), found)),
            }
        }
        Ok(all)
    }

    /// Every one, also those that cannot be read: what is done to them takes no more than their names. Where there is
    /// none, whoever `waits` for all of them shall not take that for well.
    async fn all(
        &self,
        which: &Names,
        waits: bool,
        io: &mut Io<'_>,
    ) -> Result<Vec<(Key, DeserializeGuard<GitSync>)>, Error> {
        let namespace = Some(self.namespace.as_str()).filter(|_| !which.all_namespaces);
        let all = self.cluster.git_syncs(namespace).await?.into_iter();
        let all: Vec<_> =
            all.filter_map(|it| Some(((it.meta().namespace.clone()?, it.meta().name.clone()?), it))).collect();
        if all.is_empty() {
            let none = none(namespace);
            if waits {
                return Err(SyncError::Nothing(none).into());
            }
            io.warning(&none);
        }
        Ok(all)
    }

    /// Whether nobody works. `waits` says that something was not taken up yet. Whoever may not see it is told nothing.
    pub async fn idle(&self, lookout: &Lookout, waits: bool, io: &Io<'_>) -> Option<Idle> {
        let namespace = &lookout.controller_namespace;
        let lease = self.cluster.lease(namespace).await.ok()?;
        Idle::of(namespace, lease.as_ref(), waits, Timestamp::now().max(io.now))
    }

    /// The one that is meant.
    pub async fn find(&self, name: &str) -> Result<GitSync, Error> {
        let (namespace, name) = self.key(name)?;
        Ok(self.cluster.git_sync(&namespace, &name).await?)
    }
}

/// How a verb ends that went on with the others where it failed.
fn ended(mut failed: Vec<Error>, otherwise: Exit, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Some(last) = failed.pop() else { return Ok(otherwise) };
    failed.iter().for_each(|error| io.error(&exit::chain(error)));
    Err(last)
}

/// That there is none.
fn none(namespace: Option<&str>) -> String {
    let place = namespace.map_or("the cluster".to_owned(), |namespace| format!("the namespace {namespace}"));
    format!("there is no GitSync in {place}")
}

/// The colour of a state.
fn colour(state: State) -> &'static str {
    use crate::table::{CYAN, DIM, GREEN, RED, YELLOW};
    match state {
        State::Unreadable | State::Stalled | State::Failed | State::Degraded => RED,
        State::Waiting | State::Planned | State::Drifted => YELLOW,
        State::Deleting | State::Progressing => CYAN,
        State::Suspended | State::Gone => DIM,
        State::Well => GREEN,
    }
}

/// Text in a colour, where there may be one.
fn painted(text: &str, colour: &str, is_coloured: bool) -> String {
    if is_coloured { [colour, text, crate::table::RESET].concat() } else { text.to_owned() }
}
