//! Text as files hold it: UTF-8 with or without a mark at its start, or UTF-16 as Windows' shells write it. Pure; the
//! way back writes what was read, so that a changed file keeps its form.

use zeroize::Zeroizing;

/// How a text's characters were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Utf8,
    /// With a byte order mark, which means nothing.
    Utf8Marked,
    Utf16Le,
    Utf16Be,
}

/// Bytes that are no text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is neither UTF-8 nor UTF-16 text")]
pub struct NotText;

impl Encoding {
    /// What comes before the text.
    fn mark(self) -> &'static [u8] {
        match self {
            Self::Utf8 => b"",
            Self::Utf8Marked => b"\xef\xbb\xbf",
            Self::Utf16Le => b"\xff\xfe",
            Self::Utf16Be => b"\xfe\xff",
        }
    }
}

/// The text without its mark. It may be a secret: every copy is wiped.
pub fn decode(bytes: &[u8]) -> Result<(Zeroizing<String>, Encoding), NotText> {
    let mut marked = [Encoding::Utf8Marked, Encoding::Utf16Le, Encoding::Utf16Be].into_iter();
    let (encoding, body) = marked
        .find_map(|encoding| Some((encoding, bytes.strip_prefix(encoding.mark())?)))
        .unwrap_or((Encoding::Utf8, bytes));
    let text = match encoding {
        Encoding::Utf8 | Encoding::Utf8Marked => std::str::from_utf8(body).map(str::to_owned).map_err(|_| NotText)?,
        Encoding::Utf16Le => utf16(body, u16::from_le_bytes)?,
        Encoding::Utf16Be => utf16(body, u16::from_be_bytes)?,
    };
    Ok((Zeroizing::new(text), encoding))
}

/// The reverse of [`decode`].
pub fn encode(text: &str, encoding: Encoding) -> Zeroizing<Vec<u8>> {
    let units = text.encode_utf16();
    let body: Zeroizing<Vec<u8>> = Zeroizing::new(match encoding {
        Encoding::Utf8 | Encoding::Utf8Marked => text.as_bytes().to_vec(),
        Encoding::Utf16Le => units.flat_map(u16::to_le_bytes).collect(),
        Encoding::Utf16Be => units.flat_map(u16::to_be_bytes).collect(),
    });
    Zeroizing::new([encoding.mark(), &body].concat())
}

fn utf16(body: &[u8], unit: impl Fn([u8; 2]) -> u16) -> Result<String, NotText> {
    let (pairs, rest) = body.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(NotText);
    }
    let units: Zeroizing<Vec<u16>> = Zeroizing::new(pairs.iter().copied().map(unit).collect());
    String::from_utf16(&units).map_err(|_| NotText)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_reads_and_writes_back() {
        for encoding in [Encoding::Utf8, Encoding::Utf8Marked, Encoding::Utf16Le, Encoding::Utf16Be] {
            let bytes = encode("pässwörd: 🔑\n", encoding);
            assert_eq!(decode(&bytes).unwrap(), (Zeroizing::new("pässwörd: 🔑\n".to_owned()), encoding));
        }
        assert_eq!(*encode("a", Encoding::Utf16Le), [0xff, 0xfe, b'a', 0]);
        assert_eq!(*encode("a", Encoding::Utf16Be), [0xfe, 0xff, 0, b'a']);
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for bytes in [&b"\xff"[..], b"\xff\xfea", b"\xff\xfe\x00\xd8", b"a\0\x80"] {
            assert_eq!(decode(bytes).unwrap_err(), NotText);
        }
    }
}
