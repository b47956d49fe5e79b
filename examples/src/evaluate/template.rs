//! Prompts with places to be filled.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// No prompt template comes near this.
const LONGEST: u64 = 1 << 20;

/// A text in which `{name}` stands for what a question puts there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    names: [&'static str; 2],
}

impl Template {
    /// A template that holds both `names` in braces.
    ///
    /// # Errors
    /// One that lacks either; `whose` is named.
    pub fn new(text: impl Into<String>, names: [&'static str; 2], whose: &str) -> Result<Self> {
        let text = text.into();
        if let Some(name) = names
            .iter()
            .find(|name| !text.contains(&format!("{{{name}}}")))
        {
            bail!(
                "{whose}: expected {{{}}} and {{{}}} in it, and found no {{{name}}}",
                names[0],
                names[1]
            );
        }
        Ok(Self { text, names })
    }

    /// The contents of a file, without the line break at its end.
    ///
    /// # Errors
    /// As [`new`](Self::new), or a file that cannot be read.
    pub fn read(path: &Path, names: [&'static str; 2]) -> Result<Self> {
        let whose = format!("--template {}", path.display());
        let size = std::fs::metadata(path)
            .with_context(|| format!("{whose}: cannot read"))?
            .len();
        if size > LONGEST {
            bail!(
                "{whose}: {size} bytes: expected a prompt of at most {} KiB",
                LONGEST >> 10
            );
        }
        let text =
            std::fs::read_to_string(path).with_context(|| format!("{whose}: cannot read"))?;
        Self::new(text.strip_suffix('\n').unwrap_or(&text), names, &whose)
    }

    /// With its places filled, in the order of the names. What is put in is not looked into for further places.
    pub fn fill(&self, values: [&str; 2]) -> String {
        let (mut filled, mut rest) = (
            String::with_capacity(self.text.len() + values[0].len() + values[1].len()),
            &self.text[..],
        );
        let places = self.names.map(|name| format!("{{{name}}}"));
        while let Some((at, which)) = (0..2)
            .filter_map(|i| Some((rest.find(&places[i])?, i)))
            .min()
        {
            filled += &rest[..at];
            filled += values[which];
            rest = &rest[at + places[which].len()..];
        }
        filled + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_once_and_braces_within_are_left_alone() {
        let template = Template::new("{b}: {a}, {b} {c}", ["a", "b"], "x").unwrap();
        assert_eq!(template.fill(["{b}", "{a}"]), "{a}: {b}, {a} {c}");
        let error = Template::new("{a}", ["a", "b"], "--template x")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("--template x") && error.contains("no {b}"),
            "{error}"
        );
    }
}
