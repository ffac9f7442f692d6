//! The known word that a mistyped one was most likely meant to be.

/// The candidate nearest to `word`: fewest insertions, deletions, replacements and swaps of
/// neighbours, letter case ignored; a candidate one of whose dotted parts is that near counts as well.
/// `None` when nothing is near: more than a third of the letters, at least two, would have to change.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer words are not compared: no key of ours is near half of this.
    const LONGEST: usize = 64;
    let word = normal(word);
    if word.len() > LONGEST {
        return None;
    }
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let whole = distance(&word, &normal(candidate));
            let part = candidate.split('.').map(|part| distance(&word, &normal(part)) + 1).min();
            let best = part.map_or(whole, |part| part.min(whole));
            let limit = (word.len() / 3).max(2);
            (best <= limit && best < word.len()).then_some((best, candidate))
        })
        .min_by_key(|(best, _)| *best)
        .map(|(_, candidate)| candidate)
}

/// Lower case, separators alike.
fn normal(word: &str) -> Vec<char> {
    word.chars().flat_map(char::to_lowercase).map(|c| if matches!(c, '-' | '_') { '.' } else { c }).collect()
}

/// Optimal string alignment distance.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &to) in b.iter().enumerate() {
            let mut cost = (last[j] + usize::from(from != to)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && from == b[j - 1] && a[i - 1] == to {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = last;
        last = row;
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests;
