//! What was typed after a verb: `seal verify …`. Under the name `kubeseal` there are no verbs, because kubeseal ignores
//! positional arguments. Decides nothing.

pub mod install;
pub mod keys;
pub mod sync;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use crds::Scope;

use crate::{
    args::{Certificate, Connection},
    lint::Rule,
};

// No documentation comment: it would take the place of the program's own.
#[derive(Debug, Subcommand)]
#[command(subcommand_help_heading = "Verbs", disable_help_subcommand = true)]
pub enum Verb {
    /// Show the certificate that values are sealed with, or keep it
    #[command(after_help = CERT)]
    Cert(Cert),
    /// Seal one value to what belongs under encryptedData
    #[command(after_help = RAW)]
    Raw(Raw),
    /// Tell of SealedSecrets what they show without a key
    #[command(after_help = GET)]
    Get(Get),
    /// Look for mistakes in files and folders, without a cluster
    #[command(after_help = VERIFY)]
    Verify(Verify),
    /// Tell what differs between two versions, without showing a value
    #[command(after_help = DIFF)]
    Diff(Diff),
    /// Add or replace one item of a SealedSecret's file
    #[command(after_help = SET)]
    Set(Set),
    /// Remove one item of a SealedSecret's file
    #[command(after_help = UNSET)]
    Unset(Unset),
    /// Change a SealedSecret's file in an editor
    #[command(after_help = EDIT)]
    Edit(Edit),
    /// Seal anew, in files and folders, what is not sealed with the newest key
    #[command(after_help = RESEAL)]
    Reseal(Reseal),
    /// See, renew and set aside the keys of a cluster
    #[command(subcommand, after_help = keys::GROUP, disable_help_subcommand = true)]
    Keys(keys::Keys),
    /// See, allow, hold and roll back what follows Git
    #[command(subcommand, after_help = sync::GROUP, disable_help_subcommand = true)]
    Sync(sync::Sync),
    /// Open the SealedSecrets of files and folders with the keys at hand, without a cluster
    #[command(after_help = UNSEAL)]
    Unseal(Unseal),
    /// Look for gaps and changes in the audit record of a controller's log
    #[command(after_help = AUDIT)]
    Audit(Audit),
    /// Print or apply the manifests of the controller
    #[command(after_help = install::INSTALL)]
    Install(install::Install),
    /// Write the shell's completion
    #[command(after_help = COMPLETION)]
    Completion(Completion),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man(Man),
}

const CERT: &str = "\
Example:
  seal cert --cert cert.pem -o json

Exit codes: 0 shown, 1 not; an expired one is shown too.";

#[derive(Debug, Args)]
pub struct Cert {
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = CertOutput::Text)]
    pub output: CertOutput,
    /// Write the certificate itself to a file
    #[arg(short, long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    #[command(flatten)]
    pub certificate: Certificate,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CertOutput {
    Text,
    Json,
    Yaml,
    /// The certificate itself
    Pem,
}

const RAW: &str = "\
Example:
  seal raw --cert cert.pem shop/db < password.txt

Exit codes: 0 sealed, 1 not.";

#[derive(Debug, Args)]
pub struct Raw {
    /// The Secret that the value is for; without one the scope must not be strict
    #[arg(value_name = "[NAMESPACE/]NAME")]
    pub name: Option<String>,
    /// File that holds the value, instead of standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Where the result may be opened: strict, namespace-wide or cluster-wide
    #[arg(long, default_value = "strict")]
    pub scope: Scope,
    /// Namespace of the Secret, where its name does not say it
    #[arg(short, long)]
    pub namespace: Option<String>,
    #[command(flatten)]
    pub certificate: Certificate,
    #[command(flatten)]
    pub connection: Connection,
}

const GET: &str = "\
Example:
  seal get sealed.yaml -o json

Exit codes: 0 told, 1 a file cannot be read.";

#[derive(Debug, Args)]
pub struct Get {
    /// Files with SealedSecrets; standard input without any
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// How to tell it
    #[arg(short, long, value_enum, default_value_t = GetOutput::Table)]
    pub output: GetOutput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GetOutput {
    Table,
    Json,
    Yaml,
}

const VERIFY: &str = "\
Example:
  seal verify deploy/ --cert cert.pem

In folders it reads what ends in .yaml, .yml or .json, and leaves out what is hidden, such as .git. A file that is \
named is read whatever it is called. What of a chart only Helm can read is left out, unless it is named; stderr names what seems to hold sealed values all \
the same. A ciphertext shows the size of its key, and no more: whether a value opens under \
its name is known only with --recovery-private-key.

Whole trees of bases and overlays: --allow namespace, where kustomize fills it in. The same SealedSecret in two folders \
is no finding.

Exit codes: 0 nothing is wrong, 1 something is, 2 the command line makes no sense, 3 a file, a certificate or a key cannot \
be read.";

#[derive(Debug, Args)]
pub struct Verify {
    /// Files and folders; '-' is standard input
    #[arg(required = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// Certificate whose key the values must have the size of; repeatable
    #[arg(long, value_name = "FILE|URL")]
    pub cert: Vec<String>,
    #[command(flatten)]
    pub recovery: Recovery,
    /// Let pass what breaks a rule; repeatable, or with commas
    #[arg(long, value_name = "RULE", value_enum, value_delimiter = ',')]
    pub allow: Vec<Rule>,
    /// The same as --allow plain
    #[arg(long)]
    pub allow_plain: bool,
    /// How to report
    #[arg(short, long, value_enum, default_value_t = Report::Text)]
    pub output: Report,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Report {
    Text,
    Json,
}

const DIFF: &str = "\
Example:
  git show HEAD:sealed.yaml | seal diff sealed.yaml

Exit codes, as diff has them: 0 nothing differs, 1 something does, 2 trouble.";

#[derive(Debug, Args)]
pub struct Diff {
    /// The old file and the new one; with one alone, the old one comes from standard input
    #[arg(required = true, num_args = 1..=2, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub recovery: Recovery,
    /// How to report
    #[arg(short, long, value_enum, default_value_t = Report::Text)]
    pub output: Report,
}

/// Private keys at hand.
#[derive(Debug, Default, Args)]
pub struct Recovery {
    /// Private keys that open what is sealed: PEM, a key Secret, a list of them or a backup; repeatable
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    pub recovery_private_key: Vec<PathBuf>,
    #[command(flatten)]
    pub unlock: Unlock,
}

/// What opens a backup of keys.
#[derive(Debug, Default, Args)]
pub struct Unlock {
    /// Opens a backup: a file of age identities, or an ssh private key; repeatable
    #[arg(long, value_name = "FILE")]
    pub identity: Vec<PathBuf>,
    /// Holds the passphrase of a backup or of an ssh key, else $SEALED_SECRETS_PASSPHRASE does, else it is asked for
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

/// Which SealedSecret of a file.
#[derive(Debug, Args)]
pub struct Which {
    /// The SealedSecret, where the file holds several
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub name: Option<String>,
    /// Namespace to seal for, where the file does not say it
    #[arg(short, long)]
    pub namespace: Option<String>,
}

/// What lets present values be seen.
#[derive(Debug, Args)]
pub struct Sight {
    #[command(flatten)]
    pub recovery: Recovery,
    /// Take the present values from the cluster's Secret, if you may read it
    #[arg(long, conflicts_with = "recovery_private_key")]
    pub from_cluster: bool,
}

const SET: &str = "\
Example:
  seal set --cert cert.pem password sealed.yaml < password.txt

A value on the command line is seen by others on this machine, and kept in the shell's history: leave it out, and it \
is read from standard input, or typed without being shown. With --recovery-private-key or --from-cluster a value that is sealed already is not \
sealed again, so that the file stays as it is; without either nobody can know.

Exit codes: 0 the file says it, 1 it does not and is as it was.";

#[derive(Debug, Args)]
pub struct Set {
    /// The item, and its value where that is no secret
    #[arg(value_name = "KEY[=VALUE]")]
    pub item: String,
    /// The file
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Take the value from a file
    #[arg(long, value_name = "FILE")]
    pub from_file: Option<PathBuf>,
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub sight: Sight,
    #[command(flatten)]
    pub certificate: Certificate,
    #[command(flatten)]
    pub connection: Connection,
}

const UNSET: &str = "\
Example:
  seal unset password sealed.yaml

Exit codes: 0 the item is gone, 1 it is not, or was not there.";

#[derive(Debug, Args)]
pub struct Unset {
    /// The item
    #[arg(value_name = "KEY")]
    pub item: String,
    /// The file
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    #[command(flatten)]
    pub which: Which,
}

const EDIT: &str = "\
Example:
  seal edit --cert cert.pem sealed.yaml

$VISUAL or $EDITOR shows the template and the items. Values that you may not see stand there as <sealed>, and stay as \
they are unless you write something else. With --recovery-private-key or --from-cluster they stand in the clear, in a \
private folder that is wiped when the editor ends. Only what you change is sealed again. What cannot be used, or on a \
terminal not be sealed or written, is shown in the editor again with the reason on top; leave it as it is to give up.

Exit codes: 0 the file says what you wrote, 1 it is as it was.";

#[derive(Debug, Args)]
pub struct Edit {
    /// The file
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub sight: Sight,
    #[command(flatten)]
    pub certificate: Certificate,
    #[command(flatten)]
    pub connection: Connection,
}

const RESEAL: &str = "\
Example:
  seal reseal deploy/ --recovery-private-key new.key --cert cert.pem

Without --recovery-private-key the controller does it, and no value leaves it. It limits how often it may be asked: \
this waits as long as it is told to. With keys it is done here, for the newest of them that comes with its \
certificate, or for --cert.

Only the sealed values change in a file. What is sealed with the newest key stays as it is, so after an interruption \
the same command goes on where it ended (upstream's controller seals everything anew each time). What cannot be done \
is reported with its file and document, and stops nothing else. In folders it reads what ends in .yaml, .yml or \
.json, and leaves out what is hidden. Sealed values in what is no SealedSecret, such as a chart's template or its values, \
are named and left as they are.

Exit codes: 0 done, 1 with --check: something is not, 2 the command line \
makes no sense, 3 something could not be read or sealed anew, or it was interrupted, or with --check: sealed values \
stand where nobody reads them.";

#[derive(Debug, Args)]
pub struct Reseal {
    /// Files and folders
    #[arg(required = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub recovery: Recovery,
    /// Namespace of SealedSecrets that name none
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Only say what would be sealed anew
    #[arg(long)]
    pub dry_run: bool,
    /// The same for scripts: fail when there is anything
    #[arg(long, conflicts_with = "dry_run")]
    pub check: bool,
    /// How to report
    #[arg(short, long, value_enum, default_value_t = Report::Text)]
    pub output: Report,
    #[command(flatten)]
    pub certificate: Certificate,
    #[command(flatten)]
    pub connection: Connection,
}

const UNSEAL: &str = "\
Example:
  seal unseal deploy/ --recovery-private-key new.key --to clear

Writes Secrets in the clear: to standard output, or into a folder that only you may enter, under the names that the \
files have below each PATH. No file is overwritten. What does not open is reported with its file and document, and \
stops nothing else. In folders it reads what ends in .yaml, .yml or .json, and leaves out what is hidden.

Exit codes: 0 all is open, 1 there is nothing to open or nothing to open it with, 2 the command line makes no sense, \
3 something could not be read, opened or written.";

#[derive(Debug, Args)]
pub struct Unseal {
    /// Files and folders; '-' is standard input
    #[arg(required = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub recovery: Recovery,
    /// Namespace of SealedSecrets that name none
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Write one file for each into this folder
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub to: Option<PathBuf>,
    /// How to write them to standard output
    #[arg(short, long, value_enum, default_value_t = Manifests::Yaml)]
    pub output: Manifests,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Manifests {
    Yaml,
    Json,
}

const AUDIT: &str = "\
Example:
  seal audit controller.log

Of logs as text or JSON it reads the entries, one for each object that was changed, and checks that none is missing, \
changed or moved since. Each start of a controller is a chain. A chain cannot show that its end is missing, or that all \
of it was written anew: compare the last hash with a copy elsewhere.

Exit codes: 0 nothing is wrong, 1 something is, or there is no entry, 2 the command line makes no sense, 3 a file cannot \
be read.";

#[derive(Debug, Args)]
pub struct Audit {
    /// Logs, in the order in which they were written; '-' is standard input
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// How to report
    #[arg(short, long, value_enum, default_value_t = Report::Text)]
    pub output: Report,
}

const COMPLETION: &str = "\
Example:
  seal completion bash > seal.bash
  seal completion kubectl > kubectl_complete-seal

The second is for kubectl seal: an executable of that name on the PATH, which kubectl asks in any shell. It needs bash.

Exit codes: 0 written, 1 not.";

#[derive(Debug, Args)]
pub struct Completion {
    /// The shell, or kubectl for what it asks of a plugin
    #[arg(value_enum)]
    pub shell: Shell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
    Kubectl,
}

#[derive(Debug, Args)]
pub struct Man {
    /// The folder; made where it is not there
    #[arg(value_hint = ValueHint::DirPath)]
    pub folder: PathBuf,
}
