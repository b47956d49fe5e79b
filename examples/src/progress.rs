//! How far the work is, on standard error, where that is a terminal and the work takes a while.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Every bar that is shown; what else goes to standard error is printed above them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Work that takes less than this is done before anybody looks.
const PATIENCE: Duration = Duration::from_millis(500);

/// A bar with the time that is left. Nothing is shown where standard error is no terminal, or during the first half second.
pub struct Progress {
    bar: ProgressBar,
    since: Instant,
    shown: bool,
}

impl Progress {
    /// A bar called `name`, of `total` units of work.
    pub fn new(name: &str, total: u64) -> Self {
        let style =
            ProgressStyle::with_template("{prefix} {wide_bar} {percent:>3} %  {msg}  {eta} left");
        let bar = ProgressBar::hidden().with_prefix(name.to_owned());
        bar.set_length(total);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            bar,
            since: Instant::now(),
            shown: false,
        }
    }

    /// As [`set`](Self::set), where it is only now known how much there is to do.
    pub fn set_of(&mut self, done: u64, total: u64, message: impl Into<String>) {
        self.bar.set_length(total);
        self.set(done, message);
    }

    /// So much is done; `message` stands beside the bar.
    pub fn set(&mut self, done: u64, message: impl Into<String>) {
        if !self.shown && self.since.elapsed() > PATIENCE {
            self.shown = true;
            let hidden = std::mem::replace(&mut self.bar, ProgressBar::hidden());
            self.bar = BARS.add(ProgressBar::new(hidden.length().unwrap_or(0)));
            self.bar.set_style(hidden.style());
            self.bar.set_prefix(hidden.prefix());
        }
        if self.shown {
            self.bar.set_message(message.into());
            self.bar.set_position(done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Prints a line on standard error, above the bars.
pub fn print_above(line: &str) {
    use std::io::Write;
    // Nothing can be done where standard error is closed.
    BARS.suspend(|| drop(writeln!(std::io::stderr(), "{line}")));
}
