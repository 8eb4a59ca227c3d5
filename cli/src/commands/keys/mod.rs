//! `seal keys`: what an operator does with the keys of a cluster, one verb in each file. Private keys that a verb does
//! not write somewhere on purpose are wiped without having been looked at.

pub mod list;

use crds::{
    key_needs::Needs,
    key_secret::{self, DEFAULT_PREFIX},
    unseal::ClearSecret,
};
use kube::ResourceExt as _;
use serde::Serialize;

use crate::{
    cluster::{self, Cluster, ClusterError},
    command,
    exit::{self, Error, Exit},
    io::Io,
    output::{self, OutputError},
    verbs::keys::{Home, Keys, Output},
};

/// Does what a verb of the group says.
pub async fn run(verb: Keys, io: &mut Io<'_>) -> Result<Exit, Error> {
    match verb {
        Keys::List(command) => list::run(command, io).await,
    }
}

/// The keys of a cluster as they were found.
pub struct Found {
    pub cluster: Cluster,
    pub namespace: String,
    pub secrets: Vec<ClearSecret>,
    pub keys: crds::key_life::Keys,
    /// Names of Secrets that are labelled as keys and hold none, and why.
    pub malformed: Vec<(String, String)>,
}

impl Found {
    /// Asks the cluster.
    pub async fn by(home: Home) -> Result<Self, Error> {
        let Home { controller_namespace: namespace, key_order_priority, connection } = home;
        let cluster = cluster::connect(&command::access(connection)?).await?;
        let secrets = cluster.key_secrets(&namespace).await?;
        let (mut keys, mut malformed) = (Vec::new(), Vec::new());
        for secret in secrets.iter().map(ClearSecret::expose) {
            let Some(mark) = key_secret::mark(secret, DEFAULT_PREFIX) else { continue };
            match key_secret::describe(secret, mark, key_order_priority) {
                Ok(key) => keys.push(key),
                Err(error) => malformed.push((secret.name_any(), exit::chain(&error))),
            }
        }
        Ok(Self { cluster, namespace, secrets, keys: keys.into_iter().collect(), malformed })
    }

    /// What still needs the keys; an error of the API server if one may not know.
    pub async fn needs(&self) -> Result<Needs, ClusterError> {
        Ok(Needs::of(&self.cluster.sealed_secrets().await?))
    }
}

/// Writes a report for a program, or the table for a person.
fn write(report: &impl Serialize, table: impl FnOnce() -> String, how: Output, io: &mut Io<'_>) -> Result<(), Error> {
    let text = match how {
        Output::Table => table(),
        Output::Json => serde_json::to_string_pretty(report).map_err(OutputError::Json)? + "\n",
        Output::Yaml => crds::yaml::to_string(report).map_err(|error| OutputError::Yaml(error.to_string()))?,
    };
    Ok(output::write(text.as_bytes(), None, io)?)
}
