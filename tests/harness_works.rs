//! The harness itself: were it wrong, every other test would tell a story about it instead of about Signet.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use axum::{Router, routing::get};
use harness::{
    Cluster, ClusterOptions, Server,
    background::{Background, free_port, listen},
    eventually,
    process::{Process, Signal},
    publish::PublishedPort,
    scratch::Scratch,
    shared,
    tools::Tool,
};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::{
    Api,
    api::{ListParams, ObjectMeta, PostParams},
};

const SOON: Duration = Duration::from_mins(2);

/// Names the file into which the victim of `guardian_cleans_up_after` writes what it started.
const VICTIM: &str = "SIGNET_TEST_VICTIM";

#[tokio::test]
async fn cluster_is_ready_and_tells_how_fast() -> Result<()> {
    let since = Instant::now();
    let cluster = Cluster::start().await?;
    let took = since.elapsed();
    let version = cluster.kubectl(&["version", "--output=json"]).await?;
    assert!(version.contains("\"gitTreeState\": \"clean\""), "{version}");
    let dir = cluster.scratch().path().to_owned();
    let since = Instant::now();
    drop(cluster);
    assert!(!dir.exists(), "dropping a cluster removes its folder");
    console::Term::stderr().write_line(&format!("cluster up in {took:?}, down in {:?}", since.elapsed()))?;
    Ok(())
}

#[tokio::test]
async fn api_server_comes_back_with_its_data() -> Result<()> {
    let cluster = Cluster::start().await?;
    let namespace = cluster.namespace("kept").await?;
    cluster.restart_api_server().await?;
    assert!(cluster.kubectl(&["get", "namespace", &namespace]).await?.contains("Active"));
    Ok(())
}

#[tokio::test]
async fn a_phase_ends_with_the_api_server_or_with_its_time_and_shows_the_log() -> Result<()> {
    let cluster = Cluster::start().await?;
    let hung = cluster.phase("a request", Duration::ZERO, std::future::pending::<Result<()>>()).await;
    let said = format!("{:#}", hung.expect_err("it never ends"));
    assert!(said.starts_with("failed while this was done: a request: the log of kube-apiserver ends with\n"), "{said}");
    assert!(said.ends_with(": not done after 0ns") && said.contains("\nI1"), "{said}");

    cluster.stop(Server::ApiServer).await?;
    let dead = cluster.phase("another", SOON, std::future::pending::<Result<()>>()).await;
    let said = format!("{:#}", dead.expect_err("it never ends"));
    assert!(said.starts_with("failed while this was done: another: kube-apiserver ended: signal: 9"), "{said}");
    assert!(said.ends_with(": a server ended meanwhile") && said.contains("\nI1"), "{said}");

    // As when etcd's port is taken: the API server goes too, later and with another reason.
    cluster.stop(Server::Etcd).await?;
    let said = cluster.ensure_running().await.expect_err("both ended").to_string();
    assert!(said.starts_with("etcd ended: signal: 9"), "{said}");
    Ok(())
}

#[test]
fn no_port_is_given_twice() -> Result<()> {
    let both = std::iter::repeat_with(|| anyhow::Ok([free_port()?, listen()?.1]));
    let ports = both.take(100).collect::<Result<Vec<_>>>()?.concat();
    assert!(ports.iter().all(|port| *port < 32_768), "of the kernel's, which gives one again: {ports:?}");
    assert_eq!(ports.iter().collect::<std::collections::BTreeSet<_>>().len(), ports.len(), "{ports:?}");
    Ok(())
}

#[tokio::test]
async fn service_proxy_reaches_loopback() -> Result<()> {
    let cluster = shared().await?;
    let namespace = cluster.namespace("proxy").await?;
    assert_eq!(ask_through_proxy(cluster, &namespace, "web").await?, "hello from loopback");
    Ok(())
}

#[tokio::test]
async fn service_proxy_lives_beside_the_controller_manager() -> Result<()> {
    let since = Instant::now();
    let cluster = Cluster::start_with(ClusterOptions { controller_manager: true, ..ClusterOptions::default() }).await?;
    console::Term::stderr().write_line(&format!("cluster with controller-manager up in {:?}", since.elapsed()))?;
    let namespace = cluster.namespace("proxy").await?;
    let service = "
        apiVersion: v1
        kind: Service
        metadata: { name: web }
        spec: { selector: { app: web }, ports: [{ name: http, port: 8080, targetPort: named }] }";
    let args = ["--namespace", &namespace, "create", "--filename=-"];
    cluster.kubectl_as(cluster.kubeconfig(), &args, service).await?.success()?;
    assert_eq!(ask_through_proxy(&cluster, &namespace, "web").await?, "hello from loopback");
    // The one that was published last is the one that answers.
    assert_eq!(ask_through_proxy(&cluster, &namespace, "web").await?, "hello from loopback");
    Ok(())
}

/// Publishes a little server as the Service and asks it by way of the API server.
async fn ask_through_proxy(cluster: &Cluster, namespace: &str, service: &str) -> Result<String> {
    let (listener, loopback_port) = listen()?;
    let _serving = Background::run("hello", || async {
        let app = Router::new().route("/v1/hello", get(|| async { "hello from loopback" }));
        Ok(axum::serve(tokio::net::TcpListener::from_std(listener)?, app).await?)
    })?;
    cluster.publish_service(namespace, service, PublishedPort { name: "http", port: 8080, loopback_port }).await?;
    let path = format!("/api/v1/namespaces/{namespace}/services/http:{service}:http/proxy/v1/hello");
    Tool::Kubectl.path().await?; // built now, and not while it is waited for
    // The API server learns of Endpoints by watching, so its first answer may be that there are none.
    eventually("the service proxy to answer", SOON, || async {
        Ok(Some(cluster.kubectl(&["get", "--raw", &path]).await?))
    })
    .await
}

#[tokio::test]
async fn service_account_may_what_rbac_lets_it() -> Result<()> {
    let cluster = shared().await?;
    let namespace = cluster.namespace("rbac").await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.admin().await?, &namespace);
    let metadata = ObjectMeta { name: Some("robot".to_owned()), ..ObjectMeta::default() };
    accounts.create(&PostParams::default(), &ServiceAccount { metadata, ..ServiceAccount::default() }).await?;
    let kubeconfig = cluster.kubeconfig_for_service_account(&namespace, "robot").await?;
    let secrets: Api<Secret> = Api::namespaced(cluster.client_for(&kubeconfig).await?, &namespace);

    let refused = secrets.list(&ListParams::default()).await;
    assert!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 403), "{refused:?}");

    let account = format!("--serviceaccount={namespace}:robot");
    cluster.kubectl(&["-n", &namespace, "create", "role", "reader", "--verb=list", "--resource=secrets"]).await?;
    cluster.kubectl(&["-n", &namespace, "create", "rolebinding", "robot", "--role=reader", &account]).await?;
    eventually("the binding to count", SOON, || async { Ok(Some(secrets.list(&ListParams::default()).await?)) })
        .await?;
    Ok(())
}

#[tokio::test]
async fn guardian_cleans_up_after_sigkill() -> Result<()> {
    guardian_cleans_up_after(Signal::KILL).await
}

#[tokio::test]
async fn guardian_cleans_up_after_ctrl_c() -> Result<()> {
    guardian_cleans_up_after(Signal::INT).await
}

async fn guardian_cleans_up_after(signal: Signal) -> Result<()> {
    // It may wait for them as long as they take to build, and for its cluster as long as any test does.
    for tool in [Tool::Etcd, Tool::ApiServer] {
        tool.path().await?;
    }
    let scratch = Arc::new(Scratch::new("signet-victim-")?);
    let told = scratch.path().join("told");
    let mut victim = Command::new(env::current_exe()?);
    victim.args(["--exact", "harness_works::victim", "--ignored"]).env(VICTIM, &told);
    let victim = Process::start(&scratch, "victim", &mut victim)?;
    let (server, dir) = eventually("the victim to have a cluster", Duration::from_mins(10), || async {
        let words = fs::read_to_string(&told)?;
        let (server, dir) = words.trim_end().split_once(' ').context("half a line")?;
        Ok(Some((server.to_owned(), PathBuf::from(dir))))
    })
    .await?;
    assert!(runs(&server)? && dir.exists());

    victim.signal(signal)?;

    eventually("the API server to be gone", SOON, || async { Ok((!runs(&server)?).then_some(())) }).await?;
    eventually("the folder to be gone", SOON, || async { Ok((!dir.exists()).then_some(())) }).await
}

/// Keeps a cluster in a static until it is killed.
#[tokio::test]
#[ignore = "guardian_cleans_up_after starts it, to kill it"]
async fn victim() -> Result<()> {
    let Some(told) = env::var_os(VICTIM) else { return Ok(()) };
    let cluster = shared().await?;
    let dir = cluster.scratch().path().display().to_string();
    let unfinished = Path::new(&told).with_extension("unfinished");
    fs::write(&unfinished, format!("{} {dir}\n", cluster.api_server_id().await))?;
    fs::rename(unfinished, told)?;
    // Dies of Ctrl-C also where that is ignored from the start, as for a job in the background; without any clean-up.
    tokio::signal::ctrl_c().await?;
    std::process::exit(130)
}

/// Whether the process runs; one that nobody has reaped yet runs no more.
fn runs(id: &str) -> Result<bool> {
    let state = Command::new("ps").args(["-o", "stat=", "-p", id]).output()?.stdout;
    Ok(!state.trim_ascii().is_empty() && !state.trim_ascii().starts_with(b"Z"))
}

#[tokio::test]
async fn a_process_is_asked_to_end_and_says_how_it_did() -> Result<()> {
    let scratch = Arc::new(Scratch::new("signet-process-")?);
    let polite = "trap 'echo bye; exit 7' TERM; echo hello; while :; do sleep 0.05; done";
    let process = Process::start(&scratch, "polite", Command::new("sh").args(["-c", polite]))?;
    eventually("its first word", SOON, || async { Ok(process.logs()?.contains("hello").then_some(())) }).await?;
    process.ensure_running()?;
    assert_eq!(process.terminate(SOON).await?.code(), Some(7));
    assert_eq!(process.logs()?, "hello\nbye\n");
    let error = process.ensure_running().err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("polite ended") && error.contains("bye"), "{error}");
    Ok(())
}

#[tokio::test]
async fn waiting_in_vain_says_for_what_and_why() {
    let waited = eventually::<(), _, _>("rain", Duration::from_millis(1), || async { anyhow::bail!("blue sky") }).await;
    let error = waited.err().map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(error.contains("for rain") && error.contains("blue sky"), "{error}");
}
