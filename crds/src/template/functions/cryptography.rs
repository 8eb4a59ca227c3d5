//! Sprig's hashes, ciphers, passwords and random texts. Randomness is an argument of the rendering. What costs much to
//! compute is charged for it.

use aws_lc_rs::{
    cipher::{
        AES_256, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey,
        UnboundCipherKey,
    },
    digest, hmac,
};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::{
    super::value::{Outcome, Run, Value},
    Arguments, Function,
    Param::{Counter, Int, Text},
    basics::with,
    function,
};
use crate::base64;

/// A bcrypt of the default cost takes some 50 ms, so all templates of a SealedSecret may make 32.
const BCRYPT_WORK: usize = 512 << 10;
/// The scrypt of `derivePassword` takes some 150 ms and 32 MiB, so there may be four.
const SCRYPT_WORK: usize = 4 << 20;

pub(super) const FUNCTIONS: &[Function] = &[
    function("sha1sum", &[Text], |run, it| hex(run, digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, it.text(0)))),
    function("sha256sum", &[Text], |run, it| hex(run, digest::digest(&digest::SHA256, it.text(0)))),
    function("sha512sum", &[Text], |run, it| hex(run, digest::digest(&digest::SHA512, it.text(0)))),
    function("adler32sum", &[Text], |run, it| {
        let (a, b) = it.text(0).iter().fold((1u32, 0u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65521;
            (a, (a + b) % 65521)
        });
        run.text((b << 16 | a).to_string())
    }),
    function("bcrypt", &[Text], |run, it| run.text(bcrypt(run, it.text(0))?)),
    function("htpasswd", &[Text, Text], |run, it| {
        if it.text(0).contains(&b':') {
            return Err("a user name cannot contain a colon");
        }
        run.text([it.text(0), b":", &bcrypt(run, it.text(1))?].concat())
    }),
    function("derivePassword", &[Counter, Text, Text, Text, Text], derive_password),
    function("encryptAES", &[Text, Text], |run, it| {
        if it.text(1).is_empty() {
            return run.text("");
        }
        let mut iv = [0; 16];
        run.fill(&mut iv);
        let mut text = Zeroizing::new(it.text(1).to_vec());
        let key = PaddedBlockEncryptingKey::cbc_pkcs7(key(it)?).map_err(|_| NO_CIPHER)?;
        key.less_safe_encrypt(&mut *text, EncryptionContext::Iv128((&iv).into())).map_err(|_| NO_CIPHER)?;
        run.text(base64::encode(&[&iv[..], &text].concat()))
    }),
    function("decryptAES", &[Text, Text], |run, it| {
        if it.text(1).is_empty() {
            return run.text("");
        }
        let decoded = str::from_utf8(it.text(1)).ok().and_then(base64::decode).ok_or("the text is not base64")?;
        let (iv, sealed) = decoded.split_first_chunk::<16>().ok_or(NO_CIPHER)?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key(it)?).map_err(|_| NO_CIPHER)?;
        let context = DecryptionContext::Iv128(iv.into());
        let text = key.decrypt(&mut sealed, context).map_err(|_| NO_CIPHER)?;
        run.text(&*text)
    }),
    function("randBytes", &[Int], |run, it| {
        run.charge(it.count(0).saturating_mul(2))?;
        let mut bytes = Zeroizing::new(vec![0; it.count(0)]);
        run.fill(&mut bytes);
        run.text(base64::encode(&bytes))
    }),
    function("randAlphaNum", &[Int], |run, it| drawn(run, it, u8::is_ascii_alphanumeric)),
    function("randAlpha", &[Int], |run, it| drawn(run, it, u8::is_ascii_alphabetic)),
    function("randNumeric", &[Int], |run, it| drawn(run, it, u8::is_ascii_digit)),
    function("randAscii", &[Int], |run, it| drawn(run, it, |byte| matches!(byte, b' '..=b'~'))),
    function("shuffle", &[Text], |run, it| {
        let mut chars = Zeroizing::new(super::super::value::runes(it.text(0)).collect::<Vec<_>>());
        run.charge(4 * chars.len())?;
        for at in (1..chars.len()).rev() {
            let other = run.below(at as u64 + 1);
            chars.swap(at, usize::try_from(other).unwrap_or_default());
        }
        with(run, |out| chars.iter().try_for_each(|char| out.push_char(*char)))
    }),
    function("uuidv4", &[], |run, _| {
        let mut bytes = [0; 16];
        run.fill(&mut bytes);
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = HEXLOWER.encode(&bytes);
        let groups = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        run.text(groups.join("-"))
    }),
];

const NO_CIPHER: &str = "the text cannot be encrypted or decrypted with that password";

fn hex(run: &Run, digest: digest::Digest) -> Outcome {
    run.text(HEXLOWER.encode(digest.as_ref()))
}

fn bcrypt(run: &Run, password: &[u8]) -> Outcome<Vec<u8>> {
    run.charge(BCRYPT_WORK)?;
    let mut salt = [0; 16];
    run.fill(&mut salt);
    let hash = bcrypt::non_truncating_hash_with_salt(password, 10, salt);
    let hash = hash.map_err(|_| "bcrypt takes passwords of up to 72 bytes without a zero byte")?;
    Ok(hash.format_for_version(bcrypt::Version::TwoA).into_bytes())
}

/// The password's first 32 bytes, filled up with zeros: as sprig has it.
fn key(it: &Arguments) -> Outcome<UnboundCipherKey> {
    let mut key = Zeroizing::new([0; 32]);
    key.iter_mut().zip(it.text(0)).for_each(|(byte, given)| *byte = *given);
    UnboundCipherKey::new(&AES_256, &*key).map_err(|_| NO_CIPHER)
}

fn drawn(run: &Run, it: &Arguments, kept: fn(&u8) -> bool) -> Outcome {
    let alphabet: Vec<u8> = (b' '..=b'~').filter(kept).collect();
    run.charge(it.count(0).saturating_mul(4))?;
    with(run, |out| {
        (0..it.count(0)).try_for_each(|_| {
            let at = usize::try_from(run.below(alphabet.len() as u64)).unwrap_or_default();
            out.push(alphabet.get(at..=at).unwrap_or_default())
        })
    })
}

const LONG: &[&str] = &[
    "CvcvnoCvcvCvcv",
    "CvcvCvcvnoCvcv",
    "CvcvCvcvCvcvno",
    "CvccnoCvcvCvcv",
    "CvccCvcvnoCvcv",
    "CvccCvcvCvcvno",
    "CvcvnoCvccCvcv",
    "CvcvCvccnoCvcv",
    "CvcvCvccCvcvno",
    "CvcvnoCvcvCvcc",
    "CvcvCvcvnoCvcc",
    "CvcvCvcvCvccno",
    "CvccnoCvccCvcv",
    "CvccCvccnoCvcv",
    "CvccCvccCvcvno",
    "CvcvnoCvccCvcc",
    "CvcvCvccnoCvcc",
    "CvcvCvccCvccno",
    "CvccnoCvcvCvcc",
    "CvccCvcvnoCvcc",
    "CvccCvcvCvccno",
];

/// The shapes of a password of that kind.
fn shapes(kind: &[u8]) -> Option<&'static [&'static str]> {
    Some(match kind {
        b"maximum" => &["anoxxxxxxxxxxxxxxxxx", "axxxxxxxxxxxxxxxxxno"],
        b"long" => LONG,
        b"medium" => &["CvcnoCvc", "CvcCvcno"],
        b"short" => &["Cvcn"],
        b"basic" => &["aaanaaan", "aannaaan", "aaannaaa"],
        b"pin" => &["nnnn"],
        _ => return None,
    })
}

fn letters(shape: u8) -> &'static [u8] {
    match shape {
        b'V' => b"AEIOU",
        b'C' => b"BCDFGHJKLMNPQRSTVWXYZ",
        b'v' => b"aeiou",
        b'c' => b"bcdfghjklmnpqrstvwxyz",
        b'A' => b"AEIOUBCDFGHJKLMNPQRSTVWXYZ",
        b'a' => b"AEIOUaeiouBCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz",
        b'n' => b"0123456789",
        b'o' => b"@&%?,=[]_:-+*$#!'^~;()/.",
        _ => b"AEIOUaeiouBCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz0123456789!@#$%^&*()",
    }
}

/// The Master Password algorithm.
fn derive_password(run: &Run, it: &Arguments) -> Outcome {
    const SEED: &[u8] = b"com.lyndir.masterpassword";
    const FAILED: &str = "the password cannot be derived";
    let shapes = shapes(it.text(1)).ok_or("there is no such kind of password")?;
    run.charge(SCRYPT_WORK)?;
    let (password, user, site) = (it.text(2), it.text(3), it.text(4));
    let length = |text: &[u8]| u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
    let salt = [SEED, &length(user), user].concat();
    let mut key = Zeroizing::new([0; 64]);
    let params = scrypt::Params::new(15, 8, 2).map_err(|_| FAILED)?;
    scrypt::scrypt(password, &salt, &params, &mut *key).map_err(|_| FAILED)?;
    let counter = u32::try_from(it.int(0)).unwrap_or_default().to_be_bytes();
    let message = [SEED, &length(site), site, &counter].concat();
    let seed = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &*key), &message);
    let mut seed = seed.as_ref().iter().map(|byte| usize::from(*byte));
    let shape = shapes.get(seed.next().unwrap_or_default() % shapes.len()).ok_or(FAILED)?;
    let chosen =
        shape.bytes().zip(seed).filter_map(|(shape, at)| letters(shape).get(at % letters(shape).len()).copied());
    let chosen: Vec<u8> = chosen.collect();
    let value: Outcome<Value> = run.text(chosen);
    value
}
