//! `seal cert`: what the certificate is, for a person or a script, and the certificate itself for later.

use crds::Certificate;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    certificate,
    commands::sealed_file::origin,
    exit::Error,
    io::Io,
    output::{self, OutputError},
    verbs::{Cert, CertOutput},
};

pub async fn run(command: Cert, io: &mut Io<'_>) -> Result<(), Error> {
    let Cert { output, write, certificate, connection } = command;
    let (_, origin) = origin(certificate, connection)?;
    let fetched = certificate::fetch(&origin, io).await?;
    if let Some(path) = &write {
        output::write(fetched.pem.as_bytes(), Some(path), io)?;
    }
    let text = told(&fetched.certificate, fetched.pem, &[("origin", origin.to_string().into())], output, io.now)?;
    Ok(output::write(text.as_bytes(), None, io)?)
}

/// A certificate as it was asked for; `more` is known of it beside what it says itself.
pub fn told(
    certificate: &Certificate,
    pem: String,
    more: &[(&str, Value)],
    output: CertOutput,
    now: Timestamp,
) -> Result<String, OutputError> {
    let expired = now > certificate.not_after();
    let mut facts = json!({
        "fingerprint": certificate.fingerprint(),
        "keyBits": certificate.key_bits(),
        "notBefore": certificate.not_before().to_string(),
        "notAfter": certificate.not_after().to_string(),
        "expired": expired,
    });
    for (name, value) in more {
        facts[*name] = value.clone();
    }
    Ok(match output {
        CertOutput::Pem => pem,
        CertOutput::Json => serde_json::to_string_pretty(&facts).map_err(OutputError::Json)? + "\n",
        CertOutput::Yaml => crds::yaml::to_string(&facts).map_err(|error| OutputError::Yaml(error.to_string()))?,
        CertOutput::Text => {
            let from = more.iter().find(|(name, _)| *name == "origin").and_then(|(_, origin)| origin.as_str());
            let from = from.map(|from| format!("From:        {from}\n")).unwrap_or_default();
            format!(
                "Fingerprint: {}\nKey:         RSA, {} bits\nValid:       {} to {}{}\n{from}",
                certificate.fingerprint(),
                certificate.key_bits(),
                certificate.not_before(),
                certificate.not_after(),
                if expired { " (expired)" } else { "" },
            )
        }
    })
}
