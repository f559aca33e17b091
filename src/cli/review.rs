//! `doorward review`: who may do what at a service, decided rule by rule.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueEnum};

use crate::model::{ReviewId, ServiceName, Ttl};
use crate::wire::{NewDecision, Nothing, Page, Review, ReviewRule, StartReview};

use super::args::{Format, length};
use super::context::Context;
use super::failure::Failure;
use super::printer::left;
use super::renewal::{SignedIn, signed_in};

/// What is done with reviews.
#[derive(Debug, Clone, Subcommand)]
pub enum ReviewCommand {
    /// Begin a review of a service: its rules are taken down as they are now
    #[command(
        before_help = "Examples:\n  doorward review start --service ops-api\n  doorward review start --service ops-api --due 30d \\\n    --reviewer carol@example.com"
    )]
    Start(StartArgs),
    /// Reviews, the newest first
    #[command(before_help = "Examples:\n  doorward review list --state open\n  doorward review list -o json")]
    List(ListArgs),
    /// One review: each rule, who uses it, what was decided
    #[command(before_help = "Example:\n  doorward review show rev_…")]
    Show(ShowArgs),
    /// Decide on one rule; until the review is closed an earlier decision gives way
    #[command(
        before_help = "Examples:\n  doorward review decide rev_… 1 keep --reason \"needed for releases\"\n  doorward review decide rev_… 3 remove --reason \"nobody uses it\""
    )]
    Decide(DecideArgs),
    /// Close a review; what is undecided stays an exception in reports
    #[command(before_help = "Example:\n  doorward review close rev_…")]
    Close(ShowArgs),
}

/// `doorward review start`
#[derive(Debug, Clone, Args)]
pub struct StartArgs {
    /// Of which service
    #[arg(long, value_name = "SERVICE", value_parser = ServiceName::parse)]
    pub service: ServiceName,
    /// In how long its rules are to be decided
    #[arg(long, value_name = "LENGTH", default_value = "14d", value_parser = length)]
    pub due: Ttl,
    /// Who is to decide, by e-mail or account; several by several flags [default: all who may review]
    #[arg(long = "reviewer", value_name = "WHO")]
    pub reviewers: Vec<String>,
}

/// `doorward review list`
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Only those that are this far
    #[arg(long, value_name = "STATE", value_parser = PossibleValuesParser::new(["open", "closed"]))]
    pub state: Option<String>,
    /// Only of this service
    #[arg(long, value_name = "SERVICE", value_parser = ServiceName::parse)]
    pub service: Option<ServiceName>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub limit: u32,
    /// Go on after a page: its `next`
    #[arg(long, value_name = "CURSOR", value_parser = ReviewId::parse)]
    pub cursor: Option<ReviewId>,
}

/// `doorward review show` and `close`
#[derive(Debug, Clone, Args)]
pub struct ShowArgs {
    /// The review, `rev_…`, or its beginning
    #[arg(value_name = "ID")]
    pub id: String,
}

/// What is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// It stays
    Keep,
    /// Its owners are to take it out of the policies; a finding until it is gone
    Remove,
}

fn item(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "it is the number that `doorward review show` gives the rule".to_owned())
}

/// `doorward review decide`
#[derive(Debug, Clone, Args)]
pub struct DecideArgs {
    /// The review, `rev_…`, or its beginning
    #[arg(value_name = "ID")]
    pub id: String,
    /// The number of the rule, as `show` lists it
    #[arg(value_name = "ITEM", value_parser = item)]
    pub item: u32,
    /// What is decided
    #[arg(value_name = "DECISION")]
    pub choice: Choice,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// Runs one of them.
///
/// # Errors
/// When nobody is signed in or the server can't be asked; exit 4 when one may not review, exit 1 when the
/// review or the rule does not let it happen.
pub async fn run(context: &Context, command: &ReviewCommand) -> Result<(), Failure> {
    let here = signed_in(context).await?;
    match command {
        ReviewCommand::Start(args) => start(context, &here, args).await,
        ReviewCommand::List(args) => list(context, &here, args).await,
        ReviewCommand::Show(args) => {
            let id = whole(&here, &args.id).await?;
            let json = here.client.get(&format!("/api/v1/reviews/{id}")).await?;
            print(context, &here, &json)
        }
        ReviewCommand::Decide(args) => decide(context, &here, args).await,
        ReviewCommand::Close(args) => {
            let id = whole(&here, &args.id).await?;
            let path = format!("/api/v1/reviews/{id}/close");
            let json = here.client.act(&path, &Nothing {}, &*context.entropy).await?;
            if context.printer.format() == Format::Json {
                return context.printer.resource(&json);
            }
            let review: Review = here.client.read(&json)?;
            context.printer.talk(&format!(
                "The review {id} is closed: {} of {} rules to be removed, {} undecided.",
                review.to_remove, review.rules, review.undecided
            ));
            Ok(())
        }
    }
}

async fn start(context: &Context, here: &SignedIn, args: &StartArgs) -> Result<(), Failure> {
    let body = StartReview {
        service: args.service.to_string(),
        due: Some(args.due.to_string()),
        reviewers: args.reviewers.clone(),
    };
    let json = here.client.act("/api/v1/reviews", &body, &*context.entropy).await?;
    if context.printer.format() == Format::Json {
        return context.printer.resource(&json);
    }
    let review: Review = here.client.read(&json)?;
    print(context, here, &here.client.get(&format!("/api/v1/reviews/{}", review.id)).await?)
}

async fn list(context: &Context, here: &SignedIn, args: &ListArgs) -> Result<(), Failure> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &args.limit.to_string());
    let (service, cursor) = (args.service.as_ref().map(ToString::to_string), args.cursor.map(|id| id.to_string()));
    for (name, value) in [("state", args.state.clone()), ("service", service), ("cursor", cursor)] {
        if let Some(value) = value {
            query.append_pair(name, &value);
        }
    }
    let json = here.client.get(&format!("/api/v1/reviews?{}", query.finish())).await?;
    if context.printer.format() == Format::Json {
        return context.printer.resource(&json);
    }
    let page: Page<Review> = here.client.read(&json)?;
    if page.items.is_empty() {
        context.printer.talk("There are no such reviews, or none that you may see.");
        return Ok(());
    }
    let now = context.clock.now();
    let row = |review: &Review| {
        vec![
            review.id.clone(),
            review.service.clone(),
            review.state.clone(),
            if review.state == "open" { left(review.due_at.0, now) } else { "-".to_owned() },
            review.rules.to_string(),
            review.undecided.to_string(),
            review.to_remove.to_string(),
        ]
    };
    let rows: Vec<_> = page.items.iter().map(row).collect();
    context.printer.table(&["REVIEW", "SERVICE", "STATE", "DUE", "RULES", "UNDECIDED", "TO REMOVE"], &rows)?;
    if let Some(next) = &page.next {
        context.printer.talk(&format!("There are more: --cursor {next}"));
    }
    Ok(())
}

async fn decide(context: &Context, here: &SignedIn, args: &DecideArgs) -> Result<(), Failure> {
    let id = whole(here, &args.id).await?;
    let decision = match args.choice {
        Choice::Keep => "keep",
        Choice::Remove => "remove",
    };
    let body = NewDecision { decision: decision.to_owned(), reason: args.reason.clone() };
    let path = format!("/api/v1/reviews/{id}/items/{}/decision", args.item);
    let json = here.client.act(&path, &body, &*context.entropy).await?;
    if context.printer.format() == Format::Json {
        return context.printer.resource(&json);
    }
    let rule: ReviewRule = here.client.read(&json)?;
    context.printer.talk(&match args.choice {
        Choice::Keep => format!("`{}` stays; that is on record.", rule.name),
        Choice::Remove => format!(
            "`{}` is to go: that is on record, and an exception in every report until it is gone from the policies.",
            rule.name
        ),
    });
    Ok(())
}

/// A review for people: what it is, its rules, and what they are made of.
fn print(context: &Context, here: &SignedIn, json: &str) -> Result<(), Failure> {
    if context.printer.format() == Format::Json {
        return context.printer.resource(json);
    }
    let review: Review = here.client.read(json)?;
    let now = context.clock.now();
    let due = match (review.state.as_str(), review.overdue) {
        ("open", true) => format!("{}, overdue", review.due_at),
        ("open", false) => format!("{}, {} left", review.due_at, left(review.due_at.0, now)),
        _ => review.due_at.to_string(),
    };
    let mut pairs = vec![
        ("review", review.id.clone()),
        ("service", review.service.clone()),
        ("state", review.state.clone()),
        ("due", due),
        ("policies", review.policy_version.clone()),
        ("undecided", format!("{} of {}", review.undecided, review.rules)),
    ];
    if !review.reviewers.is_empty() {
        pairs.push(("reviewers", review.reviewers.join(", ")));
    }
    if let Some(since) = review.used_since {
        pairs.push(("uses since", since.to_string()));
    }
    context.printer.pairs(&pairs)?;
    let items = review.items.unwrap_or_default();
    let rows: Vec<_> = items.iter().map(row).collect();
    context.printer.line("")?;
    let header = ["ITEM", "KIND", "RULE", "ACTIONS", "GRANTS", "PEOPLE", "LAST USE", "DECISION", "NOW"];
    context.printer.table(&header, &rows)?;
    let policies = items.iter().flat_map(|item| item.policies.iter().map(move |policy| (item, policy)));
    let texts: Vec<_> = policies
        .map(|(item, policy)| {
            vec![item.item.to_string(), policy.roles.join(", "), policy.name.clone(), policy.text.clone()]
        })
        .collect();
    context.printer.line("")?;
    context.printer.table(&["ITEM", "DOES", "POLICY", "TEXT"], &texts)
}

fn row(item: &ReviewRule) -> Vec<String> {
    let (mut grants, mut people, mut last) = ("-".to_owned(), "-".to_owned(), "-".to_owned());
    if let Some(used) = &item.used {
        people = used.people.to_string();
        last = used.last_used.map_or_else(|| "none seen".to_owned(), |at| at.to_string());
        if item.kind == "entitlement" {
            grants = format!("{} active, {} recent", used.grants_active, used.grants_recent);
        }
    }
    let decision = match &item.decision {
        None => item.state.clone(),
        Some(decision) => {
            let who = decision.by.email.as_deref().unwrap_or(&decision.by.id);
            format!("{} ({who}: {})", item.state, decision.reason)
        }
    };
    vec![
        item.item.to_string(),
        item.kind.clone(),
        item.name.clone(),
        item.actions.join(", "),
        grants,
        people,
        last,
        decision,
        item.now.clone(),
    ]
}

/// The one id that begins so.
async fn whole(here: &SignedIn, text: &str) -> Result<ReviewId, Failure> {
    if let Ok(id) = ReviewId::parse(text) {
        return Ok(id);
    }
    let tail = text.strip_prefix(ReviewId::PREFIX).unwrap_or_default();
    if tail.is_empty() || !tail.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return Err(Failure::usage(format!(
            "`{}` is no id of an access review: write `rev_…`, or its beginning",
            text.escape_debug()
        )));
    }
    let page = here.client.list("/api/v1/reviews").await?;
    let mut found = Vec::new();
    for item in &page.items {
        let review: Review = here.client.read(item.get())?;
        if review.id.starts_with(text) {
            found.push(review.id);
        }
    }
    match found.as_slice() {
        [one] => ReviewId::parse(one).map_err(|error| Failure::failed(error.to_string())),
        [] => Err(Failure::failed(format!("there is no access review `{text}` that you may see"))),
        _ => Err(Failure::usage(format!("`{text}` stands for several: {}", found.join(", ")))),
    }
}
