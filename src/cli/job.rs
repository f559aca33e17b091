//! A job that comes by the token of its own issuer: what it gets for it, and a session of its own where
//! it has to ask for something first.
//!
//! The token is good for one exchange. A job that only wants a token for a service spends it on that. One
//! that asks and waits spends it on a session with the control API, and exchanges that session's token
//! for the service's later: the session lasts as long as an exchanged token does and no longer. Whoever
//! waits longer puts a fresh token into the file meanwhile (Kubernetes does so by itself). What the session is for
//! goes along with the first token, so that a wish that can't be met does not use it up.
//!
//! INVARIANTS: no key leaves this machine, and what is written is for its owner alone. A key is written with the
//! certificate that came for it and not before: what was there stays whole when the exchange comes to nothing.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use rcgen::KeyPair;
use tempfile::NamedTempFile;

use crate::model::{Timestamp, Ttl};
use crate::wire::ExchangeAnswer;
use crate::wire::oauth::{CLI_CLIENT_ID, GRANT_TOKEN_EXCHANGE};

use super::client::{Banner, Client};
use super::context::Context;
use super::dial::Identity;
use super::exit::Exit;
use super::failure::Failure;
use super::origin::Origin;
use super::renewal::signing_request;

const TYPE_JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const TYPE_ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// The largest file with a token that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// A session with less than this left is over: what is asked takes its time.
const MARGIN: Ttl = Ttl::seconds(2);

/// What is written where a certificate goes.
const KEY_FILE: &str = "client.key";
const CERTIFICATE_FILE: &str = "client.crt";
const CA_FILE: &str = "ca.crt";

/// A job.
pub struct Job<'a> {
    path: &'a Path,
    origin: Origin,
    ca_pem: Option<String>,
    banner: Banner,
    certified: Option<Certified<'a>>,
    /// What its session is for, until that was said.
    wanted: Option<Wanted>,
    /// The token that was exchanged last.
    used: Option<String>,
    session: Option<JobSession>,
}

/// What a job is going to do in its session with the control API.
pub struct Wanted {
    /// The service that it then gets a token for.
    pub service: String,
    /// The actions that the token is narrowed to.
    pub scope: Option<String>,
    /// What it asks for first, as it will be sent.
    pub request: Option<String>,
}

impl Wanted {
    fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let more = [("wanted_scope", self.scope.as_deref()), ("wanted_request", self.request.as_deref())];
        let more = more.into_iter().filter_map(|(name, value)| Some((name, value?)));
        std::iter::once(("wanted_audience", self.service.as_str())).chain(more)
    }
}

/// Where a certificate goes, and the key that it is for.
struct Certified<'a> {
    folder: &'a Path,
    key_pem: String,
    request: String,
}

/// What a job has after it spent its token on a session.
struct JobSession {
    /// Shows the certificate, if there is one.
    client: Client,
    answer: ExchangeAnswer,
}

impl JobSession {
    fn is_over(&self, now: Timestamp) -> bool {
        self.answer.expires_at.0.minus(MARGIN).is_over(now)
    }
}

impl<'a> Job<'a> {
    /// The job whose token is in this file, and which wants a certificate in that folder, if at all; `wanted`:
    /// what for, where it has to begin with a session.
    ///
    /// # Errors
    /// When no server is named, or the folder can't be written.
    pub fn new(
        context: &Context,
        path: &'a Path,
        certificate_out: Option<&'a Path>,
        wanted: Wanted,
    ) -> Result<Self, Failure> {
        let Some(origin) = context.named_server()? else {
            return Err(Failure::usage("which server? name it with `--server https://doorward.example.com`"));
        };
        let ca_pem = context.named_ca()?;
        // ORDER: what may be wrong with the files first, since the token is good for one exchange.
        let certified = certificate_out.map(Certified::new).transpose()?;
        let banner = context.banner.clone();
        Ok(Self { path, origin, ca_pem, banner, certified, wanted: Some(wanted), used: None, session: None })
    }

    /// A client that speaks for the job to the API: in its session, or in a new one where that is over
    /// and the file holds a token that was not used yet.
    ///
    /// # Errors
    /// Exit 3 when the session is over and there is no fresh token; else what the exchange says.
    pub async fn client(&mut self, context: &Context) -> Result<Client, Failure> {
        if let Some(session) = self.session.as_ref().filter(|session| !session.is_over(context.clock.now())) {
            return Ok(session.client.with_bearer(session.answer.access_token.clone()));
        }
        let subject = match self.used {
            None => read(self.path)?,
            Some(_) => self.fresh().ok_or_else(|| {
                let detail = "the session of this job's token is over, and the file holds no fresh token";
                Failure::new(Exit::SignedOut, "session_ended", detail)
            })?,
        };
        let audience = self.origin.to_string();
        let mut fields =
            vec![("grant_type", GRANT_TOKEN_EXCHANGE), ("client_id", CLI_CLIENT_ID), ("audience", audience.as_str())];
        // Once: by the next it has been asked for, and may not be had twice.
        let wanted = self.wanted.take();
        fields.extend(wanted.iter().flat_map(Wanted::fields));
        let answer = self.exchanged(subject, fields).await?;
        let identity = self.certified.as_ref().zip(answer.certificate.as_ref()).map(|(certified, certificate)| {
            Identity { certificate_pem: certificate.clone(), key_pem: certified.key_pem.clone() }
        });
        let client = self.connecting(identity.as_ref())?;
        let api = client.with_bearer(answer.access_token.clone());
        self.session = Some(JobSession { client, answer });
        Ok(api)
    }

    /// A token for a service, by the job's own token where that was not used yet, else by its session.
    ///
    /// # Errors
    /// When the file can't be read, or the server says no.
    pub async fn token(&mut self, mut fields: Vec<(&str, &str)>) -> Result<ExchangeAnswer, Failure> {
        let subject = match self.used {
            None => Some(read(self.path)?),
            Some(_) => self.fresh(),
        };
        if let Some(subject) = subject {
            return self.exchanged(subject, fields).await;
        }
        let Some(session) = &self.session else {
            return Err(Failure::failed("the job's token was used, and there is no session of it"));
        };
        let token = session.answer.access_token.as_str();
        fields.extend([("subject_token", token), ("subject_token_type", TYPE_ACCESS_TOKEN)]);
        Ok(session.client.form("/oauth2/token", &fields).await?)
    }

    /// A token by which the job acts for whoever handed `subject` on to it (RFC 8693).
    ///
    /// # Errors
    /// When the file can't be read, or the server says no.
    pub async fn acting(&mut self, subject: &str, mut fields: Vec<(&str, &str)>) -> Result<ExchangeAnswer, Failure> {
        let own = read(self.path)?;
        fields.extend([
            ("subject_token", subject),
            ("subject_token_type", TYPE_ACCESS_TOKEN),
            ("actor_token", own.as_str()),
            ("actor_token_type", TYPE_JWT),
        ]);
        self.spent(&own, fields).await
    }

    fn connecting(&self, identity: Option<&Identity>) -> Result<Client, Failure> {
        Ok(Client::new(self.origin.clone(), self.ca_pem.as_deref(), identity)?.noting(&self.banner))
    }

    /// The token in the file, if it is another than the one that was used.
    fn fresh(&self) -> Option<String> {
        read(self.path).ok().filter(|text| self.used.as_ref() != Some(text))
    }

    /// Spends a token of the job's issuer.
    async fn exchanged(&mut self, subject: String, mut fields: Vec<(&str, &str)>) -> Result<ExchangeAnswer, Failure> {
        fields.extend([("subject_token", subject.as_str()), ("subject_token_type", TYPE_JWT)]);
        self.spent(&subject, fields).await
    }

    /// Sends what `own`, a token of the job's issuer, is spent on.
    async fn spent(&mut self, own: &str, mut fields: Vec<(&str, &str)>) -> Result<ExchangeAnswer, Failure> {
        let client = self.connecting(None)?;
        fields.extend(self.certified.as_ref().map(|certified| ("csr", certified.request.as_str())));
        let answer: ExchangeAnswer = client.form("/oauth2/token", &fields).await?;
        drop(fields);
        self.used = Some(own.to_owned());
        if let Some(certified) = &self.certified {
            certified.keep(&answer, self.ca_pem.as_deref())?;
        }
        Ok(answer)
    }
}

impl<'a> Certified<'a> {
    fn new(folder: &'a Path) -> Result<Self, Failure> {
        let key = KeyPair::generate().map_err(|error| Failure::failed(format!("making a key: {error}")))?;
        let key_pem = key.serialize_pem();
        let request = signing_request(&key_pem)?;
        fs::create_dir_all(folder).map_err(|error| unwritten(folder, &error))?;
        for name in [KEY_FILE, CERTIFICATE_FILE, CA_FILE] {
            let path = folder.join(name);
            if path.is_dir() {
                return Err(Failure::failed(format!("writing `{}`: it is a folder; name another", path.display())));
            }
        }
        // Whether it can be written there: nothing stays of it.
        beside(folder, "")?;
        Ok(Self { folder, key_pem, request })
    }

    /// Writes what came with the token, and the key that it came for.
    fn keep(&self, answer: &ExchangeAnswer, ca_pem: Option<&str>) -> Result<(), Failure> {
        let Some(certificate) = &answer.certificate else {
            return Err(Failure::failed("the server made no certificate"));
        };
        let files = [
            (KEY_FILE, &*self.key_pem),
            (CERTIFICATE_FILE, certificate.as_str()),
            (CA_FILE, ca_pem.unwrap_or(&answer.ca)),
        ];
        // ORDER: all is on the disk before the first name is taken, so that a full one leaves the old pair whole.
        let mut written = Vec::with_capacity(files.len());
        for (name, text) in files {
            written.push((self.folder.join(name), beside(self.folder, text)?));
        }
        for (path, file) in written {
            file.persist(&path).map_err(|error| unwritten(&path, &error.error))?;
        }
        Ok(())
    }
}

/// Reads the token of a file, of `/dev/stdin` too.
pub(super) fn read(path: &Path) -> Result<String, Failure> {
    let wrong =
        |what: &dyn std::fmt::Display| Failure::usage(format!("reading the token in `{}`: {what}", path.display()));
    if fs::metadata(path).map_err(|error| wrong(&error))?.len() > FILE_BYTES_MAX {
        return Err(wrong(&"the file is larger than 64 KiB"));
    }
    let text = fs::read_to_string(path).map_err(|error| wrong(&error))?;
    match text.trim() {
        "" => Err(wrong(&"the file is empty")),
        token => Ok(token.to_owned()),
    }
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("writing `{}`: {error}", path.display()))
}

/// A file in that folder with this text, for its owner alone, that is removed unless it is given a name.
fn beside(folder: &Path, text: &str) -> Result<NamedTempFile, Failure> {
    let written = NamedTempFile::new_in(folder).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        Ok(file)
    });
    written.map_err(|error| unwritten(folder, &error))
}
