//! What a process costs, as Linux counts it in /proc. Reads only.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// Processor time of a process so far, its threads that ended included.
pub fn cpu(id: u32) -> Result<Duration> {
    ticks(&id.to_string(), [13, 14])
}

/// Processor time of the children that this process has waited for.
pub fn cpu_of_ended_children() -> Result<Duration> {
    ticks("self", [15, 16])
}

/// The most memory that a process had at once, in bytes.
pub fn peak(id: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the process has no memory")?;
    Ok(kib.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Whether a process waits for something.
pub fn sleeps(id: u32) -> Result<bool> {
    Ok(stat(&id.to_string())?.first().is_some_and(|state| state == "S"))
}

/// The sum of two fields of /proc/ID/stat, numbered as proc(5) does from 1.
fn ticks(process: &str, numbers: [usize; 2]) -> Result<Duration> {
    let fields = stat(process)?;
    let mut sum = 0;
    for number in numbers {
        sum += fields.get(number - 2).context("/proc has too few fields")?.parse::<u64>()?;
    }
    Ok(Duration::from_secs(sum) / u32::try_from(rustix::param::clock_ticks_per_second())?)
}

/// The fields after the program's name, which may hold blanks: the first is the state.
fn stat(process: &str) -> Result<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("/proc tells no name")?;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}
