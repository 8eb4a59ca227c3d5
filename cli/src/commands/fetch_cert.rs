//! `--fetch-cert`: hands out the certificate, byte for byte as it came. An expired one too: whoever wants to look at
//! it may.

use crate::{certificate, command::FetchCert, exit::Error, io::Io, output};

pub async fn run(command: FetchCert, io: &mut Io<'_>) -> Result<(), Error> {
    let FetchCert { certificate: origin, output: path } = command;
    let fetched = certificate::fetch(&origin, io).await?;
    Ok(output::write(fetched.pem.as_bytes(), path.as_deref(), io)?)
}
