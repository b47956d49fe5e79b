//! What a model directory holds, in a few digits.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;

use blake3::Hasher;
use burn::tensor::DType;
use pear_core::files::Provenance;

use super::ModelDirectory;
use crate::error::Error;

impl ModelDirectory {
    /// Fingerprint of the weights that the model uses: BLAKE3 over their names, dtypes, shapes and bytes in the order of the names.
    ///
    /// Shards, the layout of the headers and tensors that the model does not use make no difference. The first call reads all
    /// weights, on all cores; later ones repeat its answer.
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| {
            let names: BTreeSet<String> = self
                .config
                .parameters()
                .into_iter()
                .filter_map(|(path, _)| Some(self.source(&path)?.name))
                .collect();
            let mut hasher = Hasher::new();
            for (name, entry) in names
                .iter()
                .filter_map(|name| self.weights.tensors.get_key_value(name))
            {
                // Lengths before what is of no fixed length: no two checkpoints give the same bytes.
                for text in [
                    name.as_str(),
                    &format!("{:?}{:?}", entry.dtype, entry.shape),
                ] {
                    hasher
                        .update(&(text.len() as u64).to_le_bytes())
                        .update(text.as_bytes());
                }
                hasher.update_rayon(self.weights.bytes(entry));
            }
            hasher.finalize().to_hex().to_string()
        })
    }

    /// Fingerprint of `tokenizer.json`, if there is one.
    ///
    /// # Errors
    /// One that cannot be read.
    pub fn tokenizer_fingerprint(&self) -> Result<Option<String>, Error> {
        let path = self.path.join("tokenizer.json");
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(blake3::hash(&bytes).to_hex().to_string())),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", &path)(e)),
        }
    }

    /// Where a result comes from that this model gives, run in `dtype`. Reads all weights once.
    ///
    /// # Errors
    /// A `tokenizer.json` that cannot be read.
    pub fn provenance(&self, dtype: DType) -> Result<Provenance, Error> {
        let mut provenance = Provenance::new();
        provenance.dtype = Some(format!("{dtype:?}").to_lowercase());
        provenance.weights = Some(self.fingerprint().into());
        provenance.tokenizer = self.tokenizer_fingerprint()?;
        Ok(provenance)
    }

    /// What of a result does not belong to this model, `weights` or `tokenizer`, as far as its file tells. Weights are read only if
    /// it does.
    ///
    /// # Errors
    /// A `tokenizer.json` that cannot be read.
    pub fn mismatches(&self, made: &Provenance) -> Result<Vec<&'static str>, Error> {
        let weights = made.weights.as_ref().map(|_| self.fingerprint());
        Ok(made.mismatches(weights, self.tokenizer_fingerprint()?.as_deref()))
    }
}
