//! Routes: which action a method and a canonical path stand for.
//!
//! INVARIANT: a pattern is anchored at both ends and compared byte for byte; query, fragment and
//! metacharacters have no part in it. At each segment a literal beats `{name}`, which beats `**`.
//!
//! INVARIANT: a path that only *looks* unlike a stricter route (`/Admin`, `/admin/`, `/admin;x`,
//! `/admin.`) never slips through a wider one: where the folded path would reach another action,
//! the request has no route. Upstreams fold in their own ways, so both readings must agree.
//! A service whose upstream is known not to fold says `exact_paths = true`.

use std::collections::HashMap;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

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

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Parameter(Arc<str>),
    Rest,
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
    segments: Vec<Segment>,
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

    fn serves(&self, method: &str) -> bool {
        match &self.methods {
            Methods::Any => true,
            Methods::Listed(methods) => methods.iter().any(|own| own == method),
        }
    }

    fn same_place(&self, other: &Self) -> bool {
        let same = |(left, right): (&Segment, &Segment)| match (left, right) {
            (Segment::Literal(left), Segment::Literal(right)) => left == right,
            (Segment::Parameter(_), Segment::Parameter(_)) | (Segment::Rest, Segment::Rest) => true,
            _ => false,
        };
        self.segments.len() == other.segments.len() && self.segments.iter().zip(&other.segments).all(same)
    }

    /// Whether `earlier` has the same path and takes some of this route's methods.
    pub(super) fn collides_with(&self, earlier: &Self) -> bool {
        let overlap = match (&self.methods, &earlier.methods) {
            (Methods::Any, Methods::Any) => true,
            // `*` beside listed methods serves what is not listed.
            (Methods::Any, Methods::Listed(_)) | (Methods::Listed(_), Methods::Any) => false,
            (Methods::Listed(own), Methods::Listed(others)) => own.iter().any(|method| others.contains(method)),
        };
        overlap && self.same_place(earlier)
    }
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
    if parts.len() > SEGMENTS_MAX {
        return wrong(
            format!("the path has {} segments", parts.len()),
            "a route has at most 64; use `**` for the rest",
        );
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

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, Node>,
    parameter: Option<Box<Node>>,
    /// Routes that end in `**` after this node.
    rest: Vec<usize>,
    /// Routes that end at this node.
    here: Vec<usize>,
}

impl Node {
    fn insert(&mut self, segments: &[Segment], route: usize, fold: bool) {
        let Some((first, tail)) = segments.split_first() else {
            self.here.push(route);
            return;
        };
        match first {
            Segment::Rest => self.rest.push(route),
            Segment::Parameter(_) => self.parameter.get_or_insert_default().insert(tail, route, fold),
            Segment::Literal(text) if fold && tail.is_empty() && text.is_empty() => self.here.push(route),
            Segment::Literal(text) => {
                let key = if fold { folded(text) } else { text.clone() };
                self.literals.entry(key.into()).or_default().insert(tail, route, fold);
            }
        }
    }

    /// Depth first, the most specific first; each node of the tree is visited at most once.
    fn find<'p>(
        &self,
        routes: &[Route],
        method: &str,
        segments: &[&'p str],
        values: &mut Vec<&'p str>,
    ) -> Option<usize> {
        let Some((first, tail)) = segments.split_first() else {
            return pick(routes, &self.here, method).or_else(|| pick(routes, &self.rest, method));
        };
        if let Some(found) = self.literals.get(*first).and_then(|node| node.find(routes, method, tail, values)) {
            return Some(found);
        }
        if let Some(node) = self.parameter.as_ref().filter(|_| !first.is_empty()) {
            values.push(first);
            if let Some(found) = node.find(routes, method, tail, values) {
                return Some(found);
            }
            values.pop();
        }
        pick(routes, &self.rest, method)
    }
}

/// The route of these that serves the method: by name, then `GET` for `HEAD`, then `*`.
fn pick(routes: &[Route], candidates: &[usize], method: &str) -> Option<usize> {
    let listed = |method: &str| {
        candidates
            .iter()
            .copied()
            .find(|index| routes.get(*index).is_some_and(|route| route.methods != Methods::Any && route.serves(method)))
    };
    let any = || candidates.iter().copied().find(|index| routes.get(*index).is_some_and(|r| r.methods == Methods::Any));
    listed(method).or_else(|| if method == "HEAD" { listed("GET") } else { None }).or_else(any)
}

/// A segment as a careless upstream might take it.
fn folded(segment: &str) -> String {
    let decoded = percent_decode_str(segment).decode_utf8_lossy();
    let plain = decoded.split(';').next().unwrap_or_default();
    plain.trim_matches(|c: char| c == '.' || c.is_whitespace() || c.is_control()).to_lowercase()
}

/// All routes of a service.
#[derive(Debug)]
pub struct Router {
    routes: Vec<Route>,
    exact_paths: bool,
    exact: Node,
    folded: Option<Node>,
}

impl Router {
    /// Builds the tree. Collisions have been reported before.
    pub(super) fn new(routes: Vec<Route>, exact_paths: bool) -> Self {
        let mut exact = Node::default();
        let mut twin = Node::default();
        for (index, route) in routes.iter().enumerate() {
            exact.insert(&route.segments, index, false);
            twin.insert(&route.segments, index, true);
        }
        let wild = routes.iter().any(|route| route.segments.iter().any(|s| !matches!(s, Segment::Literal(_))));
        let folded = (!exact_paths && wild && routes.len() > 1).then_some(twin);
        Self { routes, exact_paths, exact, folded }
    }

    /// The routes as written.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Whether the upstream is known not to fold paths.
    pub(super) const fn exact_paths(&self) -> bool {
        self.exact_paths
    }

    /// The most specific route of a method and canonical path.
    #[must_use]
    pub fn find(&self, method: &str, path: &str) -> Option<Matched> {
        let rest = path.strip_prefix('/')?;
        let mut segments: Vec<&str> = Vec::with_capacity(8);
        // One more than any pattern has: what is beyond can only be the extent of a `**`.
        segments.extend(rest.split('/').take(SEGMENTS_MAX + 1));
        let mut values = Vec::new();
        let route = self.routes.get(self.exact.find(&self.routes, method, &segments, &mut values)?)?;
        let wild = !values.is_empty() || route.segments.last() == Some(&Segment::Rest);
        if wild && !self.agrees_when_folded(method, path, &segments, route) {
            return None;
        }
        let mut params = Vec::with_capacity(values.len());
        for (name, value) in route.params().zip(values) {
            let decoded = percent_decode_str(value).decode_utf8().ok()?;
            if decoded.chars().any(char::is_control) {
                return None;
            }
            params.push((name.clone(), decoded.into_owned()));
        }
        Some(Matched { action: route.action.clone(), params, template: route.template.clone() })
    }

    fn agrees_when_folded(&self, method: &str, path: &str, segments: &[&str], route: &Route) -> bool {
        let Some(tree) = &self.folded else { return true };
        let odd = path.bytes().any(|b| b.is_ascii_uppercase() || b";%".contains(&b) || !b.is_ascii())
            || segments.iter().any(|segment| segment.is_empty() || segment.starts_with('.') || segment.ends_with('.'));
        if !odd {
            return true;
        }
        let folded: Vec<String> = segments.iter().map(|segment| folded(segment)).collect();
        let kept: Vec<&str> = folded.iter().map(String::as_str).filter(|segment| !segment.is_empty()).collect();
        let twin = tree.find(&self.routes, method, &kept, &mut Vec::new());
        twin.and_then(|index| self.routes.get(index)).is_none_or(|twin| twin.action == route.action)
    }
}
