//! `$(word)` in the values of re-pointed settings.

/// Fills in every `$(word)` that is known, in one pass: what a value brings in is never read as a word again. Anything else
/// stays as it stands.
pub fn fill(template: &str, words: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find("$(") {
        out.push_str(&rest[..at]);
        let after = &rest[at + 2..];
        match words.iter().find_map(|(word, value)| after.strip_prefix(*word)?.strip_prefix(')').map(|left| (value, left))) {
            Some((value, left)) => {
                out.push_str(value);
                rest = left;
            }
            None => {
                out.push_str("$(");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn one_pass() {
        let words = [("host", "h"), ("password", "a$(host)b")];
        assert_eq!(fill("x://$(host):$(password)@$(nobody)$(host", &words), "x://h:a$(host)b@$(nobody)$(host");
        assert_eq!(fill("", &words), "");
    }
}
