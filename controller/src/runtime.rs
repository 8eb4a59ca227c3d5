//! The composition root: clients, shared context, what runs beside what, and how it ends. Makes no decisions.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use crds::{GitSync, SealedSecret, key_life::Policy};
use futures::{Stream, stream};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Config, Resource,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    args::{ApiArgs, Args, HttpArgs, KeyArgs},
    context::{Context, SealedSecrets},
    events::Events,
    http::{self, Endpoints, Gate, Hooks, Rate, Timeouts},
    keys::{self, Keeper},
    lead::{Candidate, Role, Roles},
    metrics::Metrics,
    pace::Pace,
    sync::{self, Builder, Git, Hands, Mirrors},
    unseal,
};

/// Time for what is under way at the end; a Pod gets 30 s in all.
const DRAIN: Duration = Duration::from_secs(8);

/// Runs until SIGTERM or Ctrl-C.
pub async fn run(args: Args) -> anyhow::Result<()> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "Starting signet-controller");
    let stop = stop_on_signal()?;
    let renew = renewals()?;
    let args = settled(args);
    let (config, namespace) = configure(&args.api).await?;
    let metrics = Metrics::new(Timestamp::now());
    let pace = Pace::new(args.api.kubeclient_qps, args.api.kubeclient_burst, metrics.clone());
    let client = pace.of(Client::try_from(config.clone()).context("cannot make a client for the API server")?);

    let (listed, is_listed) = watch::channel(false);
    let keeper = Keeper::new(
        client.clone(),
        pace.of(fleeting(config.clone())?),
        key_options(args.keys, namespace.clone()),
        Events::new(client.clone(), "sealed-secrets"),
        metrics.clone(),
    );
    let shared = Context { client: client.clone(), ring: keeper.ring(), sealed: SealedSecrets::default(), metrics };
    let options = args.unseal.options(&namespace);
    let single = options.namespaces.are_single();
    let follows = args.sync.git_sync.unwrap_or(!single);
    let mut endpoints = endpoints(&args.http, &options, &shared, is_listed)?;
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

    let home = single.then_some(namespace.as_str());
    require::<SealedSecret>(&client, home, options.label_selector.as_deref()).await?;
    let role = Arc::new(watch::Sender::default());
    servers.spawn(forever("keys", keeper.run(renew, role.subscribe(), serving.clone()), serving.clone()));
    if args.api.leader_elect {
        let candidate = Candidate::new(client.clone(), &namespace, identity(args.api.identity));
        servers.spawn(forever("lead", candidate.run(role.clone(), serving.clone()), serving.clone()));
    } else {
        role.send_replace(Role::Leading);
    }
    let sync = match follows {
        true if single => {
            anyhow::bail!("GitSyncs are followed in all namespaces or not at all: leave --git-sync out, or watch all")
        }
        true => {
            require::<GitSync>(&client, None, None).await?;
            let account = format!("system:serviceaccount:{namespace}:{}", args.sync.sync_service_account);
            let timeout = args.sync.git_timeout.try_into().context("--git-timeout is too long")?;
            let search = std::env::var_os("PATH");
            let builder = Builder::new(&args.sync.git_cache, &args.sync.kustomize, &args.sync.helm, search.as_deref());
            let mirrors = Mirrors::new(args.sync.git_cache, args.sync.git_file_root, timeout, args.sync.git_max_size);
            Some(Git {
                hands: Hands::new(
                    pace.of(impersonate(config, &account)?),
                    client.clone(),
                    args.sync.default_service_account,
                ),
                mirrors: mirrors.into(),
                builder: builder.into(),
            })
        }
        false => None,
    };
    let work = Work { shared, options, listed, sync };
    let mut workers = JoinSet::new();
    workers.spawn(work.run(role.subscribe(), stop.clone()));
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        Some(ended) = workers.join_next() => ended.context("a part of the controller panicked").flatten(),
        Some(ended) = servers.join_next() => ended.context("a part of the controller panicked").flatten(),
    };
    tracing::info!("stopping: ending what is under way");
    stop.cancel();
    let drained = async {
        while workers.join_next().await.is_some() {}
        // Keys, HTTP and the Lease are kept until nobody works any more.
        serving.cancel();
        while servers.join_next().await.is_some() {}
    };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::warn!("not everything ended in time; it will be taken up at the next start");
    }
    ended
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
    /// Works while this replica leads. Ends with `stop`, or when a part fails.
    async fn run(self, mut roles: Roles, stop: CancellationToken) -> anyhow::Result<()> {
        while !stop.is_cancelled() {
            let role = *roles.borrow_and_update();
            // One that follows has nothing to list before it is ready.
            self.listed.send_replace(role == Role::Following);
            self.shared.metrics.leading.set(i64::from(role == Role::Leading));
            let term = stop.child_token();
            let mut parts = if role == Role::Leading { self.start(&term) } else { JoinSet::new() };
            let ended = tokio::select! {
                () = stop.cancelled() => Ok(()),
                changed = roles.changed() => changed.context("nobody says who leads"),
                Some(ended) = parts.join_next() => ended.context("a part of the controller panicked").flatten(),
            };
            term.cancel();
            while parts.join_next().await.is_some() {}
            ended?;
        }
        Ok(())
    }

    fn start(&self, stop: &CancellationToken) -> JoinSet<anyhow::Result<()>> {
        let mut parts = JoinSet::new();
        let (sealed_changed, changes) = mpsc::unbounded_channel();
        let tell = move |sealed: &_| {
            // Nobody listens when the sync is off.
            let _ = sealed_changed.send(sync::owner(sealed));
        };
        let Self { shared, options, listed, sync } = self;
        let unsealing = unseal::run(shared.clone(), options.clone(), Arc::new(tell), listed.clone(), stop.clone());
        parts.spawn(forever("unseal", unsealing, stop.clone()));
        if let Some(git) = sync {
            let syncing = sync::run(shared.clone(), git.clone(), changes, stop.clone());
            parts.spawn(forever("sync", syncing, stop.clone()));
        }
        parts
    }
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
) -> anyhow::Result<Endpoints> {
    Ok(Endpoints {
        ring: shared.ring.clone(),
        metrics: shared.metrics.clone(),
        sealed: shared.sealed.clone(),
        listed,
        omit_names: args.metrics_omit_secret_labels,
        timeouts: Timeouts {
            read: args.read_timeout.try_into().context("--read-timeout is too long")?,
            write: args.write_timeout.try_into().context("--write-timeout is too long")?,
        },
        rate: Rate { per_second: args.rate_limit, burst: args.rate_limit_burst },
        accept_deprecated: options.accept_deprecated,
        gate: args.authenticate.then(|| Gate::new(shared.client.clone())),
        hooks: None,
    })
}

/// The API server to talk to, and the controller's own namespace.
async fn configure(args: &ApiArgs) -> anyhow::Result<(Config, String)> {
    let config = match &args.kubeconfig {
        Some(path) => from_file(path).await?,
        None => Config::incluster().context("not running in a Pod; name a kubeconfig with --kubeconfig")?,
    };
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    Ok((config, namespace))
}

async fn from_file(path: &Path) -> anyhow::Result<Config> {
    let what = || format!("cannot use the kubeconfig {}", path.display());
    let kubeconfig = Kubeconfig::read_from(path).with_context(what)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.with_context(what)
}

/// A client that closes each connection after its answer.
fn fleeting(mut config: Config) -> anyhow::Result<Client> {
    config.headers.push(("connection".parse()?, "close".parse()?));
    Client::try_from(config).context("cannot make a client for the key Secrets")
}

/// A client that writes with another account's rights.
fn impersonate(mut config: Config, account: &str) -> anyhow::Result<Client> {
    config.headers.push(("impersonate-user".parse()?, account.parse()?));
    Client::try_from(config).with_context(|| format!("cannot make a client that impersonates {account}"))
}

/// A missing definition or right is told at once, with what to do about it.
async fn require<K>(client: &Client, namespace: Option<&str>, labels: Option<&str>) -> anyhow::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let mut one = ListParams::default().limit(1);
    one.label_selector = labels.map(str::to_owned);
    match api.list_metadata(&one).await {
        // A right that one namespace lacks is no reason to end: its watch says so, and goes on trying.
        Err(kube::Error::Api(status)) if status.code == 403 && namespace.is_some() => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 400 => {
            anyhow::bail!("cannot list {}: {}; see --label-selector", K::plural(&()), status.message)
        }
        answer => answer.map(drop).with_context(|| {
            format!("cannot list {}; apply crds/crds.yaml and deploy/install.yaml first", K::plural(&()))
        }),
    }
}
