//! Trust rules that are valid and too broad: each is an error, since whoever can run a job that the
//! rule names holds what the rule gives.
//!
//! What counts as production: a rule whose name, groups, services or `environment` has `prod` in it.

use super::document::Field;
use super::suggestion;
use super::workloads::{Evidence, Preset, TrustRule, TrustedIssuer, Wanted};

/// Claims that can be given to somebody else, and the id beside them that can't.
const MUTABLE: [(Preset, &str, &str); 6] = [
    (Preset::GithubActions, "repository", "repository_id"),
    (Preset::GithubActions, "repository_owner", "repository_owner_id"),
    (Preset::GithubActions, "actor", "actor_id"),
    (Preset::Gitlab, "project_path", "project_id"),
    (Preset::Gitlab, "namespace_path", "namespace_id"),
    (Preset::Gitlab, "user_login", "user_id"),
];

/// How the names of what starts a job for a proposal begin.
const PROPOSALS: [&str; 3] = ["pull_request", "merge_request", "external_pull_request"];
/// Claims that say for which branch, or by which branch's workflow, a job runs.
const BRANCH_CLAIMS: [&str; 4] = ["ref", "sub", "workflow_ref", "job_workflow_ref"];

/// What they say of a job that a pull request started: `*` is any text without a `:`, `+` any without an `@`, and
/// `#` a number.
const OF_PULL_REQUESTS: [(&str, &str); 10] = [
    ("ref", "refs/pull/#/merge"),
    ("ref", "refs/pull/#/head"),
    ("ref", "refs/merge-requests/#/head"),
    ("ref", "refs/merge-requests/#/merge"),
    ("sub", "repo:*:pull_request"),
    ("sub", "repo:*:ref:refs/pull/#/merge"),
    ("sub", "project_path:*:ref_type:branch:ref:refs/merge-requests/#/head"),
    ("sub", "project_path:*:ref_type:branch:ref:refs/merge-requests/#/merge"),
    ("workflow_ref", "+@refs/pull/#/merge"),
    ("job_workflow_ref", "+@refs/pull/#/merge"),
];

struct Rule<'a> {
    rule: &'a TrustRule,
    claims: &'a [(String, Wanted)],
    field: &'a Field<'a>,
}

impl Rule<'_> {
    fn wanted(&self, name: &str) -> Option<&Wanted> {
        self.claims.iter().find(|(claim, _)| claim == name).map(|(_, wanted)| wanted)
    }

    /// Whether a claim is wanted with values that are written out.
    fn exact(&self, name: &str) -> bool {
        self.wanted(name).is_some_and(|wanted| !wanted.has_wildcard())
    }

    fn error(&self, message: String, help: &str) {
        self.field.error(format!("the rule `{}` is too broad: {message}", self.rule.name), help);
    }

    fn for_production(&self) -> bool {
        let prod = |text: &str| text.to_ascii_lowercase().contains("prod");
        let environment = self.wanted("environment").is_some_and(|wanted| wanted.0.iter().any(|text| prod(text)));
        environment
            || prod(&self.rule.name)
            || self.rule.groups.iter().any(|group| prod(group))
            || self.rule.services.iter().any(|service| prod(service.as_str()))
    }
}

/// Services that the rule names and the folder has not. `field` is the rule's.
pub(super) fn services(rule: &TrustRule, field: &Field<'_>, known: &[&str]) {
    let Some(mut table) = field.table() else { return };
    for named in table.list("services") {
        // One that can't be a name is an error already.
        let Some(name) = named.text().filter(|name| rule.services.iter().any(|service| service.as_str() == *name))
        else {
            continue;
        };
        if known.contains(&name) {
            continue;
        }
        let help = match suggestion::nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                "its jobs can have no token for it: name a service that is there, or take the name out, and the rule \
                 with it where it was for this one alone"
                    .to_owned()
            }
        };
        named.warning(format!("the rule `{}` is for the service `{name}`, which is not there", rule.name), help);
    }
}

pub(super) fn lint(rule: &TrustRule, issuers: &[TrustedIssuer], field: &Field<'_>) {
    match &rule.evidence {
        Evidence::Spiffe(wanted) => spiffe(rule, wanted, field),
        Evidence::Claims { issuer, claims } => {
            let Some(issuer) = issuers.iter().find(|known| known.name == *issuer) else { return };
            let rule = Rule { rule, claims, field };
            for (name, wanted) in claims {
                if wanted.0.iter().any(|pattern| pattern.chars().all(|c| c == '*')) {
                    rule.error(format!("`{name}` may be anything"), "leave the claim out, or say what it must be");
                }
            }
            for (preset, name, id) in MUTABLE {
                if issuer.preset == preset && rule.wanted(name).is_some() && !rule.exact(id) {
                    let message = format!("`{name}` is a name that can come to belong to somebody else");
                    rule.error(message, &format!("want `{id}` as well, which stays"));
                }
            }
            match issuer.preset {
                Preset::GithubActions => github(&rule),
                Preset::Gitlab => gitlab(&rule),
                Preset::Kubernetes => kubernetes(&rule),
                Preset::Oidc => oidc(&rule),
            }
            branches(&rule);
        }
    }
}

fn spiffe(rule: &TrustRule, wanted: &Wanted, field: &Field<'_>) {
    for pattern in &wanted.0 {
        let domain = pattern.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
        let fits = domain.is_some_and(|(domain, path)| {
            let whole = path.trim_matches('*').is_empty();
            let stars = path.matches('*').count();
            // A star at the end stands for what is below a path, not for the rest of a word.
            let below = stars == 0 || (stars == 1 && path.ends_with("/*"));
            !domain.is_empty() && !domain.contains('*') && !whole && below
        });
        if !fits {
            field.error(
                format!("the rule `{}` is too broad: `{}`", rule.name, pattern.escape_debug()),
                "write `spiffe://TRUST-DOMAIN/PATH`, or `…/PATH/*` for all below a path; never a whole trust domain",
            );
        }
    }
}

fn github(rule: &Rule<'_>) {
    if !rule.exact("repository_id") && !rule.exact("repository_owner_id") {
        rule.error(
            "it names no repository, and anybody can run a job at GitHub".to_owned(),
            "want `repository_id` (`gh api repos/OWNER/NAME --jq .id`)",
        );
    }
    if !rule.exact("repository_id") && rule.for_production() {
        rule.error("it gives production to every repository of an owner".to_owned(), "want `repository_id`");
    }
    let narrowed = ["ref", "environment", "job_workflow_ref", "workflow_ref", "sub"];
    if !narrowed.iter().any(|name| rule.wanted(name).is_some()) {
        rule.error(
            "it takes every branch, those of pull requests among them".to_owned(),
            "want `ref = \"refs/heads/main\"`, an `environment` with required reviewers, or a `job_workflow_ref`",
        );
    }
}

fn gitlab(rule: &Rule<'_>) {
    if !rule.exact("project_id") && !rule.exact("namespace_id") {
        rule.error(
            "it names no project, and anybody can run a job there".to_owned(),
            "want `project_id`, which stands on the project's page",
        );
    }
    if !rule.exact("project_id") && rule.for_production() {
        rule.error("it gives production to every project of a namespace".to_owned(), "want `project_id`");
    }
    if !["ref", "environment", "sub"].iter().any(|name| rule.wanted(name).is_some()) {
        rule.error("it takes every branch".to_owned(), "want `ref = \"main\"` and `ref_protected = \"true\"`");
    }
}

fn kubernetes(rule: &Rule<'_>) {
    let named = rule.wanted("sub").is_some_and(|wanted| {
        wanted.0.iter().all(|text| {
            let account = text.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
            account.is_some_and(|(namespace, name)| {
                !namespace.contains('*') && !namespace.is_empty() && !name.trim_matches('*').is_empty()
            })
        })
    });
    if !named {
        rule.error(
            "it does not name service accounts of one namespace".to_owned(),
            "want `sub = \"system:serviceaccount:NAMESPACE:NAME\"`",
        );
    }
}

fn oidc(rule: &Rule<'_>) {
    if !rule.claims.iter().any(|(_, wanted)| !wanted.has_wildcard()) {
        rule.error("no claim is written out".to_owned(), "want at least one claim, such as `sub`, without `*`");
    }
}

/// Branches that anybody may push to, and code that nobody has looked at.
fn branches(rule: &Rule<'_>) {
    let says_so = |text: &String| {
        let text = text.trim_start_matches('*');
        text.starts_with("refs/pull/") || text.starts_with("refs/merge-requests/") || text.contains(":pull_request")
    };
    // What a wildcard lets in is no harm where another claim keeps pull requests out.
    let keeps_out = |name: &str| {
        rule.wanted(name).is_some_and(|wanted| !wanted.0.iter().any(|pattern| takes_pull_requests(name, pattern)))
    };
    let protected = rule.wanted("ref_protected").is_some_and(|wanted| wanted.0 == ["true"]);
    // What starts a job tells it, too: none of these is a proposal.
    let started_otherwise = |name: &str| {
        let proposal = |text: &String| PROPOSALS.iter().any(|start| text.starts_with(start));
        rule.wanted(name).is_some_and(|wanted| !wanted.has_wildcard() && !wanted.0.iter().any(proposal))
    };
    let of_tag = rule.wanted("ref_type").is_some_and(|wanted| wanted.0 == ["tag"]);
    let kept_out = protected
        || of_tag
        || started_otherwise("event_name")
        || started_otherwise("pipeline_source")
        || BRANCH_CLAIMS.into_iter().any(keeps_out)
        || rule.wanted("environment").is_some_and(|wanted| !wanted.has_wildcard());
    for name in BRANCH_CLAIMS {
        let takes = |text: &String| says_so(text) || (!kept_out && takes_pull_requests(name, text));
        if rule.wanted(name).is_some_and(|wanted| wanted.0.iter().any(takes)) {
            rule.error(
                format!("`{name}` takes pull requests, whose code nobody has looked at"),
                "name a branch; what pull requests may do needs no token",
            );
        }
    }
    for (name, bad) in [("event_name", "pull_request"), ("pipeline_source", "merge_request")] {
        if rule.wanted(name).is_some_and(|wanted| wanted.0.iter().any(|text| text.starts_with(bad))) {
            rule.error(format!("`{name}` takes jobs of proposals, whose code nobody has looked at"), "leave it out");
        }
    }
    let wide = |name: &&str| rule.wanted(name).is_some_and(Wanted::has_wildcard);
    if rule.for_production()
        && let Some(name) = ["ref", "sub", "workflow_ref", "job_workflow_ref", "environment"].into_iter().find(wide)
    {
        rule.error(
            format!("`{name}` has a wildcard, and the rule is for production"),
            "write the branches and environments out",
        );
    }
}

/// Whether a pattern for a claim holds for what the claim says of some pull request.
fn takes_pull_requests(claim: &str, pattern: &str) -> bool {
    OF_PULL_REQUESTS.iter().any(|(name, form)| *name == claim && meet(pattern.as_bytes(), form.as_bytes()))
}

/// Whether there is a text that `pattern` holds for and that is of this form. `ends[j]` says so of what is left
/// of both, for each rest of the form, as the pattern is read from its end.
fn meet(pattern: &[u8], form: &[u8]) -> bool {
    let fits = |hole: u8, byte: u8| match hole {
        b'*' => byte != b':',
        b'+' => byte != b'@',
        b'#' => byte.is_ascii_digit(),
        literal => literal == byte,
    };
    let is_hole = |byte: u8| matches!(byte, b'*' | b'+' | b'#');
    // At the end of the pattern, nothing may be left of the form but a hole for nothing.
    let mut ends = vec![true; form.len() + 1];
    for (j, byte) in form.iter().enumerate().rev() {
        let after = ends.get(j + 1).copied().unwrap_or_default();
        if let Some(end) = ends.get_mut(j) {
            *end = after && is_hole(*byte);
        }
    }
    for star_or_byte in pattern.iter().rev().copied() {
        let below = ends.clone();
        let below = |j: usize| below.get(j).copied().unwrap_or_default();
        let star = star_or_byte == b'*';
        let mut after = star && below(form.len());
        if let Some(end) = ends.last_mut() {
            *end = after;
        }
        for (j, hole) in form.iter().copied().enumerate().rev() {
            // A star takes what it likes of the form; a byte goes into a hole, passes it, or is the form's own.
            let here = if star {
                below(j) || after
            } else if is_hole(hole) {
                (fits(hole, star_or_byte) && below(j)) || after
            } else {
                fits(hole, star_or_byte) && below(j + 1)
            };
            if let Some(end) = ends.get_mut(j) {
                *end = here;
            }
            after = here;
        }
    }
    ends.first().copied().unwrap_or_default()
}
