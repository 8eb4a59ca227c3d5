//! Whose rights a GitSync has.

use anyhow::Result;
use harness::{ClusterOptions, ControllerOptions, GitServer, eventually};
use k8s_openapi::api::{
    core::v1::{ConfigMap, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;

use crate::world::{Place, SOON, World, config_map, follow};

const RIGHTS: &str = "apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [\"\"], resources: [configmaps], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: somebody}]
";

#[tokio::test]
async fn a_tenant_has_the_rights_of_its_account() -> Result<()> {
    let args = vec!["--default-service-account=deployer".to_owned()];
    let options = ControllerOptions { args, ..ControllerOptions::default() };
    let world = World::with(ClusterOptions::default(), options).await?;
    let place = world.place("tenant").await?;
    let (other, namespace) = (world.place("other").await?.namespace, &place.namespace);
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    repository
        .write("rights.yaml", RIGHTS.replace("name: somebody", &format!("name: somebody, namespace: {namespace}")))?;
    let first = repository.commit("one").await?;
    follow(&place, "app", &repository, json!({})).await?;

    // Out of the box the controller may act as nobody but its own account.
    let ready = place.ready("app", |ready, _| ready.reason == "AccessDenied").await?;
    assert!(ready.message.contains("bind the ClusterRole signet-sync-tenant"), "{}", ready.message);
    bind(&place, "signet-sync-tenant", "ClusterRole/signet-sync-tenant", "kube-system/sealed-secrets-controller")
        .await?;
    place.ready("app", |ready, _| ready.message.contains("does not exist; make it")).await?;
    account(&place, "deployer").await?;
    let ready = again(&place, "app", |message| message.contains("cannot patch")).await?;
    let account_name = format!("system:serviceaccount:{namespace}:deployer");
    for words in ["rights.yaml:1: ", &format!("Role {namespace}/reader"), &account_name, "resource \"roles\""] {
        assert!(ready.contains(words), "{words} in {ready}");
    }
    // Role and binding come in one commit with what they are for, in the rights of one who has them.
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "deployer", "namespace": namespace},
        "rules": [
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]},
            {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["*"]},
        ],
    });
    world.cluster.apply(&role.to_string()).await?;
    bind(&place, "deployer", "Role/deployer", &format!("{namespace}/deployer")).await?;
    again(&place, "app", |message| message.contains(&first)).await?;
    place.applied("app", &first).await?;
    Api::<Role>::namespaced(place.client.clone(), namespace).get("reader").await?;
    Api::<RoleBinding>::namespaced(place.client.clone(), namespace).get("reader").await?;

    // Another's namespace is another's, whatever stands in Git.
    let there = config_map("settings", "one").replacen("metadata:\n", &format!("metadata:\n  namespace: {other}\n"), 1);
    repository.write("there.yaml", there)?;
    repository.commit("elsewhere").await?;
    let ready = place.ready("app", |ready, _| ready.message.contains("there.yaml:1: ")).await?;
    assert!(ready.message.contains(&format!("in the namespace \"{other}\"")), "{}", ready.message);
    repository.remove("there.yaml")?;
    let last = repository.commit("here").await?;
    place.applied("app", &last).await?;

    // A GitSync may name another account of its namespace.
    account(&place, "nobody").await?;
    follow(&place, "named", &repository, json!({"serviceAccountName": "nobody", "targetNamespace": other})).await?;
    let ready = place.ready("named", |ready, _| ready.message.contains("cannot patch")).await?;
    assert!(ready.message.contains(&format!("system:serviceaccount:{namespace}:nobody")), "{}", ready.message);

    // With its account went its rights: it cannot delete anything, and is not stuck for that. Bindings are still there.
    Api::<ServiceAccount>::namespaced(place.client.clone(), namespace)
        .delete("deployer", &DeleteParams::default())
        .await?;
    place.syncs().delete("app", &DeleteParams::default()).await?;
    eventually("the GitSync to go", SOON, || async { Ok(place.syncs().get_opt("app").await?.is_none().then_some(())) })
        .await?;
    let maps = Api::<ConfigMap>::namespaced(place.client.clone(), namespace);
    assert_eq!(maps.get("settings").await?.labels()["gitsync.signet.dev/name"], "app");
    assert!(world.controller.logs().await?.contains("its objects stay"));
    Ok(())
}

/// Asks again and again, as its own tries come ever more seldom, until the message of `Ready` is as wanted.
async fn again(place: &Place<'_>, name: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
    let tries = std::sync::atomic::AtomicUsize::new(0);
    eventually(&format!("GitSync {name} to say something else"), SOON, || async {
        let number = tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
        let request = json!({"metadata": {"annotations": {crds::git_sync::RECONCILE_REQUESTED: number}}});
        let sync = place.syncs().patch(name, &PatchParams::default(), &Patch::Merge(request)).await?;
        let ready = sync.status.into_iter().flat_map(|it| it.conditions).find(|it| it.type_ == "Ready");
        Ok(ready.map(|ready| ready.message).filter(|message| wanted(message)))
    })
    .await
}

async fn account(place: &Place<'_>, name: &str) -> Result<()> {
    let metadata = json!({"name": name, "namespace": place.namespace});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata});
    place.world.cluster.apply(&account.to_string()).await?;
    Ok(())
}

/// `role` is kind/name, `subject` namespace/name of a ServiceAccount.
async fn bind(place: &Place<'_>, name: &str, role: &str, subject: &str) -> Result<()> {
    let (kind, role) = role.split_once('/').unwrap_or_default();
    let (namespace, account) = subject.split_once('/').unwrap_or_default();
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": place.namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    });
    place.world.cluster.apply(&binding.to_string()).await?;
    Ok(())
}
