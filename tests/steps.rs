//! A sync that is cut off at each of its steps, by the end of the controller or of what it asks: what was begun is brought
//! to its end, nothing is lost, and nothing is done twice.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use crds::{git_sync::GitSyncStatus, sync::history::Trigger};
use harness::{Asked, At, Gate, GitServer, Repository, Server, eventually};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::json;

use crate::{
    hooks::{ends, exists, gone, job},
    rollout::{deployment, in_wave, rolled_out},
    world::{Place, SOON, World, config_map, follow},
};

/// Something that the controller asks of the API server in the round of this number.
type Wanted = fn(&Asked, usize) -> bool;

const STEPS: [(&str, Wanted); 4] = [
    ("the inventory", |asked, round| is_status(asked) && asked.body.contains(&format!("new-{round}-a"))),
    ("an apply", |asked, _| is(asked, "PATCH", "/configmaps/changes")),
    ("a prune", |asked, round| is(asked, "DELETE", &format!("/configmaps/new-{}-a", round - 1))),
    ("the outcome", |asked, round| {
        is_status(asked)
            && asked.body.contains("Applied revision")
            && !asked.body.contains(&format!("new-{}-a", round - 1))
    }),
];

#[tokio::test]
async fn killed_at_each_step_nothing_is_lost_or_done_twice() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let place = world.place("steps").await?;
    let rounds = Rounds::begin(&place).await?;
    let mut number = 0;
    for (what, wanted) in STEPS {
        for at in [At::Request, At::Answer] {
            number += 1;
            let mut held = gate.hold(at, move |asked| wanted(asked, number));
            let commit = rounds.commit(number).await?;
            held.caught().await.with_context(|| format!("{what} at its {at:?}"))?;
            world.controller.kill().await?;
            drop(held);
            world.controller.restart().await?;
            let when = || format!("killed at the {at:?} of {what}");
            rounds.converged(number, &commit).await.with_context(when)?;
            for letter in ["a", "b"] {
                let path = format!("/configmaps/new-{}-{letter}", number - 1);
                assert_eq!(count(&gate, 0, "DELETE", &path), 1, "{path}");
            }
        }
    }

    // Before anything is asked of the cluster: while Git answers, and while what it answered is made objects of.
    number += 1;
    world.controller.kill().await?;
    let commit = rounds.commit(number).await?;
    rounds.git.pause();
    let asked = rounds.git.requests();
    world.controller.restart().await?;
    eventually("a fetch", SOON, || async { Ok((rounds.git.requests() > asked).then_some(())) }).await?;
    world.controller.kill().await?;
    rounds.git.resume();
    let mut held = gate.hold(At::Request, |asked| asked.path == "/apis");
    world.controller.restart().await?;
    held.caught().await?;
    world.controller.kill().await?;
    drop(held);
    world.controller.restart().await?;
    rounds.converged(number, &commit).await
}

/// What the wave that waits has come to stands in the status: it is neither begun anew nor counted anew.
#[tokio::test]
async fn killed_while_a_wave_waits_it_goes_on_where_it_stood() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let place = world.place("waits").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    let deployments = Api::<Deployment>::namespaced(place.client.clone(), &place.namespace);
    let write = |number: usize| -> Result<()> {
        repository.write("app.yaml", deployment("app", -1, &number.to_string()))?;
        repository.write("early.yaml", in_wave(&config_map(&format!("early-{number}"), "once"), -1))?;
        repository.write("late.yaml", config_map(&format!("late-{number}"), "once"))
    };
    write(0)?;
    let first = repository.commit("0").await?;
    follow(&place, "app", &repository, json!({})).await?;
    eventually("the Deployment", SOON, || async { Ok(deployments.get_opt("app").await?) }).await?;
    rolled_out(&deployments, "app", "Available").await?;
    place.applied("app", &first).await?;

    let waits: fn(&Asked) -> bool = |asked| is_status(asked) && asked.body.contains("wave -1: waiting for Deployment");
    for (number, at) in [(1, None), (2, Some(At::Request)), (3, Some(At::Answer))] {
        let before = gate.passed().len();
        let mut held = at.map(|at| gate.hold(at, waits));
        write(number)?;
        let commit = repository.commit(&number.to_string()).await?;
        match &mut held {
            Some(held) => held.caught().await?,
            None => drop(waiting(&place, number).await?),
        }
        world.controller.kill().await?;
        drop(held);
        world.controller.restart().await?;
        // Somebody looks at Git again, and it still waits.
        let status = waiting(&place, number).await?;
        let asked = git.requests();
        eventually("Git to be asked again", SOON, || async { Ok((git.requests() >= asked + 2).then_some(())) }).await?;
        assert!(place.maps().get_opt(&format!("late-{number}")).await?.is_none());
        place.maps().get(&format!("late-{}", number - 1)).await?;
        let under_way = status.under_way.context("what is under way")?;
        assert_eq!(under_way.revision, format!("main@sha1:{commit}"));

        rolled_out(&deployments, "app", "Available").await?;
        let status = place.applied("app", &commit).await?.status.context("a status")?;
        assert_eq!(status.under_way, None);
        assert_eq!(status.history.len(), number + 1);
        let entry = status.history.first().context("an entry")?;
        assert_eq!(entry.trigger, Some(under_way.trigger));
        let counts = entry.counts.context("counts")?;
        let all = counts.created + counts.changed + counts.unchanged;
        assert_eq!((all, counts.deleted), (3, 2), "{counts:?}");
        // What it did before it was killed counts as soon as it is written down.
        if at != Some(At::Request) {
            assert_eq!((entry.trigger, counts.created, counts.changed), (Some(Trigger::Interval), 2, 1), "{counts:?}");
        }
        for letter in ["early", "late"] {
            let gone = format!("/configmaps/{letter}-{}", number - 1);
            assert_eq!(count(&gate, before, "DELETE", &gone), 1, "{gone}");
        }
        let wave: Vec<_> = place.maps().list(&ListParams::default()).await?.iter().map(ResourceExt::name_any).collect();
        assert_eq!(wave, [format!("early-{number}"), format!("late-{number}")]);
        assert_eq!(deployments.get("app").await?.metadata.generation, Some(i64::try_from(number)? + 1));
    }
    Ok(())
}

/// The status of a GitSync that waits for the first wave of this commit.
async fn waiting(place: &Place<'_>, number: usize) -> Result<GitSyncStatus> {
    let early = format!("early-{number}");
    place
        .ready("app", |ready, sync| {
            let inventory = sync.status.iter().filter_map(|status| status.inventory.as_ref());
            let is_listed = inventory.flat_map(|it| it.objects.keys()).any(|id| id.name == early);
            is_listed && ready.message.contains("wave -1: waiting for Deployment")
        })
        .await?;
    place.syncs().get("app").await?.status.context("a status")
}

/// The first thing that is written to a GitSync, and the last.
#[tokio::test]
async fn killed_at_each_step_of_its_end_a_git_sync_goes_with_all_it_made() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let place = world.place("ends").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    for name in ["a", "b"] {
        repository.write(&format!("{name}.yaml"), config_map(name, "one"))?;
    }
    let commit = repository.commit("two").await?;
    let finalizer: fn(&Asked) -> bool = |asked| is(asked, "PATCH", "/gitsyncs/app");
    let prune: fn(&Asked) -> bool = |asked| is(asked, "DELETE", "/configmaps/b");
    for at in [At::Request, At::Answer] {
        for last in [prune, finalizer] {
            let before = gate.passed().len();
            let mut held = gate.hold(at, finalizer);
            place.sync("app", &repository.url(), "").await?;
            held.caught().await?;
            world.controller.kill().await?;
            drop(held);
            world.controller.restart().await?;
            place.applied("app", &commit).await?;

            let mut held = gate.hold(at, last);
            place.syncs().delete("app", &DeleteParams::default()).await?;
            held.caught().await?;
            world.controller.kill().await?;
            drop(held);
            world.controller.restart().await?;
            eventually("the GitSync to go", SOON, || async {
                Ok(place.syncs().get_opt("app").await?.is_none().then_some(()))
            })
            .await?;
            for name in ["a", "b"] {
                assert!(place.maps().get_opt(name).await?.is_none(), "{name}");
                assert_eq!(count(&gate, before, "DELETE", &format!("/configmaps/{name}")), 1, "{name}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn killed_around_a_hook_it_runs_once() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let place = world.place("hook-steps").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    let mark = "gitsync.signet.dev/hook: PreSync\n    gitsync.signet.dev/hook-delete-policy: HookSucceeded";
    repository.write("before.yaml", job("before", mark))?;
    repository.write("map.yaml", config_map("settings", 0))?;
    let first = repository.commit("0").await?;
    follow(&place, "app", &repository, json!({})).await?;
    exists(&place, "before").await?;
    ends(&place, "before", true).await?;
    place.applied("app", &first).await?;
    gone(&place, "before").await?;

    let cases = [(At::Request, "POST", "/jobs"), (At::Answer, "POST", "/jobs")];
    let cases =
        cases.into_iter().chain([(At::Request, "DELETE", "/jobs/before"), (At::Answer, "DELETE", "/jobs/before")]);
    for (number, (at, method, path)) in cases.enumerate() {
        let before = gate.passed().len();
        let mut held = gate.hold(at, move |asked| is(asked, method, path));
        repository.write("map.yaml", config_map("settings", number + 1))?;
        let commit = repository.commit("next").await?;
        if method == "DELETE" {
            exists(&place, "before").await?;
            ends(&place, "before", true).await?;
        }
        held.caught().await?;
        world.controller.kill().await?;
        drop(held);
        world.controller.restart().await?;
        if method == "POST" {
            exists(&place, "before").await?;
            ends(&place, "before", true).await?;
        }
        place.applied("app", &commit).await?;
        gone(&place, "before").await?;
        place.says("settings", &[("value", &(number + 1).to_string())]).await?;
        assert_eq!(count(&gate, before, "POST", "/jobs"), 1, "round {number}");
        assert_eq!(count(&gate, before, "DELETE", "/jobs/before"), 1, "round {number}");
    }
    Ok(())
}

#[tokio::test]
async fn the_api_server_or_its_store_may_go_in_the_middle_of_a_sync() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let place = world.place("outage").await?;
    let rounds = Rounds::begin(&place).await?;
    let mut number = 0;
    let process = world.controller.id().await;
    for server in [Server::ApiServer, Server::Etcd] {
        for (what, wanted) in STEPS {
            for at in [At::Request, At::Answer] {
                number += 1;
                let mut held = gate.hold(at, move |asked| wanted(asked, number));
                let commit = rounds.commit(number).await?;
                held.caught().await?;
                world.cluster.stop(server).await?;
                match at {
                    At::Request => held.pass(),
                    At::Answer => drop(held),
                }
                world.cluster.resume(server).await?;
                let when = || format!("{server:?} went at the {at:?} of {what}");
                rounds.converged(number, &commit).await.with_context(when)?;
            }
        }
    }
    assert!(world.controller.is_running().await? && world.controller.id().await == process);
    Ok(())
}

#[tokio::test]
async fn what_is_renamed_is_there_before_the_old_one_goes() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let place = world.place("rename").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("old", "one"))?;
    let first = repository.commit("old").await?;
    follow(&place, "app", &repository, json!({})).await?;
    place.applied("app", &first).await?;
    // Of a name that nothing can have nothing comes, and so the old one stays.
    repository.write("map.yaml", config_map("No_Name", "one"))?;
    repository.commit("no name").await?;
    place.ready("app", |ready, _| ready.status == "False" && ready.message.contains("No_Name")).await?;
    place.says("old", &[("value", "one")]).await?;

    repository.write("map.yaml", config_map("new", "one"))?;
    let last = repository.commit("new").await?;
    place.applied("app", &last).await?;
    place.says("new", &[("value", "one")]).await?;
    assert!(place.maps().get_opt("old").await?.is_none());
    let passed = gate.passed();
    let at = |method: &str, path: &str| passed.iter().position(|asked| is(asked, method, path));
    assert!(at("PATCH", "/configmaps/new") < at("DELETE", "/configmaps/old"));
    assert_eq!(count(&gate, 0, "DELETE", "/configmaps/old"), 1);
    Ok(())
}

/// A repository of which each commit changes one object, brings two and takes two away.
struct Rounds<'a> {
    place: &'a Place<'a>,
    git: GitServer,
    repository: Repository,
    stays: (Option<String>, Option<String>),
}

impl<'a> Rounds<'a> {
    /// Round 0, applied.
    async fn begin(place: &'a Place<'a>) -> Result<Self> {
        let git = GitServer::start()?;
        let repository = git.create("app").await?;
        repository.write("stays.yaml", config_map("stays", "always"))?;
        let mut rounds = Self { place, git, repository, stays: (None, None) };
        let first = rounds.commit(0).await?;
        follow(place, "app", &rounds.repository, json!({})).await?;
        place.applied("app", &first).await?;
        let stays = place.maps().get("stays").await?;
        rounds.stays = (stays.uid(), stays.resource_version());
        Ok(rounds)
    }

    async fn commit(&self, number: usize) -> Result<String> {
        self.repository.write("changes.yaml", config_map("changes", number))?;
        for letter in ["a", "b"] {
            let name = format!("new-{number}-{letter}");
            self.repository.write(&format!("{name}.yaml"), config_map(&name, number))?;
            if let Some(before) = number.checked_sub(1) {
                self.repository.remove(&format!("new-{before}-{letter}.yaml"))?;
            }
        }
        self.repository.commit(&format!("round {number}")).await
    }

    /// Everything is as this commit says, and came to be so without detours.
    async fn converged(&self, number: usize, commit: &str) -> Result<()> {
        let place = self.place;
        let status = place.applied("app", commit).await?.status.context("a status")?;
        let expected = ["changes", "stays", &format!("new-{number}-a"), &format!("new-{number}-b")].map(str::to_owned);
        let expected: BTreeSet<String> = expected.into();
        let maps = place.maps().list(&ListParams::default()).await?;
        assert_eq!(maps.iter().map(ResourceExt::name_any).collect::<BTreeSet<_>>(), expected);
        place.says("changes", &[("value", &number.to_string())]).await?;
        let stays = place.maps().get("stays").await?;
        assert_eq!((stays.uid(), stays.resource_version()), self.stays, "nobody touched it");
        let inventory = status.inventory.context("an inventory")?.objects;
        assert_eq!(inventory.into_keys().map(|id| id.name).collect::<BTreeSet<_>>(), expected);
        let revisions: Vec<_> = status.history.iter().map(|entry| &entry.revision).collect();
        let once: BTreeSet<_> = revisions.iter().collect();
        assert_eq!((once.len(), revisions.len()), (revisions.len(), (number + 1).min(10)), "{revisions:?}");
        Ok(())
    }
}

/// Requests that reached the API server.
fn count(gate: &Gate, since: usize, method: &str, path: &str) -> usize {
    gate.passed().iter().skip(since).filter(|asked| is(asked, method, path)).count()
}

fn is(asked: &Asked, method: &str, path: &str) -> bool {
    asked.method == method && asked.path.ends_with(path)
}

fn is_status(asked: &Asked) -> bool {
    is(asked, "PATCH", "/gitsyncs/app/status")
}
