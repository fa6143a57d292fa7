//! The page for a browser: `page.html` with the data in it.

use super::{Report, json};

const PAGE: &str = include_str!("page.html");
/// The hashes are those of the page's one style sheet and its one script that runs; the data is a script that does not, and needs none. A test
/// computes them, and says what they are when the page has changed.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'sha256-FyReP+F3nJbi68yHjCAwJuIk+qyckNovPgruR68OT7U='; style-src 'sha256-0zhxnXgsOBH1pRw80o9I1minkodvsz/t/FFW5IJu9U0='; base-uri 'none'; form-action 'none'";
/// Where the data goes.
const DATA: &str = "/*DATA*/null";
/// Where the text for browsers without scripts goes.
const TEXT: &str = "<!--TEXT-->";

pub(super) fn html(report: &Report) -> String {
    let (head, rest) = PAGE.split_once(TEXT).unwrap_or((PAGE, ""));
    let (middle, tail) = rest.split_once(DATA).unwrap_or((rest, ""));
    let mut out = String::with_capacity(PAGE.len() + 300 * report.runs.len() + 4096);
    out.push_str(head);
    escape(&mut out, &report.to_string());
    out.push_str(middle);
    out.push_str(&json::page_data(report));
    out.push_str(tail);
    out
}

/// Text of HTML.
fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
}
