//! Rego source as text: what can be known about a document without parsing it.
//!
//! Comments and string contents are blanked out first, so that nothing inside them is mistaken for code; positions
//! stay those of the original text. What is left is cut into names and single characters, which is all that the
//! textual rules of the document contract need (contract admin-audit §5.10).

use std::fmt;

use serde::Serialize;

/// A place in a document; both numbers count from one, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Position {
    /// Line, from one.
    pub line: u32,
    /// Column in characters, from one.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}, column {}", self.line, self.column)
    }
}

/// A string literal without an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnterminatedString(pub(super) Position);

/// A piece of stripped source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) position: Position,
    /// No other token stands before this one on its line.
    pub(super) starts_line: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A name, or names joined by dots without spaces between: `data.caracal.authz.grants`.
    Path(String),
    /// A whole string literal, whatever it says.
    Text,
    /// `:=`
    Assign,
    /// `==`, `!=`, `<=` or `>=`
    Comparison,
    /// Any other character that is not white space.
    Symbol(char),
}

impl Token {
    pub(super) fn path(&self) -> Option<&str> {
        match &self.kind {
            TokenKind::Path(path) => Some(path),
            _ => None,
        }
    }

    pub(super) fn is_symbol(&self, symbol: char) -> bool {
        self.kind == TokenKind::Symbol(symbol)
    }
}

/// Cuts `source` into tokens; comments vanish.
pub(super) fn tokens(source: &str) -> Result<Vec<Token>, UnterminatedString> {
    let mut reader = Reader { characters: source.chars().peekable(), line: 1, column: 1 };
    let mut tokens = Vec::new();
    let mut last_line = 0;
    while let Some(character) = reader.characters.peek().copied() {
        let position = Position { line: reader.line, column: reader.column };
        let kind = match character {
            '#' => {
                while reader.characters.peek().is_some_and(|next| *next != '\n') {
                    reader.advance();
                }
                continue;
            }
            '"' => reader.quoted(position)?,
            '`' => reader.raw(position)?,
            _ if character.is_whitespace() || character == '\u{feff}' => {
                reader.advance();
                continue;
            }
            _ if is_name_start(character) => reader.path(),
            _ if character.is_ascii_digit() => reader.number(),
            _ => reader.symbol(character),
        };
        tokens.push(Token { kind, position, starts_line: position.line != last_line });
        last_line = reader.line;
    }
    Ok(tokens)
}

/// Whether a comment line of `source` is the marker of a data document: `# caracal:data-document`.
pub(super) fn has_data_document_marker(source: &str) -> bool {
    source.lines().any(|line| {
        line.trim_start()
            .strip_prefix('#')
            .and_then(|comment| comment.trim_start().strip_prefix("caracal:data-document"))
            .is_some_and(|rest| !rest.starts_with(is_name_part))
    })
}

fn is_name_start(character: char) -> bool {
    character == '_' || character.is_ascii_alphabetic()
}

fn is_name_part(character: char) -> bool {
    character == '_' || character.is_ascii_alphanumeric()
}

struct Reader<'a> {
    characters: std::iter::Peekable<std::str::Chars<'a>>,
    line: u32,
    column: u32,
}

impl Reader<'_> {
    fn advance(&mut self) -> Option<char> {
        let character = self.characters.next()?;
        if character == '\n' {
            self.line = self.line.saturating_add(1);
            self.column = 1;
        } else {
            self.column = self.column.saturating_add(1);
        }
        Some(character)
    }

    fn quoted(&mut self, start: Position) -> Result<TokenKind, UnterminatedString> {
        self.advance();
        loop {
            match self.advance() {
                Some('"') => return Ok(TokenKind::Text),
                Some('\\') if self.characters.peek().is_some_and(|next| *next != '\n') => {
                    self.advance();
                }
                None | Some('\n') => return Err(UnterminatedString(start)),
                Some(_) => {}
            }
        }
    }

    fn raw(&mut self, start: Position) -> Result<TokenKind, UnterminatedString> {
        self.advance();
        loop {
            match self.advance() {
                Some('`') => return Ok(TokenKind::Text),
                None => return Err(UnterminatedString(start)),
                Some(_) => {}
            }
        }
    }

    fn path(&mut self) -> TokenKind {
        let mut path = String::new();
        while let Some(next) = self.characters.peek().copied() {
            let joins = next == '.' && {
                let mut ahead = self.characters.clone();
                ahead.next();
                ahead.peek().copied().is_some_and(is_name_start)
            };
            if !is_name_part(next) && !joins {
                break;
            }
            path.push(next);
            self.advance();
        }
        TokenKind::Path(path)
    }

    /// A number; the letters of an exponent belong to it.
    fn number(&mut self) -> TokenKind {
        while self.characters.peek().is_some_and(|next| is_name_part(*next) || *next == '.') {
            self.advance();
        }
        TokenKind::Symbol('0')
    }

    fn symbol(&mut self, first: char) -> TokenKind {
        self.advance();
        let followed_by_equals = self.characters.peek() == Some(&'=');
        match first {
            ':' if followed_by_equals => {
                self.advance();
                TokenKind::Assign
            }
            '=' | '!' | '<' | '>' if followed_by_equals => {
                self.advance();
                TokenKind::Comparison
            }
            _ => TokenKind::Symbol(first),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_string_contents_are_not_code() {
        let found = tokens("a.b := \"http.send(\" # input.x\n `data.y` input.z").unwrap();
        let paths: Vec<&str> = found.iter().filter_map(Token::path).collect();
        assert_eq!(paths, ["a.b", "input.z"]);
        assert_eq!(found.last().unwrap().position, Position { line: 2, column: 11 });
    }

    #[test]
    fn escapes_do_not_end_a_string_and_line_ends_do() {
        assert!(tokens(r#"x := "a\"b""#).is_ok());
        assert_eq!(tokens("x := \"a\n\""), Err(UnterminatedString(Position { line: 1, column: 6 })));
        assert_eq!(tokens("x := `a\n"), Err(UnterminatedString(Position { line: 1, column: 6 })));
    }

    #[test]
    fn the_marker_is_a_comment_line_of_its_own() {
        for (source, marked) in [
            ("# caracal:data-document", true),
            ("package x\n   #caracal:data-document trailing", true),
            ("# caracal:data-documents", false),
            ("x := 1 # caracal:data-document", false),
            ("caracal:data-document", false),
        ] {
            assert_eq!(has_data_document_marker(source), marked, "{source}");
        }
    }
}
