//! `doorward policy explain`: one hypothetical request, the answer and what would change it.

use super::policy_set::PolicySet;
use super::scenario::{Answer, Question, Scenario, ScenarioError};
use crate::model::EntitlementName;

/// An answer with the ready commands that would change it.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The answer.
    pub answer: Answer,
    /// Entitlements that would change a refusal, each with its command.
    pub remedies: Vec<(EntitlementName, String)>,
    /// The policies that judged.
    pub version: String,
}

/// Asks the policies.
///
/// # Errors
/// When the question is about something that there isn't.
pub fn explain(set: &PolicySet, scenario: &Scenario, question: &Question) -> Result<Explanation, ScenarioError> {
    let answer = scenario.ask(set, question)?;
    let command = |name: &EntitlementName| Some((name.clone(), set.entitlement(name)?.command(&answer.params)));
    let remedies = answer.remedies.iter().filter_map(command).collect();
    Ok(Explanation { remedies, answer, version: set.version().to_string() })
}
