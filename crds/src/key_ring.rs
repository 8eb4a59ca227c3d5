//! All keys in their order: seal with the newest, open with any. Knows no clock and no cluster; a key that comes twice
//! (a restored copy) counts once.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use jiff::Timestamp;

use crate::{
    Certificate, Fingerprint, Plaintext, PrivateKey,
    envelope::{Envelope, EnvelopeError},
};

/// One generation: what one key Secret holds.
#[derive(Clone, Debug)]
pub struct RingKey {
    /// Opens.
    pub private: Arc<PrivateKey>,
    /// Seals; `None` for one that only opens: a bare key, as offline recovery has them, or a compromised one.
    pub certificate: Option<Arc<Certificate>>,
    /// Its certificate as text, as `/v1/cert.pem` serves it.
    pub certificate_pem: Arc<str>,
    /// By this time keys are ordered.
    pub born: Timestamp,
}

/// Keys, newest first.
#[derive(Clone, Debug, Default)]
pub struct KeyRing {
    keys: Vec<RingKey>,
    /// Place of the key that opened last. Values that come together are as a rule sealed with one key: a cluster that
    /// is restored from Git would else try every newer key for each of them.
    last: Arc<AtomicUsize>,
}

/// A value, and the key that opened it.
#[derive(Debug)]
pub struct Opened {
    /// The value.
    pub plaintext: Plaintext,
    /// The key.
    pub by: Fingerprint,
    /// By an entry of [`crate::recipients`], not by the blob alone.
    pub through_entry: bool,
    /// RSA operations it took.
    pub operations: u32,
}

/// Why nothing opened. Does not tell a wrong key, a wrong label and corruption apart, because RSA-OAEP does not.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not an envelope at all.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Every key was tried.
    #[error("no key could decrypt secret")]
    NoKey {
        /// RSA operations spent.
        operations: u32,
    },
}

impl FromIterator<RingKey> for KeyRing {
    fn from_iter<T: IntoIterator<Item = RingKey>>(keys: T) -> Self {
        let mut ring: Vec<RingKey> = Vec::new();
        for key in keys {
            match ring.iter_mut().find(|have| have.private.fingerprint() == key.private.fingerprint()) {
                Some(have) if key.born > have.born => *have = key,
                Some(_) => {}
                None => ring.push(key),
            }
        }
        // Times in Kubernetes are whole seconds. The fingerprint settles what the certificates do not, so that every
        // replica serves the same one.
        let valid_from = |key: &RingKey| key.certificate.as_ref().map(|it| it.not_before());
        ring.sort_by(|a, b| {
            let by_time = b.born.cmp(&a.born).then_with(|| valid_from(b).cmp(&valid_from(a)));
            by_time.then_with(|| a.private.fingerprint().cmp(b.private.fingerprint()))
        });
        Self { keys: ring, last: Arc::default() }
    }
}

impl KeyRing {
    /// The first to open with.
    pub fn newest(&self) -> Option<&RingKey> {
        self.keys.first()
    }

    /// The key to seal with: the newest that may.
    pub fn sealing(&self) -> Option<&RingKey> {
        self.keys.iter().find(|key| key.certificate.is_some())
    }

    /// Changes when the keys do: what failed with this version would fail with it again. For this process only.
    pub fn version(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.keys.iter().for_each(|key| key.private.fingerprint().hash(&mut hasher));
        hasher.finish()
    }

    /// All keys, newest first.
    pub fn keys(&self) -> &[RingKey] {
        &self.keys
    }

    /// Opens a blob with whichever key fits, beginning with the likeliest: the one that opened it before, the one that
    /// opened last, the newest.
    pub fn open(&self, blob: &[u8], label: &str, likely: Option<&Fingerprint>) -> Result<Opened, OpenError> {
        let envelope = Envelope::parse(blob)?;
        let last = self.last.load(Ordering::Relaxed);
        let mut order: Vec<(usize, &RingKey)> = self.keys.iter().enumerate().collect();
        order.sort_by_key(|(place, key)| (Some(key.private.fingerprint()) != likely, *place != last));
        let mut operations = 0;
        for (place, RingKey { private, .. }) in order.into_iter().filter(|(_, key)| key.private.fits(envelope)) {
            operations += 1;
            if let Some(plaintext) = private.open(envelope, label) {
                self.last.store(place, Ordering::Relaxed);
                let by = private.fingerprint().clone();
                return Ok(Opened { plaintext, by, through_entry: false, operations });
            }
        }
        Err(OpenError::NoKey { operations })
    }
}
