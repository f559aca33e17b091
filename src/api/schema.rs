//! The shapes of `wire/` as JSON Schema (2020-12), for the OpenAPI document.
//!
//! INVARIANT: what a body may not say is not allowed by its schema either; `tests/run` checks the
//! whole document against a live door.

use serde_json::{Map, Value, json};

/// What an id looks like after its prefix: 128 bits, of which the last character has three.
const TAIL: &str = "[0-9a-v]{25}[048cgkos]";

/// The schema of one word of this file's notation:
///
/// - `string`, `integer`, `boolean`, `strings`, `texts` (text → text), `time`
/// - `id:req_`: an id of that prefix; `one:a|b`: one of these words
/// - `words`: 1 to 1,000 characters for people to read; `line`: some, possibly none
/// - `finding`: as `words`, up to 2,000 characters; `sha256`: in hexadecimal; `challenge`, `sshsig`, `sshsigs`:
///   what custodians sign and their signatures
/// - `notice_place`: where a page of notices ends; `channel`: the name of one that is told
/// - `service`: the name of one; `item`: the number of a rule; `reviewers`: those named to decide
/// - `limit`: how many a page is to hold; `length`: `1h30m`; `Name`, `Name[]`: one or several of another shape
///
/// A `?` at its end: it may be null.
pub(super) fn of(kind: &str) -> Value {
    let (kind, nullable) = kind.strip_suffix('?').map_or((kind, false), |kind| (kind, true));
    let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let schema = match kind {
        "time" => json!({ "type": "string", "format": "date-time" }),
        "strings" => json!({ "type": "array", "items": { "type": "string" } }),
        "texts" => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        "string" | "integer" | "boolean" | "object" => json!({ "type": kind }),
        "cursor" => json!({ "type": "string", "minLength": 1 }),
        "limit" => json!({ "type": "integer", "minimum": 1, "maximum": 200 }),
        "words" => json!({ "type": "string", "minLength": 1, "maxLength": 1000, "pattern": "^[^\\x00]*\\S[^\\x00]*$" }),
        "finding" => {
            json!({ "type": "string", "minLength": 1, "maxLength": 2000, "pattern": "^[^\\x00]*\\S[^\\x00]*$" })
        }
        "sha256" => json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" }),
        "challenge" => json!({ "type": "string", "maxLength": 8192, "pattern": "^[\\x01-\\x7f]*$" }),
        "sshsig" => json!({ "type": "string", "maxLength": 4096, "pattern": "^[\\x01-\\x7f]*$" }),
        "notice_place" => json!({ "type": "string", "pattern": format!("^evt_{TAIL}\\.[a-z0-9_-]{{0,63}}$") }),
        "service" => json!({ "type": "string", "pattern": "^[a-z][a-z0-9_-]{0,62}$" }),
        "item" => json!({ "type": "integer", "minimum": 1, "maximum": 1000 }),
        "reviewers" => {
            let name = json!({ "type": "string", "pattern": "^[!-~]{1,320}$" });
            json!({ "type": "array", "maxItems": 50, "items": name })
        }
        "channel" => json!({ "type": "string", "pattern": "^[^\\x00]*$" }),
        "sshsigs" => json!({ "type": "array", "maxItems": 16, "items": of("sshsig") }),
        "length" => {
            json!({ "type": "string", "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$", "minLength": 2, "maxLength": 40 })
        }
        other => match (other.split_once(':'), other.strip_suffix("[]")) {
            (Some(("id", prefix)), _) => json!({ "type": "string", "pattern": format!("^{prefix}{TAIL}$") }),
            (Some((_, words)), _) => json!({ "type": "string", "enum": words.split('|').collect::<Vec<_>>() }),
            (None, Some(item)) => json!({ "type": "array", "items": reference(item) }),
            (None, None) => reference(other),
        },
    };
    if nullable { json!({ "anyOf": [schema, { "type": "null" }] }) } else { schema }
}

/// An object with these fields; a `?` at the end of a name: the field may be missing.
fn object(fields: &[(&str, &str)]) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for (name, kind) in fields {
        let name = name.strip_suffix('?').unwrap_or_else(|| {
            required.push(*name);
            name
        });
        properties.insert(name.to_owned(), of(kind));
    }
    json!({ "type": "object", "properties": properties, "required": required })
}

/// What is sent to us: nothing beyond these fields.
fn body(fields: &[(&str, &str)]) -> Value {
    let mut schema = object(fields);
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("additionalProperties".to_owned(), false.into());
    }
    schema
}

const REQUEST_STATE: &str = "one:pending|approved|scheduled|active|expired|revoked|dropped|denied|withdrawn|timed_out";
const GRANT_STATE: &str = "one:scheduled|queued|active|expired|revoked|dropped";

/// All shapes by their names.
pub(super) fn all() -> Value {
    let mut shapes = people_and_services();
    for more in [access(), reviews(), emergency(), oauth()] {
        if let (Value::Object(shapes), Value::Object(more)) = (&mut shapes, more) {
            shapes.extend(more);
        }
    }
    shapes
}

fn people_and_services() -> Value {
    json!({
        "Principal": object(&[("kind", "string"), ("id", "string"), ("name", "string?"), ("email", "string?")]),
        "Device": object(&[("id", "string")]),
        "Session": object(&[
            ("id", "id:ses_"), ("kind", "one:browser|cli|workload"), ("principal", "Principal"),
            ("device", "Device?"), ("groups", "strings"), ("created_at", "time"), ("authenticated_at", "time"),
            ("expires_at", "time"), ("certificate_expires_at", "time?"), ("current", "boolean"),
            ("state", "one:live|ended"), ("end?", "string"),
        ]),
        "HeldGrant": object(&[("id", "id:grt_"), ("entitlement", "string"), ("expires_at", "time")]),
        "Whoami": object(&[
            ("principal", "Principal"), ("session", "Session"), ("groups", "strings"), ("grants", "HeldGrant[]"),
            ("expires_at", "time"),
        ]),
        "ServiceAction": object(&[
            ("name", "string"), ("access", "one:allowed|requestable|denied"), ("entitlement", "string?"),
        ]),
        "ServiceHealth": object(&[
            ("state", "one:healthy|degraded|unhealthy"), ("healthy", "integer"), ("upstreams", "integer"),
        ]),
        "Service": object(&[
            ("name", "string"), ("description", "string"), ("url", "string"), ("hosts", "strings"),
            ("access", "one:allowed|requestable|denied"), ("actions", "ServiceAction[]"), ("entitlements", "strings"),
            ("health?", "ServiceHealth"),
        ]),
        "Entitlement": object(&[
            ("name", "string"), ("description", "string"), ("approvals", "integer"), ("max", "string"),
            ("default", "string"), ("min", "string"), ("reason_required", "boolean"), ("ticket", "string?"),
            ("idle", "string?"), ("earliest_start", "string?"), ("break", "string?"), ("may_request", "boolean"),
        ]),
        "DecisionRequest": object(&[("method", "string"), ("host", "string"), ("path", "string")]),
        "Decision": object(&[
            ("id", "id:dec_"), ("time", "time"), ("outcome", "one:allow|deny"), ("reason?", "string?"),
            ("principal?", "Principal?"), ("erased?", "id:usr_"), ("action?", "string?"), ("resource?", "string?"),
            ("service?", "string?"), ("request?", "DecisionRequest?"), ("act?", "strings"), ("policy_version?", "string?"),
            ("policies", "strings"), ("errors", "strings"), ("remedy?", "Remedy?"), ("note?", "string?"), ("grant?", "string?"),
            ("exchange?", "DecisionExchange"), ("ended?", "DecisionEnded"),
            ("grants", "DecisionGrant[]"), ("helps", "DecisionHelp[]"), ("log?", "string?"), ("seq?", "integer?"),
        ]),
        "DecisionEnded": object(&[
            ("status", "integer"), ("reason", "string"), ("fault?", "string?"), ("duration_ms?", "integer?"),
            ("time", "time"),
        ]),
        "DecisionExchange": object(&[("reason", "string"), ("data", "object")]),
        "DecisionGrant": object(&[("id", "string"), ("entitlement", "string")]),
        "DecisionHelp": object(&[
            ("entitlement", "string"), ("grant?", "string?"), ("state?", "string?"), ("request?", "string?"),
        ]),
        "AuditEvent": crate::audit::schema::event(),
        "AuditStream": object(&[
            ("name", "string"), ("kind", "one:syslog|webhook|otlp"), ("format", "one:jsonl|ocsf|cef"),
            ("state", "one:sending|failing|stalled|unattended"), ("sent", "integer"), ("sent_at", "time?"),
            ("lag_events", "integer"), ("lag_seconds", "integer"), ("failing_since", "time?"), ("failures", "integer"),
            ("error", "string?"), ("positions", "AuditStreamPosition[]"),
        ]),
        "AuditStreamPosition": object(&[("log", "id:nod_"), ("next", "integer"), ("size", "integer")]),
        "Somebody": object(&[
            ("id", "string"), ("kind", "string"), ("principal?", "string?"), ("email?", "string?"),
        ]),
        "ApprovedBy": object(&[("by", "Somebody"), ("time", "time")]),
        "Uses": object(&[("count", "integer"), ("first?", "time?"), ("last?", "time?")]),
        "AccessRow": object(&[
            ("person", "Somebody"), ("service?", "string?"), ("entitlement?", "string?"),
            ("how", "one:standing|grant|break_glass"), ("grant?", "string?"), ("opening?", "string?"),
            ("from?", "time?"), ("to?", "time?"), ("approved_by", "ApprovedBy[]"), ("custodians", "strings"),
            ("reason?", "string?"), ("ticket?", "string?"), ("uses", "Uses"),
        ]),
        "AskedFor": object(&[
            ("id", "id:req_"), ("time", "time"), ("reason", "string"), ("ticket?", "string?"), ("for", "string"),
            ("hash", "string"), ("approvals_needed", "integer"),
        ]),
        "GrantStep": object(&[
            ("time", "time"), ("type", "string"), ("text", "string"), ("by?", "Somebody?"), ("outcome", "string"),
            ("event", "id:evt_"), ("log", "string"), ("seq?", "integer?"), ("data", "object"),
        ]),
        "GrantUse": object(&[
            ("method?", "string?"), ("path?", "string?"), ("action?", "string?"), ("outcome", "string"),
            ("reason?", "string?"), ("count", "integer"), ("first", "time"), ("last", "time"),
        ]),
        "GrantView": object(&[
            ("id", "id:grt_"), ("entitlement", "string"), ("holder?", "Somebody?"), ("state", "string"),
            ("emergency", "boolean"), ("request?", "AskedFor?"), ("approved_by", "Somebody[]"),
            ("active_at?", "time?"), ("expires_at?", "time?"), ("ended_at?", "time?"), ("end_reason?", "string?"),
            ("review", "one:none|open|done"), ("allowed", "integer"), ("denied", "integer"), ("first_use?", "time?"),
            ("last_use?", "time?"), ("uses", "GrantUse[]"), ("timeline", "GrantStep[]"),
            ("without_content", "integer"), ("left_out", "integer"),
        ]),
        "AuditLog": object(&[
            ("log", "string"), ("size", "integer"), ("opened_at", "time"), ("pruned_to", "integer"),
        ]),
        "AuditCheckpoint": object(&[
            ("log", "string"), ("size", "integer"), ("root", "string"), ("time", "time"), ("note", "string"),
        ]),
        "KeptByRule": object(&[("rule", "string"), ("reason", "string"), ("events", "integer"), ("until", "time")]),
        "Erasure": object(&[
            ("id", "id:ers_"), ("pseudonym", "id:usr_"), ("state", "one:running|kept|done"), ("reason", "string"),
            ("requested_by", "id:usr_"), ("requested_at", "time"), ("events", "integer"), ("fields", "integer"),
            ("texts", "integer"), ("texts_left", "integer"), ("kept", "KeptByRule[]"), ("finished_at", "time?"),
        ]),
        "ErasureDryRun": object(&[
            ("pseudonym", "id:usr_"), ("events", "integer"), ("fields", "integer"), ("texts", "integer"),
            ("paths", "integer"), ("kept", "KeptByRule[]"),
        ]),
        "NewErasure": body(&[("person", "words"), ("reason", "words"), ("texts?", "one:erase|keep?"), ("dry_run?", "boolean")]),
        "NodePolicies": object(&[
            ("node", "string"), ("policy_version", "string?"), ("since", "time?"), ("refused_at", "time?"),
            ("agrees", "boolean"),
        ]),
        "AuditProof": object(&[("log", "string"), ("size", "integer"), ("root", "string"), ("hashes", "strings")]),
        "Remedy": object(&[("kind", "string"), ("entitlement?", "string"), ("command?", "string")]),
        "Problem": object(&[
            ("type", "string"), ("title", "string"), ("status", "integer"), ("detail", "string"),
            ("decision", "string"), ("reason", "string"), ("remedy", "Remedy"),
        ]),
    })
}

fn reviews() -> Value {
    json!({
        "Review": object(&[
            ("id", "id:rev_"), ("service", "string"), ("state", "one:open|closed"), ("policy_version", "string"),
            ("started_by", "Principal"), ("started_at", "time"), ("due_at", "time"), ("overdue", "boolean"),
            ("reviewers", "strings"), ("closed_at", "time?"), ("closed_by", "Principal?"), ("rules", "integer"),
            ("undecided", "integer"), ("to_remove", "integer"), ("used_since?", "time"), ("items?", "ReviewRule[]"),
        ]),
        "ReviewRule": object(&[
            ("item", "integer"), ("kind", "one:entitlement|permit"), ("name", "string"), ("summary", "string"),
            ("actions", "strings"), ("policies", "ReviewPolicy[]"), ("sha256", "sha256"),
            ("now", "one:same|changed|gone"), ("state", "one:undecided|keep|remove|removed"),
            ("decision", "ReviewDecision?"), ("removed_at", "time?"), ("used?", "ReviewUse"),
        ]),
        "ReviewPolicy": object(&[("name", "string"), ("roles", "strings"), ("text", "string")]),
        "ReviewDecision": object(&[
            ("decision", "one:keep|remove"), ("reason", "string"), ("by", "Principal"), ("at", "time"),
        ]),
        "ReviewUse": object(&[
            ("grants_active", "integer"), ("grants_recent", "integer"), ("people", "integer"), ("last_used", "time?"),
        ]),
        "StartReview": body(&[("service", "service"), ("due?", "length?"), ("reviewers?", "reviewers")]),
        "NewDecision": body(&[("decision", "one:keep|remove"), ("reason", "words")]),
    })
}

fn access() -> Value {
    json!({
        "Revoke": body(&[("reason", "words")]),
        "Nothing": body(&[]),
        "Lock": object(&[
            ("id", "id:lck_"), ("principal", "Principal"), ("reason", "string"), ("set_at", "time"),
            ("active", "boolean"), ("known?", "boolean"), ("near?", "string"),
        ]),
        "Notice": object(&[
            ("id", "id:evt_"), ("channel", "string"), ("type", "string"), ("state", "one:waiting|delivered|dead"),
            ("attempts", "integer"), ("next_at", "time?"), ("error", "string?"), ("created_at", "time"),
            ("ended_at", "time?"),
        ]),
        "RetryNotice": body(&[("channel?", "channel?")]),
        "NewLock": body(&[("principal", "words"), ("reason", "words")]),
        "Approval": object(&[
            ("by", "Principal"), ("answer", "one:approve|deny"), ("reason", "string?"), ("time", "time"),
            ("hash", "string"), ("counts", "boolean"),
        ]),
        "ApprovalContext": object(&[
            ("first_time", "boolean"), ("grants_30d", "integer"), ("outside_hours", "boolean"), ("routes", "strings"),
        ]),
        "AccessRequest": object(&[
            ("id", "id:req_"), ("state", REQUEST_STATE), ("entitlement", "string"), ("principal", "Principal"),
            ("reason", "string"), ("ticket", "string?"), ("params", "texts"), ("for", "string"), ("start", "time?"),
            ("emergency", "boolean"), ("extends", "id:grt_?"), ("created_at", "time"), ("answer_by", "time"),
            ("approvals_needed", "integer"), ("approvals", "Approval[]"), ("hash", "string"), ("actions", "strings"),
            ("grant", "id:grt_?"), ("expires_at", "time?"), ("context?", "ApprovalContext"),
        ]),
        "NewAccessRequest": body(&[
            ("entitlement", "string"), ("reason?", "words?"), ("ticket?", "string?"), ("for?", "length?"),
            ("start?", "time?"), ("params?", "texts"), ("emergency?", "boolean"), ("dry_run?", "boolean"),
        ]),
        "DryRun": object(&[
            ("entitlement", "string"), ("for", "string"), ("start", "time?"), ("approvals_needed", "integer"),
            ("approvers", "Principal[]"), ("actions", "strings"), ("idle", "string?"), ("earliest_start", "string?"),
            ("break", "string?"),
        ]),
        "NewApproval": body(&[("answer", "one:approve|deny"), ("reason?", "words?"), ("hash?", "string?")]),
        "Grant": object(&[
            ("id", "id:grt_"), ("request", "id:req_"), ("entitlement", "string"), ("principal", "Principal"),
            ("state", GRANT_STATE), ("params", "texts"), ("actions", "strings"), ("emergency", "boolean"),
            ("created_at", "time"), ("starts_at", "time?"), ("active_at", "time?"), ("expires_at", "time?"),
            ("ended_at", "time?"), ("end_reason", "string?"), ("idle", "string?"), ("used_at", "time?"),
            ("idle_ends_at", "time?"), ("reviewed", "boolean"),
        ]),
        "Extend": body(&[("for", "length")]),
        "Credential": object(&[
            ("id", "id:crd_"), ("kind", "one:x509|token"), ("principal", "Principal"), ("session", "id:ses_"),
            ("audience", "string?"), ("scope", "string?"), ("grant", "id:grt_?"), ("acting", "string?"),
            ("thumbprint", "string?"), ("issued_at", "time"), ("expires_at", "time"),
            ("revoking_ends", "one:credential|session"),
        ]),
        "Lease": object(&[
            ("id", "id:lea_"), ("grant", "id:grt_"), ("state", "string"), ("expires_at", "time"),
        ]),
    })
}

fn emergency() -> Value {
    json!({
        "BreakGlassTerms": object(&[
            ("trust_domain", "string"), ("custodians_sha256", "string"), ("threshold", "integer"),
            ("needed", "integer"), ("max_duration_seconds", "integer"), ("time", "time"), ("drilled_at", "time?"),
        ]),
        "BreakGlassEvidence": body(&[("client_key_sha256", "sha256"), ("challenge", "challenge"), ("signatures", "sshsigs")]),
        "BreakGlassChecked": object(&[
            ("id", "id:brk_"), ("custodians", "strings"), ("opener_proven", "boolean"), ("expires", "time"),
        ]),
        "BreakGlassDrill": object(&[
            ("id", "id:brk_"), ("custodians", "strings"), ("took_seconds", "integer"), ("recorded", "boolean"),
            ("channels", "DrillChannel[]?"),
        ]),
        "DrillChannel": object(&[("name", "string"), ("state", "one:taken|failed|not_asked"), ("error", "string?")]),
        "BreakGlassClose": body(&[("statement", "challenge"), ("signature", "sshsig"), ("evidence?", "BreakGlassEvidence?")]),
        "BreakGlassClosed": object(&[("id", "id:brk_"), ("state", "one:closed"), ("by", "string")]),
        "EmergencyReview": object(&[("by", "Principal"), ("finding", "string"), ("time", "time")]),
        "Emergency": object(&[
            ("id", "string"), ("kind", "one:custodians|approvals_skipped"), ("state", "one:active|expired|closed"),
            ("opener", "string"), ("opener_proven", "boolean"), ("scope", "string"), ("reason", "string"),
            ("custodians", "strings"), ("opened_at", "time"), ("expires", "time"), ("closed_at", "time?"),
            ("closed_by", "string?"), ("reviewed", "boolean"), ("reviews_missing", "integer"),
            ("reviews", "EmergencyReview[]"),
        ]),
        "NewReview": body(&[("finding", "finding")]),
    })
}

fn oauth() -> Value {
    json!({
        "OauthError": object(&[("error", "string"), ("error_description?", "string"), ("decision?", "string?")]),
        "TokenAnswer": object(&[
            ("access_token", "string"), ("token_type", "string"), ("expires_in", "integer"),
            ("refresh_token", "string"), ("refresh_token_expires_in", "integer"), ("session", "Session"),
            ("certificate?", "string"), ("certificate_expires_at?", "time"), ("ca", "string"),
            ("audit_key", "string?"),
        ]),
        "ExchangeAnswer": object(&[
            ("access_token", "string"), ("issued_token_type", "string"), ("token_type", "string"),
            ("expires_in", "integer"), ("expires_at", "time"), ("aud", "string"), ("scope?", "string"),
            ("grant?", "id:grt_"), ("cnf?", "texts"), ("session", "Session"), ("certificate?", "string"),
            ("certificate_expires_at?", "time"), ("ca", "string"),
        ]),
        "DeviceAuthorization": object(&[
            ("device_code", "string"), ("user_code", "string"), ("verification_uri", "string"),
            ("verification_uri_complete", "string"), ("expires_in", "integer"), ("interval", "integer"),
        ]),
        "Introspection": object(&[
            ("active", "boolean"), ("scope?", "string"), ("client_id?", "string"), ("token_type?", "string"),
            ("exp?", "integer"), ("iat?", "integer"), ("sub?", "string"), ("aud?", "string"), ("iss?", "string"),
            ("jti?", "string"), ("sid?", "string"), ("grant?", "id:grt_"), ("act?", "object"), ("may_act?", "object"),
        ]),
    })
}
