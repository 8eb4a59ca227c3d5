//! Sprig's functions on semantic versions: versions that may be short (`v1.2`), and constraints in the language of npm and
//! cargo, as the library of Masterminds reads them.

use std::{cmp::Ordering, fmt, rc::Rc};

use super::{
    super::value::{Outcome, Run, Value, Width},
    Function,
    Param::Text,
    function,
};

pub(super) const FUNCTIONS: &[Function] = &[
    function("semver", &[Text], |_, it| {
        let version = str::from_utf8(it.text(0)).ok().and_then(Version::parse);
        version.map(|version| Value::Version(Rc::new(version))).ok_or(NO_VERSION)
    }),
    function("semverCompare", &[Text, Text], |run, it| {
        run.charge(16 * it.text(0).len())?;
        let version = str::from_utf8(it.text(1)).ok().and_then(Version::parse);
        let satisfied = version.and_then(|version| satisfies(str::from_utf8(it.text(0)).ok()?, &version));
        satisfied.map(Value::Bool).ok_or("the text is not a constraint on versions, or the other not a version")
    }),
];

const NO_VERSION: &str = "the text is not a semantic version";

/// A semantic version, and how it was written.
#[derive(Clone, PartialEq, Eq)]
pub(in super::super) struct Version {
    numbers: [u64; 3],
    prerelease: String,
    metadata: String,
    original: String,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix('v').unwrap_or(text);
        let (rest, metadata) = rest.split_once('+').map_or((rest, None), |(rest, metadata)| (rest, Some(metadata)));
        let (rest, prerelease) = rest.split_once('-').map_or((rest, None), |(rest, pre)| (rest, Some(pre)));
        let mut numbers = [0; 3];
        let mut parts = rest.split('.');
        for (at, number) in numbers.iter_mut().enumerate() {
            match parts.next() {
                Some(part) if is_digits(part) => *number = part.parse().ok()?,
                None if at > 0 => break,
                _ => return None,
            }
        }
        let word =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let padded = |part: &str| is_digits(part) && part.len() > 1 && part.starts_with('0');
        let sound = parts.next().is_none()
            && metadata.is_none_or(|metadata| metadata.split('.').all(word))
            && prerelease.is_none_or(|pre| pre.split('.').all(|part| word(part) && !padded(part)));
        sound.then(|| Self {
            numbers,
            prerelease: prerelease.unwrap_or_default().to_owned(),
            metadata: metadata.unwrap_or_default().to_owned(),
            original: text.to_owned(),
        })
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| compare_prereleases(&self.prerelease, &other.prerelease))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if !self.prerelease.is_empty() {
            write!(f, "-{}", self.prerelease)?;
        }
        if !self.metadata.is_empty() {
            write!(f, "+{}", self.metadata)?;
        }
        Ok(())
    }
}

/// The methods of `*semver.Version` that give a number or a text, and the comparisons.
pub(in super::super) fn method(run: &Run, version: &Version, name: &str, arguments: &[Value]) -> Outcome {
    let [major, minor, patch] =
        version.numbers.map(|number| Value::Int(Width::Unsigned, i64::try_from(number).unwrap_or(i64::MAX)));
    match (name, arguments) {
        ("Major", []) => Ok(major),
        ("Minor", []) => Ok(minor),
        ("Patch", []) => Ok(patch),
        ("Prerelease", []) => run.text(version.prerelease.as_str()),
        ("Metadata", []) => run.text(version.metadata.as_str()),
        ("Original", []) => run.text(version.original.as_str()),
        ("String", []) => run.text(version.to_string()),
        ("Compare", [Value::Version(other)]) => Ok(Value::int(version.compare(other) as i64)),
        ("Equal", [Value::Version(other)]) => Ok(Value::Bool(version.compare(other).is_eq())),
        ("LessThan", [Value::Version(other)]) => Ok(Value::Bool(version.compare(other).is_lt())),
        ("GreaterThan", [Value::Version(other)]) => Ok(Value::Bool(version.compare(other).is_gt())),
        _ => Err("a version has no such method here, or not with these arguments"),
    }
}

fn is_digits(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
}

fn compare_prereleases(a: &str, b: &str) -> Ordering {
    match (a.is_empty(), b.is_empty()) {
        (true, true) => return Ordering::Equal,
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    let part = |part: &str| match part.parse::<u64>() {
        Ok(number) => (0, number, String::new()),
        Err(_) => (1, 0, part.to_owned()),
    };
    a.split('.').map(part).cmp(b.split('.').map(part))
}

/// One comparison of a constraint. A version that is not whole stands for all that begin like it.
struct Comparison<'c> {
    operator: &'c str,
    version: Version,
    /// How many of its numbers are given.
    given: usize,
}

/// `>=1.2, <2 || 3.x`: any of the groups, all of each.
fn satisfies(constraint: &str, version: &Version) -> Option<bool> {
    let groups: Vec<_> = constraint.split("||").map(group).collect::<Option<_>>()?;
    Some(groups.iter().any(|group| {
        let prereleases = group.iter().any(|comparison| !comparison.version.prerelease.is_empty());
        group.iter().all(|it| (version.prerelease.is_empty() || prereleases) && it.holds(version))
    }))
}

fn group(text: &str) -> Option<Vec<Comparison<'_>>> {
    let mut comparisons = Vec::new();
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let operator = rest.len() - rest.trim_start_matches(|char| "=!<>~^".contains(char)).len();
        let (operator, behind) = rest.split_at(operator);
        let known = ["", "=", "!=", ">", "<", ">=", "=>", "<=", "=<", "~", "~>", "^"].contains(&operator);
        let behind = behind.trim_start();
        let end = behind.find(|char: char| char.is_whitespace() || char == ',').unwrap_or(behind.len());
        let (version, behind) = behind.split_at(end);
        let (version, given) = partial(version).filter(|_| known)?;
        let next = behind.trim_start();
        // `1.2 - 1.4`: from one to the other.
        if let Some(upper) = next.strip_prefix("- ").filter(|_| operator.is_empty()) {
            comparisons.push(Comparison { operator: ">=", version, given });
            let upper = upper.trim_start();
            let end = upper.find(|char: char| char.is_whitespace() || char == ',').unwrap_or(upper.len());
            let (version, behind) = upper.split_at(end);
            let (version, given) = partial(version)?;
            comparisons.push(Comparison { operator: "<=", version, given });
            rest = behind.trim_start().trim_start_matches(',').trim_start();
            continue;
        }
        comparisons.push(Comparison { operator, version, given });
        rest = next.strip_prefix(',').map_or(next, str::trim_start);
        if rest.is_empty() && next.starts_with(',') {
            return None;
        }
    }
    Some(comparisons)
}

/// A version of which numbers may be missing or `x`.
fn partial(text: &str) -> Option<(Version, usize)> {
    let bare = text.strip_prefix('v').unwrap_or(text);
    let end = bare.find(['-', '+']).unwrap_or(bare.len());
    let (numbers, suffix) = bare.split_at(end);
    let parts: Vec<_> = numbers.split('.').collect();
    if parts.len() > 3 {
        return None;
    }
    let wild = |part: &&str| matches!(*part, "x" | "X" | "*");
    if !parts.iter().all(|part| wild(part) || is_digits(part)) {
        return None;
    }
    let given = parts.iter().position(wild).unwrap_or(parts.len());
    let kept = parts.get(..given).filter(|kept| !kept.is_empty()).map_or("0".to_owned(), |kept| kept.join("."));
    let suffix = suffix.split('+').next().unwrap_or_default();
    Some((Version::parse(&format!("{kept}{}", if given == 3 || !suffix.is_empty() { suffix } else { "" }))?, given))
}

impl Comparison<'_> {
    fn holds(&self, version: &Version) -> bool {
        let order = version.compare(&self.version);
        let ([major, minor, patch], [own_major, own_minor, own_patch]) = (version.numbers, self.version.numbers);
        let alike = version.numbers.iter().zip(self.version.numbers).take(self.given).all(|(a, b)| *a == b);
        match self.operator {
            "" | "=" if self.given == 3 => order.is_eq(),
            "!=" if self.given == 3 => order.is_ne(),
            "!=" => !alike,
            ">" if matches!(self.given, 0 | 3) => order.is_gt(),
            ">" => order.is_gt() && !alike,
            "<" => order.is_lt(),
            ">=" | "=>" => order.is_ge(),
            "<=" | "=<" => order.is_le() || self.given < 3 && alike,
            "^" if order.is_lt() => false,
            "^" if own_major > 0 || self.given < 2 => major == own_major || self.given == 0,
            "^" if major > 0 => false,
            "^" if own_minor > 0 || self.given < 3 => minor == own_minor,
            "^" => minor == 0 && patch == own_patch,
            // A tilde keeps the minor number, where one is given; so does a bare version that is not whole.
            _ if order.is_lt() => false,
            _ if self.given != 1 && self.given != 2 && self.version.numbers == [0, 0, 0] => true,
            _ => major == own_major && (minor == own_minor || self.given < 2),
        }
    }
}
