//! The shape of a document: whether its brackets pair up, and how deep its expressions can become.

use super::document::{ValidationError, ValidationErrorKind, here};
use super::source_text::{Token, TokenKind};

/// Deepest expression of a document: brackets, operators and references on the way to one value.
pub(super) const MAX_DEPTH: usize = 32;

/// Most brackets inside each other. The engine's parser tries several readings of each opening bracket, so its time
/// doubles with every level; a grant needs five.
pub(super) const MAX_NESTING: usize = 8;

/// Refuses brackets without a partner.
pub(super) fn check_delimiters(tokens: &[Token]) -> Result<(), ValidationError> {
    let mut open = Vec::new();
    for token in tokens {
        let TokenKind::Symbol(symbol) = token.kind else { continue };
        match symbol {
            '(' => open.push((')', token.position)),
            '[' => open.push((']', token.position)),
            '{' => open.push(('}', token.position)),
            ')' | ']' | '}' if open.pop().map(|(closing, _)| closing) != Some(symbol) => {
                return Err(here(ValidationErrorKind::UnbalancedDelimiters, token.position));
            }
            _ => {}
        }
    }
    match open.pop() {
        Some((_, position)) => Err(here(ValidationErrorKind::UnbalancedDelimiters, position)),
        None => Ok(()),
    }
}

/// Bounds how deep the expression tree can become, before a recursive parser sees the text. Brackets nest, and chains of
/// operators or of references nest just as well: each link of a chain adds a level. What a comma, a semicolon, a colon
/// or a new line separates starts a new chain.
pub(super) fn check_depth(tokens: &[Token]) -> Result<(), ValidationError> {
    // Links of the current chain, at each open bracket level.
    let mut chains = vec![0_usize];
    let mut depth = 1_usize;
    let mut previous: Option<&Token> = None;
    for token in tokens {
        let continues = is_operator(token) || previous.is_some_and(is_operator);
        let separates = token.starts_line && !continues
            || matches!(token.kind, TokenKind::Symbol(',' | ';' | ':' | ')' | ']' | '}'));
        if separates && let Some(chain) = chains.last_mut() {
            depth = depth.saturating_sub(std::mem::take(chain));
        }
        let follows_a_term = previous.is_some_and(|previous| {
            matches!(previous.kind, TokenKind::Path(_) | TokenKind::Text | TokenKind::Symbol(')' | ']' | '}'))
        });
        let links = match &token.kind {
            TokenKind::Symbol('(' | '[' | '{') => usize::from(follows_a_term),
            TokenKind::Path(path) => {
                path.matches('.').count().saturating_add(usize::from(is_operator(token)))
            }
            _ => usize::from(is_operator(token)),
        };
        if let Some(chain) = chains.last_mut() {
            *chain = chain.saturating_add(links);
        }
        depth = depth.saturating_add(links);
        match token.kind {
            TokenKind::Symbol('(' | '[' | '{') => {
                chains.push(0);
                depth = depth.saturating_add(1);
            }
            TokenKind::Symbol(')' | ']' | '}') => {
                chains.pop();
                depth = depth.saturating_sub(1);
            }
            _ => {}
        }
        if depth > MAX_DEPTH || chains.len() > MAX_NESTING.saturating_add(1) {
            return Err(here(ValidationErrorKind::TooDeep, token.position));
        }
        previous = Some(token);
    }
    Ok(())
}

fn is_operator(token: &Token) -> bool {
    match &token.kind {
        TokenKind::Path(path) => matches!(path.as_str(), "in" | "not" | "with"),
        TokenKind::Symbol(symbol) => "|&+-*/%<>=!.".contains(*symbol),
        TokenKind::Assign | TokenKind::Comparison => true,
        TokenKind::Text => false,
    }
}
