//! What `deploy/` says to itself: names that must meet. That it works is shown by every other test, which runs with it.

use std::collections::{BTreeMap, BTreeSet};

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

/// kubectl leaves what only the old mode has: the page on installing lists it, by the modes that have it.
#[test]
fn what_a_mode_leaves_behind_is_listed() -> Result<()> {
    let modes = ["", "sealing/", "namespaced/", "selected/"];
    let mut having: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (folder, file) in modes.map(|mode| (mode, "install.yaml")).into_iter().chain([("authenticated/", "rbac.yaml")])
    {
        for object in objects(&format!("{folder}{file}"))? {
            let words = [&object["kind"], &object["metadata"]["name"]].map(|word| word.as_str().unwrap_or_default());
            let name = format!("{}/{}", words[0].to_lowercase(), words[1]);
            let mode = format!("deploy/{folder}").trim_end_matches('/').to_owned();
            having.entry(name).or_default().insert(mode);
        }
    }
    having.retain(|_, having| having.len() < modes.len());
    let page = std::fs::read_to_string(chart::folder().with_file_name("docs").join("install.md"))?;
    let rows = page.lines().skip_while(|line| !line.starts_with("| modes |")).skip(2);
    let spans = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    let mut told = BTreeMap::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').collect();
        told.extend(spans(cells[2]).into_iter().map(|name| (name, spans(cells[1]))));
    }
    assert_eq!(told, having);
    Ok(())
}

fn objects(file: &str) -> Result<Vec<Value>> {
    let documents = crds::yaml::documents(&std::fs::read_to_string(chart::folder().join(file))?);
    Ok(documents.into_iter().map(|document| document.value).collect::<Result<_, _>>()?)
}
