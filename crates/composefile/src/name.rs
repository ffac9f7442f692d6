//! Names of projects.

/// `text` as the name of a project: lower case letters, digits, `-` and `_`, beginning with a letter or digit.
/// `None` when nothing is left.
pub fn project_name(text: &str) -> Option<String> {
    let kept = text.chars().flat_map(char::to_lowercase);
    let kept: String =
        kept.filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_')).collect();
    let name = kept.trim_start_matches(['-', '_']);
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::project_name;

    #[test]
    fn what_a_name_cannot_have_goes() {
        assert_eq!(project_name("Foo Bar.x").as_deref(), Some("foobarx"));
        assert_eq!(project_name("_x-1_").as_deref(), Some("x-1_"));
        assert_eq!(project_name("..."), None);
    }
}
