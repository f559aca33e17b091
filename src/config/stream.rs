//! `[[audit.stream]]`: receivers outside that get the record as it grows; and the syslog receiver of a
//! witness.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::audit::settings::{Selection, StreamFormat, TypePattern};
use crate::model::{Secret, ServiceName, Ttl};
use crate::outbound::settings::{ClientCertificate, SyslogSettings};

use super::certificate::pair_of;
use super::name;
use super::receiver::{read_authorities, read_key, read_url};
use super::section::Section;

/// The longest list of streams.
const STREAMS_MAX: usize = 16;

/// One stream of the record.
#[derive(Debug, Clone)]
pub struct Stream {
    /// `name`: what it is called in the database, in metrics and on record.
    pub name: String,
    /// `kind`, and where to.
    pub receiver: Receiver,
    /// `format`. Default `jsonl`.
    pub format: StreamFormat,
    /// `types` and `services`: which events; without them all.
    pub selection: Selection,
    /// `from = "beginning"`: a new stream begins with the first event on record, not with the next one.
    pub from_beginning: bool,
    /// `batch`: events that are sent at a time at most.
    pub batch: u32,
    /// `interval`: how often it is looked for new ones.
    pub interval: Ttl,
    /// `stalled_after`: when nothing was taken for so long, that is told.
    pub stalled_after: Ttl,
}

/// Who gets a stream.
#[derive(Debug, Clone)]
pub enum Receiver {
    /// RFC 5424 over TLS.
    Syslog(SyslogSettings),
    /// Lines in the body of a POST, signed.
    Webhook(HttpReceiver),
    /// OTLP logs over HTTP, in protobuf.
    Otlp(HttpReceiver),
}

impl Receiver {
    /// Its kind, as it is written.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Syslog(_) => "syslog",
            Self::Webhook(_) => "webhook",
            Self::Otlp(_) => "otlp",
        }
    }
}

/// A receiver of POSTs.
#[derive(Debug, Clone)]
pub struct HttpReceiver {
    /// `url`. May itself be a secret.
    pub url: Arc<Secret<String>>,
    /// `secret`: the key that signs, of a webhook.
    pub key: Option<Arc<Secret<Vec<u8>>>>,
    /// `authorization`: the value of that header field, where the receiver wants one.
    pub authorization: Option<Arc<Secret<String>>>,
    /// `ca`: authorities beside the public ones.
    pub authorities: Vec<rustls::pki_types::CertificateDer<'static>>,
    /// `certificate` and `key`: what is shown to a receiver that asks for a certificate.
    pub certificate: Option<ClientCertificate>,
    /// `allow_loopback`: it may be on this machine.
    pub allow_loopback: bool,
}

pub(in crate::config) fn read_streams(section: &mut Section<'_>) -> Vec<Stream> {
    let tables = section.sections("stream");
    if tables.len() > STREAMS_MAX {
        section.error("stream", format!("{} streams are given", tables.len()), "at most 16 are taken");
    }
    let mut names = BTreeSet::new();
    tables.into_iter().take(STREAMS_MAX).filter_map(|table| read_stream(table, &mut names)).collect()
}

fn read_stream(mut section: Section<'_>, names: &mut BTreeSet<String>) -> Option<Stream> {
    for key in ["name", "kind"] {
        if !section.has(key) {
            section.missing(key, "each `[[audit.stream]]` has a `name` and a `kind`: `syslog`, `webhook` or `otlp`");
        }
    }
    let help = "each stream has a name of its own: how far it has come is kept under it";
    let name = name::read_own(&mut section, names, help);
    let kind = section.parsed("kind", "`syslog`, `webhook` or `otlp`", |text| {
        ["syslog", "webhook", "otlp"].contains(&text).then(|| text.to_owned())
    });
    let format = section.parsed("format", "`jsonl`, `ocsf` or `cef`", StreamFormat::parse).unwrap_or_default();
    let from = section.parsed("from", "`now` or `beginning`", |text| match text {
        "now" => Some(false),
        "beginning" => Some(true),
        _ => None,
    });
    let selection = Selection { types: read_types(&mut section), services: read_services(&mut section) };
    let batch = section.count("batch", 500, 1..=1000);
    let interval = section.ttl("interval", Ttl::seconds(1), Ttl::millis(100)..=Ttl::minutes(1));
    let stalled_after = section.ttl("stalled_after", Ttl::minutes(5), Ttl::seconds(10)..=Ttl::hours(24));
    let receiver = match kind.as_deref() {
        Some("syslog") => read_syslog(&mut section, "address").map(Receiver::Syslog),
        Some("webhook") => read_http(&mut section, Signed::Yes).map(Receiver::Webhook),
        Some("otlp") => read_http(&mut section, Signed::No).map(Receiver::Otlp),
        _ => {
            // What each kind has is not judged before the kind is known.
            for key in ["address", "url", "secret", "authorization", "ca", "certificate", "key", "allow_loopback"] {
                section.skip(key);
            }
            None
        }
    };
    Some(Stream {
        name: name?,
        receiver: receiver?,
        format,
        selection,
        from_beginning: from.unwrap_or(false),
        batch,
        interval,
        stalled_after,
    })
}

/// A syslog receiver, its address under `key`.
pub(in crate::config) fn read_syslog(section: &mut Section<'_>, key: &'static str) -> Option<SyslogSettings> {
    if !section.has(key) {
        section.missing(key, "a syslog receiver has an address: `log.example.com:6514`; TLS is always spoken");
    }
    let form = "a host and port such as `log.example.com:6514`";
    let address = section.parsed(key, form, SyslogSettings::parse_address);
    let authorities = read_authorities(section);
    let certificate = read_certificate(section);
    let allow_loopback = section.flag("allow_loopback");
    let (host, port) = address?;
    Some(SyslogSettings { host, port, authorities, certificate: certificate?, allow_loopback })
}

#[derive(PartialEq, Eq)]
enum Signed {
    Yes,
    No,
}

fn read_http(section: &mut Section<'_>, signed: Signed) -> Option<HttpReceiver> {
    if !section.has("url") {
        section.missing("url", "write `https://host/path`; of OTLP the path is mostly `/v1/logs`");
    }
    let allow_loopback = section.flag("allow_loopback");
    let url = read_url(section, allow_loopback);
    if signed == Signed::Yes && !section.has("secret") {
        let help = "with it the receiver can tell our events from others': `echo whsec_$(openssl rand -base64 32)`";
        section.missing("secret", help);
    }
    let key = match signed {
        Signed::Yes => read_key(section),
        Signed::No => None,
    };
    let authorization = section.secret("authorization").filter(|value| {
        let good = http::HeaderValue::from_str(value.expose().trim()).is_ok();
        if !good {
            let message = format!("`{}` is no value of a header field", section.path_of("authorization"));
            section.error("authorization", message, "write one line such as `Bearer …` into the file");
        }
        good
    });
    let authorities = read_authorities(section);
    let certificate = read_certificate(section);
    Some(HttpReceiver { url: url?, key, authorization, authorities, certificate: certificate?, allow_loopback })
}

/// What is shown to a receiver that asks for a certificate: inside, none where none is configured.
#[expect(clippy::option_option, reason = "outside, none where what is configured can't be used")]
fn read_certificate(section: &mut Section<'_>) -> Option<Option<ClientCertificate>> {
    let (certificate, key) = (section.path("certificate"), section.path("key"));
    let (Some(certificate), Some(key)) = (&certificate, &key) else {
        if certificate.is_some() != key.is_some() {
            let at = if certificate.is_some() { "certificate" } else { "key" };
            section.error(at, "`certificate` and `key` go together".into(), "give both, or neither");
            return None;
        }
        return Some(None);
    };
    section.note_file(key);
    match pair_of(certificate, key) {
        Ok(pair) => Some(Some(ClientCertificate::new(pair))),
        Err(error) => {
            section.error("certificate", error.to_string(), error.help());
            None
        }
    }
}

fn read_types(section: &mut Section<'_>) -> Vec<TypePattern> {
    let mut types = Vec::new();
    for (text, place) in section.texts("types").unwrap_or_default() {
        match TypePattern::parse(&text) {
            Some(pattern) => types.push(pattern),
            None => {
                let message = format!("`{}` stands for no type of event", text.escape_debug());
                let help = "write `*`, `decision.*` or `decision.deny`; `doorward audit schema` lists all types";
                section.ledger().error(&place, message, Some(help.to_owned()));
            }
        }
    }
    types
}

fn read_services(section: &mut Section<'_>) -> Vec<ServiceName> {
    let mut services = Vec::new();
    for (text, place) in section.texts("services").unwrap_or_default() {
        match ServiceName::parse(&text) {
            Ok(service) => services.push(service),
            Err(error) => {
                section.ledger().error(&place, error.to_string(), Some("write the name of its folder".to_owned()));
            }
        }
    }
    services
}
