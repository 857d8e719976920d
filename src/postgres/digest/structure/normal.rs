//! Whether two texts that servers print of definitions mean the same. Pure.
//!
//! A definition is not always printed as it was before it was dumped and read again:
//!
//! - blanks differ by nesting;
//! - a cast of a whole array moves into its elements when it is read again: `(ARRAY['a'::character varying])::text[]`
//!   comes back as `ARRAY[('a'::character varying)::text]`. That is every `IN` list over a `varchar`.
//!
//! Between majors two things more:
//!
//! - before 16 a view of one relation names it before each column (`t.a`), later not (`a`): a qualifier that only the
//!   source prints is passed over. Where both print one, it must be the same;
//! - words that became keywords are quoted: `"json_value"` is `json_value`.
//!
//! Everything else counts: parentheses, order, literals to the byte. So the limit is: between majors a change of a view
//! that consists only of leaving out a qualifier is not seen; such a view would be refused by the server, or mean the
//! same.

use std::fmt::Write as _;

/// A piece of a printed definition.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A word, a number, an operator, a bracket, a literal: compared to the byte.
    Plain(String),
    /// A name in quotes, without them.
    Quoted(String),
}

impl Token {
    fn is(&self, text: &str) -> bool {
        matches!(self, Self::Plain(plain) if plain == text)
    }

    /// A name or a word that may be one.
    fn is_name(&self) -> bool {
        match self {
            Self::Quoted(_) => true,
            Self::Plain(text) => text.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_'),
        }
    }
}

/// Whether two printed definitions mean the same. `across`: the source's server has an older major than the target's.
pub fn same(source: &str, target: &str, across: bool) -> bool {
    if source == target {
        return true;
    }
    let read = |text: &str| {
        let tokens = settle(&tokens(text));
        if across { tokens.into_iter().map(unquote).collect() } else { tokens }
    };
    let (there, here): (Vec<Token>, Vec<Token>) = (read(source), read(target));
    if !across {
        return there == here;
    }
    let (mut at, mut with) = (0, 0);
    while let Some(token) = there.get(at) {
        let qualifier = qualifies(&there, at);
        if here.get(with) == Some(token) && (!qualifier || is_dot(&here, with + 1)) {
            (at, with) = (at + 1, with + 1);
        } else if qualifier {
            at += 2;
        } else {
            return false;
        }
    }
    with == here.len()
}

/// The name of an object without the quotes that only some majors put around its parts.
pub fn plain_name(name: &str) -> String {
    let mut parts = String::with_capacity(name.len());
    for (between, token) in pieces(name) {
        parts.push_str(between);
        match unquote(token) {
            Token::Plain(text) => parts.push_str(&text),
            // Writing to a String cannot fail.
            Token::Quoted(text) => drop(write!(parts, "\"{}\"", text.replace('"', "\"\""))),
        }
    }
    parts
}

fn is_dot(tokens: &[Token], at: usize) -> bool {
    tokens.get(at).is_some_and(|token| token.is("."))
}

/// A name, a dot and a name begin here.
fn qualifies(tokens: &[Token], at: usize) -> bool {
    let name = |at: usize| tokens.get(at).is_some_and(Token::is_name);
    name(at) && is_dot(tokens, at + 1) && name(at + 2)
}

fn unquote(token: Token) -> Token {
    let simple = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    match token {
        Token::Quoted(text) if simple(&text) => Token::Plain(text),
        other => other,
    }
}

/// Moves casts of whole arrays into their elements, as the server's parser does.
fn settle(tokens: &[Token]) -> Vec<Token> {
    let mut settled = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        if let Some((elements, cast, end)) = cast_array(tokens, at) {
            let plain = |text: &str| Token::Plain(text.to_owned());
            settled.extend([plain("ARRAY"), plain("[")]);
            for (number, element) in elements.iter().enumerate() {
                if number > 0 {
                    settled.push(plain(","));
                }
                settled.push(plain("("));
                settled.extend(settle(element));
                settled.extend([plain(")"), plain("::")]);
                settled.extend_from_slice(cast);
            }
            settled.push(plain("]"));
            at = end;
        } else {
            settled.push(token.clone());
            at += 1;
        }
    }
    settled
}

/// `(ARRAY[a, b])::type[]` that begins at `at`: its elements, the tokens of the type, and where it ends.
fn cast_array(tokens: &[Token], at: usize) -> Option<(Vec<&[Token]>, &[Token], usize)> {
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token.is(text));
    if !(is(at, "(") && is(at + 1, "ARRAY") && is(at + 2, "[")) {
        return None;
    }
    let (mut elements, mut begin, mut depth, mut end) = (Vec::new(), at + 3, 1_u32, at + 3);
    while depth > 0 {
        let token = tokens.get(end)?;
        if token.is("[") || token.is("(") {
            depth += 1;
        } else if token.is("]") || token.is(")") {
            depth -= 1;
        }
        if depth == 0 || depth == 1 && token.is(",") {
            elements.push(tokens.get(begin..end)?);
            begin = end + 1;
        }
        end += 1;
    }
    if elements.iter().any(|element| element.is_empty()) || !(is(end, ")") && is(end + 1, "::")) {
        return None;
    }
    let word = end + 2;
    let mut after = word;
    while !is(after, "[") {
        let token = tokens.get(after)?;
        let digits = matches!(token, Token::Plain(text) if text.chars().all(|c| c.is_ascii_digit()));
        if !(token.is_name() || digits || [".", "(", ")", ","].iter().any(|&text| token.is(text))) {
            return None;
        }
        after += 1;
    }
    (is(after + 1, "]") && after > word).then_some((elements, tokens.get(word..after)?, after + 2))
}

fn tokens(text: &str) -> Vec<Token> {
    pieces(text).into_iter().map(|(_, token)| token).collect()
}

/// The tokens of a text, each with the blanks before it.
fn pieces(text: &str) -> Vec<(&str, Token)> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let token = rest.trim_start();
        let (between, _) = rest.split_at(rest.len() - token.len());
        let Some(first) = token.chars().next() else { return found };
        let length = match first {
            '\'' => literal(token, '\'', false),
            'E' if token.starts_with("E'") => 1 + literal(token.split_at(1).1, '\'', true),
            '"' => literal(token, '"', false),
            c if word(c) => run(token, word),
            c if operator(c) => run(token, operator),
            c => c.len_utf8(),
        };
        let (token, after) = token.split_at(length);
        let quoted = token.strip_prefix('"').and_then(|inner| inner.strip_suffix('"'));
        found.push((
            between,
            match quoted {
                Some(name) => Token::Quoted(name.replace("\"\"", "\"")),
                None => Token::Plain(token.to_owned()),
            },
        ));
        rest = after;
    }
}

fn word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

fn operator(c: char) -> bool {
    "+-*/<>=~!@#%^&|`?:".contains(c)
}

/// Bytes of the longest beginning whose characters all fit.
fn run(text: &str, fits: fn(char) -> bool) -> usize {
    text.find(|c| !fits(c)).unwrap_or(text.len())
}

/// Bytes of the quoted text that begins here, its quotes included; all of it when it does not end.
fn literal(text: &str, quote: char, escapes: bool) -> usize {
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = characters.next() {
        if escapes && c == '\\' {
            characters.next();
        } else if c == quote {
            match characters.peek() {
                Some((_, next)) if *next == quote => drop(characters.next()),
                _ => return at + quote.len_utf8(),
            }
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cast_of_an_array_is_the_cast_of_its_elements() {
        let dumped = "CHECK (((v)::text = ANY ((ARRAY['a'::character varying, 'b,]'::character varying])::text[])))";
        let restored = "CHECK (((v)::text = ANY (ARRAY[('a'::character varying)::text, ('b,]'::character varying)::text])))";
        assert!(same(dumped, restored, false) && same(dumped, restored, true));
        for changed in [
            restored.replace("'a'", "'A'"),
            restored.replace("ANY", "ALL"),
            restored.replace('=', "<>"),
            restored.replace("(v)", "(w)"),
            restored.replace(", ('b,]'::character varying)::text", ""),
        ] {
            assert!(!same(dumped, &changed, false) && !same(dumped, &changed, true), "{changed}");
        }
        let sized = "x = ANY ((ARRAY[f(a, b), c])::numeric(10,2)[])";
        assert!(same(sized, "x = ANY (ARRAY[(f(a, b))::numeric(10,2), (c)::numeric(10,2)])", false));
        assert!(!same("(ARRAY[]::text[])::x[]", "ARRAY[]::text[]", false));
    }

    #[test]
    fn blanks_between_tokens_do_not_count_and_those_in_literals_do() {
        assert!(same("SELECT a,\n    b", "SELECT a, b", false));
        assert!(!same("SELECT 'a  b'", "SELECT 'a b'", false));
        assert!(!same("a b", "ab", false));
        assert!(!same(r"E'\\' b'", r"E'\\'  b", false));
        assert!(!same(r"E'a\'  b'", r"E'a\' b'", false), "an escaped quote ends nothing");
        assert!(same(r"E'a\\'  || b", r"E'a\\' || b", false), "what is behind it is text again");
    }

    #[test]
    fn between_majors_only_the_source_may_qualify_more() {
        let old = "SELECT mv.c, (mv.\"C d\" * 2) AS x FROM public.mv WHERE (EXTRACT(year FROM mv.d) > (2000)::numeric)";
        let new = "SELECT c, (\"C d\" * 2) AS x FROM public.mv WHERE (EXTRACT(year FROM d) > (2000)::numeric)";
        assert!(same(old, new, true));
        assert!(!same(old, new, false));
        assert!(!same(new, old, true));
        for changed in [
            new.replace("public.mv", "other.mv"),
            new.replace("public.mv", "public.mw"),
            new.replace('2', "3"),
            new.replace("SELECT c", "SELECT d"),
            new.replace("SELECT c", "SELECT x.c"),
            new.replace("AS x", "AS y"),
        ] {
            assert!(!same(old, &changed, true), "{changed}");
        }
        // A column that is called like its table.
        assert!(same("SELECT c.c, c.d FROM public.c", "SELECT c, d FROM public.c", true));
        assert!(same("SELECT t.a FROM a t JOIN b u", "SELECT t.a FROM a t JOIN b u", true));
        assert!(!same("SELECT t.a FROM a t JOIN b u", "SELECT u.a FROM a t JOIN b u", true));
        assert!(!same("SELECT count(t.*) FROM public.t", "SELECT count(*) FROM public.t", true));
        assert!(!same("f(a, b)", "f(a, b, c)", true) && !same("f(a, b, c)", "f(a, b)", true));
    }

    #[test]
    fn keywords_of_one_major_are_names() {
        assert!(same("column \"json_value\" text", "column json_value text", true));
        assert!(same("column json_value text", "column \"json_value\" text", true));
        assert!(!same("column \"Json\" text", "column json text", true));
        assert_eq!(plain_name(r#""json_value"."a ""b""""#), r#"json_value."a ""b""""#);
        assert_eq!(plain_name("public.f(character varying, \"Odd\".t)"), "public.f(character varying, \"Odd\".t)");
    }
}
