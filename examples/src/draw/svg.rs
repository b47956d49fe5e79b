//! SVG elements as text.

use std::fmt::Write;

/// Text that stands for itself in HTML, in XML and in their attributes: what is markup there is escaped; control characters, which XML
/// does not allow, become U+FFFD.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            '\n' | '\t' => escaped.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A coordinate: two decimals at most.
pub(crate) fn coordinate(x: f64) -> String {
    let text = format!("{x:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Elements, one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Elements(String);

impl Elements {
    /// A line with a class.
    pub(crate) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(coordinate);
        self.push(format_args!(
            r#"<line class="{class}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>"#
        ));
    }

    /// A path through points, not closed.
    pub(crate) fn polyline(&mut self, class: &str, points: &[(f64, f64)]) {
        let points: Vec<String> = points
            .iter()
            .map(|&(x, y)| format!("{},{}", coordinate(x), coordinate(y)))
            .collect();
        self.push(format_args!(
            r#"<polyline class="{class}" points="{}"/>"#,
            points.join(" ")
        ));
    }

    /// A line of text; `class` says how it is anchored.
    pub(crate) fn text(&mut self, class: &str, at: (f64, f64), text: &str) {
        let (x, y) = (coordinate(at.0), coordinate(at.1));
        self.push(format_args!(
            r#"<text class="{class}" x="{x}" y="{y}">{}</text>"#,
            escape(text)
        ));
    }

    /// Markup that is added as it is.
    pub(crate) fn push(&mut self, markup: impl std::fmt::Display) {
        let _ = write!(self.0, "{markup}");
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_and_control_characters_are_escaped() {
        assert_eq!(
            escape("<b title=\"x\" id='y'>&\n\u{1b}[2J</b>"),
            "&lt;b title=&quot;x&quot; id=&#39;y&#39;&gt;&amp;\n\u{fffd}[2J&lt;/b&gt;"
        );
    }

    #[test]
    fn coordinates_are_short() {
        assert_eq!(
            [0.0, 1.5, 100.0, 2.73828].map(coordinate),
            ["0", "1.5", "100", "2.74"]
        );
    }
}
