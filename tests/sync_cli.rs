//! `seal sync` on a real API server with the real controller, by the rights of `deploy/sync-operator` and no others.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use harness::{Cluster, GitServer, Output, Repository, eventually, seal, tools::Tool};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    keys::account,
    world::{Place, SOON, config_map, follow, start},
};

/// A namespace, a repository, and somebody who looks after what follows it.
pub struct Desk {
    pub place: Place<'static>,
    git: GitServer,
    pub repository: Repository,
    operator: PathBuf,
}

impl Desk {
    pub async fn new(name: &str) -> Result<Self> {
        let (place, git) = start(name).await?;
        let repository = git.create("app").await?;
        let cluster = &place.world.cluster;
        cluster.deploy_from("deploy/sync-operator").await?;
        let operator = account(cluster, &place.namespace).await?;
        let subject = format!("--serviceaccount=kube-system:{}", place.namespace);
        bind(cluster, &place.namespace, "signet-sync-operator", &subject).await?;
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

    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.place.client.clone(), &self.place.namespace)
    }
}

/// Binds a ClusterRole in the whole cluster.
async fn bind(cluster: &Cluster, name: &str, role: &str, subject: &str) -> Result<()> {
    cluster.kubectl(&["create", "clusterrolebinding", name, &format!("--clusterrole={role}"), subject]).await?;
    Ok(())
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
    assert_eq!(desk.maps().get("a").await?.data.context("data")?["value"], "two");
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
    assert_eq!(desk.maps().get("a").await?.data.context("data")?["value"], "two");
    assert_eq!(desk.code(&["resume", "web"]).await?.0, 0);
    assert_eq!(desk.code(&["now", "web", "--no-wait"]).await?.0, 0);
    let goal = format!("revision={third}");
    let (code, told) = desk.code(&["wait", "web", "--for", &goal, "--timeout", "1m"]).await?;
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
    eventually("the ConfigMap to go", SOON, || async { Ok(desk.maps().get_opt("a").await?.is_none().then_some(())) })
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
    let says = async || anyhow::Ok(desk.maps().get("a").await?.data.context("data")?["value"].clone());
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
    let viewer = account(&desk.place.world.cluster, &format!("{namespace}-viewer")).await?;
    let subject = format!("--serviceaccount=kube-system:{namespace}-viewer");
    bind(&desk.place.world.cluster, &format!("{namespace}-viewer"), "signet-sync-viewer", &subject).await?;
    let told = seal(Some(&viewer), &["sync", "tree", &format!("{namespace}/app")], "").await?.success()?;
    assert!(told.contains("Deployment web  hidden: it may not be read\n"), "{told}");
    assert!(told.contains("SealedSecret db  healthy\n"), "{told}");
    Ok(())
}

/// What nobody may see in any output.
const OLD: &str = "hunter2-old";
const NEW: &str = "hunter3-new";

#[tokio::test]
async fn a_diff_shows_what_a_merge_would_bring_and_no_value_of_a_secret() -> Result<()> {
    let desk = Desk::new("diff").await?;
    let namespace = &desk.place.namespace;
    let secret =
        |value: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{p: {value}}}\n");
    desk.repository.write("deploy/a.yaml", config_map("a", "one"))?;
    desk.repository.write("deploy/gone.yaml", config_map("gone", "one"))?;
    desk.repository.write("deploy/s.yaml", secret(OLD))?;
    let commit = desk.repository.commit("one").await?;
    let spec = json!({"path": "deploy", "drift": "Report", "allowPlainSecrets": true});
    follow(&desk.place, "web", &desk.repository, spec).await?;
    desk.place.applied("web", &commit).await?;

    // Trying an apply takes the right to do it.
    let (code, told) = desk.code(&["diff", "web"]).await?;
    assert!(code == 2 && told.contains("forbidden"), "{told}");
    let cluster = &desk.place.world.cluster;
    let role = ["create", "clusterrole", namespace, "--verb=get,patch,create", "--resource=configmaps,secrets"];
    cluster.kubectl(&role).await?;
    let subject = format!("--serviceaccount=kube-system:{namespace}");
    cluster
        .kubectl(&["-n", namespace, "create", "rolebinding", "differ", &format!("--clusterrole={namespace}"), &subject])
        .await?;

    // As it was applied, from Git: nothing; then what somebody changed.
    let (code, told) = desk.code(&["diff", "web"]).await?;
    assert_eq!((code, told.as_str()), (0, "0 created, 0 changed, 0 pruned, 3 as they are\n"));
    let edit = json!({"data": {"value": "by hand"}});
    desk.maps().patch("a", &PatchParams::default(), &Patch::Merge(edit)).await?;
    let (code, told) = desk.code(&["diff", "web"]).await?;
    assert_eq!(code, 1);
    assert!(told.contains("-  value: by hand\n+  value: one\n"), "{told}");

    // A folder beside it.
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
    write("a.yaml", &config_map("a", "by hand"))?;
    write("new.yaml", &config_map("new", "one"))?;
    write("s.yaml", &secret(NEW))?;
    let local = folder.path().to_str().context("a path")?;
    let (code, told) = desk.code(&["diff", "web", "--local", local]).await?;
    assert_eq!(code, 1, "{told}");
    for words in [
        format!("ConfigMap {namespace}/new: created, {local}/new.yaml:1\n--- /dev/null\n+++ git/ConfigMap"),
        format!("Secret {namespace}/s: changed, {local}/s.yaml:1\n"),
        "-  p: \"*** (before)\"\n+  p: \"*** (after)\"\n".to_owned(),
        format!("ConfigMap {namespace}/gone: pruned\n"),
        "1 created, 1 changed, 1 pruned, 1 as they are\n".to_owned(),
    ] {
        assert!(told.contains(&words), "{words} in {told}");
    }
    let encoded = |text: &str| crds::base64::encode(text.as_bytes());
    for value in [OLD.to_owned(), NEW.to_owned(), encoded(OLD), encoded(NEW)] {
        assert!(!told.contains(&value), "{told}");
    }
    let secrets = Api::<Secret>::namespaced(desk.place.client.clone(), namespace);
    assert_eq!(secrets.get("s").await?.data.context("data")?["p"].0, OLD.as_bytes(), "nothing was changed");
    assert!(desk.maps().get_opt("new").await?.is_none() && desk.maps().get_opt("gone").await?.is_some());
    let report = desk.sync(&["diff", "web", "--local", local, "-o", "json"]).await?;
    let report: Value = serde_json::from_str(&report.stdout)?;
    let becomes: Vec<&Value> = report.as_array().context("a list")?.iter().map(|it| &it["becomes"]).collect();
    assert_eq!(becomes, ["created", "changed", "pruned"]);

    // What the API server would refuse, and what nobody can render, is trouble and no difference.
    write("a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {value: 7}\n")?;
    let (code, told) = desk.code(&["diff", "web", "--local", local]).await?;
    assert!(code == 2 && told.contains("a.yaml:1: the API server would not take ConfigMap"), "{told}");
    write("a.yaml", "kind: ConfigMap\n")?;
    let (code, told) = desk.code(&["diff", "web", "--local", local]).await?;
    assert!(code == 2 && told.contains("a.yaml:1: apiVersion is missing"), "{told}");
    Ok(())
}

/// What is rendered here is what the controller applied: nothing differs.
#[tokio::test]
async fn what_is_rendered_here_is_what_the_controller_applies() -> Result<()> {
    let desk = Desk::new("rendered").await?;
    let tools = [("--kustomize", Tool::Kustomize), ("--helm", Tool::Helm)];
    let mut flags = Vec::new();
    for (flag, tool) in tools {
        flags.extend([flag.to_owned(), tool.path().await?.display().to_string()]);
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let write = |path: &str, text: &str| desk.repository.write(path, text);
    write("base/kustomization.yaml", "resources: [a.yaml]\nconfigMapGenerator: [{name: made, literals: [k=v]}]\n")?;
    write("base/a.yaml", &config_map("a", "one"))?;
    write("overlay/kustomization.yaml", "resources: [../base]\nnamePrefix: dev-\n")?;
    write("chart/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.0.0\nkubeVersion: '>=1.30.0-0'\n")?;
    write("chart/values.yaml", "value: none\n")?;
    write("chart/more.yaml", "value: more\nother: file\n")?;
    let template = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata: {value: {{ .Values.value }}, other: {{ .Values.other }}, ns: {{ .Release.Namespace }}}\n";
    write("chart/templates/map.yaml", template)?;
    let commit = desk.repository.commit("both").await?;
    let common = json!({"labels": {"team": "shop"}, "annotations": {"note": "ours"}});
    let helm = json!({"valuesFiles": ["more.yaml"], "values": {"value": "spec"}});
    follow(&desk.place, "overlay", &desk.repository, json!({"path": "overlay", "commonMetadata": common})).await?;
    follow(&desk.place, "chart", &desk.repository, json!({"path": "chart", "helm": helm})).await?;
    let (admin, work) = (desk.place.world.cluster.kubeconfig(), desk.repository.work_tree());
    for (name, objects) in [("overlay", 2), ("chart", 1)] {
        desk.place.applied(name, &commit).await?;
        let sync = format!("{}/{name}", desk.place.namespace);
        let path = work.join(name).display().to_string();
        for local in [&["--local", path.as_str()][..], &[]] {
            let diff = seal(Some(admin), &[&["sync", "diff", &sync], local, &flags[..]].concat(), "").await?;
            assert_eq!(diff.success()?, format!("0 created, 0 changed, 0 pruned, {objects} as they are\n"));
        }
        let rendered =
            seal(Some(admin), &[&["sync", "render", &path, "--sync", &sync], &flags[..]].concat(), "").await?;
        let rendered = rendered.success()?;
        assert!(rendered.contains(&format!("gitsync.signet.dev/name: {name}\n")), "{rendered}");
    }

    // The same without a cluster: for a GitSync in a file, and for nobody.
    let manifest = work.join("sync.yaml");
    let sync = json!({"apiVersion": "signet.dev/v1alpha1", "kind": "GitSync", "metadata": {"name": "x", "namespace": "far"},
        "spec": {"source": {"url": "https://git.example.com/x.git"}, "targetNamespace": "shop", "commonMetadata": common}});
    std::fs::write(&manifest, sync.to_string())?;
    let render = async |path: &str, more: &[&str]| {
        let path = work.join(path).display().to_string();
        seal(None, &[&["sync", "render", &path], &flags[..], more].concat(), "").await
    };
    let text = render("overlay", &["--file", manifest.to_str().context("a path")?]).await?.success()?;
    let first = crate::world::document(&text)?;
    let metadata = &first["metadata"];
    assert_eq!((&metadata["namespace"], &metadata["labels"]["team"]), (&json!("shop"), &json!("shop")), "{text}");
    let text = render("overlay", &[]).await?.success()?;
    let expected = "apiVersion: v1\ndata:\n  value: one\nkind: ConfigMap\nmetadata:\n  name: dev-a\n";
    assert!(text.contains(expected) && !text.contains("gitsync.signet.dev"), "{text}");
    let text = render("chart", &["--kube-version", "v1.36.0"]).await?.success()?;
    assert!(text.contains("name: chart\n") && text.contains("value: none\n"), "{text}");

    // seal verify reads it; what it is about is told with its file.
    let sealed = desk.place.world.seal(&desk.place.secret("db", &[("a", "1")]), &[]).await?;
    write("sealed/db.yaml", &sealed)?;
    let rendered = render("sealed", &[]).await?.success()?;
    assert!(seal(None, &["verify", "-"], &rendered).await?.status.success());
    let broken = rendered.replace("encryptedData:\n    a: Ag", "encryptedData:\n    a: \"@");
    assert_ne!(broken, rendered, "{rendered}");
    assert_eq!(seal(None, &["verify", "-"], broken).await?.status.code(), Some(1));
    write("sealed/plain.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: p}\nstringData: {a: hunter2}\n")?;
    let refused = render("sealed", &[]).await?;
    assert_eq!(refused.status.code(), Some(1));
    let words = "sealed/plain.yaml:1: Secret p is a plain Secret";
    assert!(refused.stderr.contains(words) && !refused.stderr.contains("hunter2"), "{}", refused.stderr);
    let missing =
        seal(None, &["sync", "render", &work.join("overlay").display().to_string(), "--kustomize", "/no/such"], "")
            .await?;
    assert!(
        missing.stderr.contains("cannot start /no/such") && missing.stderr.contains("--kustomize"),
        "{}",
        missing.stderr
    );
    Ok(())
}
