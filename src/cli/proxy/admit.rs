//! Who may use the loopback proxy, and for what: one pure function over a request's head.

use std::fmt;

use data_encoding::BASE64;
use http::header::{HOST, HeaderMap, ORIGIN, PROXY_AUTHORIZATION};
use http::{Method, Request, StatusCode};
use subtle::ConstantTimeEq;

use crate::model::Secret;

use super::PROXY_USER;

/// Why a request is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// It came from a web page.
    Browser,
    /// It has not the secret of this run.
    Secret,
    /// It asks for a tunnel.
    Tunnel,
    /// It does not say where it goes as a request to a proxy does.
    Form(&'static str),
    /// It goes where this proxy does not.
    Host(String),
}

impl Denial {
    /// The status of the answer.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Browser | Self::Host(_) => StatusCode::FORBIDDEN,
            Self::Secret => StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            Self::Tunnel => StatusCode::METHOD_NOT_ALLOWED,
            Self::Form(_) => StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Browser => f.write_str(
                "a web page may not use this proxy (the request has `Origin` or `Sec-Fetch-*`); open the https address \
                 in the browser instead",
            ),
            Self::Secret => f.write_str(
                "this proxy wants the secret that `doorward proxy` printed, as the password of the proxy's address",
            ),
            Self::Tunnel => f.write_str("this proxy makes no tunnels; use `http://` addresses, it does TLS itself"),
            Self::Form(what) => f.write_str(what),
            Self::Host(host) => write!(f, "`{}` is not a host behind this door", host.escape_debug()),
        }
    }
}

/// Where an admitted request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Lower case, without port.
    pub host: String,
    /// Path and query.
    pub path: String,
}

/// The rules of one run.
pub struct Admission {
    /// What the password must be; none on a socket, which is this user's alone.
    secret: Option<Secret<String>>,
    /// The door's port, which an address may name.
    port: u16,
}

impl Admission {
    /// Admits who has the secret.
    #[must_use]
    pub const fn by_secret(port: u16, secret: Secret<String>) -> Self {
        Self { secret: Some(secret), port }
    }

    /// Admits who can open the socket.
    #[must_use]
    pub const fn by_socket(port: u16) -> Self {
        Self { secret: None, port }
    }

    /// Where the request goes, if it may be taken. Whether the door has that host is another
    /// question.
    ///
    /// # Errors
    /// Says why not.
    pub fn admit<B>(&self, request: &Request<B>) -> Result<Target, Denial> {
        let headers = request.headers();
        let from_page =
            headers.contains_key(ORIGIN) || headers.keys().any(|name| name.as_str().starts_with("sec-fetch-"));
        if from_page {
            return Err(Denial::Browser);
        }
        if !self.knows_secret(headers) {
            return Err(Denial::Secret);
        }
        if request.method() == Method::CONNECT {
            return Err(Denial::Tunnel);
        }
        let uri = request.uri();
        let authority = match (uri.scheme_str(), uri.authority()) {
            (Some("http"), Some(authority)) => authority.as_str(),
            (Some(_), _) => return Err(Denial::Form("write the address with `http://`: this proxy does TLS itself")),
            // Programs that are told to use a socket send what they would send to the server.
            (None, None) if self.secret.is_none() => single_host(headers)?,
            (None, _) => {
                return Err(Denial::Form(
                    "this is a proxy: the request must name the whole address, `http://host/path`",
                ));
            }
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Target { host: self.host(authority)?, path: path.to_owned() })
    }

    fn knows_secret(&self, headers: &HeaderMap) -> bool {
        let Some(secret) = &self.secret else { return true };
        let mut shown = headers.get_all(PROXY_AUTHORIZATION).iter();
        let (Some(value), None) = (shown.next(), shown.next()) else { return false };
        let Some((scheme, encoded)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else { return false };
        let Ok(decoded) = BASE64.decode(encoded.trim().as_bytes()) else { return false };
        let expected = format!("{PROXY_USER}:{}", secret.expose());
        scheme.eq_ignore_ascii_case("basic") && decoded.ct_eq(expected.as_bytes()).into()
    }

    /// The host of an authority that names no other port than the door's or that of `http://`.
    fn host(&self, authority: &str) -> Result<String, Denial> {
        let other = || Denial::Host(authority.chars().take(200).collect());
        if authority.contains('@') {
            return Err(Denial::Form("the address must not hold a user name or password"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse::<u16>().map_err(|_| other())?),
            _ => (authority, 80),
        };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if host.is_empty() || (port != 80 && port != self.port) {
            return Err(other());
        }
        Ok(host)
    }
}

fn single_host(headers: &HeaderMap) -> Result<&str, Denial> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) {
        (Some(host), None) => Ok(host),
        _ => Err(Denial::Form("the request must name one host")),
    }
}
