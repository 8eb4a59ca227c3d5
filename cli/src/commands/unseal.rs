//! `--recovery-unseal`: opens SealedSecrets with private keys from files, when there is no controller that could. Asks
//! no cluster and reads no kubeconfig.

use std::path::PathBuf;

use crds::{
    KeyRing, SealedSecret, explain,
    template::Environment,
    unseal::{self, ClearSecret, UnsealError},
};
use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::{
    command::Unseal,
    commands::input,
    exit::{self, Error},
    io::{Io, ReadError},
    key_file::{self, KeyFileError},
    output,
};

/// Why there are no keys to open with.
#[derive(Debug, thiserror::Error)]
pub enum UnsealCommandError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("cannot use the private key {}", path.display())]
    Key { path: PathBuf, source: Box<KeyFileError> },
}

/// What several refusals add up to.
const WHAT: &str = "SealedSecrets cannot be opened";

pub fn run(command: Unseal, io: &mut Io<'_>) -> Result<(), Error> {
    let Unseal { input, output, namespace, keys } = command;
    let ring = ring(keys, io)?;
    let (text, _) = input::read(input.as_deref(), io)?;
    let mut found = input::sealed_secrets(&text, WHAT)?;
    input::settle_namespaces(&mut found, namespace.as_deref(), None, io)?;
    let opened = found.into_iter().map(|(place, sealed)| open(&sealed, &ring).map_err(|error| (place, error)));
    let secrets = input::all(WHAT, opened).map_err(|refused| match ring.keys() {
        [] => Error::NoKeys(refused),
        _ => input::InputError::from(refused).into(),
    })?;
    let mut text = Zeroizing::new(String::new());
    for secret in &secrets {
        text.push_str(&output::render_secret(secret, output.format)?);
    }
    Ok(output::write_private(text.as_bytes(), output.path.as_deref(), io)?)
}

fn open(sealed: &SealedSecret, ring: &KeyRing) -> Result<ClearSecret, UnsealError> {
    let opened = unseal::open(sealed, ring, None).outcome.map_err(|error| match error {
        UnsealError::NoKey(mut closed) if !ring.keys().is_empty() => {
            explain::explain(sealed, ring, &mut closed);
            UnsealError::NoKey(closed)
        }
        error => error,
    })?;
    unseal::secret(sealed, opened, Environment { rng: &mut rand::rng(), now: Timestamp::now() })
}

/// The keys of all files. One that is spoilt among others is only warned of: the others may be the ones that are needed.
pub fn ring(paths: Vec<PathBuf>, io: &mut Io<'_>) -> Result<KeyRing, UnsealCommandError> {
    let mut keys = Vec::new();
    for path in paths {
        let (text, _) = io.read_text(Some(&path))?;
        let (good, mut spoilt): (Vec<_>, Vec<_>) = key_file::keys(&text).into_iter().partition(Result::is_ok);
        if let (true, Some(Err(source))) = (good.is_empty(), spoilt.pop()) {
            return Err(UnsealCommandError::Key { path, source: source.into() });
        }
        for error in spoilt.into_iter().filter_map(Result::err) {
            let error = UnsealCommandError::Key { path: path.clone(), source: error.into() };
            io.warning(&exit::chain(&error));
        }
        keys.extend(good.into_iter().flatten());
    }
    Ok(keys.into_iter().collect())
}
