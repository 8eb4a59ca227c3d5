//! `docs/seal-sync.md`: its commands by a shell, on a real cluster, each with what it answers. A screen that changes
//! fails here until the document says so.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::Result;
use harness::{GitServer, Output, Repository, binaries, command, tools::Tool};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::world::{Place, World, follow};

const DOCUMENT: &str = include_str!("../docs/seal-sync.md");

/// A command, what it is to answer, and the heading it stands under.
struct Example {
    heading: &'static str,
    command: &'static str,
    answer: String,
    code: i32,
}

fn examples() -> Vec<Example> {
    let (mut all, mut heading, mut inside): (Vec<Example>, _, _) = (Vec::new(), "", false);
    for line in DOCUMENT.lines() {
        if let Some(words) = line.strip_prefix("## ") {
            heading = words;
        } else if line.starts_with("```") {
            inside = line == "```console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| inside) {
            all.push(Example { heading, command, answer: String::new(), code: 0 });
        } else if let Some(example) = all.last_mut().filter(|_| inside) {
            match line.strip_prefix("? ") {
                Some(code) => example.code = code.parse().unwrap(),
                None => example.answer += &[line, "\n"].concat(),
            }
        }
    }
    all
}

/// Whether a text is as a pattern says: `[..]` is anything within a line, and how many blanks is no matter.
fn is_like(text: &str, pattern: &str) -> bool {
    let plain = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let line = |text: &str, pattern: &str| {
        let mut rest = text;
        let mut parts = pattern.split("[..]");
        let Some(start) = parts.next().and_then(|first| rest.strip_prefix(first)) else { return false };
        rest = start;
        let mut is_whole = !pattern.contains("[..]") && rest.is_empty();
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
            is_whole = rest.is_empty() || part.is_empty();
        }
        is_whole
    };
    let (text, pattern) = (plain(text), plain(pattern));
    text.len() == pattern.len() && text.iter().zip(&pattern).all(|(text, pattern)| line(text, pattern))
}

#[test]
fn patterns_take_what_they_should() {
    assert!(is_like("a  b 7s ago x\n", "a b [..] ago x\n") && is_like("main@1f", "main@[..]"));
    assert!(
        !is_like("a\nb\n", "a\n") && !is_like("ab", "a") && !is_like("xa", "a[..]") && !is_like("a b c", "a [..] d")
    );
}

async fn shell(folder: &Path, repository: &Repository, kubeconfig: &Path, words: &str) -> Result<Output> {
    let mut shell = command::clean("sh", folder);
    let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH")?);
    shell.args(["-c", &format!("{words} 2>&1")]).env("PATH", path).env("KUBECONFIG", kubeconfig);
    command::run(shell.current_dir(repository.work_tree()), b"").await
}

fn web(colour: &str) -> String {
    let map = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: web}}\ndata: {{colour: {colour}}}\n");
    map + "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n"
}

#[tokio::test]
async fn every_screen_of_the_document_is_as_it_says() -> Result<()> {
    let world = World::new().await?;
    let git = GitServer::start()?;
    let repository = git.create("shop").await?;
    world.cluster.kubectl(&["create", "namespace", "shop"]).await?;
    let place = Place { world: &world, namespace: "shop".to_owned(), client: world.cluster.admin().await? };
    let db = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: db}\n";
    repository.write("db/db.yaml", db)?;
    repository.write("web/all.yaml", web("blue"))?;
    repository.write("sealed/db.yaml", place.world.seal(&place.secret("db", &[("a", "1")]), &[]).await?)?;
    let commit = repository.commit("one").await?;
    for name in ["db", "web"] {
        follow(&place, name, &repository, json!({"path": name})).await?;
        place.applied(name, &commit).await?;
    }
    repository.write("db/db.yaml", format!("{db}---\napiVersion: v1\n"))?;
    let commit = repository.commit("two").await?;
    place.ready("db", |ready, _| ready.reason == "BuildFailed").await?;
    place.applied("web", &commit).await?;

    let home = tempfile::tempdir()?;
    let programs = home.path().join("bin");
    fs::create_dir(&programs)?;
    for (name, path) in [
        ("seal", binaries::seal().await?),
        ("kustomize", Tool::Kustomize.path().await?),
        ("helm", Tool::Helm.path().await?),
    ] {
        symlink(path, programs.join(name))?;
    }
    let mut last = "";
    let examples = examples();
    assert!(examples.len() > 12, "{}", examples.len());
    for Example { heading, command, answer, code } in examples {
        match heading {
            "Before a merge" if last != heading => repository.write("web/all.yaml", web("green"))?,
            "Sync now, and wait" if last != heading => drop(repository.commit("green").await?),
            "Allow a plan" if last != heading => {
                let manual = Patch::Merge(json!({"spec": {"syncPolicy": "Manual"}}));
                place.syncs().patch("web", &PatchParams::default(), &manual).await?;
                repository.write("web/all.yaml", web("red"))?;
                repository.commit("red").await?;
                place.ready("web", |ready, _| ready.reason == "ApprovalRequired").await?;
            }
            "Go back" if last != heading => {
                let automatic = Patch::Merge(json!({"spec": {"syncPolicy": "Automatic"}}));
                place.syncs().patch("web", &PatchParams::default(), &automatic).await?;
                place.applied("web", &repository.head().await?).await?;
            }
            _ => {}
        }
        last = heading;
        let done = shell(home.path(), &repository, world.cluster.kubeconfig(), command).await?;
        let matches = is_like(&done.stdout, &answer) && done.status.code() == Some(code);
        assert!(matches, "$ {command}\n{done}\ninstead of {code} and\n{answer}");
    }
    let verbs = ["list", "status", "tree", "events", "history", "render", "diff", "now", "wait", "plan", "approve"];
    for verb in verbs.into_iter().chain(["suspend", "resume", "rollback"]) {
        assert!(DOCUMENT.contains(&format!("$ seal sync {verb} ")), "{verb} has an example");
    }
    Ok(())
}
