//! Words for people: coloured on a terminal, plain anywhere else.

use std::io::IsTerminal as _;
use std::sync::LazyLock;

static COLOURS: LazyLock<bool> = LazyLock::new(|| {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
});

fn paint(code: &str, text: &str) -> String {
    if *COLOURS { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// A heading.
pub(crate) fn heading(text: &str) -> String {
    paint("1", text)
}

/// Something that went well.
pub(crate) fn success(text: &str) -> String {
    paint("32", text)
}

/// Something that did not.
pub(crate) fn failure(text: &str) -> String {
    paint("31", text)
}

/// Something beside the point.
pub(crate) fn faint(text: &str) -> String {
    paint("2", text)
}
