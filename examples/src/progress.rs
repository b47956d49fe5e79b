//! Progress bars on standard error, if it is a terminal and the work takes a while.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// All bars that are shown; other output to standard error is printed above them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// No bar is shown for work that takes less.
const SHOWN_AFTER: Duration = Duration::from_millis(500);

/// A bar with the estimated time left. Nothing is shown if standard error is not a terminal, or during the first half second.
pub struct Progress {
    bar: ProgressBar,
    since: Instant,
    shown: bool,
}

impl Progress {
    /// A bar called `name` for `total` units of work.
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

    /// Same as [`set`](Self::set), with a new total.
    pub fn set_of(&mut self, done: u64, total: u64, message: impl Into<String>) {
        self.bar.set_length(total);
        self.set(done, message);
    }

    /// Sets how many units are done, and the message beside the bar.
    pub fn set(&mut self, done: u64, message: impl Into<String>) {
        if !self.shown && self.since.elapsed() > SHOWN_AFTER {
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
    // Nothing can be done if standard error is closed.
    BARS.suspend(|| drop(writeln!(std::io::stderr(), "{line}")));
}
