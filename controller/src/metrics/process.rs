//! The process's own figures, under the names that every Prometheus library gives them. Read from /proc; where there is
//! none, they are left out.

use std::{fs, sync::atomic::AtomicU64};

use jiff::Timestamp;
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

/// Adds what can be read now.
pub fn register(registry: &mut Registry, started: Timestamp) {
    let mut gauge = |name: &str, help: &str, value: Option<u64>| {
        let Some(value) = value.and_then(|value| i64::try_from(value).ok()) else { return };
        let gauge: Gauge = Gauge::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    gauge("process_resident_memory_bytes", "Resident memory", bytes(&status, "VmRSS:"));
    gauge("process_virtual_memory_bytes", "Virtual memory", bytes(&status, "VmSize:"));
    let open = fs::read_dir("/proc/self/fd").ok().and_then(|files| u64::try_from(files.count()).ok());
    gauge("process_open_fds", "Open file descriptors", open);
    gauge("process_max_fds", "Most file descriptors", getrlimit(Resource::Nofile).current);
    gauge("process_start_time_seconds", "Start of the process", u64::try_from(started.as_second()).ok());

    let spent = clock_gettime(ClockId::ProcessCPUTime);
    let cpu: Counter<f64, AtomicU64> = Counter::default();
    if let (Ok(seconds), Ok(nanos)) = (u32::try_from(spent.tv_sec), u32::try_from(spent.tv_nsec)) {
        cpu.inc_by(f64::from(seconds) + f64::from(nanos) / 1e9);
    }
    registry.register("process_cpu_seconds", "CPU time of user and system", cpu);
}

/// A line such as `VmRSS:     1234 kB`.
fn bytes(status: &str, field: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_bytes() {
        assert_eq!(bytes("Name:\tx\nVmRSS:\t    1234 kB\n", "VmRSS:"), Some(1_263_616));
        assert_eq!(bytes("VmRSS: much\n", "VmRSS:"), None);
    }
}
