//! Several clusters open one `SealedSecret`.
//!
//! The blob in `encryptedData` is what it always was, sealed for the first certificate, so that any controller of that
//! cluster opens it. For every further certificate the blob's session key is encrypted once more, by the same RSA-OAEP
//! under the same label, and kept in an annotation of the `SealedSecret` itself:
//!
//! ```json
//! {"SHA256:<fingerprint of the key>": {"<item>": "<base64 of the RSA ciphertext>"}}
//! ```
//!
//! Put in the place of the blob's own RSA ciphertext it makes the blob that this recipient would have been sent, and it is
//! opened as that. The AES-GCM tag shows whether it belongs to this blob: an item that was sealed again since, by a tool
//! that knows nothing of recipients, opens with the blob alone, and its old entry does no harm. Nothing is given away: each
//! entry is bound to the label as the blob is, and two entries of one item show the same as two blobs do.
//!
//! Whoever opens an item can seal it for a newer key of its own by encrypting the session key again: in the blob if it is
//! the first recipient, else in its entry. All others open it as before.
//!
//! Limits: upstream's controller opens with the first recipient's key only. The annotation has to survive overlays and
//! copies, and Kubernetes takes 256 KiB of annotations, which is some 370 entries for keys of 4096 bits.

use std::collections::{BTreeMap, BTreeSet};

use rand::CryptoRng;

use crate::{
    Certificate, Fingerprint, KeyRing, PrivateKey, base64,
    envelope::{Envelope, EnvelopeError},
    key_ring::{OpenError, Opened},
};

/// Where the entries are.
pub const RECIPIENTS: &str = "sealedsecrets.bitnami.com/recipients";

/// What Kubernetes takes for all annotations of an object.
const LIMIT: usize = 256 * 1024;

/// The session keys for recipients after the first: recipient, item, base64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipients(BTreeMap<String, BTreeMap<String, String>>);

/// More than an object can hold.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found} bytes of annotations for further recipients, but Kubernetes takes {LIMIT}: seal for fewer, or in several files"
)]
pub struct TooLarge {
    found: usize,
}

/// One item's entries: recipient and base64.
pub type Entries = Vec<(String, String)>;

/// A value sealed for several.
#[derive(Debug)]
pub struct Sealed {
    /// For `encryptedData`.
    pub blob: String,
    /// For the other recipients.
    pub others: Entries,
}

/// Seals one value for `first` and for all of `others`, under a label made by [`crate::Scope::label`].
pub fn seal(
    value: &[u8],
    label: &str,
    first: &Certificate,
    others: &[Certificate],
    rng: &mut impl CryptoRng,
) -> Result<Sealed, EnvelopeError> {
    let mut different: BTreeMap<&Fingerprint, &Certificate> = others.iter().map(|it| (it.fingerprint(), it)).collect();
    different.remove(first.fingerprint());
    let (blob, wraps) = first.seal_also(value, label, different.values().copied(), rng)?;
    let names = different.into_keys().map(ToString::to_string);
    let others = names.zip(wraps.iter().map(|wrap| base64::encode(wrap))).collect();
    Ok(Sealed { blob: base64::encode(&blob), others })
}

impl Recipients {
    /// What annotations say. What cannot be read is as good as nothing: the blob itself still opens.
    pub fn of(annotations: &BTreeMap<String, String>) -> Self {
        let text = annotations.get(RECIPIENTS);
        text.and_then(|text| serde_json::from_str(text).ok()).map(Self).unwrap_or_default()
    }

    /// What is wrong with the annotation, as far as it shows without a key.
    pub fn faults(annotations: &BTreeMap<String, String>, items: &BTreeMap<String, String>) -> Vec<String> {
        let Some(text) = annotations.get(RECIPIENTS) else { return Vec::new() };
        let Ok(all) = serde_json::from_str(text).map(Self) else {
            return vec!["is not what seal writes, so that only the first recipient opens the values".to_owned()];
        };
        let entries = all.0.iter().flat_map(|(name, items)| items.iter().map(move |(item, wrap)| (name, item, wrap)));
        let fault = |(name, item, wrap): (&String, &String, &String)| {
            if !items.contains_key(item) {
                return Some(format!("has an entry for {item:?}, which is no item here"));
            }
            let wrap = base64::decode(wrap).map(|wrap| wrap.len());
            let usable = name.starts_with("SHA256:") && wrap.is_some_and(|bytes| (64..=2048).contains(&bytes));
            (!usable).then(|| format!("has an entry for {item:?} that opens nothing; seal the item again"))
        };
        let fewer = items.keys().filter_map(|item| {
            let (count, most) = (all.count(item), all.most());
            (count < most).then(|| {
                let for_others = format!("{item:?} is sealed for {count} and other items for {most}");
                format!("shows that {for_others}, and who cannot open all gets none; seal it again with every --cert")
            })
        });
        entries.filter_map(fault).chain(fewer).collect()
    }

    /// For how many an item is sealed: for whoever the blob is, which nothing tells without a key, and for its entries.
    fn count(&self, item: &str) -> usize {
        1 + self.0.values().filter(|items| items.contains_key(item)).count()
    }

    /// The same of the item that is sealed for the most.
    fn most(&self) -> usize {
        let items = self.0.values().flat_map(|items| items.keys());
        items.map(|item| self.count(item)).max().unwrap_or(1)
    }

    /// Who opens what is here, and not what is sealed for `all` of these. The one whose name nothing tells, since it has
    /// no entry, is `None`.
    pub fn left_out<'a>(&'a self, all: &[&Fingerprint]) -> Vec<Option<&'a str>> {
        let all: BTreeSet<String> = all.iter().map(ToString::to_string).collect();
        let mut left: Vec<Option<&str>> = self.names().filter(|name| !all.contains(*name)).map(Some).collect();
        if left.is_empty() && all.len() < self.most() {
            left.push(None);
        }
        left
    }

    /// The recipients.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// An item's entries.
    pub fn entries(&self, item: &str) -> Entries {
        let entry = |(name, items): (&String, &BTreeMap<_, String>)| Some((name.clone(), items.get(item)?.clone()));
        self.0.iter().filter_map(entry).collect()
    }

    /// Makes these the entries of an item; all others of it belong to a blob that is gone.
    pub fn set(&mut self, item: &str, others: Entries) {
        self.0.values_mut().for_each(|items| drop(items.remove(item)));
        for (recipient, wrap) in others {
            self.0.entry(recipient).or_default().insert(item.to_owned(), wrap);
        }
        self.0.retain(|_, items| !items.is_empty());
    }

    /// Whether `after` and its blob open this item for everybody for whom these entries and `blob` did, as far as this
    /// can be seen without a key: one recipient has renewed its own part, and nothing else is different.
    pub fn survive(&self, item: &str, blob: &str, (after, blob_after): (&Self, &str)) -> bool {
        let (old, new) = (self.entries(item), after.entries(item));
        if old.is_empty() || (&old, blob) == (&new, blob_after) {
            return true;
        }
        if blob == blob_after {
            return old.len() == new.len() && old.iter().filter(|entry| !new.contains(entry)).count() == 1;
        }
        let (blob, blob_after) = (base64::decode(blob), base64::decode(blob_after));
        let ciphertext = |blob: &'_ Option<Vec<u8>>| Some(Envelope::parse(blob.as_deref()?).ok()?.ciphertext.to_vec());
        old == new && ciphertext(&blob).is_some_and(|before| ciphertext(&blob_after) == Some(before))
    }

    /// Seals an item for `certificate` instead of for `key`, which opens it by its entry or by the blob; all others open
    /// it as before. Answers the blob. `None` when the key does not open it. One RSA operation.
    pub(crate) fn renew(
        &mut self,
        (item, blob, through_entry): (&str, &[u8], bool),
        label: &str,
        key: &PrivateKey,
        certificate: &Certificate,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Vec<u8>>, EnvelopeError> {
        let envelope = Envelope::parse(blob)?;
        let entry = through_entry.then(|| self.wrap(key.fingerprint(), item)).flatten();
        let own = entry.as_deref().map_or(envelope, |wrap| envelope.with_session_key(wrap));
        let Some(renewed) = key.rewrap(own, label, certificate, rng)? else { return Ok(None) };
        if entry.is_none() {
            return envelope.with_session_key(&renewed).to_bytes().map(Some);
        }
        let mut others = self.entries(item);
        others.retain(|(recipient, _)| *recipient != key.fingerprint().to_string());
        others.push((certificate.fingerprint().to_string(), base64::encode(&renewed)));
        self.set(item, others);
        Ok(Some(blob.to_vec()))
    }

    fn wrap(&self, recipient: &Fingerprint, item: &str) -> Option<Vec<u8>> {
        base64::decode(self.0.get(&recipient.to_string())?.get(item)?)
    }

    /// The annotation's value; `None` when there is nothing to say.
    pub fn annotation(&self) -> Result<Option<String>, TooLarge> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let text = serde_json::json!(self.0).to_string();
        let found = text.len() + RECIPIENTS.len();
        if found > LIMIT { Err(TooLarge { found }) } else { Ok(Some(text)) }
    }

    /// Opens an item: with the key that an entry names, and else as a blob that has no entries.
    pub(crate) fn open(
        &self,
        (item, blob): (&str, &[u8]),
        label: &str,
        ring: &KeyRing,
        likely: Option<&Fingerprint>,
    ) -> Result<Opened, OpenError> {
        let mut spent = 0;
        for key in ring.keys() {
            let Some(wrap) = self.wrap(key.private.fingerprint(), item) else { continue };
            let own = Envelope::parse(blob)?.with_session_key(&wrap);
            if key.private.fits(own) {
                spent += 1;
                if let Some(plaintext) = key.private.open(own, label) {
                    let by = key.private.fingerprint().clone();
                    return Ok(Opened { plaintext, by, through_entry: true, operations: spent });
                }
            }
        }
        match ring.open(blob, label, likely) {
            Ok(opened) => Ok(Opened { operations: opened.operations + spent, ..opened }),
            Err(OpenError::NoKey { operations }) => Err(OpenError::NoKey { operations: operations + spent }),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{PrivateKey, Scope, SealedSecret, key_ring::RingKey, seal, unseal};

    const FIRST: (&str, &str) = (include_str!("../testdata/new.crt"), include_str!("../testdata/new.key"));
    const SECOND: (&str, &str) = (include_str!("../testdata/old.crt"), include_str!("../testdata/old.key"));

    fn certificate((certificate, _): (&str, &str)) -> Certificate {
        Certificate::from_pem(certificate).unwrap()
    }

    fn ring(pairs: &[(&str, &str)]) -> KeyRing {
        let born = jiff::Timestamp::UNIX_EPOCH;
        let key = |(_, key): &(&str, &str)| RingKey {
            private: Arc::new(PrivateKey::from_pem(key).unwrap()),
            certificate: None,
            certificate_pem: "".into(),
            born,
        };
        pairs.iter().map(key).collect()
    }

    fn sealed() -> SealedSecret {
        let secret = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "db", "namespace": "shop"}, "stringData": {"a": "one", "b": "two"},
        }))
        .unwrap();
        let others = [certificate(SECOND), certificate(FIRST)];
        seal::secret_for(&secret, Scope::Strict, &certificate(FIRST), &others, &mut rand::rng()).unwrap()
    }

    fn values(sealed: &SealedSecret, ring: &KeyRing) -> Option<Vec<Vec<u8>>> {
        let values = unseal::open(sealed, ring, None).outcome.ok()?.values;
        Some(values.values().map(|value| value.expose().to_vec()).collect())
    }

    #[test]
    fn every_recipient_opens_by_itself_and_nobody_else_does() {
        let mut sealed = sealed();
        let both = Some(vec![b"one".to_vec(), b"two".to_vec()]);
        assert_eq!(values(&sealed, &ring(&[FIRST])), both);
        assert_eq!(values(&sealed, &ring(&[SECOND])), both);
        let attempt = unseal::open(&sealed, &ring(&[SECOND]), None);
        assert_eq!(attempt.operations, 2, "the entry names the key");
        let annotations = sealed.metadata.annotations.clone().unwrap();
        assert_eq!(Recipients::of(&annotations).names().count(), 1, "the first needs no entry");
        sealed.metadata.name = Some("other".to_owned());
        assert_eq!(values(&sealed, &ring(&[SECOND])), None, "entries are bound to the place as blobs are");
        sealed.metadata.name = Some("db".to_owned());
        sealed.metadata.annotations = None;
        assert_eq!(values(&sealed, &ring(&[SECOND])), None, "without the annotation there is no second recipient");
    }

    #[test]
    fn an_entry_that_fits_no_more_does_no_harm() {
        let mut sealed = sealed();
        let again = seal::value(b"new", ("shop", "db"), Scope::Strict, &certificate(FIRST), &mut rand::rng()).unwrap();
        sealed.spec.encrypted_data.insert("a".to_owned(), again);
        assert_eq!(values(&sealed, &ring(&[FIRST, SECOND])), Some(vec![b"new".to_vec(), b"two".to_vec()]));
        assert_eq!(values(&sealed, &ring(&[SECOND])), None);
        for broken in ["{", "[]", "{\"SHA256:x\": {\"a\": \"***\"}}", "{\"SHA256:x\": 1}"] {
            sealed.metadata.annotations = Some([(RECIPIENTS.to_owned(), broken.to_owned())].into());
            assert!(values(&sealed, &ring(&[FIRST])).is_some(), "{broken}");
        }
    }

    #[test]
    fn what_an_annotation_shows_to_be_wrong_is_told() {
        let mut sealed = sealed();
        let faults = |sealed: &SealedSecret| {
            let annotations = sealed.metadata.annotations.as_ref().unwrap();
            Recipients::faults(annotations, &sealed.spec.encrypted_data)
        };
        assert_eq!(faults(&sealed), Vec::<String>::new());
        sealed.spec.encrypted_data.remove("b");
        assert_eq!(faults(&sealed), ["has an entry for \"b\", which is no item here"]);
        for (broken, words) in [
            ("{", "is not what seal writes"),
            ("{\"SHA256:x\": {\"a\": \"***\"}}", "has an entry for \"a\" that opens nothing"),
            ("{\"x\": {\"a\": \"AAAA\"}}", "has an entry for \"a\" that opens nothing"),
        ] {
            sealed.metadata.annotations = Some([(RECIPIENTS.to_owned(), broken.to_owned())].into());
            let found = faults(&sealed);
            assert!(found.len() == 1 && found[0].starts_with(words), "{found:?}");
        }
    }

    #[test]
    fn an_item_for_fewer_than_the_others_is_told() {
        let mut sealed = sealed();
        sealed.spec.encrypted_data.insert("new".to_owned(), "blob".to_owned());
        let annotations = sealed.metadata.annotations.as_ref().unwrap();
        let found = Recipients::faults(annotations, &sealed.spec.encrypted_data);
        assert!(found.len() == 1 && found[0].starts_with("shows that \"new\" is sealed for 1 and"), "{found:?}");
        // Sealed for the same ones in another order, which nobody can tell from others.
        let mut recipients = Recipients::of(annotations);
        let wrap = recipients.entries("a")[0].1.clone();
        recipients.set("new", vec![(certificate(FIRST).fingerprint().to_string(), wrap)]);
        let annotations = [(RECIPIENTS.to_owned(), recipients.annotation().unwrap().unwrap())].into();
        assert_eq!(Recipients::faults(&annotations, &sealed.spec.encrypted_data), Vec::<String>::new());
    }

    #[test]
    fn who_would_open_a_new_value_no_more_is_known() {
        let sealed = sealed();
        let recipients = Recipients::of(sealed.metadata.annotations.as_ref().unwrap());
        let (first, second) = (certificate(FIRST), certificate(SECOND));
        let (first, second) = (first.fingerprint(), second.fingerprint());
        assert_eq!(recipients.left_out(&[first]), [Some(second.to_string().as_str())]);
        assert_eq!(recipients.left_out(&[second]), [None], "the first recipient has no entry");
        assert_eq!(recipients.left_out(&[second, first]), []);
        assert_eq!(Recipients::default().left_out(&[first]), []);
    }

    #[test]
    fn entries_follow_their_item() {
        let sealed = sealed();
        let mut recipients = Recipients::of(sealed.metadata.annotations.as_ref().unwrap());
        recipients.set("a", Vec::new());
        assert!(!recipients.annotation().unwrap().unwrap().contains("\"a\""));
        recipients.set("b", Vec::new());
        assert_eq!(recipients.annotation(), Ok(None));
    }

    #[test]
    fn what_an_object_cannot_hold_is_refused() {
        let mut recipients = Recipients::default();
        let name = certificate(SECOND).fingerprint().to_string();
        for item in 0..400 {
            recipients.set(&format!("item-{item}"), vec![(name.clone(), "A".repeat(684))]);
        }
        let refused = recipients.annotation().unwrap_err().to_string();
        assert!(refused.ends_with("but Kubernetes takes 262144: seal for fewer, or in several files"), "{refused}");
    }
}
