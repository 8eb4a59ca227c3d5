//! What can be followed, how deep, how much, and what of it is signed.

use std::{fs, time::Instant};

use crds::git_sync::{GitReference, GitSource};

use super::{Commit, LIMIT, World, entries, fetch, of, pairs, read};
use crate::sync::source::{Credentials, Mirrors, Source, SourceError, Tip, Walk};

fn follow(world: &World, reference: GitReference) -> Result<Source, SourceError> {
    let url = world.source("main").url().to_owned();
    Source::new(&GitSource { url, reference, ..GitSource::default() }, Credentials::None, None)
}

fn tag(name: &str) -> GitReference {
    GitReference { tag: Some(name.to_owned()), ..GitReference::default() }
}

fn semver(range: &str) -> GitReference {
    GitReference { semver: Some(range.to_owned()), ..GitReference::default() }
}

fn commit(id: &str) -> GitReference {
    GitReference { commit: Some(id.to_owned()), ..GitReference::default() }
}

async fn tip(mirrors: &Mirrors, source: &Source) -> Result<Tip, SourceError> {
    Ok(mirrors.fetch(source, Instant::now()).await?.tip)
}

#[tokio::test]
async fn all_that_can_be_followed_has_fluxs_revision() {
    let world = World::new();
    let first = world.commit("a.yaml", "1");
    world.git(&["tag", "v1.0.0"]);
    let second = world.commit("a.yaml", "2");
    world.git(&["tag", "--annotate", "--message=second", "v1.2.0"]);
    world.git(&["update-ref", "refs/pull/1/head", &first]);
    let third = world.commit("a.yaml", "3");
    world.git(&["tag", "v2.0.0-rc.1"]);
    let mirrors = world.mirrors();
    let name = |name: &str| GitReference { name: Some(name.to_owned()), ..GitReference::default() };
    for (reference, revision) in [
        (GitReference::default(), format!("main@sha1:{third}")),
        (tag("v1.0.0"), format!("v1.0.0@sha1:{first}")),
        (tag("v1.2.0"), format!("v1.2.0@sha1:{second}")),
        (semver(">=1.0.0 <2.0.0"), format!("v1.2.0@sha1:{second}")),
        (semver("1.0.x"), format!("v1.0.0@sha1:{first}")),
        (semver(">=1.0.0-0"), format!("v2.0.0-rc.1@sha1:{third}")),
        (name("refs/pull/1/head"), format!("refs/pull/1/head@sha1:{first}")),
        (name("HEAD"), format!("HEAD@sha1:{third}")),
        (commit(&first), format!("sha1:{first}")),
        (GitReference { branch: Some("main".to_owned()), ..commit(&first) }, format!("main@sha1:{first}")),
    ] {
        let source = follow(&world, reference).unwrap();
        for _ in 0..2 {
            let found = tip(&mirrors, &source).await.unwrap();
            assert_eq!(found.revision(), revision);
            assert_eq!(Tip::from_revision(&revision).unwrap().revision(), revision);
            assert_eq!(found.tag.is_some(), revision.starts_with("v1.2.0"), "{revision}");
            assert_eq!(mirrors.cached(&source).await, Some(found), "{revision}");
        }
    }
    let source = follow(&world, commit(&first)).unwrap();
    let pinned = fetch(&mirrors, &source).await.unwrap();
    assert_eq!(read(&mirrors, &source, &pinned, "").await, pairs(&[("a.yaml", "1")]));
}

#[tokio::test]
async fn what_cannot_be_followed_is_named_with_what_to_correct() {
    let world = World::new();
    world.commit("a.yaml", "1");
    world.git(&["tag", "v1.0.0"]);
    let mirrors = world.mirrors();
    for (reference, words) in [
        (tag("v9"), "source.ref.tag"),
        (semver(">=2"), "source.ref.semver"),
        (GitReference { name: Some("refs/pull/9/head".to_owned()), ..GitReference::default() }, "source.ref.name"),
    ] {
        let error = tip(&mirrors, &follow(&world, reference).unwrap()).await.unwrap_err();
        assert_eq!(error.reason(), "ReferenceNotFound", "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// A tag that moves is followed; one that goes is missed, and what it led to stays.
#[tokio::test]
async fn tags_move_and_go() {
    let world = World::new();
    let first = world.commit("a.yaml", "1");
    world.git(&["tag", "v1.0.0"]);
    let (mirrors, source) = (world.mirrors(), follow(&world, tag("v1.0.0")).unwrap());
    assert_eq!(fetch(&mirrors, &source).await.unwrap().to_string(), first);
    let second = world.commit("a.yaml", "2");
    world.git(&["tag", "--force", "v1.0.0"]);
    assert_eq!(fetch(&mirrors, &source).await.unwrap().to_string(), second);
    world.git(&["tag", "--delete", "v1.0.0"]);
    assert_eq!(fetch(&mirrors, &source).await.unwrap_err().reason(), "ReferenceNotFound");
    assert_eq!(mirrors.cached(&source).await.unwrap().commit.to_string(), second);
}

#[tokio::test]
async fn a_pinned_commit_comes_alone_and_is_asked_for_once() {
    let world = World::new();
    let first = world.commit("a.yaml", "1");
    let second = world.commit("a.yaml", "2");
    let third = world.commit("a.yaml", "3");
    let (mirrors, source) = (world.mirrors(), follow(&world, commit(&second)).unwrap());
    fetch(&mirrors, &source).await.unwrap();
    let mirror = gix::open(world.mirror()).unwrap();
    for other in [first, third] {
        assert!(!mirror.has_object(gix::ObjectId::from_hex(other.as_bytes()).unwrap()), "only that commit is needed");
    }
    fs::rename(world.repository(), world.folder.path().join("served/away")).unwrap();
    fs::create_dir(world.repository()).unwrap();
    assert_eq!(fetch(&mirrors, &source).await.unwrap().to_string(), second, "it cannot have moved");
}

#[tokio::test]
async fn a_pinned_commit_that_is_gone_is_named_with_where_it_was_looked_for() {
    let world = World::new();
    world.commit("a.yaml", "1");
    let gone = "0123456789abcdef0123456789abcdef01234567";
    let mirrors = world.mirrors();
    let url = format!("file://{}", world.repository().display());
    let pinned = follow(&world, commit(gone)).unwrap();
    let branch = of(&url, "main").unwrap();
    let id = Commit(gix::ObjectId::from_hex(gone.as_bytes()).unwrap());
    let missed = async |source: &Source| {
        let error = fetch(&mirrors, source).await.unwrap_err();
        assert_eq!(error.reason(), "ReferenceNotFound", "{error}");
        assert!(error.to_string().starts_with(&format!("cannot fetch the commit {gone} of {url}: ")), "{error}");
    };
    // Without a mirror, and with one; a rollback asks for its commit beside the branch.
    missed(&pinned).await;
    fetch(&mirrors, &branch).await.unwrap();
    missed(&pinned).await;
    missed(&branch.at(&id)).await;
    assert_eq!(mirrors.read(&branch, &id, "", |_| true).await.unwrap_err().reason(), "CommitNotFound");
    assert_eq!(mirrors.bring(&branch, &id).await.unwrap_err().reason(), "ReferenceNotFound");
}

#[tokio::test]
async fn more_than_is_allowed_is_not_kept() {
    let world = World::new();
    world.commit("a.yaml", &noise(0..200_000));
    let error = tip(&within(&world, 1 << 20), &world.source("main")).await.unwrap_err();
    assert_eq!(error.reason(), "FetchTooLarge", "{error}");
    assert!(error.to_string().contains("1 MiB (--git-max-size)"), "{error}");
    let left = taken(&world);
    assert!(left < 64 << 10, "{left} bytes are left behind");
    tip(&within(&world, LIMIT), &world.source("main")).await.unwrap();
}

/// Each fetch is within what is allowed; together they would be far beyond it.
#[tokio::test]
async fn history_that_is_rewritten_again_and_again_does_not_fill_the_disk() {
    let world = World::new();
    let quiet = world.commit("a.yaml", "quiet");
    world.git(&["branch", "quiet"]);
    let mirrors = within(&world, 1 << 20);
    fetch(&mirrors, &world.source("quiet")).await.unwrap();
    let mut largest = 0;
    for round in 0..12_u64 {
        world.git(&["checkout", "--quiet", "--orphan", &format!("round-{round}")]);
        let id = world.commit("a.yaml", &noise(round * 40_000..(round + 1) * 40_000));
        world.git(&["branch", "--force", "main"]);
        assert_eq!(fetch(&mirrors, &world.source("main")).await.unwrap().to_string(), id);
        largest = largest.max(taken(&world));
    }
    assert!((1 << 20..5 << 19).contains(&largest), "up to {largest} bytes");
    // What else it followed comes again when it is asked for.
    assert_eq!(fetch(&mirrors, &world.source("quiet")).await.unwrap().to_string(), quiet);
}

/// Text that hardly gets smaller.
fn noise(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_string()).collect()
}

fn within(world: &World, limit: u64) -> Mirrors {
    let served = Some(world.folder.path().join("served"));
    Mirrors::new(world.cache(), served, std::time::Duration::from_secs(30), limit)
}

fn taken(world: &World) -> u64 {
    walk(&world.cache()).iter().map(|path| fs::metadata(path).unwrap().len()).sum()
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let (folders, files): (Vec<_>, Vec<_>) = entries(folder).into_iter().partition(|path| path.is_dir());
    folders.iter().flat_map(|folder| walk(folder)).chain(files).collect()
}

/// Two hundred who follow the same ask once, and have one mirror.
#[tokio::test]
async fn many_who_follow_the_same_share_the_answer() {
    let world = World::new();
    world.commit("a.yaml", "1");
    let (mirrors, source) = (world.mirrors(), world.source("main"));
    let asked = Instant::now();
    let all = (0..200).map(|_| mirrors.fetch(&source, asked));
    let answers: Vec<_> = futures::future::join_all(all).await.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| answer.began == answers[0].began && answer.tip == answers[0].tip));
    assert_eq!((entries(&world.cache()).len(), world.packs().len()), (1, 1));

    world.commit("a.yaml", "2");
    let old = mirrors.fetch(&source, asked).await.unwrap();
    assert_eq!(old.began, answers[0].began, "it is new enough");
    let new = mirrors.fetch(&source, Instant::now()).await.unwrap();
    assert_ne!(new.tip, old.tip, "whoever wants to know it now is told now");

    // A failure is shared only by those who waited for it.
    fs::rename(world.repository(), world.folder.path().join("away")).unwrap();
    let before = Instant::now();
    let failures = futures::future::join_all((0..20).map(|_| mirrors.fetch(&source, before))).await;
    assert!(failures.iter().all(Result::is_err));
    fs::rename(world.folder.path().join("away"), world.repository()).unwrap();
    mirrors.fetch(&source, before).await.unwrap();
}

#[tokio::test]
async fn the_commits_since_the_last_applied_one_are_fetched_when_they_are_asked_for() {
    let world = World::new();
    world.commit("a.yaml", "0");
    let (mirrors, source) = (world.mirrors(), world.source("main"));
    let base = fetch(&mirrors, &source).await.unwrap();
    let first = world.commit("a.yaml", "1");
    let one = tip(&mirrors, &source).await.unwrap();
    assert_eq!(since(&mirrors, &source, &one, &base).await, [first]);

    let second = world.commit("a.yaml", "2");
    // A side branch that left before what was applied is new too, but not what both have in common.
    world.git(&["checkout", "--quiet", "-b", "side", &format!("{base}~0")]);
    let side = world.commit("b.yaml", "side");
    world.git(&["checkout", "--quiet", "main"]);
    world.git(&["merge", "--quiet", "--no-edit", "side"]);
    let merge = world.git(&["rev-parse", "HEAD"]);
    let two = tip(&mirrors, &source).await.unwrap();
    let mirror = gix::open(world.mirror()).unwrap();
    assert!(!mirror.has_object(gix::ObjectId::from_hex(second.as_bytes()).unwrap()), "not before it is asked for");
    let mut expected = vec![merge, second, side];
    expected.sort();
    assert_eq!(since(&mirrors, &source, &two, &one.commit).await, expected);

    // Rewritten history: all that the applied one has not.
    world.git(&["checkout", "--quiet", "--orphan", "other"]);
    let other = world.commit("a.yaml", "other");
    world.git(&["branch", "--force", "main"]);
    let three = tip(&mirrors, &source).await.unwrap();
    assert_eq!(since(&mirrors, &source, &three, &two.commit).await, [other]);
}

async fn since(mirrors: &Mirrors, source: &Source, tip: &Tip, base: &super::Commit) -> Vec<String> {
    let Walk::Complete(commits) = mirrors.since(source, tip, base).await.unwrap() else { panic!("not complete") };
    let mut ids: Vec<String> = commits.iter().map(|(commit, _)| commit.to_string()).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn another_place_is_asked_while_the_first_is_away() {
    let world = World::new();
    let id = world.commit("a.yaml", "1");
    let spec = |first: &str| GitSource {
        url: first.to_owned(),
        fallback_urls: vec!["http://127.0.0.1:9/also/away.git".to_owned(), world.source("main").url().to_owned()],
        ..GitSource::default()
    };
    let mirrors = world.mirrors();
    // Port 9 of loopback: nobody is there.
    let source = Source::new(&spec("http://127.0.0.1:9/app.git"), Credentials::None, None).unwrap();
    let fetched = mirrors.fetch(&source, Instant::now()).await.unwrap();
    assert_eq!(fetched.tip.commit.to_string(), id);
    let why = fetched.fallback.unwrap();
    assert!(why.starts_with("file:///") && why.contains("http://127.0.0.1:9/app.git"), "{why}");
    assert!(why.contains("http://127.0.0.1:9/also/away.git"), "{why}");

    // Whatever answers is not passed over.
    let absent = of(&format!("file://{}", world.folder.path().join("served/none").display()), "main").unwrap();
    let source = Source::new(&spec(absent.url()), Credentials::None, None).unwrap();
    assert_eq!(tip(&mirrors, &source).await.unwrap_err().reason(), "RepositoryNotFound");
}
