//! Comma-separated values, RFC 4180, with LF line ends. A record is always one line.

use crate::failure::printable;

/// One line, with its end.
pub(crate) fn line<T: AsRef<str>>(fields: impl IntoIterator<Item = T>) -> String {
    let fields: Vec<String> = fields.into_iter().map(|text| field(&printable(text.as_ref()))).collect();
    fields.join(",") + "\n"
}

fn field(text: &str) -> String {
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_must_be_quoted_is() {
        assert_eq!(
            line(["a", "", "tcp:1.2.3.4:80,90", "say \"x\"", "a\nb"]),
            "a,,\"tcp:1.2.3.4:80,90\",\"say \"\"x\"\"\",a b\n"
        );
    }
}
