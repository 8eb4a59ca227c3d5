//! Whom TLS trusts on the way to Git hosts and to those who are notified: the authorities of the system, and beside them
//! those that a Secret names.

use std::sync::OnceLock;

use reqwest::Certificate;
use rustls::ClientConfig;
use rustls_platform_verifier::ConfigVerifierExt as _;

/// TLS with the authorities that the system trusts. They are read once: to read all of them costs more than a look at
/// Git that finds nothing new.
pub fn usual() -> Result<ClientConfig, rustls::Error> {
    static USUAL: OnceLock<ClientConfig> = OnceLock::new();
    if let Some(usual) = USUAL.get() {
        return Ok(usual.clone());
    }
    let read = ClientConfig::with_platform_verifier()?;
    Ok(USUAL.get_or_init(|| read).clone())
}

/// Those of a `ca.crt`; `None` for what is no PEM, or has none in it.
pub fn authorities(pem: &[u8]) -> Option<Vec<Certificate>> {
    Certificate::from_pem_bundle(pem).ok().filter(|all| !all.is_empty())
}
