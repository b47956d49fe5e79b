//! The metadata that a folded file says of its coefficients.

use pear_core::HeadId;

use crate::error::Error;
use crate::gguf::metadata::GgufMetadata;

const VERSION: &str = "pear.version";
const HEADS: &str = "pear.heads";
const COEFFICIENTS: &str = "pear.coefficients";

/// Ids of the types of values.
const FLOAT: u32 = 6;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// Refuses a file that coefficients were folded into before.
///
/// # Errors
/// [`Error::Config`] with the heads that it says have been re-weighted.
pub(super) fn check_not_folded(metadata: &GgufMetadata) -> Result<(), Error> {
    if metadata.get(VERSION).is_none() {
        return Ok(());
    }
    let heads = metadata.texts(HEADS)?.unwrap_or_default();
    let problem = format!(
        "coefficients were folded into this file before (heads {}): fold the original file",
        heads.join(", ")
    );
    Err(metadata.error(VERSION, problem))
}

/// Keys and values, in the form of the file, that tell which heads were re-weighted, and how many they are.
pub(super) fn record(heads: &[(HeadId, f32)]) -> (usize, Vec<u8>) {
    let mut bytes = Vec::new();
    put_text(&mut bytes, VERSION);
    bytes.extend(TEXT.to_le_bytes());
    put_text(&mut bytes, env!("CARGO_PKG_VERSION"));
    // Not every reader takes lists without items.
    if heads.is_empty() {
        return (1, bytes);
    }
    put_text(&mut bytes, HEADS);
    put_list(&mut bytes, TEXT, heads.len());
    for (head, _) in heads {
        put_text(&mut bytes, &head.to_string());
    }
    put_text(&mut bytes, COEFFICIENTS);
    put_list(&mut bytes, FLOAT, heads.len());
    for (_, coefficient) in heads {
        bytes.extend(coefficient.to_le_bytes());
    }
    (3, bytes)
}

/// Text after its length.
pub(super) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn put_list(bytes: &mut Vec<u8>, items: u32, len: usize) {
    bytes.extend(ARRAY.to_le_bytes());
    bytes.extend(items.to_le_bytes());
    bytes.extend((len as u64).to_le_bytes());
}
