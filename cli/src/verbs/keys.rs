//! What was typed after `seal keys`. Decides nothing.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use crds::key_secret::KeyOrder;

use crate::{
    args::Connection,
    command,
    verbs::{CertOutput, Unlock},
};

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
    /// Have a new key made, and wait for its certificate
    #[command(after_help = ROTATE)]
    Rotate(Rotate),
    /// Set a key aside that nothing needs any more
    #[command(after_help = RETIRE)]
    Retire(Retire),
    /// Mark a key that somebody else may have, and list the values to change
    #[command(after_help = COMPROMISED)]
    Compromised(Compromised),
    /// Take up again a key that was set aside
    #[command(after_help = REINSTATE)]
    Reinstate(Reinstate),
    /// Write every key to one encrypted file, or check such a file
    #[command(after_help = BACKUP)]
    Backup(Backup),
    /// Put the keys of a backup into a cluster
    #[command(after_help = RESTORE)]
    Restore(Restore),
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

/// How to wait for a new key.
#[derive(Debug, Args)]
pub struct Waiting {
    /// How long to wait until the new certificate is served: 30s, 2m, or seconds
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = command::duration)]
    pub timeout: Duration,
    /// Name of the controller's Service
    #[arg(long, value_name = "NAME", default_value = "sealed-secrets-controller")]
    pub controller_name: String,
}

const ROTATE: &str = "\
Example:
  seal keys rotate -w cert.pem

Asks the controller for a new key, waits until its certificate is served, and prints that. The request is an annotation \
of the newest key, so that it makes one key however often it is read, and waits while the controller is down. The old \
keys go on opening. A file that -w names holds either the new certificate or what it held.

Exit codes: 0 the new certificate is served, 1 not asked for, or the certificate could not be written, 5 asked for but not served in time.";

#[derive(Debug, Args)]
pub struct Rotate {
    /// Write the new certificate to a file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub write: Option<PathBuf>,
    /// How to show the new certificate
    #[arg(short, long, value_enum, default_value_t = CertOutput::Pem)]
    pub output: CertOutput,
    /// Ask the API server whether it would take the request, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub waiting: Waiting,
    #[command(flatten)]
    pub home: Home,
}

const RETIRE: &str = "\
Example:
  seal keys retire SHA256:0cbNYOGpHfBEU3VhV0PkDmpOp3yeHbF7LyMcKuGZMJY

Sets a key aside that nothing in the cluster needs any more, by what the controller recorded in the status of each \
SealedSecret. The Secret stays, and 'seal keys reinstate' takes the key up again. Files in Git that were never applied \
are not seen: seal them anew first.

Exit codes: 0 retired, 1 not, 4 refused: something needs it, or may, or it is the key that seals.";

#[derive(Debug, Args)]
pub struct Retire {
    #[command(flatten)]
    pub which: Which,
    /// Retire it although something needs it: what it sealed is not opened again
    #[arg(long)]
    pub force: bool,
    /// Say what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How to report
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub home: Home,
}

const BACKUP: &str = "\
Example:
  seal keys backup keys.yaml --recipients-file ops.txt

The file is encrypted with age, for everybody who is named or for a passphrase. Its head can be read without opening \
it: which cluster, when, which keys. What is encrypted is a list of Secrets, which age -d, kubectl and kubeseal \
understand too. The file is for its owner only, and none is ever overwritten.

  seal keys backup keys.yaml --verify

compares the head of a backup with the cluster, and sees that what is encrypted is whole. With --identity or --passphrase-file it is opened too, and each Secret in \
it that holds no usable key is named; the others are none the worse for it.

Exit codes: 0 written, or nothing is missing; 1 not written, or --verify: a key of the cluster is missing in the backup \
or marked otherwise there, or something in the backup cannot be used; 2 the command line makes no sense; 3 --verify: they could not be compared, as the backup is damaged or another cluster's, or the cluster has no key.";

#[derive(Debug, Args)]
pub struct Backup {
    /// The backup
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    #[command(flatten)]
    pub to: For,
    #[command(flatten)]
    pub unlock: Unlock,
    /// Leave the private keys in the clear, as a list of Secrets
    #[arg(long, conflicts_with_all = ["recipient", "recipients_file", "passphrase"])]
    pub plain: bool,
    /// Compare a backup with the cluster instead of making one
    #[arg(long, conflicts_with_all = ["recipient", "recipients_file", "passphrase", "plain"])]
    pub verify: bool,
    /// How to tell what is in it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub home: Home,
}

const COMPROMISED: &str = "\
Example:
  seal keys compromised SHA256:0cbNYOGpHfBEU3VhV0PkDmpOp3yeHbF7LyMcKuGZMJY

Marks a key that somebody else may have, and lists the SealedSecrets whose values must be changed: whoever has the key \
reads them, wherever the files are. Sealing the same values anew does not help. If it was the key that seals, waits until \
another one is served. The controller stops opening what it sealed; Secrets that are there stay.

Exit codes: 0 marked, 1 not, 5 marked, but no new certificate is served in time.";

#[derive(Debug, Args)]
pub struct Compromised {
    #[command(flatten)]
    pub which: Which,
    /// Go on opening what it sealed, until the values are changed
    #[arg(long)]
    pub keep_opening: bool,
    /// Say what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How to report
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub waiting: Waiting,
    #[command(flatten)]
    pub home: Home,
}

const REINSTATE: &str = "\
Example:
  seal keys reinstate SHA256:0cbNYOGpHfBEU3VhV0PkDmpOp3yeHbF7LyMcKuGZMJY

Takes up again what was retired, or marked as compromised by mistake. It opens from now on, and what waited for it is \
tried again.

Exit codes: 0 it is active, 1 not.";

#[derive(Debug, Args)]
pub struct Reinstate {
    #[command(flatten)]
    pub which: Which,
    /// Say what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How to report
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub home: Home,
}

/// Whom a backup is for.
#[derive(Debug, Args)]
pub struct For {
    /// Who may open it: an age recipient (age1…) or an ssh-ed25519 or ssh-rsa public key; repeatable
    #[arg(long, value_name = "KEY")]
    pub recipient: Vec<String>,
    /// File with one recipient in each line; repeatable
    #[arg(long, value_name = "FILE")]
    pub recipients_file: Vec<PathBuf>,
    /// Whoever knows a passphrase may open it
    #[arg(long, conflicts_with_all = ["recipient", "recipients_file"])]
    pub passphrase: bool,
}

const RESTORE: &str = "\
Example:
  seal keys restore keys.yaml --identity me.txt

Takes a backup, or a list of key Secrets in the clear. Each key comes back with its labels and annotations, so with its \
state. One that is there already stays as it is; where its name is another Secret's it gets a new one. Then it waits \
until the controller has opened the SealedSecrets that were closed. A new cluster's controller that is started with \
--wait-for-keys makes no key of its own meanwhile.

Exit codes: 0 every key is in the cluster, 1 none of them was restored, 2 the command line makes no sense, 3 some were \
not.";

#[derive(Debug, Args)]
pub struct Restore {
    /// The backup
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    #[command(flatten)]
    pub unlock: Unlock,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for SealedSecrets to open
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = command::duration)]
    pub timeout: Duration,
    /// How to tell what was done
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub home: Home,
}

/// Which key.
#[derive(Debug, Args)]
pub struct Which {
    /// The key's fingerprint, or the name of its Secret; never a part of one
    #[arg(value_name = "FINGERPRINT|NAME")]
    pub key: String,
}

fn order(text: &str) -> Result<KeyOrder, String> {
    text.parse().map_err(|_| "must be CertNotBefore or SecretCreationTimestamp".to_owned())
}
