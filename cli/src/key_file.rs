//! Private keys as operators keep them: PEM, the controller's key Secrets, or lists of those. Pure over strings; an
//! error never shows what it read.

use std::sync::Arc;

use crds::{
    Certificate, PrivateKey, key::KeyError, key_life::Mark, key_ring::RingKey, key_secret, unseal::ClearSecret,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use zeroize::Zeroizing;

use crate::manifest::{self, Entry, Fault, Place};

/// Where a key Secret keeps its key.
const ENTRY: &str = "tls.key";
/// And its certificate.
const CERTIFICATE: &str = "tls.crt";

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

/// What one file holds, each key by itself: a spoilt one must not lock out the others. A key whose certificate is there
/// too has its place in the order of keys; the others open only.
pub fn keys(text: &str) -> Vec<Result<RingKey, KeyFileError>> {
    let pem = blocks(text, "PRIVATE KEY");
    let found: Vec<_> = if pem.is_empty() {
        manifest::secrets(text).into_iter().map(key).collect()
    } else {
        let certificates = blocks(text, "CERTIFICATE");
        let certificates = certificates.into_iter().filter_map(|block| Certificate::from_pem(block).ok());
        let certificates: Vec<_> = certificates.collect();
        let own = |key| Ok(ring_key(PrivateKey::from_pem(key)?, &certificates));
        pem.into_iter().map(own).collect()
    };
    if found.is_empty() { vec![Err(KeyFileError::Empty)] } else { found }
}

fn ring_key(private: PrivateKey, certificates: &[Certificate]) -> RingKey {
    let certificate = certificates.iter().find(|certificate| certificate.belongs_to(&private).is_ok()).cloned();
    RingKey {
        private: private.into(),
        born: certificate.as_ref().map_or(Timestamp::UNIX_EPOCH, Certificate::not_before),
        certificate: certificate.map(Arc::new),
        certificate_pem: "".into(),
    }
}

fn key(Entry { place, object }: Entry<ClearSecret>) -> Result<RingKey, KeyFileError> {
    let secret = match object {
        Ok(secret) => secret,
        Err(fault) => return Err(KeyFileError::Manifest { place, fault }),
    };
    let secret = secret.expose();
    let Some(pem) = entry(secret, ENTRY) else { return Err(KeyFileError::NoEntry(place)) };
    let private = PrivateKey::from_pem(&pem).map_err(|source| KeyFileError::Entry { place, source })?;
    let labelled = secret.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(key_secret::LABEL));
    // What is marked compromised, or anything else, opens but seals no more.
    let seals = !labelled || Mark::of(&secret.metadata) == Some(Mark::Active);
    let certificate = entry(secret, CERTIFICATE).filter(|_| seals);
    let certificate = certificate.and_then(|pem| Certificate::from_pem(&pem).ok());
    Ok(ring_key(private, certificate.as_slice()))
}

fn entry(secret: &Secret, name: &str) -> Option<Zeroizing<String>> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(name)).map(|bytes| bytes.0.as_slice());
    let text = secret.string_data.as_ref().and_then(|data| data.get(name)).map(String::as_bytes);
    text.or(bytes).map(|bytes| Zeroizing::new(String::from_utf8_lossy(bytes).into_owned()))
}

/// The blocks of one kind in a PEM file, whatever else it holds. In a manifest none begins a line.
fn blocks<'a>(text: &'a str, kind: &str) -> Vec<&'a str> {
    let (mut found, mut start, mut end) = (Vec::new(), None, 0);
    let last = format!("{kind}-----");
    for line in text.split_inclusive('\n') {
        if line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&last) {
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
    use crds::{KeyRing, key};

    use super::*;

    const NEW: &str = include_str!("../../crds/testdata/new.key");
    const CERTIFICATE: &str = include_str!("../../crds/testdata/new.crt");

    fn fingerprints(text: &str) -> Vec<String> {
        keys(text).into_iter().map(|key| key.unwrap().private.fingerprint().to_string()).collect()
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
        let found = keys(&stream);
        assert!(found[2].is_ok());
        let words: Vec<String> = found.iter().filter_map(|key| key.as_ref().err()).map(ToString::to_string).collect();
        assert_eq!(words[0], "document 1, line 1 (bad): tls.key is unusable");
        assert!(words[1].ends_with("(k): secret must contain a 'tls.key' key"), "{}", words[1]);
        let none = keys("-----BEGIN CERTIFICATE-----\nhunter2").remove(0).unwrap_err().to_string();
        assert!(!none.contains("hunter2"), "{none}");
        assert!(matches!(keys("").remove(0), Err(KeyFileError::Empty)));
    }

    #[test]
    fn a_key_with_its_certificate_has_its_place_in_the_order() {
        let request = key::KeyRequest {
            bits: 2048,
            common_name: String::new(),
            not_before: "2027-01-01T00:00:00Z".parse().unwrap(),
            lifetime: jiff::SignedDuration::from_hours(1),
        };
        let minted = key::mint(&request, &mut rand::rng()).unwrap();
        let (newer, newer_certificate) = (minted.private_key_pem.as_str(), minted.certificate_pem.as_str());
        let ring: KeyRing =
            keys(&format!("{NEW}{newer}{CERTIFICATE}{newer_certificate}")).into_iter().flatten().collect();
        let newest = ring.newest().unwrap();
        assert_eq!(newest.private.fingerprint().to_string(), fingerprints(newer)[0]);
        assert_eq!(newest.born, request.not_before);
        let bare: KeyRing = keys(&format!("{NEW}{CERTIFICATE}{newer}")).into_iter().flatten().collect();
        assert_eq!(bare.newest().unwrap().private.fingerprint().to_string(), fingerprints(NEW)[0], "it seals");

        let indent = |pem: &str| pem.replace('\n', "\n    ");
        for (state, seals) in [("active", true), ("compromised", false)] {
            let text = format!(
                "kind: Secret\nmetadata: {{labels: {{{}: {state}}}}}\nstringData:\n  tls.key: |\n    {}\n  tls.crt: |\n    {}\n",
                key_secret::LABEL,
                indent(NEW),
                indent(CERTIFICATE)
            );
            assert_eq!(keys(&text).remove(0).unwrap().certificate.is_some(), seals, "{state}");
        }
    }
}
