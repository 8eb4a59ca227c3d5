//! Flags and their environment variables, under upstream's names where upstream has them. Defaults stand here and
//! nowhere else.

mod lead;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    net::SocketAddr,
    num::NonZeroU32,
    path::PathBuf,
};

use clap::{ArgAction, CommandFactory as _, FromArgMatches as _, Parser, ValueEnum};
use crds::key_secret::{DEFAULT_PREFIX, KeyOrder};
use jiff::{SignedDuration, Timestamp};
use tracing::Level;

pub use self::lead::LeadArgs;
use crate::unseal::{Options, namespaces::Namespaces};

/// What the controller does, and how.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "signet-controller",
    about = "Opens SealedSecrets into Secrets, rotates their keys, and keeps the cluster as Git says",
    version = concat!("v", env!("CARGO_PKG_VERSION")),
    display_name = "controller version:", // as tools read it
    args_override_self = true, // the last one counts, as for pflag
    disable_version_flag = true
)]
pub struct Args {
    /// How to reach the API server.
    #[command(flatten)]
    pub api: ApiArgs,
    /// Which of several replicas works.
    #[command(flatten)]
    pub lead: LeadArgs,
    /// What keys are made, and when.
    #[command(flatten)]
    pub keys: KeyArgs,
    /// Which SealedSecrets are opened, and how.
    #[command(flatten)]
    pub unseal: UnsealArgs,
    /// What is served.
    #[command(flatten)]
    pub http: HttpArgs,
    /// What of Git is followed.
    #[command(flatten)]
    pub sync: SyncArgs,
    /// What is said.
    #[command(flatten)]
    pub log: LogArgs,
    /// Print the version.
    #[arg(long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// How to reach the API server.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct ApiArgs {
    /// Kubeconfig file. Without it the controller uses the Pod it runs in.
    #[arg(long, env = "SEALED_SECRETS_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the key Secrets and of the sync's ServiceAccount.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Requests to the API server in a second; negative for no limit.
    ///
    /// There is none by default: the API server has its own priorities and fairness, and upstream's 5 make a restart
    /// take minutes.
    #[arg(long, env = "SEALED_SECRETS_KUBECLIENT_QPS", default_value = "-1", value_parser = values::qps, allow_negative_numbers = true, value_name = "NUMBER")]
    pub kubeclient_qps: f64,
    /// Requests to the API server that may come at once, where --kubeclient-qps limits them; negative for any number.
    #[arg(long, env = "SEALED_SECRETS_KUBECLIENT_BURST", default_value = "10", value_parser = values::burst, allow_negative_numbers = true, value_name = "NUMBER")]
    pub kubeclient_burst: NonZeroU32,
}

/// What keys are made, and when.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Keys")]
pub struct KeyArgs {
    /// Name that the key Secrets begin with.
    #[arg(long, env = "SEALED_SECRETS_KEY_PREFIX", default_value = DEFAULT_PREFIX, value_parser = values::key_prefix)]
    pub key_prefix: String,
    /// Bits of a new RSA key: 2048, 3072, 4096 or 8192.
    #[arg(long, env = "SEALED_SECRETS_KEY_SIZE", default_value_t = 4096, value_parser = values::key_size)]
    pub key_size: u32,
    /// Validity of a new key's certificate.
    #[arg(long, env = "SEALED_SECRETS_KEY_TTL", default_value = "87600h", value_parser = values::some_time, value_name = "DURATION")]
    pub key_ttl: SignedDuration,
    /// Mint a new key when the newest is older than this, or its certificate ends soon; 0 for never. Old keys stay.
    #[arg(long, env = "SEALED_SECRETS_KEY_RENEW_PERIOD", default_value = "720h", value_parser = values::duration, value_name = "DURATION")]
    pub key_renew_period: SignedDuration,
    /// Deprecated: use --key-renew-period.
    #[arg(long, env = "SEALED_SECRETS_ROTATE_PERIOD", value_parser = values::duration, value_name = "DURATION", hide = true)]
    pub rotate_period: Option<SignedDuration>,
    /// At the start, mint a new key if the newest is older than this: `Mon, 02 Jan 2006 15:04:05 -0700`, as date -R writes it.
    // Spelled out, so that clap takes the parser's own answer: an empty text means none.
    #[arg(long, env = "SEALED_SECRETS_KEY_CUTOFF_TIME", default_value = "", value_parser = values::cutoff, value_name = "TIME", hide_default_value = true)]
    pub key_cutoff_time: std::option::Option<Timestamp>,
    /// Do not make a first key but wait until one is brought, such as by a restore.
    #[arg(long, env = "SEALED_SECRETS_WAIT_FOR_KEYS", action = ArgAction::Set, default_value = "false", value_name = "BOOL")]
    pub wait_for_keys: bool,
    /// Which time makes a key the newest.
    #[arg(long, env = "SEALED_SECRETS_KEY_ORDER_PRIORITY", default_value = "CertNotBefore")]
    pub key_order_priority: KeyOrderPriority,
    /// Common name of a new key's certificate.
    #[arg(long, env = "SEALED_SECRETS_MY_CN", default_value = "", value_name = "NAME", hide_default_value = true)]
    pub my_cn: String,
    /// Annotations of a new key Secret: `key=value,key=value`.
    #[arg(long, env = "SEALED_SECRETS_PRIVATEKEY_ANNOTATIONS", default_value = "", value_parser = values::annotations, value_name = "LIST", hide_default_value = true)]
    pub privatekey_annotations: BTreeMap<String, String>,
    /// Labels of a new key Secret: `key=value,key=value`.
    #[arg(long, env = "SEALED_SECRETS_PRIVATEKEY_LABELS", default_value = "", value_parser = values::labels, value_name = "LIST", hide_default_value = true)]
    pub privatekey_labels: BTreeMap<String, String>,
    /// Watch the key Secrets. This is always done.
    #[arg(long, env = "SEALED_SECRETS_WATCH_FOR_SECRETS", action = ArgAction::Set, default_value = "true", value_name = "BOOL", hide = true)]
    pub watch_for_secrets: bool,
}

/// What is served.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "HTTP")]
pub struct HttpArgs {
    /// Address of the /v1 and health endpoints.
    #[arg(long, env = "SEALED_SECRETS_LISTEN_ADDR", default_value = ":8080", value_parser = values::address)]
    pub listen_addr: SocketAddr,
    /// Address of /metrics.
    #[arg(long, env = "SEALED_SECRETS_LISTEN_METRICS_ADDR", default_value = ":8081", value_parser = values::address)]
    pub listen_metrics_addr: SocketAddr,
    /// Time that a client has to send a request.
    #[arg(long, env = "SEALED_SECRETS_READ_TIMEOUT", default_value = "2m", value_parser = values::some_time, value_name = "DURATION")]
    pub read_timeout: SignedDuration,
    /// Time that a request has to be answered, and the answer to be taken.
    #[arg(long, env = "SEALED_SECRETS_WRITE_TIMEOUT", default_value = "2m", value_parser = values::some_time, value_name = "DURATION")]
    pub write_timeout: SignedDuration,
    /// Answer /v1/verify and /v1/rotate only to who sends a token in X-Signet-Token and may create sealedsecrets/verify or
    /// sealedsecrets/rotate. kubeseal cannot send one. Needs the rights of deploy/authenticated.
    #[arg(long, env = "SIGNET_AUTHENTICATE", action = ArgAction::Set, default_value = "false", value_name = "BOOL")]
    pub authenticate: bool,
    /// Requests in a second to each of /v1/verify and /v1/rotate, from all clients together.
    #[arg(long, env = "SEALED_SECRETS_RATE_LIMIT", default_value = "2", value_parser = values::some, value_name = "NUMBER")]
    pub rate_limit: NonZeroU32,
    /// Requests that may exceed that rate at once.
    #[arg(long, env = "SEALED_SECRETS_RATE_LIMIT_BURST", default_value = "2", value_name = "NUMBER")]
    pub rate_limit_burst: u32,
    /// Leave condition_info, which names every SealedSecret, out of /metrics.
    #[arg(long, env = "SEALED_SECRETS_METRICS_OMIT_SECRET_LABELS", action = ArgAction::Set, default_value = "false", value_name = "BOOL")]
    pub metrics_omit_secret_labels: bool,
}

/// What of Git is followed.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Git")]
pub struct SyncArgs {
    /// Follow GitSyncs. Without it the controller only opens SealedSecrets. On, unless only some namespaces are watched.
    #[arg(long, env = "SIGNET_GIT_SYNC", action = ArgAction::Set, value_name = "BOOL")]
    pub git_sync: Option<bool>,
    /// Folder for mirrors of Git repositories.
    #[arg(long, env = "SIGNET_GIT_CACHE", default_value = "/var/cache/signet", value_name = "DIR")]
    pub git_cache: PathBuf,
    /// Folder below which file:// repositories may be read. Without it file:// is refused.
    #[arg(long, env = "SIGNET_GIT_FILE_ROOT", value_name = "DIR")]
    pub git_file_root: Option<PathBuf>,
    /// Bytes that one fetch may bring, such as 512Mi.
    #[arg(long, env = "SIGNET_GIT_MAX_SIZE", default_value = "512Mi", value_parser = values::bytes, value_name = "SIZE")]
    pub git_max_size: u64,
    /// Time that one fetch from one place may take.
    #[arg(long, env = "SIGNET_GIT_TIMEOUT", default_value = "60s", value_parser = values::some_time, value_name = "DURATION")]
    pub git_timeout: SignedDuration,
    /// The program that builds kustomizations: a path, or a name to look for on PATH.
    #[arg(long, env = "SIGNET_KUSTOMIZE", default_value = "kustomize", value_name = "PROGRAM")]
    pub kustomize: PathBuf,
    /// The program that renders charts: a path, or a name to look for on PATH.
    #[arg(long, env = "SIGNET_HELM", default_value = "helm", value_name = "PROGRAM")]
    pub helm: PathBuf,
    /// Memory that one run of either may take, such as 256Mi. Without it, its share of what the container has.
    #[arg(long, env = "SIGNET_RENDER_MEMORY", value_parser = values::bytes, value_name = "SIZE")]
    pub render_memory: Option<u64>,
    /// ServiceAccount, in the controller's namespace, whose rights the sync has.
    #[arg(long, env = "SIGNET_SYNC_SERVICE_ACCOUNT", default_value = "signet-sync", value_name = "NAME")]
    pub sync_service_account: String,
    /// ServiceAccount, in the GitSync's namespace, whose rights a GitSync has that names none. Without it that of
    /// --sync-service-account.
    #[arg(long, env = "SIGNET_DEFAULT_SERVICE_ACCOUNT", value_name = "NAME")]
    pub default_service_account: Option<String>,
    /// Let kubeconfigs that GitSyncs name lead to API servers whose certificate is not checked, or that have none.
    #[arg(long, env = "SIGNET_INSECURE_KUBECONFIG_TLS", action = ArgAction::Set, default_value = "false", value_name = "BOOL")]
    pub insecure_kubeconfig_tls: bool,
}

/// What is said.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// Least severe line to log.
    #[arg(long, env = "SEALED_SECRETS_LOG_LEVEL", default_value = "INFO", ignore_case = true)]
    pub log_level: LogLevel,
    /// Form of a log line.
    #[arg(long, env = "SEALED_SECRETS_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Log INFO and DEBUG to stdout, and only WARN and ERROR to stderr.
    #[arg(long, env = "SEALED_SECRETS_LOG_INFO_STDOUT", action = ArgAction::Set, default_value = "true", value_name = "BOOL")]
    pub log_info_stdout: bool,
    /// Send traces by OTLP over HTTP to this address, such as http://collector:4318. Without it none are made. The
    /// variables OTEL_… say more: see docs/traces.md.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Traces"
    )]
    pub otlp_endpoint: Option<String>,
    /// The same by the whole URL, to which nothing is added. It goes before --otlp-endpoint.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Traces"
    )]
    pub otlp_traces_endpoint: Option<String>,
}

impl Args {
    /// Reads a command line. `environment` answers what a variable holds; one that is empty counts as absent, since
    /// charts set those that they have no value for.
    pub fn from_command_line<T>(
        line: impl IntoIterator<Item = T>,
        environment: impl Fn(&OsStr) -> Option<OsString>,
    ) -> Result<Self, clap::Error>
    where
        T: Into<OsString> + Clone,
    {
        let mut command = Self::command().mut_args(|arg| {
            let empty = arg.get_env().and_then(&environment).is_some_and(|value| value.is_empty());
            let arg = if empty { arg.env(None::<&str>) } else { arg };
            let switch = arg.get_value_names().is_some_and(|names| names.iter().any(|name| name == "BOOL"));
            if !switch {
                return arg;
            }
            // As Go's: `--flag`, `--flag=false`, `--flag=T`.
            arg.num_args(0..=1).require_equals(true).default_missing_value("true").value_parser(crds::go::parse_bool)
        });
        let matches = command.try_get_matches_from_mut(line)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
}

/// Which SealedSecrets are opened, and how.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "SealedSecrets")]
#[allow(clippy::struct_excessive_bools, reason = "upstream's switches")]
pub struct UnsealArgs {
    /// Watch all namespaces. With false only the controller's own, and those of --additional-namespaces.
    #[arg(long, env = "SEALED_SECRETS_ALL_NAMESPACES", default_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    pub all_namespaces: bool,
    /// Watch these and the controller's own namespace, and no others. They may be made later.
    #[arg(long, env = "SEALED_SECRETS_ADDITIONAL_NAMESPACES", default_value = "", value_parser = values::namespaces, value_name = "LIST", hide_default_value = true)]
    pub additional_namespaces: BTreeSet<String>,
    /// Watch the namespaces with these labels, as they come and go, and no others.
    #[arg(
        long,
        env = "SEALED_SECRETS_NAMESPACE_SELECTOR",
        conflicts_with = "additional_namespaces",
        value_name = "SELECTOR"
    )]
    pub namespace_selector: Option<String>,
    /// Open only SealedSecrets with these labels.
    #[arg(long, env = "SEALED_SECRETS_LABEL_SELECTOR", value_name = "SELECTOR")]
    pub label_selector: Option<String>,
    /// Open the deprecated spec.data too.
    #[arg(long, env = "SEALED_SECRETS_ACCEPT_DEPRECATED_V1_DATA", default_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    pub accept_deprecated_v1_data: bool,
    /// Say in the status of each SealedSecret how it fares. Without it a restart opens everything again.
    #[arg(long, env = "SEALED_SECRETS_UPDATE_STATUS", default_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    pub update_status: bool,
    /// Do not watch Secrets: one that is edited or deleted stays so until its SealedSecret changes.
    #[arg(long, env = "SEALED_SECRETS_SKIP_RECREATE", default_value = "false", action = ArgAction::Set, value_name = "BOOL")]
    pub skip_recreate: bool,
    /// Delete the Secret of a deleted SealedSecret at once instead of leaving it to the garbage collector.
    #[arg(long, env = "SEALED_SECRETS_OLD_GC_BEHAVIOR", default_value = "false", action = ArgAction::Set, value_name = "BOOL")]
    pub old_gc_behavior: bool,
    /// Tries after a failure, before it is left until something changes. Without it there is no end, only longer waits.
    #[arg(long, env = "SEALED_SECRETS_MAX_UNSEAL_RETRIES", value_name = "NUMBER")]
    pub max_unseal_retries: Option<u32>,
}

impl UnsealArgs {
    /// What they mean for a controller that lives in `own`.
    pub fn options(&self, own: &str) -> Options {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let listed = &self.additional_namespaces;
        let namespaces = match given(&self.namespace_selector) {
            Some(selector) => Namespaces::Selected(selector),
            None if self.all_namespaces && listed.is_empty() => Namespaces::All,
            None => Namespaces::Listed(listed.iter().cloned().chain([own.to_owned()]).collect()),
        };
        Options {
            namespaces,
            label_selector: given(&self.label_selector),
            accept_deprecated: self.accept_deprecated_v1_data,
            update_status: self.update_status,
            watch_secrets: !self.skip_recreate,
            delete_secrets: self.old_gc_behavior,
            retries: self.max_unseal_retries,
        }
    }
}

/// See `--key-order-priority`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum KeyOrderPriority {
    /// Start of the certificate's validity.
    #[value(name = "CertNotBefore")]
    CertNotBefore,
    /// Creation of the key Secret.
    #[value(name = "SecretCreationTimestamp")]
    SecretCreationTimestamp,
}

impl From<KeyOrderPriority> for KeyOrder {
    fn from(priority: KeyOrderPriority) -> Self {
        match priority {
            KeyOrderPriority::CertNotBefore => Self::CertNotBefore,
            KeyOrderPriority::SecretCreationTimestamp => Self::SecretCreationTimestamp,
        }
    }
}

/// See `--log-level`.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What was done.
    Info,
    /// What may need attention.
    Warn,
    /// What failed.
    Error,
}

impl From<LogLevel> for Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Info => Self::INFO,
            LogLevel::Warn => Self::WARN,
            LogLevel::Error => Self::ERROR,
        }
    }
}

/// See `--log-format`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Args, clap::Error> {
        Args::from_command_line(["signet-controller"].iter().chain(flags), |_| None)
    }

    fn refusal(flag: &str) -> String {
        parse(&[flag]).unwrap_err().to_string()
    }

    #[test]
    fn the_flags_are_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn defaults_are_upstreams_but_for_the_limit_on_calls() {
        let Args { api, keys, http, sync: _, log, .. } = parse(&[]).unwrap();
        assert_eq!(keys.key_renew_period, SignedDuration::from_hours(720));
        assert_eq!(keys.key_ttl, SignedDuration::from_hours(87600));
        assert_eq!((keys.key_size, keys.key_prefix.as_str()), (4096, "sealed-secrets-key"));
        assert_eq!((keys.key_cutoff_time, keys.privatekey_labels.len()), (None, 0));
        assert_eq!((http.listen_addr.port(), http.listen_metrics_addr.port()), (8080, 8081));
        assert_eq!((http.rate_limit.get(), http.rate_limit_burst), (2, 2));
        assert_eq!(
            (http.read_timeout, http.write_timeout),
            (SignedDuration::from_mins(2), SignedDuration::from_mins(2))
        );
        assert!(log.log_info_stdout && !http.metrics_omit_secret_labels);
        let twice = parse(&["--key-size=2048", "--leader-elect=false", "--key-size=3072", "--leader-elect"]).unwrap();
        assert_eq!((twice.keys.key_size, twice.lead.leader_elect), (3072, true), "the last one counts");
        assert!(api.kubeclient_qps < 0.0, "no limit");
    }

    #[test]
    fn go_spellings_are_read() {
        let args = parse(&["--listen-addr", ":9090", "--rotate-period", "0", "--log-level", "info"]).unwrap();
        assert_eq!((args.http.listen_addr.port(), args.keys.rotate_period), (9090, Some(SignedDuration::ZERO)));
        for (text, seconds) in [("1h30m", 5400), ("1.5h", 5400), ("720h0m0s", 720 * 3600), ("1m30.5s", 90), ("0", 0)] {
            assert_eq!(values::duration(text).unwrap().as_secs(), seconds, "{text}");
        }
        let switch = |flag: &str| parse(&[flag]).unwrap().http.metrics_omit_secret_labels;
        let name = "--metrics-omit-secret-labels";
        assert!(["", "=true", "=T", "=1"].iter().all(|value| switch(&format!("{name}{value}"))));
        assert!(["=false", "=F", "=0"].iter().all(|value| !switch(&format!("{name}{value}"))));
        assert!(!parse(&["--skip-recreate=false", "--log-info-stdout=0"]).unwrap().log.log_info_stdout);
    }

    #[test]
    fn every_upstream_flag_reads_its_variable() {
        let command = Args::command();
        let flags = command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg.get_env()?)));
        for (flag, variable) in flags {
            let upstreams = format!("SEALED_SECRETS_{}", flag.to_uppercase().replace('-', "_"));
            let ours = ["SIGNET_", "POD_", "OTEL_"].iter().any(|prefix| variable.to_string_lossy().starts_with(prefix));
            assert!(ours || variable == upstreams.as_str(), "--{flag} reads {}", variable.display());
        }
    }

    #[test]
    fn namespaces_are_all_or_those_that_are_named() {
        let meant = |flags: &[&str]| parse(flags).unwrap().unseal.options("sealing").namespaces;
        let listed = |names: &[&str]| Namespaces::Listed(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(meant(&[]), Namespaces::All);
        assert_eq!(meant(&["--additional-namespaces="]), Namespaces::All);
        assert_eq!(meant(&["--all-namespaces=false"]), listed(&["sealing"]));
        assert_eq!(meant(&["--additional-namespaces=a, b,a"]), listed(&["a", "b", "sealing"]));
        assert_eq!(meant(&["--namespace-selector=team"]), Namespaces::Selected("team".to_owned()));
        assert!(parse(&["--namespace-selector=team", "--additional-namespaces=a"]).is_err());
        assert!(refusal("--additional-namespaces=a,B").contains("\"B\" cannot be the name of a namespace"));
    }

    #[test]
    fn nonsense_is_refused() {
        for flags in [["--key-size", "1000"], ["--key-prefix", "Nö"], ["--key-ttl", "-1h"], ["--log-level", "LOUD"]] {
            assert!(parse(&flags).is_err(), "{flags:?}");
        }
        for (flag, why) in [
            ("--git-sync=maybe", "use true or false"),
            ("--rate-limit-burst=-1", "-1"),
            ("--read-timeout=0", "longer than 0"),
            ("--kubeclient-qps=0", "negative one for no limit"),
            ("--kubeclient-qps=NaN", "must be a number"),
            ("--kubeclient-burst=0", "must be a number above 0, or a negative one"),
            ("--rate-limit=0", "must be a number above 0"),
            ("--key-cutoff-time=yesterday", "date -R"),
        ] {
            assert!(refusal(flag).contains(why), "{flag}: {}", refusal(flag));
        }
    }

    #[test]
    fn a_cutoff_is_a_time_as_go_writes_it() {
        let args = parse(&["--key-cutoff-time", "Mon, 02 Jan 2006 15:04:05 -0700"]).unwrap();
        assert_eq!(args.keys.key_cutoff_time.unwrap().to_string(), "2006-01-02T22:04:05Z");
        assert_eq!(parse(&["--key-cutoff-time", ""]).unwrap().keys.key_cutoff_time, None);
    }

    #[test]
    fn a_limit_on_calls_may_be_a_fraction_or_none() {
        let qps = |text| parse(&["--kubeclient-qps", text]).unwrap().api.kubeclient_qps;
        assert_eq!(qps("0.5").to_string(), "0.5");
        assert!(qps("-1") < 0.0);
        let burst = |text| parse(&["--kubeclient-burst", text]).unwrap().api.kubeclient_burst.get();
        assert!((burst("20"), burst("-1") > 1000) == (20, true));
    }

    #[test]
    fn marks_of_a_new_key_are_checked() {
        let marks = parse(&["--privatekey-annotations", "a=b=c,example.org/team=x y", "--privatekey-labels", "t=1"]);
        let keys = marks.unwrap().keys;
        assert_eq!(keys.privatekey_annotations["a"], "b=c");
        assert_eq!(keys.privatekey_annotations["example.org/team"], "x y");
        assert_eq!(keys.privatekey_labels["t"], "1");
        for (flag, why) in [
            ("--privatekey-annotations=alone", "not of the form key=value"),
            ("--privatekey-annotations=a=1,", "not of the form key=value"),
            ("--privatekey-annotations=Ä=1", "cannot be the key"),
            ("--privatekey-labels=Ex.org/a=1", "cannot be the key"),
            ("--privatekey-labels=a=x y", "cannot be the value of a label"),
            ("--privatekey-labels=sealedsecrets.bitnami.com/sealed-secrets-key=no", "always set"),
        ] {
            assert!(refusal(flag).contains(why), "{flag}: {}", refusal(flag));
        }
    }

    #[test]
    fn the_version_is_told_as_tools_read_it() {
        let told = parse(&["--version"]).unwrap_err().to_string();
        assert!(told.starts_with("controller version: v"), "{told}");
    }
}
