//! The text of a policy, in which applications are named before they have an id: `${application:NAME}` stands for the id,
//! `$${` for `${`.

use std::fmt;

/// A text with names of applications in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    /// As it is written.
    pub(super) source: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Application { name: String, line: u64, column: u64 },
}

/// A line and a column within a text, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    pub(super) line: u64,
    pub(super) column: u64,
}

/// What is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TemplateError {
    pub(super) at: At,
    pub(super) why: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Template {
    pub(super) fn parse(source: &str) -> Result<Self, TemplateError> {
        let (mut parts, mut text) = (Vec::new(), String::new());
        let mut rest = source;
        while let Some((before, after)) = rest.split_once("${") {
            let before_it = source.len().saturating_sub(after.len()).saturating_sub(2);
            if let Some(before) = before.strip_suffix('$') {
                text.push_str(before);
                text.push_str("${");
                rest = after;
                continue;
            }
            text.push_str(before);
            let at = place(source, before_it);
            let refuse = |why: String| TemplateError { at, why };
            let inner = after.split_once('}').filter(|(inner, _)| !inner.contains(['\n', '"']));
            let (inner, after) = inner
                .ok_or_else(|| refuse("\"${\" has no \"}\"; write \"$${\" where it is meant".to_owned()))?;
            let name = inner.strip_prefix("application:").map(str::trim).filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| {
                refuse(format!("${{{inner}}} is not known: write ${{application:NAME}}, or \"$${{\" where \"${{\" is meant"))
            })?;
            parts.push(Part::Text(std::mem::take(&mut text)));
            parts.push(Part::Application { name: name.to_owned(), line: at.line, column: at.column });
            rest = after;
        }
        text.push_str(rest);
        parts.push(Part::Text(text));
        Ok(Self { source: source.to_owned(), parts })
    }

    /// The applications that are named, and where.
    pub(super) fn applications(&self) -> impl Iterator<Item = (&str, At)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Application { name, line, column } => {
                Some((name.as_str(), At { line: *line, column: *column }))
            }
        })
    }

    /// The text with the ids; `Err` names an application that has none.
    pub(super) fn render(&self, id_of: impl Fn(&str) -> Option<String>) -> Result<String, String> {
        let mut text = String::with_capacity(self.source.len());
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Application { name, .. } => text.push_str(&id_of(name).ok_or_else(|| name.clone())?),
            }
        }
        Ok(text)
    }
}

/// Line and column of a byte.
fn place(source: &str, offset: usize) -> At {
    let before = source.get(..offset).unwrap_or(source);
    let line = before.matches('\n').count();
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX).saturating_add(1);
    At { line: count(line), column: count(column) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_take_the_place_of_names() {
        let id = |name: &str| (name == "a b").then(|| "ID".to_owned());
        for (source, expected) in [
            ("", Ok("")),
            ("x := 1", Ok("x := 1")),
            ("\"${application:a b}\"", Ok("\"ID\"")),
            ("$${application:a}$", Ok("${application:a}$")),
            ("ü${application:a b}${application:a b}", Ok("üIDID")),
            ("${application:other}", Err("other")),
        ] {
            let rendered = Template::parse(source).unwrap().render(id);
            assert_eq!(rendered, expected.map(str::to_owned).map_err(str::to_owned), "{source}");
        }
    }

    #[test]
    fn what_is_wrong_has_its_place() {
        for (source, line, column) in [
            ("${", 1, 1),
            ("a\nü ${x}", 2, 3),
            ("${application:}", 1, 1),
            ("$${a}\n\"${application:a\n}\"", 2, 2),
        ] {
            let error = Template::parse(source).unwrap_err();
            assert_eq!(error.at, At { line, column }, "{source}: {error}");
        }
    }
}
