//! The composition root: clients, shared context, what runs beside what, and how it ends. Makes no decisions.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::http::Uri;
use crds::{GitSync, SealedSecret, key_life::Policy};
use futures::{Stream, TryFutureExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config, Resource,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    args::{ApiArgs, Args, HttpArgs, KeyArgs, SyncArgs},
    audit::Audit,
    context::{Context, Ended, SealedSecrets},
    events::Events,
    exit::StartError,
    health::LOOP,
    http::{self, Endpoints, Gate, Hooks, Rate, Timeouts},
    keys::{self, Keeper},
    lead::{Candidate, Role, Roles},
    metrics::Metrics,
    pace::Pace,
    pulse::Pulses,
    skew,
    sync::{self, Builder, Git, Hands, Mirrors, Remote},
    unseal::{self, namespaces::Namespaces},
};

/// Time for what is under way to come to its end, once the controller is told to. What takes longer is broken off
/// between two requests, and taken up by the next leader.
const DRAIN: Duration = Duration::from_secs(5);
/// Time after that to give the Lease back and to answer who has asked. A Pod gets 30 s for all.
const CLOSE: Duration = Duration::from_secs(5);
/// Where a container finds how much memory it has: the newer cgroups, and the older.
const MEMORY_LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// What runs side by side.
type Parts = JoinSet<anyhow::Result<()>>;

/// Runs until SIGTERM or Ctrl-C.
pub async fn run(args: Args) -> anyhow::Result<()> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "Starting signet-controller");
    let stop = stop_on_signal()?;
    let renew = renewals()?;
    let args = settled(args);
    let times = args.lead.times().map_err(StartError::Usage)?;
    let (config, namespace) = configure(&args.api).await?;
    let metrics = Metrics::new(Timestamp::now());
    let pace = Pace::new(args.api.kubeclient_qps, args.api.kubeclient_burst, metrics.clone());
    let client = pace.of(config.clone()).map_err(StartError::Connection)?;

    let (listed, is_listed) = watch::channel(false);
    let audit = Audit::default();
    let keeper = Keeper::new(
        client.clone(),
        pace.of(fleeting(config.clone())?).context("cannot make a client for the key Secrets")?,
        key_options(args.keys, namespace.clone()),
        Events::new(client.clone(), "sealed-secrets"),
        metrics.clone(),
        audit.clone(),
    );
    let (sealed, pulses) = (SealedSecrets::default(), Pulses::default());
    let (ring, lost) = (keeper.ring(), CancellationToken::new());
    let shared = Context { client: client.clone(), ring, sealed, metrics, pulses: pulses.clone(), lost, audit };
    let options = args.unseal.options(&namespace);
    let single = options.namespaces.are_single();
    let follows = args.sync.git_sync.unwrap_or(!single);
    if follows && single {
        let why = "GitSyncs are followed in all namespaces or not at all: leave --git-sync out, or watch all";
        return Err(StartError::Usage(why.to_owned()).into());
    }
    let mut endpoints = endpoints(&args.http, &options, &shared, is_listed, stop.clone());
    endpoints.hooks = follows.then(|| Hooks::new(client.clone()));
    let timeouts = endpoints.timeouts;

    // HTTP first: a probe that waits for the first key must find somebody to ask.
    let mut servers = JoinSet::new();
    let listener = http::bind(args.http.listen_addr).await?;
    let metrics_listener = http::bind(args.http.listen_metrics_addr).await?;
    tracing::info!(address = %listener.local_addr()?, metrics = %metrics_listener.local_addr()?, "serving HTTP");
    let serving = CancellationToken::new();
    servers.spawn(served("http", http::serve(listener, http::main_routes(&endpoints), timeouts, serving.clone())));
    servers.spawn(served(
        "metrics",
        http::serve(metrics_listener, http::metrics_routes(endpoints), timeouts, serving.clone()),
    ));

    let server = config.cluster_url.clone();
    let there = async {
        let client = || client.clone();
        let sealed: Api<SealedSecret> = if single { Api::namespaced(client(), &namespace) } else { Api::all(client()) };
        require(sealed, &server, options.label_selector.as_deref(), single).await?;
        if let Namespaces::Selected(selector) = &options.namespaces {
            require::<Namespace>(Api::all(client()), &server, Some(selector), false).await?;
        }
        if follows { require::<GitSync>(Api::all(client()), &server, None, false).await } else { Ok(()) }
    };
    // An API server that says nothing keeps nobody from ending this.
    let Some(there) = stop.run_until_cancelled(there).await else { return Ok(()) };
    there?;
    let role = Arc::new(watch::Sender::default());
    let pulse = |name| pulses.begin(name, "", LOOP);
    let keeping = pulse("keys").scope(keeper.run(renew, role.subscribe(), serving.clone()));
    servers.spawn(forever("keys", keeping, serving.clone()));
    if args.lead.leader_elect {
        let candidate = Candidate::new(client.clone(), &namespace, identity(args.lead.identity), times);
        let standing = pulse("lead").scope(candidate.run(role.clone(), serving.clone()));
        servers.spawn(standing.map_err(anyhow::Error::from));
    } else {
        role.send_replace(Role::Leading);
    }
    let sync = follows.then(|| git(args.sync, config, &client, &pace, &namespace)).transpose()?;
    tokio::spawn(skew::look(client, follows));
    let work = Work { shared, options, listed, sync };
    let mut workers = JoinSet::new();
    workers.spawn(work.run(role.subscribe(), stop.clone()));
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        Some(ended) = workers.join_next() => outcome(ended),
        Some(ended) = servers.join_next() => outcome(ended),
    };
    tracing::info!("stopping: ending what is under way");
    stop.cancel();
    close(workers, servers, &serving).await;
    ended
}

/// Ends what works, and then what it needs: keys, HTTP and the Lease are kept until nobody works any more.
async fn close(mut workers: Parts, mut servers: Parts, serving: &CancellationToken) {
    if tokio::time::timeout(DRAIN, all(&mut workers)).await.is_err() {
        tracing::warn!("not everything ended in time; it will be taken up at the next start");
    }
    let closed = async {
        workers.shutdown().await;
        serving.cancel();
        all(&mut servers).await;
    };
    if tokio::time::timeout(CLOSE, closed).await.is_err() {
        tracing::warn!(
            "somebody who asked gets no answer, or the Lease was not given back; another takes it when its time is over"
        );
    }
}

async fn all(parts: &mut Parts) {
    while parts.join_next().await.is_some() {}
}

/// What the leader does.
struct Work {
    shared: Context,
    options: unseal::Options,
    listed: watch::Sender<bool>,
    /// None where nothing of Git is followed.
    sync: Option<Git>,
}

impl Work {
    /// Works while this replica leads, and no longer. Ends with `stop`, or when a part fails.
    async fn run(self, mut roles: Roles, stop: CancellationToken) -> anyhow::Result<()> {
        while !stop.is_cancelled() {
            let role = *roles.borrow_and_update();
            // One that follows has nothing to list before it is ready.
            self.listed.send_replace(role == Role::Following);
            self.shared.metrics.leading.set(i64::from(role == Role::Leading));
            let (term, lost) = (stop.child_token(), CancellationToken::new());
            let mut parts = if role == Role::Leading { self.start(&term, &lost) } else { JoinSet::new() };
            let ended = tokio::select! {
                () = stop.cancelled() => Ok(()),
                changed = roles.changed() => changed.context("nobody says who leads"),
                Some(ended) = parts.join_next() => outcome(ended),
            };
            term.cancel();
            tokio::select! {
                () = all(&mut parts) => {}
                // Whoever holds the Lease now does what is under way here.
                _ = roles.wait_for(|role| *role != Role::Leading) => lost.cancel(),
            }
            all(&mut parts).await;
            ended?;
        }
        Ok(())
    }

    fn start(&self, stop: &CancellationToken, lost: &CancellationToken) -> Parts {
        let mut parts = JoinSet::new();
        let (sealed_changed, changes) = mpsc::unbounded_channel();
        let tell = move |sealed: &_| {
            // Nobody listens when the sync is off.
            let _ = sealed_changed.send(sync::owner(sealed));
        };
        let Self { shared, options, listed, sync } = self;
        let shared = Context { lost: lost.clone(), ..shared.clone() };
        let unsealing = unseal::run(shared.clone(), options.clone(), Arc::new(tell), listed.clone(), stop.clone());
        parts.spawn(forever("unseal", unsealing, stop.clone()));
        if let Some(git) = sync {
            let syncing = sync::run(shared, git.clone(), changes, stop.clone());
            parts.spawn(forever("sync", syncing, stop.clone()));
        }
        parts
    }
}

/// What Git is reached, rendered and written with.
fn git(args: SyncArgs, config: Config, client: &Client, pace: &Pace, namespace: &str) -> anyhow::Result<Git> {
    let account = format!("system:serviceaccount:{namespace}:{}", args.sync_service_account);
    let timeout = args.git_timeout.unsigned_abs();
    let search = std::env::var_os("PATH");
    let container = MEMORY_LIMITS.iter().find_map(|file| fs::read_to_string(file).ok());
    let container = container.as_deref().and_then(sync::memory::limit);
    let programs = (args.kustomize.as_path(), args.helm.as_path());
    let builder = Builder::new(&args.git_cache, programs, search.as_deref(), args.render_memory, container);
    let mirrors = Mirrors::new(args.git_cache, args.git_file_root, timeout, args.git_max_size);
    let own = pace.of(impersonate(config, &account)?);
    let own = (own.with_context(|| format!("cannot make a client that impersonates {account}"))?, account);
    let hands = Hands::new(own, client.clone(), args.default_service_account);
    let remote = Remote { pace: pace.clone(), insecure: args.insecure_kubeconfig_tls };
    Ok(Git { hands, remote, mirrors: mirrors.into(), builder: builder.into() })
}

/// The name of this replica: the Pod's, which in a Pod is the host's.
fn identity(given: Option<String>) -> String {
    given.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

/// A part that may end only when told to.
async fn forever(name: &'static str, part: impl Future<Output = ()>, stop: CancellationToken) -> anyhow::Result<()> {
    part.await;
    if stop.is_cancelled() {
        return Ok(());
    }
    anyhow::bail!("{name} ended by itself")
}

/// What became of a part.
fn outcome(ended: Result<anyhow::Result<()>, JoinError>) -> anyhow::Result<()> {
    ended.map_err(Ended::from).context("a part of the controller failed").flatten()
}

async fn served(name: &'static str, part: impl Future<Output = std::io::Result<()>>) -> anyhow::Result<()> {
    part.await.with_context(|| format!("{name} failed"))
}

fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let told = stop.clone();
    let mut term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}

/// SIGUSR1 asks for a new key now, as upstream has it.
fn renewals() -> anyhow::Result<impl Stream<Item = ()> + Send> {
    let asked = signal(SignalKind::user_defined1()).context("cannot listen for SIGUSR1")?;
    Ok(stream::unfold(asked, |mut asked| async move { asked.recv().await.map(|()| ((), asked)) }))
}

/// What was typed for an older version, as this one has it; and a word about it.
fn settled(mut args: Args) -> Args {
    if let Some(period) = args.keys.rotate_period.take() {
        tracing::warn!("--rotate-period is deprecated: use --key-renew-period");
        args.keys.key_renew_period = period;
    }
    if !args.keys.watch_for_secrets {
        tracing::warn!("--watch-for-secrets=false has no effect: the key Secrets are always watched");
    }
    args
}

fn key_options(args: KeyArgs, namespace: String) -> keys::Options {
    keys::Options {
        namespace,
        prefix: args.key_prefix,
        order: args.key_order_priority.into(),
        policy: Policy { period: args.key_renew_period, cutoff: args.key_cutoff_time, first: !args.wait_for_keys },
        bits: args.key_size,
        lifetime: args.key_ttl,
        common_name: args.my_cn,
        annotations: args.privatekey_annotations,
        labels: args.privatekey_labels,
    }
}

fn endpoints(
    args: &HttpArgs,
    options: &unseal::Options,
    shared: &Context,
    listed: watch::Receiver<bool>,
    stopping: CancellationToken,
) -> Endpoints {
    Endpoints {
        ring: shared.ring.clone(),
        metrics: shared.metrics.clone(),
        sealed: shared.sealed.clone(),
        listed,
        omit_names: args.metrics_omit_secret_labels,
        timeouts: Timeouts { read: args.read_timeout.unsigned_abs(), write: args.write_timeout.unsigned_abs() },
        rate: Rate { per_second: args.rate_limit, burst: args.rate_limit_burst },
        accept_deprecated: options.accept_deprecated,
        gate: args.authenticate.then(|| Gate::new(shared.client.clone())),
        hooks: None,
        pulses: shared.pulses.clone(),
        stopping,
    }
}

/// The API server to talk to, and the controller's own namespace.
async fn configure(args: &ApiArgs) -> Result<(Config, String), StartError> {
    let config = match &args.kubeconfig {
        Some(path) => from_file(path).await?,
        None => Config::incluster().map_err(StartError::NoPod)?,
    };
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    Ok((config, namespace))
}

async fn from_file(path: &Path) -> Result<Config, StartError> {
    let read = async {
        let kubeconfig = Kubeconfig::read_from(path)?;
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await
    };
    read.await.map_err(|error| StartError::kubeconfig(path, &error))
}

/// For a client that closes each connection after its answer.
fn fleeting(mut config: Config) -> anyhow::Result<Config> {
    config.headers.push(("connection".parse()?, "close".parse()?));
    Ok(config)
}

/// For a client that writes with another account's rights.
fn impersonate(mut config: Config, account: &str) -> anyhow::Result<Config> {
    config.headers.push(("impersonate-user".parse()?, account.parse()?));
    Ok(config)
}

/// A missing definition or right is told at once, with what to do about it.
async fn require<K>(api: Api<K>, server: &Uri, labels: Option<&str>, single: bool) -> Result<(), StartError>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut one = ListParams::default().limit(1);
    one.label_selector = labels.map(str::to_owned);
    match api.list_metadata(&one).await {
        // A right that one namespace lacks is no reason to end: its watch says so, and goes on trying.
        Err(kube::Error::Api(status)) if status.code == 403 && single => Ok(()),
        answer => answer.map(drop).map_err(|error| StartError::list(&K::plural(&()), server, &error)),
    }
}

#[cfg(test)]
mod tests {
    use crds::yaml;

    use super::*;
    use crate::traces;

    /// A Pod that is told to end gets half as much time again, before the kubelet kills it.
    #[test]
    fn a_pod_gets_the_time_that_ending_takes() {
        let mut deployments = 0;
        for document in yaml::documents(include_str!("../../deploy/install.yaml")) {
            let object = document.value.unwrap();
            if object["kind"] == "Deployment" {
                let grace = object["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap();
                assert!(Duration::from_secs(grace) >= (DRAIN + CLOSE + traces::FLUSH) * 3 / 2, "{grace} s");
                deployments += 1;
            }
        }
        assert_eq!(deployments, 1);
    }
}
