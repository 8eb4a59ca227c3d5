//! The servers of one cluster as upstream builds them: etcd, kube-apiserver and, when asked for,
//! kube-controller-manager; flags and start-up only. Nothing is switched off that a user relies on; what is said here
//! is either needed on loopback or makes the start quicker. No kubelet: Pods never run.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::sync::Mutex;

use crate::{
    ClusterOptions,
    background::free_port,
    certificates::Certificates,
    kubeconfig::{Credentials, render},
    process::{Process, Signal},
    scratch::Scratch,
    tools::Tool,
};

/// The range of Service addresses, and the API server's own in it.
const SERVICE_RANGE: &str = "10.96.0.0/16";
const SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// In the scratch folder.
pub const AUDIT_LOG: &str = "audit.log";

/// GOGC for the API server: start-up is its most busy time, and collecting half as often saves most of a second.
const EASY_GC: &str = "400";

/// Running servers. Dropped in this order, so that none complains about another that went first.
pub struct ControlPlane {
    controller_manager: Option<Process>,
    api_server: Restartable,
    etcd: Restartable,
    /// Where the API server answers.
    pub server: String,
    /// Its CA, PEM.
    pub authority: String,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
}

/// One that may go and come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    ApiServer,
    /// What the API server keeps everything in.
    Etcd,
}

/// A server that is started again as it was: on the same port, with the same data.
struct Restartable {
    name: &'static str,
    program: PathBuf,
    args: Vec<String>,
    environment: &'static [(&'static str, &'static str)],
    process: Mutex<Process>,
    scratch: Arc<Scratch>,
}

impl ControlPlane {
    /// Starts etcd and the API server at once; neither is ready on return. `egress` is the Unix socket that leads to the pods.
    pub async fn start(scratch: &Arc<Scratch>, egress: &Path, options: ClusterOptions) -> Result<Self> {
        let etcd_program = Tool::Etcd.path().await?;
        let api_server_program = Tool::ApiServer.path().await?;
        let (etcd_port, port) = (free_port()?, free_port()?);
        let server = format!("https://127.0.0.1:{port}");
        let certificates = Certificates::mint(SERVICE_IP)?;
        write(scratch, &certificates)?;
        let admin = render(&server, &certificates.authority, &Credentials::Certificate(&certificates.admin), "default");
        let kubeconfig = scratch.file("kubeconfig", admin)?;

        let etcd = Restartable::start(scratch, "etcd", etcd_program, etcd_args(etcd_port), &[])?;
        let api_server_args = api_server_args(scratch, egress, etcd_port, port, options)?;
        let environment = &[("GOGC", EASY_GC)];
        let api_server =
            Restartable::start(scratch, "kube-apiserver", api_server_program, api_server_args, environment)?;
        Ok(Self { controller_manager: None, api_server, etcd, server, authority: certificates.authority, kubeconfig })
    }

    /// Once the API server is ready: it is not waited for longer than 10 s.
    pub async fn start_controller_manager(&mut self, scratch: &Arc<Scratch>) -> Result<()> {
        let program = Tool::ControllerManager.path().await?;
        self.controller_manager = Some(run_controller_manager(scratch, &program, &self.kubeconfig)?);
        Ok(())
    }

    pub fn has_controller_manager(&self) -> bool {
        self.controller_manager.is_some()
    }

    /// The API server's process.
    pub async fn api_server_id(&self) -> u32 {
        self.api_server.process.lock().await.id()
    }

    /// An error with the end of its log when one of them runs no more; etcd is the cause where others ended too.
    pub async fn ensure_running(&self) -> Result<()> {
        for server in [&self.etcd, &self.api_server] {
            server.process.lock().await.ensure_running()?;
        }
        self.controller_manager.as_ref().map_or(Ok(()), Process::ensure_running)
    }

    /// SIGKILL.
    pub async fn stop(&self, server: Server) -> Result<()> {
        self.server(server).process.lock().await.kill().map(drop)
    }

    /// Any other signal.
    pub async fn signal(&self, server: Server, signal: Signal) -> Result<()> {
        self.server(server).process.lock().await.signal(signal)
    }

    /// Starts what was stopped; not ready on return.
    pub async fn resume(&self, server: Server) -> Result<()> {
        let server = self.server(server);
        *server.process.lock().await = server.run()?;
        Ok(())
    }

    fn server(&self, server: Server) -> &Restartable {
        match server {
            Server::ApiServer => &self.api_server,
            Server::Etcd => &self.etcd,
        }
    }
}

impl Restartable {
    fn start(
        scratch: &Arc<Scratch>,
        name: &'static str,
        program: PathBuf,
        args: Vec<String>,
        environment: &'static [(&'static str, &'static str)],
    ) -> Result<Self> {
        let process = Mutex::new(run(scratch, name, &program, &args, environment)?);
        Ok(Self { name, program, args, environment, process, scratch: Arc::clone(scratch) })
    }

    fn run(&self) -> Result<Process> {
        run(&self.scratch, self.name, &self.program, &self.args, self.environment)
    }
}

fn run(
    scratch: &Arc<Scratch>,
    name: &str,
    program: &Path,
    args: &[String],
    environment: &[(&str, &str)],
) -> Result<Process> {
    Process::start(scratch, name, Command::new(program).args(args).env_clear().envs(environment.iter().copied()))
}

/// Puts on disk what the servers read.
fn write(scratch: &Scratch, certificates: &Certificates) -> Result<()> {
    scratch.file("ca.crt", &certificates.authority)?;
    scratch.file("serving.crt", &certificates.serving.certificate)?;
    scratch.file("serving.key", &certificates.serving.key)?;
    scratch.file("service-account.key", &certificates.service_account_key)?;
    scratch.file("service-account.pub", &certificates.service_account_public_key)?;
    Ok(())
}

fn etcd_args(port: u16) -> Vec<String> {
    let client = format!("http://127.0.0.1:{port}");
    let args = ["--data-dir=etcd", "--unsafe-no-fsync", "--log-level=warn", "--listen-peer-urls=http://127.0.0.1:0"];
    let addresses = [format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")];
    args.map(str::to_owned).into_iter().chain(addresses).collect()
}

fn api_server_args(
    scratch: &Scratch,
    egress: &Path,
    etcd_port: u16,
    port: u16,
    options: ClusterOptions,
) -> Result<Vec<String>> {
    let egress = json!({
        "apiVersion": "apiserver.k8s.io/v1beta1",
        "kind": "EgressSelectorConfiguration",
        "egressSelections": [{
            "name": "cluster",
            "connection": { "proxyProtocol": "HTTPConnect", "transport": { "uds": { "udsName": egress } } },
        }],
    });
    scratch.file("egress.json", egress.to_string())?;
    let mut args = vec![
        format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
        format!("--secure-port={port}"),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
    ];
    args.extend(
        [
            "--bind-address=127.0.0.1",
            // The Service `kubernetes` may not lead to loopback, and nobody here takes that way.
            "--endpoint-reconciler-type=none",
            "--authorization-mode=RBAC",
            "--client-ca-file=ca.crt",
            "--tls-cert-file=serving.crt",
            "--tls-private-key-file=serving.key",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--service-account-key-file=service-account.pub",
            "--service-account-signing-key-file=service-account.key",
            "--egress-selector-config-file=egress.json",
            "--allow-privileged=true",
            "--profiling=false",
        ]
        .map(str::to_owned),
    );
    if !options.controller_manager {
        // It demands the ServiceAccount `default` for every Pod, and nobody makes one.
        args.push("--disable-admission-plugins=ServiceAccount".to_owned());
    }
    if options.audit {
        let controllers = ["system:serviceaccounts:kube-system"];
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [
                { "level": "Metadata", "userGroups": controllers, "resources": [{ "resources": ["secrets"] }] },
                { "level": "RequestResponse", "userGroups": controllers },
                { "level": "None" },
            ],
        });
        scratch.file("audit-policy.json", policy.to_string())?;
        args.push("--audit-policy-file=audit-policy.json".to_owned());
        args.push(format!("--audit-log-path={AUDIT_LOG}"));
    }
    Ok(args)
}

fn run_controller_manager(scratch: &Arc<Scratch>, program: &Path, kubeconfig: &Path) -> Result<Process> {
    let mut command = Command::new(program);
    command
        .env_clear()
        .args(["--leader-elect=false", "--secure-port=0", "--root-ca-file=ca.crt"])
        .arg("--service-account-private-key-file=service-account.key")
        // They name a Pod's Node in its Endpoints, and there are no Nodes: `publish` plays their part.
        .arg("--controllers=*,-endpoints-controller,-endpointslice-controller")
        .arg(format!("--kubeconfig={}", kubeconfig.display()));
    Process::start(scratch, "kube-controller-manager", &mut command)
}

/// The log of one of the servers, by program name.
pub fn log(scratch: &Scratch, program: &str) -> Result<String> {
    let path = scratch.path().join(format!("{program}.log"));
    fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))
}
