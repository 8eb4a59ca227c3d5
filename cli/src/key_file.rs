//! Private keys as operators keep them: PEM, the controller's key Secrets, or lists of those. Pure over strings; an
//! error never shows what it read.

use crds::{KeyRing, PrivateKey, key::KeyError, key_ring::RingKey, unseal::ClearSecret};
use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::manifest::{self, Entry, Fault, Place};

/// Where a key Secret keeps its key.
const ENTRY: &str = "tls.key";

/// Why a file gives no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("it holds no private key: expected PEM, a key Secret or a list of them")]
    Empty,
    #[error(transparent)]
    Pem(#[from] KeyError),
    #[error("{place}: {fault}")]
    Manifest { place: Place, fault: Fault },
    #[error("{0}: secret must contain a '{ENTRY}' key")]
    NoEntry(Place),
    #[error("{place}: {ENTRY} is unusable")]
    Entry { place: Place, source: KeyError },
}

/// What one file holds, each key by itself: a spoilt one must not lock out the others.
pub fn private_keys(text: &str) -> Vec<Result<PrivateKey, KeyFileError>> {
    let pem = blocks(text);
    let found: Vec<_> = if pem.is_empty() {
        manifest::secrets(text).into_iter().map(key).collect()
    } else {
        pem.into_iter().map(|block| Ok(PrivateKey::from_pem(block)?)).collect()
    };
    if found.is_empty() { vec![Err(KeyFileError::Empty)] } else { found }
}

/// Keys without certificates: they open, in no order.
pub fn ring(keys: impl IntoIterator<Item = PrivateKey>) -> KeyRing {
    let bare = |key: PrivateKey| RingKey {
        private: key.into(),
        certificate: None,
        certificate_pem: "".into(),
        born: Timestamp::UNIX_EPOCH,
    };
    keys.into_iter().map(bare).collect()
}

fn key(Entry { place, object }: Entry<ClearSecret>) -> Result<PrivateKey, KeyFileError> {
    let secret = match object {
        Ok(secret) => secret,
        Err(fault) => return Err(KeyFileError::Manifest { place, fault }),
    };
    let secret = secret.expose();
    let bytes = secret.data.as_ref().and_then(|data| data.get(ENTRY)).map(|bytes| bytes.0.as_slice());
    let text = secret.string_data.as_ref().and_then(|data| data.get(ENTRY)).map(String::as_bytes);
    let Some(pem) = text.or(bytes) else { return Err(KeyFileError::NoEntry(place)) };
    let pem = Zeroizing::new(String::from_utf8_lossy(pem).into_owned());
    PrivateKey::from_pem(&pem).map_err(|source| KeyFileError::Entry { place, source })
}

/// The private keys of a PEM file, whatever else it holds. In a manifest none begins a line.
fn blocks(text: &str) -> Vec<&str> {
    let (mut found, mut start, mut end) = (Vec::new(), None, 0);
    for line in text.split_inclusive('\n') {
        if line.starts_with("-----BEGIN ") && line.trim_end().ends_with("PRIVATE KEY-----") {
            start = Some(end);
        }
        end += line.len();
        if line.starts_with("-----END ") {
            found.extend(start.take().and_then(|start| text.get(start..end)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str = include_str!("../../crds/testdata/new.key");
    const CERTIFICATE: &str = include_str!("../../crds/testdata/new.crt");

    fn fingerprints(text: &str) -> Vec<String> {
        private_keys(text).into_iter().map(|key| key.unwrap().fingerprint().to_string()).collect()
    }

    fn secret(kind: &str, entry: &str) -> String {
        let data = crds::base64::encode(NEW.as_bytes());
        format!("{{{kind}\"metadata\": {{\"name\": \"k\"}}, \"data\": {{\"{entry}\": \"{data}\"}}}}")
    }

    #[test]
    fn keys_are_found_in_every_form_that_operators_keep_them_in() {
        let key = fingerprints(NEW).remove(0);
        let one = secret("\"kind\": \"Secret\", ", ENTRY);
        let indented = NEW.replace('\n', "\n    ");
        for (text, count) in [
            (format!("{CERTIFICATE}\nnote\n{NEW}{NEW}"), 2),
            (NEW.replace('\n', "\r\n"), 1),
            (one.clone(), 1),
            (format!("{{\"kind\": \"List\", \"items\": [{one}, {one}]}}"), 2),
            (format!("{{\"items\": [{}]}}", secret("", ENTRY)), 1),
            (format!("---\n{one}\n---\n{one}\n"), 2),
            (format!("kind: Secret\nmetadata: {{}}\nstringData:\n  {ENTRY}: |\n    {indented}\n"), 1),
        ] {
            assert_eq!(fingerprints(&text), vec![key.clone(); count], "{}", &text[..20]);
        }
    }

    #[test]
    fn one_spoilt_key_locks_out_no_other_and_shows_nothing() {
        let spoilt =
            "{\"kind\": \"Secret\", \"metadata\": {\"name\": \"bad\"}, \"stringData\": {\"tls.key\": \"hunter2\"}}";
        let stream = format!("{spoilt}{}{}", secret("", "other"), secret("", ENTRY));
        let found = private_keys(&stream);
        assert!(found[2].is_ok());
        let words: Vec<String> = found.iter().filter_map(|key| key.as_ref().err()).map(ToString::to_string).collect();
        assert_eq!(words[0], "document 1, line 1 (bad): tls.key is unusable");
        assert!(words[1].ends_with("(k): secret must contain a 'tls.key' key"), "{}", words[1]);
        let none = private_keys("-----BEGIN CERTIFICATE-----\nhunter2").remove(0).unwrap_err().to_string();
        assert!(!none.contains("hunter2"), "{none}");
        assert!(matches!(private_keys("").remove(0), Err(KeyFileError::Empty)));
    }
}
