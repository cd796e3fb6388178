//! How rows are linked.
//!
//! A row's content hash covers its content, its place in the chain and the hash of the row before; its HMAC covers the
//! hash and the one before under a key that the database does not have (contract admin-audit §11.5, and §19.1 for
//! what is done better here).

use crate::canonical;
use aws_lc_rs::{digest, hmac};
use caracal_mandate::gateway_signature::to_hex;
use serde_json::Value;
use sqlx::Row as _;
use sqlx::any::AnyRow;

/// The key of the chains. Never printed.
#[derive(Clone)]
pub struct ChainKey(hmac::Key);

impl std::fmt::Debug for ChainKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChainKey(…)")
    }
}

/// What links a row to the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its place, from 1.
    pub seq: i64,
    /// The content hash of the row before, lower-case hex; none for the first.
    pub prev: Option<String>,
    /// SHA-256 over content, place and the hash before, lower-case hex.
    pub content_sha256: String,
    /// HMAC-SHA256 over the hash and the one before, lower-case hex.
    pub hmac: String,
}

impl Link {
    /// How a stored row is linked.
    pub(crate) fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            seq: row.try_get("chain_seq")?,
            prev: row.try_get("prev_content_sha256")?,
            content_sha256: row.try_get("content_sha256")?,
            hmac: row.try_get("chain_hmac")?,
        })
    }
}

/// The last row of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its place.
    pub seq: i64,
    /// Its content hash.
    pub content_sha256: String,
}

/// What is wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Fault {
    /// The record of which rows were pruned is not one of our key.
    Base,
    /// Its content is not what was hashed, or it stands at another place than it was written at.
    Content,
    /// Rows before it are missing.
    Gap,
    /// Its HMAC is not one of our key.
    Hmac,
    /// It does not follow the row before.
    Link,
    /// What stood at the end when the chain was checked before is not there any more.
    Truncated,
}

impl Fault {
    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Content => "content",
            Self::Gap => "gap",
            Self::Hmac => "hmac",
            Self::Link => "link",
            Self::Truncated => "truncated",
        }
    }
}

impl ChainKey {
    /// A key from its bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
    }

    /// Links `content` after `head`.
    #[must_use]
    pub fn link(&self, head: Option<&Head>, content: &Value) -> Link {
        self.link_text(head, &canonical::to_text(content))
    }

    /// Links a content whose canonical text is this after `head`.
    #[must_use]
    pub fn link_text(&self, head: Option<&Head>, content: &str) -> Link {
        let seq = head.map_or(1, |head| head.seq + 1);
        let prev = head.map(|head| head.content_sha256.clone());
        let content_sha256 = text_sha256(content, seq, prev.as_deref());
        let hmac = self.hmac(&content_sha256, prev.as_deref());
        Link { seq, prev, content_sha256, hmac }
    }

    /// Checks one row after the one before, `None` for the beginning of the chain.
    #[must_use]
    pub fn check(&self, before: Option<&Head>, content: &Value, link: &Link) -> Vec<Fault> {
        let mut faults = Vec::new();
        if content_sha256(content, link.seq, link.prev.as_deref()) != link.content_sha256 {
            faults.push(Fault::Content);
        }
        if link.seq != before.map_or(1, |head| head.seq + 1) {
            faults.push(Fault::Gap);
        }
        // Inequality of two texts that are both no secret: who can read one can read the other.
        if self.hmac(&link.content_sha256, link.prev.as_deref()) != link.hmac {
            faults.push(Fault::Hmac);
        }
        if link.prev.as_deref() != before.map(|head| head.content_sha256.as_str()) {
            faults.push(Fault::Link);
        }
        faults
    }

    /// Says under the key that the rows of a zone up to this one were pruned. No row's HMAC covers a text like this one.
    pub(crate) fn vouch_for_base(&self, zone: &str, head: &Head) -> String {
        self.sign(&format!("audit_base|{zone}|{}|{}", head.seq, head.content_sha256))
    }

    fn hmac(&self, content_sha256: &str, prev: Option<&str>) -> String {
        self.sign(&format!("{content_sha256}|{}", prev.unwrap_or_default()))
    }

    fn sign(&self, text: &str) -> String {
        to_hex(hmac::sign(&self.0, text.as_bytes()).as_ref())
    }
}

/// The hash of a content at its place.
#[must_use]
pub fn content_sha256(content: &Value, seq: i64, prev: Option<&str>) -> String {
    text_sha256(&canonical::to_text(content), seq, prev)
}

/// The hash of the canonical form of `{"chain_seq": …, "content": …, "prev_content_sha256": …}`, whose members stand in
/// their order already.
fn text_sha256(content: &str, seq: i64, prev: Option<&str>) -> String {
    let mut text = String::with_capacity(content.len() + 160);
    text.push_str("{\"chain_seq\":");
    canonical::write_integer(&mut text, seq);
    text.push_str(",\"content\":");
    text.push_str(content);
    text.push_str(",\"prev_content_sha256\":");
    canonical::write(&mut text, &prev.into());
    text.push('}');
    to_hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}
