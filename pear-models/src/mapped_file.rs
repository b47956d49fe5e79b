//! Files of weights, mapped into memory.

use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::Error;
use crate::regular_file;

/// A file that is mapped into memory: its pages are read when they are needed, and the system drops them when it needs the memory.
#[derive(Debug)]
pub(crate) struct MappedFile {
    pub path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// # Errors
    /// [`Error::Io`], or [`Error::Malformed`] for what is no file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = regular_file::open(path, "open")?;
        // SAFETY: nothing writes through the map. What another process does to the file meanwhile cannot be prevented, as in every
        // program that maps weights: bytes that it changes are other numbers, and reading what it has cut off is a bus error.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("read", path))?;
        Ok(Self {
            path: path.into(),
            map,
        })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Gives back the pages of a range: they no longer count as this process's memory.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            // SAFETY: the map is of a file and never written: pages that are read again come from the file again.
            let released = unsafe {
                self.map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    range.len(),
                )
            };
            // Advice that is not taken costs memory, nothing else.
            if let Err(error) = released {
                log::debug!("{}: {error}", self.path.display());
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}
