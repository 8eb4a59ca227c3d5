//! Signatures as gpg makes them. The library checks arithmetic; the policy is ours: a key counts when it certified
//! itself, was not revoked, could sign by its flags, and had not expired when it signed. A subkey must be bound to its
//! key both ways. A key that was ever revoked does not count at all: a thief can date a signature back. Pure.

use pgp::{
    composed::{Deserializable as _, DetachedSignature, SignedPublicKey, SignedPublicSubKey},
    crypto::hash::HashAlgorithm,
    packet::{Signature, SignatureType},
    types::{Duration, KeyDetails, Tag, Timestamp},
};

use super::Reject;

/// Somebody's key, with its subkeys.
pub struct PgpKey(SignedPublicKey);

/// All keys of an armored text.
pub fn keys(text: &str) -> Result<Vec<PgpKey>, &'static str> {
    const NO_KEY: &str = "there is no OpenPGP public key in it";
    let mut keys = Vec::new();
    // Somebody may have put one export after another.
    for block in text.split_inclusive("-----END PGP PUBLIC KEY BLOCK-----") {
        if block.trim().is_empty() {
            continue;
        }
        let (parsed, _) = SignedPublicKey::from_string_many(block).map_err(|_| NO_KEY)?;
        for key in parsed {
            keys.push(PgpKey(key.map_err(|_| "one of its OpenPGP keys is damaged")?));
        }
    }
    if keys.is_empty() { Err(NO_KEY) } else { Ok(keys) }
}

/// The fingerprint of who signed.
pub fn verify(armor: &str, payload: &[u8], keys: &[PgpKey]) -> Result<String, Reject> {
    let bad = |why: &str| Reject::Bad(why.to_owned());
    let (DetachedSignature { signature }, _) =
        DetachedSignature::from_string(armor).map_err(|_| bad("it cannot be read"))?;
    if !matches!(signature.typ(), Some(SignatureType::Binary | SignatureType::Text)) || !is_strong(&signature) {
        return Err(bad("it is of a kind, or by a hash, that is not taken"));
    }
    let at = signature.created().map(Timestamp::as_secs).ok_or_else(|| bad("it does not say when it was made"))?;
    for PgpKey(key) in keys {
        if is_by(&signature, &key.primary_key) {
            signature.verify(&key.primary_key, payload).map_err(|_| changed())?;
            may_sign(key, at, true).map_err(Reject::Bad)?;
            return Ok(named(key));
        }
        if let Some(subkey) = key.public_subkeys.iter().find(|subkey| is_by(&signature, &subkey.key)) {
            signature.verify(&subkey.key, payload).map_err(|_| changed())?;
            may_sign(key, at, false).and_then(|()| is_bound(key, subkey, at)).map_err(Reject::Bad)?;
            return Ok(named(key));
        }
    }
    let issuer = signature.issuer_fingerprint().first().map(ToString::to_string);
    let issuer = issuer.or_else(|| signature.issuer_key_id().first().map(ToString::to_string));
    Err(Reject::Unknown(format!("the OpenPGP key {}", issuer.unwrap_or_else(|| "of nobody".to_owned()).to_uppercase())))
}

fn changed() -> Reject {
    Reject::Bad("it is not of these words: they were changed after signing".to_owned())
}

fn named(key: &SignedPublicKey) -> String {
    format!("the OpenPGP key {}", key.fingerprint().to_string().to_uppercase())
}

fn is_by(signature: &Signature, key: &impl KeyDetails) -> bool {
    signature.issuer_fingerprint().into_iter().any(|issuer| *issuer == key.fingerprint())
        || (signature.issuer_fingerprint().is_empty()
            && signature.issuer_key_id().into_iter().any(|issuer| *issuer == key.legacy_key_id()))
}

/// For SHA-1 and older, others with the same hash can be made.
fn is_strong(signature: &Signature) -> bool {
    use HashAlgorithm as H;
    matches!(signature.hash_alg(), Some(H::Sha256 | H::Sha384 | H::Sha512 | H::Sha3_256 | H::Sha3_512))
}

fn newest<'a>(signatures: impl Iterator<Item = &'a Signature>) -> Option<&'a Signature> {
    signatures
        .filter(|signature| is_strong(signature))
        .max_by_key(|signature| signature.created().map(Timestamp::as_secs))
}

/// Whether the key was whole and alive then; and, where it signs itself, whether it may.
fn may_sign(key: &SignedPublicKey, at: u32, by_itself: bool) -> Result<(), String> {
    let primary = &key.primary_key;
    let name = named(key);
    if key.details.revocation_signatures.iter().any(|revocation| revocation.verify_key(primary).is_ok()) {
        return Err(format!("{name} is revoked"));
    }
    // What a user's name or the key itself says of the key, by its own hand.
    let by_users = key.details.users.iter().filter_map(|user| {
        let holds = |signature: &&Signature| signature.verify_certification(primary, Tag::UserId, &user.id).is_ok();
        newest(user.signatures.iter().filter(holds)).filter(|last| last.typ() != Some(SignatureType::CertRevocation))
    });
    let direct = key.details.direct_signatures.iter().filter(|signature| signature.verify_key(primary).is_ok());
    let own =
        newest(by_users.chain(direct)).ok_or_else(|| format!("{name} does not certify itself, or only by SHA-1"))?;
    lives(&name, primary, own, at)?;
    if by_itself && !own.key_flags().sign() {
        return Err(format!("{name} is not for signing"));
    }
    Ok(())
}

/// Whether the subkey was the key's own then, and for signing.
fn is_bound(key: &SignedPublicKey, subkey: &SignedPublicSubKey, at: u32) -> Result<(), String> {
    let name = format!("the subkey {}", subkey.key.fingerprint().to_string().to_uppercase());
    let holds = |signature: &&Signature| signature.verify_subkey_binding(&key.primary_key, &subkey.key).is_ok();
    let held: Vec<&Signature> = subkey.signatures.iter().filter(holds).collect();
    if held.iter().any(|signature| signature.typ() == Some(SignatureType::SubkeyRevocation)) {
        return Err(format!("{name} is revoked"));
    }
    let binding = newest(held.into_iter()).ok_or_else(|| format!("{name} is not bound to its key"))?;
    let back = binding.embedded_signature().filter(|back| is_strong(back));
    if back.is_none_or(|back| back.verify_primary_key_binding(&subkey.key, &key.primary_key).is_err()) {
        return Err(format!("{name} is not bound to its key by its own signature"));
    }
    lives(&name, &subkey.key, binding, at)?;
    if binding.key_flags().sign() { Ok(()) } else { Err(format!("{name} is not for signing")) }
}

fn lives(name: &str, key: &impl KeyDetails, own: &Signature, at: u32) -> Result<(), String> {
    let born = key.created_at().as_secs();
    let lifetime = own.key_expiration_time().map(Duration::as_secs).filter(|seconds| *seconds > 0);
    if at < born {
        return Err(format!("{name} did not exist at that time"));
    }
    match lifetime {
        Some(lifetime) if at >= born.saturating_add(lifetime) => Err(format!("{name} had expired by then")),
        _ => Ok(()),
    }
}
