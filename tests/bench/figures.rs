//! The figures, one function each, and the targets that they are to reach. A figure is a ratio wherever it can be one:
//! to the floor or to another run of the same minute, since seconds say more about the machine than about us.

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use harness::tools::Tool;

use crate::{
    follow,
    load::{Keys, SealedWith, Stage, requests},
    offline, phase, say,
    subject::{Kind, Limits, Subject},
    table::Row,
    timing,
};

/// Clients at once, of which the floor takes the quickest.
pub const CONCURRENCY: [usize; 4] = [4, 8, 16, 32];
/// Keys of a ring after months.
const KEYS: usize = 10;
const FOREIGN_MEBIBYTES: usize = 100;
const MEBIBYTE: f64 = 1024.0 * 1024.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Figure {
    /// One Secret sealed without a cluster
    Seal,
    /// SealedSecrets become Secrets
    Open,
    /// The same with default limits on requests
    Defaults,
    /// A controller starts where all is in place
    Restart,
    /// A new SealedSecret while the controller starts
    New,
    /// Many keys in the ring
    Keys,
    /// Resident memory
    Memory,
    /// What the time of a refusal tells
    Timing,
    /// A repository of 1,010 objects: first, again, after a commit, after an edit
    Sync,
    /// 200 GitSyncs of one large repository
    Monorepo,
    /// 1,000 GitSyncs that Kustomize renders
    Many,
}

/// Those that seal nothing.
const FOLLOWING: [Figure; 3] = [Figure::Sync, Figure::Monorepo, Figure::Many];

impl Figure {
    pub fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }
}

/// What to measure.
pub struct Plan {
    pub figures: Vec<Figure>,
    pub objects: usize,
    pub upstream: bool,
    pub large: bool,
}

impl Plan {
    fn wants(&self, figures: &[Figure]) -> bool {
        figures.iter().any(|figure| self.figures.contains(figure))
    }
}

/// Measures all that the plan wants.
pub async fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let sealing = plan.figures.iter().any(|figure| !FOLLOWING.contains(figure));
    if sealing {
        say("making keys");
    }
    let keys = Keys::mint(if sealing { KEYS } else { 0 }).await?;
    let kinds = if plan.upstream && upstream_is_there().await {
        vec![Kind::Signet, Kind::Upstream]
    } else {
        vec![Kind::Signet]
    };
    let mut rows = Vec::new();
    if plan.wants(&[Figure::Seal]) {
        rows.extend(offline::measure(keys.newest()?).await?);
    }
    if plan.wants(&[Figure::Open, Figure::Restart, Figure::New, Figure::Memory]) {
        rows.extend(life(plan, &keys, &kinds).await?);
    }
    if plan.wants(&[Figure::Defaults]) {
        rows.push(defaults(plan.objects / 10, &keys, &kinds).await?);
    }
    if plan.wants(&[Figure::Keys]) {
        rows.extend(many_keys(plan.objects / 4, &keys, &kinds).await?);
    }
    if plan.wants(&[Figure::Timing]) {
        rows.extend(timing::measure(&keys).await?);
    }
    if plan.wants(&[Figure::Sync]) {
        rows.extend(follow::one_sync().await?);
    }
    if plan.wants(&[Figure::Monorepo]) {
        rows.push(follow::monorepo().await?);
    }
    if plan.wants(&[Figure::Many]) {
        rows.push(follow::many().await?);
    }
    Ok(rows)
}

async fn upstream_is_there() -> bool {
    match Tool::UpstreamController.path().await {
        Ok(_) => true,
        Err(error) => {
            say(format!("upstream is left out: {error:#}"));
            false
        }
    }
}

/// What it took to make every Secret.
#[derive(Clone, Copy)]
struct Opened {
    took: Duration,
    /// Until there was nothing to do any more.
    cpu: Duration,
    requests: f64,
    peak: u64,
}

async fn open(stage: &Stage, count: usize, kind: Kind, limits: Limits) -> Result<(Subject, Opened)> {
    phase(&stage.cluster, format!("{kind:?} opens {count}"), async {
        let asked = async || requests(&stage.client, &["secrets", "sealedsecrets", "events"]).await;
        let before = asked().await?;
        let synced = stage.synced(stage.count());
        let subject = Subject::start(kind, &stage.cluster, limits).await?;
        let took = synced.await?? - subject.since;
        subject.idle().await?;
        let requests = (asked().await? - before) / number(count);
        let opened = Opened { took, cpu: subject.cpu()?, requests, peak: subject.peak()? };
        Ok((subject, opened))
    })
    .await
}

/// The same writes by a bare client, at its best.
async fn floor(count: usize, keys: &Keys) -> Result<(Duration, String)> {
    let mut stage = Stage::set(keys, 1).await?;
    stage.seal(count, keys, SealedWith::Newest).await?;
    let mut best = (Duration::MAX, 0);
    for (round, concurrency) in CONCURRENCY.into_iter().enumerate() {
        let what = format!("the floor of {count} with {concurrency} at once");
        best = best.min((phase(&stage.cluster, what, stage.floor(round, concurrency)).await?, concurrency));
    }
    let (took, concurrency) = best;
    Ok((took, format!("{}, {concurrency} at once", seconds(took))))
}

/// What a controller goes through, in one cluster: it opens, starts again, gets a new object meanwhile, and lives
/// beside large Secrets of others.
struct Life {
    opened: Opened,
    restarted: Duration,
    operations: Option<f64>,
    peak_restarted: u64,
    new_alone: Duration,
    new_beside_all: Duration,
    peak_beside_foreign: u64,
}

async fn life(plan: &Plan, keys: &Keys, kinds: &[Kind]) -> Result<Vec<Row>> {
    let count = plan.objects;
    let floor = if plan.wants(&[Figure::Open]) { Some(floor(count, keys).await?) } else { None };
    let mut lives = Vec::new();
    for kind in kinds {
        lives.push(live(plan, keys, *kind).await?);
    }
    let [signet, upstream @ ..] = &lives[..] else { return Ok(Vec::new()) };
    let upstream = upstream.first();
    let mut rows = Vec::new();
    if let Some((floor, said)) = floor {
        rows.push(Row {
            work: format!("{count} SealedSecrets to Secrets"),
            ratio: times(signet.opened.took, floor, "the floor"),
            to_reach: "1.5 x",
            signet: cost(signet.opened),
            upstream: upstream
                .map(|it| cost(it.opened) + ", " + &times(it.opened.took, floor, "the floor"))
                .unwrap_or_default(),
            floor: said,
        });
        rows.push(Row {
            work: "  API requests for each".to_owned(),
            signet: format!("{:.1}", signet.opened.requests),
            upstream: upstream.map(|it| format!("{:.1}", it.opened.requests)).unwrap_or_default(),
            floor: "2".to_owned(),
            ..Row::default()
        });
    }
    if plan.wants(&[Figure::Restart]) {
        let said = |life: &Life| {
            let operations = life.operations.map(|count| format!(", {count} RSA operations")).unwrap_or_default();
            format!("{} CPU{operations}", seconds(life.restarted))
        };
        rows.push(Row {
            work: format!("start with {count} in place"),
            to_reach: "0.5 s CPU, 0 RSA",
            signet: said(signet),
            upstream: upstream.map(said).unwrap_or_default(),
            ..Row::default()
        });
        if plan.large {
            rows.push(large_restart(count * 10, keys, signet.restarted).await?);
        }
    }
    if plan.wants(&[Figure::New]) {
        let new = |life: &Life| seconds(life.new_beside_all);
        rows.push(Row {
            work: format!("a new one, while starting with {count} in place"),
            ratio: times(signet.new_beside_all, signet.new_alone, "with none"),
            to_reach: "1 x",
            signet: new(signet),
            upstream: upstream
                .map(|it| new(it) + ", " + &times(it.new_beside_all, it.new_alone, "with none"))
                .unwrap_or_default(),
            ..Row::default()
        });
    }
    if plan.wants(&[Figure::Memory]) {
        rows.extend(memory(count, signet, upstream));
    }
    Ok(rows)
}

async fn live(plan: &Plan, keys: &Keys, kind: Kind) -> Result<Life> {
    let count = plan.objects;
    let mut stage = Stage::set(keys, 1).await?;
    let new_alone = if plan.wants(&[Figure::New]) { new_one(&mut stage, keys, kind).await? } else { Duration::ZERO };
    stage.seal(count, keys, SealedWith::Newest).await?;
    let (subject, opened) = open(&stage, count, kind, Limits::Lifted).await?;
    subject.end().await?;

    let (mut restarted, mut operations, mut peak_restarted) = (Duration::ZERO, None, 0);
    if plan.wants(&[Figure::Restart, Figure::Memory]) {
        let subject = started(&stage, kind, format!("{kind:?} starts with {count} in place")).await?;
        (restarted, peak_restarted) = (subject.cpu()?, subject.peak()?);
        operations = if kind == Kind::Signet { Some(subject.rsa_operations().await?) } else { None };
        subject.end().await?;
    }
    let new_beside_all =
        if plan.wants(&[Figure::New]) { new_one(&mut stage, keys, kind).await? } else { Duration::ZERO };
    let mut peak_beside_foreign = 0;
    if plan.wants(&[Figure::Memory]) {
        stage.foreign(FOREIGN_MEBIBYTES).await?;
        let what = format!("{kind:?} starts beside {FOREIGN_MEBIBYTES} MiB of foreign Secrets");
        let subject = started(&stage, kind, what).await?;
        peak_beside_foreign = subject.peak()?;
        subject.end().await?;
    }
    Ok(Life { opened, restarted, operations, peak_restarted, new_alone, new_beside_all, peak_beside_foreign })
}

/// A controller that has found everything in place.
async fn started(stage: &Stage, kind: Kind, what: String) -> Result<Subject> {
    phase(&stage.cluster, what, async {
        let subject = Subject::start(kind, &stage.cluster, Limits::Lifted).await?;
        subject.idle().await?;
        Ok(subject)
    })
    .await
}

/// How long a SealedSecret takes that is made while the controller starts, from that start on.
async fn new_one(stage: &mut Stage, keys: &Keys, kind: Kind) -> Result<Duration> {
    let what = format!("{kind:?} starts with {} in place, and gets a new one", stage.count());
    let synced = stage.synced(stage.count() + 1);
    let subject = phase(&stage.cluster, what, Subject::start(kind, &stage.cluster, Limits::Lifted)).await?;
    stage.seal(1, keys, SealedWith::Newest).await?;
    let took = phase(&stage.cluster, "the new one becomes a Secret", async { synced.await? }).await? - subject.since;
    subject.end().await?;
    Ok(took)
}

async fn large_restart(count: usize, keys: &Keys, of_a_tenth: Duration) -> Result<Row> {
    let mut stage = Stage::set(keys, 1).await?;
    stage.seal(count, keys, SealedWith::Newest).await?;
    open(&stage, count, Kind::Signet, Limits::Lifted).await?.0.end().await?;
    let subject = started(&stage, Kind::Signet, format!("Signet starts with {count} in place")).await?;
    let (cpu, operations) = (subject.cpu()?, subject.rsa_operations().await?);
    Ok(Row {
        work: format!("start with {count} in place"),
        ratio: times(cpu, of_a_tenth, "a tenth"),
        to_reach: "10 x",
        signet: format!("{} CPU, {operations} RSA operations, {}", seconds(cpu), mebibytes(subject.peak()?)),
        ..Row::default()
    })
}

fn memory(count: usize, signet: &Life, upstream: Option<&Life>) -> [Row; 3] {
    let row = |work: String, to_reach: &'static str, peak: fn(&Life) -> u64| Row {
        work,
        to_reach,
        signet: mebibytes(peak(signet)),
        upstream: upstream.map(|it| mebibytes(peak(it))).unwrap_or_default(),
        ..Row::default()
    };
    let beside = ratio(number(signet.peak_beside_foreign), number(signet.peak_restarted), "without");
    [
        row(format!("memory, {count} opened"), "30 MiB", |life| life.opened.peak),
        row(format!("memory, started with {count} in place"), "30 MiB", |life| life.peak_restarted),
        Row {
            ratio: beside,
            ..row(format!("  beside {FOREIGN_MEBIBYTES} MiB of foreign Secrets"), "1.0 x", |life| {
                life.peak_beside_foreign
            })
        },
    ]
}

async fn defaults(count: usize, keys: &Keys, kinds: &[Kind]) -> Result<Row> {
    let (floor, said) = floor(count, keys).await?;
    let mut all = Vec::new();
    for kind in kinds {
        let mut stage = Stage::set(keys, 1).await?;
        stage.seal(count, keys, SealedWith::Newest).await?;
        let (subject, opened) = open(&stage, count, *kind, Limits::Default).await?;
        subject.end().await?;
        all.push(opened);
    }
    Ok(Row {
        work: format!("{count}, with default limits"),
        ratio: times(all[0].took, floor, "the floor"),
        to_reach: "1.5 x",
        signet: cost(all[0]),
        upstream: all.get(1).map(|it| cost(*it) + ", " + &times(it.took, floor, "the floor")).unwrap_or_default(),
        floor: said,
    })
}

async fn many_keys(count: usize, keys: &Keys, kinds: &[Kind]) -> Result<Vec<Row>> {
    const RINGS: [(usize, SealedWith, &str); 3] = [
        (1, SealedWith::Newest, "one key"),
        (KEYS, SealedWith::Newest, "the newest of 10 keys"),
        (KEYS, SealedWith::Oldest, "the oldest of 10 keys"),
    ];
    let mut rows = Vec::new();
    let mut of_one_key = Vec::new();
    for (ring, with, said) in RINGS {
        let mut all = Vec::new();
        for kind in kinds {
            let mut stage = Stage::set(keys, ring).await?;
            stage.seal(count, keys, with).await?;
            let (subject, opened) = open(&stage, count, *kind, Limits::Lifted).await?;
            subject.end().await?;
            all.push(opened);
        }
        let first = ring == 1;
        if first {
            of_one_key.clone_from(&all);
        }
        let compared = |nth: usize| {
            let (opened, one): (&Opened, &Opened) = (all.get(nth)?, of_one_key.get(nth)?);
            Some(times(opened.cpu, one.cpu, "CPU of one key"))
        };
        rows.push(Row {
            work: format!("{count}, sealed with {said}"),
            ratio: if first { String::new() } else { compared(0).unwrap_or_default() },
            to_reach: if first { "" } else { "1.2 x" },
            signet: cost(all[0]),
            upstream: all
                .get(1)
                .map(|it| {
                    let compared = if first { None } else { compared(1) };
                    [Some(cost(*it)), compared].into_iter().flatten().collect::<Vec<_>>().join(", ")
                })
                .unwrap_or_default(),
            ..Row::default()
        });
    }
    Ok(rows)
}

fn cost(opened: Opened) -> String {
    format!("{}, {} CPU", seconds(opened.took), seconds(opened.cpu))
}

pub fn seconds(duration: Duration) -> String {
    match duration.as_secs_f64() {
        long if long >= 10.0 => format!("{long:.0} s"),
        short if short >= 0.1 => format!("{short:.2} s"),
        tiny => format!("{:.1} ms", tiny * 1000.0),
    }
}

pub fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", number(bytes) / MEBIBYTE)
}

pub fn times(this: Duration, that: Duration, name: &str) -> String {
    ratio(this.as_secs_f64(), that.as_secs_f64(), name)
}

fn ratio(this: f64, that: f64, name: &str) -> String {
    format!("{:.2} x {name}", this / that)
}

#[allow(clippy::cast_precision_loss, reason = "figures are shown with three digits")]
fn number(count: impl TryInto<u64>) -> f64 {
    count.try_into().unwrap_or(u64::MAX) as f64
}
