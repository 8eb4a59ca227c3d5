//! Against real repositories, made by the real git, over file://.

mod references;
mod turns;
mod urls;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crds::git_sync::{GitReference, GitSource};

use super::{Commit, Credentials, Mirrors, Source, SourceError, UNUSED};

/// More than any repository here holds.
const LIMIT: u64 = 64 << 20;

fn of(url: &str, branch: &str) -> Result<Source, SourceError> {
    let reference = GitReference { branch: Some(branch.to_owned()), ..GitReference::default() };
    Source::new(&GitSource { url: url.to_owned(), reference, ..GitSource::default() }, Credentials::None, None)
}

async fn fetch(mirrors: &Mirrors, source: &Source) -> Result<Commit, SourceError> {
    Ok(mirrors.fetch(source, Instant::now()).await?.tip.commit)
}

async fn cached(mirrors: &Mirrors, source: &Source) -> Option<Commit> {
    Some(mirrors.cached(source).await?.commit)
}

/// A folder with a repository that somebody writes to, and mirrors of it.
struct World {
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(world.repository()).unwrap();
        world.git(&["init", "--quiet", "--initial-branch=main", "."]);
        world
    }

    fn repository(&self) -> PathBuf {
        self.folder.path().join("served/app")
    }

    fn git(&self, arguments: &[&str]) -> String {
        self.git_reads(arguments, "")
    }

    fn git_reads(&self, arguments: &[&str], input: &str) -> String {
        let mut git = Command::new("git");
        git.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.folder.path());
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "Ada").env(format!("GIT_{who}_EMAIL"), "ada@example.com");
        }
        git.current_dir(self.repository()).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut git = git.spawn().unwrap();
        git.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = git.wait_with_output().unwrap();
        assert!(output.status.success(), "git {arguments:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.repository().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes and commits; answers the id.
    fn commit(&self, path: &str, text: &str) -> String {
        self.write(path, text);
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", path]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn blob(&self, text: &str) -> String {
        self.git_reads(&["hash-object", "-w", "--stdin"], text)
    }

    fn tree(&self, entries: &str) -> String {
        self.git_reads(&["mktree"], entries)
    }

    fn mirrors(&self) -> Mirrors {
        Mirrors::new(self.cache(), Some(self.folder.path().join("served")), Duration::from_secs(30), LIMIT)
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn source(&self, branch: &str) -> Source {
        of(&format!("file://{}", self.repository().display()), branch).unwrap()
    }

    /// The one mirror's folder.
    fn mirror(&self) -> PathBuf {
        let mirror = only(&self.cache(), |_| true);
        only(&mirror, |name| name.parse::<u64>().is_ok())
    }

    fn packs(&self) -> Vec<PathBuf> {
        let mut packs = entries(&self.mirror().join("objects/pack"));
        packs.retain(|path| path.extension().is_some_and(|extension| extension == "pack"));
        packs
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn only(folder: &Path, fits: fn(&str) -> bool) -> PathBuf {
    let mut found = entries(folder);
    found.retain(|path| fits(path.file_name().unwrap().to_str().unwrap()));
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn is_yaml(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "yaml")
}

async fn read(mirrors: &Mirrors, source: &Source, commit: &Commit, path: &str) -> Vec<(String, String)> {
    let mut files = mirrors.read(source, commit, path, is_yaml).await;
    if files.as_ref().is_err_and(|error| SourceError::LACKING.contains(&error.reason())) {
        mirrors.fetch(source, Instant::now()).await.unwrap();
        mirrors.bring(source, commit).await.unwrap();
        files = mirrors.read(source, commit, path, is_yaml).await;
    }
    files.unwrap().into_iter().map(|file| (file.path, String::from_utf8(file.bytes).unwrap())).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

#[tokio::test]
async fn a_commit_is_fetched_and_read() {
    let world = World::new();
    world.write("b.yaml", "b");
    world.write("a/z.yaml", "z");
    world.write("a.yaml", "a");
    world.write("a/notes.txt", "no");
    world.write("a/.hidden.yaml", "no");
    world.write(".github/workflow.yaml", "no");
    let id = world.commit("deep/er/c.yaml", "c");
    let (mirrors, source) = (world.mirrors(), world.source("main"));

    assert!(cached(&mirrors, &source).await.is_none());
    let commit = fetch(&mirrors, &source).await.unwrap();
    assert_eq!(commit.to_string(), id);
    let all = pairs(&[("a.yaml", "a"), ("a/z.yaml", "z"), ("b.yaml", "b"), ("deep/er/c.yaml", "c")]);
    for path in ["", ".", "/", "./"] {
        assert_eq!(read(&mirrors, &source, &commit, path).await, all, "{path}");
    }
    for path in ["deep/er", "./deep/er/", "/deep//er", "deep/./er", "deep/er/c.yaml"] {
        assert_eq!(read(&mirrors, &source, &commit, path).await, pairs(&[("deep/er/c.yaml", "c")]), "{path}");
    }
    // What is named by its own name is wanted.
    assert_eq!(read(&mirrors, &source, &commit, "a/notes.txt").await, pairs(&[("a/notes.txt", "no")]));
    assert_eq!(read(&mirrors, &source, &commit, ".github").await, pairs(&[(".github/workflow.yaml", "no")]));
}

#[tokio::test]
async fn history_is_not_fetched_nor_is_anything_twice() {
    let world = World::new();
    let first = world.commit("a.yaml", "1");
    world.commit("a.yaml", "2");
    let (mirrors, source) = (world.mirrors(), world.source("main"));
    fetch(&mirrors, &source).await.unwrap();
    let mirror = gix::open(world.mirror()).unwrap();
    assert!(!mirror.has_object(gix::ObjectId::from_hex(first.as_bytes()).unwrap()), "only the newest commit is needed");

    let before = (world.mirror(), world.packs());
    let again = fetch(&mirrors, &source).await.unwrap();
    let restarted = fetch(&world.mirrors(), &source).await.unwrap();
    assert_eq!((world.mirror(), world.packs()), before, "nothing moved, so nothing is transferred");
    assert_eq!(again, restarted);

    let third = world.commit("a.yaml", "3");
    let commit = fetch(&mirrors, &source).await.unwrap();
    assert_eq!(commit.to_string(), third);
    assert_eq!(world.packs().len(), 2);
    assert_eq!(read(&mirrors, &source, &commit, "").await, pairs(&[("a.yaml", "3")]));
}

#[tokio::test]
async fn a_force_push_is_followed() {
    let world = World::new();
    world.commit("a.yaml", "1");
    let (mirrors, source) = (world.mirrors(), world.source("main"));
    let before = fetch(&mirrors, &source).await.unwrap();
    world.git(&["checkout", "--quiet", "--orphan", "other"]);
    world.commit("a.yaml", "rewritten");
    world.git(&["branch", "--force", "main"]);
    let commit = fetch(&mirrors, &source).await.unwrap();
    assert_ne!(commit, before);
    assert_eq!(read(&mirrors, &source, &commit, "").await, pairs(&[("a.yaml", "rewritten")]));
    assert_eq!(read(&mirrors, &source, &before, "").await, pairs(&[("a.yaml", "1")]), "the old one is still there");
}

#[tokio::test]
async fn content_that_returns_from_history_is_whole() {
    let world = World::new();
    world.commit("a.yaml", "returns");
    world.commit("a.yaml", "other");
    let (mirrors, source) = (world.mirrors(), world.source("main"));
    fetch(&mirrors, &source).await.unwrap();
    // As if killed between writing the pack and the boundary of the history: git then believes that we have it all.
    fs::remove_file(world.mirror().join("shallow")).unwrap();
    world.commit("a.yaml", "returns");
    let commit = fetch(&mirrors, &source).await.unwrap();
    assert_eq!(read(&mirrors, &source, &commit, "").await, pairs(&[("a.yaml", "returns")]));
}

#[tokio::test]
async fn branches_share_a_mirror() {
    let world = World::new();
    let main = world.commit("a.yaml", "1");
    world.git(&["checkout", "--quiet", "-b", "team/next"]);
    let next = world.commit("a.yaml", "2");
    let mirrors = world.mirrors();
    for (branch, id) in [("main", &main), ("team/next", &next), ("main", &main)] {
        assert_eq!(fetch(&mirrors, &world.source(branch)).await.unwrap().to_string(), *id);
    }
    assert_eq!(cached(&mirrors, &world.source("team/next")).await.unwrap().to_string(), next);
    assert!(world.mirror().exists());

    // A branch may turn into a folder of branches.
    world.git(&["checkout", "--quiet", "--detach"]);
    world.git(&["branch", "--delete", "--force", "main"]);
    world.git(&["branch", "main/stable"]);
    assert_eq!(fetch(&mirrors, &world.source("main/stable")).await.unwrap().to_string(), next);
    let error = fetch(&mirrors, &world.source("main")).await.unwrap_err();
    assert_eq!(error.reason(), "ReferenceNotFound");
    assert_eq!(cached(&mirrors, &world.source("team/next")).await.unwrap().to_string(), next);
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let world = World::new();
    let mirrors = world.mirrors();
    let empty = fetch(&mirrors, &world.source("main")).await.unwrap_err();
    assert_eq!(empty.reason(), "ReferenceNotFound", "an empty repository: {empty}");

    world.commit("folder/a.yaml", "1");
    let missing = fetch(&mirrors, &world.source("missing")).await.unwrap_err();
    assert_eq!(missing.reason(), "ReferenceNotFound");
    assert!(missing.to_string().contains("the branch missing of file:///"), "{missing}");

    let source = world.source("main");
    let commit = fetch(&mirrors, &source).await.unwrap();
    for path in ["folder/b", "other", "folder/a.yaml/below"] {
        let error = mirrors.read(&source, &commit, path, is_yaml).await.unwrap_err();
        assert_eq!(error.reason(), "PathNotFound", "{path}");
        assert!(error.to_string().contains(path) && error.to_string().contains(&commit.to_string()), "{error}");
    }
    for path in ["..", "folder/../..", "../../etc"] {
        assert_eq!(mirrors.read(&source, &commit, path, is_yaml).await.unwrap_err().reason(), "InvalidPath", "{path}");
    }
    let absent = of(&format!("{}x", source.url()), "main").unwrap();
    let error = fetch(&mirrors, &absent).await.unwrap_err();
    assert_eq!(error.reason(), "RepositoryNotFound", "{error}");
    assert!(of(source.url(), "ma in").is_err_and(|error| error.reason() == "InvalidReference"));
}

#[tokio::test]
async fn links_are_not_followed() {
    let world = World::new();
    for (link, target) in [("passwd.yaml", "/etc/passwd"), ("up", ".."), ("up.yaml", "../outside.yaml")] {
        std::os::unix::fs::symlink(target, world.repository().join(link)).unwrap();
    }
    world.commit("real.yaml", "1");
    let (mirrors, source) = (world.mirrors(), world.source("main"));
    let commit = fetch(&mirrors, &source).await.unwrap();
    assert_eq!(read(&mirrors, &source, &commit, "").await, pairs(&[("real.yaml", "1")]));
    for path in ["passwd.yaml", "up", "up/app"] {
        assert_eq!(mirrors.read(&source, &commit, path, is_yaml).await.unwrap_err().reason(), "PathNotFound", "{path}");
    }
}

#[tokio::test]
async fn too_much_is_refused() {
    let world = World::new();
    let (small, large) = (world.blob("1"), world.blob(&"x".repeat(20 << 20)));
    let many: Vec<String> = (0..=10_000).map(|file| format!("100644 blob {small}\t{file}.yaml\n")).collect();
    let folders = [
        ("fits", format!("100644 blob {small}\ta.yaml\n")),
        ("large", format!("100644 blob {large}\ta.yaml\n100644 blob {large}\tb.yaml\n")),
        ("many", many.concat()),
    ];
    let tree = folders.map(|(name, entries)| format!("040000 tree {}\t{name}\n", world.tree(&entries))).concat();
    let commit = world.git(&["commit-tree", "-m", "Large", &world.tree(&tree)]);
    world.git(&["update-ref", "refs/heads/main", &commit]);
    let (mirrors, source) = (world.mirrors(), world.source("main"));
    let commit = fetch(&mirrors, &source).await.unwrap();
    for (path, limit) in [("large", "32 MiB"), ("many", "10,000 files"), ("", "split it")] {
        let error = mirrors.read(&source, &commit, path, is_yaml).await.unwrap_err();
        assert_eq!(error.reason(), "TooLarge");
        assert!(error.to_string().contains(limit), "{error}");
    }
    assert_eq!(read(&mirrors, &source, &commit, "fits").await.len(), 1);
}

#[tokio::test]
async fn what_a_killed_process_left_behind_does_no_harm() {
    let world = World::new();
    world.commit("a.yaml", "1");
    let source = world.source("main");
    fetch(&world.mirrors(), &source).await.unwrap();
    let mirror = world.mirror();
    let stale = ["shallow.lock", "refs/mirror/heads/main.lock", "objects/pack/.tmpAbCdEf", "objects/pack/pack-1.pack"];
    for path in stale {
        fs::write(mirror.join(path), "").unwrap();
    }
    let unfinished = mirror.with_file_name("fresh");
    fs::create_dir(&unfinished).unwrap();
    fs::write(unfinished.join("HEAD"), "half").unwrap();

    let second = world.commit("a.yaml", "2");
    assert_eq!(fetch(&world.mirrors(), &source).await.unwrap().to_string(), second);
    assert_eq!(world.mirror(), mirror, "what was there is used on");
    assert!(!unfinished.exists());
    for path in stale {
        assert!(!mirror.join(path).exists(), "{path}");
    }
}

#[tokio::test]
async fn a_damaged_mirror_is_fetched_anew() {
    let world = World::new();
    world.commit("a.yaml", "1");
    let source = world.source("main");
    let damages: [fn(&World); 4] = [
        |world| fs::write(world.mirror().join("HEAD"), "nonsense").unwrap(),
        |world| fs::write(world.mirror().join("config"), "[[[").unwrap(),
        |world| world.packs().iter().for_each(|pack| cut(pack)),
        |world| fs::remove_dir_all(world.mirror().join("objects")).unwrap(),
    ];
    for (index, damage) in damages.into_iter().enumerate() {
        for restarted in [false, true] {
            let mut mirrors = world.mirrors();
            let commit = fetch(&mirrors, &source).await.unwrap();
            damage(&world);
            if restarted {
                mirrors = world.mirrors();
                assert_eq!(fetch(&mirrors, &source).await.unwrap(), commit, "damage {index}");
            }
            assert_eq!(read(&mirrors, &source, &commit, "").await, pairs(&[("a.yaml", "1")]), "damage {index}");
            assert_eq!(fetch(&mirrors, &source).await.unwrap(), commit, "damage {index}");
        }
    }
}

fn cut(pack: &Path) {
    let mut permissions = fs::metadata(pack).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    fs::set_permissions(pack, permissions).unwrap();
    fs::write(pack, &fs::read(pack).unwrap()[..20]).unwrap();
}

#[tokio::test]
async fn a_mirror_with_many_packs_is_replaced_with_all_its_branches() {
    let world = World::new();
    world.commit("a.yaml", "0");
    world.git(&["branch", "quiet"]);
    let (mirrors, source) = (world.mirrors(), world.source("main"));
    let quiet = fetch(&mirrors, &world.source("quiet")).await.unwrap();
    let (first, mut commit) = (world.mirror(), quiet.clone());
    for round in 1..=64 {
        world.commit("a.yaml", &round.to_string());
        commit = fetch(&mirrors, &source).await.unwrap();
        assert!(world.packs().len() <= 64);
    }
    assert_ne!(world.mirror(), first);
    assert!(!first.exists());
    assert!(world.packs().len() < 3);
    assert_eq!(read(&mirrors, &source, &commit, "").await, pairs(&[("a.yaml", "64")]));
    assert_eq!(cached(&mirrors, &world.source("quiet")).await, Some(quiet));
}

#[tokio::test]
async fn a_mirror_outlives_the_repository() {
    let world = World::new();
    let id = world.commit("a.yaml", "1");
    let source = world.source("main");
    fetch(&world.mirrors(), &source).await.unwrap();
    fs::rename(world.repository(), world.folder.path().join("away")).unwrap();

    let restarted = world.mirrors();
    assert_eq!(fetch(&restarted, &source).await.unwrap_err().reason(), "RepositoryNotFound");
    let commit = cached(&restarted, &source).await.unwrap();
    assert_eq!(commit.to_string(), id);
    assert_eq!(read(&restarted, &source, &commit, "").await, pairs(&[("a.yaml", "1")]));
    fs::remove_dir_all(world.mirror().join("objects")).unwrap();
    assert!(cached(&world.mirrors(), &source).await.is_none(), "a commit without its objects is none");
}

#[tokio::test]
async fn mirrors_that_no_git_sync_uses_any_more_are_removed() {
    let world = World::new();
    world.commit("a.yaml", "1");
    let app = || ("ns".to_owned(), "app".to_owned());
    // As other credentials, another URL leads to a mirror of its own.
    fs::create_dir_all(world.folder.path().join("served/link")).unwrap();
    std::os::unix::fs::symlink(world.repository(), world.folder.path().join("served/link/app")).unwrap();
    let url = format!("file://{}", world.folder.path().join("served/link/app").display());
    let (before, after) = (world.source("main").of(app()), of(&url, "main").unwrap().of(app()));
    fetch(&world.mirrors(), &before).await.unwrap();
    let foreign = world.cache().join("lost+found");
    fs::create_dir(&foreign).unwrap();

    let mirrors = world.mirrors();
    let there = |source: &Source| world.cache().join(source.mirror()).exists();
    let began = Instant::now();
    let mut now = began;
    let mut sweep = |later: Duration, all: bool| {
        now += later;
        mirrors.sweep(|user| all && *user == app(), now);
    };
    // After a restart it is not known at once who uses it; and one that is used stays, however seldom that is.
    sweep(Duration::ZERO, true);
    sweep(UNUSED / 2, true);
    cached(&mirrors, &before).await.unwrap();
    sweep(UNUSED, true);
    sweep(UNUSED * 100, true);
    assert!(there(&before));

    fetch(&mirrors, &after).await.unwrap();
    sweep(UNUSED, true);
    assert!(there(&before), "it was known of nobody before");
    let held = mirrors.mirror(&before);
    let fetching = held.turn.lock().await;
    fetch(&mirrors, &after).await.unwrap();
    sweep(UNUSED, true);
    assert!(there(&before), "it is being fetched");
    assert_eq!(mirrors.opened.lock().len(), 2, "whoever comes waits for the same turn");
    drop(fetching);
    drop(held);
    sweep(UNUSED, true);
    assert!(!there(&before) && there(&after));
    assert_eq!(mirrors.opened.lock().len(), 1);

    for later in [Duration::ZERO, UNUSED] {
        sweep(later, false);
    }
    assert!(!there(&after) && mirrors.opened.lock().is_empty() && foreign.exists());
    let again = mirrors.fetch(&after, began).await.unwrap().tip.commit;
    assert_eq!(read(&mirrors, &after, &again, "").await, pairs(&[("a.yaml", "1")]), "no earlier answer will do");
}

#[tokio::test]
async fn files_are_read_only_below_the_given_folder() {
    let world = World::new();
    world.commit("a.yaml", "1");
    let served = world.folder.path().join("served");
    let within = |root: Option<PathBuf>| Mirrors::new(world.cache(), root, Duration::from_secs(30), LIMIT);
    let refused = async |mirrors: Mirrors, url: &str| {
        let error = fetch(&mirrors, &of(url, "main").unwrap()).await.unwrap_err();
        assert_eq!(error.reason(), "InvalidUrl", "{error}");
        error.to_string()
    };
    let url = world.source("main").url().to_owned();
    assert!(refused(within(None), &url).await.contains("--git-file-root"));
    refused(within(Some(world.folder.path().join("cache"))), &url).await;
    let other = served.join("other");
    fs::create_dir(&other).unwrap();
    std::os::unix::fs::symlink(world.repository(), other.join("app")).unwrap();
    assert!(
        refused(within(Some(other.clone())), &format!("file://{}/app", other.display())).await.contains("not below")
    );
    // Of what is elsewhere it is not told whether it exists.
    let elsewhere = ["file:///etc", "file:///no/such/folder", &format!("file://{}/../../..", other.display())];
    for url in elsewhere {
        assert!(refused(within(Some(other.clone())), url).await.contains("not below"), "{url}");
    }
}
