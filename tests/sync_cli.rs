//! `seal sync` on a real API server with the real controller, by the rights of `deploy/sync-operator` and no others.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use harness::{Cluster, GitServer, Output, Repository, eventually, seal};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    keys::account,
    world::{Place, SOON, World, config_map, follow, start},
};

/// A namespace, a repository, and somebody who looks after what follows it.
pub struct Desk {
    pub place: Place<'static>,
    git: GitServer,
    pub repository: Repository,
    pub operator: PathBuf,
}

impl Desk {
    pub async fn new(name: &str) -> Result<Self> {
        let (place, git) = start(name).await?;
        let repository = git.create("app").await?;
        let cluster = &place.world.cluster;
        cluster.deploy_from("deploy/sync-operator").await?;
        let operator = account(cluster, &place.namespace).await?;
        bind(cluster, &place.namespace, "signet-sync-operator").await?;
        Ok(Self { place, git, repository, operator })
    }

    /// `seal sync …` in the namespace.
    pub async fn sync(&self, args: &[&str]) -> Result<Output> {
        seal(Some(&self.operator), &[&["sync"], args, &["-n", &self.place.namespace]].concat(), "").await
    }

    /// The exit code, and all that was said.
    pub async fn code(&self, args: &[&str]) -> Result<(i32, String)> {
        let Output { status, stdout, stderr } = self.sync(args).await?;
        Ok((status.code().context("a code")?, stdout + &stderr))
    }

    async fn report(&self, args: &[&str]) -> Result<Value> {
        let text = self.sync(&[args, &["-o", "json"]].concat()).await?.success()?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// Writes a ConfigMap and commits.
    async fn commit(&self, name: &str, value: &str) -> Result<String> {
        self.repository.write(&format!("{name}.yaml"), config_map(name, value))?;
        self.repository.commit(value).await
    }
}

/// Binds a ClusterRole in the whole cluster, and waits until that counts.
async fn bind(cluster: &Cluster, account: &str, role: &str) -> Result<()> {
    let (role, full) = (format!("--clusterrole={role}"), format!("kube-system:{account}"));
    let subject = format!("--serviceaccount={full}");
    cluster.kubectl(&["create", "clusterrolebinding", account, &role, &subject]).await?;
    cluster.may(&full, "list", "gitsyncs.signet.dev", "--all-namespaces").await
}

#[tokio::test]
async fn it_is_told_first_whether_all_is_well_then_what_to_do() -> Result<()> {
    let desk = Desk::new("screens").await?;
    let namespace = &desk.place.namespace;
    let first = desk.commit("a", "one").await?;
    let good = desk.git.create("good").await?;
    good.write("b.yaml", config_map("b", "one"))?;
    good.commit("one").await?;
    follow(&desk.place, "web", &desk.repository, json!({})).await?;
    follow(&desk.place, "good", &good, json!({})).await?;
    desk.place.applied("web", &first).await?;
    let (code, told) = desk.code(&["wait", "web", "good"]).await?;
    assert_eq!(code, 0, "{told}");
    let told = desk.sync(&["status", "web"]).await?.success()?;
    assert!(told.starts_with(&format!("{namespace}/web is well (for ")), "{told}");
    for words in [format!("Applied  main@sha1:{first}, "), "Objects  1\n".to_owned(), desk.repository.url()] {
        assert!(told.contains(&words), "{words} in {told}");
    }

    desk.repository.write("b.yaml", "kind: ConfigMap\n---\napiVersion: v1\nkind: Widget\nmetadata: {name: w}\n")?;
    desk.repository.commit("broken").await?;
    desk.place.ready("web", |ready, _| ready.reason == "BuildFailed").await?;
    let told = desk.sync(&["status", "web"]).await?.success()?;
    let mut lines = told.lines();
    let head = lines.next().unwrap_or_default();
    assert!(head.starts_with(&format!("{namespace}/web is not well: BuildFailed (for ")), "{told}");
    assert_eq!(lines.next(), Some("  b.yaml:1: apiVersion is missing"), "{told}");
    assert_eq!(lines.next(), Some("  b.yaml:3: Widget w: this cluster serves no Widget in v1"), "{told}");
    assert!(lines.next().is_some_and(|line| line.starts_with("Next: Correct these files and push.")), "{told}");
    assert!(told.contains(&format!("Applied  main@sha1:{first}")) && told.contains("Tried    main@sha1:"), "{told}");
    assert!(!told.contains('\u{1b}'), "no colour without a terminal");

    let list = desk.sync(&["list"]).await?.success()?;
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].starts_with("NAME  STATE   REVISION"), "{list}");
    assert!(lines[1].starts_with("web   failed  main@") && lines[1].contains("(and 1 more)"), "{list}");
    assert!(lines[2].starts_with("good  well    main@"), "{list}");
    assert_eq!(lines.last(), Some(&"1 of 2 not well: seal sync status NAME says what to do."));
    let report = desk.report(&["list"]).await?;
    assert_eq!((&report["gitSyncs"][0]["state"], &report["gitSyncs"][1]["state"]), (&json!("failed"), &json!("well")));
    let everywhere = seal(Some(&desk.operator), &["sync", "list", "-A"], "").await?.success()?;
    assert!(everywhere.lines().any(|line| line.starts_with(namespace) && line.contains(" good ")), "{everywhere}");
    let report = desk.report(&["status", "web"]).await?;
    assert_eq!((&report["reason"], &report["conditions"][0]["type"]), (&json!("BuildFailed"), &json!("Ready")));

    desk.place.event("BuildFailed", "b.yaml:1").await?;
    let events = desk.sync(&["events", "web"]).await?.success()?;
    let last = events.lines().last().unwrap_or_default();
    assert!(events.starts_with("WHEN") && last.contains("Warning  BuildFailed  b.yaml:1"), "{events}");
    let history = desk.sync(&["history", "web"]).await?.success()?;
    assert!(history.lines().nth(1).is_some_and(|line| line.starts_with(&format!("*  main@sha1:{first}"))), "{history}");

    // What is not there, and what one may not.
    let (code, told) = desk.code(&["status", "nothing"]).await?;
    assert_eq!(code, 1);
    assert!(told.contains(&format!("there is no GitSync {namespace}/nothing")) && told.contains("list -A"), "{told}");
    let stranger = account(&desk.place.world.cluster, &format!("{namespace}-stranger")).await?;
    for args in [&["sync", "list", "-A"][..], &["sync", "suspend", "a/b"], &["sync", "events", "a/b"]] {
        let refused = seal(Some(&stranger), args, "").await?;
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.stderr.contains("deploy/sync-operator"), "{}", refused.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn a_sync_is_asked_for_held_and_waited_for() -> Result<()> {
    let desk = Desk::new("asked").await?;
    desk.commit("a", "one").await?;
    follow(&desk.place, "web", &desk.repository, json!({"interval": "1h"})).await?;
    assert_eq!(desk.code(&["wait", "web"]).await?.0, 0);

    let second = desk.commit("a", "two").await?;
    let (code, told) = desk.code(&["now", "web"]).await?;
    assert!(code == 0 && told.contains("/web is well"), "{code}: {told}");
    assert_eq!(desk.place.maps().get("a").await?.data.context("data")?["value"], "two");
    assert_eq!(desk.code(&["wait", "web", "--for", &format!("revision={}", &second[..7])]).await?.0, 0);

    // Something is wrong: it is not waited until the end.
    desk.repository.write("b.yaml", "kind: ConfigMap\n")?;
    desk.repository.commit("broken").await?;
    let (code, told) = desk.code(&["now", "web"]).await?;
    assert!(code == 1 && told.contains("is not well: BuildFailed"), "{code}: {told}");
    let (code, told) = desk.code(&["wait", "web", "--timeout", "0"]).await?;
    assert!(code == 5 && told.contains("not as wanted within 0 s"), "{code}: {told}");
    desk.repository.remove("b.yaml")?;

    let (code, told) = desk.code(&["suspend", "web"]).await?;
    assert!(code == 0 && told.contains("/web is suspended"), "{told}");
    let third = desk.commit("a", "three").await?;
    let (code, told) = desk.code(&["now", "web"]).await?;
    assert!(code == 1 && told.contains("is suspended: nothing is done"), "{told}");
    assert_eq!(desk.code(&["wait", "web"]).await?.0, 1, "what is suspended does nothing");
    assert_eq!(desk.place.maps().get("a").await?.data.context("data")?["value"], "two");
    assert_eq!(desk.code(&["resume", "web"]).await?.0, 0);
    assert_eq!(desk.code(&["now", "web", "--no-wait"]).await?.0, 0);
    let goal = format!("revision={third}");
    let (code, told) = desk.code(&["wait", "web", "--for", &goal, "--timeout", "5m"]).await?;
    assert_eq!(code, 0, "{told}");
    assert_eq!(desk.code(&["wait", "web", "--for", "healthy"]).await?.0, 0);

    desk.place.syncs().delete("web", &DeleteParams::default()).await?;
    let (code, told) = desk.code(&["wait", "web", "--for", "deleted"]).await?;
    assert!(code == 0 && told.contains("/web is gone"), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_plan_is_shown_and_that_very_plan_is_allowed() -> Result<()> {
    let desk = Desk::new("leave").await?;
    desk.commit("a", "one").await?;
    follow(&desk.place, "web", &desk.repository, json!({"syncPolicy": "Manual"})).await?;
    desk.place.ready("web", |ready, _| ready.reason == "ApprovalRequired").await?;
    let plan = desk.report(&["plan", "web"]).await?;
    let (namespace, digest) = (&desk.place.namespace, plan["digest"].as_str().context("a digest")?);
    assert_eq!(plan["steps"], json!([format!("apply ConfigMap {namespace}/a")]));
    let told = desk.sync(&["status", "web"]).await?.success()?;
    assert!(
        told.contains("it waits: ApprovalRequired") && told.contains(&format!("approve {namespace}/web")),
        "{told}"
    );

    let (code, told) = desk.code(&["approve", "web"]).await?;
    assert!(code == 4 && told.contains("nobody can be asked") && told.contains("apply ConfigMap"), "{told}");
    let (code, told) = desk.code(&["approve", "web", "--plan", "another"]).await?;
    assert!(code == 4 && told.contains(digest) && told.contains("and not another"), "{told}");
    assert_eq!(desk.code(&["approve", "web", "--plan", digest]).await?.0, 0);
    assert_eq!(desk.code(&["wait", "web"]).await?.0, 0);
    assert_eq!(desk.code(&["plan", "web"]).await?, (0, format!("No plan of {namespace}/web waits for leave\n")));
    assert_eq!(desk.code(&["approve", "web", "--yes"]).await?.0, 1);

    // So is the deletion of all.
    desk.place
        .syncs()
        .patch("web", &PatchParams::default(), &Patch::Merge(json!({"spec": {"syncPolicy": "Automatic"}})))
        .await?;
    desk.repository.remove("a.yaml")?;
    desk.repository.commit("nothing").await?;
    desk.place.ready("web", |ready, _| ready.reason == "PruneRefused").await?;
    assert_eq!(desk.code(&["approve", "web", "--yes"]).await?.0, 0);
    eventually("the ConfigMap to go", SOON, || async {
        Ok(desk.place.maps().get_opt("a").await?.is_none().then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_rollback_goes_back_stays_and_is_taken_back() -> Result<()> {
    let desk = Desk::new("back").await?;
    let mut commits = vec![desk.commit("a", "one").await?];
    follow(&desk.place, "web", &desk.repository, json!({})).await?;
    desk.place.applied("web", &commits[0]).await?;
    for value in ["two", "three"] {
        commits.push(desk.commit("a", value).await?);
        desk.place.applied("web", &commits[commits.len() - 1]).await?;
    }
    let says = async || anyhow::Ok(desk.place.maps().get("a").await?.data.context("data")?["value"].clone());
    let (code, told) = desk.code(&["rollback", "web"]).await?;
    assert!(code == 0 && told.contains("/web is well"), "{code}: {told}");
    assert_eq!(says().await?, "two");
    let told = desk.sync(&["status", "web"]).await?.success()?;
    assert!(told.contains(&format!("Held at  main@{}, until there is a newer commit\n", &commits[1][..7])), "{told}");
    assert_eq!(desk.code(&["rollback", "web", &commits[0][..8]]).await?.0, 0);
    assert_eq!(says().await?, "one");
    let (code, told) = desk.code(&["rollback", "web", "0123456789"]).await?;
    assert!(code == 1 && told.contains("has no revision 0123456789") && told.contains("seal sync history"), "{told}");
    let (code, told) = desk.code(&["rollback", "web", "--off"]).await?;
    assert!(code == 0 && told.contains("/web follows Git again"), "{told}");
    assert_eq!(desk.code(&["wait", "web", "--for", &format!("revision={}", commits[2])]).await?.0, 0);
    assert_eq!(says().await?, "three");
    let report = desk.report(&["status", "web"]).await?;
    assert_eq!(report.get("pinned"), None, "{report}");
    Ok(())
}

#[tokio::test]
async fn the_tree_tells_how_each_object_fares() -> Result<()> {
    let desk = Desk::new("tree").await?;
    let namespace = &desk.place.namespace;
    let pod = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app", "image": "a"}]}});
    let spec = json!({"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": pod});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec});
    desk.repository.write("web.yaml", deployment.to_string())?;
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "load"}, "spec": {"suspend": true,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "app", "image": "a"}]}}}});
    desk.repository.write("job.yaml", job.to_string())?;
    let sealed = desk.place.world.seal(&desk.place.secret("db", &[("a", "1")]), &[]).await?;
    desk.repository.write("db.yaml", sealed)?;
    let commit = desk.commit("a", "one").await?;
    follow(&desk.place, "app", &desk.repository, json!({})).await?;
    desk.place.applied("app", &commit).await?;
    let object = async |kind: &str| {
        let report = desk.report(&["tree", "app"]).await?;
        let all = report["inventory"].as_array().context("an inventory")?.clone();
        all.into_iter().find(|object| object["kind"] == kind).context("the object")
    };
    assert_eq!(object("ConfigMap").await?.get("health"), None);
    assert_eq!(object("SealedSecret").await?["health"], "healthy");
    let told = desk.sync(&["tree", "app"]).await?.success()?;
    let expected = [
        format!("└─ {namespace}\n   ├─ ConfigMap a\n   ├─ Deployment web  progressing: "),
        "   └─ SealedSecret db  healthy\n".to_owned(),
    ];
    assert!(expected.iter().all(|expected| told.contains(expected)), "{told}");

    // Without the right to see a kind it says so, and shows the rest.
    let (cluster, name) = (&desk.place.world.cluster, format!("{namespace}-viewer"));
    let viewer = account(cluster, &name).await?;
    bind(cluster, &name, "signet-sync-viewer").await?;
    let told = seal(Some(&viewer), &["sync", "tree", &format!("{namespace}/app")], "").await?.success()?;
    assert!(told.contains("Deployment web  hidden: it may not be read\n"), "{told}");
    assert!(told.contains("SealedSecret db  healthy\n"), "{told}");
    Ok(())
}

/// A Lease and a status are all that a controller leaves behind.
#[tokio::test]
async fn that_nobody_works_is_told_before_everything_else() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("idle").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("a.yaml", config_map("a", "one"))?;
    let first = repository.commit("one").await?;
    follow(&place, "web", &repository, json!({})).await?;
    place.applied("web", &first).await?;
    world.cluster.deploy_from("deploy/sync-operator").await?;
    let (operator, name) = (account(&world.cluster, &place.namespace).await?, &place.namespace);
    bind(&world.cluster, name, "signet-sync-operator").await?;
    let sync = async |args: &[&str]| {
        let Output { status, stdout, stderr } =
            seal(Some(&operator), &[&["sync"], args, &["-n", name]].concat(), "").await?;
        anyhow::Ok((status.code().context("a code")?, stdout, stderr))
    };
    let (code, told, _) = sync(&["status", "web"]).await?;
    assert!(code == 0 && told.starts_with(&format!("{name}/web is well")), "{told}");

    world.controller.kill().await?;
    // The test does not wait as long as it takes to be sure.
    let leases = Api::<Lease>::namespaced(place.client.clone(), "kube-system");
    let long_ago = json!({"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}});
    leases.patch("signet-controller", &PatchParams::default(), &Patch::Merge(long_ago)).await?;
    let idle = "No controller works: the last was seen ";
    let (code, told, _) = sync(&["list"]).await?;
    assert!(code == 0 && told.starts_with(idle) && told.contains("\nNext: See whether it runs: kubectl"), "{told}");
    let (code, told, said) = sync(&["now", "web", "--timeout", "0"]).await?;
    assert!(code == 5 && told.starts_with(idle) && !told.contains(" is well"), "{told}{said}");
    let (code, told, _) = sync(&["status", "web"]).await?;
    let lines: Vec<&str> = told.lines().collect();
    assert!(code == 0 && lines[0].starts_with(idle), "{told}");
    assert_eq!(lines[3], format!("{name}/web was well when somebody last looked at it"), "{told}");
    assert!(
        lines[4].starts_with("  the sync that was asked for ") && lines[4].ends_with(" not taken up yet"),
        "{told}"
    );
    place
        .syncs()
        .patch(
            "web",
            &PatchParams::default(),
            &Patch::Merge(json!({"metadata": {"annotations": {
        crds::git_sync::ROLLBACK: "main@sha1:3f2a91c0"}}})),
        )
        .await?;
    let (_, told, _) = sync(&["status", "web", "-o", "json"]).await?;
    let report: Value = serde_json::from_str(&told)?;
    assert_eq!(report["idle"]["since"], "2026-01-01T00:00:00Z", "{report}");
    assert_eq!(report["pending"][1], json!({"request": "rollback", "to": "main@sha1:3f2a91c0"}), "{report}");

    // Whoever may not see the Lease is told nothing of it; another namespace has none, and something waits.
    let viewer = account(&world.cluster, &format!("{name}-viewer")).await?;
    bind(&world.cluster, &format!("{name}-viewer"), "signet-sync-viewer").await?;
    let told = seal(Some(&viewer), &["sync", "list", "-A"], "").await?.success()?;
    assert!(told.starts_with("NAMESPACE"), "{told}");
    let (_, told, _) = sync(&["list", "--controller-namespace", name]).await?;
    assert!(told.starts_with(&format!("No controller is seen at work: there is no Lease {name}/")), "{told}");
    Ok(())
}

#[tokio::test]
async fn everything_is_held_and_goes_on_by_one_command() -> Result<()> {
    let world = World::new().await?;
    let (here, there) = (world.place("here").await?, world.place("there").await?);
    let git = GitServer::start()?;
    for (place, name) in [(&here, "one"), (&here, "two"), (&there, "three")] {
        let repository = git.create(name).await?;
        repository.write("a.yaml", config_map(name, "one"))?;
        let commit = repository.commit("one").await?;
        follow(place, name, &repository, json!({})).await?;
        place.applied(name, &commit).await?;
    }
    let sync = async |args: &[&str]| {
        let output = seal(Some(world.cluster.kubeconfig()), &[&["sync"], args].concat(), "").await?;
        anyhow::Ok((output.status.code().context("a code")?, output.stdout + &output.stderr))
    };
    let suspended = async || {
        let mut held = Vec::new();
        for place in [&here, &there] {
            let all = place.syncs().list(&ListParams::default()).await?;
            held.extend(all.into_iter().map(|sync| sync.spec.suspend));
        }
        anyhow::Ok(held)
    };
    let (code, told) = sync(&["suspend", "--all", "-n", &here.namespace]).await?;
    assert!(code == 0 && told.matches(" is suspended").count() == 2, "{told}");
    assert_eq!(suspended().await?, [true, true, false]);
    // Those that are held are left out.
    let (code, told) = sync(&["now", "-A"]).await?;
    assert!(code == 0 && told.matches(" is well").count() == 1, "{told}");
    assert_eq!(sync(&["resume", "-A"]).await?.0, 0);
    assert_eq!(suspended().await?, [false; 3]);
    let (code, told) = sync(&["wait", "-A"]).await?;
    assert!(code == 0 && told.matches(" is well").count() == 3, "{told}");
    for wrong in [&["suspend"][..], &["suspend", "web", "--all"], &["now", "-A", "-n", "x"]] {
        assert_eq!(sync(wrong).await?.0, 2, "{wrong:?}");
    }
    // One that is not there keeps none of the others from being held.
    let one = format!("{}/one", here.namespace);
    let (code, told) = sync(&["suspend", "no/such", &one]).await?;
    assert!(code == 1 && told.contains("one is suspended") && told.contains("no/such"), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_cluster_without_the_definitions_is_told_as_such() -> Result<()> {
    let cluster = Cluster::start().await?;
    for args in [&["sync", "list", "-A"][..], &["sync", "status", "shop/x"], &["sync", "suspend", "shop/x"]] {
        let refused = seal(Some(cluster.kubeconfig()), args, "").await?;
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.stderr.contains("GitSyncs are not defined in this cluster"), "{}", refused.stderr);
        assert!(refused.stderr.contains("seal install --apply"), "{}", refused.stderr);
    }
    let told = seal(Some(cluster.kubeconfig()), &["keys", "list"], "").await?;
    assert!(told.stderr.contains("SealedSecrets are not defined in this cluster"), "{}", told.stderr);
    Ok(())
}
