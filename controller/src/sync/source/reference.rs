//! What of a repository is followed, and how people and mirrors name it. Pure.

use std::fmt;

use crds::git_sync::GitReference;
use gix::ObjectId;

use super::{
    SourceError,
    range::{Range, version},
};

/// Where a mirror keeps what it follows: `refs/heads/main` as `refs/mirror/heads/main`.
const MIRROR: &str = "refs/mirror/";
/// Pinned commits among these.
const COMMITS: &str = "commits/";
/// Followed when nothing is said.
const DEFAULT_BRANCH: &str = "main";

/// What of a repository is followed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// The newest commit of a branch.
    Branch(String),
    /// What a tag leads to.
    Tag(String),
    /// What the highest of several tags leads to.
    Semver { text: String, range: Range },
    /// What a reference with this full name leads to.
    Name(String),
    /// One commit, and the branch that it should be on.
    Commit { id: ObjectId, branch: Option<String> },
}

impl Reference {
    /// The one that counts: branch < tag < semver < name < commit.
    pub fn new(spec: &GitReference) -> Result<Self, SourceError> {
        let invalid =
            |what: &str, why: String| SourceError::InvalidReference { what: what.to_owned(), why: why.clone() };
        let named = |full: String, what: String| match gix::refs::FullName::try_from(full) {
            Ok(_) => Ok(()),
            Err(_) => Err(invalid(&what, "no reference can have this name".to_owned())),
        };
        let GitReference { branch, tag, semver, name, commit } = spec;
        if let Some(branch) = branch {
            named(format!("refs/heads/{branch}"), format!("the branch {branch:?}"))?;
        }
        if let Some(commit) = commit {
            let what = format!("the commit {commit:?}");
            let id = ObjectId::from_hex(commit.as_bytes());
            let id = id.map_err(|_| invalid(&what, "give all 40 hexadecimal digits of its id".to_owned()))?;
            return Ok(Self::Commit { id, branch: branch.clone() });
        }
        if let Some(name) = name {
            if name != "HEAD" && !name.starts_with("refs/") {
                let why = "give its full name, such as refs/heads/main or refs/pull/420/head".to_owned();
                return Err(invalid(&format!("the reference {name:?}"), why));
            }
            named(name.clone(), format!("the reference {name:?}"))?;
            return Ok(Self::Name(name.clone()));
        }
        if let Some(text) = semver {
            let range = Range::parse(text).map_err(|error| invalid(&format!("tags in {text:?}"), error.to_string()))?;
            return Ok(Self::Semver { text: text.clone(), range });
        }
        if let Some(tag) = tag {
            named(format!("refs/tags/{tag}"), format!("the tag {tag:?}"))?;
            return Ok(Self::Tag(tag.clone()));
        }
        Ok(Self::Branch(branch.clone().unwrap_or_else(|| DEFAULT_BRANCH.to_owned())))
    }

    /// As the host knows it; of several tags none yet.
    pub fn remote(&self) -> Option<String> {
        match self {
            Self::Branch(branch) => Some(format!("refs/heads/{branch}")),
            Self::Tag(tag) => Some(format!("refs/tags/{tag}")),
            Self::Name(name) => Some(name.clone()),
            Self::Commit { id, .. } => Some(id.to_string()),
            Self::Semver { .. } => None,
        }
    }

    /// As a mirror does.
    pub fn tracking(&self) -> Option<String> {
        match self {
            Self::Commit { id, .. } => Some(format!("{MIRROR}{COMMITS}{id}")),
            other => other.remote().map(|name| tracking(&name)),
        }
    }

    /// What stands before the commit in a revision, as Flux writes it.
    pub fn shown(&self) -> &str {
        match self {
            Self::Branch(name) | Self::Tag(name) | Self::Name(name) => name,
            Self::Commit { branch, .. } => branch.as_deref().unwrap_or_default(),
            Self::Semver { text, .. } => text,
        }
    }

    /// Whether a push of this reference (by its full name) may have moved it.
    pub fn concerns(&self, pushed: &str) -> bool {
        match self {
            Self::Semver { .. } => pushed.starts_with("refs/tags/"),
            Self::Name(name) if name == "HEAD" => true,
            // It may come with any.
            Self::Commit { .. } => true,
            other => other.remote().as_deref() == Some(pushed),
        }
    }

    /// What to do when the host has none.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Branch(_) => "the repository has no such branch; push it, or correct source.ref.branch",
            Self::Tag(_) => "the repository has no such tag; push it, or correct source.ref.tag",
            Self::Semver { .. } => {
                "no tag of the repository is a version in this range; push one, or correct source.ref.semver"
            }
            Self::Name(_) => "the repository has no such reference; correct source.ref.name",
            Self::Commit { .. } => "the repository has no such commit; push it, or correct source.ref.commit",
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Branch(branch) => write!(f, "the branch {branch}"),
            Self::Tag(tag) => write!(f, "the tag {tag}"),
            Self::Semver { text, .. } => write!(f, "the tags in {text}"),
            Self::Name(name) => write!(f, "the reference {name}"),
            Self::Commit { id, .. } => write!(f, "the commit {id}"),
        }
    }
}

/// See [`Reference::tracking`].
fn tracking(remote: &str) -> String {
    format!("{MIRROR}{}", remote.strip_prefix("refs/").unwrap_or(remote))
}

/// The other way round, for what any host hands out: no pinned commits.
pub fn remote(tracking: &str) -> Option<String> {
    let name = tracking.strip_prefix(MIRROR).filter(|name| !name.starts_with(COMMITS))?;
    Some(if name == "HEAD" { name.to_owned() } else { format!("refs/{name}") })
}

/// Where a mirror keeps tags.
pub fn tags() -> String {
    tracking("refs/tags/")
}

/// The tag with the highest version in the range. Of versions that differ in nothing but their builds, the later one by
/// name.
pub fn highest<'a, T>(range: &Range, tags: impl Iterator<Item = (&'a str, T)>) -> Option<(&'a str, T)> {
    let fitting = tags.filter_map(|(tag, what)| Some((version(tag).filter(|it| range.contains(it))?, tag, what)));
    let best = fitting.max_by(|(one, tag, _), (other, last, _)| one.cmp(other).then_with(|| tag.cmp(last)));
    best.map(|(_, tag, what)| (tag, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789012345678901234567890123456789";

    fn spec(entries: &[(&str, &str)]) -> GitReference {
        let of = |key: &str| entries.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned());
        GitReference {
            branch: of("branch"),
            tag: of("tag"),
            semver: of("semver"),
            name: of("name"),
            commit: of("commit"),
        }
    }

    #[test]
    fn a_later_one_goes_before_an_earlier_one() {
        let all = [("branch", "dev"), ("tag", "v1"), ("semver", "^1"), ("name", "refs/pull/1/head"), ("commit", ID)];
        let shown = |count: usize| Reference::new(&spec(&all[..count])).unwrap().to_string();
        assert_eq!(shown(0), "the branch main");
        assert_eq!(shown(1), "the branch dev");
        assert_eq!(shown(2), "the tag v1");
        assert_eq!(shown(3), "the tags in ^1");
        assert_eq!(shown(4), "the reference refs/pull/1/head");
        assert_eq!(shown(5), format!("the commit {ID}"));
    }

    #[test]
    fn what_can_be_no_reference_is_refused() {
        for (key, value) in [
            ("branch", "ma in"),
            ("tag", "v1^"),
            ("semver", "newest"),
            ("name", "main"),
            ("name", "refs/heads/*"),
            ("commit", "0123"),
            ("commit", "HEAD"),
        ] {
            let error = Reference::new(&spec(&[(key, value)])).unwrap_err();
            assert_eq!(error.reason(), "InvalidReference", "{key} {value}");
            assert!(error.to_string().contains(value), "{error}");
        }
    }

    #[test]
    fn a_mirror_knows_its_names() {
        for name in ["refs/heads/a/b", "refs/tags/v1", "refs/pull/1/head", "HEAD"] {
            assert_eq!(remote(&tracking(name)).as_deref(), Some(name));
        }
        let commit = Reference::new(&spec(&[("commit", ID)])).unwrap();
        assert_eq!(remote(&commit.tracking().unwrap()), None);
    }

    #[test]
    fn the_highest_version_wins_whatever_the_order() {
        let range = Range::parse(">=1.0.0").unwrap();
        let tags = ["v1.10.0", "v1.9.0", "1.2.0", "nightly", "v2.0.0-rc.1", "0.9.0"];
        assert_eq!(highest(&range, tags.into_iter().map(|tag| (tag, ()))), Some(("v1.10.0", ())));
        assert_eq!(highest(&range, ["0.1.0"].into_iter().map(|tag| (tag, ()))), None);
    }

    #[test]
    fn only_a_push_of_what_is_followed_concerns() {
        let concerns = |entries: &[_], pushed| Reference::new(&spec(entries)).unwrap().concerns(pushed);
        assert!(concerns(&[("branch", "dev")], "refs/heads/dev") && !concerns(&[("branch", "dev")], "refs/heads/main"));
        assert!(concerns(&[("semver", "^1")], "refs/tags/v9") && !concerns(&[("semver", "^1")], "refs/heads/main"));
        assert!(concerns(&[("commit", ID)], "refs/heads/main") && concerns(&[("name", "HEAD")], "refs/heads/main"));
    }
}
