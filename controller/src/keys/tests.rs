//! The ring that comes of keys as they are marked.

use crds::{Certificate, PrivateKey};

use super::*;

fn held(name: &str, file: &str, born: i64, mark: Mark) -> (Key, Option<RingKey>) {
    let text = |end| std::fs::read_to_string(format!("../crds/testdata/{file}.{end}")).unwrap();
    let (private, pem) = (PrivateKey::from_pem(&text("key")).unwrap(), text("crt"));
    let (certificate, born) = (Certificate::from_pem(&pem).unwrap(), Timestamp::from_second(born).unwrap());
    let key = Key {
        name: name.to_owned(),
        fingerprint: certificate.fingerprint().clone(),
        mark,
        born,
        made: born,
        not_before: certificate.not_before(),
        not_after: certificate.not_after(),
        replace: false,
    };
    let certificate = Some(Arc::new(certificate));
    let ring = RingKey { private: Arc::new(private), certificate, certificate_pem: pem.into(), born };
    (key, mark.opens().then_some(ring))
}

#[test]
fn the_ring_opens_and_seals_as_the_keys_say() {
    let of = |all: &[(Key, Option<RingKey>)]| {
        let keys: Keys = all.iter().map(|(key, _)| key.clone()).collect();
        let ring = ring(&keys, all.iter());
        let sealing = ring.sealing().map(|key| key.private.fingerprint().clone());
        assert_eq!(sealing, keys.sealing().map(|key| key.fingerprint.clone()));
        (ring.keys().len(), sealing)
    };
    let old = held("old", "old", 1, Mark::Active);
    let (oldest, newest) = (Some(old.0.fingerprint.clone()), Some(held("new", "new", 2, Mark::Active).0.fingerprint));
    let with = |mark| of(&[old.clone(), held("new", "new", 2, mark)]);
    assert_eq!(with(Mark::Active), (2, newest));
    assert_eq!(with(Mark::Exposed), (2, oldest.clone()));
    assert_eq!(with(Mark::Compromised), (1, oldest.clone()));
    assert_eq!(with(Mark::Retired), (1, oldest.clone()));
    // A copy that came back with a backup opens, but what is known of the key is not forgotten.
    let copy = held("copy", "new", 3, Mark::Active);
    assert_eq!(of(&[old, held("new", "new", 2, Mark::Compromised), copy]), (2, oldest));
}
