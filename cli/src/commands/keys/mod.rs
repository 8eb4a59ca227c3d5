//! `seal keys`: what an operator does with the keys of a cluster, one verb in each file. Private keys that a verb does
//! not write somewhere on purpose are looked at for whether they are whole, and wiped.

pub mod backup;
pub mod compromised;
pub mod list;
pub mod restore;
pub mod retire;
pub mod rotate;

use std::time::Duration;

use crds::{
    Certificate, Fingerprint,
    key_life::{self, Key, Mark, State},
    key_needs::{Dependent, Needs, Unknown},
    key_secret::{self, DEFAULT_PREFIX},
    unseal::ClearSecret,
};
use kube::{ResourceExt as _, core::ObjectMeta};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    cluster::{self, Cluster, ClusterError, Controller},
    command,
    exit::{self, Error, Exit},
    io::Io,
    output::{self, OutputError},
    table,
    verbs::keys::{Home, Keys, Output, Waiting},
};

/// How long to wait before asking again for a certificate that is not there yet.
const PAUSE: Duration = Duration::from_millis(250);

/// Does what a verb of the group says.
pub async fn run(verb: Keys, io: &mut Io<'_>) -> Result<Exit, Error> {
    match verb {
        Keys::List(command) => list::run(command, io).await,
        Keys::Rotate(command) => rotate::run(command, io).await,
        Keys::Retire(command) => retire::retire(command, io).await,
        Keys::Compromised(command) => compromised::run(command, io).await,
        Keys::Reinstate(command) => retire::reinstate(command, io).await,
        Keys::Backup(command) => backup::run(command, io).await,
        Keys::Restore(command) => restore::run(command, io).await,
    }
}

/// The keys of a cluster as they were found.
pub struct Found {
    pub cluster: Cluster,
    pub namespace: String,
    secrets: Vec<ObjectMeta>,
    pub keys: crds::key_life::Keys,
    /// Names of Secrets that are labelled as keys and hold none, and why.
    pub malformed: Vec<(String, String)>,
}

impl Found {
    /// Asks the cluster.
    pub async fn by(home: Home) -> Result<Self, Error> {
        Ok(Self::with_secrets(home).await?.0)
    }

    /// The same, with the keys themselves.
    pub async fn with_secrets(home: Home) -> Result<(Self, Vec<ClearSecret>), Error> {
        let Home { controller_namespace: namespace, key_order_priority, connection } = home;
        let cluster = cluster::connect(&command::access(connection)?).await?;
        let clear = cluster.key_secrets(&namespace).await?;
        let (mut keys, mut malformed) = (Vec::new(), Vec::new());
        for secret in clear.iter().map(ClearSecret::expose) {
            let Some(mark) = key_secret::mark(secret, DEFAULT_PREFIX) else { continue };
            // A certificate says nothing of the private key beside it.
            let whole = key_secret::read(secret, key_order_priority);
            match whole.and_then(|_| key_secret::describe(secret, mark, key_order_priority)) {
                Ok(key) => keys.push(key),
                Err(error) => malformed.push((secret.name_any(), exit::chain(&error))),
            }
        }
        let secrets = clear.iter().map(|secret| secret.expose().metadata.clone()).collect();
        Ok((Self { cluster, namespace, secrets, keys: keys.into_iter().collect(), malformed }, clear))
    }

    /// What still needs the keys; an error of the API server if one may not know.
    pub async fn needs(&self) -> Result<Needs, ClusterError> {
        Ok(Needs::of(&self.cluster.sealed_secrets().await?))
    }
}

/// Writes a report for a program, or the table for a person.
pub(in crate::commands) fn write(
    report: &impl Serialize,
    table: impl FnOnce() -> String,
    how: Output,
    io: &mut Io<'_>,
) -> Result<(), Error> {
    let text = match how {
        Output::Table => table(),
        Output::Json => serde_json::to_string_pretty(report).map_err(OutputError::Json)? + "\n",
        Output::Yaml => crds::yaml::to_string(report).map_err(|error| OutputError::Yaml(error.to_string()))?,
    };
    Ok(output::write(text.as_bytes(), None, io)?)
}

/// Why a verb of the group did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("there is no key in the namespace {namespace} that could be replaced: the controller makes the first one")]
    None { namespace: String },
    #[error("no key in the namespace {namespace} has the fingerprint, and no key Secret the name, {wanted}")]
    Unknown { namespace: String, wanted: String },
    #[error("the Secret {0} holds no key that can be read: {1}")]
    Malformed(String, String),
    #[error("{0} is the key that values are sealed with")]
    Seals(Fingerprint),
    #[error("{0} is compromised, which says more than retired")]
    Compromised(Fingerprint),
    #[error("{key} is not retired: {needed} SealedSecrets need it, and of {unknown} it is not known")]
    Needed { key: Fingerprint, needed: usize, unknown: usize },
    #[error("no new certificate was seen within {} s", after.as_secs())]
    Late { after: Duration, source: Option<Box<ClusterError>> },
    #[error("the new key {key} is there and seals, but its certificate could not be written")]
    Unwritten { key: Fingerprint, source: Box<OutputError> },
}

impl KeysError {
    /// What to do about it.
    pub fn remedy(&self) -> Option<&str> {
        match self {
            Self::None { .. } | Self::Malformed(..) | Self::Compromised(_) => None,
            Self::Unknown { .. } => Some("seal keys list shows them all"),
            Self::Seals(_) => Some("Make another one first: seal keys rotate"),
            Self::Needed { .. } => Some("Seal what needs it anew, and apply that; or give it up with --force"),
            Self::Unwritten { .. } => Some("Fetch it with seal cert -w FILE: to rotate again would make another key"),
            Self::Late { source: Some(source), .. } if source.is_barred() => Some(
                "The request stands, and the new key may be there already: seal keys list shows it. You may not fetch \
                 its certificate, which takes the rights to get the controller's Service and services/proxy",
            ),
            Self::Late { .. } => {
                Some("The request stands. Is Signet's controller running? Its log says why it makes no key")
            }
        }
    }

    /// How a run ends with it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Seals(_) | Self::Needed { .. } => Exit::Refused,
            Self::Late { .. } => Exit::Late,
            Self::None { .. }
            | Self::Unknown { .. }
            | Self::Malformed(..)
            | Self::Compromised(_)
            | Self::Unwritten { .. } => Exit::Failed,
        }
    }
}

/// A key, and every Secret that holds it.
pub struct Chosen {
    pub fingerprint: Fingerprint,
    pub state: State,
    names: Vec<String>,
}

impl Chosen {
    /// Of its Secrets.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

/// A certificate that the controller serves.
pub struct Served {
    pub pem: String,
    pub certificate: Certificate,
}

impl Found {
    /// The key of a fingerprint, or of a Secret's name.
    pub fn choose(&self, wanted: &str) -> Result<Chosen, KeysError> {
        let is = |key: &Key| {
            key.name == wanted
                || key.fingerprint.to_string().trim_start_matches("SHA256:") == wanted.trim_start_matches("SHA256:")
        };
        let Some((key, _)) = self.keys.iter().find(|(key, _)| is(key)) else {
            let (namespace, wanted) = (self.namespace.clone(), wanted.to_owned());
            let malformed = self.malformed.iter().find(|(name, _)| *name == wanted);
            return Err(malformed.map_or(KeysError::Unknown { namespace, wanted }, |(name, why)| {
                KeysError::Malformed(name.clone(), why.clone())
            }));
        };
        let copies = || self.keys.iter().filter(|(copy, _)| copy.fingerprint == key.fingerprint);
        let any = |state| copies().any(|(_, it)| it == state);
        let states = [State::Compromised, State::Sealing, State::Superseded];
        Ok(Chosen {
            fingerprint: key.fingerprint.clone(),
            state: states.into_iter().find(|state| any(*state)).unwrap_or(State::Retired),
            names: copies().map(|(copy, _)| copy.name.clone()).collect(),
        })
    }

    /// Asks for a key in the place of this one. Whatever else is said of it meanwhile, the request is the same.
    pub async fn ask(&self, name: &str, dry_run: bool) -> Result<(), ClusterError> {
        for seen in self.secrets.iter().filter(|seen| seen.name.as_deref() == Some(name)) {
            let seen = ObjectMeta { resource_version: None, ..seen.clone() };
            self.cluster.mark_key(&self.namespace, &seen, key_life::replace_patch(), dry_run).await?;
        }
        Ok(())
    }

    /// Changes the metadata of key Secrets, unless somebody else did meanwhile.
    pub async fn mark<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
        patch: &Value,
        dry_run: bool,
    ) -> Result<(), ClusterError> {
        for name in names {
            for seen in self.secrets.iter().filter(|seen| seen.name.as_deref() == Some(name)) {
                self.cluster.mark_key(&self.namespace, seen, patch.clone(), dry_run).await?;
            }
        }
        Ok(())
    }

    /// Waits until the controller serves the certificate of a key that was not there.
    pub async fn another_certificate(&self, waiting: Waiting) -> Result<Served, Error> {
        let Waiting { timeout, controller_name: name } = waiting;
        let controller = Controller { namespace: self.namespace.clone(), name };
        let deadline = Instant::now() + timeout;
        loop {
            let served = match self.cluster.controller(&controller).await {
                Ok(proxied) => proxied.certificate_now().await,
                Err(error) => Err(error),
            };
            let certificate = served.as_ref().ok().and_then(|pem| Certificate::from_pem(pem).ok());
            let known = |certificate: &Certificate| {
                self.keys.iter().any(|(key, _)| key.fingerprint == *certificate.fingerprint())
            };
            if let (Ok(pem), Some(certificate)) = (&served, certificate.filter(|it| !known(it))) {
                return Ok(Served { pem: pem.clone(), certificate });
            }
            if Instant::now() >= deadline {
                return Err(KeysError::Late { after: timeout, source: served.err().map(Box::new) }.into());
            }
            sleep(PAUSE).await;
        }
    }
}

/// What was done to a key, and what that means for the SealedSecrets.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome<'a> {
    fingerprint: Fingerprint,
    secrets: Vec<String>,
    before: State,
    /// What is said of it now, or would be.
    mark: Mark,
    /// Whether that was done.
    done: bool,
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    needed_by: Option<&'a [Dependent]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<&'a [Unknown]>,
    /// The key that seals instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealing: Option<Fingerprint>,
}

impl<'a> Outcome<'a> {
    pub fn of(chosen: &Chosen, mark: Mark, needs: Option<&'a Needs>, dry_run: bool) -> Self {
        Self {
            fingerprint: chosen.fingerprint.clone(),
            secrets: chosen.names.clone(),
            before: chosen.state,
            mark,
            done: !dry_run,
            dry_run,
            needed_by: needs.map(|needs| needs.dependents(&chosen.fingerprint)),
            unknown: needs.map(|needs| needs.unknown.as_slice()),
            sealing: None,
        }
    }

    /// It was not done.
    pub fn refuse(&mut self) {
        self.done = false;
    }

    /// Nothing needs the key for certain.
    pub fn is_needless(&self) -> bool {
        self.counts() == (0, 0)
    }

    /// How many SealedSecrets need it, and of how many it is not known.
    pub fn counts(&self) -> (usize, usize) {
        (self.needed_by.map_or(0, <[_]>::len), self.unknown.map_or(0, <[_]>::len))
    }

    /// For a person. `need` is what is true of those that it opened.
    pub fn text(&self, need: &str) -> String {
        let (done, secrets) = (if self.done { "is now" } else { "is not yet" }, self.secrets.join(", "));
        let mut text = format!("{} ({secrets}) was {}, {done} {}.\n", self.fingerprint, self.before, self.mark);
        if let Some(sealing) = &self.sealing {
            text += &["Values are sealed with ", &sealing.to_string(), " from now on.\n"].concat();
        }
        let (needed, unknown) = self.counts();
        if !self.mark.opens() && (self.done || self.dry_run) && needed + unknown > 0 {
            let not = if self.done { "is not" } else { "would not be" };
            let counts = format!("{needed} SealedSecrets need it, and of {unknown} it is not known");
            let undo = format!("seal keys reinstate {} undoes it", self.fingerprint);
            let words =
                [&counts, ": what it sealed ", not, " opened again. Secrets that are there stay; ", &undo, ".\n"];
            text += &words.concat();
        }
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let needed = self.needed_by.unwrap_or_default().iter();
        let needed: Vec<_> = needed.map(|it| row([&it.namespace, &it.name, &it.items.join(", ")])).collect();
        let unknown = self.unknown.unwrap_or_default().iter();
        let unknown: Vec<_> = unknown.map(|it| row([&it.namespace, &it.name, &it.why])).collect();
        for (rows, what, third) in [(needed, format!("{need}:"), "ITEMS"), (unknown, "may, too:".to_owned(), "WHY")] {
            if !rows.is_empty() {
                let table = [vec![row(["NAMESPACE", "NAME", third])], rows].concat();
                text += &["\nSealedSecrets that ", &what, "\n", &table::render(&table, |_, _| None)].concat();
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::cluster::Answer;

    #[test]
    fn who_may_not_see_the_certificate_is_not_told_that_there_is_no_key() {
        let remedy = |status| {
            let answer = Answer::Refused { status, words: None, wait: None };
            let late = |source| KeysError::Late { after: Duration::ZERO, source: Some(Box::new(source)) };
            late(ClusterError::Certificate(answer)).remedy().unwrap().to_owned()
        };
        let barred = remedy(StatusCode::FORBIDDEN);
        assert!(barred.contains("seal keys list shows it") && !barred.contains("running?"), "{barred}");
        assert!(remedy(StatusCode::SERVICE_UNAVAILABLE).contains("controller running?"));
    }
}
