//! The patterns of words, as llama.cpp has them (`llama-vocab.cpp`, `unicode.cpp`), in the syntax of Oniguruma.
//!
//! Where llama.cpp departs from the tokenizers that the models were trained with, so do these: it does not tell upper from lower case beyond
//! ASCII, and its character ranges hold no white space.

/// English contractions in any case.
macro_rules! contractions {
    () => {
        r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    };
}

/// Letters, with one sign before them.
macro_rules! letters {
    () => {
        r"[^\r\n\p{L}\p{N}]?\p{L}+"
    };
}

/// Signs, with one space before them.
macro_rules! signs {
    () => {
        r" ?[^\s\p{L}\p{N}]+"
    };
}

/// White space: to the last newline, else all but the last before a word.
macro_rules! spaces {
    () => {
        r"\s*[\r\n]+|\s+(?!\S)|\s+"
    };
}

/// Words that begin with upper-case or go on in lower-case letters, for lookups in `[...]` of letters; and what may follow them.
macro_rules! cased_words {
    ($letters:literal, $behind:expr) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[",
            $letters,
            "&&[^a-z]]*[",
            $letters,
            "&&[^A-Z]]+",
            $behind,
            r"|[^\r\n\p{L}\p{N}]?[",
            $letters,
            "&&[^a-z]]+[",
            $letters,
            "&&[^A-Z]]*",
            $behind
        )
    };
}

/// ASCII words behind punctuation, letters with their marks, punctuation and symbols.
macro_rules! marked_words {
    () => {
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"##
    };
}

pub(super) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
pub(super) const NUMBER: &str = r"\p{N}";
pub(super) const NUMBERS_OF_3: &str = r"\p{N}{1,3}";
const CJK: &str = "[一-龥\u{3040}-ゟ゠-ヿ]+";
pub(super) const LINES: &str = r"[^\n]+|\n+";

pub(super) const DEFAULT: [&str; 4] = [r"[\p{P}$+<=>\^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];

pub(super) const LLAMA3: &str = concat!(
    contractions!(),
    "|",
    letters!(),
    r"|\p{N}{1,3}|",
    signs!(),
    r"[\r\n]*|",
    spaces!()
);
pub(super) const QWEN2: &str = concat!(
    contractions!(),
    "|",
    letters!(),
    r"|\p{N}|",
    signs!(),
    r"[\r\n]*|",
    spaces!()
);
pub(super) const MINICPM5: &str = concat!(
    contractions!(),
    "|",
    letters!(),
    r"|\p{N}+|",
    signs!(),
    r"[\r\n]*|",
    spaces!()
);
pub(super) const UFAKZEKA: &str = concat!(letters!(), r"|\p{N}|", signs!(), r"[\r\n]*|", spaces!());
pub(super) const SEED_CODER: &str = concat!(
    contractions!(),
    "|",
    letters!(),
    r"|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|",
    spaces!()
);
pub(super) const QWEN35: &str = concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|",
    spaces!()
);
pub(super) const JAIS2: &str = concat!(
    contractions!(),
    "|",
    letters!(),
    r"|\p{N}{1,3}|",
    signs!(),
    r"[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)",
    r"|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s"
);
pub(super) const BAILING: &str = concat!(
    contractions!(),
    "|",
    letters!(),
    r"|\p{N}|",
    signs!(),
    r"[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
);
pub(super) const EXAONE_MOE: &str = concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}|",
    signs!(),
    r"[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
);

pub(super) const TEKKEN: &str = concat!(
    cased_words!(r"\p{L}", ""),
    r"|\p{N}|",
    signs!(),
    r"[\r\n/]*|",
    spaces!()
);
pub(super) const GPT4O: &str = concat!(
    cased_words!(r"\p{L}", concat!(contractions!(), "?")),
    r"|\p{N}{1,3}|",
    signs!(),
    r"[\r\n/]*|",
    spaces!()
);
pub(super) const GRANITE_EMBEDDING: &str = concat!(
    cased_words!(r"\p{L}\p{M}", concat!(contractions!(), "?")),
    r"|\p{N}{1,3}|",
    signs!(),
    r"[\r\n/]*|",
    spaces!()
);
pub(super) const TINY_AYA: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
    contractions!(),
    r"?|\p{N}{1,3}|",
    signs!(),
    r"[\r\n/]*|",
    spaces!()
);
/// Numbers in groups of three from the right, with what stands before them.
pub(super) const DIGIT_GROUPS: &str = r"\P{N}*\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))";
pub(super) const KIMI_K2: &str = concat!(
    "[一-\u{9fff}\u{3400}-\u{4dbf}\u{20000}-\u{2a6df}\u{2a700}-\u{2ebef}\u{f900}-\u{faff}\u{2f800}-\u{2fa1f}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{L}&&[^",
    "一-\u{9fff}\u{3400}-\u{4dbf}\u{20000}-\u{2a6df}\u{2a700}-\u{2ebef}\u{f900}-\u{faff}\u{2f800}-\u{2fa1f}",
    "]]+",
    contractions!(),
    r"?|\p{N}{1,3}|",
    signs!(),
    r"[\r\n]*|",
    spaces!()
);
pub(super) const SUPERBPE: [&str; 2] = [r"\p{N}+", "(?=(?:[0-9]{3})+(?![0-9]))"];
pub(super) const BLOOM: &str = " ?[^(\\s|.,!?…。，、।۔،)]+";

pub(super) const FALCON: [&str; 3] = [r"[\p{P}$+<=>\^~|`]+", GPT2, "[0-9][0-9][0-9]"];
pub(super) const CHAMELEON: [&str; 6] = [
    "<sentinel:[0-9]+>",
    "IMGIMG[A-I]{1,4}Z",
    r"[\t\n]|    |  ",
    NUMBER,
    r"[\p{P}!-/:-@\[-`{-~]",
    GPT2,
];

pub(super) const DEEPSEEK_V3: [&str; 3] = [
    NUMBERS_OF_3,
    CJK,
    concat!(marked_words!(), r"[\r\n]*|", spaces!()),
];
pub(super) const SPARK: [&str; 4] = [
    NUMBERS_OF_3,
    CJK,
    concat!(marked_words!(), r"|[\r\n]|\s+(?!\S)|\s+"),
    NUMBER,
];
pub(super) const AFMOE: [&str; 3] = [
    DIGIT_GROUPS,
    concat!(
        "[一-\u{9fff}\u{3400}-\u{4dbf}\u{8c48}-\u{faff}\u{3040}-ゟ゠-ヿ\u{ff65}-\u{ff9f}\u{2f00}-\u{2fdf}",
        "\u{e40}-\u{e7f}\u{e80}-\u{eff}\u{1780}-\u{17ff}\u{1000}-\u{109f}\u{aa60}-\u{aa7f}\u{a9e0}-\u{a9ff}",
        "\u{ac00}-\u{d7af}\u{1100}-\u{11ff}]+"
    ),
    concat!(marked_words!(), r"[\r\n]*|", spaces!()),
];
pub(super) const YOUTU: [&str; 2] = [
    concat!(
        "[가-힣ㄱ-\u{318e}]+|[！…“”‘’—：；，、-\u{303f}\u{fe30}-\u{fe4f}]+|[ㄅ-ㄯ]+|",
        "[一-龥\u{3040}-ゟ゠-ヿ]+"
    ),
    concat!(
        r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
        contractions!(),
        r"?|\p{N}|",
        signs!(),
        r"[\r\n/]*|",
        spaces!()
    ),
];
const EAST_ASIAN: &str = "[一-龥\u{800}-一가-\u{d7ff}&&[^\\s]]+";
pub(super) const DEEPSEEK_CODER: [&str; 5] =
    [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", EAST_ASIAN, NUMBER];
pub(super) const DEEPSEEK_LLM: [&str; 6] = [
    r"[\r\n]",
    concat!(
        "\\s?[A-Za-z",
        "\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}",
        "\u{295}-\u{2af}\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}",
        "\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}",
        "\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}",
        "\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}",
        "\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}",
        "\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}",
        "\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}",
        "\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}",
        "\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}",
        "\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}",
        "\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}",
        "\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}",
        "\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}",
        "\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}",
        "\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}",
        "]+"
    ),
    "\\s?[!-/:-~！-／：-～‘-‟\u{3001}-。]+",
    r"\s+\z",
    EAST_ASIAN,
    r"\p{N}+",
];
