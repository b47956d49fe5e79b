//! The colours of pages and plots, on a light and on a dark screen.

/// A name in style sheets, `var(--name)`, with its colour on a light and on a dark screen.
type Colour = (&'static str, &'static str, &'static str);

/// Text and lines have a contrast of at least 4.5 and 3 to what is behind them.
const COLOURS: [Colour; 16] = [
    ("page", "#f4f6f8", "#0e1217"),
    ("card", "#ffffff", "#171c23"),
    ("inset", "#f4f6f8", "#1f262f"),
    ("ink", "#18202a", "#e8ecf1"),
    ("soft", "#55606e", "#a2adbb"),
    ("line", "#dde2e8", "#2e3742"),
    ("axis", "#8b95a1", "#6b7683"),
    ("accent", "#0b6e5f", "#4fd1b5"),
    ("good", "#0f7048", "#4ccf95"),
    ("good-tint", "#e3f4ec", "#12302a"),
    ("bad", "#b3261e", "#ff8f85"),
    ("bad-tint", "#fcebe9", "#3a1d1e"),
    ("memory", "#8a5a00", "#f0b44c"),
    ("ranked", "#1f6fb5", "#6db3f2"),
    ("fixed", "#9a5b00", "#f0b44c"),
    ("all-heads", "#7a3fb0", "#c99cf7"),
];

/// The variables as a style sheet. On paper they are the light ones.
pub(super) fn variables() -> String {
    let [light, dark] = [false, true].map(|dark| {
        COLOURS.map(|(name, light_value, dark_value)| {
            let value = if dark { dark_value } else { light_value };
            format!("--{name}:{value};")
        })
    });
    format!(
        ":root{{{}}}\n{DARK}{{:root{{{}}}}}\n",
        light.concat(),
        dark.concat()
    )
}

/// The condition of a style sheet under which colours are dark.
pub(super) const DARK: &str = "@media screen and (prefers-color-scheme:dark)";

/// A style sheet in both schemes with the colours in place of the variables, for programs that know no variables.
pub(super) fn without_variables(rules: &str) -> String {
    let [light, dark] = [false, true].map(|dark| {
        COLOURS
            .iter()
            .fold(rules.to_owned(), |css, (name, light, dark_value)| {
                css.replace(
                    &format!("var(--{name})"),
                    if dark { dark_value } else { light },
                )
            })
    });
    format!("{light}\n{DARK}{{\n{dark}}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contrast of two colours, as WCAG 2 defines it.
    fn contrast(a: &str, b: &str) -> f64 {
        let luminance = |colour: &str| {
            let channel = |i: usize| {
                let x = f64::from(u8::from_str_radix(&colour[i..i + 2], 16).unwrap()) / 255.0;
                if x <= 0.03928 {
                    x / 12.92
                } else {
                    ((x + 0.055) / 1.055).powf(2.4)
                }
            };
            0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
        };
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn text_can_be_read_on_every_background_in_both_schemes() {
        let scheme = |name: &str| {
            let (_, light, dark) = COLOURS.iter().find(|(n, ..)| *n == name).unwrap();
            [*light, *dark]
        };
        let pairs = [
            "ink",
            "soft",
            "accent",
            "good",
            "bad",
            "memory",
            "ranked",
            "fixed",
            "all-heads",
        ]
        .iter()
        .flat_map(|text| ["page", "card", "inset"].map(|behind| (*text, behind)))
        .chain([
            ("ink", "good-tint"),
            ("good", "good-tint"),
            ("ink", "bad-tint"),
            ("bad", "bad-tint"),
            ("soft", "good-tint"),
            ("soft", "bad-tint"),
        ]);
        for (text, behind) in pairs {
            for (text_colour, colour) in scheme(text).into_iter().zip(scheme(behind)) {
                let contrast = contrast(text_colour, colour);
                assert!(contrast >= 4.5, "{text} on {behind}: {contrast:.2}");
            }
        }
        for (axis, card) in scheme("axis").into_iter().zip(scheme("card")) {
            assert!(
                contrast(axis, card) >= 3.0,
                "axis: {:.2}",
                contrast(axis, card)
            );
        }
    }

    #[test]
    fn no_variable_is_left_in_a_style_sheet_without_them() {
        let css = without_variables(include_str!("front/plot.css"));
        assert!(!css.contains("var("), "{css}");
        assert_eq!(css.matches(DARK).count(), 1);
    }
}
