//! What one run of a CLI costs that seals one Secret with a certificate in a file. Many runs, since one is shorter than
//! the kernel's clock ticks.

use std::{
    fs,
    io::{Read as _, Write as _, pipe},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, ensure};
use crds::{Certificate, key::MintedKey};
use harness::{binaries, eventually, scratch::Scratch, tools::Tool};
use rustix::pipe::fcntl_getpipe_size;

use crate::{
    figures::{mebibytes, seconds},
    say,
    table::Row,
    usage,
};

const RUNS: u32 = 100;
const SOON: Duration = Duration::from_secs(30);

/// Measures both.
pub async fn measure((minted, _): &(MintedKey, Certificate)) -> Result<[Row; 2]> {
    let scratch = Scratch::new("signet-bench-")?;
    scratch.file("cert.pem", &minted.certificate_pem)?;
    let value = "x".repeat(64);
    scratch.file(
        "secret.yaml",
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: db, namespace: shop}}\nstringData: {{password: {value}}}\n"
        ),
    )?;
    let (seal, kubeseal) = (binaries::seal().await?, Tool::Kubeseal.path().await?);
    let (ours, theirs) = (cost(&scratch, &seal).await?, cost(&scratch, &kubeseal).await?);
    let row = |work: &str, to_reach, ratio: f64, [signet, upstream]: [String; 2]| Row {
        work: work.to_owned(),
        ratio: format!("{ratio:.2} x kubeseal"),
        to_reach,
        signet,
        upstream: format!("{upstream} (kubeseal)"),
        floor: String::new(),
    };
    let time = ours.0.as_secs_f64() / theirs.0.as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "figures are shown with three digits")]
    let space = ours.1 as f64 / theirs.1 as f64;
    Ok([
        row("one Secret sealed offline, CPU", "4 ms", time, [ours.0, theirs.0].map(seconds)),
        row("  memory", "8 MiB", space, [ours.1, theirs.1].map(mebibytes)),
    ])
}

/// Processor time and peak memory of one run.
async fn cost(scratch: &Scratch, program: &Path) -> Result<(Duration, u64)> {
    say(format!("{} seals {RUNS} times", program.display()));
    let before = usage::cpu_of_ended_children()?;
    for _ in 0..RUNS {
        let sealed = command(scratch, program)?.output()?;
        ensure!(sealed.status.success(), "{}", String::from_utf8_lossy(&sealed.stderr));
    }
    let cpu = usage::cpu_of_ended_children()?.saturating_sub(before) / RUNS;
    Ok((cpu, peak(scratch, program).await?))
}

/// Nobody but its parent can ask for the peak of a process that has ended, and what wait(2) tells a parent begins with
/// the parent's own. So it is asked for while the program waits to write its result to a pipe that is full.
async fn peak(scratch: &Scratch, program: &Path) -> Result<u64> {
    let (mut reader, mut writer) = pipe()?;
    let full = fcntl_getpipe_size(&writer)?;
    writer.write_all(&vec![b' '; full])?;
    let mut child = command(scratch, program)?.stdout(writer).spawn()?;
    let mut last = (0, 0);
    let peak = eventually("the program to write its result", SOON, || {
        let seen = look(child.id());
        let same = matches!(seen, Ok((true, peak)) if peak == last.1);
        last = (if same { last.0 + 1 } else { 0 }, seen.as_ref().map_or(0, |seen| seen.1));
        let calm = last;
        async move {
            seen?;
            Ok((calm.0 > 4).then_some(calm.1))
        }
    })
    .await;
    drop(std::thread::spawn(move || reader.read_to_end(&mut Vec::new())));
    ensure!(child.wait()?.success(), "{} failed", program.display());
    peak
}

fn look(id: u32) -> Result<(bool, u64)> {
    Ok((usage::sleeps(id)?, usage::peak(id)?))
}

/// Sees nothing of the developer's, and no cluster.
fn command(scratch: &Scratch, program: &Path) -> Result<Command> {
    let mut command = Command::new(program);
    command.env_clear().env("HOME", scratch.path()).current_dir(scratch.path());
    command.args(["--cert", "cert.pem", "--format", "yaml"]);
    command.stdin(fs::File::open(scratch.path().join("secret.yaml"))?).stderr(Stdio::piped());
    Ok(command)
}
