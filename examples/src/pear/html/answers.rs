//! Texts of models and files with the two answers marked.

use crate::draw::svg::escape;

/// A text as HTML in which the answer of the context and the one that the model remembers are marked, as whole words in any case.
pub(super) fn marked(text: &str, context: &str, memory: &str) -> String {
    let mut html = String::new();
    let mut rest = text;
    let mut before = None;
    while let Some(c) = rest.chars().next() {
        let found = [(memory, "memory"), (context, "context")]
            .into_iter()
            .filter_map(|(answer, class)| Some((starts_with(rest, answer)?, class)))
            .filter(|_| before.is_none_or(|c: char| !c.is_alphanumeric()))
            .max_by_key(|(length, _)| *length);
        let length = match found {
            Some((length, class)) => {
                html += &format!(
                    r#"<mark class="{class}">{}</mark>"#,
                    escape(&rest[..length])
                );
                length
            }
            None => {
                html += &escape(&rest[..c.len_utf8()]);
                c.len_utf8()
            }
        };
        before = rest[..length].chars().next_back();
        rest = &rest[length..];
    }
    html
}

/// The length in bytes of `answer` at the start of `text`, if it ends with a word there.
fn starts_with(text: &str, answer: &str) -> Option<usize> {
    let answer = answer.trim();
    if answer.is_empty() {
        return None;
    }
    let mut rest = text.chars();
    for expected in answer.chars() {
        if !rest.next()?.to_lowercase().eq(expected.to_lowercase()) {
            return None;
        }
    }
    let length = text.len() - rest.as_str().len();
    rest.next()
        .is_none_or(|c| !c.is_alphanumeric())
        .then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_answers_are_marked_as_whole_words_in_any_case() {
        assert_eq!(
            marked("PARIS, not Parish: rome.", "Paris", "Rome"),
            "<mark class=\"context\">PARIS</mark>, not Parish: <mark class=\"memory\">rome</mark>."
        );
        assert_eq!(marked("x", "", " "), "x");
        // Where both are the same, it is the context's.
        assert_eq!(marked("x", "x", "x"), "<mark class=\"context\">x</mark>");
        assert_eq!(
            marked("New York", "York", "New York"),
            "<mark class=\"memory\">New York</mark>"
        );
        assert_eq!(marked("İzmir!", "izmir", "x"), "İzmir!");
    }

    #[test]
    fn markup_stays_text_within_and_outside_of_answers() {
        let html = marked("<script>alert(1)</script> & <b>", "<b>", "alert(1)");
        assert_eq!(
            html,
            "&lt;script&gt;<mark class=\"memory\">alert(1)</mark>&lt;/script&gt; &amp; <mark class=\"context\">&lt;b&gt;</mark>"
        );
    }
}
