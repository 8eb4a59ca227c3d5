//! The ring that comes of keys as they are marked.

use crds::{Certificate, PrivateKey};
use kube::client::Body;

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

/// As after a restore of a backup under other names.
#[tokio::test]
async fn a_key_of_which_there_is_a_copy_is_not_lost() {
    let hangs =
        |_: http::Request<Body>| std::future::pending::<Result<http::Response<Body>, std::convert::Infallible>>();
    let client = Client::new(tower::service_fn(hangs), "default");
    let metrics = Metrics::new(Timestamp::UNIX_EPOCH);
    let options = Options {
        namespace: "default".to_owned(),
        prefix: "sealed-secrets-key".to_owned(),
        order: KeyOrder::default(),
        policy: Policy { period: SignedDuration::ZERO, cutoff: None, first: false },
        bits: 2048,
        lifetime: SignedDuration::ZERO,
        common_name: String::new(),
        annotations: BTreeMap::new(),
        labels: BTreeMap::new(),
    };
    let events = Events::new(client.clone(), "test");
    let mut keeper = Keeper::new(client.clone(), client, options, events, metrics.clone(), Audit::default());
    for (name, mark) in [("first", Mark::Active), ("copy", Mark::Exposed), ("retired", Mark::Retired)] {
        let key = Some(held(name, "new", 1, mark));
        keeper.held.insert(name.to_owned(), Held { version: None, uid: None, key });
    }
    for (name, lost) in [("nobody's", 0), ("first", 0), ("copy", 1), ("retired", 1)] {
        keeper.lose(name);
        assert_eq!(metrics.keys_lost.get(), lost, "{name}");
    }
}
