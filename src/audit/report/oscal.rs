//! A report as OSCAL assessment results (NIST, version 1.1), in JSON.
//!
//! Each control has an observation (what was counted, what stands out) and a finding whose target is the
//! control. OSCAL knows only `satisfied` and `not-satisfied`: the first stands where events are on record,
//! or none could be, and neither exceptions nor gaps remain; in every other case the finding says what an
//! assessor still has to look at.
//!
//! INVARIANT: the same report has the same identifiers (RFC 9562 version 5, over what they stand for).

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::{Map, Value, json};
use uuid::{Builder, Uuid};

use super::{Cited, Control, Report, Verdict, Weight};

/// The version of OSCAL.
pub const VERSION: &str = "1.1.3";
/// Whose properties ours are: a name and no address (RFC 6761 §6.4); tools want it to look like one.
const NAMESPACE: &str = "https://doorward.invalid/oscal";
/// Under which our identifiers are made; itself drawn once.
const ROOT: Uuid =
    Uuid::from_bytes([0x5d, 0x0f, 0x8c, 0x1e, 0x2b, 0x7a, 0x4c, 0x61, 0x9a, 0x3e, 0xd4, 0x11, 0x6b, 0x90, 0x27, 0xf5]);
/// Events that an observation cites of each kind.
const CITED_MAX: usize = 10;

/// The whole document.
#[must_use]
pub fn write(report: &Report) -> String {
    let ids = Ids::of(report);
    let source = &report.source;
    let made_at = report.made_at.to_string();
    let title = format!("{}: evidence of {}", report.framework.title, source.installation);
    let controls = &report.framework.control;
    let (tool, plan) = (ids.of_part("tool"), ids.of_part("plan"));
    let document = json!({ "assessment-results": {
        "uuid": ids.of_part("document"),
        "metadata": {
            "title": title,
            "last-modified": made_at,
            "version": made_at,
            "oscal-version": VERSION,
        },
        "import-ap": { "href": format!("#{plan}"), "remarks": "There is no assessment plan; the resource says what was done." },
        "results": [{
            "uuid": ids.of_part("result"),
            "title": title,
            "description": "What the verified access record says about each control, in populations that anyone can count again.",
            "start": report.begins().to_string(),
            "end": report.ends().to_string(),
            "props": result_props(report),
            "links": [{ "href": format!("#{plan}"), "rel": "reference" }],
            "local-definitions": { "components": [{
                "uuid": tool,
                "type": "software",
                "title": concat!("doorward ", env!("CARGO_PKG_VERSION")),
                "description": "The gateway's own program, which verified the record and counted it.",
                "status": { "state": "operational" },
            }] },
            "reviewed-controls": {
                "control-selections": [{
                    "description": report.framework.title,
                    "include-controls": controls.iter().map(|control| json!({ "control-id": control_id(&report.framework.id, &control.id) })).collect::<Vec<_>>(),
                }],
            },
            "observations": controls.iter().map(|control| observation(report, &ids, control)).collect::<Vec<_>>(),
            "findings": controls.iter().map(|control| finding(report, &ids, control)).collect::<Vec<_>>(),
        }],
        "back-matter": { "resources": [{
            "uuid": plan,
            "title": "How the evidence was gathered",
            "description": "Every event of the record in the period was verified against the signed checkpoints of its log and \
                            counted by the tables of the program. The evidence can be exported and counted again: \
                            doorward audit export --format evidence.",
        }] },
    } });
    let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
    text.push('\n');
    text
}

/// Makes the identifiers of one report.
struct Ids {
    of: String,
}

impl Ids {
    fn of(report: &Report) -> Self {
        let source = &report.source;
        let roots: Vec<&str> = source.logs.iter().map(|log| log.root.as_str()).collect();
        let of = format!(
            "{}\n{}\n{}\n{}\n{}\n{}",
            report.framework.id,
            source.installation,
            report.begins(),
            report.ends(),
            source.as_of,
            roots.join("\n"),
        );
        Self { of }
    }

    fn of_part(&self, part: &str) -> String {
        let mut name = ROOT.as_bytes().to_vec();
        name.extend_from_slice(self.of.as_bytes());
        name.extend_from_slice(b"\n\n");
        name.extend_from_slice(part.as_bytes());
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &name);
        let bytes = hash.as_ref().first_chunk::<16>().copied().unwrap_or_default();
        Builder::from_sha1_bytes(bytes).into_uuid().to_string()
    }
}

/// The control's id as a token of OSCAL; for NIST as its own catalogue has it: `ac-2.4`.
fn control_id(framework: &str, id: &str) -> String {
    let mut token = String::with_capacity(id.len() + 8);
    if !id.starts_with(|c: char| c.is_ascii_alphabetic()) {
        token.push_str(framework);
        token.push('-');
    }
    for c in id.chars() {
        match c {
            '(' => token.push('.'),
            ')' => {}
            c if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') => token.push(c.to_ascii_lowercase()),
            _ => token.push('_'),
        }
    }
    token
}

fn prop(name: &str, value: &str) -> Option<Value> {
    let value = line(value);
    (!value.is_empty()).then(|| json!({ "name": name, "ns": NAMESPACE, "value": value }))
}

/// One line without blanks at its ends, as OSCAL wants strings.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn result_props(report: &Report) -> Vec<Value> {
    let source = &report.source;
    let mut props = vec![
        prop("installation", &source.installation),
        prop("root-key", &source.root_key),
        prop("record-as-of", &source.as_of.to_string()),
        prop("verified", if source.anchored { "whole" } else { "unanchored" }),
        prop("leaves-verified", &source.lines.to_string()),
    ];
    for log in &source.logs {
        let value = format!("{} size {} read {}..{} root {}", log.node, log.size, log.from, log.to, log.root);
        props.push(prop("log", &value));
    }
    for limit in &report.gathered.limits {
        props.push(prop("limit", limit));
    }
    props.into_iter().flatten().collect()
}

fn observation(report: &Report, ids: &Ids, control: &Control) -> Value {
    let mut props = Vec::new();
    let mut evidence = Vec::new();
    for population in &control.populations {
        let counted = report.counted(*population);
        let spans: Vec<String> = counted
            .spans
            .iter()
            .map(|(node, span)| format!("; {node} {}..{} ({})", span.first, span.last, span.count))
            .collect();
        let value = format!("{} {} sha256 {}{}", population.name(), counted.count, counted.digest, spans.concat());
        props.extend(prop("population", &value));
        for cited in counted.sample.iter().take(CITED_MAX) {
            evidence.push(relevant(report, cited, &format!("sample of {}", population.name())));
        }
    }
    for exception in &control.exceptions {
        let found = report.found(*exception);
        let value = format!("{} {} ({})", exception.name(), found.count, exception.weight().word());
        props.extend(prop("stands-out", &value));
        for row in found.rows.iter().take(CITED_MAX) {
            match &row.event {
                Some(cited) => {
                    let gap = if row.note.is_empty() { "" } else { ": " };
                    evidence.push(relevant(report, cited, &format!("{}{gap}{}", exception.title(), row.note)));
                }
                None => evidence.push(json!({ "description": format!("{}: {}", exception.title(), row.note) })),
            }
        }
    }
    let mut observation = json!({
        "uuid": ids.of_part(&format!("observation {}", control.id)),
        "title": format!("{}: {}", control.id, control.title),
        "description": format!(
            "{} {} events in the populations named here, {} exceptions, {} notable.",
            control.asks,
            report.occurrences(control),
            report.weighing(control, Weight::Exception),
            report.weighing(control, Weight::Notable),
        ),
        "methods": ["EXAMINE"],
        "types": ["control-objective"],
        "origins": [{ "actors": [{ "type": "tool", "actor-uuid": ids.of_part("tool") }] }],
        "collected": report.made_at.to_string(),
    });
    let Some(map) = observation.as_object_mut() else { return observation };
    // OSCAL has no empty lists.
    insert_some(map, "props", props);
    insert_some(map, "relevant-evidence", evidence);
    observation
}

fn insert_some(map: &mut Map<String, Value>, key: &str, items: Vec<Value>) {
    if !items.is_empty() {
        map.insert(key.to_owned(), items.into());
    }
}

fn relevant(report: &Report, cited: &Cited, about: &str) -> Value {
    let id = cited.id.as_deref().unwrap_or("pruned");
    let text = format!(
        "{about}: {} {} at {} index {} ({id}), {}",
        cited.time,
        cited.kind.name(),
        cited.log,
        cited.index,
        cited.what
    );
    match report.source.proof_url(cited) {
        Some(href) => json!({ "href": href, "description": line(&text) }),
        None => json!({ "description": line(&text) }),
    }
}

fn finding(report: &Report, ids: &Ids, control: &Control) -> Value {
    let verdict = report.verdict(control);
    let (state, reason) = match verdict {
        Verdict::Evidence | Verdict::Nothing => ("satisfied", "pass"),
        Verdict::Exceptions => ("not-satisfied", "fail"),
        Verdict::Partial | Verdict::Gap => ("not-satisfied", "other"),
    };
    let mut remarks = vec![format!("The record alone says: {}; {}.", verdict.words(), verdict.meaning())];
    remarks.extend(control.gaps.iter().map(|gap| format!("Evidence that is not here: {gap}")));
    json!({
        "uuid": ids.of_part(&format!("finding {}", control.id)),
        "title": format!("{}: {}", control.id, verdict.words()),
        "description": control.asks,
        "target": {
            "type": "objective-id",
            "target-id": control_id(&report.framework.id, &control.id),
            "status": { "state": state, "reason": reason, "remarks": remarks.join("\n\n") },
        },
        "related-observations": [{ "observation-uuid": ids.of_part(&format!("observation {}", control.id)) }],
    })
}
