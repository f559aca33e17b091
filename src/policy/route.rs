//! Routes: which methods and paths stand for which action, as `[[route]]` writes it.
//!
//! INVARIANT: a pattern is anchored at both ends; query, fragment and metacharacters have no part
//! in it. `router.rs` finds the one of a request.

use std::sync::Arc;

use super::reading::Reading;
use super::suggestion;
use crate::model::ActionName;

/// The most segments of a pattern and of a path that is looked at.
pub const SEGMENTS_MAX: usize = 64;

/// Methods in use: those of the IANA registry that people write, and `PURGE` of caches.
const METHODS: [&str; 33] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "PATCH",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "SEARCH",
    "REPORT",
    "MKCALENDAR",
    "ACL",
    "PURGE",
    "LINK",
    "UNLINK",
    "BIND",
    "REBIND",
    "UNBIND",
    "LABEL",
    "MERGE",
    "QUERY",
    "UPDATE",
    "CHECKIN",
    "CHECKOUT",
    "UNCHECKOUT",
];

/// The methods of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Methods {
    /// `*`.
    Any,
    /// One or several; `GET` also serves `HEAD`.
    Listed(Vec<String>),
}

/// One segment of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    /// Itself; empty at the end of a path with a trailing slash.
    Literal(String),
    /// `{name}`.
    Parameter(Arc<str>),
    /// `**`.
    Rest,
}

/// How a route comes to serve a method, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// It names the method.
    Named,
    /// It names `GET`, and the method is `HEAD`.
    GetForHead,
    /// It takes all methods.
    Any,
}

/// One `[[route]]`.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its methods.
    pub methods: Methods,
    /// As written: `POST /v1/deployments/{env}`.
    pub template: Arc<str>,
    /// What it stands for.
    pub action: ActionName,
    pub(super) segments: Vec<Segment>,
}

/// A request that has a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    /// What the request stands for.
    pub action: ActionName,
    /// The decoded values of `{name}`s, in order of the path.
    pub params: Vec<(Arc<str>, String)>,
    /// The route as written.
    pub template: Arc<str>,
}

/// What is wrong with a `match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TemplateError {
    pub(super) message: String,
    pub(super) help: &'static str,
}

fn wrong<T>(message: impl Into<String>, help: &'static str) -> Result<T, TemplateError> {
    Err(TemplateError { message: message.into(), help })
}

impl Route {
    /// Reads `GET|HEAD /path/{name}/**`.
    pub(super) fn parse(text: &str, action: ActionName) -> Result<Self, TemplateError> {
        let Some((methods, path)) = text.split_once(' ') else {
            return wrong(
                format!("`{}` is not a route", text.escape_debug()),
                "write a method and a path: `GET /status`",
            );
        };
        let methods = parse_methods(methods)?;
        let segments = parse_path(path)?;
        Ok(Self { methods, template: text.into(), action, segments })
    }

    /// The names of its `{name}`s.
    pub fn params(&self) -> impl Iterator<Item = &Arc<str>> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Parameter(name) => Some(name),
            Segment::Literal(_) | Segment::Rest => None,
        })
    }

    /// A method that is none of those in use and one slip from one of them, with that one.
    pub(super) fn misspelt_method(&self) -> Option<(&str, &'static str)> {
        let Methods::Listed(methods) = &self.methods else { return None };
        let unknown = methods.iter().map(String::as_str).filter(|method| !METHODS.contains(method));
        let near = |method: &str| METHODS.into_iter().find(|known| suggestion::is_one_slip(method, known));
        unknown.filter_map(|method| Some((method, near(method)?))).next()
    }

    /// How it serves the method, if it does.
    pub(super) fn fit(&self, method: &str) -> Option<Fit> {
        let names = |method: &str| match &self.methods {
            Methods::Any => false,
            Methods::Listed(methods) => methods.iter().any(|own| own == method),
        };
        if self.methods == Methods::Any {
            Some(Fit::Any)
        } else if names(method) {
            Some(Fit::Named)
        } else {
            (method == "HEAD" && names("GET")).then_some(Fit::GetForHead)
        }
    }

    /// The pattern as an upstream may read it.
    pub(super) fn read(&self, reading: Reading) -> Vec<Segment> {
        let mut segments = Vec::with_capacity(self.segments.len());
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => {
                    segments.extend(reading.pieces(text).map(|piece| Segment::Literal(piece.into_owned())));
                }
                Segment::Parameter(_) | Segment::Rest => segments.push(segment.clone()),
            }
        }
        segments
    }

    /// Whether a method comes to both in the same way.
    pub(super) fn shares_methods(&self, other: &Self) -> bool {
        match (&self.methods, &other.methods) {
            (Methods::Any, Methods::Any) => true,
            // `*` beside listed methods serves what is not listed.
            (Methods::Any, Methods::Listed(_)) | (Methods::Listed(_), Methods::Any) => false,
            (Methods::Listed(own), Methods::Listed(others)) => own.iter().any(|method| others.contains(method)),
        }
    }

    /// Whether `earlier` has the same path and takes some of this route's methods.
    pub(super) fn collides_with(&self, earlier: &Self) -> bool {
        self.shares_methods(earlier) && same_place(&self.segments, &earlier.segments)
    }
}

/// Whether two patterns take the same paths.
pub(super) fn same_place(left: &[Segment], right: &[Segment]) -> bool {
    let same = |(left, right): (&Segment, &Segment)| match (left, right) {
        (Segment::Literal(left), Segment::Literal(right)) => left == right,
        (Segment::Parameter(_), Segment::Parameter(_)) | (Segment::Rest, Segment::Rest) => true,
        _ => false,
    };
    left.len() == right.len() && left.iter().zip(right).all(same)
}

fn parse_methods(text: &str) -> Result<Methods, TemplateError> {
    const HELP: &str = "methods are `GET`, several like `GET|POST`, or `*` for all";
    if text == "*" {
        return Ok(Methods::Any);
    }
    let mut methods: Vec<String> = Vec::new();
    for method in text.split('|') {
        let upper = method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-' || b == b'_');
        if method.is_empty() || !upper {
            return wrong(format!("`{}` is not a method", method.escape_debug()), HELP);
        }
        if method == "CONNECT" {
            return wrong("`CONNECT` is never passed on", "remove it; WebSockets are a `GET` with an upgrade");
        }
        if methods.iter().any(|known| known == method) {
            return wrong(format!("the method `{method}` is named twice"), HELP);
        }
        methods.push(method.to_owned());
    }
    Ok(Methods::Listed(methods))
}

fn parse_path(path: &str) -> Result<Vec<Segment>, TemplateError> {
    let Some(rest) = path.strip_prefix('/') else {
        return wrong(
            format!("the path `{}` does not start with `/`", path.escape_debug()),
            match path.trim_start().starts_with('/') {
                true => "write one space between method and path: `GET /status`",
                false => "a path starts with `/`: write `GET /status`",
            },
        );
    };
    let parts: Vec<&str> = rest.split('/').collect();
    // An encoded slash counts too, as where it is decoded the path has that many.
    let count = parts.len() + rest.matches("%2F").count();
    if count > SEGMENTS_MAX {
        return wrong(format!("the path has {count} segments"), "a route has at most 64; use `**` for the rest");
    }
    let last = parts.len() - 1;
    let mut segments: Vec<Segment> = Vec::with_capacity(parts.len());
    for (index, part) in parts.iter().enumerate() {
        let segment = parse_segment(part, index == last)?;
        if let Segment::Parameter(name) = &segment
            && segments.iter().any(|earlier| *earlier == Segment::Parameter(name.clone()))
        {
            return wrong(format!("`{{{name}}}` is named twice in one path"), "give each its own name");
        }
        segments.push(segment);
    }
    Ok(segments)
}

fn parse_segment(part: &str, is_last: bool) -> Result<Segment, TemplateError> {
    if part == "**" {
        if is_last {
            return Ok(Segment::Rest);
        }
        return wrong("`**` is not at the end of the path", "`**` stands for the rest; use `{name}` for one segment");
    }
    if let Some(name) = part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') || name.len() > 63 {
            return wrong(
                format!("`{{{}}}` can't be read as `context.params.…`", name.escape_debug()),
                "use letters, digits and `_`, a letter first",
            );
        }
        return Ok(Segment::Parameter(name.into()));
    }
    if part.contains(['{', '}', '*']) {
        return wrong(
            format!("`{}` mixes a literal and a wildcard", part.escape_debug()),
            "a segment is a literal, `{name}` or, at the end, `**`; other patterns belong into the policy (`context.path like …`)",
        );
    }
    if part == "." || part == ".." || (part.is_empty() && !is_last) {
        return wrong("the path is not canonical", "no `//`, `/./` or `/../`: such requests never reach a route");
    }
    if !is_canonical(part) {
        return wrong(
            format!("`{}` has characters that no canonical path has", part.escape_debug()),
            "the path has no query or fragment; encode other characters as `%XX`, in capitals, and never letters, digits or `-._~`",
        );
    }
    Ok(Segment::Literal(part.to_owned()))
}

/// Whether a segment is as a canonical path has it: RFC 3986 pchar, escapes in capitals and none
/// for unreserved characters (§6.2.2).
fn is_canonical(part: &str) -> bool {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let mut bytes = part.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |b: Option<u8>| b.filter(|b| !b.is_ascii_lowercase()).and_then(|b| char::from(b).to_digit(16));
            let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else { return false };
            if u8::try_from(high * 16 + low).is_ok_and(unreserved) {
                return false;
            }
        } else if !unreserved(byte) && !b"!$&'()+,;=:@".contains(&byte) {
            return false;
        }
    }
    true
}
