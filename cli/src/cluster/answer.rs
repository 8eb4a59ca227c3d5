//! What an API server, or a controller behind it, answers instead of what was asked for: in its own words, fit for a
//! terminal, and with what can be done next. Asks nothing itself.

use std::{fmt, time::Duration};

use http::{HeaderMap, StatusCode, header};

/// How long to come back to a controller that limits how much it is asked.
pub(super) const PATIENCE: Duration = Duration::from_mins(5);
/// Upstream's controllers answer two requests a second.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is tried again where the way to it is at fault, each time after twice as long.
pub(super) const TRIES: u32 = 5;
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// For one that says to come back at once, and means it.
const AT_LEAST: Duration = Duration::from_millis(100);

/// What came instead of what was asked for, in the other side's words only.
#[derive(Debug)]
pub enum Answer {
    Refused {
        status: StatusCode,
        words: Option<String>,
        wait: Option<Duration>,
    },
    /// Asked of a server.
    Failed(Box<kube::Error>, String),
    Late(Duration),
}

impl Answer {
    /// Whether whoever asked has no right to.
    pub fn is_forbidden(&self) -> bool {
        self.status() == Some(StatusCode::FORBIDDEN)
    }

    /// Whether the API server knows no objects of the kind. Of an object that is not there it tells by a Status.
    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Refused { status: StatusCode::NOT_FOUND, words: Some(words), .. }
            if words == "404 page not found")
    }

    pub(super) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Failed(..) | Self::Late(_) => None,
        }
    }

    /// How long to wait before asking again, when that is all that is wrong.
    pub(super) fn limited(&self) -> Option<Duration> {
        match self {
            Self::Refused { status: StatusCode::TOO_MANY_REQUESTS, wait, .. } => {
                Some(wait.unwrap_or(PAUSE).min(PATIENCE))
            }
            _ => None,
        }
    }

    /// Whether the way to the controller is at fault, or a replica of it that goes: the next try may meet another.
    pub(super) fn is_passing(&self) -> bool {
        let passing = [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
        self.status().is_some_and(|status| passing.contains(&status))
    }

    /// Whether the API server may answer otherwise in a moment: it was not there, had too much to do, or was in trouble.
    pub(super) fn is_momentary(&self) -> bool {
        match self {
            Self::Refused { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Failed(error, _) => matches!(**error, kube::Error::Service(_) | kube::Error::HyperError(_)),
            Self::Late(_) => true,
        }
    }

    pub(super) fn words(self) -> Option<String> {
        match self {
            Self::Refused { words, .. } => words,
            Self::Failed(..) | Self::Late(_) => None,
        }
    }
}

impl Answer {
    /// What was asked of a server did not come to be.
    pub(super) fn of(error: kube::Error, server: &str) -> Self {
        match error {
            kube::Error::Api(refusal) => Self::Refused {
                status: StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                words: said(&refusal.message),
                wait: None,
            },
            error => Self::Failed(Box::new(error), server.to_owned()),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { words: Some(words), .. } => f.write_str(words),
            Self::Refused { status, words: None, .. } => write!(f, "the server answered {status}"),
            Self::Late(limit) => write!(f, "no answer within {} s (--request-timeout)", limit.as_secs_f32()),
            Self::Failed(error, server) => match &**error {
                kube::Error::Service(_) | kube::Error::HyperError(_) => {
                    write!(f, "no answer from the API server {server}")
                }
                other => write!(f, "{other}"),
            },
        }
    }
}

impl std::error::Error for Answer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let Self::Failed(error, _) = self else { return None };
        match &**error {
            kube::Error::Service(source) => Some(&**source),
            kube::Error::HyperError(source) => Some(source),
            _ => None,
        }
    }
}

/// A refusal fit for a terminal: of JSON its message, of anything else the first line.
pub(super) fn said(body: &str) -> Option<String> {
    let json = serde_json::from_str::<serde_json::Value>(body).ok();
    let field = |key| json.as_ref()?.get(key)?.as_str();
    let words = field("message").or_else(|| field("error")).unwrap_or(body);
    let line = words.lines().next()?.trim();
    let plain: String = line.chars().filter(|c| !c.is_control()).take(1000).collect();
    (!plain.is_empty()).then_some(plain)
}

/// How long the other side asks to be left alone. Dates, which it may also be, are not used by controllers.
pub(super) fn wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).max(AT_LEAST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_one_plain_line() {
        assert_eq!(said("{\"message\": \"why\"}").unwrap(), "why");
        assert_eq!(said("{\"error\": \"why\"}").unwrap(), "why");
        assert_eq!(said("bad \u{1b}[31mthing\nmore").unwrap(), "bad [31mthing");
        assert_eq!(said(" \n"), None);
    }

    #[test]
    fn an_undefined_kind_is_no_object_that_is_missing() {
        let refused =
            |words: &str| Answer::Refused { status: StatusCode::NOT_FOUND, words: Some(words.to_owned()), wait: None };
        assert!(refused("404 page not found").is_undefined());
        assert!(!refused("gitsyncs.signet.dev \"web\" not found").is_undefined());
    }

    #[test]
    fn what_is_refused_for_good_is_not_asked_for_again() {
        let refused = |status: u16| {
            Answer::Refused { status: StatusCode::from_u16(status).unwrap(), words: None, wait: None }.is_momentary()
        };
        assert_eq!([429, 500, 502, 503, 504].map(refused), [true; 5]);
        assert_eq!([400, 401, 403, 404, 422].map(refused), [false; 5]);
        assert!(Answer::Late(PAUSE).is_momentary());
        let failed = |error| Answer::of(error, "https://api").is_momentary();
        assert!(failed(kube::Error::Service("connection refused".into())));
        assert!(!failed(kube::Error::LinesCodecMaxLineLengthExceeded));
    }

    #[test]
    fn a_limit_says_when_to_come_back() {
        let refused = |status, after: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.extend(after.map(|after| (header::RETRY_AFTER, http::HeaderValue::from_static(after))));
            Answer::Refused { status, words: None, wait: wait(&headers) }.limited()
        };
        let limited = |after| refused(StatusCode::TOO_MANY_REQUESTS, after).unwrap();
        assert_eq!(limited(Some("7")), Duration::from_secs(7));
        assert_eq!(limited(Some("0")), AT_LEAST);
        assert_eq!((limited(None), limited(Some("soon"))), (PAUSE, PAUSE));
        assert_eq!(limited(Some("99999999999")), PATIENCE);
        assert_eq!(refused(StatusCode::SERVICE_UNAVAILABLE, Some("7")), None);
    }
}
