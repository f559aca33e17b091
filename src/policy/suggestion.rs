//! "Did you mean …?": the known word nearest to a misspelt one.

/// The candidate that `word` was most likely meant to be, if one is near enough to be worth saying.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    let allowed = if length <= 4 { 1 } else { length.div_ceil(3) };
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// `did you mean …?` when a candidate is near, else what there is to choose from.
pub(super) fn help<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(candidate) = nearest(word, candidates.clone()) {
        return format!("did you mean `{candidate}`?");
    }
    let known: Vec<String> = candidates.into_iter().map(|candidate| format!("`{candidate}`")).collect();
    if known.is_empty() { String::new() } else { format!("known here: {}", known.join(", ")) }
}

/// Whether one letter makes the difference.
pub(super) fn is_one_slip(left: &str, right: &str) -> bool {
    distance(left, right) <= 1
}

/// Insertions, deletions, substitutions and swaps of neighbours that turn one text into the other,
/// ignoring case (optimal string alignment).
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().flat_map(char::to_lowercase).take(100).collect();
    let right: Vec<char> = right.chars().flat_map(char::to_lowercase).take(100).collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    let mut left_previous = None;
    for (row, l) in left.iter().enumerate() {
        let mut current = vec![row + 1];
        let mut right_previous = None;
        for (column, r) in right.iter().enumerate() {
            let at = |line: &[usize], index: usize| line.get(index).copied().unwrap_or(usize::MAX - 1);
            let substitution = at(&last, column) + usize::from(l != r);
            let mut best = substitution.min(at(&last, column + 1) + 1).min(at(&current, column) + 1);
            if left_previous == Some(r) && right_previous == Some(l) && column > 0 {
                best = best.min(at(&before_last, column - 1) + 1);
            }
            current.push(best);
            right_previous = Some(r);
        }
        before_last = std::mem::replace(&mut last, current);
        left_previous = Some(l);
    }
    last.last().copied().unwrap_or(left.len())
}
