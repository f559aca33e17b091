//! Cookies of browsers: a session's, and the one that binds a sign-in to the browser that began it.
//!
//! Both are 32 random bytes in base64url and are kept only as their SHA-256. INVARIANTS: the
//! names have the prefix `__Host-` (RFC 6265bis §4.1.3.2), so that no sibling host can set or shadow
//! them; a request that carries one name twice carries none that is believed (ATTACKS A42).

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use http::HeaderMap;
use http::header::COOKIE;
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use super::directory::CookieHash;
use crate::model::Entropy;

/// The cookie of a browser's session at one host.
pub const SESSION_COOKIE: &str = "__Host-doorward";
/// The cookie that binds a sign-in under way to its browser.
pub const FLOW_COOKIE: &str = "__Host-doorward-flow";

/// The secret value of a cookie.
pub struct CookieValue([u8; 32]);

impl Drop for CookieValue {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for CookieValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieValue(…)")
    }
}

impl CookieValue {
    /// A value that nobody has yet.
    #[must_use]
    pub fn fresh(entropy: &dyn Entropy) -> Self {
        Self(entropy.bytes_32())
    }

    /// Reads the 43 characters of a value.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        BASE64URL_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok().map(Self)
    }

    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> CookieHash {
        Sha256::digest(BASE64URL_NOPAD.encode(&self.0).as_bytes()).into()
    }

    /// The `Set-Cookie` field that gives it to a browser. It is a session cookie: how long it is
    /// good for is decided here and not by the browser.
    #[must_use]
    pub fn set(&self, name: &str) -> String {
        format!("{name}={}; Path=/; Secure; HttpOnly; SameSite=Lax", BASE64URL_NOPAD.encode(&self.0))
    }

    /// As [`CookieValue::set`], but the browser forgets it after so many seconds.
    #[must_use]
    pub fn set_for(&self, name: &str, seconds: i64) -> String {
        format!("{}; Max-Age={seconds}", self.set(name))
    }

    /// What a form of ours carries to show that it came from a page that this cookie was shown: it
    /// follows from the cookie, and the cookie can't be found from it.
    #[must_use]
    pub fn form_token(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(b"doorward form 1\0");
        hash.update(self.0);
        BASE64URL_NOPAD.encode(&hash.finalize())
    }

    /// The text itself, for the one line where it leaves.
    #[must_use]
    pub fn expose(&self) -> String {
        BASE64URL_NOPAD.encode(&self.0)
    }
}

/// The `Set-Cookie` field that takes a cookie away from a browser.
#[must_use]
pub fn unset(name: &str) -> String {
    format!("{name}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0")
}

/// What a request says under a cookie's name.
#[derive(Debug)]
pub enum Presented {
    /// Nothing.
    Absent,
    /// One value of the right form.
    One(CookieValue),
    /// Several values, or one that can't be ours.
    Bad,
}

/// Reads one cookie of a request. HTTP/2 may split the field into crumbs, so all are read. Fields are
/// bytes: a sibling host may have set a cookie with others than ASCII in it, which is no business of ours.
#[must_use]
pub fn presented(headers: &HeaderMap, name: &str) -> Presented {
    let mut found = Presented::Absent;
    let crumbs = headers.get_all(COOKIE).iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    for crumb in crumbs {
        let mut halves = crumb.splitn(2, |byte| *byte == b'=').map(<[u8]>::trim_ascii);
        let (Some(key), Some(value)) = (halves.next(), halves.next()) else { continue };
        if key != name.as_bytes() {
            continue;
        }
        let value = std::str::from_utf8(value).ok();
        found = match (found, value.and_then(CookieValue::parse)) {
            (Presented::Absent, Some(value)) => Presented::One(value),
            _ => return Presented::Bad,
        };
    }
    found
}
