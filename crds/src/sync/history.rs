//! What is remembered of how a revision came into the cluster. No behaviour but how it is written.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What made the controller look.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::Display, strum::IntoStaticStr,
)]
pub enum Trigger {
    /// The controller began.
    Start,
    /// spec.interval was over, or another GitSync of the repository saw something new.
    Interval,
    /// The Git host said that something was pushed.
    Webhook,
    /// Somebody asked for it, allowed a plan, or wants another revision.
    Annotation,
    /// The GitSync was made or changed.
    SpecChange,
    /// Something moved in the cluster.
    Drift,
    /// The GitSync is being deleted.
    Deletion,
}

/// What was done to the objects of a revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// Made.
    #[schemars(with = "i64")]
    pub created: usize,
    /// Made different, or made anew.
    #[schemars(with = "i64")]
    pub changed: usize,
    /// Deleted.
    #[schemars(with = "i64")]
    pub deleted: usize,
    /// Left as they were.
    #[schemars(with = "i64")]
    pub unchanged: usize,
}

/// A revision that is not applied whole, so that a restart counts on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UnderWay {
    /// As branch@sha1:commit.
    pub revision: String,
    /// What has it applied.
    pub trigger: Trigger,
    /// Since when.
    pub since: Time,
    /// What was done to its objects so far.
    pub counts: Counts,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { created, changed, deleted, unchanged } = self;
        write!(f, "{created} created, {changed} changed, {deleted} deleted, {unchanged} unchanged")
    }
}
