//! Whether a call to a webhook is by whom it says it is, and about what a GitSync follows. Pure. It must not take longer
//! for a token that is nearly right.

use aws_lc_rs::{constant_time, digest, hmac};
use axum::http::{HeaderMap, HeaderValue};
use crds::git_sync::{GitSource, WebhookType};
use data_encoding::HEXLOWER_PERMISSIVE;
use jiff::Timestamp;
use serde_json::Value;

use super::super::source::Reference;

/// What a request to look begins with when a Git host made it.
pub const REQUEST: &str = "webhook ";

/// A request to look. With the span of who called, which may be in another program.
pub fn request(now: Timestamp, traceparent: Option<&str>) -> String {
    let time = format!("{REQUEST}{now}");
    traceparent.map_or(time.clone(), |caller| format!("{time} {caller}"))
}

/// The span of who called.
pub fn traceparent(request: &str) -> Option<&str> {
    Some(request.strip_prefix(REQUEST)?.split_once(' ')?.1)
}

/// Whether whoever calls knows the token. Nobody knows an empty one.
pub fn is_genuine(kind: WebhookType, headers: &HeaderMap, body: &[u8], token: &[u8]) -> bool {
    let header = |name: &str| headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
    let signature = match kind {
        WebhookType::GitLab => {
            // Digests have one length, whatever the tokens have.
            let digest = |bytes: &[u8]| digest::digest(&digest::SHA256, bytes);
            let (shown, wanted) = (digest(header("x-gitlab-token")), digest(token));
            let same = constant_time::verify_slices_are_equal(shown.as_ref(), wanted.as_ref()).is_ok();
            return same && !token.is_empty();
        }
        WebhookType::GitHub => header("x-hub-signature-256"),
        WebhookType::Gitea => header("x-gitea-signature"),
        WebhookType::Generic => header("x-signature"),
    };
    let signature = signature.strip_prefix(b"sha256=").unwrap_or(signature);
    // What is no hexadecimal number is no signature.
    let signature = HEXLOWER_PERMISSIVE.decode(signature).unwrap_or_default();
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, token), body, &signature).is_ok() && !token.is_empty()
}

/// Whether it may be about what is followed. A body that names no reference may be about anything.
pub fn concerns(source: &GitSource, body: &[u8]) -> bool {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let pushed = body["ref"].as_str().filter(|name| name.starts_with("refs/"));
    match (pushed, Reference::new(&source.reference)) {
        (Some(pushed), Ok(reference)) => reference.concerns(pushed),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;
    use crds::git_sync::GitReference;

    use super::*;

    const BODY: &[u8] = br#"{"ref":"refs/heads/main"}"#;

    fn signed(token: &[u8], body: &[u8]) -> String {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, token), body);
        HEXLOWER_PERMISSIVE.encode(tag.as_ref())
    }

    fn called(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn each_host_shows_in_its_own_way_that_it_knows_the_token() {
        let hex = signed(b"t0ken", BODY);
        let (github, gitea) =
            (called("x-hub-signature-256", &format!("sha256={hex}")), called("x-gitea-signature", &hex));
        let (generic, gitlab) = (called("x-signature", &format!("sha256={hex}")), called("x-gitlab-token", "t0ken"));
        let ways = [
            (WebhookType::GitHub, &github),
            (WebhookType::Gitea, &gitea),
            (WebhookType::Generic, &generic),
            (WebhookType::GitLab, &gitlab),
        ];
        for (kind, headers) in ways {
            assert!(is_genuine(kind, headers, BODY, b"t0ken"), "{kind:?}");
            assert!(!is_genuine(kind, headers, BODY, b"t0ken2"), "{kind:?}");
            assert!(!is_genuine(kind, &HeaderMap::new(), BODY, b"t0ken"), "{kind:?}");
            assert!(!is_genuine(kind, &HeaderMap::new(), BODY, b""), "{kind:?}");
            let others = ways.iter().filter(|(other, _)| *other != kind);
            others.for_each(|(_, headers)| assert!(!is_genuine(kind, headers, BODY, b"t0ken"), "{kind:?}"));
        }
        assert!(!is_genuine(WebhookType::GitHub, &github, br#"{"ref":"refs/heads/dev"}"#, b"t0ken"), "another body");
        for nonsense in ["", "sha256=", "sha256=zz", "sha256=abc", &hex[..62]] {
            assert!(!is_genuine(WebhookType::GitHub, &called("x-hub-signature-256", nonsense), BODY, b"t0ken"));
        }
    }

    #[test]
    fn an_empty_token_opens_nothing() {
        let hex = signed(b"", BODY);
        assert!(!is_genuine(WebhookType::GitHub, &called("x-hub-signature-256", &hex), BODY, b""));
        assert!(!is_genuine(WebhookType::GitLab, &called("x-gitlab-token", ""), BODY, b""));
    }

    #[test]
    fn another_branch_is_no_news() {
        let follows = |branch: &str| GitSource {
            reference: GitReference { branch: Some(branch.to_owned()), ..GitReference::default() },
            ..GitSource::default()
        };
        assert!(concerns(&follows("main"), BODY) && !concerns(&follows("dev"), BODY));
        for untold in [b"".as_slice(), b"zen", br#"{"zen":"x"}"#, br#"{"ref":"dev","ref_type":"branch"}"#] {
            assert!(concerns(&follows("main"), untold));
        }
    }
}
