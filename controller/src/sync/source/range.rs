//! Version ranges as Masterminds writes and reads them, which is what Flux's users write: `>=1.0.0 <2.0.0`, `1.x`,
//! `~1.2`, `^1`, `1.2 - 1.4`, `||` between. The ranges of Cargo mean other things by the same text. Pure.

use semver::{Prerelease, Version};

/// Versions that one of several lists of conditions lets through.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Range(Vec<Vec<Condition>>);

/// Why a text is no range.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no condition on a version; write such as >=1.0.0 <2.0.0, 1.x, ~1.2 or ^1")]
pub struct NoRange(String);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Condition {
    operator: Operator,
    /// None for `*`.
    major: Option<u64>,
    minor: Option<u64>,
    patch: Option<u64>,
    pre: Prerelease,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Operator {
    Equal,
    Unequal,
    Greater,
    Less,
    AtLeast,
    AtMost,
    Tilde,
    Caret,
}

/// The longer first: `>` begins `>=` too.
const OPERATORS: [(&str, Operator); 11] = [
    ("!=", Operator::Unequal),
    (">=", Operator::AtLeast),
    ("=>", Operator::AtLeast),
    ("<=", Operator::AtMost),
    ("=<", Operator::AtMost),
    ("~>", Operator::Tilde),
    (">", Operator::Greater),
    ("<", Operator::Less),
    ("=", Operator::Equal),
    ("~", Operator::Tilde),
    ("^", Operator::Caret),
];

impl Range {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, NoRange> {
        text.split("||").map(conditions).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a version is in it. A pre-release is only where its list names one.
    pub fn contains(&self, version: &Version) -> bool {
        self.0.iter().any(|list| {
            let asked = version.pre.is_empty() || list.iter().any(|condition| !condition.pre.is_empty());
            asked && list.iter().all(|condition| condition.holds(version))
        })
    }
}

/// The version that a tag names, `v1.2.3` or `1.2.3`.
pub fn version(tag: &str) -> Option<Version> {
    Version::parse(tag.strip_prefix('v').unwrap_or(tag)).ok()
}

fn conditions(text: &str) -> Result<Vec<Condition>, NoRange> {
    // `1.2 - 1.4`: the spaces tell it from a pre-release.
    let text = match text.split_once(" - ") {
        Some((from, to)) => format!(">={} <={}", from.trim(), to.trim()),
        None => text.replace(',', " "),
    };
    let mut list = Vec::new();
    let mut pending = String::new();
    for word in text.split_whitespace() {
        pending.push_str(word);
        // An operator may stand apart from its version.
        if OPERATORS.iter().any(|(sign, _)| pending == *sign) {
            continue;
        }
        list.push(Condition::parse(&std::mem::take(&mut pending))?);
    }
    if list.is_empty() || !pending.is_empty() { Err(NoRange(text)) } else { Ok(list) }
}

impl Condition {
    fn parse(text: &str) -> Result<Self, NoRange> {
        let none = || NoRange(text.to_owned());
        let signed = OPERATORS.iter().find_map(|(sign, operator)| Some((*operator, text.strip_prefix(sign)?)));
        let (operator, bare) = signed.unwrap_or((Operator::Equal, text));
        let bare = bare.strip_prefix('v').unwrap_or(bare);
        let bare = bare.split_once('+').map_or(bare, |(bare, _)| bare);
        let (numbers, pre) = bare.split_once('-').unwrap_or((bare, ""));
        let mut parts = Vec::new();
        for part in numbers.split('.') {
            parts.push(match part {
                "*" | "x" | "X" => None,
                number => Some(number.parse::<u64>().map_err(|_| none())?),
            });
        }
        if parts.len() > 3 {
            return Err(none());
        }
        // What follows a wildcard says nothing.
        let known = parts.iter().position(Option::is_none).unwrap_or(parts.len());
        let part = |index: usize| parts.get(index).copied().flatten().filter(|_| index < known);
        let condition = Self {
            operator,
            major: part(0),
            minor: part(1),
            patch: part(2),
            pre: Prerelease::new(pre).map_err(|_| none())?,
        };
        if !condition.pre.is_empty() && condition.patch.is_none() { Err(none()) } else { Ok(condition) }
    }

    fn holds(&self, version: &Version) -> bool {
        let Some(major) = self.major else {
            return !matches!(self.operator, Operator::Unequal | Operator::Greater | Operator::Less);
        };
        let floor = Version {
            major,
            minor: self.minor.unwrap_or(0),
            patch: self.patch.unwrap_or(0),
            pre: self.pre.clone(),
            build: semver::BuildMetadata::EMPTY,
        };
        let order = version.cmp_precedence(&floor);
        // Within what is written, as 1.2.9 is within 1.2.
        let within = version.major == major
            && self.minor.is_none_or(|minor| version.minor == minor)
            && self.patch.is_none_or(|patch| version.patch == patch && version.pre == self.pre);
        match self.operator {
            Operator::Equal => within,
            Operator::Unequal => !within,
            Operator::Greater => order.is_gt() && !within,
            Operator::AtLeast => order.is_ge(),
            Operator::Less => order.is_lt(),
            Operator::AtMost => order.is_le() || within,
            Operator::Tilde => {
                order.is_ge() && version.major == major && self.minor.is_none_or(|minor| version.minor == minor)
            }
            Operator::Caret => order.is_ge() && self.compatible(major, version),
        }
    }

    /// The first number that is not 0 stays.
    fn compatible(&self, major: u64, version: &Version) -> bool {
        let same_major = version.major == major;
        match (major, self.minor, self.patch) {
            (0, Some(0), Some(patch)) => same_major && version.minor == 0 && version.patch == patch,
            (0, Some(minor), _) => same_major && version.minor == minor,
            _ => same_major,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(range: &str, version: &str) -> bool {
        Range::parse(range).unwrap().contains(&super::version(version).unwrap())
    }

    #[test]
    fn ranges_mean_what_masterminds_reads() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            (">=1.0.0 <2.0.0", &["1.0.0", "1.9.9"], &["0.9.9", "2.0.0", "1.5.0-rc.1"]),
            (">= 1.0.0, < 2.0.0", &["1.0.0"], &["2.0.0"]),
            ("1.x", &["1.0.0", "1.20.3"], &["2.0.0", "1.1.0-beta"]),
            ("1.2", &["1.2.0", "1.2.9"], &["1.3.0"]),
            ("1.2.3", &["v1.2.3", "1.2.3+build"], &["1.2.4"]),
            ("*", &["0.0.1", "9.9.9"], &["1.0.0-rc.1"]),
            ("~1.2", &["1.2.0", "1.2.9"], &["1.3.0", "1.1.9"]),
            ("~1.2.3", &["1.2.3", "1.2.9"], &["1.2.2", "1.3.0"]),
            ("~1", &["1.0.0", "1.9.0"], &["2.0.0"]),
            ("^1", &["1.0.0", "1.9.0"], &["2.0.0", "0.9.0"]),
            ("^1.2.3", &["1.2.3", "1.9.0"], &["1.2.2", "2.0.0"]),
            ("^0.2.3", &["0.2.3", "0.2.9"], &["0.3.0"]),
            ("^0.0.3", &["0.0.3"], &["0.0.4"]),
            ("^0", &["0.9.0"], &["1.0.0"]),
            (">1.2", &["1.3.0"], &["1.2.9"]),
            (">11", &["12.0.0"], &["11.9.9"]),
            ("<=1.2", &["1.2.9", "1.0.0"], &["1.3.0"]),
            ("!=1.2.x", &["1.3.0"], &["1.2.3"]),
            ("1.2 - 1.4.5", &["1.2.0", "1.4.5"], &["1.4.6", "1.1.0"]),
            ("^1 || >=3", &["1.1.0", "3.0.0"], &["2.0.0"]),
        ];
        for (range, inside, outside) in cases {
            for version in *inside {
                assert!(holds(range, version), "{version} is in {range}");
            }
            for version in *outside {
                assert!(!holds(range, version), "{version} is not in {range}");
            }
        }
    }

    #[test]
    fn prereleases_count_only_where_asked_for() {
        assert!(!holds(">=1.0.0", "1.1.0-rc.1"));
        assert!(holds(">=1.0.0-0", "1.1.0-rc.1"));
        assert!(holds(">=1.0.0-rc.1 <2.0.0", "1.0.0-rc.2") && !holds(">=1.0.0-rc.2", "1.0.0-rc.1"));
        assert!(holds("~1.2.3-0", "1.2.4-beta") && !holds("~1.2.3-0", "1.3.0-beta") && !holds("^1.2.3-0", "2.0.0-a"));
        assert!(!holds("^1 || >=3.0.0-0", "1.1.0-rc.1"));
    }

    #[test]
    fn what_is_no_range_is_told() {
        for text in ["", "newest", ">=", "1.2.3.4", "1..2", "^1 ||", ">=1.x-rc", "1.2.3-ä"] {
            assert!(Range::parse(text).is_err(), "{text}");
        }
        assert_eq!([version("v1.2"), version("1"), version("release-1.0.0")], [None, None, None]);
    }
}
