//! Warnings of the libraries, on standard error.

use log::{Level, LevelFilter, Log, Metadata, Record};

struct Printer;

/// Prints warnings of this workspace's crates from now on. What other crates log is not meant for users: a graphics library logs an
/// error if there is no screen.
pub fn install() {
    // Fails if there is a logger already, which is then kept.
    if log::set_logger(&Printer).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

impl Log for Printer {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= Level::Warn && metadata.target().starts_with("pear_")
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) {
            let level = record
                .level()
                .as_str()
                .replace("WARN", "warning")
                .to_lowercase();
            crate::progress::print_above(&format!("{level}: {}", record.args()));
        }
    }

    fn flush(&self) {}
}
