//! The emergency path in short: custodians are named, two of three sign what Erin asks for, she goes
//! through without any account, and it is closed and reviewed.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;

use super::house::House;
use super::person::Person;
use super::story::Story;
use super::transcript::Told;

/// How long the door may take to read the new configuration.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(5);
const RELOAD_INTERVAL: Duration = Duration::from_millis(50);

fn wrong(detail: impl Into<String>) -> Failure {
    Failure::failed(detail)
}

/// Opens, uses, closes and reviews. `auditor` has signed in.
///
/// # Errors
/// When a command or request ends otherwise than it should.
pub async fn emergency(story: &mut Story<'_>, told: &mut Told) -> Result<String, Failure> {
    let house = story.house();
    let (operator, erin, custodian) =
        (Person::new(house, "operator")?, Person::new(house, "erin")?, Person::new(house, "custodian")?);
    let config = house.config();
    let at = |name: &str| house.folder().join(name).to_string_lossy().into_owned();
    let (keys, challenge) = (at("keys"), at("challenge.txt"));
    let init = ["breakglass", "init", "--threshold", "2", "--generate", "3", "--out", &keys, "--config", &config];
    operator.types(told, &init, Exit::Done).await?;
    in_force(house).await?;
    let reason = "provider and database are down";
    let open = ["breakglass", "open", "--service", "ops-api", "--reason", reason, "--for", "5m", "--opener", "erin"];
    let opened = erin.types(told, &[&open[..], &["--challenge-out", &challenge]].concat(), Exit::Done).await?;
    let id = opened.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()).find(|word| word.starts_with("brk_"));
    let id = id.ok_or_else(|| wrong("no opening is named"))?;
    let mut signatures = Vec::new();
    for number in ["1", "2"] {
        let (key, out) = (format!("{keys}/custodian-{number}"), at(&format!("{number}.sig")));
        let sign = ["breakglass", "sign", "--key", &key, "--challenge", &challenge, "--out", &out];
        custodian.types(told, &sign, Exit::Done).await?;
        signatures.push(out);
    }
    let [first, second] = signatures.as_slice() else { return Err(wrong("two sign")) };
    // One signature is not enough; two are.
    let resume = ["--profile", "default", "breakglass", "open", "--resume", id, "--signature", first];
    erin.types(told, &resume, Exit::Failed).await?;
    erin.types(told, &[&resume[..], &["--signature", second]].concat(), Exit::Done).await?;
    let status = (Method::GET, "/status");
    let answer = erin.asks(told, house.service(), status.clone(), &[]).await?;
    story.saw(&answer, StatusCode::OK)?;
    story.auditor().types(told, &["breakglass", "list"], Exit::Done).await?;
    erin.types(told, &["breakglass", "close", id], Exit::Done).await?;
    let answer = erin.asks(told, house.service(), status, &[]).await?;
    story.saw(&answer, StatusCode::UNAUTHORIZED)?;
    let review = ["breakglass", "review", id, "--finding", "one look at /status, and closed"];
    story.auditor().types(told, &review, Exit::Done).await?;
    Ok("opened by two of three, used, closed before its end, and one of two reviews is on record".to_owned())
}

async fn in_force(house: &House) -> Result<(), Failure> {
    let waiting = async {
        while !house.has_emergency_path() {
            tokio::time::sleep(RELOAD_INTERVAL).await;
        }
    };
    let waited = tokio::time::timeout(RELOAD_TIMEOUT, waiting).await;
    waited.map_err(|_| wrong("the door did not read the new configuration"))
}
