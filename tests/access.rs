//! `/v1/verify` and `/v1/rotate` for those alone whom the cluster lets: tokens and rights of a real API server, under
//! exactly the rights of `deploy/authenticated`.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use axum::http::Request;
use harness::{Cluster, Controller, ControllerOptions, binaries, command, eventually, kubeseal};
use serde_json::{Value, json};

use crate::world::{Place, SOON, World, document};

const AUDIENCE: &str = "--audience=signet-controller";

/// A token of an account, made anew.
async fn token(place: &Place<'_>, account: &str, flags: &[&str]) -> Result<String> {
    let create = ["-n", &place.namespace, "create", "token", account];
    Ok(place.world.cluster.kubectl(&[&create, flags].concat()).await?.trim().to_owned())
}

/// `deploy/` with the component, as an overlay of one's own has it.
pub async fn deployed(options: ControllerOptions) -> Result<World> {
    let cluster = Cluster::start().await?;
    cluster.deploy().await?;
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("deploy");
    let overlay = cluster.scratch().folder("authenticated")?;
    // kustomize takes no absolute path.
    let up = "../".repeat(overlay.canonicalize()?.components().count() - 1);
    let deploy = format!("{up}{}", deploy.display().to_string().trim_start_matches('/'));
    let kustomization =
        format!("namespace: kube-system\nresources: [{deploy}]\ncomponents: [{deploy}/authenticated]\n");
    fs::write(overlay.join("kustomization.yaml"), kustomization)?;
    let folder = overlay.to_str().context("a path of UTF-8")?;
    cluster.kubectl(&["apply", "--server-side", "--kustomize", folder]).await?;
    let pods = cluster.kubectl(&["-n", "kube-system", "get", "deployment", "-o", "yaml"]).await?;
    assert!(pods.contains("SIGNET_AUTHENTICATE"), "{pods}");
    let controller = Controller::start_with(&cluster, options).await?;
    Ok(World { cluster, controller })
}

#[tokio::test]
async fn only_who_may_has_something_verified_or_re_encrypted() -> Result<()> {
    let flags = ["--rate-limit=1000", "--rate-limit-burst=1000"].map(str::to_owned).to_vec();
    let options = ControllerOptions { args: flags, ..ControllerOptions::default() };
    let world = deployed(options).await?;
    let (place, other) = (world.place("access").await?, world.place("other").await?);
    let kubectl = async |args: &[&str]| world.cluster.kubectl(&[&["-n", &place.namespace], args].concat()).await;
    for account in ["developer", "stranger"] {
        kubectl(&["create", "serviceaccount", account]).await?;
    }
    let subject = format!("--serviceaccount={}:developer", place.namespace);
    let role = "--clusterrole=sealed-secrets-endpoints";
    kubectl(&["create", "rolebinding", "sealed-secrets-endpoints", role, &subject]).await?;
    let sealed = async |place: &Place<'_>| document(&world.seal(&place.secret("db", &[("a", "1")]), &[]).await?);
    let (ours, theirs) = (sealed(&place).await?, sealed(&other).await?);
    let mut anywhere = ours.clone();
    anywhere["metadata"] = json!({"name": "db", "annotations": {"sealedsecrets.bitnami.com/cluster-wide": "true"}});

    // Straight to the controller, as any Pod can ask.
    let http = reqwest::Client::builder().no_proxy().build()?;
    let ask = async |path: &str, authorization: Option<String>, body: &Value| {
        // The API server may take too long to say who asks.
        eventually("an answer", SOON, || async {
            let request = http.post(world.controller.url(path)).body(body.to_string());
            let request = authorization.iter().fold(request, |request, it| request.header("authorization", it));
            let answer = request.send().await?;
            let status = answer.status();
            let told = answer.text().await?;
            Ok((!status.is_server_error()).then_some((status.as_u16(), told)))
        })
        .await
    };
    let developer = token(&place, "developer", &[AUDIENCE]).await?;
    let stranger = token(&place, "stranger", &[AUDIENCE]).await?;
    let for_the_api_server = token(&place, "developer", &[]).await?;
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    for path in ["/v1/verify", "/v1/rotate"] {
        for (who, body, expected) in [
            (None, &ours, 401),
            (bearer("made-up"), &ours, 401),
            (bearer(&for_the_api_server), &ours, 401),
            (bearer(&stranger), &ours, 403),
            (bearer(&developer), &theirs, 403),
            (bearer(&developer), &anywhere, 403),
            (bearer(&developer), &ours, 200),
        ] {
            let (code, told) = ask(path, who.clone(), body).await?;
            assert_eq!(code, expected, "{path} {told}");
            assert!(who.is_none_or(|who| !told.contains(who.trim_start_matches("Bearer "))), "{told}");
        }
    }
    let certificate = reqwest::get(world.controller.url("/v1/cert.pem")).await?;
    assert!(certificate.status().is_success(), "the certificate is for everybody");

    // Through the API server's service proxy, which keeps the caller's own token to itself.
    let path = "/api/v1/namespaces/kube-system/services/http:sealed-secrets-controller:http/proxy/v1/verify";
    let proxied = async |token: Option<&str>| {
        let request = Request::post(path).header("content-type", "application/json");
        let request = token.into_iter().fold(request, |request, token| request.header("x-signet-token", token));
        place.client.request_text(request.body(ours.to_string().into_bytes())?).await.map_err(anyhow::Error::from)
    };
    let refused = proxied(None).await.unwrap_err().to_string();
    assert!(refused.contains("send a token in X-Signet-Token"), "{refused}");
    eventually("it to be let in", SOON, || async { proxied(Some(&developer)).await.map(Some) }).await?;

    // The real kubeseal has no way to send it; ours has.
    let kubeconfig = world.cluster.kubeconfig();
    let output = kubeseal(Some(kubeconfig), &["--validate"], ours.to_string()).await?;
    assert!(output.stderr.contains("cannot validate sealed secret"), "{output}");
    let home = tempfile::tempdir()?;
    let mut seal = command::clean(binaries::seal().await?, home.path());
    seal.arg("--validate").arg("--kubeconfig").arg(kubeconfig).env("SIGNET_TOKEN", &developer);
    command::run(&mut seal, ours.to_string().as_bytes()).await?.success()?;

    let logs = world.controller.logs().await?;
    for token in [developer, stranger, for_the_api_server] {
        assert!(!logs.contains(&token), "no token is logged");
    }
    Ok(())
}
