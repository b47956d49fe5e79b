//! The page, the plot and the model card of a report, as text and in a real browser.

#[path = "common/browser.rs"]
mod browser;
#[path = "common/report.rs"]
mod sample;

use std::path::Path;

use browser::Browser;
use pear_examples::pear::card::model_card;
use pear_examples::pear::front::{front_svg, terminal_front};
use pear_examples::pear::html::html;
use pear_examples::pear::pages::write_pages;
use pear_examples::pear::report::Report;

const PHONE: (u32, u32) = (390, 844);
const DESK: (u32, u32) = (1280, 900);

fn samples() -> [(&'static str, Report); 3] {
    [
        ("ship", sample::ship()),
        ("leave", sample::leave()),
        ("hostile", sample::hostile()),
    ]
}

#[test]
fn the_page_shows_every_candidate_and_every_interval_of_the_verdict() {
    let report = sample::ship();
    let page = html(&report).unwrap();
    for candidate in &report.candidates {
        assert!(
            page.contains(&format!("<code>{}</code>", candidate.id)),
            "{}",
            candidate.id
        );
    }
    for shown in [
        "27.0\u{a0}%",
        "45.5\u{a0}%",
        "+13.1 to +23.9",
        "46 gained, 3 lost",
        "1.9\u{a0}%",
        "0.0291",
        "+0.31 to +0.53",
    ] {
        assert!(page.contains(shown), "{shown}");
    }
    assert!(page.contains("Ship the re-weighted model"));
    let left = html(&sample::leave()).unwrap();
    assert!(left.contains("Leave the model alone") && !left.contains("What changed, on questions"));
    assert_eq!(page, html(&report).unwrap());
}

#[test]
fn markup_from_models_and_files_stays_text() {
    let report = sample::hostile();
    let page = html(&report).unwrap();
    assert!(
        !page.contains("<script") && !page.contains("<img"),
        "markup got through"
    );
    assert!(page.contains("&lt;script&gt;document.title="));
    assert!(page.contains("{{ 7*7 }}") && !page.contains("49}}"));
    let plot = front_svg(&report);
    assert!(!plot.contains("<script") && !plot.contains("<img"));
    let card = model_card(&report);
    assert!(
        !card
            .split("## How it was made")
            .next()
            .unwrap()
            .split("---")
            .nth(2)
            .unwrap()
            .contains("<script")
    );
    let terminal = terminal_front(&report);
    assert!(!terminal.contains('\u{1b}'));
}

#[test]
fn the_plot_in_the_terminal_marks_the_choice_and_keeps_to_its_lines() {
    let text = terminal_front(&sample::ship());
    assert!(
        text.contains("[7]  all-kl-80   KL 0.0288    45.8 %  chosen"),
        "{text}"
    );
    let plot: Vec<&str> = text.lines().filter(|line| line.contains('│')).collect();
    assert_eq!(plot.len(), 16, "{text}");
    // Higher up is better: the best one stands above the unmodified model.
    let line_of = |sign| {
        plot.iter()
            .position(|line| line.split('│').nth(1).unwrap().contains(sign))
            .unwrap()
    };
    assert!(
        line_of('9') < line_of('7') && line_of('7') < line_of('0'),
        "{text}"
    );
    assert!(text.lines().all(|line| line.chars().count() <= 100));
    assert!(terminal_front(&sample::leave()).contains("[0]  unmodified"));
}

#[test]
fn the_card_has_a_head_that_the_hub_reads_and_the_table_of_the_verdict() {
    let mut report = sample::ship();
    report.model.name = "HuggingFaceTB/SmolLM2-135M-Instruct".into();
    let card = model_card(&report);
    let head = card
        .strip_prefix("---\n")
        .unwrap()
        .split("\n---\n")
        .next()
        .unwrap();
    for line in [
        "base_model: \"HuggingFaceTB/SmolLM2-135M-Instruct\"",
        "library_name: gguf",
        "pipeline_tag: text-generation",
        "            value: 0.4549",
    ] {
        assert!(
            head.lines().any(|l| l == line),
            "`{line}` is not in:\n{head}"
        );
    }
    assert!(
        card.contains(
            "| 27.0\u{a0}% (21.7 to 33.1\u{a0}%) | 45.5\u{a0}% (39.2 to 51.9\u{a0}%) | **+18.5**"
        ),
        "{card}"
    );
    // Every row of a table has the columns of its heading.
    for table in card.split("\n\n").filter(|block| block.starts_with('|')) {
        let columns: Vec<usize> = table
            .lines()
            .map(|line| line.replace("\\|", "").matches('|').count())
            .collect();
        assert!(columns.iter().all(|count| *count == columns[0]), "{table}");
    }
    // The name of a file is no repository.
    assert!(!model_card(&sample::ship()).contains("base_model:"));
}

#[test]
fn in_a_browser_the_page_fits_a_telephone_and_a_desk_and_asks_for_nothing() {
    let Some(command) = browser::command() else {
        eprintln!("skipped: no browser: set PEAR_CHROMIUM, or have chromium on the path");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut browser = Browser::start(&command, &folder.path().join("profile"));
    for (name, report) in samples() {
        let pages = folder.path().join(name);
        std::fs::create_dir(&pages).unwrap();
        write_pages(&report, &pages).unwrap();
        for size in [PHONE, DESK] {
            for dark in [false, true] {
                check_page(&mut browser, &pages.join("report.html"), size, dark);
            }
        }
        check_plot(&mut browser, &pages.join("front.svg"));
    }
}

/// Loads the page and checks what a reader would see.
fn check_page(browser: &mut Browser, page: &Path, size: (u32, u32), dark: bool) {
    let name = format!(
        "{} at {} pixels, {}",
        page.display(),
        size.0,
        if dark { "dark" } else { "light" }
    );
    browser.load(&format!("file://{}", page.display()), size, dark);

    // With all that can be unfolded, every element ends within the window.
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)");
    assert_eq!(browser.evaluate("innerWidth"), size.0, "{name}");
    assert_eq!(
        browser.evaluate("document.documentElement.scrollWidth"),
        size.0,
        "{name}"
    );
    let outside = "[...document.querySelectorAll('main *')].filter(e => !e.closest('.sr, svg, thead') && e.getBoundingClientRect().right > innerWidth + 0.5)\
                   .map(e => e.outerHTML.slice(0, 200)).join('\\n')";
    assert_eq!(browser.evaluate(outside), "", "{name}");

    let drawn = |selector: &str| {
        format!(
            "[...document.querySelectorAll('{selector}')].filter(e => e.getBoundingClientRect().width > 0 && e.getBoundingClientRect().height > 0).length"
        )
    };
    // Of the two layouts of each picture one is shown: the front, and the scores and coefficients of all heads.
    let maps = browser.evaluate("document.querySelectorAll('.map').length");
    assert!(maps.as_u64().unwrap() >= 1, "{name}");
    assert_eq!(
        browser.evaluate(&drawn("figure:not(.map) svg[role=img]")),
        1,
        "{name}"
    );
    assert_eq!(
        browser.evaluate(&drawn(".map svg[role=img] use")),
        maps,
        "{name}"
    );
    assert!(
        browser
            .evaluate(&drawn("figure:not(.map) svg[role=img] .mark"))
            .as_u64()
            .unwrap()
            >= 10,
        "{name}"
    );
    let cells =
        browser.evaluate("Math.max(...[...document.querySelectorAll('.map svg[role=img] use')].map(e => e.getBBox().width))");
    assert!(cells.as_f64().unwrap() > 8.0, "{name}: {cells}");
    let background =
        browser.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 128");
    assert_eq!(background, dark, "{name}");

    // Names of pictures, headings in order, labels of cells: what a screen reader needs.
    assert_eq!(browser.evaluate("[...document.querySelectorAll('svg[role=img]')].every(e => e.getAttribute('aria-label').length > 20)"), true);
    assert_eq!(
        browser.evaluate(
            "document.querySelectorAll('h1').length === 1 && document.documentElement.lang === 'en'"
        ),
        true
    );
    assert_eq!(browser.evaluate("document.scripts.length"), 0, "{name}");
    let title = browser.evaluate("document.title");
    assert!(
        title.as_str().unwrap().starts_with("PEAR report: "),
        "{name}: {title}"
    );

    let requests = browser.events_of("Network.requestWillBeSent");
    let urls: Vec<_> = requests
        .iter()
        .filter_map(|request| request["request"]["url"].as_str())
        .collect();
    assert_eq!(urls.len(), 1, "{name}: {urls:?}");
    for method in [
        "Log.entryAdded",
        "Runtime.consoleAPICalled",
        "Runtime.exceptionThrown",
    ] {
        assert!(
            browser.events_of(method).is_empty(),
            "{name}: {:?}",
            browser.events_of(method)
        );
    }
    save_screenshot(browser, page, size, dark);
}

/// The plot alone is an image that a browser can read, with a line through the front.
fn check_plot(browser: &mut Browser, plot: &Path) {
    browser.load(&format!("file://{}", plot.display()), DESK, true);
    assert_eq!(browser.evaluate("document.documentElement.tagName"), "svg");
    assert_eq!(
        browser.evaluate("getComputedStyle(document.querySelector('.front')).stroke"),
        "rgb(79, 209, 181)"
    );
    assert!(
        browser
            .evaluate("document.querySelectorAll('.mark').length")
            .as_u64()
            .unwrap()
            >= 10
    );
    assert!(browser.events_of("Log.entryAdded").is_empty());
}

/// Saves what was seen to the folder that `PEAR_SCREENSHOTS` names, for somebody to look at: the PNG in base64.
fn save_screenshot(browser: &mut Browser, page: &Path, (width, _): (u32, u32), dark: bool) {
    let Some(folder) = std::env::var_os("PEAR_SCREENSHOTS") else {
        return;
    };
    let name = page
        .parent()
        .unwrap()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap();
    let scheme = if dark { "dark" } else { "light" };
    let file = Path::new(&folder).join(format!("{name}-{width}-{scheme}.png.base64"));
    std::fs::write(file, browser.screenshot()).unwrap();
}
