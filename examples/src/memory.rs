//! What memory this process takes.

/// The most memory that this process has held since [`reset_peak_memory`], in bytes; 0 where the system does not tell.
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

/// Starts the count of [`peak_memory`] anew.
pub fn reset_peak_memory() {
    // Linux alone has this; elsewhere the peak is that of the whole run.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
