//! `[session]` and `[tokens]`: how long what is issued lasts.

use crate::model::Ttl;

use super::section::Section;

/// How long a sign-in lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSettings {
    /// `lifetime`: from sign-in to the next one. Default 12 h.
    pub lifetime: Ttl,
    /// `idle`: a session that nobody used for so long is over. Default 4 h.
    pub idle: Ttl,
    /// `certificate_ttl`: of the command line's certificate, renewed by its next command. Default 1 h.
    pub certificate_ttl: Ttl,
    /// `recheck`: how often the provider is asked whether the person is still welcome. Default 15 min.
    pub recheck: Ttl,
    /// `device_code`: whether sign-in by a code on another screen is possible. Default no.
    pub device_code: bool,
}

/// How long tokens and the keys that sign them last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// `access`: default and most 15 min.
    pub access: Ttl,
    /// `refresh`: an unused refresh token is over. Default 12 h.
    pub refresh: Ttl,
    /// `assertion`: of `Doorward-Assertion`. Default and most 60 s.
    pub assertion: Ttl,
    /// `device_code`: a person has so long to type the code. Default 10 min.
    pub device_code: Ttl,
    /// `key_rotation`: how long a signing key signs. Default 30 days.
    pub key_rotation: Ttl,
    /// `key_announce`: how long the next key is in `/oauth2/jwks` before it signs. Default 1 day.
    pub key_announce: Ttl,
}

const DAY: Ttl = Ttl::hours(24);

pub(in crate::config) fn read_session(mut section: Section<'_>) -> SessionSettings {
    let lifetime = section.ttl("lifetime", Ttl::hours(12), Ttl::minutes(1)..=Ttl::hours(24 * 30));
    let given_certificate = section.has("certificate_ttl");
    let given_idle = section.has("idle");
    let mut settings = SessionSettings {
        lifetime,
        idle: section.ttl("idle", Ttl::hours(4), Ttl::minutes(1)..=Ttl::hours(24 * 30)),
        certificate_ttl: section.ttl("certificate_ttl", Ttl::hours(1), Ttl::seconds(10)..=DAY),
        recheck: section.ttl("recheck", Ttl::minutes(15), Ttl::seconds(10)..=DAY),
        device_code: section.flag("device_code"),
    };
    // What is given must fit; a default follows a shorter lifetime by itself.
    for (key, given, value) in [
        ("certificate_ttl", given_certificate, &mut settings.certificate_ttl),
        ("idle", given_idle, &mut settings.idle),
    ] {
        if *value > lifetime {
            if given {
                let message =
                    format!("`session.{key}` is {value}, longer than `session.lifetime`, which is {lifetime}");
                section.error(key, message, "nothing outlives its session: make it shorter, or the lifetime longer");
            }
            *value = lifetime;
        }
    }
    settings
}

pub(in crate::config) fn read_tokens(mut section: Section<'_>) -> Tokens {
    let tokens = Tokens {
        access: section.ttl("access", Ttl::minutes(15), Ttl::seconds(10)..=Ttl::minutes(15)),
        refresh: section.ttl("refresh", Ttl::hours(12), Ttl::minutes(1)..=Ttl::hours(24 * 30)),
        assertion: section.ttl("assertion", Ttl::seconds(60), Ttl::seconds(5)..=Ttl::seconds(60)),
        device_code: section.ttl("device_code", Ttl::minutes(10), Ttl::minutes(1)..=Ttl::minutes(30)),
        key_rotation: section.ttl("key_rotation", Ttl::hours(24 * 30), Ttl::hours(1)..=Ttl::hours(24 * 366)),
        key_announce: section.ttl("key_announce", DAY, Ttl::minutes(1)..=Ttl::hours(24 * 30)),
    };
    if tokens.key_announce >= tokens.key_rotation {
        let message = format!(
            "`tokens.key_announce` is {}, not shorter than `tokens.key_rotation`, which is {}",
            tokens.key_announce, tokens.key_rotation
        );
        section.error(
            "key_announce",
            message,
            "the next key is announced while the current one signs: make it shorter",
        );
    }
    tokens
}
