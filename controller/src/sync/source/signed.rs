//! What of commits and tags is signed, as the mirror holds it: the words and the signature under them. Whether that is
//! good is decided elsewhere.

use std::collections::HashSet;

use gix::{ObjectId, Repository};

use super::{Commit, transfer::text, tree::Unread};

/// Commits that are looked at in one range, and of the history before it.
const MAX_COMMITS: usize = 10_000;
const MAX_HISTORY: usize = 1_000_000;
/// How a signature begins, on a line of its own.
const SIGNATURES: [&str; 3] =
    ["-----BEGIN PGP SIGNATURE-----", "-----BEGIN SSH SIGNATURE-----", "-----BEGIN SIGNED MESSAGE-----"];

/// A signature and what it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// As it stands there, in ASCII armor.
    pub armor: String,
    /// What was signed.
    pub payload: Vec<u8>,
}

/// What is signed at the end of a reference; `None` for what bears no signature.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The commit.
    pub commit: Option<Signature>,
    /// The annotated tag, if one led to it.
    pub tag: Option<Option<Signature>>,
}

/// The commits between two.
#[derive(Clone, Debug)]
pub enum Walk {
    /// The mirror does not reach back to the older one.
    Shallow,
    /// More than anybody will look at.
    Long,
    /// All that the newer one has and the older one has not.
    Complete(Vec<(Commit, Option<Signature>)>),
}

pub fn signed(repository: &Repository, commit: ObjectId, tag: Option<ObjectId>) -> Result<Signed, Unread> {
    Ok(Signed { commit: of_commit(repository, commit)?, tag: tag.map(|tag| of_tag(repository, tag)).transpose()? })
}

fn of_commit(repository: &Repository, id: ObjectId) -> Result<Option<Signature>, Unread> {
    let commit = repository.find_commit(id)?;
    let found = commit.signature()?;
    Ok(found.map(|(armor, data)| Signature { armor: armor.to_string(), payload: data.to_bstring().into() }))
}

/// A tag's signature stands at the end of its message.
fn of_tag(repository: &Repository, id: ObjectId) -> Result<Option<Signature>, Unread> {
    let tag = repository.find_tag(id)?;
    let Ok(words) = std::str::from_utf8(&tag.data) else { return Ok(None) };
    let begins = |line: &str| SIGNATURES.iter().any(|begin| line.starts_with(begin));
    let mut at = 0;
    let mut found = None;
    for line in words.split_inclusive('\n') {
        if begins(line) {
            found = Some(at);
        }
        at += line.len();
    }
    Ok(found.map(|at| Signature { armor: words[at..].to_owned(), payload: words.as_bytes()[..at].to_vec() }))
}

/// What `git rev-list base..tip` lists, as far as the mirror goes. It reads the commits themselves: where a mirror was
/// once cut off says nothing of what it has by now.
pub fn since(repository: &Repository, tip: ObjectId, base: ObjectId) -> Result<Walk, Unread> {
    // The short way first: most often every line of descent ends at the last applied commit.
    let mut is_shallow = false;
    let new = reach(repository, tip, &HashSet::from([base]), MAX_COMMITS, &mut is_shallow)?;
    if let Some(new) = new.filter(|new| !is_shallow && !new.iter().any(|id| is_root(repository, *id))) {
        return complete(repository, new);
    }
    is_shallow = false;
    let Some(old) = reach(repository, base, &HashSet::new(), MAX_HISTORY, &mut is_shallow)? else {
        return Ok(Walk::Long);
    };
    if is_shallow {
        return Ok(Walk::Shallow);
    }
    match reach(repository, tip, &old.into_iter().collect(), MAX_COMMITS, &mut is_shallow)? {
        _ if is_shallow => Ok(Walk::Shallow),
        Some(new) => complete(repository, new),
        None => Ok(Walk::Long),
    }
}

fn is_root(repository: &Repository, id: ObjectId) -> bool {
    repository.find_commit(id).is_ok_and(|commit| commit.parent_ids().next().is_none())
}

fn complete(repository: &Repository, ids: Vec<ObjectId>) -> Result<Walk, Unread> {
    let read = |id| Ok((Commit(id), of_commit(repository, id)?));
    Ok(Walk::Complete(ids.into_iter().map(read).collect::<Result<_, Unread>>()?))
}

/// The commits from one backwards, up to those that end it. None if they are too many.
fn reach(
    repository: &Repository,
    from: ObjectId,
    ends: &HashSet<ObjectId>,
    most: usize,
    is_shallow: &mut bool,
) -> Result<Option<Vec<ObjectId>>, Unread> {
    let (mut waiting, mut seen, mut found) = (vec![from], HashSet::new(), Vec::new());
    while let Some(id) = waiting.pop() {
        if ends.contains(&id) || !seen.insert(id) {
            continue;
        }
        let Some(object) = repository.try_find_object(id)? else {
            *is_shallow = true;
            continue;
        };
        if found.len() == most {
            return Ok(None);
        }
        found.push(id);
        let commit = object.try_into_commit().map_err(|error| Unread::Damaged(text(&error)))?;
        waiting.extend(commit.parent_ids().map(gix::Id::detach));
    }
    Ok(Some(found))
}
