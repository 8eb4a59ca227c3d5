//! The key that all targets open with: a test vector of the workspace.

use std::sync::{Arc, LazyLock};

use crds::{Certificate, KeyRing, PrivateKey, key_ring::RingKey};

const KEY: &str = include_str!("../../crds/testdata/old.key");
const CERTIFICATE: &str = include_str!("../../crds/testdata/old.crt");

/// Seals.
pub static SEALER: LazyLock<Certificate> =
    LazyLock::new(|| Certificate::from_pem(CERTIFICATE).expect("a test vector is well-formed"));

/// Opens.
pub static RING: LazyLock<KeyRing> = LazyLock::new(|| {
    KeyRing::from_iter([RingKey {
        private: Arc::new(PrivateKey::from_pem(KEY).expect("a test vector is well-formed")),
        certificate: None,
        certificate_pem: "".into(),
        born: jiff::Timestamp::UNIX_EPOCH,
    }])
});
