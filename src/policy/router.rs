//! The router: which route a method and a canonical path have.
//!
//! INVARIANT: paths are compared byte for byte. At each segment a literal beats `{name}`, which
//! beats `**`.
//!
//! INVARIANT: a path that only *looks* unlike a stricter route never slips through a wider one:
//! neither `/Admin`, `/admin/` or `/admin%2Fx` beside `/admin/**`, nor `/admin` beside `/Admin` or
//! `/admin/`. Upstreams read paths in their own ways, so all readings must agree (`reading.rs`):
//! where one of them reaches another action, the request has no route; where none is reached, the
//! path stands as it is. A service whose upstream reads byte for byte too says `exact_paths = true`.

use std::borrow::Cow;
use std::collections::HashMap;

use percent_encoding::percent_decode_str;

use super::reading::{Reading, is_plain};
use super::route::{Matched, Route, SEGMENTS_MAX, Segment};

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
    fn of<'s>(patterns: impl Iterator<Item = &'s [Segment]>) -> Self {
        let mut root = Self::default();
        for (route, segments) in patterns.enumerate() {
            root.insert(segments, route);
        }
        root
    }

    fn insert(&mut self, segments: &[Segment], route: usize) {
        let Some((first, tail)) = segments.split_first() else {
            self.here.push(route);
            return;
        };
        match first {
            Segment::Rest => self.rest.push(route),
            Segment::Parameter(_) => self.parameter.get_or_insert_default().insert(tail, route),
            Segment::Literal(text) => self.literals.entry(text.as_str().into()).or_default().insert(tail, route),
        }
    }

    /// The routes at the most specific place where one serves the method. Depth first; each node of
    /// the tree is visited at most once.
    fn find<'n, 'p, S: AsRef<str>>(
        &'n self,
        routes: &[Route],
        method: &str,
        segments: &'p [S],
        values: &mut Vec<&'p str>,
    ) -> Option<&'n [usize]> {
        let serving = |place: &'n [usize]| {
            let serves = |index: &usize| routes.get(*index).is_some_and(|route| route.fit(method).is_some());
            place.iter().any(serves).then_some(place)
        };
        let Some((first, tail)) = segments.split_first() else {
            return serving(&self.here).or_else(|| serving(&self.rest));
        };
        let first = first.as_ref();
        if let Some(found) = self.literals.get(first).and_then(|node| node.find(routes, method, tail, values)) {
            return Some(found);
        }
        if let Some(node) = self.parameter.as_ref().filter(|_| !first.is_empty()) {
            values.push(first);
            if let Some(found) = node.find(routes, method, tail, values) {
                return Some(found);
            }
            values.pop();
        }
        serving(&self.rest)
    }
}

/// The routes of a place that serve the method best: in the exact tree one.
fn best<'r>(routes: &'r [Route], place: &'r [usize], method: &'r str) -> impl Iterator<Item = &'r Route> {
    let here = place.iter().filter_map(move |index| routes.get(*index));
    let least = here.clone().filter_map(|route| route.fit(method)).min();
    here.filter(move |route| least.is_some() && route.fit(method) == least)
}

/// The routes as some upstreams read them.
#[derive(Debug)]
struct Twin {
    readings: Vec<Reading>,
    tree: Node,
}

impl Twin {
    /// A tree for every reading; readings that make the same of all patterns share one.
    fn all(routes: &[Route]) -> Vec<Self> {
        let mut found: Vec<(Vec<Reading>, Vec<Vec<Segment>>)> = Vec::new();
        for reading in Reading::all() {
            let patterns: Vec<Vec<Segment>> = routes.iter().map(|route| route.read(reading)).collect();
            match found.iter_mut().find(|(_, known)| *known == patterns) {
                Some((readings, _)) => readings.push(reading),
                None => found.push((vec![reading], patterns)),
            }
        }
        let twin = |(readings, patterns): (Vec<Reading>, Vec<Vec<Segment>>)| Self {
            readings,
            tree: Node::of(patterns.iter().map(Vec::as_slice)),
        };
        found.into_iter().map(twin).collect()
    }
}

/// All routes of a service.
#[derive(Debug)]
pub struct Router {
    routes: Vec<Route>,
    exact_paths: bool,
    exact: Node,
    /// None where no other reading could reach another action.
    twins: Vec<Twin>,
    /// Whether every pattern is plain, so that a plain path is the same in all readings. `/` is left
    /// out: only a path of nothing but empty segments can be taken for it.
    plain: bool,
}

impl Router {
    /// Builds the trees. Collisions have been reported before.
    pub(super) fn new(routes: Vec<Route>, exact_paths: bool) -> Self {
        let exact = Node::of(routes.iter().map(|route| route.segments.as_slice()));
        let plain = routes.iter().all(|route| match route.segments.as_slice() {
            [Segment::Literal(only)] if only.is_empty() => true,
            segments => segments.iter().all(|segment| match segment {
                Segment::Literal(text) => !text.is_empty() && is_plain(text),
                Segment::Parameter(_) | Segment::Rest => true,
            }),
        });
        let several = routes.iter().zip(routes.iter().skip(1)).any(|(one, next)| one.action != next.action);
        let twins = if exact_paths || !several { Vec::new() } else { Twin::all(&routes) };
        Self { routes, exact_paths, exact, twins, plain }
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
        let place = self.exact.find(&self.routes, method, &segments, &mut values)?;
        let route = best(&self.routes, place, method).next()?;
        let plain = self.plain && segments.iter().all(|segment| !segment.is_empty() && is_plain(segment));
        if !plain && !self.all_readings_agree(method, rest, route) {
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

    /// Whether no upstream takes the path for one of another action. Where spellings of several
    /// routes are read as one, each of them counts: nobody knows which one the upstream has.
    fn all_readings_agree(&self, method: &str, path: &str, route: &Route) -> bool {
        self.twins.iter().all(|twin| {
            twin.readings.iter().all(|reading| {
                // Cut after reading, so that what a reading drops makes no room for what was cut.
                let pieces = path.split('/').flat_map(|segment| reading.pieces(segment));
                let pieces: Vec<Cow<'_, str>> = pieces.take(SEGMENTS_MAX + 1).collect();
                let place = twin.tree.find(&self.routes, method, &pieces, &mut Vec::new()).unwrap_or_default();
                best(&self.routes, place, method).all(|other| other.action == route.action)
            })
        })
    }
}
