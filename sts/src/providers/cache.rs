//! Tokens of services, kept in the process until shortly before they expire (contract sts §22.3).

use super::hidden::Hidden;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// A token is not handed out any more within this time of its end, in milliseconds.
pub(super) const MARGIN: i64 = 30_000;
/// How many tokens are kept.
const MAX: usize = 4096;

/// A token and its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) secret: Hidden,
    /// Unix milliseconds.
    pub(super) expires_at: i64,
}

impl Token {
    fn is_good(&self, now: i64) -> bool {
        now.saturating_add(MARGIN) < self.expires_at
    }
}

/// What a token was fetched with: another configuration or another secret is another token.
pub(super) type Fingerprint = [u8; 32];

/// The tokens, by provider.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<String, (Fingerprint, Token)>>);

impl Tokens {
    pub(super) fn get(&self, provider: &str, fingerprint: &Fingerprint, now: i64) -> Option<Token> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (with, token) = tokens.get(provider)?;
        (with == fingerprint && token.is_good(now)).then(|| token.clone())
    }

    /// Keeps a token in place of the one before, unless its time is as good as up.
    pub(super) fn keep(&self, provider: &str, fingerprint: Fingerprint, token: Token, now: i64) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !token.is_good(now) {
            tokens.remove(provider);
            return;
        }
        if tokens.len() >= MAX && !tokens.contains_key(provider) {
            tokens.retain(|_, (_, token)| token.is_good(now));
            let soonest = tokens.iter().min_by_key(|(_, (_, token))| token.expires_at);
            if let (true, Some(id)) = (tokens.len() >= MAX, soonest.map(|(id, _)| id.clone())) {
                tokens.remove(&id);
            }
        }
        tokens.insert(provider.to_owned(), (fingerprint, token));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(expires_at: i64) -> Token {
        Token { secret: Hidden::new("t"), expires_at }
    }

    #[test]
    fn contract_sts_22_3_never_within_thirty_seconds_of_its_end_nor_for_another_configuration() {
        let tokens = Tokens::default();
        tokens.keep("p", [1; 32], token(MARGIN + 100), 0);
        assert!(tokens.get("p", &[1; 32], 99).is_some());
        assert!(tokens.get("p", &[1; 32], 100).is_none());
        assert!(tokens.get("p", &[2; 32], 0).is_none());
        assert!(tokens.get("q", &[1; 32], 0).is_none());
        tokens.keep("p", [2; 32], token(MARGIN), 0);
        assert!(tokens.get("p", &[1; 32], 0).is_none(), "what was before is gone all the same");
    }

    #[test]
    fn no_more_than_so_many_are_kept() {
        let tokens = Tokens::default();
        for number in 0..MAX + 5 {
            let end = MARGIN + 1 + i64::try_from(number).unwrap();
            tokens.keep(&number.to_string(), [0; 32], token(end), 0);
        }
        assert_eq!(tokens.0.lock().unwrap().len(), MAX);
        assert!(tokens.get("0", &[0; 32], 0).is_none() && tokens.get("4100", &[0; 32], 0).is_some());
    }
}
