//! `--raw`: seals one value to what belongs under `encryptedData`. The value is taken as it is, line ends and all.

use crds::{Scope, envelope::EnvelopeError, seal};

use crate::{
    certificate, cluster,
    command::Raw,
    commands::input,
    exit::Error,
    io::{Io, ReadError},
    output,
};

/// Why a value cannot be sealed.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    #[error("must provide the --namespace flag with --raw and --scope {0}")]
    NoNamespace(Scope),
    #[error("say which Secret the value is for (seal raw NAMESPACE/NAME), or choose another --scope than strict")]
    NoTarget,
    #[error("namespace mismatch: {target} names the namespace {own:?} but {given:?} was specified")]
    NamespaceMismatch { target: String, own: String, given: String },
    #[error("{0:?} is no NAMESPACE/NAME: neither of them has a '/' in it")]
    Target(String),
    #[error("cannot read the value to seal")]
    Read(#[source] ReadError),
    #[error("cannot seal the value")]
    Seal(#[source] EnvelopeError),
}

pub async fn run(command: Raw, io: &mut Io<'_>) -> Result<(), Error> {
    let Raw { input, output, scope, name, namespace, access, certificate: origin } = command;
    let namespace = match namespace {
        Some(namespace) => namespace,
        None if scope == Scope::ClusterWide => String::new(),
        None => {
            let implicit = cluster::namespace(&access)?.ok_or(RawError::NoNamespace(scope))?;
            input::told(implicit, "sealing for", io)
        }
    };
    let certificate = certificate::fetch(&origin, io).await?.certificate;
    certificate::check_valid(&certificate, io.now)?;
    if input.is_none() {
        io.prompt("(tty detected: expecting a secret to encrypt in stdin)");
    }
    let value = io.read(input.as_deref()).map_err(RawError::Read)?;
    let sealed = seal::value(&value, (&namespace, &name), scope, &certificate, &mut rand::rng());
    // Whoever reads what is written below may take long.
    drop(value);
    let sealed = sealed.map_err(RawError::Seal)?;
    Ok(output::write(sealed.as_bytes(), output.as_deref(), io)?)
}
