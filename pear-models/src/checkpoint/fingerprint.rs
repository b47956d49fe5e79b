//! Fingerprints of weights and tokenizer: which model a result was computed with.

use blake3::Hasher;
use burn::tensor::DType;
use pear_core::files::Provenance;

use super::ModelDirectory;
use crate::error::Error;

impl ModelDirectory {
    /// Fingerprint of the weights that the model uses: BLAKE3 over their names, dtypes, shapes and bytes, in the order of the names.
    ///
    /// Shards, the layout of the headers and tensors that the model does not use make no difference. The first call reads all
    /// weights, on all cores; later ones repeat its answer.
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| {
            let mut hasher = Hasher::new();
            for name in self.used_tensors() {
                let Some(info) = self.tensors.info(&name) else {
                    continue;
                };
                update_with_length(&mut hasher, &name);
                update_with_length(&mut hasher, &format!("{}{:?}", info.dtype, info.shape));
                for bytes in self.tensors.raw(&name) {
                    hasher.update_rayon(bytes);
                }
                self.tensors.release(&name);
            }
            hasher.finalize().to_hex().to_string()
        })
    }

    /// Fingerprint of `tokenizer.json`, or of a GGUF file's metadata of tokens, if there is one.
    ///
    /// # Errors
    /// One that cannot be read.
    pub fn tokenizer_fingerprint(&self) -> Result<Option<String>, Error> {
        self.origin.tokenizer_fingerprint()
    }

    /// The provenance of results that this model gives when it runs in `dtype`. Reads all weights once.
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

    /// Which of `weights` and `tokenizer` differ from those that a result was made with. What its file does not name is not compared,
    /// and the weights are read only if they are.
    ///
    /// # Errors
    /// A `tokenizer.json` that cannot be read.
    pub fn mismatches(&self, made: &Provenance) -> Result<Vec<&'static str>, Error> {
        let weights = made.weights.as_ref().map(|_| self.fingerprint());
        Ok(made.mismatches(weights, self.tokenizer_fingerprint()?.as_deref()))
    }
}

/// Hashes a text after its length, so that no two lists of texts give the same bytes.
fn update_with_length(hasher: &mut Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}
