//! Files of JSON lines, compressed or not.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use flate2::read::MultiGzDecoder;
use serde::de::DeserializeOwned;

/// No line of a data set comes near this.
const LONGEST_LINE: u64 = 64 << 20;

/// The first `limit` records of a `.jsonl` or `.jsonl.gz` file.
pub(super) fn read<T: DeserializeOwned>(path: &Path, limit: usize) -> Result<Vec<T>> {
    let file = File::open(path).with_context(|| format!("{}: cannot open", path.display()))?;
    let compressed = path.extension().is_some_and(|extension| extension == "gz");
    let mut reader: Box<dyn BufRead> = if compressed {
        Box::new(BufReader::new(MultiGzDecoder::new(file)))
    } else {
        Box::new(BufReader::new(file))
    };
    let (mut records, mut line, mut number) = (Vec::new(), Vec::new(), 0);
    while records.len() < limit {
        line.clear();
        number += 1;
        let place = || format!("{}, line {number}", path.display());
        let read = reader
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)
            .with_context(|| format!("{}: cannot read", place()))?;
        if read == 0 {
            break;
        }
        if read as u64 == LONGEST_LINE {
            bail!(
                "{}: more than {} MiB: expected one record of JSON",
                place(),
                LONGEST_LINE >> 20
            );
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        records.push(serde_json::from_slice(&line).map_err(|e| anyhow!("{}: {e}", place()))?);
    }
    if records.is_empty() {
        bail!("{}: no records: expected lines of JSON", path.display());
    }
    Ok(records)
}
