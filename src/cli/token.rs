//! `doorward token`: a token for one service, alone on standard output.
//!
//! A person's comes from the session of the profile, whose certificate it is bound to; a pipeline's
//! from the token that its own issuer gave it (`job.rs`), for which nobody needs to be signed in. A gate
//! asks for an entitlement first, waits until it is granted, and then gets a token that ends with the
//! grant. With `--may-act` a token is handed on to a workload, which then acts by it (`--actor-token-file`).
//! INVARIANT: the token is the only thing that is written to standard output.

use x509_parser::pem::parse_x509_pem;

use crate::model::{EntitlementName, Thumbprint, Ttl};
use crate::wire::oauth::{CLI_CLIENT_ID, GRANT_TOKEN_EXCHANGE};
use crate::wire::{AccessRequest, ExchangeAnswer, NewAccessRequest, Service};

use super::args::{Format, TokenArgs};
use super::client::Client;
use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::job::{self, Job, Wanted};
use super::printer::plain;
use super::renewal::signed_in;
use super::request::{self, over, parameters};
use super::waiting;
use super::whole_id::{self, Kind};

const TYPE_CERTIFICATE: &str = "urn:doorward:params:oauth:token-type:session-certificate";
/// No installation has tokens that last longer.
const TOKEN_LIFETIME_MAX: Ttl = Ttl::minutes(15);

/// Gets a token and prints it.
///
/// # Errors
/// When nobody is signed in and no token was given, or the server says no; exit 4 when what is asked for
/// first is denied, 5 when it is not decided yet, 1 when it ended otherwise.
pub async fn run(context: &Context, args: &TokenArgs) -> Result<(), Failure> {
    // Neither is what its absence is: a token narrowed to nothing would be one for everything.
    if args.scope.as_deref().is_some_and(|scope| scope.trim().is_empty()) {
        return Err(Failure::usage("`--scope` names no action: leave it out for a token for all of them"));
    }
    if args.length.is_some_and(|length| length == Ttl::ZERO) {
        return Err(Failure::usage("`--for 0s`: say how long, as `5m`, or leave it out"));
    }
    let asked = args.request.as_deref().map(|name| asked(args, name)).transpose()?;
    if let Some(length) = args.length.filter(|length| asked.is_none() && *length > TOKEN_LIFETIME_MAX) {
        return Err(Failure::usage(format!(
            "`--for {length}`: a token lasts {TOKEN_LIFETIME_MAX} at most; get another when it has ended"
        )));
    }
    let handed = match (&args.actor_token_file, &args.subject_token_file) {
        (Some(_), Some(path)) => Some(job::read(path)?),
        _ => None,
    };
    let mut asker = match args.actor_token_file.as_ref().or(args.subject_token_file.as_ref()) {
        Some(path) => {
            let wanted = wanted(args, asked.as_ref())?;
            Asker::Job(Box::new(Job::new(context, path, args.certificate_out.as_deref(), wanted)?))
        }
        None if args.certificate_out.is_some() => {
            return Err(Failure::usage(
                "`--certificate-out` goes with `--subject-token-file`: a session has its certificate already",
            ));
        }
        None => Asker::Session,
    };
    let grant = match (&args.grant, &asked) {
        (Some(text), _) => Some(whole(context, &mut asker, text).await?),
        (None, Some(asked)) => Some(granted(context, args, asked, &mut asker).await?),
        (None, None) => None,
    };
    // With a request it is said how long the access is needed.
    let lifetime = args.length.filter(|_| asked.is_none()).map(|length| length.as_seconds().max(1).to_string());
    let mut fields =
        vec![("grant_type", GRANT_TOKEN_EXCHANGE), ("client_id", CLI_CLIENT_ID), ("audience", args.service.as_str())];
    fields.extend(args.scope.as_deref().map(|scope| ("scope", scope)));
    fields.extend(lifetime.as_deref().map(|seconds| ("lifetime", seconds)));
    fields.extend(grant.as_deref().map(|id| ("grant", id)));
    fields.extend(args.may_act.as_deref().map(|workload| ("may_act", workload)));
    let answer = match (&mut asker, &handed) {
        (Asker::Job(job), Some(handed)) => job.acting(handed, fields).await,
        (Asker::Job(job), None) => job.token(fields).await,
        (Asker::Session, _) => of_session(context, fields).await,
    };
    let answer = answer.map_err(in_flags)?;
    if context.printer.format() == Format::Json {
        return context.printer.json(&answer);
    }
    context.printer.line(&plain(&answer.access_token))
}

/// A refusal in the words of whoever typed the command: the server speaks of fields.
fn in_flags(mut failure: Failure) -> Failure {
    if failure.exit == Exit::Usage
        && let Some(detail) = &mut failure.problem.detail
    {
        for (field, flag) in [
            ("give one `audience`", "`doorward services` lists what `--service` may name"),
            ("`audience`", "`--service`"),
            ("`scope`", "`--scope`"),
            ("`lifetime`", "`--for`"),
            ("`may_act`", "`--may-act`"),
        ] {
            *detail = detail.replace(field, flag);
        }
    }
    failure
}

/// Who asks: the person of this profile, or a job.
enum Asker<'a> {
    Session,
    Job(Box<Job<'a>>),
}

impl Asker<'_> {
    /// A client that speaks for it.
    async fn client(&mut self, context: &Context) -> Result<Client, Failure> {
        match self {
            // A wait may be longer than a certificate lasts.
            Self::Session => Ok(signed_in(context).await?.client),
            Self::Job(job) => job.client(context).await,
        }
    }
}

async fn of_session(context: &Context, mut fields: Vec<(&str, &str)>) -> Result<ExchangeAnswer, Failure> {
    let here = signed_in(context).await?;
    let (_, block) = parse_x509_pem(here.session.certificate_pem.as_bytes())
        .map_err(|error| Failure::failed(format!("reading the session's certificate: {error}")))?;
    let thumbprint = Thumbprint::of(&block.contents).to_string();
    fields.extend([("subject_token", thumbprint.as_str()), ("subject_token_type", TYPE_CERTIFICATE)]);
    Ok(here.client.form("/oauth2/token", &fields).await?)
}

/// The whole id of a grant. A job that names one whole spends its own token on nothing else.
async fn whole(context: &Context, asker: &mut Asker<'_>, text: &str) -> Result<String, Failure> {
    let kind = whole_id::read(&[Kind::Grant], text)?;
    if whole_id::is_whole(kind, text) {
        return Ok(text.to_owned());
    }
    let client = asker.client(context).await.map_err(in_flags)?;
    Ok(whole_id::find_by(&client, &[Kind::Grant], text).await?.1)
}

/// The request that `--request` and its flags stand for.
fn asked(args: &TokenArgs, text: &str) -> Result<NewAccessRequest, Failure> {
    let whole = if text.contains('/') { text.to_owned() } else { format!("{}/{text}", args.service) };
    let name = EntitlementName::parse(&whole)
        .map_err(|error| Failure::usage(format!("`--request {}`: {error}", text.escape_debug())))?;
    if name.service().as_str() != args.service {
        return Err(Failure::usage(format!(
            "`{name}` is of another service than `{}`, and a token under its grant is for its own: `--service {}`",
            args.service.escape_debug(),
            name.service()
        )));
    }
    Ok(NewAccessRequest {
        entitlement: name.to_string(),
        reason: args.reason.clone(),
        ticket: args.ticket.clone(),
        length: args.length.map(|length| length.to_string()),
        start: args.start.map(Into::into),
        params: parameters(&args.params)?,
        emergency: args.emergency,
        dry_run: false,
    })
}

/// What a job tells of it beforehand.
fn wanted(args: &TokenArgs, asked: Option<&NewAccessRequest>) -> Result<Wanted, Failure> {
    let request = asked.map(serde_json::to_string).transpose();
    let request = request.map_err(|error| Failure::failed(format!("writing the request: {error}")))?;
    Ok(Wanted { service: args.service.clone(), scope: args.scope.clone(), request })
}

/// Compares a scope with what the service has. ORDER: before anything is asked for, since what was granted stays
/// granted where the token can't be made afterwards.
async fn known(client: &Client, service: &str, scope: &str) -> Result<(), Failure> {
    for item in client.list("/api/v1/services").await?.items {
        let found: Service = client.read(item.get())?;
        if found.name != service {
            continue;
        }
        let has = |name: &str| found.actions.iter().any(|action| action.name == name);
        if let Some(name) = scope.split(' ').find(|name| !name.is_empty() && !has(name)) {
            let actions: Vec<&str> = found.actions.iter().map(|action| action.name.as_str()).collect();
            let detail = format!(
                "`--scope`: `{service}` has no action `{}`, only {}; nothing was asked for",
                name.escape_debug(),
                actions.join(", ")
            );
            return Err(Failure::new(Exit::Usage, "invalid_scope", detail));
        }
    }
    // One that is not listed has nothing to ask for either: the request is told so.
    Ok(())
}

/// Asks, waits where that is wanted, and gives the grant once it is active.
async fn granted(
    context: &Context,
    args: &TokenArgs,
    asked: &NewAccessRequest,
    asker: &mut Asker<'_>,
) -> Result<String, Failure> {
    let client = asker.client(context).await.map_err(in_flags)?;
    if let Some(scope) = &args.scope {
        known(&client, &args.service, scope).await?;
    }
    let json = client.act("/api/v1/requests", asked, &*context.entropy).await?;
    let first: AccessRequest = client.read(&json)?;
    let id = first.id.clone();
    if !args.wait {
        return ended(args, &first);
    }
    let timeout = args.timeout.unwrap_or(request::WAIT);
    let tell = |request: &AccessRequest| {
        // Scripts that read JSON read errors there.
        if context.printer.format() != Format::Json {
            context.printer.talk(&progress(request));
        }
    };
    tell(&first);
    let client = async || asker.client(context).await;
    match waiting::watched(client, (json, first), is_open, tell, timeout).await {
        Ok((_, request)) => ended(args, &request),
        Err(failure) if failure.exit == Exit::SignedOut && matches!(asker, Asker::Job(_)) => {
            let detail = format!(
                "the session of this job's token is over, and with it the wait; {id} stays open. Once it is granted, \
                 get a token for it with a fresh one of the job's: {} --subject-token-file FILE",
                under_grant(args)
            );
            Err(Failure::new(Exit::Pending, "pending", detail))
        }
        Err(failure) => Err(failure),
    }
}

fn is_open(request: &AccessRequest) -> bool {
    matches!(request.state.as_str(), "pending" | "approved" | "scheduled")
}

/// Where a request stands, for whoever reads along.
fn progress(request: &AccessRequest) -> String {
    let AccessRequest { id, entitlement, .. } = request;
    match (request.state.as_str(), &request.start, &request.expires_at) {
        ("pending", ..) => format!("Waiting for approval of {entitlement}: doorward approve {id}"),
        ("scheduled", Some(start), _) => format!("{id} is approved and begins at {start}"),
        ("approved" | "scheduled", ..) => format!("{id} is approved and waits for its turn"),
        ("active", _, Some(end)) => format!("{id} is granted until {end}"),
        (state, ..) => format!("{id} is {state}"),
    }
}

/// The command that gets a token once there is a grant.
fn under_grant(args: &TokenArgs) -> String {
    format!("doorward token --service {} --grant GRANT", args.service)
}

/// The grant of a request that came to one, or how else it ended.
fn ended(args: &TokenArgs, request: &AccessRequest) -> Result<String, Failure> {
    let id = &request.id;
    let failure = |exit, detail: String| Err(Failure::new(exit, &request.state, detail));
    match request.state.as_str() {
        "active" => request.grant.clone().ok_or_else(|| Failure::failed(format!("the server names no grant of {id}"))),
        "pending" => failure(
            Exit::Pending,
            format!("{id} waits for approval: doorward approve {id}; once it is granted: {}", under_grant(args)),
        ),
        "approved" | "scheduled" => {
            failure(Exit::Pending, format!("{}; once it is active: {}", progress(request), under_grant(args)))
        }
        _ => Err(over(request)),
    }
}
