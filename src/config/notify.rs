//! `[notify]`: webhooks and mail.

use std::collections::BTreeSet;

use crate::notify::settings::{
    APPROVERS_CHANNEL, EventPattern, Format, MAIL_CHANNEL, NotifySettings, SmtpSettings, SmtpTls, TOLD, WebhookSettings,
};

use super::name;
use super::receiver::{read_authorities, read_key, read_url};
use super::section::Section;

/// The longest list of webhooks.
const WEBHOOKS_MAX: usize = 32;

pub(in crate::config) fn read(mut section: Section<'_>) -> NotifySettings {
    let tables = section.sections("webhook");
    if tables.len() > WEBHOOKS_MAX {
        section.error("webhook", format!("{} webhooks are given", tables.len()), "at most 32 are taken");
    }
    let mut names = BTreeSet::from([MAIL_CHANNEL.to_owned(), APPROVERS_CHANNEL.to_owned()]);
    let webhooks = tables.into_iter().take(WEBHOOKS_MAX).filter_map(|table| read_webhook(table, &mut names)).collect();
    let smtp = if section.has("smtp") { read_smtp(section.section("smtp")) } else { None };
    NotifySettings { webhooks, smtp }
}

fn read_webhook(mut section: Section<'_>, names: &mut BTreeSet<String>) -> Option<WebhookSettings> {
    for key in ["name", "url"] {
        if !section.has(key) {
            section.missing(key, "each `[[notify.webhook]]` has a `name` and a `url`");
        }
    }
    let help =
        "each place that is told has a name of its own; `mail` and `mail_approvers` are those of `[notify.smtp]`";
    let name = name::read_own(&mut section, names, help);
    let allow_loopback = section.flag("allow_loopback");
    let url = read_url(&mut section, allow_loopback);
    let format = section
        .parsed("format", "`standard` or `slack`", |text| match text {
            "standard" => Some(Format::Standard),
            "slack" => Some(Format::Slack),
            _ => None,
        })
        .unwrap_or_default();
    let key = read_key(&mut section);
    if !section.has("secret") && format == Format::Standard {
        section.missing(
            "secret",
            "with it the receiver can tell our messages from others': `echo whsec_$(openssl rand -base64 32)`",
        );
    }
    let webhook = WebhookSettings {
        events: read_events(&mut section),
        authorities: read_authorities(&mut section),
        key,
        format,
        allow_loopback,
        name: name?,
        url: url?,
    };
    Some(webhook)
}

fn read_events(section: &mut Section<'_>) -> Vec<EventPattern> {
    let Some(given) = section.texts("events") else { return vec![EventPattern::All] };
    let mut events = Vec::with_capacity(given.len());
    for (text, place) in given {
        match EventPattern::parse(&text) {
            Some(pattern) => events.push(pattern),
            None => {
                let message = format!("`{}` is no kind of event that is told", text.escape_debug());
                let help = format!("write `*`, `request.*` or `request.created`; told are {}", TOLD.join(", "));
                section.ledger().error(&place, message, Some(help));
            }
        }
    }
    events
}

fn read_smtp(mut section: Section<'_>) -> Option<SmtpSettings> {
    for key in ["host", "from"] {
        if !section.has(key) {
            section.missing(key, "`[notify.smtp]` has a `host` and a `from`");
        }
    }
    let tls = section
        .parsed("tls", "`starttls`, `implicit` or `none`", |text| match text {
            "starttls" => Some(SmtpTls::Starttls),
            "implicit" => Some(SmtpTls::Implicit),
            "none" => Some(SmtpTls::None),
            _ => None,
        })
        .unwrap_or_default();
    let allow_loopback = section.flag("allow_loopback");
    if tls == SmtpTls::None && !allow_loopback {
        let help = "mail without TLS goes to a server on this machine only: add `allow_loopback = true`";
        section.error("tls", "`notify.smtp.tls` is `none`".into(), help);
    }
    let port = section.count("port", if tls == SmtpTls::Implicit { 465 } else { 587 }, 1..=65535);
    let user = section.text("username");
    let password = section.secret("password");
    if user.is_some() != password.is_some() {
        section.error("username", "`username` and `password` go together".into(), "give both, or neither");
    }
    if tls == SmtpTls::None && user.is_some() {
        section.error("username", "a password would be sent without TLS".into(), "use `tls = \"starttls\"`");
    }
    let to: Vec<String> = section.texts("to").unwrap_or_default().into_iter().map(|(text, _)| text).collect();
    let to_approvers = !section.has("to_approvers") || section.flag("to_approvers");
    if to.is_empty() && !to_approvers {
        section.missing("to", "give `to = [\"team@example.com\"]`, or leave `to_approvers` at `true`");
    }
    if to.is_empty() && to_approvers && section.has("to") {
        let message = "`notify.smtp.to` names nobody: no mail of `events` goes out, and approvers alone are told of \
                       what they may answer";
        let help = "give `to = [\"team@example.com\"]`, or leave `to` out";
        section.ledger().warning(&section.place_of("to"), message.to_owned(), Some(help.into()));
    }
    for address in &to {
        if !is_address(address) {
            section.error(
                "to",
                format!("`{}` is no e-mail address", address.escape_debug()),
                "write `name@example.com`",
            );
        }
    }
    let from = section.parsed("from", "an e-mail address such as `doorward@example.com`", |text| {
        is_address(text).then(|| text.to_owned())
    });
    let host = section
        .parsed("host", "the name of a mail server", |text| url::Host::parse(text).is_ok().then(|| text.to_owned()));
    Some(SmtpSettings {
        port: u16::try_from(port).unwrap_or(587),
        tls,
        login: user.zip(password),
        to,
        to_approvers,
        events: read_events(&mut section),
        authorities: read_authorities(&mut section),
        allow_loopback,
        host: host?,
        from: from?,
    })
}

/// What the mail library will take is stricter; this finds what is no address at all.
fn is_address(text: &str) -> bool {
    let plain = text.chars().all(|c| !c.is_control() && !c.is_whitespace() && !"<>,;\"".contains(c));
    plain
        && text
            .rsplit_once('@')
            .is_some_and(|(name, host)| !name.is_empty() && host.contains(|c: char| c.is_alphanumeric()))
}
