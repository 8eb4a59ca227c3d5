//! What was typed: flags spelled as kubeseal spells them, each also readable from `SEALED_SECRETS_<FLAG>`. Decides
//! nothing: what a combination means is `command`'s business.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::{
    ArgAction, CommandFactory as _, FromArgMatches as _, Parser,
    builder::{OsStringValueParser, TypedValueParser},
    error::ContextKind,
};
use crds::Scope;

/// Before a flag's name in capitals.
const ENVIRONMENT_PREFIX: &str = "SEALED_SECRETS_";

const EXAMPLES: &str = "\
Examples:
  Seal a Secret for the cluster of the current context
    seal -o yaml < secret.yaml > sealed.yaml
    seal -f secret.yaml -w sealed.yaml
  Keep the certificate, then seal without a cluster
    seal --fetch-cert -w cert.pem
    seal --fetch-cert --context production --controller-namespace sealing --controller-name sealed-secrets
    seal --cert cert.pem -f secret.yaml -w sealed.yaml
    seal --cert https://example.com/cert.pem -f secret.yaml -w sealed.yaml
  Choose where the result may be opened, and what it is called
    seal --cert cert.pem --scope namespace-wide -n shop -f secret.yaml -w sealed.yaml
    seal --cert cert.pem --name db --allow-empty-data -f secret.yaml -w sealed.yaml
  Seal one value
    seal --raw --cert cert.pem -n shop --name db < password.txt
    seal --raw --cert cert.pem --scope cluster-wide --from-file password=password.txt

Every flag can also stand in the environment: SEALED_SECRETS_CONTROLLER_NAME for --controller-name.";

/// Seals Kubernetes Secrets so that they can live in Git
#[derive(Debug, Parser)]
#[command(name = "seal", after_help = EXAMPLES, disable_version_flag = true, args_override_self = true)]
pub struct Args {
    /// The name of the program when it was called.
    #[arg(skip)]
    pub program: Program,
    #[command(flatten)]
    pub verb: Verb,
    #[command(flatten)]
    pub sealing: Sealing,
    #[command(flatten)]
    pub files: Files,
    #[command(flatten)]
    pub certificate: Certificate,
    #[command(flatten)]
    pub connection: Connection,
    /// kubeseal ignores positional arguments, so scripts have them.
    #[arg(hide = true)]
    pub ignored: Vec<OsString>,
}

/// What to do; without any of these, seal.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What to do (default: seal Secrets)")]
pub struct Verb {
    /// Seal a single value instead of a whole Secret
    #[arg(long)]
    pub raw: bool,
    /// Write the certificate, for later use with --cert
    #[arg(long)]
    pub fetch_cert: bool,
    /// Print the version
    #[arg(long)]
    pub version: bool,
}

/// How to seal.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sealing")]
pub struct Sealing {
    /// Where the result may be opened: strict, namespace-wide or cluster-wide. Without it the annotations of the
    /// Secret decide, and without those it is strict
    #[arg(long)]
    pub scope: Option<Scope>,
    /// Name of the Secret, instead of the one in the input; needed for --raw in strict scope
    #[arg(long)]
    pub name: Option<String>,
    /// Namespace for Secrets that name none; another one than the input's is an error
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Accept a Secret without data
    #[arg(long)]
    pub allow_empty_data: bool,
    /// With --raw: take the value from a file
    #[arg(long, value_name = "[KEY=]FILE")]
    pub from_file: Vec<String>,
}

/// From where, to where.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Input and output")]
pub struct Files {
    /// Read the Secrets from a file instead of standard input
    #[arg(short = 'f', long, value_name = "FILE", value_parser = path())]
    pub secret_file: Option<PathBuf>,
    /// Write to a file instead of standard output; its extension decides the format
    #[arg(short = 'w', long, value_name = "FILE", value_parser = path())]
    pub sealed_secret_file: Option<PathBuf>,
    /// json or yaml
    #[arg(short = 'o', long, default_value = "json")]
    pub format: String,
}

/// Which certificate.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Certificate (default: ask the controller)")]
pub struct Certificate {
    /// Certificate to seal with; then no cluster is asked
    #[arg(long, value_name = "FILE|URL")]
    pub cert: Option<String>,
    /// Name of the controller's Service
    #[arg(long, value_name = "NAME", default_value = "sealed-secrets-controller")]
    pub controller_name: String,
    /// Namespace of the controller's Service
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    pub controller_namespace: String,
}

/// Which cluster, and as whom.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct Connection {
    /// Kubeconfig to use, instead of $KUBECONFIG and ~/.kube/config
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use
    #[arg(long)]
    pub context: Option<String>,
}

/// The name decides how the version is told: tools parse kubeseal's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Program {
    #[default]
    Seal,
    Kubeseal,
}

impl Program {
    /// From `argv[0]`.
    fn named(path: &OsStr) -> Self {
        let stem = std::path::Path::new(path).file_stem();
        if stem.is_some_and(|stem| stem == "kubeseal") { Self::Kubeseal } else { Self::Seal }
    }
}

/// Reads a command line; the environment stands in for flags that it does not give.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Args, clap::Error> {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let program = argv.first().map_or_else(Program::default, |path| Program::named(path));
    let mut command = command();
    let matches = command.try_get_matches_from_mut(argv).map_err(|mut error| {
        error.remove(ContextKind::Suggested); // "pass it as a value after --": here values mean nothing
        error
    })?;
    let mut args = Args::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    args.program = program;
    Ok(args)
}

/// The flags, with what they have in common: a variable of the environment, and switches that take a value as Go's
/// do (`--raw`, `--raw=true`, `--raw=false`).
fn command() -> clap::Command {
    Args::command().mut_args(|arg| {
        let variable = arg.get_long().and_then(environment);
        let arg = match variable {
            Some(variable) => arg.env(variable).hide_env(true),
            None => arg,
        };
        if !matches!(arg.get_action(), ArgAction::SetTrue) {
            return arg;
        }
        arg.action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .value_parser(crds::go::parse_bool)
            .value_name("BOOL")
            .hide_default_value(true)
    })
}

/// The variable that stands in for a flag. An empty one counts as absent. `SEALED_SECRETS_VERSION` is no flag: scripts
/// keep there which version they install.
fn environment(flag: &str) -> Option<String> {
    let variable = format!("{ENVIRONMENT_PREFIX}{}", flag.to_uppercase().replace('-', "_"));
    let given = std::env::var_os(&variable).is_none_or(|value| !value.is_empty());
    (given && flag != "version").then_some(variable)
}

/// A path that may be empty, as scripts pass it for a flag that they leave out.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Args, clap::Error> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_flags_are_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn every_example_of_the_help_parses_and_every_flag_is_in_one() {
        let lines: Vec<&str> = EXAMPLES.lines().map(str::trim).filter(|line| line.starts_with("seal ")).collect();
        for line in &lines {
            let typed = line.split(['<', '>']).next().unwrap();
            parsed(typed).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        let examples = lines.join(" ") + " ";
        for arg in command().get_arguments().filter(|arg| !arg.is_positional()) {
            let long = format!("--{} ", arg.get_long().unwrap());
            let short = arg.get_short().map(|short| format!("-{short} "));
            let shown = examples.contains(&long) || short.is_some_and(|short| examples.contains(&short));
            let obvious = ["--help ", "--version ", "--kubeconfig "].contains(&long.as_str());
            assert!(shown || obvious, "no example shows {long}");
        }
    }

    #[test]
    fn switches_are_written_as_in_go() {
        assert!(parsed("seal --raw").unwrap().verb.raw);
        assert!(parsed("seal --raw=T").unwrap().verb.raw);
        assert!(!parsed("seal --raw=false").unwrap().verb.raw);
        assert!(!parsed("seal").unwrap().verb.raw);
        assert_eq!(parsed("seal --raw=maybe").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn the_last_of_a_repeated_flag_counts_and_positional_arguments_do_not() {
        let args = parsed("seal --name a stray --name=b -oyaml").unwrap();
        assert_eq!(args.sealing.name.as_deref(), Some("b"));
        assert_eq!(args.files.format, "yaml");
        assert_eq!(args.ignored, ["stray"]);
    }

    #[test]
    fn every_flag_has_its_variable() {
        let missing: Vec<_> = command()
            .get_arguments()
            .filter(|arg| !arg.is_positional() && arg.get_env().is_none())
            .map(|arg| arg.get_id().to_string())
            .collect();
        assert_eq!(missing, ["version"]);
    }

    #[test]
    fn the_name_of_the_program_is_seen() {
        for (path, program) in [
            ("/usr/bin/kubeseal", Program::Kubeseal),
            ("kubeseal.exe", Program::Kubeseal),
            ("seal", Program::Seal),
            ("kubectl-seal", Program::Seal),
        ] {
            assert_eq!(parsed(path).unwrap().program, program, "{path}");
        }
    }
}
