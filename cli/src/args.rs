//! What was typed: flags spelled as kubeseal spells them, each also readable from `SEALED_SECRETS_<FLAG>`. Decides
//! nothing: what a combination means is `command`'s business.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::{
    Arg, ArgAction, ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand as _,
    builder::{OsStringValueParser, StringValueParser, TypedValueParser},
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};
use crds::Scope;
use secrecy::SecretString;

use crate::verbs::Verb as Verbs;

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
  Seal for several clusters at once; the first one's controller may be upstream's
    seal --cert cert.pem --cert other.pem -f secret.yaml -w sealed.yaml
  Choose where the result may be opened, and what it is called
    seal --cert cert.pem --scope namespace-wide -n shop -f secret.yaml -w sealed.yaml
    seal --cert cert.pem --name db --allow-empty-data -f secret.yaml -w sealed.yaml
  Seal one value
    seal --raw --cert cert.pem -n shop --name db < password.txt
    seal --raw --cert cert.pem --scope cluster-wide --from-file password=password.txt
  Change a sealed file: add or replace items, or seal all of it anew with the newest key
    seal --merge-into sealed.yaml < secret.yaml
    seal --re-encrypt -f sealed.yaml
  Ask the controller whether it can open a file; open it without any cluster
    seal --validate < sealed.yaml
    seal --recovery-unseal --recovery-private-key keys.yaml -o yaml < sealed.yaml
  Reach another cluster than the current context's
    seal --cluster production --user ci --request-timeout 10s --fetch-cert
    seal --as deploy --as-group ops --as-uid 1000 -v 1 --fetch-cert
    seal --server https://10.0.0.1 --token $TOKEN --certificate-authority ca.crt --fetch-cert
    seal --client-certificate me.crt --client-key me.key --tls-server-name api.example.com --fetch-cert
    seal --proxy-url http://proxy:3128 --disable-compression --fetch-cert
    seal --insecure-skip-tls-verify --username me --password $PASSWORD --fetch-cert

Every flag can also stand in the environment: SEALED_SECRETS_CONTROLLER_NAME for --controller-name.";

/// Switches of klog's that kubeseal takes, and scripts pass. They mean nothing here; their own is `-v`.
const KLOG_SWITCHES: [&str; 7] = [
    "add_dir_header",
    "alsologtostderr",
    "legacy_stderr_threshold_behavior",
    "logtostderr",
    "one_output",
    "skip_headers",
    "skip_log_headers",
];
/// See [`KLOG_SWITCHES`]: those with a value.
const KLOG_VALUES: [&str; 7] = [
    "alsologtostderrthreshold",
    "log_backtrace_at",
    "log_dir",
    "log_file",
    "log_file_max_size",
    "stderrthreshold",
    "vmodule",
];

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
#[allow(clippy::struct_excessive_bools, reason = "kubeseal's verbs are switches")]
#[command(next_help_heading = "What to do (default: seal Secrets)")]
pub struct Verb {
    /// Seal a single value instead of a whole Secret
    #[arg(long)]
    pub raw: bool,
    /// Seal the Secret for the SealedSecret in this file, and add its items to it
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub merge_into: Option<PathBuf>,
    /// Write the certificate, for later use with --cert
    #[arg(long)]
    pub fetch_cert: bool,
    /// Seal SealedSecrets anew, with the controller's newest key; in place with --secret-file alone
    #[arg(long)]
    pub re_encrypt: bool,
    /// The old name of --re-encrypt
    #[arg(long, hide = true)]
    pub rotate: bool,
    /// Ask the controller whether it can open SealedSecrets
    #[arg(long)]
    pub validate: bool,
    /// Open SealedSecrets with private keys, without a cluster
    #[arg(long)]
    pub recovery_unseal: bool,
    /// For --recovery-unseal: a PEM key, a key Secret or a list of them; repeatable, or separated by commas
    #[arg(long, value_name = "FILE", value_delimiter = ',', value_parser = path())]
    pub recovery_private_key: Vec<PathBuf>,
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
    #[arg(long, default_value = "", hide_default_value = true)]
    pub scope: Chosen,
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
    /// Write to a file instead of standard output; as YAML where it ends in .yaml or .yml
    #[arg(short = 'w', long, value_name = "FILE", value_parser = path())]
    pub sealed_secret_file: Option<PathBuf>,
    /// json or yaml
    #[arg(short = 'o', long, default_value = "json")]
    pub format: String,
    /// How much to tell; from 1 on, remarks come without a terminal too
    #[arg(short, long = "v", value_name = "LEVEL", default_value_t = 0, hide_default_value = true)]
    pub verbosity: i32,
}

/// Which certificate.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Certificate (default: ask the controller)")]
pub struct Certificate {
    /// Certificate to seal with; then no cluster is asked. With several, seal (but not kubeseal) seals for all of
    /// their clusters
    #[arg(long, value_name = "FILE|URL")]
    pub cert: Vec<String>,
    /// Name of the controller's Service
    #[arg(long, value_name = "NAME", default_value = "sealed-secrets-controller")]
    pub controller_name: String,
    /// Namespace of the controller's Service
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    pub controller_namespace: String,
}

/// Which cluster, and as whom: kubectl's flags.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct Connection {
    /// Kubeconfig to use, instead of $KUBECONFIG and ~/.kube/config
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use
    #[arg(long)]
    pub context: Option<String>,
    /// Cluster of the kubeconfig to use
    #[arg(long)]
    pub cluster: Option<String>,
    /// User of the kubeconfig to use
    #[arg(long)]
    pub user: Option<String>,
    /// Address of the API server
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// File with the certificates that the API server's is checked against
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub certificate_authority: Option<PathBuf>,
    /// Name that the API server's certificate must be for, instead of its address
    #[arg(long, value_name = "NAME")]
    pub tls_server_name: Option<String>,
    /// Do not check the API server's certificate: whoever is in between reads and answers everything
    #[arg(long)]
    pub insecure_skip_tls_verify: bool,
    /// Proxy to the API server
    #[arg(long, value_name = "URL")]
    pub proxy_url: Option<String>,
    /// Do not ask the API server for compressed answers
    #[arg(long)]
    pub disable_compression: bool,
    /// How long an answer may take: 10s, 2m, or seconds; 0 is without end [default: 1m of silence]
    #[arg(long, value_name = "TIME")]
    pub request_timeout: Option<String>,
    /// Bearer token
    #[arg(long, value_parser = secret(), hide_env_values = true)]
    pub token: Option<SecretString>,
    /// Client certificate
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub client_certificate: Option<PathBuf>,
    /// Key of the client certificate
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub client_key: Option<PathBuf>,
    /// User name for basic authentication
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,
    /// Password for basic authentication
    #[arg(long, value_parser = secret(), hide_env_values = true)]
    pub password: Option<SecretString>,
    /// User to act as
    #[arg(long = "as", value_name = "USER")]
    pub as_user: Option<String>,
    /// Group to act as; repeatable
    #[arg(long, value_name = "GROUP")]
    pub as_group: Vec<String>,
    /// UID to act as
    #[arg(long, value_name = "UID")]
    pub as_uid: Option<String>,
}

/// `--scope`, which scripts pass empty where they leave it to the Secret.
#[derive(Clone, Copy, Debug)]
pub struct Chosen(pub Option<Scope>);

impl std::str::FromStr for Chosen {
    type Err = <Scope as std::str::FromStr>::Err;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        if word.is_empty() { Ok(Self(None)) } else { word.parse().map(|scope| Self(Some(scope))) }
    }
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

/// A command line.
#[derive(Debug)]
pub enum Typed {
    Flags(Box<Args>),
    Verb(Box<Verbs>),
}

/// Reads a command line; the environment stands in for flags that it does not give.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Typed, clap::Error> {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let program = argv.first().map_or_else(Program::default, |path| Program::named(path));
    let mut command = command(program, environment);
    let matches = command.try_get_matches_from_mut(&argv).map_err(|mut error| {
        error.remove(ContextKind::Suggested); // "pass it as a value after --": here values mean nothing
        blame(error, &argv)
    })?;
    let mut args = Args::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    if let Some((verb, _)) = matches.subcommand() {
        if let Some(flag) = typed(&matches).next() {
            let message = format!("--{flag} stands before {verb}: what belongs to a verb comes after it");
            return Err(command.error(ErrorKind::ArgumentConflict, message));
        }
        let verb = Verbs::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        return Ok(Typed::Verb(Box::new(verb)));
    }
    if let (Program::Seal, Some(word)) = (program, args.ignored.first()) {
        let word = word.display();
        let message = format!("there is no verb '{word}'; the file of a Secret is named with --secret-file");
        return Err(command.error(ErrorKind::InvalidSubcommand, message));
    }
    args.program = program;
    Ok(Typed::Flags(Box::new(args)))
}

/// The flags on the command line itself.
fn typed(matches: &ArgMatches) -> impl Iterator<Item = &str> {
    let ids = matches.ids().map(clap::Id::as_str);
    ids.filter(|id| matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine))
        .filter(|id| id.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
}

/// Everything that `seal` takes, for its completion and its manual.
pub fn command_of_seal() -> clap::Command {
    command(Program::Seal, |_| None)
}

/// A value that came from the environment is the variable's fault, not the flag's: what fails without the environment
/// as well was typed.
fn blame(mut error: clap::Error, argv: &[OsString]) -> clap::Error {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return error };
    let long = flag.trim_start_matches('-').split(['=', '[', ' ']).next().unwrap_or_default();
    let Some(variable) = environment(long).filter(|variable| std::env::var_os(variable).is_some()) else {
        return error;
    };
    let program = argv.first().map_or_else(Program::default, |path| Program::named(path));
    let typed = command(program, |_| None).try_get_matches_from(argv).err();
    if typed.is_none_or(|typed| typed.get(ContextKind::InvalidArg) != error.get(ContextKind::InvalidArg)) {
        error.insert(ContextKind::InvalidArg, ContextValue::String(variable));
    }
    error
}

/// The flags, with what they have in common: a variable of the environment, and switches that take a value as Go's
/// do (`--raw`, `--raw=true`, `--raw=false`).
fn command(program: Program, environment: impl Fn(&str) -> Option<String>) -> clap::Command {
    let klog = |name: &'static str| Arg::new(name).long(name).hide(true);
    let switches = KLOG_SWITCHES.map(|name| switch(klog(name)));
    let dress = |arg: Arg| {
        let variable = arg.get_long().and_then(&environment);
        let arg = match variable {
            Some(variable) => arg.env(variable).hide_env(true),
            None => arg,
        };
        if matches!(arg.get_action(), ArgAction::SetTrue) { switch(arg) } else { arg }
    };
    let flags = Args::command();
    let known: Vec<String> = flags.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect();
    let command = flags.mut_args(dress).args(switches).args(KLOG_VALUES.map(klog));
    match program {
        Program::Kubeseal => command,
        // A flag that verbs share with kubeseal has the same variable.
        Program::Seal => Verbs::augment_subcommands(command)
            .subcommand_value_name("VERB")
            .mut_subcommands(|verb| dress_verb(verb, &known, &dress)),
    }
}

/// A flag that verbs, and verbs of verbs, share with kubeseal has the same variable.
fn dress_verb(verb: clap::Command, known: &[String], dress: &dyn Fn(Arg) -> Arg) -> clap::Command {
    let shared = |arg: &Arg| arg.get_long().is_some_and(|long| known.iter().any(|it| it == long));
    verb.mut_args(|arg| if shared(&arg) { dress(arg) } else { arg })
        .mut_subcommands(|verb| dress_verb(verb, known, dress))
}

fn switch(arg: Arg) -> Arg {
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .default_value("false")
        .value_parser(crds::go::parse_bool)
        .value_name("BOOL")
        .hide_default_value(true)
}

/// The variable that stands in for a flag. An empty one counts as absent. `SEALED_SECRETS_VERSION` is no flag: scripts
/// keep there which version they install. Nor is klog's `-v` for kubeseal.
fn environment(flag: &str) -> Option<String> {
    let variable = format!("{ENVIRONMENT_PREFIX}{}", flag.to_uppercase().replace('-', "_"));
    let given = std::env::var_os(&variable).is_none_or(|value| !value.is_empty());
    (given && !["version", "v"].contains(&flag)).then_some(variable)
}

/// A path that may be empty, as scripts pass it for a flag that they leave out.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// A value that is never printed.
fn secret() -> impl TypedValueParser<Value = SecretString> {
    StringValueParser::new().map(SecretString::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Args, clap::Error> {
        parse(line.split_whitespace().map(OsString::from)).map(|typed| match typed {
            Typed::Flags(args) => *args,
            Typed::Verb(verb) => panic!("{line}: {verb:?}"),
        })
    }

    #[test]
    fn the_flags_are_well_formed() {
        command(Program::Seal, environment).debug_assert();
    }

    #[test]
    fn every_example_of_the_help_parses_and_every_flag_is_in_one() {
        let lines: Vec<&str> = EXAMPLES.lines().map(str::trim).filter(|line| line.starts_with("seal ")).collect();
        for line in &lines {
            let typed = line.split(['<', '>']).next().unwrap();
            parsed(typed).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        let examples = lines.join(" ") + " ";
        for arg in
            command(Program::Seal, environment).get_arguments().filter(|arg| !arg.is_positional() && !arg.is_hide_set())
        {
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
        let args = parsed("kubeseal --name a stray --name=b -oyaml").unwrap();
        assert_eq!(args.sealing.name.as_deref(), Some("b"));
        assert_eq!(args.files.format, "yaml");
        assert_eq!(args.ignored, ["stray"]);
    }

    #[test]
    fn every_flag_has_its_variable() {
        let missing: Vec<_> = command(Program::Seal, environment)
            .get_arguments()
            .filter(|arg| !arg.is_positional() && arg.get_env().is_none())
            .map(|arg| arg.get_id().to_string())
            .filter(|id| !KLOG_SWITCHES.iter().chain(&KLOG_VALUES).any(|klog| klog == id))
            .collect();
        assert_eq!(missing, ["version", "verbosity"]);
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
