//! The heads that coefficients are learned for: the flag `--heads`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use pear_core::HeadId;
use pear_locate::Scores;
use pear_models::ModelDirectory;

use crate::cli::{self, TopK};

/// What `--heads` names, as far as it is known before the weights are loaded.
#[derive(Clone, Debug)]
pub enum HeadChoice {
    /// A list, or all heads.
    Listed(Vec<HeadId>),
    /// The top heads of a scores file.
    Scored(Vec<HeadId>, Box<Scores>),
    /// The top heads by the gradient of the proxy loss.
    ByGradient(TopK),
}

/// Number of heads that are taken of a ranking by default.
const TOP_K: usize = 10;

impl HeadChoice {
    /// Reads `--heads` with `--top-k`.
    ///
    /// # Errors
    /// A file that is no scores file or belongs to another model, a head that the model does not have, or nothing to choose.
    pub fn read(text: &str, top_k: Option<TopK>, directory: &ModelDirectory) -> Result<Self> {
        let (shape, path) = (directory.shape(), Path::new(text));
        if path.is_file() {
            return Self::of_file(path, top_k, directory);
        }
        if text == "gradient" {
            let count = shape.num_layers * shape.num_heads;
            return Ok(Self::ByGradient(TopK::checked(top_k, TOP_K, count)?));
        }
        let list = match text {
            "all" => shape.heads().collect(),
            _ => match text.split(',').map(str::parse).collect() {
                Ok(list) => list,
                Err(_) => bail!(
                    "--heads {text}: neither a file that exists nor all, gradient or a list of heads such as 26.28,11.6"
                ),
            },
        };
        let list: Vec<HeadId> = list;
        shape.check_heads(list.iter().copied()).context("--heads")?;
        if top_k.is_some() {
            cli::warn(match text {
                "all" => "--top-k has no effect on --heads all",
                _ => "--top-k has no effect on a list of heads",
            });
        }
        Ok(Self::Listed(list))
    }

    fn of_file(path: &Path, top_k: Option<TopK>, directory: &ModelDirectory) -> Result<Self> {
        let scores = Scores::read(path)?;
        directory
            .shape()
            .check_same(&scores.model)
            .with_context(|| path.display().to_string())?;
        if scores.is_partial() {
            let (path, layers) = (path.display(), scores.layers());
            bail!(
                "--heads {path}: scores of layers {layers} alone: join them with the others by `locate --merge`"
            );
        }
        cli::warn_of_mismatches(path, &scores.provenance, directory)?;
        let top_k = TopK::checked(top_k, TOP_K, scores.heads().len())?;
        let heads = top(&scores, top_k, &path.display().to_string())?;
        Ok(Self::Scored(heads, Box::new(scores)))
    }
}

/// The heads that `--top-k` takes of these scores, which come from `source`.
///
/// # Errors
/// `auto` where no head stands out, or where there are no standard errors.
pub fn top(scores: &Scores, top_k: TopK, source: &str) -> Result<Vec<HeadId>> {
    let heads = top_k.of(scores).with_context(|| source.to_owned())?;
    if heads.is_empty() {
        bail!(
            "--top-k auto: no score in {source} stands out ({})",
            TopK::RULE
        );
    }
    Ok(heads)
}
