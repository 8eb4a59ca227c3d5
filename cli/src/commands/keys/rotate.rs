//! `seal keys rotate`: asks for a new key, and waits until its certificate is served.

use serde_json::json;

use super::{Found, KeysError, Served};
use crate::{
    commands::cert,
    exit::{Error, Exit},
    io::Io,
    output,
    verbs::{CertOutput, keys::Rotate},
};

pub async fn run(command: Rotate, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Rotate { write, output, dry_run, waiting, home } = command;
    let found = Found::by(home).await?;
    let newest = found.keys.newest().ok_or_else(|| KeysError::None { namespace: found.namespace.clone() })?;
    // Asked for already, perhaps by somebody who did not wait: there is one key to be made, not two.
    if !newest.replace {
        found.ask(&newest.name, dry_run).await?;
    }
    if dry_run {
        io.remark(&format!("would ask for a key in the place of {} ({})", newest.fingerprint, newest.name));
        return Ok(Exit::Ok);
    }
    io.remark(&format!("asked for a key in the place of {}", newest.fingerprint));
    let Served { pem, certificate } = found.another_certificate(waiting).await?;
    let more = [("replaced", json!(newest.fingerprint)), ("certificate", json!(pem))];
    let unwritten = |source| KeysError::Unwritten { key: certificate.fingerprint().clone(), source: Box::new(source) };
    if let Some(path) = &write {
        output::write(pem.as_bytes(), Some(path), io).map_err(unwritten)?;
    }
    if write.is_none() || output != CertOutput::Pem {
        let text = cert::told(&certificate, pem, &more, output, io.now).map_err(unwritten)?;
        output::write(text.as_bytes(), None, io).map_err(unwritten)?;
    }
    Ok(Exit::Ok)
}
