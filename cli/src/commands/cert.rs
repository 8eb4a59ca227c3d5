//! `seal cert`: what the certificate is, for a person or a script, and the certificate itself for later.

use serde_json::json;

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
    let certificate = &fetched.certificate;
    let facts = json!({
        "fingerprint": certificate.fingerprint(),
        "keyBits": certificate.key_bits(),
        "notBefore": certificate.not_before().to_string(),
        "notAfter": certificate.not_after().to_string(),
        "expired": io.now > certificate.not_after(),
        "origin": origin.to_string(),
    });
    let text = match output {
        CertOutput::Pem => fetched.pem,
        CertOutput::Json => serde_json::to_string_pretty(&facts).map_err(OutputError::Json)? + "\n",
        CertOutput::Yaml => crds::yaml::to_string(&facts).map_err(|error| OutputError::Yaml(error.to_string()))?,
        CertOutput::Text => format!(
            "Fingerprint: {}\nKey:         RSA, {} bits\nValid:       {} to {}{}\nFrom:        {origin}\n",
            certificate.fingerprint(),
            certificate.key_bits(),
            certificate.not_before(),
            certificate.not_after(),
            if io.now > certificate.not_after() { " (expired)" } else { "" },
        ),
    };
    Ok(output::write(text.as_bytes(), None, io)?)
}
