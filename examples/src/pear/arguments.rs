//! The flags of `pear`.

use std::path::PathBuf;

use clap::Parser;

use crate::cli::{Dtype, LayerPlace, ModelArgs};
use crate::device::DeviceName;

/// Find out whether a model uses its context better with some attention heads re-weighted, say so honestly, and save it if it does. Exit
/// status: 0 use the re-weighted model, 3 leave the model alone, 2 unusable input
#[derive(Parser, Clone, Debug)]
#[command(name = "pear", version)]
pub struct Arguments {
    /// The model: a Hugging Face directory, or a GGUF file; with the feature `hub`, also owner/name on the Hugging Face hub
    #[arg(value_name = "MODEL", required_unless_present = "model")]
    pub positional: Option<PathBuf>,

    /// The model, as a flag
    #[arg(long, value_name = "MODEL", conflicts_with = "positional")]
    pub model: Option<PathBuf>,

    /// Refuse a config.json with keys that nothing reads, instead of warning of them
    #[arg(long)]
    pub strict: bool,

    /// Where to compute: flex (the CPU); or wgpu, vulkan, cuda, cuda:1 if built with that feature
    #[arg(long, value_name = "NAME", default_value = "flex")]
    pub device: DeviceName,

    /// Dtype of the weights [default: on the CPU f32, or bf16 for 50 M parameters and more that are stored in it, if the processor multiplies it;
    /// elsewhere bf16, or f16 or f32 if the device has no bf16]
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<Dtype>,

    #[command(flatten)]
    layers: LayerPlace,

    /// Ask nothing: start at once, and take the choice of the rule
    #[arg(long)]
    pub yes: bool,

    /// Questions of your own: JSON lines with question, context and answer [default: built-in facts]
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,

    /// A plain text on which the cost is measured [default: samples of the model's own]
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,

    /// Folder for the results; that of an interrupted run, to go on with it [default: pear-MODEL]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Say what would be done, and stop
    #[arg(long)]
    pub plan: bool,

    /// Seed of everything that is drawn
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl Arguments {
    fn model(&self) -> PathBuf {
        let model = self.positional.clone().or_else(|| self.model.clone());
        model.unwrap_or_default()
    }

    /// What chooses model, device and dtype.
    pub fn model_args(&self) -> ModelArgs {
        ModelArgs {
            model: self.model(),
            strict: self.strict,
            device: self.device.clone(),
            dtype: self.dtype,
            layers: self.layers,
        }
    }

    /// What the model is called: its file or folder without the ending.
    pub fn model_name(&self) -> String {
        let model = self.model();
        // The current folder has no name of its own.
        let model = model.canonicalize().unwrap_or(model);
        let name = if model.is_file() {
            model.file_stem()
        } else {
            model.file_name()
        };
        name.unwrap_or(model.as_os_str())
            .to_string_lossy()
            .into_owned()
    }

    /// The output folder.
    pub fn out(&self) -> PathBuf {
        let default = || PathBuf::from(format!("pear-{}", self.model_name()));
        self.out.clone().unwrap_or_else(default)
    }

    /// The command that repeats the run, with `--yes`, and without the folder, which makes no difference.
    pub fn command(&self) -> String {
        let mut words = vec![
            "pear".into(),
            quoted(&self.model().to_string_lossy()),
            format!("--seed {}", self.seed),
        ];
        if self.device.to_string() != "flex" {
            words.push(format!("--device {}", self.device));
        }
        if let Some(dtype) = self.dtype {
            words.push(format!("--dtype {}", crate::cli::name_of(dtype.into())));
        }
        for (flag, path) in [("--data", &self.data), ("--text", &self.text)] {
            if let Some(path) = path {
                words.push(format!("{flag} {}", quoted(&path.to_string_lossy())));
            }
        }
        words.push("--yes".into());
        words.join(" ")
    }
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+=:@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_repeats_the_run() {
        let parse = |line: &[&str]| Arguments::try_parse_from([&["pear"], line].concat());
        let arguments = parse(&[
            "my model.gguf",
            "--data",
            "a.jsonl",
            "--out",
            "x",
            "--seed",
            "3",
        ])
        .unwrap();
        assert_eq!(
            arguments.command(),
            "pear 'my model.gguf' --seed 3 --data a.jsonl --yes"
        );
        assert!(parse(&[]).is_err());
        assert!(parse(&["a", "--model", "b"]).is_err());
        assert_eq!(
            parse(&["--model", "b"]).unwrap().out(),
            PathBuf::from("pear-b")
        );
    }
}
