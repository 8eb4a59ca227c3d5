//! The figures of the Git sync: repositories over smart HTTP on loopback, one controller, and as floor the same
//! server-side applies by a client that does nothing else. Times are taken by watches, so that looking costs nothing.

use std::time::{Duration, Instant};

use anyhow::Result;
use crds::{
    GitSync,
    git_sync::{GitSyncSpec, RECONCILE_REQUESTED},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use harness::{Cluster, GitServer, Repository, eventually};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    figures::{CONCURRENCY, mebibytes, seconds, times},
    load::{requests, when},
    phase, say,
    subject::{Kind, Limits, Subject},
    table::Row,
};

const NAMESPACES: usize = 10;
const FILES: usize = 100;
const IN_A_FILE: usize = 10;
/// Namespaces, and what is in them.
const OBJECTS: usize = NAMESPACES + FILES * IN_A_FILE;
/// Times that something short is done; the median is shown.
const ROUNDS: usize = 5;
/// How long Git is looked at, each second, while nothing changes.
const LOOKING: Duration = Duration::from_secs(20);
/// GitSyncs of one repository, and the files in it.
const SHARING: usize = 200;
const SHARED_FILES: usize = 20_000;
/// GitSyncs that Kustomize renders, each into a namespace of its own.
const KUSTOMIZED: usize = 1000;
const SETTING: usize = 16;
const PATIENCE: Duration = Duration::from_mins(10);
/// Where the GitSyncs are.
const HOME: &str = "bench";
const MANAGER: &str = "floor";

/// A cluster with `deploy/` on it, a Git host, and one repository.
struct Stage {
    cluster: Cluster,
    client: Client,
    repository: Repository,
    _git: GitServer,
}

impl Stage {
    async fn set() -> Result<Self> {
        let cluster = Cluster::start().await?;
        let client = phase(&cluster, "a new cluster", async {
            cluster.deploy().await?;
            let client = cluster.admin().await?;
            apply_namespace(&client, HOME.to_owned()).await?;
            Ok(client)
        })
        .await?;
        let git = GitServer::start()?;
        let repository = git.create("bench").await?;
        Ok(Self { cluster, client, repository, _git: git })
    }

    async fn start(&self) -> Result<Subject> {
        phase(&self.cluster, "the controller starts", async {
            let subject = Subject::start(Kind::Signet, &self.cluster, Limits::Lifted).await?;
            subject.idle().await?;
            Ok(subject)
        })
        .await
    }

    fn syncs(&self) -> Api<GitSync> {
        Api::namespaced(self.client.clone(), HOME)
    }

    /// Makes GitSyncs that look at Git when they are told to.
    async fn follow(&self, paths: impl IntoIterator<Item = (String, String, Option<String>)>) -> Result<()> {
        let api = self.syncs();
        let making = paths.into_iter().map(|(name, path, target_namespace)| {
            let api = api.clone();
            let mut spec = GitSyncSpec { path, target_namespace, interval: "1h".to_owned(), ..GitSyncSpec::default() };
            spec.source.url = self.repository.url();
            async move {
                api.create(&PostParams::default(), &GitSync::new(&name, spec)).await?;
                anyhow::Ok(())
            }
        });
        at_once(SETTING, making).await
    }

    /// Tells all of them to look.
    async fn look(&self, names: impl IntoIterator<Item = String>, why: &str) -> Result<()> {
        let api = self.syncs();
        let asking = names.into_iter().map(|name| {
            let (api, asked) = (api.clone(), json!({"metadata": {"annotations": {RECONCILE_REQUESTED: why}}}));
            async move {
                api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(asked)).await?;
                anyhow::Ok(())
            }
        });
        at_once(SETTING, asking).await
    }

    /// Waits, from now on, until so many GitSyncs have applied a commit; the answer is when.
    fn applied(&self, commit: &str, count: usize) -> JoinHandle<Result<Instant>> {
        let revision = format!("main@sha1:{commit}");
        when(self.syncs(), count, move |sync: &GitSync| {
            let status = sync.status.as_ref();
            let ready =
                status.iter().flat_map(|it| &it.conditions).any(|it| it.type_ == "Ready" && it.status == "True");
            ready && status.and_then(|it| it.last_applied_revision.as_ref()) == Some(&revision)
        })
    }

    /// Waits, from now on, until a ConfigMap has a value; the answer is when.
    fn holds(&self, namespace: &str, name: &str, value: &str) -> JoinHandle<Result<Instant>> {
        let (name, value) = (name.to_owned(), value.to_owned());
        when(Api::namespaced(self.client.clone(), namespace), 1, move |map: &ConfigMap| {
            map.name_any() == name && self::value(map) == Some(&value)
        })
    }
}

/// One sync of 1,010 objects: first, again, after a commit, after an edit.
pub async fn one_sync() -> Result<Vec<Row>> {
    let stage = Stage::set().await?;
    let (floor, at_floor) = floor(&stage).await?;
    for (path, content) in files("app") {
        stage.repository.write(&path, content)?;
    }
    let commit = stage.repository.commit("everything").await?;
    let subject = stage.start().await?;

    let (first, first_cpu) = phase(&stage.cluster, format!("a first sync of {OBJECTS} objects"), async {
        let (before, applied) = (subject.cpu()?, stage.applied(&commit, 1));
        let since = Instant::now();
        stage.follow([("app".to_owned(), String::new(), None)]).await?;
        let first = applied.await?? - since;
        subject.idle().await?;
        Ok((first, subject.cpu_since(before)?))
    })
    .await?;
    let changed = phase(&stage.cluster, "a commit that changes one object", changes(&stage, &subject)).await?;
    let healed = phase(&stage.cluster, "an edit that is not in Git", edits(&stage, &subject)).await?;
    let what = "looks at a Git that has nothing new";
    let (idle_cpu, calls) = phase(&stage.cluster, what, looks(&stage, &subject)).await?;
    let peak = subject.peak()?;
    subject.end().await?;
    let row = |work: String, to_reach, signet: String| Row { work, to_reach, signet, ..Row::default() };
    Ok(vec![
        Row {
            work: format!("first sync of {OBJECTS} objects"),
            ratio: times(first, floor, "the floor"),
            to_reach: "2 x",
            signet: format!("{}, {} CPU", seconds(first), seconds(first_cpu)),
            floor: at_floor,
            ..Row::default()
        },
        row(
            "nothing new, one interval".to_owned(),
            "20 ms CPU, 0 calls",
            format!("{} CPU, {calls} calls", seconds(idle_cpu)),
        ),
        row("one object changed, asked to applied".to_owned(), "0.3 s", seconds(median(changed))),
        row("edited by hand to healed".to_owned(), "1 s", seconds(median(healed))),
        row("memory of one sync".to_owned(), "40 MiB", mebibytes(peak)),
    ])
}

/// How long each of some commits took from being asked for to being applied.
async fn changes(stage: &Stage, subject: &Subject) -> Result<Vec<Duration>> {
    let mut changed = Vec::new();
    for round in 0..ROUNDS {
        let value = format!("changed {round}");
        stage.repository.write("f00.yaml", file("app", 0, &value))?;
        stage.repository.commit(&value).await?;
        let holds = stage.holds("app-0", "map-0-0", &value);
        let since = Instant::now();
        stage.look(["app".to_owned()], &value).await?;
        changed.push(holds.await?? - since);
        subject.idle().await?;
    }
    Ok(changed)
}

/// How long each of some edits lasted.
async fn edits(stage: &Stage, subject: &Subject) -> Result<Vec<Duration>> {
    let maps: Api<ConfigMap> = Api::namespaced(stage.client.clone(), "app-1");
    let mut healed = Vec::new();
    for _ in 0..ROUNDS {
        let mut was_edited = false;
        let heals = when(maps.clone(), 1, move |map: &ConfigMap| {
            let edited = map.name_any() == "map-10-0" && value(map) == Some("edited");
            was_edited |= edited;
            was_edited && map.name_any() == "map-10-0" && !edited
        });
        let edit = json!({"data": {"value": "edited"}});
        let since = Instant::now();
        maps.patch("map-10-0", &PatchParams::default(), &Patch::Merge(edit)).await?;
        healed.push(heals.await?? - since);
        subject.idle().await?;
    }
    Ok(healed)
}

/// What one look at a Git without news costs: processor time, and calls in all.
async fn looks(stage: &Stage, subject: &Subject) -> Result<(Duration, f64)> {
    let often = json!({"spec": {"interval": "1s"}});
    stage.syncs().patch("app", &PatchParams::default(), &Patch::Merge(often)).await?;
    let fetches = async || subject.metric("sealed_secrets_controller_git_sync_fetches_total").await;
    let (before, patience) = (fetches().await?, PATIENCE);
    eventually("a look at Git", patience, || async { Ok((fetches().await? > before).then_some(())) }).await?;
    // From here on it is left alone: to be asked for its metrics costs it something, too.
    let (from, cpu) = (fetches().await?, subject.cpu()?);
    let asked = requests(&stage.client, ABOUT_SYNCS).await?;
    tokio::time::sleep(LOOKING).await;
    let (cpu, looks) = (subject.cpu_since(cpu)?, fetches().await? - from);
    Ok((cpu.div_f64(looks), requests(&stage.client, ABOUT_SYNCS).await? - asked))
}

/// Many GitSyncs of one large repository, and a commit that is about one of them.
pub async fn monorepo() -> Result<Row> {
    let stage = Stage::set().await?;
    say(format!("a repository of {SHARED_FILES} files, {SHARING} GitSyncs"));
    let folder = |number: usize| format!("apps/app-{number}");
    for number in 0..SHARED_FILES {
        let app = number % SHARING;
        let (name, content) = match number / SHARING {
            0 => ("map.yaml".to_owned(), map(HOME, &format!("map-{app}"), "first")),
            other => (format!("source-{other}.txt"), format!("{app} {other}\n")),
        };
        stage.repository.write(&format!("{}/{name}", folder(app)), content)?;
    }
    let first = stage.repository.commit("everything").await?;
    let subject = stage.start().await?;
    phase(&stage.cluster, format!("a first sync of {SHARING} GitSyncs"), async {
        let applied = stage.applied(&first, SHARING);
        stage.follow((0..SHARING).map(|number| (format!("app-{number}"), folder(number), None))).await?;
        applied.await??;
        subject.idle().await
    })
    .await?;

    let renders = async || subject.metric("sealed_secrets_controller_git_sync_renders_total").await;
    let (rendered, cpu) = (renders().await?, subject.cpu()?);
    stage.repository.write(&format!("{}/map.yaml", folder(7)), map(HOME, "map-7", "second"))?;
    let second = stage.repository.commit("one of them").await?;
    let (changed, all) = phase(&stage.cluster, "a commit about one of them", async {
        let (holds, applied) = (stage.holds(HOME, "map-7", "second"), stage.applied(&second, SHARING));
        let since = Instant::now();
        stage.look((0..SHARING).map(|number| format!("app-{number}")), "second").await?;
        let took = (holds.await?? - since, applied.await?? - since);
        subject.idle().await?;
        Ok(took)
    })
    .await?;
    let row = Row {
        work: format!("{SHARING} GitSyncs on {SHARED_FILES} files, one file changed"),
        to_reach: "2 s, 1 render",
        signet: format!(
            "{} applied, {} all told, {} renders, {} CPU, {}",
            seconds(changed),
            seconds(all),
            renders().await? - rendered,
            seconds(subject.cpu_since(cpu)?),
            mebibytes(subject.peak()?)
        ),
        ..Row::default()
    };
    subject.end().await?;
    Ok(row)
}

/// As many GitSyncs as Flux's own benchmark has: one folder that Kustomize renders, each into its own namespace.
pub async fn many() -> Result<Row> {
    let stage = Stage::set().await?;
    let target = |number: usize| format!("many-{number}");
    let namespaces = (0..KUSTOMIZED).map(|number| apply_namespace(&stage.client, target(number)));
    phase(&stage.cluster, format!("{KUSTOMIZED} namespaces"), at_once(SETTING, namespaces)).await?;
    for (name, content) in KUSTOMIZATION {
        stage.repository.write(name, content)?;
    }
    let commit = stage.repository.commit("an application").await?;
    let subject = stage.start().await?;
    let cpu = subject.cpu()?;
    let took = phase(&stage.cluster, format!("{KUSTOMIZED} GitSyncs that Kustomize renders"), async {
        let applied = stage.applied(&commit, KUSTOMIZED);
        let since = Instant::now();
        stage.follow((0..KUSTOMIZED).map(|number| (target(number), String::new(), Some(target(number))))).await?;
        Ok(applied.await?? - since)
    })
    .await?;
    let row = Row {
        work: format!("{KUSTOMIZED} GitSyncs of 4 objects by Kustomize to ready"),
        to_reach: "reported",
        signet: format!("{}, {} CPU, {}", seconds(took), seconds(subject.cpu_since(cpu)?), mebibytes(subject.peak()?)),
        ..Row::default()
    };
    subject.end().await?;
    Ok(row)
}

/// What the sync writes, for [`requests`].
const ABOUT_SYNCS: &[&str] = &["configmaps", "namespaces", "gitsyncs", "events"];

/// A Deployment without replicas, its account, its Service and its Ingress.
const KUSTOMIZATION: [(&str, &str); 2] = [
    ("kustomization.yaml", "resources: [app.yaml]\n"),
    (
        "app.yaml",
        r"apiVersion: v1
kind: ServiceAccount
metadata: {name: app}
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec: {selector: {app: app}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: 0
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      serviceAccountName: app
      containers: [{name: app, image: example.com/app:1.0.0, ports: [{name: http, containerPort: 8080}]}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: app}
spec:
  rules:
    - host: app.example.com
      http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: app, port: {name: http}}}}]}
",
    ),
];

/// The files of [`one_sync`], into namespaces of this prefix.
fn files(prefix: &str) -> impl Iterator<Item = (String, String)> {
    let namespaces = (0..NAMESPACES).map(move |number| {
        let content = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {prefix}-{number}}}\n");
        (format!("namespace-{number}.yaml"), content)
    });
    namespaces.chain((0..FILES).map(move |number| (format!("f{number:02}.yaml"), file(prefix, number, "first"))))
}

/// One file of ConfigMaps.
fn file(prefix: &str, number: usize, value: &str) -> String {
    let home = format!("{prefix}-{}", number * NAMESPACES / FILES);
    (0..IN_A_FILE).map(|it| map(&home, &format!("map-{number}-{it}"), value)).collect::<Vec<_>>().join("---\n")
}

fn map(namespace: &str, name: &str, value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  namespace: {namespace}\ndata:\n  value: {value}\n"
    )
}

fn value(map: &ConfigMap) -> Option<&str> {
    map.data.as_ref()?.get("value").map(String::as_str)
}

/// The floor: the same objects applied by so many clients at once that do nothing else, namespaces first; the best.
async fn floor(stage: &Stage) -> Result<(Duration, String)> {
    let mut best = (Duration::MAX, 0);
    for (round, concurrency) in CONCURRENCY.into_iter().enumerate() {
        let what = format!("the floor of {OBJECTS} with {concurrency} at once");
        let took = phase(&stage.cluster, what, apply_all(&stage.client, round, concurrency)).await?;
        best = best.min((took, concurrency));
    }
    Ok((best.0, format!("{}, {} at once", seconds(best.0), best.1)))
}

/// How long all of it takes that way.
async fn apply_all(client: &Client, round: usize, concurrency: usize) -> Result<Duration> {
    let since = Instant::now();
    let home = |number: usize| format!("floor{round}-{number}");
    at_once(concurrency, (0..NAMESPACES).map(|number| apply_namespace(client, home(number)))).await?;
    let maps = (0..FILES * IN_A_FILE).map(|number| {
        let (client, home, name) = (client.clone(), home(number % NAMESPACES), format!("map-{number}"));
        async move {
            let body =
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": "first"}});
            let api: Api<ConfigMap> = Api::namespaced(client, &home);
            api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(body)).await?;
            anyhow::Ok(())
        }
    });
    at_once(concurrency, maps).await?;
    Ok(since.elapsed())
}

async fn apply_namespace(client: &Client, name: String) -> Result<()> {
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let api: Api<Namespace> = Api::all(client.clone());
    api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(body)).await?;
    Ok(())
}

/// Does all of it, so much at once.
async fn at_once<F: Future<Output = Result<()>>>(concurrency: usize, work: impl Iterator<Item = F>) -> Result<()> {
    stream::iter(work).buffer_unordered(concurrency).try_collect().await
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
