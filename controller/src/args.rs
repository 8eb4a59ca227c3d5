//! Flags and their environment variables, under upstream's names where upstream has them. Defaults stand here and
//! nowhere else.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, ValueEnum};
use crds::key_secret::{DEFAULT_PREFIX, KeyOrder};
use jiff::SignedDuration;
use tracing::Level;

/// Opens SealedSecrets into Secrets, rotates their keys, and keeps the cluster as Git says.
#[derive(Clone, Debug, Parser)]
#[command(name = "signet-controller", version, disable_version_flag = true, rename_all_env = "SCREAMING_SNAKE_CASE")]
pub struct Args {
    /// Kubeconfig file. Without it the controller uses the Pod it runs in.
    #[arg(long, env = "SEALED_SECRETS_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the key Secrets and of the sync's ServiceAccount.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// Name that the key Secrets begin with.
    #[arg(long, env = "SEALED_SECRETS_KEY_PREFIX", default_value = DEFAULT_PREFIX, value_parser = key_prefix)]
    pub key_prefix: String,
    /// Bits of a new RSA key: 2048, 3072, 4096 or 8192.
    #[arg(long, env = "SEALED_SECRETS_KEY_SIZE", default_value_t = 4096, value_parser = key_size)]
    pub key_size: u32,
    /// Validity of a new key's certificate.
    #[arg(long, env = "SEALED_SECRETS_KEY_TTL", default_value = "87600h", value_parser = duration, value_name = "DURATION")]
    pub key_ttl: SignedDuration,
    /// Mint a new key when the newest is older than this; 0 for never. Old keys stay.
    #[arg(long, env = "SEALED_SECRETS_KEY_RENEW_PERIOD", alias = "rotate-period", default_value = "720h", value_parser = duration, value_name = "DURATION")]
    pub key_renew_period: SignedDuration,
    /// Which time makes a key the newest.
    #[arg(long, env = "SEALED_SECRETS_KEY_ORDER_PRIORITY", default_value = "CertNotBefore")]
    pub key_order_priority: KeyOrderPriority,
    /// Common name of a new key's certificate.
    #[arg(long, env = "SEALED_SECRETS_MY_CN", default_value = "")]
    pub my_cn: String,

    /// Address of the certificate and health endpoints.
    #[arg(long, env = "SEALED_SECRETS_LISTEN_ADDR", default_value = "0.0.0.0:8080", value_parser = address)]
    pub listen_addr: SocketAddr,
    /// Address of /metrics.
    #[arg(long, env = "SEALED_SECRETS_LISTEN_METRICS_ADDR", default_value = "0.0.0.0:8081", value_parser = address)]
    pub listen_metrics_addr: SocketAddr,

    /// Follow GitSyncs. Without it the controller only opens SealedSecrets.
    #[arg(long, env = "SIGNET_GIT_SYNC", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub git_sync: bool,
    /// Folder for mirrors of Git repositories.
    #[arg(long, env = "SIGNET_GIT_CACHE", default_value = "/var/cache/signet", value_name = "DIR")]
    pub git_cache: PathBuf,
    /// Folder below which file:// repositories may be read. Without it file:// is refused.
    #[arg(long, env = "SIGNET_GIT_FILE_ROOT", value_name = "DIR")]
    pub git_file_root: Option<PathBuf>,
    /// Time that one fetch may take.
    #[arg(long, env = "SIGNET_GIT_TIMEOUT", default_value = "60s", value_parser = duration, value_name = "DURATION")]
    pub git_timeout: SignedDuration,
    /// ServiceAccount, in the controller's namespace, whose rights the sync has.
    #[arg(long, env = "SIGNET_SYNC_SERVICE_ACCOUNT", default_value = "signet-sync", value_name = "NAME")]
    pub sync_service_account: String,

    /// Least severe line to log.
    #[arg(long, env = "SEALED_SECRETS_LOG_LEVEL", default_value = "INFO", ignore_case = true)]
    pub log_level: LogLevel,
    /// Form of a log line.
    #[arg(long, env = "SEALED_SECRETS_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Print the version.
    #[arg(long, action = clap::ArgAction::Version)]
    version: Option<bool>,
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

fn duration(text: &str) -> Result<SignedDuration, String> {
    let parsed = if text == "0" { Some(SignedDuration::ZERO) } else { text.parse().ok() };
    parsed
        .filter(|duration| !duration.is_negative())
        .ok_or_else(|| "not a duration such as 30s, 10m or 720h".to_owned())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    // Go's short form for all addresses.
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    full.parse().map_err(|_| "not an address such as :8080 or 127.0.0.1:8080".to_owned())
}

fn key_size(text: &str) -> Result<u32, String> {
    [2048, 3072, 4096, 8192]
        .into_iter()
        .find(|bits| bits.to_string() == text)
        .ok_or_else(|| "must be 2048, 3072, 4096 or 8192".to_owned())
}

fn key_prefix(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !text.is_empty() && text.len() <= 245 && text.chars().all(fits) {
        return Ok(text.to_owned());
    }
    Err("must be at most 245 lower-case letters, digits and dashes".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(["signet-controller"].iter().chain(flags))
    }

    #[test]
    fn defaults_are_upstreams() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.key_renew_period, SignedDuration::from_hours(720));
        assert_eq!((args.key_size, args.key_prefix.as_str()), (4096, "sealed-secrets-key"));
        assert_eq!(args.listen_addr.port(), 8080);
    }

    #[test]
    fn go_spellings_are_read() {
        let args = parse(&["--listen-addr", ":9090", "--key-renew-period", "0", "--rotate-period=0"]);
        assert!(args.is_err(), "given twice");
        let args = parse(&["--listen-addr", ":9090", "--rotate-period", "0", "--log-level", "info"]).unwrap();
        assert_eq!((args.listen_addr.port(), args.key_renew_period), (9090, SignedDuration::ZERO));
    }

    #[test]
    fn nonsense_is_refused() {
        for flags in [["--key-size", "1000"], ["--key-prefix", "Nö"], ["--key-ttl", "-1h"], ["--log-level", "LOUD"]] {
            assert!(parse(&flags).is_err(), "{flags:?}");
        }
    }
}
