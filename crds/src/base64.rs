//! Base64 as Go's `encoding/base64` reads it, since that wrote and read everything so far: line breaks do not count, nor
//! do the unused bits of the last character.

use base64::{
    Engine as _, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig},
};
use zeroize::Zeroizing;

const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// The bytes, or `None` for what is no padded standard base64. The text may be a secret: copies of it are wiped.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let joined = Zeroizing::new(text.replace(['\n', '\r'], ""));
    LENIENT.decode(&*joined).ok()
}

/// Padded standard base64.
pub fn encode(bytes: &[u8]) -> String {
    LENIENT.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        assert_eq!(decode("aGVs\r\nbG8=\n").unwrap(), b"hello");
        assert_eq!(decode("aGVsbG9=").unwrap(), b"hello", "bits that mean nothing");
        assert_eq!(decode(&encode(b"")).unwrap(), b"");
        for bad in ["aGVsbG8", "aGVs bG8=", "a-_b", "***"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
