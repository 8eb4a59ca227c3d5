//! What was typed after `seal keys`. Decides nothing.

use clap::{Args, Subcommand, ValueEnum};
use crds::key_secret::KeyOrder;

use crate::args::Connection;

pub const GROUP: &str = "\
Example:
  seal keys list

What each state of a key means, and the rights that these verbs need: docs/keys.md and deploy/keys-operator.

Exit codes: 0 done, 1 not, 2 the command line makes no sense; more at each verb.";

/// The verbs of the group.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Show the keys, their states, and what needs them
    #[command(after_help = LIST)]
    List(List),
}

/// Where the keys are.
#[derive(Debug, Args)]
pub struct Home {
    /// Namespace of the controller and its keys
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    pub controller_namespace: String,
    /// Which time makes a key the newest, if the controller is told so: CertNotBefore or SecretCreationTimestamp
    #[arg(long, value_name = "TIME", default_value = "CertNotBefore", value_parser = order)]
    pub key_order_priority: KeyOrder,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
    Yaml,
}

const LIST: &str = "\
Example:
  seal keys list -o json

NEEDED BY counts the SealedSecrets of which the controller recorded that this key opened them as they are now. Of some it \
is not known, such as those that do not open: a last line counts them, -o json names them.

Exit codes: 0 shown, 1 not.";

#[derive(Debug, Args)]
pub struct List {
    /// How to show them
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub home: Home,
}

fn order(text: &str) -> Result<KeyOrder, String> {
    text.parse().map_err(|_| "must be CertNotBefore or SecretCreationTimestamp".to_owned())
}
