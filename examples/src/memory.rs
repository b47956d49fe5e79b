//! Memory that this process uses, and may use.

use std::fs;

/// Peak memory of this process in bytes since [`reset_peak_memory`], or since its start; 0 where the system does not report it.
pub fn peak_memory() -> u64 {
    field_of("/proc/self/status", "VmHWM:").map_or(0, |kib| kib << 10)
}

/// Resets [`peak_memory`].
pub fn reset_peak_memory() {
    // Only on Linux; elsewhere the peak is that of the whole run.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Memory in bytes that this process can still take without swapping and within its limits: what the system has free, the limit of its control
/// group, that of its data (`ulimit -d`). `None` where the system says nothing.
pub fn available_memory() -> Option<u64> {
    let of_system = field_of("/proc/meminfo", "MemAvailable:").map(|kib| kib << 10);
    let used = field_of("/proc/self/status", "RssAnon:").map_or(0, |kib| kib << 10);
    let of_group = group_limit();
    let of_data = fs::read_to_string("/proc/self/limits")
        .ok()
        .and_then(|limits| data_limit(&limits));
    let limits = [of_group, of_data].into_iter().flatten();
    let left = limits.map(|limit| limit.saturating_sub(used));
    of_system.into_iter().chain(left).min()
}

/// The first number after a name at the start of a line.
fn field_of(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The soft limit of a process's data in bytes, of the text of `/proc/self/limits`.
fn data_limit(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max data size"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The limit of this process's control group, of either version.
fn group_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let file = match controllers {
            "" => format!("/sys/fs/cgroup{path}/memory.max"),
            "memory" => format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"),
            _ => return None,
        };
        fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_data_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max file size             unlimited            unlimited            bytes     \n\
                      Max data size             3221225472           unlimited            bytes     \n";
        assert_eq!(data_limit(limits), Some(3 << 30));
        assert_eq!(data_limit(&limits.replace("3221225472", "unlimited")), None);
    }
}
