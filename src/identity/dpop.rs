//! Proofs of possession that a client makes for each request (RFC 9449).
//!
//! INVARIANTS: a proof is signed by the key that it carries, for one method and address, a moment
//! ago, and for the one token that it comes with; it is good once, which its [`Proof::once`] lets
//! the caller see to. Nothing of it is remembered as verified.

use std::fmt;

use data_encoding::{BASE64URL_NOPAD, HEXUPPER_PERMISSIVE};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use url::Url;

use super::dpop_nonce::Nonces;
use super::token::{self, KeySet};
use crate::model::{Thumbprint, Timestamp, Ttl};

/// Algorithms of proofs, for metadata and challenges.
pub const ALGORITHMS: [&str; 3] = ["ES256", "EdDSA", "RS256"];
/// How old a proof may be.
const AGE_MAX: Ttl = Ttl::seconds(60);
/// How far ahead of ours a client's clock may be.
const AHEAD_MAX: Ttl = Ttl::seconds(10);
/// The longest proof that is looked at, in bytes.
const PROOF_BYTES_MAX: usize = 4 * 1024;
/// The longest `jti`, in bytes.
const JTI_BYTES_MAX: usize = 255;
/// Sizes of RSA moduli, in bytes.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
/// Members of a JWK that are private or symmetric (RFC 7518 §6).
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// What a proof must have been made for.
#[derive(Debug, Clone, Copy)]
pub struct Purpose<'a> {
    /// The request's method.
    pub method: &'a str,
    /// Its host, lower case.
    pub host: &'a str,
    /// The port that clients reach us at.
    pub port: u16,
    /// Its path, as it is judged.
    pub path: &'a str,
    /// The token that comes with it; none at the token endpoint.
    pub token: Option<&'a str>,
    /// Whose nonce it must have (§8).
    pub nonces: &'a Nonces,
}

/// A proof that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// SHA-256 of its key (RFC 7638): what a token's `cnf.jkt` names.
    pub key: Thumbprint,
    /// What may be used once: SHA-256 over its key and `jti`.
    pub once: [u8; 32],
    /// Until when that has to be remembered.
    pub remember_until: Timestamp,
}

/// Why a proof does not hold. The text is for the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProofError(pub &'static str);

impl fmt::Display for ProofError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the DPoP proof does not hold: {}", self.0)
    }
}

impl std::error::Error for ProofError {}

/// A proof that holds but for its nonce: its maker is given one and tries again (§8).
pub const NONCE_WANTED: ProofError = ProofError("it has no `nonce` of ours, or an old one");

/// The thumbprint of a public key (RFC 7638 §3.2, RFC 8037 §2): SHA-256 over its required members in
/// order. `None` for a key of no kind that proofs are made with.
fn thumbprint(jwk: &Map<String, Value>) -> Option<Thumbprint> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let canonical = match text("kty")? {
        "EC" => json!({ "crv": text("crv")?, "kty": "EC", "x": text("x")?, "y": text("y")? }),
        "OKP" => json!({ "crv": text("crv")?, "kty": "OKP", "x": text("x")? }),
        "RSA" => {
            let bytes = BASE64URL_NOPAD.decode(text("n")?.as_bytes()).ok()?;
            if !RSA_BYTES.contains(&bytes.len()) {
                return None;
            }
            json!({ "e": text("e")?, "kty": "RSA", "n": text("n")? })
        }
        _ => return None,
    };
    // serde_json writes the members of a map in the order of their names, and no blanks.
    Some(Thumbprint::of(canonical.to_string().as_bytes()))
}

/// Reads a proof.
///
/// # Errors
/// The first thing that does not hold.
pub fn verify(proof: &str, purpose: &Purpose<'_>, now: Timestamp) -> Result<Proof, ProofError> {
    if proof.len() > PROOF_BYTES_MAX {
        return Err(ProofError("it is too long"));
    }
    let malformed = ProofError("it is no signed JWT");
    let encoded = proof.split('.').next().ok_or(malformed)?;
    let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| malformed)?;
    let mut header: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|_| malformed)?;
    let algorithm = header.get("alg").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !ALGORITHMS.contains(&algorithm.as_str()) {
        return Err(ProofError("its `alg` is none of ours"));
    }
    let kid = header.remove("kid");
    let Some(Value::Object(mut jwk)) = header.remove("jwk") else { return Err(ProofError("it has no `jwk`")) };
    if PRIVATE_MEMBERS.iter().any(|name| jwk.contains_key(*name)) {
        return Err(ProofError("its `jwk` has a private part"));
    }
    if jwk.get("alg").is_some_and(|named| *named != algorithm.as_str()) {
        return Err(ProofError("its `jwk` is for another `alg`"));
    }
    let key = thumbprint(&jwk).ok_or(ProofError("its `jwk` is of no kind that is taken"))?;
    jwk.insert("alg".to_owned(), algorithm.into());
    jwk.remove("kid");
    if let Some(kid) = kid {
        jwk.insert("kid".to_owned(), kid);
    }
    let keys = KeySet::from_json(&json!({ "keys": [jwk] }));
    let claims = token::signed_claims(proof, &keys, &["dpop+jwt"])
        .map_err(|_| ProofError("its header or signature does not hold"))?;
    held(&claims, key, purpose, now)
}

fn held(
    claims: &Map<String, Value>,
    key: Thumbprint,
    purpose: &Purpose<'_>,
    now: Timestamp,
) -> Result<Proof, ProofError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("htm") != Some(purpose.method) {
        return Err(ProofError("its `htm` is another method"));
    }
    if !text("htu").is_some_and(|htu| is_address_of(htu, purpose)) {
        return Err(ProofError("its `htu` is another address"));
    }
    let issued_at = token::time_claim(claims, "iat").ok().flatten().ok_or(ProofError("its `iat` is missing"))?;
    if issued_at > now.plus(AHEAD_MAX) || issued_at.plus(AGE_MAX).is_over(now) {
        return Err(ProofError("its `iat` is not of this minute"));
    }
    let jti = text("jti").filter(|jti| !jti.is_empty() && jti.len() <= JTI_BYTES_MAX);
    let jti = jti.ok_or(ProofError("its `jti` is missing"))?;
    match (purpose.token, text("ath")) {
        (None, _) => {}
        (Some(token), Some(ath)) => {
            let wanted = BASE64URL_NOPAD.encode(&Sha256::digest(token.as_bytes()));
            if !bool::from(wanted.as_bytes().ct_eq(ath.as_bytes())) {
                return Err(ProofError("its `ath` is of another token"));
            }
        }
        (Some(_), None) => return Err(ProofError("its `ath` is missing")),
    }
    // ORDER: last, so that a nonce is given only for a proof that would be good with it.
    if !text("nonce").is_some_and(|nonce| purpose.nonces.holds(nonce, now)) {
        return Err(NONCE_WANTED);
    }
    let mut once = Sha256::new();
    once.update(b"dpop\0");
    once.update(key.bytes());
    once.update(jti.as_bytes());
    Ok(Proof { key, once: once.finalize().into(), remember_until: issued_at.plus(AGE_MAX).plus(AHEAD_MAX) })
}

/// Whether `htu` is the address of the request, query and fragment left aside, both in their normal form
/// (RFC 9449 §4.3).
fn is_address_of(htu: &str, purpose: &Purpose<'_>) -> bool {
    let Ok(url) = Url::parse(htu) else { return false };
    let here = url.scheme() == "https"
        && url.username().is_empty()
        && url.password().is_none()
        && url.host_str() == Some(purpose.host)
        && url.port_or_known_default() == Some(purpose.port);
    here && normal(url.path()) == normal(purpose.path)
}

/// A path with what needs no encoding decoded and the rest encoded in capitals (RFC 3986 §6.2.2), as the
/// path that is judged is. `Url` has resolved its dots; one that has any is never judged.
fn normal(path: &str) -> String {
    let mut parts = path.split('%');
    let mut normal = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_at_checked(2).and_then(|(hex, rest)| Some((decoded(hex)?, rest))) {
            Some((byte @ (b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~'), rest)) => {
                normal.push(char::from(byte));
                normal.push_str(rest);
            }
            Some((byte, rest)) => normal.push_str(&format!("%{byte:02X}{rest}")),
            None => normal.push_str(&format!("%{part}")),
        }
    }
    normal
}

fn decoded(hex: &str) -> Option<u8> {
    HEXUPPER_PERMISSIVE.decode(hex.as_bytes()).ok()?.first().copied()
}
