//! What `deploy/` says to itself: names that must meet. That it works is shown by every other test, which runs with it.

use anyhow::Result;
use harness::chart::{self, RENDERINGS};
use serde_json::Value;

#[tokio::test]
async fn what_is_rendered_is_fresh() -> Result<()> {
    for rendering in RENDERINGS {
        let stands = std::fs::read_to_string(rendering.path()).unwrap_or_default();
        assert!(stands == rendering.render().await?, "{} is stale: cargo render", rendering.path().display());
    }
    Ok(())
}

#[test]
fn services_lead_to_the_controller() -> Result<()> {
    let all = objects("install.yaml")?;
    let of_kind = |kind: &'static str| all.iter().filter(move |object| object["kind"] == kind);
    let pod = &of_kind("Deployment").next().unwrap()["spec"]["template"];
    let ports = pod["spec"]["containers"][0]["ports"].as_array().unwrap();
    for service in of_kind("Service") {
        for (label, value) in service["spec"]["selector"].as_object().unwrap() {
            assert_eq!(&pod["metadata"]["labels"][label], value, "{}", service["metadata"]["name"]);
        }
        let target = &service["spec"]["ports"][0]["targetPort"];
        assert!(ports.iter().any(|port| port["name"] == *target), "{target}");
    }
    Ok(())
}

#[test]
fn the_controller_runs_as_the_account_that_has_the_rights() -> Result<()> {
    let rights = objects("install.yaml")?;
    let deployment = rights.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let account = &deployment["spec"]["template"]["spec"]["serviceAccountName"];
    let accounts: Vec<_> = rights.iter().filter(|object| object["kind"] == "ServiceAccount").collect();
    assert!(accounts.iter().any(|object| object["metadata"]["name"] == *account));
    // No Pod has the token of either unless it asks.
    assert!(accounts.iter().all(|object| object["automountServiceAccountToken"] == false));
    assert_eq!(deployment["spec"]["template"]["spec"]["automountServiceAccountToken"], true);
    let bound = |object: &&Value| object["kind"].as_str().is_some_and(|kind| kind.ends_with("Binding"));
    let to_account = |object: &&Value| object["subjects"][0]["name"] == *account;
    assert_eq!(rights.iter().filter(bound).filter(to_account).count(), 3, "its own, the cluster's, and to impersonate");
    Ok(())
}

fn objects(file: &str) -> Result<Vec<Value>> {
    let documents = crds::yaml::documents(&std::fs::read_to_string(chart::folder().join(file))?);
    Ok(documents.into_iter().map(|document| document.value).collect::<Result<_, _>>()?)
}
