//! Whether the time that an endpoint takes tells why something does not open. Nobody is judged by it: a network and a
//! busy machine hide more than there is, and what there is may be nothing that verify does not say openly.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use crds::{Certificate, Scope, base64, seal};
use harness::{Controller, ControllerOptions};
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};

use crate::{
    figures::seconds,
    load::{Keys, Stage},
    phase,
    table::Row,
};

/// Requests of each kind. Enough to see some 20 µs on a machine that does nothing else.
const ROUNDS: usize = 400;
/// The slowest part is left out: it is the machine's.
const COUNTED: usize = ROUNDS * 9 / 10;

/// How the refusals of each kind compare with the first.
pub async fn measure(keys: &Keys) -> Result<Vec<Row>> {
    let stage = Stage::set(keys, 1).await?;
    let kinds = kinds(keys)?;
    let what = format!("{ROUNDS} requests of each kind that do not open");
    let times = phase(&stage.cluster, what, ask(&stage, &kinds)).await?;
    let counted: Vec<Sample> = times.into_iter().map(Sample::of).collect();
    let first = counted.first().context("kinds")?;
    let row = |((kind, _), sample): (&(&str, String), &Sample)| Row {
        work: format!("verify refuses: {kind}"),
        ratio: format!("t = {:.1}", sample.welch(first)),
        to_reach: "|t| < 4.5",
        signet: format!("{} median", seconds_fine(sample.median)),
        ..Row::default()
    };
    Ok(kinds.iter().zip(&counted).map(row).collect())
}

/// How long each answer to each kind took. Asks in an order that chance makes, so that what changes in between changes
/// for all.
async fn ask(stage: &Stage, kinds: &[(&'static str, String)]) -> Result<Vec<Vec<Duration>>> {
    let flags = ["--rate-limit=100000", "--rate-limit-burst=100000"].map(str::to_owned).to_vec();
    let options = ControllerOptions { args: flags, ..ControllerOptions::default() };
    let controller = Controller::start_with(&stage.cluster, options).await?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let url = controller.url("/v1/verify");
    let mut times = vec![Vec::with_capacity(ROUNDS); kinds.len()];
    let mut order: Vec<usize> = (0..kinds.len()).collect();
    for _ in 0..ROUNDS {
        order.shuffle(&mut rand::rng());
        for &kind in &order {
            let request = http.post(&url).body(kinds[kind].1.clone());
            let since = Instant::now();
            let answer = request.send().await?;
            let code = answer.status().as_u16();
            answer.bytes().await?;
            times[kind].push(since.elapsed());
            ensure!(code == 409, "{} was answered with {code}", kinds[kind].0);
        }
    }
    Ok(times)
}

/// Objects that do not open, and why; the first is what the others are compared with.
fn kinds(keys: &Keys) -> Result<Vec<(&'static str, String)>> {
    let (_, own) = keys.newest()?;
    let (_, stranger) = keys.oldest()?;
    let good = sealed(own)?;
    let mut label = good.clone();
    label["metadata"]["name"] = json!("other");
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut object = good.clone();
        let text = object["spec"]["encryptedData"]["a"].as_str().context("the item")?;
        let mut blob = base64::decode(text).context("base64")?;
        change(&mut blob);
        object["spec"]["encryptedData"]["a"] = json!(base64::encode(&blob));
        anyhow::Ok(object.to_string())
    };
    Ok(vec![
        ("wrong key", sealed(stranger)?.to_string()),
        // Against itself, to see what chance makes.
        ("wrong key, again", sealed(stranger)?.to_string()),
        ("wrong label", label.to_string()),
        ("wrong padding", changed(&|blob| blob[100] ^= 1)?),
        ("corrupted value", changed(&|blob| blob.iter_mut().rev().take(1).for_each(|byte| *byte ^= 1))?),
    ])
}

fn sealed(certificate: &Certificate) -> Result<Value> {
    let secret = json!({"metadata": {"name": "db", "namespace": "shop"}, "stringData": {"a": "x".repeat(64)}});
    let sealed = seal::secret(&serde_json::from_value(secret)?, Scope::Strict, certificate, &mut rand::rng())?;
    Ok(serde_json::to_value(sealed)?)
}

struct Sample {
    median: Duration,
    mean: f64,
    /// Of the mean.
    variance: f64,
}

impl Sample {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let counted: Vec<f64> = times.iter().take(COUNTED).map(Duration::as_secs_f64).collect();
        #[allow(clippy::cast_precision_loss, reason = "a few hundred")]
        let count = counted.len() as f64;
        let mean = counted.iter().sum::<f64>() / count;
        let spread = counted.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        Self { median: times[times.len() / 2], mean, variance: spread / count }
    }

    /// Welch's t: beyond 4.5 hardly chance.
    fn welch(&self, other: &Self) -> f64 {
        (self.mean - other.mean) / (self.variance + other.variance).sqrt().max(f64::MIN_POSITIVE)
    }
}

fn seconds_fine(time: Duration) -> String {
    if time < Duration::from_millis(100) { format!("{:.3} ms", time.as_secs_f64() * 1000.0) } else { seconds(time) }
}
