//! Templates of SealedSecrets on a cluster: what the real kubeseal sealed is rendered, and a bad template hurts nobody
//! but its own object, and tells nothing.

use anyhow::Result;
use crds::template::FAIL_ON_MISSING_KEY;
use harness::{eventually, kubeseal};
use k8s_openapi::api::core::v1::Event;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};

use crate::world::{Place, SOON, World};

const CANARY: &str = "canary-0815-4711";

impl Place<'_> {
    /// Sealed by the real kubeseal, with these templates written beside.
    async fn apply_templates(&self, name: &str, values: &[(&str, &str)], templates: Value) -> Result<Value> {
        let kubeconfig = Some(self.world.cluster.kubeconfig());
        let sealed = kubeseal(kubeconfig, &["--format", "json"], self.secret(name, values)).await?.success()?;
        let mut sealed: Value = serde_json::from_str(&sealed)?;
        sealed["spec"]["template"]["data"] = templates;
        self.world.cluster.apply(&sealed.to_string()).await?;
        Ok(sealed)
    }
}

#[tokio::test]
async fn templates_are_rendered_from_sealed_values_and_null_drops_one() -> Result<()> {
    let place = World::shared().await?.place("templates").await?;
    let templates = json!({
        "pw": "shadow",
        "plain": "hello",
        "ref": "{{.plain}}-{{.pw|b64enc}}-{{.nope}}",
        "hidden": null,
        "url": "db://{{ .user | urlquery }}:{{ .hidden }}@db",
    });
    place.apply_templates("db", &[("pw", "s3"), ("user", "a b"), ("hidden", "h")], templates).await?;
    let values =
        [("pw", "s3"), ("user", "a b"), ("plain", "hello"), ("ref", "hello-czM=-<no value>"), ("url", "db://a+b:h@db")];
    place.holds("db", &values).await?;
    Ok(())
}

/// Upstream has no such choice. Without it a Secret holds `<no value>`, and nobody is told.
#[tokio::test]
async fn a_template_with_a_missing_key_fails_where_that_is_chosen() -> Result<()> {
    let world = World::shared().await?;
    let place = world.place("missing-key").await?;
    let templates = json!({"url": "db://{{ .user }}:{{ .pasword }}@db"});
    let mut sealed = place.apply_templates("db", &[("user", "app"), ("password", CANARY)], templates).await?;
    let wrong = [("user", "app"), ("password", CANARY), ("url", "db://app:<no value>@db")];
    place.holds("db", &wrong).await?;

    sealed["metadata"]["annotations"] = json!({FAIL_ON_MISSING_KEY: "true"});
    world.cluster.apply(&sealed.to_string()).await?;
    let synced = place.synced("db", "False").await?;
    assert_eq!(synced.reason.as_deref(), Some("Render"));
    let message = synced.message.unwrap_or_default();
    assert!(message.ends_with("template.data.url line 1: there is no such key: pasword"), "{message}");
    assert!(!message.contains(CANARY), "{message}");
    place.holds("db", &wrong).await?;

    sealed["spec"]["template"]["data"] = json!({"url": "db://{{ .user }}:{{ .password }}{{ index . \"port\" }}@db"});
    world.cluster.apply(&sealed.to_string()).await?;
    let url = format!("db://app:{CANARY}@db");
    place.holds("db", &[("user", "app"), ("password", CANARY), ("url", &url)]).await?;
    place.synced("db", "True").await?;
    Ok(())
}

/// Upstream puts the value into the status, an Event and its log, and takes 628 MB for the bomb.
#[tokio::test]
async fn a_template_that_leaks_or_explodes_is_refused_without_a_word_of_the_value() -> Result<()> {
    let world = World::shared().await?;
    let place = world.place("leaks").await?;
    let cases = [
        ("leak", "ok\n{{ fail .pw }}", "template.data.t line 2: fail: the template gave up"),
        ("field", "{{ .pw.x }}", "template.data.t line 1: only maps have fields"),
        ("bomb", r#"{{ repeat 600000000 "x" }}"#, "more work than is allowed"),
        ("endless", r#"{{ define "a" }}{{ template "a" }}{{ end }}{{ template "a" }}"#, "nested too deeply"),
    ];
    for (name, template, _) in cases {
        place.apply_templates(name, &[("pw", CANARY)], json!({"t": template})).await?;
    }
    place.apply_templates("good", &[("pw", "x")], json!({"t": "{{ .pw }}"})).await?;
    place.holds("good", &[("pw", "x"), ("t", "x")]).await?;
    for (name, _, expected) in cases {
        let synced = place.synced(name, "False").await?;
        assert_eq!(synced.reason.as_deref(), Some("Render"), "{name}");
        let message = synced.message.unwrap_or_default();
        assert!(message.contains(expected), "{name}: {message}");
        assert!(!message.contains(CANARY), "{name}: {message}");
        assert!(place.secrets().get_opt(name).await?.is_none(), "{name}");
    }
    let events: Api<Event> = Api::namespaced(place.client.clone(), &place.namespace);
    let told = eventually("the Events", SOON, || async {
        let told = serde_json::to_string(&events.list(&ListParams::default()).await?)?;
        Ok(Some(told)
            .filter(|told| told.contains("fail: the template gave up") && told.contains("only maps have fields")))
    })
    .await?;
    assert!(!told.contains(CANARY), "{told}");
    let logs = world.controller.logs().await?;
    assert!(logs.contains("fail: the template gave up") && !logs.contains(CANARY), "the log tells a value");
    Ok(())
}
