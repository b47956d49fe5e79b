//! Limits of chat templates while they run: they are programs that come with a model.

use std::io::{self, Write};

use minijinja::{Error, ErrorKind};

/// Instructions that a template may run: a second's worth, of which the longest conversations take a hundredth.
pub(super) const FUEL: u64 = 10_000_000;
/// Bytes that a template may write.
const MAX_OUTPUT: usize = 1 << 26;
/// Characters of an error.
const LONGEST_MESSAGE: usize = 500;
/// Room for expressions of so many tokens.
const STACK: usize = 1 << 26;

/// An error of a template with its causes, without the source around it; cut where a template's own message is long.
pub(super) fn problem(error: &Error) -> String {
    let mut problem = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        problem += &format!(": {error}");
        cause = error.source();
    }
    match problem.char_indices().nth(LONGEST_MESSAGE) {
        Some((end, _)) => format!("{} …", &problem[..end]),
        None => problem,
    }
}

/// Runs `f` where deep expressions have room.
pub(super) fn on_large_stack<T: Send>(
    f: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let failed = |problem: String| Error::new(ErrorKind::InvalidOperation, problem);
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("chat template".into())
            .stack_size(STACK)
            .spawn_scoped(scope, f)
            .map_err(|e| failed(format!("no thread for it: {e}")))?
            .join()
            .unwrap_or_else(|_| Err(failed("the template library failed".into())))
    })
}

/// What a template writes, up to [`MAX_OUTPUT`].
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    is_full: bool,
}

impl Output {
    /// The text, if `rendered` went well.
    pub(super) fn finish(self, rendered: Result<(), Error>) -> Result<String, Error> {
        if self.is_full {
            let problem = format!("writes more than {MAX_OUTPUT} bytes");
            return Err(Error::new(ErrorKind::InvalidOperation, problem));
        }
        rendered?;
        String::from_utf8(self.bytes)
            .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("writes no UTF-8: {e}")))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
