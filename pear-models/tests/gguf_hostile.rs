//! GGUF files that lie: thousands of changed headers, each of which is refused in one line or read whole, with little memory.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use burn::tensor::DType;
use common::{device, fixtures};
use pear_models::ModelDirectory;

/// The system's allocator, counting what is allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let allocated = ALLOCATED.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(allocated, Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Opening a file may take this many bytes for each of the file's.
const BYTES_PER_BYTE: usize = 16;

/// A file that is changed in place and restored.
struct Victim {
    path: PathBuf,
    original: Vec<u8>,
    file: File,
    tried: usize,
    refused: usize,
}

impl Victim {
    fn new(folder: &Path, name: &str) -> Self {
        let original = fs::read(fixtures().join(format!("gguf/{name}.gguf"))).unwrap();
        let path = folder.join("victim.gguf");
        fs::write(&path, &original).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        Self {
            path,
            original,
            file,
            tried: 0,
            refused: 0,
        }
    }

    /// Opens the file with other bytes from `offset` on.
    fn with_bytes(&mut self, offset: usize, bytes: &[u8]) {
        let end = self.original.len().min(offset + bytes.len());
        let bytes = &bytes[..end - offset];
        self.file.write_all_at(bytes, offset as u64).unwrap();
        self.open(&format!("{bytes:x?} at byte {offset}"));
        let original = &self.original[offset..end];
        self.file.write_all_at(original, offset as u64).unwrap();
    }

    /// Opens the first `len` bytes of the file.
    fn cut_to(&mut self, len: usize) {
        self.file.set_len(len as u64).unwrap();
        self.open(&format!("cut to {len} bytes"));
        self.file
            .write_all_at(&self.original[len..], len as u64)
            .unwrap();
    }

    fn open(&mut self, change: &str) {
        let before = ALLOCATED.load(Relaxed);
        PEAK.store(before, Relaxed);
        let opened = ModelDirectory::open(&self.path);
        let taken = PEAK.load(Relaxed) - before;
        let limit = BYTES_PER_BYTE * self.original.len();
        assert!(taken < limit, "{change}: {taken} bytes of memory");
        self.tried += 1;
        match opened {
            Ok(directory) => {
                // What opens can be loaded: tried on some.
                if self.tried.is_multiple_of(101) {
                    directory.load(&device(), DType::F32).unwrap();
                }
            }
            Err(error) => {
                self.refused += 1;
                let message = error.to_string();
                let names_file = message.contains("victim.gguf: ");
                assert!(
                    names_file && !message.contains('\n') && message.len() < 2000,
                    "{change}: {message}"
                );
            }
        }
    }

    /// Where the data of the tensors begins, or a little later.
    fn header_len(&self) -> usize {
        let last = self
            .original
            .windows(9)
            .rposition(|window| window == b"blk.1.ffn" || window == b"blk.1.att");
        last.unwrap() + 64
    }
}

/// The next of a sequence of numbers that look random.
fn next(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

#[test]
fn changed_headers_are_refused_in_one_line_or_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    for (name, every) in [
        ("llama-3.1", 1),
        ("gemma-2", 7),
        ("gemma-3", 7),
        ("phi3-longrope", 7),
        ("qwen2-moe", 7),
    ] {
        let mut victim = Victim::new(folder.path(), name);
        let header = victim.header_len();
        assert!((2000..8000).contains(&header), "{header}");
        for offset in (0..header).step_by(every) {
            let byte = victim.original[offset];
            for bit in 0..8 {
                victim.with_bytes(offset, &[byte ^ (1 << bit)]);
            }
            for number in [0, 1 << 20, 1 << 32, 1 << 62, u64::MAX] {
                victim.with_bytes(offset, &number.to_le_bytes());
            }
            for number in [0, 9, u32::MAX, 1 << 31] {
                victim.with_bytes(offset, &number.to_le_bytes());
            }
            victim.cut_to(offset);
        }
        let mut state = 16;
        for _ in 0..2000 {
            let offset = next(&mut state) as usize % header;
            let bytes: Vec<u8> = (0..1 + next(&mut state) % 24)
                .map(|_| next(&mut state) as u8)
                .collect();
            victim.with_bytes(offset, &bytes);
        }
        let Victim { tried, refused, .. } = victim;
        assert!(tried > 5000 && refused > tried / 4, "{refused} of {tried}");
        assert_eq!(fs::read(&victim.path).unwrap(), victim.original);
        assert!(ModelDirectory::open(&victim.path).is_ok());
    }
}
