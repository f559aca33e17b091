//! Signing in without a browser, against `doorward dev`: follows the redirects that a browser
//! would, with a jar of cookies for each origin.
//!
//! INVARIANT: it goes nowhere but to the server itself, by https, and to loopback addresses, where
//! the provider of `dev` speaks plain http. It types no password; the one form that it sends is the
//! server's own question whether this program is the person's, which `--as` says yes to.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, COOKIE, LOCATION, ORIGIN, SET_COOKIE};
use http::{HeaderMap, Method, StatusCode};
use url::{Host, Url};

use crate::cli::client::{self, Answer, Client, ClientError};
use crate::cli::dial;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::identity::cookie::{CookieValue, SESSION_COOKIE};
use crate::wire::oauth::PROGRAM_PATH;

/// The most redirects of one sign-in: it needs five.
const REDIRECTS_MAX: usize = 16;
/// What the server may answer: its refusals in the form that programs read.
const ACCEPTED: &str = "application/problem+json, application/json;q=0.9";
/// What a provider may answer, which is made for browsers.
const ACCEPTED_ELSEWHERE: &str = "text/html, application/json;q=0.9, */*;q=0.5";
/// The most cookies that are kept for one origin.
const COOKIES_MAX: usize = 16;

/// Follows redirects from `path` of the server until one leads to `redirect_uri`; answers the
/// query of that one.
pub async fn follow(client: &Client, path: &str, redirect_uri: &str, name: &str) -> Result<String, Failure> {
    let origin = client.origin().to_string();
    let wrong = |what: String| Failure::failed(format!("signing in as `{name}`: {what}"));
    let mut url = Url::parse(&format!("{origin}{path}")).map_err(|error| wrong(error.to_string()))?;
    let mut jars: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let own = url.origin();
    for _ in 0..REDIRECTS_MAX {
        let jar = jars.entry(url.origin().ascii_serialization()).or_default();
        let asks = url.path() == PROGRAM_PATH && url.origin() == own;
        let answer = if asks { agree(client, &url, jar).await? } else { visit(client, &url, jar).await? };
        keep_cookies(jar, &answer.headers);
        if !answer.status.is_redirection() {
            return Err(refusal(&answer, &url, name));
        }
        let location = answer.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| wrong(format!("`{}` redirects nowhere", place(&url))))?;
        let next = url.join(location).map_err(|error| wrong(format!("a redirect leads nowhere: {error}")))?;
        if let Some(query) = next.as_str().strip_prefix(redirect_uri).and_then(|rest| rest.strip_prefix('?')) {
            return Ok(query.to_owned());
        }
        url = next;
    }
    Err(wrong(format!("more than {REDIRECTS_MAX} redirects")))
}

/// Says that this program is the person's own, as the page's form would: the form's token follows from
/// the session's cookie.
async fn agree(client: &Client, url: &Url, jar: &BTreeMap<String, String>) -> Result<Answer, Failure> {
    let form = jar.get(SESSION_COOKIE).and_then(|value| CookieValue::parse(value)).map(|value| value.form_token());
    let mut body = form_urlencoded::Serializer::new(String::new());
    body.extend_pairs(url.query_pairs().filter(|(name, _)| name != "form" && name != "answer"));
    body.append_pair("form", &form.unwrap_or_default()).append_pair("answer", "agree");
    let mut headers = vec![
        (ACCEPT, ACCEPTED.to_owned()),
        (CONTENT_TYPE, "application/x-www-form-urlencoded".to_owned()),
        (ORIGIN, client.origin().to_string()),
    ];
    if !jar.is_empty() {
        headers.push((COOKIE, cookies(jar)));
    }
    Ok(client.send(Method::POST, url.path(), &headers, Bytes::from(body.finish())).await?)
}

fn cookies(jar: &BTreeMap<String, String>) -> String {
    jar.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("; ")
}

async fn visit(client: &Client, url: &Url, jar: &BTreeMap<String, String>) -> Result<Answer, Failure> {
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let own = Url::parse(&client.origin().to_string()).is_ok_and(|own| own.origin() == url.origin());
    let accepted = if own { ACCEPTED } else { ACCEPTED_ELSEWHERE };
    let mut headers = vec![(ACCEPT, accepted.to_owned())];
    if !jar.is_empty() {
        headers.push((COOKIE, cookies(jar)));
    }
    if own {
        return Ok(client.send(Method::GET, &path, &headers, Bytes::new()).await?);
    }
    let loopback = match url.host() {
        Some(Host::Domain(name)) => crate::cli::origin::is_localhost(name),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    let (Some(host), Some(port), "http", true) = (url.host_str(), url.port_or_known_default(), url.scheme(), loopback)
    else {
        return Err(Failure::usage(format!(
            "`--as` works against `doorward dev` only: this sign-in goes on at `{}`",
            place(url)
        )));
    };
    let stream = dial::connect(host, port).await.map_err(ClientError::from)?;
    let authority = format!("{host}:{port}");
    Ok(client::exchange(stream, &authority, Method::GET, &path, &headers, Bytes::new()).await?)
}

fn keep_cookies(jar: &mut BTreeMap<String, String>, headers: &HeaderMap) {
    for cookie in headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok()) {
        let mut parts = cookie.split(';').map(str::trim);
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else { continue };
        let gone = parts.any(|part| part.eq_ignore_ascii_case("max-age=0"));
        if gone {
            jar.remove(name);
        } else if jar.len() < COOKIES_MAX {
            jar.insert(name.to_owned(), value.to_owned());
        }
    }
}

/// What an answer that is no redirect says.
fn refusal(answer: &Answer, url: &Url, name: &str) -> Failure {
    if let Ok(problem) = serde_json::from_slice::<crate::wire::Problem>(&answer.body) {
        return Failure::refused(problem);
    }
    let place = place(url);
    if answer.status == StatusCode::OK {
        return Failure::failed(format!(
            "signing in as `{name}`: `{place}` asks something instead of going on: either it knows nobody of that \
             name (`doorward dev` has alice, bob, carol and dave), or there are several providers and `--provider` \
             chooses"
        ));
    }
    let (exit, reason) = match answer.status {
        StatusCode::FORBIDDEN => (Exit::Denied, "failed"),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            (Exit::Unreachable, "unreachable")
        }
        _ => (Exit::Failed, "failed"),
    };
    let text = String::from_utf8_lossy(&answer.body);
    // A page is for browsers; a line of text is for people.
    let said = text.lines().next().filter(|line| !line.is_empty() && !line.trim_start().starts_with('<'));
    let said = said.map(|line| format!(": {}", line.chars().take(200).collect::<String>())).unwrap_or_default();
    let mut failure =
        Failure::new(exit, reason, format!("signing in as `{name}`: `{place}` answers {}{said}", answer.status));
    failure.status = Some(answer.status.as_u16());
    failure
}

/// A URL without its query, which may hold secrets.
fn place(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}
