//! What was meant. Every default and every conflict of flags is decided here, without I/O: a verb gets only what it
//! needs, and cannot see a flag that does not concern it.

use std::path::PathBuf;

use crds::Scope;

use crate::{
    args::{self, Args, Program},
    certificate::{self, Origin},
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
    pub certificate: Origin,
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
    #[error("must provide the --name flag with --raw and --scope strict")]
    NoName,
    #[error("unsupported output format: {0}")]
    Format(String),
    #[error("--cert is not a URL")]
    CertificateUrl(#[from] certificate::UrlError),
}

impl TryFrom<Args> for Command {
    type Error = CommandError;

    fn try_from(args: Args) -> Result<Self, CommandError> {
        let Args { program, verb, sealing, files, certificate, connection, ignored: _ } = args;
        let args::Verb { raw, fetch_cert, version } = verb;
        if version {
            return Ok(Self::Version(program));
        }
        let args::Sealing { scope, name, namespace, allow_empty_data, from_file } = sealing;
        let args::Files { secret_file, sealed_secret_file, format } = files;
        if !raw && !from_file.is_empty() {
            return Err(CommandError::FromFileWithoutRaw);
        }
        let name = name.filter(|name| !name.is_empty());
        let namespace = namespace.filter(|namespace| !namespace.is_empty());
        let output = sealed_secret_file.filter(|path| !path.as_os_str().is_empty());
        let input = secret_file.filter(|path| !path.as_os_str().is_empty());
        let access = access(connection);
        let certificate = origin(certificate, access.clone())?;
        // With several verbs the first of this order counts, as in kubeseal.
        if fetch_cert {
            return Ok(Self::FetchCert(FetchCert { certificate, output }));
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
            return Ok(Self::Raw(Raw { input, output, scope, name, namespace, access, certificate }));
        }
        let output = Output { format: output_format(&format, output.as_ref())?, path: output };
        let rules = Rules { scope, name, namespace, allow_empty_data };
        Ok(Self::Seal(Seal { input, output, rules, access, certificate }))
    }
}

fn access(args::Connection { kubeconfig, context }: args::Connection) -> Access {
    Access {
        kubeconfig: kubeconfig.filter(|path| !path.as_os_str().is_empty()),
        context: context.filter(|context| !context.is_empty()),
    }
}

fn origin(certificate: args::Certificate, access: Access) -> Result<Origin, CommandError> {
    let args::Certificate { cert, controller_name: name, controller_namespace: namespace } = certificate;
    Ok(match cert.filter(|cert| !cert.is_empty()) {
        Some(cert) => Origin::parse(&cert)?,
        None => Origin::Controller(access, Controller { namespace, name }),
    })
}

/// `[key=]path`, as `kubectl create secret` has it; the key is of no use here.
fn value_file(from_file: &[String]) -> Result<Option<PathBuf>, CommandError> {
    match from_file {
        [] => Ok(None),
        [one] => Ok(Some(one.split_once('=').map_or(one.as_str(), |(_, path)| path).into())),
        _ => Err(CommandError::SeveralFiles),
    }
}

/// The extension of the output decides before the flag does.
fn output_format(word: &str, output: Option<&PathBuf>) -> Result<Format, CommandError> {
    let extension = output.and_then(|path| path.extension()).and_then(|extension| extension.to_str());
    let flag = match word.to_lowercase().as_str() {
        "json" | "" => Format::Json,
        "yaml" => Format::Yaml,
        _ => return Err(CommandError::Format(word.to_owned())),
    };
    Ok(match extension {
        Some("yaml" | "yml") => Format::Yaml,
        Some("json") => Format::Json,
        _ => flag,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(line: &str) -> Result<Command, CommandError> {
        Command::try_from(args::parse(line.split_whitespace().map(Into::into)).unwrap())
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
        assert!(matches!(meant("seal --fetch-cert --raw"), Ok(Command::FetchCert(_))));
        assert!(matches!(meant("seal --raw --name db"), Ok(Command::Raw(_))));
        assert!(matches!(meant("seal"), Ok(Command::Seal(_))));
    }

    #[test]
    fn the_extension_decides_the_format_before_the_flag() {
        for (line, format) in [
            ("seal", Format::Json),
            ("seal -o YAML", Format::Yaml),
            ("seal -w a.yaml", Format::Yaml),
            ("seal -w a.yml -o json", Format::Yaml),
            ("seal -w a.json -o yaml", Format::Json),
            ("seal -w a.txt -o yaml", Format::Yaml),
        ] {
            assert_eq!(seal(line).output.format, format, "{line}");
        }
        assert_eq!(meant("seal -o xml").unwrap_err(), CommandError::Format("xml".to_owned()));
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
    fn strict_is_not_the_same_as_no_scope() {
        assert_eq!(seal("seal").rules.scope, None);
        assert_eq!(seal("seal --scope strict").rules.scope, Some(Scope::Strict));
    }

    #[test]
    fn an_empty_value_is_none() {
        let seal = seal("seal --name= --namespace= --cert= -w= -f=");
        assert!(seal.rules.name.is_none() && seal.rules.namespace.is_none());
        assert!(seal.input.is_none() && seal.output.path.is_none());
        assert!(matches!(seal.certificate, Origin::Controller(..)));
    }
}
