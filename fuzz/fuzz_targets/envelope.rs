//! A blob of any bytes opens or is refused, and one that was sealed and then changed never opens.
#![no_main]

mod fixed;

use libfuzzer_sys::fuzz_target;

const VALUE: &[u8] = b"correct horse battery staple";

fuzz_target!(|data: &[u8]| {
    assert!(fixed::RING.open(data, "shop/db", None).is_err(), "opened what nobody sealed");

    // As far as the input goes it is laid over a sealed value, beginning where its first two bytes say.
    let Some((start, change)) = data.split_first_chunk() else { return };
    let sealed = fixed::SEALER.seal(VALUE, "shop/db", &mut rand::rng()).expect("the key seals");
    let start = usize::from(u16::from_be_bytes(*start)) % sealed.len();
    let mut changed = sealed.clone();
    changed.iter_mut().skip(start).zip(change).for_each(|(byte, change)| *byte ^= change);
    match fixed::RING.open(&changed, "shop/db", None) {
        Ok(opened) => assert!(changed == sealed && opened.plaintext.expose() == VALUE),
        Err(_) => assert_ne!(changed, sealed),
    }
});
