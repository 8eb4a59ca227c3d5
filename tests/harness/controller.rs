//! The controller as a process beside the test, in the rights of its ServiceAccount and with nothing of ours in its
//! environment: what RBAC forbids in production fails here too. It must not know what the controller does.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use tokio::sync::Mutex;

pub use crate::process::Signal;
use crate::{
    Cluster, background::free_port, binaries, metrics, process::Process, publish::PublishedPort, scratch::Scratch,
    wait::eventually,
};

/// Its first key costs a second or more in an unoptimised build, and a minute on a machine that builds beside it.
const READY: Duration = Duration::from_mins(5);

/// What a Pod gets between SIGTERM and SIGKILL is 30 s; we promise to need less.
const END: Duration = Duration::from_secs(25);

/// How a controller is started; the defaults are those of `deploy/`.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// Where it runs, keeps its keys, and has its ServiceAccount and Service.
    pub namespace: String,
    /// Whose rights it has; must exist, as after [`Cluster::deploy`].
    pub service_account: String,
    /// The Service that shall lead to it; none to leave that alone.
    pub service: Option<String>,
    /// Another address of the API server, such as a [`crate::Gate`]'s; none for its own.
    pub server: Option<String>,
    /// Another program with the same flags, such as another release; none for the workspace's own.
    pub program: Option<PathBuf>,
    /// More flags than the Deployment has.
    pub args: Vec<String>,
    /// More of the environment than the Deployment has.
    pub env: Vec<(String, String)>,
    /// Whether `start` and `restart` wait for /readyz.
    pub wait_until_ready: bool,
}

impl Default for ControllerOptions {
    fn default() -> Self {
        Self {
            namespace: "kube-system".to_owned(),
            service_account: "sealed-secrets-controller".to_owned(),
            service: Some("sealed-secrets-controller".to_owned()),
            server: None,
            program: None,
            args: Vec::new(),
            env: Vec::new(),
            wait_until_ready: true,
        }
    }
}

impl ControllerOptions {
    /// Whose Lease is soon over, for a test in which another waits for that.
    pub fn hasty() -> Self {
        let times = [("lease-duration", "4s"), ("renew-deadline", "2500ms"), ("retry-period", "500ms")];
        let args = times.map(|(name, value)| format!("--leader-election-{name}={value}"));
        Self { args: args.into(), ..Self::default() }
    }
}

fn git_cache(name: &str) -> String {
    format!("{name}-git")
}

/// A controller; killed when dropped.
pub struct Controller {
    name: String,
    options: ControllerOptions,
    program: PathBuf,
    args: Vec<String>,
    port: u16,
    metrics_port: u16,
    process: Mutex<Process>,
    scratch: Arc<Scratch>,
}

impl Controller {
    /// As `deploy/` would run it, ready and behind its Service.
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        Self::start_with(cluster, ControllerOptions::default()).await
    }

    /// In another way.
    pub async fn start_with(cluster: &Cluster, mut options: ControllerOptions) -> Result<Self> {
        static STARTED: AtomicUsize = AtomicUsize::new(1);
        let name = format!("controller-{}", STARTED.fetch_add(1, Ordering::Relaxed));
        let program = match &options.program {
            Some(program) => program.clone(),
            None => binaries::signet_controller().await?,
        };
        let server = options.server.as_deref().unwrap_or(cluster.server());
        let kubeconfig = cluster.kubeconfig_through(server, &options.namespace, &options.service_account).await?;
        let scratch = Arc::clone(cluster.scratch());
        let (port, metrics_port) = (free_port()?, free_port()?);
        let mut args = vec![
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--listen-addr=127.0.0.1:{port}"),
            format!("--listen-metrics-addr=127.0.0.1:{metrics_port}"),
            format!("--git-cache={}", scratch.folder(&git_cache(&name))?.display()),
        ];
        if options.program.is_none() {
            let (flags, variables) = deployed(cluster, &options.namespace, &options.service_account).await?;
            args.extend(flags);
            options.env.splice(0..0, variables);
        }
        args.extend(options.args.iter().cloned());
        let process = Mutex::new(run(&scratch, &name, &program, &args, &options)?);
        let controller = Self { name, options, program, args, port, metrics_port, process, scratch };
        if controller.options.wait_until_ready {
            controller.ready().await?;
        }
        controller.publish(cluster).await?;
        Ok(controller)
    }

    /// The name under which it leads.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Removes its mirrors, into which it may be writing.
    pub async fn forget_mirrors(&self) -> Result<()> {
        let folder = self.scratch.path().join(git_cache(&self.name));
        eventually("the mirrors to go", END, || async {
            for mirror in std::fs::read_dir(&folder)? {
                std::fs::remove_dir_all(mirror?.path())?;
            }
            Ok(Some(()))
        })
        .await
    }

    /// Its process.
    pub async fn id(&self) -> u32 {
        self.process.lock().await.id()
    }

    /// Makes its Service lead to it (and to no other that was published before).
    pub async fn publish(&self, cluster: &Cluster) -> Result<()> {
        let Some(service) = &self.options.service else { return Ok(()) };
        let port = PublishedPort { name: "http", port: 8080, loopback_port: self.port };
        cluster.publish_service(&self.options.namespace, service, port).await
    }

    /// Waits until it answers 200 to /readyz; an error at once when it ends instead.
    pub async fn ready(&self) -> Result<()> {
        let waited = eventually(&format!("{} to be ready", self.name), READY, || async {
            if let Err(ended) = self.process.lock().await.ensure_running() {
                return Ok(Some(Err(ended)));
            }
            get(&self.url("/readyz")).await?;
            Ok(Some(Ok(())))
        })
        .await;
        match waited {
            Ok(ready) => ready,
            Err(error) => Err(error.context(self.logs().await?)),
        }
    }

    /// SIGKILL.
    pub async fn kill(&self) -> Result<ExitStatus> {
        self.process.lock().await.kill()
    }

    /// SIGTERM, and what came of it.
    pub async fn terminate(&self) -> Result<ExitStatus> {
        self.process.lock().await.terminate(END).await
    }

    /// Any other signal, such as `Signal::STOP` for a controller that hangs.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        self.process.lock().await.signal(signal)
    }

    pub async fn is_running(&self) -> Result<bool> {
        Ok(self.process.lock().await.exit_status()?.is_none())
    }

    /// Ends it without warning if it still runs, and starts it again on the same ports.
    pub async fn restart(&self) -> Result<()> {
        let mut process = self.process.lock().await;
        process.kill()?;
        *process = run(&self.scratch, &self.name, &self.program, &self.args, &self.options)?;
        drop(process);
        if self.options.wait_until_ready { self.ready().await } else { Ok(()) }
    }

    /// Everything it has said, over all starts.
    pub async fn logs(&self) -> Result<String> {
        self.process.lock().await.logs()
    }

    /// All that it counts, as Prometheus would read it.
    pub async fn metrics(&self) -> Result<String> {
        get(&format!("http://127.0.0.1:{}/metrics", self.metrics_port)).await
    }

    /// The sum over the series of one metric; with the beginning of its labels (`name{a="b"`), over those alone.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        metrics::sum(&self.metrics().await?, name)
    }

    /// Where it serves `path` itself, without the API server between.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

/// The flags and the environment that the Deployment gives it, if there is one; not what comes from the Pod.
pub async fn deployed(cluster: &Cluster, namespace: &str, name: &str) -> Result<(Vec<String>, Vec<(String, String)>)> {
    let deployments = Api::<Deployment>::namespaced(cluster.admin().await?, namespace);
    let deployment = deployments.get_opt(name).await?;
    let pod = deployment.and_then(|deployment| deployment.spec?.template.spec);
    let container = pod.and_then(|pod| pod.containers.into_iter().next()).unwrap_or_default();
    let variables = container.env.into_iter().flatten().filter_map(|variable| Some((variable.name, variable.value?)));
    Ok((container.args.unwrap_or_default(), variables.collect()))
}

fn run(
    scratch: &Arc<Scratch>,
    name: &str,
    program: &Path,
    args: &[String],
    options: &ControllerOptions,
) -> Result<Process> {
    let mut command = Command::new(program);
    command.args(args).env_clear().env("HOME", scratch.path());
    // As a Pod knows them from the downward API.
    command.env("POD_NAMESPACE", &options.namespace).env("POD_NAME", name);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.envs(options.env.iter().map(|(name, value)| (name, value)));
    Process::start(scratch, name, &mut command)
}

/// The body of a 2xx answer.
async fn get(url: &str) -> Result<String> {
    crate::install_crypto();
    let client = reqwest::Client::builder().no_proxy().timeout(END).build()?;
    Ok(client.get(url).send().await?.error_for_status()?.text().await?)
}
