//! The keys of a cluster over the years, by `seal keys` with the rights of `deploy/keys-operator` and no others.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use crds::key::{self, KeyRequest, MintedKey};
use harness::{Cluster, ClusterOptions, Controller, ControllerOptions, Output, eventually, kubeseal, seal};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, Secret, ServiceAccount};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
    core::ObjectMeta,
};
use serde_json::{Value, json};

use crate::world::{SOON, World};

/// Selects key Secrets whatever their state.
const ANY_STATE: &str = "sealedsecrets.bitnami.com/sealed-secrets-key";

/// A world, and somebody who looks after its keys.
pub struct Operated {
    pub world: World,
    pub operator: PathBuf,
}

impl Operated {
    pub async fn new() -> Result<Self> {
        Self::of(World::new().await?).await
    }

    /// `deploy/keys-operator` speaks of a group; here a ServiceAccount takes its place.
    pub async fn of(world: World) -> Result<Self> {
        let cluster = &world.cluster;
        cluster.deploy_from("deploy/keys-operator").await?;
        let operator = account(cluster, "operator").await?;
        let subject = json!({"subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": "kube-system"}]});
        for binding in ["rolebinding", "clusterrolebinding"] {
            let patch = ["-n", "kube-system", "patch", binding, "signet-keys-operator", "--type=merge", "-p"];
            cluster.kubectl(&[&patch[..], &[&subject.to_string()]].concat()).await?;
        }
        let account = "kube-system:operator";
        cluster.may(account, "list", "sealedsecrets.bitnami.com", "--all-namespaces").await?;
        cluster.may(account, "list", "secrets", "--namespace=kube-system").await?;
        Ok(Self { world, operator })
    }

    /// `seal keys …`.
    pub async fn keys(&self, args: &[&str]) -> Result<Output> {
        seal(Some(&self.operator), &[&["keys"], args].concat(), "").await
    }

    /// The same, with a report to read.
    pub async fn report(&self, args: &[&str]) -> Result<Value> {
        let text = self.keys(&[args, &["-o", "json"]].concat()).await?.success()?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// The exit code, for what is refused, and what was said about it.
    async fn refused(&self, args: &[&str]) -> Result<(Option<i32>, String)> {
        let Output { status, stderr, .. } = self.keys(args).await?;
        Ok((status.code(), stderr))
    }

    /// Fingerprints, newest first.
    async fn fingerprints(&self) -> Result<Vec<String>> {
        let report = self.report(&["list"]).await?;
        let keys = report["keys"].as_array().context("keys")?;
        Ok(keys.iter().filter_map(|key| key["fingerprint"].as_str()).map(str::to_owned).collect())
    }

    async fn secrets(&self) -> Result<Api<Secret>> {
        Ok(Api::namespaced(self.world.cluster.admin().await?, "kube-system"))
    }

    /// Labels of the key Secrets, in the order of their names.
    async fn labels(&self) -> Result<Vec<String>> {
        let all = self.secrets().await?.list(&ListParams::default().labels(ANY_STATE)).await?;
        Ok(all.iter().filter_map(|key| key.labels().get(ANY_STATE)).cloned().collect())
    }

    async fn served(&self) -> Result<String> {
        kubeseal(Some(self.world.cluster.kubeconfig()), &["--fetch-cert"], "").await?.success()
    }

    /// Adds a key of one's own.
    async fn bring(&self, name: &str, request: &KeyRequest) -> Result<MintedKey> {
        let minted = key::mint(request, &mut rand::rng())?;
        let (cluster, scratch) = (&self.world.cluster, self.world.cluster.scratch());
        let certificate = scratch.file("own.crt", &minted.certificate_pem)?;
        let private = scratch.file("own.key", minted.private_key_pem.as_str())?;
        let (crt, key) = (format!("--cert={}", certificate.display()), format!("--key={}", private.display()));
        cluster.kubectl(&["-n", "kube-system", "create", "secret", "tls", name, &crt, &key]).await?;
        cluster.kubectl(&["-n", "kube-system", "label", "secret", name, &format!("{ANY_STATE}=active")]).await?;
        Ok(minted)
    }

    /// What `seal keys list` says of each key, newest first: its state, and how many SealedSecrets need it.
    async fn states(&self) -> Result<Vec<(String, usize)>> {
        let report = self.report(&["list"]).await?;
        let keys = report["keys"].as_array().context("keys")?;
        let text = |key: &Value| key["state"].as_str().unwrap_or_default().to_owned();
        Ok(keys.iter().map(|key| (text(key), key["neededBy"].as_array().map_or(0, Vec::len))).collect())
    }
}

/// Makes a ServiceAccount; its kubeconfig.
pub async fn account(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.admin().await?, "kube-system");
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    accounts.create(&PostParams::default(), &ServiceAccount { metadata, ..ServiceAccount::default() }).await?;
    cluster.kubeconfig_for_service_account("kube-system", name).await
}

/// What the help of a verb of `seal keys` gives as an example, from the verb on.
pub async fn example(verb: &str) -> Result<Vec<String>> {
    let help = seal(None, &["keys", verb, "--help"], "").await?.success()?;
    assert!(help.contains("\nExit codes"), "{help}");
    let example = help.split("Example:\n").nth(1).and_then(|rest| rest.lines().next()).context("no example")?;
    let words = example.split('>').next().context("no words")?.split_whitespace().skip(2);
    let words: Vec<String> = words.map(str::to_owned).collect();
    assert_eq!(words.first().map(String::as_str), Some(verb), "{example}");
    Ok(words)
}

fn states(expected: &[(&str, usize)]) -> Vec<(String, usize)> {
    expected.iter().map(|(state, needed)| ((*state).to_owned(), *needed)).collect()
}

#[tokio::test]
async fn the_list_tells_states_and_what_needs_each_key() -> Result<()> {
    let it = Operated::new().await?;
    let place = it.world.place("list").await?;
    place.apply_sealed("old", &[("a", "1")]).await?;
    place.synced("old", "True").await?;
    it.world.renew_key().await?;
    place.apply_sealed("new", &[("a", "1"), ("b", "2")]).await?;
    place.synced("new", "True").await?;
    assert_eq!(it.states().await?, states(&[("sealing", 1), ("superseded", 1)]));

    let report = it.report(&["list"]).await?;
    let newest = &report["keys"][0];
    assert_eq!(newest["neededBy"], json!([{"namespace": place.namespace, "name": "new", "items": ["a", "b"]}]));
    assert_eq!((&newest["opens"], &newest["validity"]), (&json!(true), &json!("good")));
    let table = it.keys(&["list"]).await?.success()?;
    assert!(!table.contains('\u{1b}'), "no colour without a terminal");
    assert!(table.starts_with("FINGERPRINT"), "{table}");
    assert!(table.lines().nth(1).is_some_and(|line| line.contains("sealing") && line.contains("in 9y")), "{table}");

    // One that does not open may need any key, as far as anybody knows.
    let broken = json!({
        "apiVersion": "bitnami.com/v1alpha1", "kind": "SealedSecret",
        "metadata": {"name": "broken", "namespace": place.namespace}, "spec": {"encryptedData": {"a": "AgA="}},
    });
    it.world.cluster.apply(&broken.to_string()).await?;
    place.synced("broken", "False").await?;
    let report = it.report(&["list"]).await?;
    assert_eq!(report["unknown"][0]["name"], "broken", "{report}");

    // Whoever has no rights is told where they stand.
    let stranger = account(&it.world.cluster, "stranger").await?;
    let refused = seal(Some(&stranger), &["keys", "list"], "").await?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("deploy/keys-operator"), "{}", refused.stderr);
    Ok(())
}

/// Whoever asks while nobody is there gets one key when somebody is: one for all who asked, and for all who make any.
#[tokio::test]
async fn however_many_ask_and_make_keys_there_is_one() -> Result<()> {
    let both_lead =
        || ControllerOptions { args: vec!["--leader-elect=false".to_owned()], ..ControllerOptions::default() };
    let it = Operated::of(World::with(ClusterOptions::default(), both_lead()).await?).await?;
    let second = Controller::start_with(&it.world.cluster, both_lead()).await?;
    assert_eq!(it.states().await?, states(&[("sealing", 0)]), "one key for two that both lead");

    let before = it.served().await?;
    assert!(it.world.controller.terminate().await?.success() && second.terminate().await?.success());
    let dry = it.keys(&["rotate", "--dry-run"]).await?;
    assert_eq!((dry.status.code(), dry.stdout.as_str()), (Some(0), ""));
    for _ in 0..2 {
        let (code, said) = it.refused(&["rotate", "--timeout", "0"]).await?;
        assert_eq!(code, Some(5), "{said}");
        assert!(said.contains("The request stands"), "{said}");
    }
    tokio::try_join!(it.world.controller.restart(), second.restart())?;
    second.publish(&it.world.cluster).await?;
    eventually("another certificate", SOON, || async { Ok((it.served().await? != before).then_some(())) }).await?;
    assert_eq!(it.states().await?, states(&[("sealing", 0), ("superseded", 0)]));
    let certificate =
        async |replica: &Controller| anyhow::Ok(reqwest::get(replica.url("/v1/cert.pem")).await?.text().await?);
    eventually("both to serve it", SOON, || async {
        Ok((certificate(&it.world.controller).await? == certificate(&second).await?).then_some(()))
    })
    .await?;

    // And now with somebody there: the new certificate is printed once it is served.
    let printed = it.keys(&["rotate"]).await?.success()?;
    assert!(printed.starts_with("-----BEGIN CERTIFICATE-----") && printed == it.served().await?);
    let report = it.report(&["rotate"]).await?;
    assert_eq!(report["certificate"], it.served().await?);
    let all = it.fingerprints().await?;
    assert_eq!((all.len(), &report["fingerprint"], &report["replaced"]), (4, &json!(all[0]), &json!(all[1])));
    let minted = "sealed_secrets_controller_keys_minted_total";
    eventually("three to be counted since their restart", SOON, || async {
        let made = it.world.controller.metric(minted).await? + second.metric(minted).await?;
        Ok((made.to_string() == "3").then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_key_is_retired_when_nothing_needs_it_and_can_be_taken_up_again() -> Result<()> {
    let it = Operated::new().await?;
    let place = it.world.place("retire").await?;
    let old = place.apply_sealed("db", &[("a", "1")]).await?;
    place.synced("db", "True").await?;
    let (code, said) = it.refused(&["retire", &it.fingerprints().await?[0]]).await?;
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("is the key that values are sealed with") && said.contains("seal keys rotate"), "{said}");
    it.keys(&["rotate"]).await?.success()?;

    let key = it.fingerprints().await?[1].clone();
    let refused = it.keys(&["retire", &key]).await?;
    assert_eq!(refused.status.code(), Some(4), "{refused}");
    assert!(
        refused.stdout.contains(&place.namespace) && refused.stderr.contains("1 SealedSecrets need it"),
        "{refused}"
    );
    assert_eq!(it.refused(&["retire", "SHA256:none"]).await?.0, Some(1));

    let sealed = kubeseal(Some(it.world.cluster.kubeconfig()), &["--re-encrypt"], &old).await?.success()?;
    it.world.cluster.apply(&sealed).await?;
    eventually("the status to tell the new key", SOON, || async {
        Ok((it.states().await? == states(&[("sealing", 1), ("superseded", 0)])).then_some(()))
    })
    .await?;
    it.keys(&["retire", &key, "--dry-run"]).await?.success()?;
    assert_eq!(it.labels().await?, ["active"; 2], "only said");
    let report = it.report(&["retire", &key]).await?;
    assert_eq!((&report["done"], &report["mark"], &report["neededBy"]), (&json!(true), &json!("retired"), &json!([])));
    it.keys(&["retire", &key]).await?.success()?;
    assert_eq!(it.states().await?, states(&[("sealing", 1), ("retired", 0)]));
    let told = |state: &str| format!("sealed_secrets_controller_keys_by_state{{state=\"{state}\"}} 1\n");
    eventually("the metric to tell it", SOON, || async {
        Ok(it.world.controller.metrics().await?.contains(&told("retired")).then_some(()))
    })
    .await?;

    // The controller knows at once, and upstream's programs are not disturbed.
    it.world.cluster.apply(&old).await?;
    assert_eq!(place.synced("db", "False").await?.reason.as_deref(), Some("NoKey"));
    let clear = place.secret("new", &[("a", "2")]);
    let new = kubeseal(Some(it.world.cluster.kubeconfig()), &["--format", "yaml"], &clear).await?.success()?;
    it.world.cluster.apply(&new).await?;
    place.holds("new", &[("a", "2")]).await?;

    it.keys(&["reinstate", &key]).await?.success()?;
    place.synced("db", "True").await?;
    assert_eq!(it.labels().await?, ["active"; 2]);

    // By force it goes whatever needs it; what was opened stays.
    it.keys(&["retire", &key, "--force"]).await?.success()?;
    assert_eq!(it.states().await?[1].0, "retired");
    place.holds("db", &[("a", "1")]).await?;
    Ok(())
}

#[tokio::test]
async fn a_compromised_key_seals_no_more_and_its_values_are_listed() -> Result<()> {
    let it = Operated::new().await?;
    let place = it.world.place("compromised").await?;
    let sealed = place.apply_sealed("db", &[("a", "1"), ("b", "2")]).await?;
    place.synced("db", "True").await?;
    let before = it.served().await?;
    let key = it.fingerprints().await?[0].clone();

    let report = it.report(&["compromised", &key, "--keep-opening"]).await?;
    assert_eq!(report["neededBy"], json!([{"namespace": place.namespace, "name": "db", "items": ["a", "b"]}]));
    let all = it.fingerprints().await?;
    assert_eq!((all.len(), &report["sealing"]), (2, &json!(all[0])), "another one seals");
    assert_ne!(it.served().await?, before);
    assert_eq!(it.labels().await?, ["active"; 2], "upstream opens with it too");
    place.secrets().delete("db", &DeleteParams::default()).await?;
    place.holds("db", &[("a", "1"), ("b", "2")]).await?;

    let text = it.keys(&["compromised", &key]).await?.success()?;
    assert!(text.contains("hold values that must be changed") && text.contains("db"), "{text}");
    let closed = format!(
        "1 SealedSecrets need it, and of 0 it is not known: what it sealed is not opened again. Secrets that are there stay; seal keys reinstate {key} undoes it.\n"
    );
    assert!(text.contains(&closed), "{text}");
    let mut labels = it.labels().await?;
    labels.sort();
    assert_eq!(labels, ["active", "compromised"], "upstream does not open with it either");
    assert_eq!(it.states().await?, states(&[("sealing", 0), ("compromised", 1)]));
    eventually("it to open with the other alone", SOON, || async {
        let keys = it.world.controller.metric("sealed_secrets_controller_keys").await?;
        Ok((keys.to_string() == "1").then_some(()))
    })
    .await?;
    it.world.cluster.apply(&sealed.replace("a: ", "c: ")).await?;
    assert_eq!(place.synced("db", "False").await?.reason.as_deref(), Some("NoKey"));
    place.holds("db", &[("a", "1"), ("b", "2")]).await?;
    assert_eq!(it.refused(&["retire", &key]).await?.0, Some(1), "compromised says more");
    assert_eq!(it.fingerprints().await?.len(), 2, "one key was made in its place");

    // A certificate that cannot be written is no reason to make another key.
    let (code, said) = it.refused(&["rotate", "-w", "/dev/full"]).await?;
    assert!(code == Some(1) && said.contains("is there and seals, but") && said.contains("seal cert -w"), "{said}");
    assert!(said.contains("write /dev/full: no space left on device"), "{said}");
    assert_eq!(it.fingerprints().await?.len(), 3);
    Ok(())
}

#[tokio::test]
async fn every_example_of_the_help_works() -> Result<()> {
    let it = Operated::new().await?;
    it.keys(&["rotate"]).await?.success()?;
    let key = it.fingerprints().await?[1].clone();
    let certificate = it.world.cluster.scratch().path().join("cert.pem");
    for verb in ["list", "rotate", "retire", "reinstate", "compromised"] {
        let words = example(verb).await?;
        let meant = |word: &String| match word.as_str() {
            word if word.starts_with("SHA256:") => key.clone(),
            "cert.pem" => certificate.display().to_string(),
            word => word.to_owned(),
        };
        let words: Vec<String> = words.iter().map(meant).collect();
        it.keys(&words.iter().map(String::as_str).collect::<Vec<_>>()).await?.success()?;
    }
    assert_eq!(fs::read_to_string(certificate)?, it.served().await?);
    assert_eq!(it.states().await?, states(&[("sealing", 0), ("superseded", 0), ("compromised", 0)]));
    Ok(())
}

/// Forbids new key Secrets, as somebody's policy may.
const NO_NEW_KEYS: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-new-keys}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [secrets]}]
  validations: [{expression: "object.metadata.namespace != 'kube-system'", message: no new keys}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-new-keys}
spec: {policyName: no-new-keys, validationActions: [Deny]}
"#;

#[tokio::test]
async fn while_no_key_can_be_made_the_old_ones_go_on_and_then_one_is_made() -> Result<()> {
    let it = Operated::new().await?;
    let place = it.world.place("stuck").await?;
    it.world.cluster.apply(NO_NEW_KEYS).await?;
    let trial: Secret = serde_json::from_value(json!({"metadata": {"name": "trial"}}))?;
    let (secrets, dry_run) = (it.secrets().await?, PostParams { dry_run: true, ..PostParams::default() });
    eventually("the policy to hold", SOON, || async { Ok(secrets.create(&dry_run, &trial).await.err()) }).await?;

    let before = it.served().await?;
    assert_eq!(it.refused(&["rotate", "--timeout", "0"]).await?.0, Some(5));
    eventually("the failure to be told", SOON, || async {
        Ok(it.world.controller.logs().await?.contains("cannot make a new key").then_some(()))
    })
    .await?;
    place.apply_sealed("db", &[("a", "1")]).await?;
    place.holds("db", &[("a", "1")]).await?;
    assert_eq!(it.served().await?, before);

    it.world.cluster.kubectl(&["delete", "validatingadmissionpolicybinding", "no-new-keys"]).await?;
    eventually("another certificate", SOON, || async { Ok((it.served().await? != before).then_some(())) }).await?;
    assert_eq!(it.states().await?, states(&[("sealing", 0), ("superseded", 1)]));
    Ok(())
}

/// Its age is not that of its certificate, by which it would not be renewed for a year.
#[tokio::test]
async fn a_key_from_a_clock_that_ran_ahead_ages_all_the_same() -> Result<()> {
    let it = Operated::new().await?;
    let (year, lifetime) = (SignedDuration::from_hours(365 * 24), SignedDuration::from_hours(100_000));
    let not_before = Timestamp::now() + year * 3;
    it.bring("ahead", &KeyRequest { bits: 2048, common_name: "ours".to_owned(), not_before, lifetime }).await?;
    let key = eventually("it to be the newest", SOON, || async {
        let key = it.report(&["list"]).await?["keys"][0].clone();
        Ok((key["secret"] == "ahead").then_some(key))
    })
    .await?;
    let made: Timestamp = key["made"].as_str().context("a time")?.parse()?;
    assert!(made < Timestamp::now() + SignedDuration::from_mins(1), "{made}");
    let table = it.keys(&["list"]).await?.success()?;
    assert!(table.contains("begins in 2y"), "{table}");
    Ok(())
}

/// A key of one's own, as upstream's document describes it, with a certificate that has ended.
#[tokio::test]
async fn an_expired_certificate_is_complained_about_never_served_and_replaced_where_keys_are_renewed() -> Result<()> {
    let waiting = ControllerOptions {
        args: ["--wait-for-keys", "--key-renew-period=0", "--leader-elect=false"].map(str::to_owned).into(),
        wait_until_ready: false,
        ..ControllerOptions::default()
    };
    let it = Operated::of(World::with(ClusterOptions::default(), waiting).await?).await?;
    let place = it.world.place("expired").await?;
    let request = KeyRequest {
        bits: 2048,
        common_name: "ours".to_owned(),
        not_before: Timestamp::now() - SignedDuration::from_hours(240),
        lifetime: SignedDuration::from_hours(239),
    };
    let minted = it.bring("own", &request).await?;

    let events: Api<Event> = Api::namespaced(it.world.cluster.admin().await?, "kube-system");
    let event = eventually("the Event", SOON, || async {
        let all = events.list(&ListParams::default()).await?;
        Ok(all.items.into_iter().find(|event| event.reason.as_deref() == Some("CertificateExpired")))
    })
    .await?;
    assert_eq!(event.involved_object.name.as_deref(), Some("own"));
    assert!(event.message.is_some_and(|message| message.contains("seal keys rotate")));
    let answer = reqwest::get(it.world.controller.url("/v1/cert.pem")).await?;
    assert_eq!(answer.status().as_u16(), 500);
    assert!(answer.text().await?.contains("seal keys rotate"));
    assert_eq!(it.report(&["list"]).await?["keys"][0]["validity"], "expired");
    assert_eq!(it.fingerprints().await?.len(), 1, "keys that are not renewed are not renewed");
    let end = it.world.controller.metric("sealed_secrets_controller_newest_key_expiry_timestamp_seconds").await?;
    assert_eq!(end.to_string(), (request.not_before + request.lifetime).as_second().to_string());

    // What was sealed with it opens all the same.
    let own = crds::Certificate::from_pem(&minted.certificate_pem)?;
    let value = own.seal(b"1", &format!("{}/db", place.namespace), &mut rand::rng())?;
    let sealed = json!({
        "apiVersion": "bitnami.com/v1alpha1", "kind": "SealedSecret",
        "metadata": {"name": "db", "namespace": place.namespace},
        "spec": {"encryptedData": {"a": crds::base64::encode(&value)}},
    });
    it.world.cluster.apply(&sealed.to_string()).await?;
    place.holds("db", &[("a", "1")]).await?;

    let renewing = ControllerOptions { args: vec!["--leader-elect=false".to_owned()], ..ControllerOptions::default() };
    let _renewing = Controller::start_with(&it.world.cluster, renewing).await?;
    eventually("another key", SOON, || async {
        Ok((it.states().await? == states(&[("sealing", 0), ("superseded", 1)])).then_some(()))
    })
    .await?;
    it.served().await?;
    Ok(())
}
