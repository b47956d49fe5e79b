//! How texts are divided into words, by the name of the rule: the names are those that llama.cpp knows (`llama-vocab.cpp`).

use tokenizers::utils::SysRegex;

use super::metadata::{BosRule, Defaults, PRE};
use super::patterns as p;
use crate::error::Error;
use crate::gguf::metadata::GgufMetadata;

/// Divides texts into words.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    /// Each divides what the one before it has left: its matches and what lies between them.
    patterns: Vec<SysRegex>,
    rule: Rule,
}

/// What letters the tokens are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Letters {
    /// Those that stand for bytes.
    Bytes,
    /// Those of the text, spaces written as SentencePiece does.
    Text,
}

/// Which words that are tokens are taken whole, without merges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WholeWords {
    No,
    /// Those of newlines only.
    Newlines,
    All,
}

/// What belongs to a name.
#[derive(Clone, Copy, Debug)]
struct Rule {
    patterns: &'static [&'static str],
    letters: Letters,
    whole_words: WholeWords,
    defaults: Defaults,
}

impl Rule {
    const fn new(patterns: &'static [&'static str]) -> Self {
        Self {
            patterns,
            letters: Letters::Bytes,
            whole_words: WholeWords::No,
            defaults: Defaults {
                bos_rule: BosRule::UnlessSaid(false),
                bos: Some(11),
                eos: Some(11),
            },
        }
    }

    const fn letters(mut self, letters: Letters) -> Self {
        self.letters = letters;
        self
    }

    const fn whole_words(mut self, whole_words: WholeWords) -> Self {
        self.whole_words = whole_words;
        self
    }

    const fn bos(mut self, rule: BosRule) -> Self {
        self.defaults.bos_rule = rule;
        self
    }

    const fn without_bos_id(mut self) -> Self {
        self.defaults.bos = None;
        self
    }
}

/// The rule of a name.
fn rule(name: &str) -> Option<Rule> {
    let rule = match name {
        "default" => Rule::new(&p::DEFAULT),
        "gpt-2" | "phi-2" | "jina-es" | "jina-de" | "gigachat" | "jina-v2-es" | "jina-v2-de"
        | "a.x-4.0" | "mellum" | "modern-bert" | "jina-v1-en" | "jina-v2-code" | "roberta-bpe"
        | "exaone4" | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling" => {
            Rule::new(&[p::GPT2])
        }
        "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" | "minerva-7b"
        | "mellum2" => Rule::new(&[p::NUMBER, p::GPT2]),
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
        | "lfm2" | "jina-v5-nano" => Rule::new(&[p::LLAMA3])
            .whole_words(WholeWords::All)
            .bos(BosRule::UnlessSaid(true)),
        "dbrx" | "smaug-bpe" => Rule::new(&[p::LLAMA3]),
        "chatglm-bpe" => Rule::new(&[p::LLAMA3]).without_bos_id(),
        "glm4" | "glm5" => Rule::new(&[p::LLAMA3])
            .whole_words(WholeWords::All)
            .without_bos_id(),
        "stablelm2" | "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "hunyuan"
        | "solar-open" | "grok-2" => Rule::new(&[p::QWEN2]),
        "qwen35" => Rule::new(&[p::QWEN35]),
        "ufakzeka" => Rule::new(&[p::UFAKZEKA]),
        "laguna" => Rule::new(&[p::LINES, p::QWEN2]),
        "minicpm5" => Rule::new(&[p::NUMBERS_OF_3, p::MINICPM5]).whole_words(WholeWords::All),
        "jais-2" => Rule::new(&[p::JAIS2]),
        "seed-coder" => Rule::new(&[p::SEED_CODER]),
        "bailingmoe" | "bailingmoe2" | "llada-moe" => Rule::new(&[p::BAILING]),
        "exaone-moe" => Rule::new(&[p::EXAONE_MOE]),
        "deepseek-llm" => Rule::new(&p::DEEPSEEK_LLM),
        "deepseek-coder" => Rule::new(&p::DEEPSEEK_CODER),
        "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => Rule::new(&p::DEEPSEEK_V3),
        "spark2_5" => Rule::new(&p::SPARK),
        "youtu" => Rule::new(&p::YOUTU).whole_words(WholeWords::All),
        "falcon" => Rule::new(&p::FALCON),
        "poro-chat" | "bloom" | "gpt3-finnish" => Rule::new(&[p::BLOOM]),
        "viking" => Rule::new(&[p::BLOOM, p::NUMBER]),
        "tekken" => Rule::new(&[p::TEKKEN])
            .whole_words(WholeWords::All)
            .bos(BosRule::UnlessSaid(true)),
        "chameleon" => Rule::new(&p::CHAMELEON).bos(BosRule::UnlessSaid(true)),
        "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => Rule::new(&[p::GPT4O]),
        "granite-embed-multi-97m" => {
            Rule::new(&[p::GRANITE_EMBEDDING]).whole_words(WholeWords::All)
        }
        "tiny_aya" | "cohere2moe" => Rule::new(&[p::DIGIT_GROUPS, p::TINY_AYA]),
        "kimi-k2" => Rule::new(&[p::KIMI_K2]),
        "superbpe" => Rule::new(&p::SUPERBPE),
        "afmoe" => Rule::new(&p::AFMOE),
        "gemma4" | "granite-embed-multi-311m" => Rule::new(&[p::LINES])
            .letters(Letters::Text)
            .whole_words(WholeWords::Newlines)
            .bos(BosRule::Always),
        "sarvam-moe" => Rule::new(&[p::LINES]).letters(Letters::Text),
        _ => return None,
    };
    Some(rule)
}

/// The rule that the metadata name; llama.cpp's default where they name none.
///
/// # Errors
/// [`Error::Config`] for an unknown name.
pub(super) fn by_name(metadata: &GgufMetadata, name: Option<&str>) -> Result<PreTokenizer, Error> {
    let name = name.unwrap_or_else(|| {
        let path = metadata.path().display();
        log::warn!("{path}: `{PRE}` is missing: texts are divided as llama.cpp does by default");
        "default"
    });
    let unknown = || {
        let problem = format!(
            "is {name:?}, which is unknown: the rule by which texts are divided into words"
        );
        metadata.error(PRE, problem)
    };
    let rule = rule(name).ok_or_else(unknown)?;
    PreTokenizer::new(rule).map_err(|problem| metadata.error(PRE, problem))
}

impl PreTokenizer {
    fn new(rule: Rule) -> Result<Self, String> {
        let patterns = rule.patterns.iter().map(|pattern| {
            SysRegex::new(pattern).map_err(|problem| format!("pattern {pattern:?}: {problem}"))
        });
        Ok(Self {
            patterns: patterns.collect::<Result<_, _>>()?,
            rule,
        })
    }

    pub fn letters(&self) -> Letters {
        self.rule.letters
    }

    pub fn whole_words(&self) -> WholeWords {
        self.rule.whole_words
    }

    pub fn defaults(&self) -> Defaults {
        self.rule.defaults
    }

    /// The words of a text, which are all of it.
    pub fn words<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut words = vec![text];
        for pattern in &self.patterns {
            let mut parts = Vec::with_capacity(words.len());
            for word in words {
                let mut end = 0;
                for (start, match_end) in pattern.find_iter(word) {
                    parts.push(&word[end..start]);
                    parts.push(&word[start..match_end]);
                    end = match_end;
                }
                parts.push(&word[end..]);
            }
            parts.retain(|part| !part.is_empty());
            words = parts;
        }
        words
    }
}
