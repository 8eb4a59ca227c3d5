//! Signatures as `ssh-keygen -Y sign` makes them, and who may sign as an allowed_signers file or single public keys say
//! it. Pure.

use aws_lc_rs::signature::{self, RsaParameters, RsaPublicKeyComponents};
use jiff::{Timestamp, civil, tz::TimeZone};
use russh::keys::{
    Algorithm, HashAlg, PublicKey,
    ssh_key::{SshSig, public::KeyData},
};

use super::Reject;

/// What git has signed.
const NAMESPACE: &str = "git";

/// A key, and when it may sign.
pub struct SshKey {
    key: PublicKey,
    from: Option<i64>,
    until: Option<i64>,
}

/// One key a line: as in a `.pub` file, or after principals and options as in allowed_signers.
pub fn keys(text: &str) -> Result<Vec<SshKey>, &'static str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys = lines.filter_map(|line| key(line).transpose()).collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() { Err("there is no SSH key in it that may sign commits") } else { Ok(keys) }
}

/// None for a key of another namespace.
fn key(line: &str) -> Result<Option<SshKey>, &'static str> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_kind =
        |word: &&str| ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"].iter().any(|kind| word.starts_with(kind));
    let at = words.iter().position(is_kind).ok_or("a line holds no SSH key")?;
    let key = PublicKey::from_openssh(&words[at..].join(" ")).map_err(|_| "a line holds an SSH key that is damaged")?;
    let (mut from, mut until) = (None, None);
    for option in words[..at].iter().skip(1).flat_map(|word| options(word)) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let value = value.trim_matches('"');
        match name.to_ascii_lowercase().as_str() {
            "cert-authority" => {
                return Err("a line names an authority of certificates, which cannot be used: name keys");
            }
            "namespaces" if !value.split(',').any(|namespace| namespace == NAMESPACE) => return Ok(None),
            "valid-after" => from = Some(time(value).ok_or("a line has a valid-after that is no time")?),
            "valid-before" => until = Some(time(value).ok_or("a line has a valid-before that is no time")?),
            _ => {}
        }
    }
    Ok(Some(SshKey { key, from, until }))
}

/// `a,b="c,d"`: commas within quotes separate nothing.
fn options(text: &str) -> Vec<&str> {
    let mut quoted = false;
    let separates = |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    };
    text.split(separates).collect()
}

/// `YYYYMMDD[HHMM[SS]][Z]`; without Z it is the time of where we run, which is UTC.
fn time(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(['Z', 'z']);
    let part = |from: usize, to: usize| digits.get(from..to)?.parse::<i8>().ok();
    let year = digits.get(0..4)?.parse().ok()?;
    let (hour, minute) = if digits.len() >= 12 { (part(8, 10)?, part(10, 12)?) } else { (0, 0) };
    let second = if digits.len() >= 14 { part(12, 14)? } else { 0 };
    let date = civil::DateTime::new(year, part(4, 6)?, part(6, 8)?, hour, minute, second, 0).ok()?;
    let zoned = date.to_zoned(TimeZone::UTC).ok()?;
    Some(Timestamp::from(zoned).as_second())
}

/// The fingerprint of who signed.
pub fn verify(armor: &str, payload: &[u8], keys: &[SshKey], at: Option<i64>) -> Result<String, Reject> {
    let bad = |why: &str| Reject::Bad(why.to_owned());
    let sig =
        SshSig::from_pem(armor.trim()).map_err(|_| bad("it cannot be read; SSH certificates are not supported"))?;
    let fingerprint = sig.public_key().fingerprint(HashAlg::Sha256).to_string();
    let known = keys.iter().find(|known| known.key.key_data() == sig.public_key());
    let known = known.ok_or_else(|| Reject::Unknown(format!("the SSH key {fingerprint}")))?;
    if sig.namespace() != NAMESPACE {
        return Err(bad("it was not made for git"));
    }
    let holds = match sig.public_key() {
        KeyData::Rsa(key) => {
            let signed =
                SshSig::signed_data(NAMESPACE, sig.hash_alg(), payload).map_err(|_| bad("it cannot be read"))?;
            let (n, e) = (key.n().as_positive_bytes(), key.e().as_positive_bytes());
            rsa(&sig, n.unwrap_or_default(), e.unwrap_or_default(), &signed)
        }
        _ => known.key.verify(NAMESPACE, payload, &sig).is_ok(),
    };
    if !holds {
        return Err(bad("it is not of these words: they were changed after signing"));
    }
    let in_time =
        at.is_some_and(|at| known.from.is_none_or(|from| at >= from) && known.until.is_none_or(|until| at < until));
    if (known.from.is_some() || known.until.is_some()) && !in_time {
        return Err(bad(&format!("the SSH key {fingerprint} might not sign at that time")));
    }
    Ok(format!("the SSH key {fingerprint}"))
}

/// ssh-key verifies no RSA without the crate that we hold at another version.
fn rsa(sig: &SshSig, n: &[u8], e: &[u8], signed: &[u8]) -> bool {
    let parameters: &RsaParameters = match sig.algorithm() {
        Algorithm::Rsa { hash: Some(HashAlg::Sha512) } => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Rsa { hash: Some(HashAlg::Sha256) } => &signature::RSA_PKCS1_2048_8192_SHA256,
        _ => return false,
    };
    RsaPublicKeyComponents { n, e }.verify(parameters, signed, sig.signature_bytes()).is_ok()
}
