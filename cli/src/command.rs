//! What was meant. Every default and every conflict of flags is decided here, without I/O: a verb gets only what it
//! needs, and cannot see a flag that does not concern it.

use std::{path::PathBuf, time::Duration};

use crds::Scope;
use jiff::SignedDuration;
use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    args::{self, Args, Program},
    certificate::{self, Origin, Origins},
    cluster::{Access, Controller},
    output::{Format, Output},
};

/// One thing to do.
#[derive(Debug)]
pub enum Command {
    /// Print the version under the name of the program.
    Version(Program),
    /// Write the certificate.
    FetchCert(FetchCert),
    /// Seal one value.
    Raw(Raw),
    /// Seal Secrets.
    Seal(Seal),
    /// Ask the controller whether it can open SealedSecrets.
    Validate(Validate),
    /// Add the items of Secrets to a file's SealedSecret.
    MergeInto(MergeInto),
    /// Have the controller seal SealedSecrets anew.
    ReEncrypt(ReEncrypt),
    /// Open SealedSecrets with private keys.
    Unseal(Unseal),
}

/// See [`Command::Validate`].
#[derive(Debug)]
pub struct Validate {
    pub input: Option<PathBuf>,
    /// For SealedSecrets that name none.
    pub namespace: Option<String>,
    pub access: Access,
    pub controller: Controller,
}

/// See [`Command::MergeInto`].
#[derive(Debug)]
pub struct MergeInto {
    /// The file that holds the Secrets; standard input without one.
    pub input: Option<PathBuf>,
    /// The file that is changed.
    pub target: PathBuf,
    pub rules: Rules,
    pub access: Access,
    pub certificates: Origins,
}

/// See [`Command::ReEncrypt`].
#[derive(Debug)]
pub struct ReEncrypt {
    pub input: Option<PathBuf>,
    /// `None` is the input file itself; that it goes by another name here is for others to see.
    pub output: Option<Output>,
    /// For SealedSecrets that name none.
    pub namespace: Option<String>,
    pub access: Access,
    pub controller: Controller,
}

/// See [`Command::Unseal`].
#[derive(Debug)]
pub struct Unseal {
    pub input: Option<PathBuf>,
    pub output: Output,
    /// For SealedSecrets that name none.
    pub namespace: Option<String>,
    pub keys: Vec<PathBuf>,
}

/// See [`Command::FetchCert`].
#[derive(Debug)]
pub struct FetchCert {
    pub certificate: Origin,
    pub output: Option<PathBuf>,
}

/// See [`Command::Raw`].
#[derive(Debug)]
pub struct Raw {
    /// The file that holds the value; standard input without one.
    pub input: Option<PathBuf>,
    pub output: Option<PathBuf>,
    pub scope: Scope,
    /// Empty unless the scope is strict or it was given.
    pub name: String,
    pub namespace: Option<String>,
    pub access: Access,
    pub certificate: Origin,
}

/// See [`Command::Seal`].
#[derive(Debug)]
pub struct Seal {
    /// The file that holds the Secrets; standard input without one.
    pub input: Option<PathBuf>,
    pub output: Output,
    pub rules: Rules,
    pub access: Access,
    pub certificates: Origins,
}

/// What the flags say about every Secret of a stream.
#[derive(Debug, Default)]
pub struct Rules {
    /// Instead of what the Secret's annotations say.
    pub scope: Option<Scope>,
    /// Instead of the Secret's own.
    pub name: Option<String>,
    /// The only one accepted, and the one for Secrets that name none.
    pub namespace: Option<String>,
    pub allow_empty_data: bool,
}

/// Flags that make no sense together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("--from-file requires --raw")]
    FromFileWithoutRaw,
    #[error("must provide only one --from-file when encrypting a single item with --raw")]
    SeveralFiles,
    #[error("--secret-file does not go with --raw: name the file that holds the value with --from-file")]
    SecretFileWithRaw,
    #[error("--sealed-secret-file does not go with --merge-into: the file to merge into is the one that is changed")]
    OutputWithMerge,
    #[error("must provide the --name flag with --raw and --scope strict")]
    NoName,
    #[error("unsupported output format: {0}")]
    Format(String),
    #[error(
        "Invalid timeout value. Timeout must be a single integer in seconds, or an integer followed by a corresponding time unit (e.g. 1s | 2m | 3h)"
    )]
    Timeout,
    #[error("--cert more than once makes sense only where a SealedSecret is written: one value has one recipient")]
    SeveralCertificates,
    #[error("--cert is not a URL")]
    CertificateUrl(#[from] certificate::UrlError),
}

impl TryFrom<Args> for Command {
    type Error = CommandError;

    fn try_from(args: Args) -> Result<Self, CommandError> {
        let Args { program, verb, sealing, files, mut certificate, connection, ignored: _ } = args;
        if program == Program::Kubeseal {
            certificate.cert = certificate.cert.pop().into_iter().collect(); // kubeseal takes the last
        }
        let args::Verb {
            raw,
            merge_into,
            fetch_cert,
            re_encrypt,
            rotate,
            validate,
            recovery_unseal,
            recovery_private_key,
            version,
        } = verb;
        if version {
            return Ok(Self::Version(program));
        }
        let args::Sealing { scope: args::Chosen(scope), name, namespace, allow_empty_data, from_file } = sealing;
        let args::Files { secret_file, sealed_secret_file, format, verbosity: _ } = files;
        let from_file: Vec<String> = from_file.into_iter().filter(|file| !file.is_empty()).collect();
        if !raw && !from_file.is_empty() {
            return Err(CommandError::FromFileWithoutRaw);
        }
        let name = given(name);
        let namespace = given(namespace);
        let output = given_path(sealed_secret_file);
        let input = given_path(secret_file);
        let document_output = |path: Option<PathBuf>| -> Result<Output, CommandError> {
            Ok(Output { format: output_format(&format, path.as_ref())?, path })
        };
        // With several verbs the first of this order counts, as in kubeseal.
        if recovery_unseal {
            let output = document_output(output)?;
            let keys = recovery_private_key.into_iter().filter(|path| !path.as_os_str().is_empty()).collect();
            return Ok(Self::Unseal(Unseal { input, output, namespace, keys }));
        }
        let access = access(connection)?;
        let controller = controller(&certificate);
        if validate {
            return Ok(Self::Validate(Validate { input, namespace, access, controller }));
        }
        if re_encrypt || rotate {
            // The only verb that changes its input when there is no other place to write to.
            let in_place = input.is_some() && output.is_none();
            let output = if in_place { None } else { Some(document_output(output)?) };
            return Ok(Self::ReEncrypt(ReEncrypt { input, output, namespace, access, controller }));
        }
        if fetch_cert {
            return Ok(Self::FetchCert(FetchCert { certificate: origin(certificate, access)?, output }));
        }
        if let Some(target) = given_path(merge_into) {
            if output.is_some() {
                return Err(CommandError::OutputWithMerge);
            }
            output_format(&format, None)?; // the file keeps its own, but a wrong word is one
            let rules = Rules { scope, name, namespace, allow_empty_data };
            let certificates = origins(certificate, access.clone())?;
            return Ok(Self::MergeInto(MergeInto { input, target, rules, access, certificates }));
        }
        if raw {
            if input.is_some() {
                return Err(CommandError::SecretFileWithRaw);
            }
            let scope = scope.unwrap_or_default();
            let input = value_file(&from_file)?;
            let name = match name {
                None if scope == Scope::Strict => return Err(CommandError::NoName),
                name => name.unwrap_or_default(),
            };
            let certificate = origin(certificate, access.clone())?;
            return Ok(Self::Raw(Raw { input, output, scope, name, namespace, access, certificate }));
        }
        let output = document_output(output)?;
        let rules = Rules { scope, name, namespace, allow_empty_data };
        let certificates = origins(certificate, access.clone())?;
        Ok(Self::Seal(Seal { input, output, rules, access, certificates }))
    }
}

/// What works, but not as whoever typed it may think.
pub fn warnings(args: &Args) -> impl Iterator<Item = &'static str> {
    let args::Verb { rotate, recovery_unseal, recovery_private_key, .. } = &args.verb;
    let old = rotate.then_some("--rotate has been deprecated, please use --re-encrypt instead");
    let idle = (!recovery_unseal && recovery_private_key.iter().any(|path| !path.as_os_str().is_empty()))
        .then_some("ignoring --recovery-private-key because unseal command not chosen with --recovery-unseal");
    [old, idle].into_iter().flatten()
}

fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn given_path(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty())
}

pub fn access(connection: args::Connection) -> Result<Access, CommandError> {
    let args::Connection {
        kubeconfig,
        context,
        cluster,
        user,
        server,
        certificate_authority,
        tls_server_name,
        insecure_skip_tls_verify,
        proxy_url,
        disable_compression,
        request_timeout,
        token,
        client_certificate,
        client_key,
        username,
        password,
        as_user,
        as_group,
        as_uid,
    } = connection;
    let secret = |text: Option<SecretString>| text.filter(|text| !text.expose_secret().is_empty());
    Ok(Access {
        kubeconfig: given_path(kubeconfig),
        context: given(context),
        cluster: given(cluster),
        user: given(user),
        server: given(server),
        certificate_authority: given_path(certificate_authority),
        tls_server_name: given(tls_server_name),
        insecure_skip_tls_verify,
        proxy_url: given(proxy_url),
        disable_compression,
        request_timeout: given(request_timeout).map(|text| duration(&text)).transpose()?,
        token: secret(token),
        client_certificate: given_path(client_certificate),
        client_key: given_path(client_key),
        username: given(username),
        password: secret(password),
        impersonate: given(as_user),
        impersonate_groups: as_group.into_iter().filter(|group| !group.is_empty()).collect(),
        impersonate_uid: given(as_uid),
    })
}

/// Nobody waits longer; a deadline that is further away than this could be past what clocks can hold.
const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);

/// `30` are seconds; anything else is a duration as Go writes it.
pub fn duration(text: &str) -> Result<Duration, CommandError> {
    let limit = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            text.parse::<SignedDuration>().ok().and_then(|limit| limit.try_into().ok()).ok_or(CommandError::Timeout)?
        }
    };
    Ok(limit.min(LONGEST))
}

pub fn controller(certificate: &args::Certificate) -> Controller {
    let args::Certificate { cert: _, controller_name, controller_namespace } = certificate;
    Controller { namespace: controller_namespace.clone(), name: controller_name.clone() }
}

/// Where the certificates of all recipients come from.
pub fn origins(certificate: args::Certificate, access: Access) -> Result<Origins, CommandError> {
    let controller = controller(&certificate);
    let mut given = certificate.cert.into_iter().filter(|cert| !cert.is_empty()).map(|cert| Origin::parse(&cert));
    Ok(Origins {
        first: given.next().transpose()?.unwrap_or_else(|| Origin::Controller(access.into(), controller)),
        others: given.collect::<Result<_, _>>()?,
    })
}

/// The same where there can be one only.
pub fn origin(certificate: args::Certificate, access: Access) -> Result<Origin, CommandError> {
    let Origins { first, others } = origins(certificate, access)?;
    if others.is_empty() { Ok(first) } else { Err(CommandError::SeveralCertificates) }
}

/// `[key=]path`, as `kubectl create secret` has it; the key is of no use here.
fn value_file(from_file: &[String]) -> Result<Option<PathBuf>, CommandError> {
    match from_file {
        [] => Ok(None),
        [one] => Ok(Some(one.split_once('=').map_or(one.as_str(), |(_, path)| path).into())),
        _ => Err(CommandError::SeveralFiles),
    }
}

/// YAML's extensions decide before the flag does.
fn output_format(word: &str, output: Option<&PathBuf>) -> Result<Format, CommandError> {
    let extension = output.and_then(|path| path.extension()).and_then(|extension| extension.to_str());
    let flag = match word.to_lowercase().as_str() {
        "json" | "" => Format::Json,
        "yaml" => Format::Yaml,
        _ => return Err(CommandError::Format(word.to_owned())),
    };
    Ok(match extension {
        Some("yaml" | "yml") => Format::Yaml,
        _ => flag,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(line: &str) -> Result<Command, CommandError> {
        match args::parse(line.split_whitespace().map(Into::into)).unwrap() {
            args::Typed::Flags(args) => Command::try_from(*args),
            args::Typed::Verb(verb) => panic!("{line}: {verb:?}"),
        }
    }

    fn seal(line: &str) -> Seal {
        match meant(line) {
            Ok(Command::Seal(seal)) => seal,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_first_verb_in_kubeseals_order_counts() {
        assert!(matches!(meant("seal --version --fetch-cert"), Ok(Command::Version(Program::Seal))));
        assert!(matches!(meant("seal --recovery-unseal --validate"), Ok(Command::Unseal(_))));
        assert!(matches!(meant("seal --validate --re-encrypt"), Ok(Command::Validate(_))));
        assert!(matches!(meant("seal --rotate --fetch-cert"), Ok(Command::ReEncrypt(_))));
        assert!(matches!(meant("seal --fetch-cert --merge-into a"), Ok(Command::FetchCert(_))));
        assert!(matches!(meant("seal --merge-into a --raw"), Ok(Command::MergeInto(_))));
        assert!(matches!(meant("seal --raw --name db"), Ok(Command::Raw(_))));
        assert!(matches!(meant("seal"), Ok(Command::Seal(_))));
    }

    #[test]
    fn yamls_extensions_decide_the_format_before_the_flag() {
        for (line, format) in [
            ("seal", Format::Json),
            ("seal -o YAML", Format::Yaml),
            ("seal -w a.yaml", Format::Yaml),
            ("seal -w a.yml -o json", Format::Yaml),
            ("seal -w a.json -o yaml", Format::Yaml),
            ("seal -w a.json", Format::Json),
            ("seal -w a.txt -o yaml", Format::Yaml),
        ] {
            assert_eq!(seal(line).output.format, format, "{line}");
        }
        for line in ["seal -o xml", "seal -o xml --merge-into a"] {
            assert_eq!(meant(line).unwrap_err(), CommandError::Format("xml".to_owned()), "{line}");
        }
    }

    #[test]
    fn a_raw_value_needs_what_its_scope_is_bound_to() {
        assert_eq!(meant("seal --raw").unwrap_err(), CommandError::NoName);
        assert!(meant("seal --raw --scope namespace-wide").is_ok());
        assert!(meant("seal --raw --scope cluster-wide").is_ok());
    }

    #[test]
    fn a_raw_value_comes_from_one_place() {
        assert_eq!(meant("seal --from-file a").unwrap_err(), CommandError::FromFileWithoutRaw);
        assert_eq!(meant("seal --raw --name a --from-file a --from-file b").unwrap_err(), CommandError::SeveralFiles);
        assert_eq!(meant("seal --raw --name a -f b").unwrap_err(), CommandError::SecretFileWithRaw);
        for (file, path) in [("p.txt", "p.txt"), ("key=p.txt", "p.txt"), ("key=a=b", "a=b")] {
            let Ok(Command::Raw(raw)) = meant(&format!("seal --raw --name a --from-file {file}")) else { panic!() };
            assert_eq!(raw.input, Some(PathBuf::from(path)));
        }
    }

    #[test]
    fn re_encrypt_changes_its_input_only_when_nothing_else_is_named() {
        for (line, in_place) in [
            ("seal --re-encrypt", false),
            ("seal --re-encrypt -f a.yaml", true),
            ("seal --re-encrypt -f a.yaml -w b.yaml", false),
        ] {
            let Ok(Command::ReEncrypt(command)) = meant(line) else { panic!() };
            assert_eq!(command.output.is_none(), in_place, "{line}");
        }
        assert_eq!(meant("seal --merge-into a -w b").unwrap_err(), CommandError::OutputWithMerge);
    }

    #[test]
    fn a_timeout_is_seconds_or_a_duration_as_go_writes_it() {
        let limit = |text: &str| duration(text).map(|limit| limit.as_millis());
        assert_eq!(limit("30"), Ok(30_000));
        assert_eq!(limit("1m30s"), Ok(90_000));
        assert_eq!(limit("250ms"), Ok(250));
        assert_eq!(limit("0"), Ok(0));
        for bad in ["soon", "-1s", "1x"] {
            assert_eq!(limit(bad), Err(CommandError::Timeout), "{bad}");
        }
        // What nobody can live to see is no reason to panic.
        for long in ["2562047788015215h30m", "18446744073709551615"] {
            assert_eq!(duration(long), Ok(LONGEST), "{long}");
        }
    }

    #[test]
    fn strict_is_not_the_same_as_no_scope() {
        assert_eq!(seal("seal").rules.scope, None);
        assert_eq!(seal("seal --scope strict").rules.scope, Some(Scope::Strict));
    }

    #[test]
    fn an_empty_value_is_none() {
        let seal = seal("seal --name= --namespace= --cert= -w= -f=");
        assert!(seal.rules.name.is_none() && seal.rules.namespace.is_none());
        assert!(seal.input.is_none() && seal.output.path.is_none());
        assert!(matches!(seal.certificates.first, Origin::Controller(..)));
        assert_eq!(self::seal("seal --scope= --from-file=").rules.scope, None);
        let Ok(Command::Unseal(unseal)) =
            meant("seal --recovery-unseal --recovery-private-key a,,b, --recovery-private-key=")
        else {
            panic!()
        };
        assert_eq!(unseal.keys, [PathBuf::from("a"), PathBuf::from("b")]);
    }
}
