//! No right too many: in each mode of the chart the API server's audit log tells which rights a short life of the
//! controller used, and each that was granted must be among them. That none is missing is shown by every other test.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use harness::{Cluster, ClusterOptions, Controller, ControllerOptions, GitServer, eventually, process::Signal};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::world::{KEYS, Place, SOON, World, config_map, document, follow};

const ACCOUNT: &str = "system:serviceaccount:kube-system:sealed-secrets-controller";
const SYNC: &str = "system:serviceaccount:kube-system:signet-sync";
const ANYWHERE: &str = "*";

/// One verb on one resource, somewhere, on one object or on any.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    namespace: String,
    group: String,
    resource: String,
    verb: String,
    name: String,
}

async fn objects(cluster: &Cluster, resource: &str) -> Result<Vec<Value>> {
    let list: Value = serde_json::from_str(&cluster.kubectl(&["get", resource, "-A", "-o", "json"]).await?)?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// All that is bound to the account.
async fn granted(cluster: &Cluster) -> Result<BTreeSet<Right>> {
    let roles = [objects(cluster, "roles").await?, objects(cluster, "clusterroles").await?].concat();
    let bindings = [objects(cluster, "rolebindings").await?, objects(cluster, "clusterrolebindings").await?].concat();
    let to_account = |binding: &&Value| {
        let subjects = binding["subjects"].as_array();
        subjects.into_iter().flatten().any(|subject| subject["name"] == "sealed-secrets-controller")
    };
    let mut rights = BTreeSet::new();
    for binding in bindings.iter().filter(to_account) {
        let namespace = binding["metadata"]["namespace"].as_str();
        let of_binding = |role: &&Value| {
            role["kind"] == binding["roleRef"]["kind"]
                && role["metadata"]["name"] == binding["roleRef"]["name"]
                && (role["kind"] == "ClusterRole" || role["metadata"]["namespace"].as_str() == namespace)
        };
        let role = roles.iter().find(of_binding).with_context(|| format!("no role for {binding}"))?;
        for rule in role["rules"].as_array().context("no rules")? {
            let texts = |field: &str| {
                let texts = rule[field].as_array().into_iter().flatten().filter_map(Value::as_str);
                texts.map(str::to_owned).collect::<Vec<_>>()
            };
            let names = Some(texts("resourceNames")).filter(|names| !names.is_empty());
            for (group, resource, verb, name) in texts("apiGroups").into_iter().flat_map(|group| {
                let (names, verbs) = (names.clone().unwrap_or_else(|| vec![ANYWHERE.to_owned()]), texts("verbs"));
                texts("resources").into_iter().flat_map(move |resource| {
                    let (group, names) = (group.clone(), names.clone());
                    verbs.clone().into_iter().flat_map(move |verb| {
                        let (group, resource) = (group.clone(), resource.clone());
                        names.clone().into_iter().map(move |name| (group.clone(), resource.clone(), verb.clone(), name))
                    })
                })
            }) {
                let namespace = namespace.unwrap_or(ANYWHERE).to_owned();
                rights.insert(Right { namespace, group, resource, verb, name });
            }
        }
    }
    Ok(rights)
}

/// Whether a request that was let through needed the right. One to all namespaces is no reason for what is asked for in
/// the controller's own, where there are others.
fn used(right: &Right, request: &Value) -> bool {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if request["user"]["username"] != ACCOUNT
        || request["responseStatus"]["code"].as_u64().is_none_or(|code| code == 403)
    {
        return false;
    }
    if right.verb == "impersonate" {
        return request["impersonatedUser"]["username"] == SYNC;
    }
    let about = &request["objectRef"];
    let subresource = text(&about["subresource"]);
    let resource = match subresource.as_str() {
        "" => text(&about["resource"]),
        subresource => format!("{}/{subresource}", text(&about["resource"])),
    };
    let namespace = text(&about["namespace"]);
    request["impersonatedUser"].is_null()
        && right.verb == text(&request["verb"])
        && right.resource == resource
        && right.group == text(&about["apiGroup"])
        && (right.name == ANYWHERE || right.name == text(&about["name"]))
        && if right.namespace == ANYWHERE { namespace != "kube-system" } else { right.namespace == namespace }
}

/// The chart with these values, its controller, and in its life all that is common to the modes: a key is made and made
/// again, a SealedSecret is opened, replaced and healed, in each of the namespaces.
async fn lived(values: &str, namespaces: &[&str]) -> Result<World> {
    let cluster = Cluster::start_with(ClusterOptions { audit: true, ..ClusterOptions::default() }).await?;
    for namespace in namespaces.iter().filter(|namespace| !["default", "kube-system"].contains(*namespace)) {
        cluster.kubectl(&["create", "namespace", namespace]).await?;
        cluster.kubectl(&["label", "namespace", namespace, "team=blue"]).await?;
    }
    cluster.deploy_chart(&[&format!("--set={values}")]).await?;
    if values.contains("namespaceSelector") {
        for namespace in namespaces {
            let (role, account) =
                ("--clusterrole=sealed-secrets-unsealer", "--serviceaccount=kube-system:sealed-secrets-controller");
            let create = ["-n", namespace, "create", "rolebinding", "unsealer", role, account];
            cluster.kubectl(&create).await?;
        }
    }
    let args = vec!["--git-file-root=/".to_owned()];
    let controller =
        Controller::start_with(&cluster, ControllerOptions { args, ..ControllerOptions::default() }).await?;
    let world = World { cluster, controller };
    for namespace in namespaces {
        let place = Place { world: &world, namespace: (*namespace).to_owned(), client: world.cluster.admin().await? };
        replaced(&place).await?;
    }
    // A second key: a name was agreed on for it.
    world.controller.signal(Signal::USR1).await?;
    eventually("a second key", SOON, || async {
        let keys = world.cluster.kubectl(&["-n", "kube-system", "get", "secrets", "-l", KEYS, "-o", "name"]).await?;
        Ok((keys.lines().count() == 2).then_some(()))
    })
    .await?;
    // What is told of keys is told in the controller's own namespace.
    world
        .cluster
        .kubectl(&["-n", "kube-system", "create", "secret", "generic", "spoilt", "--from-literal=a=b"])
        .await?;
    world.cluster.kubectl(&["-n", "kube-system", "label", "secret", "spoilt", KEYS]).await?;
    eventually("an Event about a key", SOON, || async {
        let events = ["-n", "kube-system", "get", "events", "--field-selector=reason=MalformedKey", "-o", "name"];
        Ok((!world.cluster.kubectl(&events).await?.is_empty()).then_some(()))
    })
    .await?;
    Ok(world)
}

/// A Secret that cannot be changed, and has to be.
async fn replaced(place: &Place<'_>) -> Result<()> {
    for value in ["1", "2"] {
        let mut sealed = document(&place.world.seal(&place.secret("db", &[("a", value)]), &[]).await?)?;
        sealed["metadata"]["annotations"] = json!({"sealedsecrets.bitnami.com/replace": "true"});
        sealed["spec"]["template"]["immutable"] = json!(true);
        place.world.cluster.apply(&sealed.to_string()).await?;
        place.holds("db", &[("a", value)]).await?;
    }
    Ok(())
}

/// Waits until every right has been used, and says which ones were not.
async fn all_used(world: &World) -> Result<()> {
    let granted = granted(&world.cluster).await?;
    assert!(granted.len() > 10, "{granted:?}");
    let unused = || -> Result<Vec<&Right>> {
        let requests = world.cluster.audited()?;
        Ok(granted.iter().filter(|right| !requests.iter().any(|request| used(right, request))).collect())
    };
    let waited = eventually("every right to be used", SOON, || async { Ok(unused()?.is_empty().then_some(())) }).await;
    waited.with_context(|| format!("never used: {:#?}", unused().unwrap_or_default()))
}

#[tokio::test]
async fn in_all_namespaces_with_git_and_tokens() -> Result<()> {
    let world = lived("flags.authenticate=true", &["default"]).await?;
    let place = Place { world: &world, namespace: "default".to_owned(), client: world.cluster.admin().await? };
    let git = GitServer::start()?;
    git.require_basic("me", "secret");
    let repository = git.create("shop").await?;
    repository.write("map.yaml", config_map("map", 1))?;
    repository.commit("a map").await?;
    world.cluster.apply(&place.secret("git", &[("username", "me"), ("password", "secret")])).await?;
    let sync = json!({
        "apiVersion": "signet.dev/v1alpha1", "kind": "GitSync", "metadata": {"name": "shop", "namespace": "default"},
        "spec": {"source": {"url": repository.url(), "secretRef": {"name": "git"}}, "path": ".", "prune": true},
    });
    world.cluster.apply(&sync.to_string()).await?;
    place.ready("shop", |ready, _| ready.status == "True").await?;
    let hook = world.controller.url("/hook/default/shop");
    let answer = reqwest::Client::builder().no_proxy().build()?.post(hook).send().await?;
    assert_eq!(answer.status().as_u16(), 404, "it was looked at, and has no webhook");
    place.syncs().delete("shop", &DeleteParams::default()).await?;

    world.cluster.kubectl(&["create", "serviceaccount", "asking"]).await?;
    let token = world.cluster.kubectl(&["create", "token", "asking", "--audience=signet-controller"]).await?;
    let sealed = world.seal(&place.secret("db", &[("a", "1")]), &[]).await?;
    let ask = reqwest::Client::builder().no_proxy().build()?.post(world.controller.url("/v1/verify"));
    let answer = ask.bearer_auth(token.trim()).body(sealed).send().await?;
    assert_eq!(answer.status().as_u16(), 403, "it was asked about");
    all_used(&world).await
}

#[tokio::test]
async fn in_all_namespaces_without_git() -> Result<()> {
    all_used(&lived("flags.gitSync=false", &["default"]).await?).await
}

#[tokio::test]
async fn in_listed_namespaces() -> Result<()> {
    all_used(&lived("flags.additionalNamespaces={early,late}", &["kube-system", "early", "late"]).await?).await
}

#[tokio::test]
async fn in_namespaces_with_a_label() -> Result<()> {
    all_used(&lived("flags.namespaceSelector=team=blue", &["early"]).await?).await
}

/// Reduced by what was switched off: neither status nor Lease nor watch.
#[tokio::test]
async fn with_less_to_do() -> Result<()> {
    let off = "flags.leaderElect=false,flags.updateStatus=false,flags.skipRecreate=true,flags.gitSync=false";
    let world = lived(off, &["default"]).await?;
    let granted = granted(&world.cluster).await?;
    let has = |resource: &str, verb: &str| {
        granted.iter().any(|it| it.namespace == ANYWHERE && it.resource == resource && it.verb == verb)
    };
    assert!(!has("sealedsecrets/status", "patch") && !has("secrets", "watch") && has("secrets", "list"));
    all_used(&world).await
}

/// What the sync may do is what its account is bound to, and nothing by itself.
#[tokio::test]
async fn a_sync_has_the_rights_of_its_account_alone() -> Result<()> {
    let world = lived("sync.clusterRole=", &["default"]).await?;
    let place = Place { world: &world, namespace: "default".to_owned(), client: world.cluster.admin().await? };
    let git = GitServer::start()?;
    let repository = git.create("shop").await?;
    repository.write("map.yaml", config_map("map", 1))?;
    repository.commit("a map").await?;
    follow(&place, "shop", &repository, json!({"path": "."})).await?;
    let ready =
        place.ready("shop", |ready, _| ready.status == "False" && ready.message.contains("signet-sync")).await?;
    // It is told once, in words for people.
    let logs = eventually("that to be told", SOON, || async {
        let logs = world.controller.logs().await?;
        Ok(logs.contains("cannot watch what was applied").then_some(logs))
    })
    .await?;
    for text in [logs, ready.message] {
        assert!(!text.contains("Status {") && !text.contains("watch list error"), "{text}");
    }
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "maps"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}],
    });
    world.cluster.apply(&role.to_string()).await?;
    let account = "--serviceaccount=kube-system:signet-sync";
    world.cluster.kubectl(&["create", "clusterrolebinding", "maps", "--clusterrole=maps", account]).await?;
    place.ready("shop", |ready, _| ready.status == "True").await?;
    Ok(())
}
