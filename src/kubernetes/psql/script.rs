//! The language spoken with psql: what is written to its input, and how its output is taken apart.
//!
//! Behind every statement psql is told to echo a mark with its own verdict on that statement (`ERROR`, `SQLSTATE`,
//! `ROW_COUNT`), the last error message, and a closing mark. The marks hold 128 random bits that the server never sees,
//! so no data can look like one. Pure: no process, no clock.

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::Value;

use crate::postgres::carrier::{Question, SqlError, SqlErrorKind};

/// The longest answer that is taken, bytes. Catalogs of tens of thousands of tables stay below it.
const ANSWER_CAP: usize = 64 << 20;

/// Pins what psql does with statements and results; `-X` keeps its start-up files out, this the rest.
const OPENING: &str = r"\set AUTOCOMMIT on
\set ON_ERROR_ROLLBACK off
\set ON_ERROR_STOP off
\set SINGLELINE off
\set SINGLESTEP off
\set ECHO none
\set ECHO_HIDDEN off
\set FETCH_COUNT 0
\set QUIET on
\set VERBOSITY verbose
\set SHOW_CONTEXT never
\timing off
\pset format unaligned
\pset tuples_only on
\pset expanded off
\pset null ''
\pset pager off
";

/// The wrapper that passed the password waits for psql's end to remove its file; there is no reason to wait so long.
const FORGET_PASSWORD: &str = "\\! rm -f -- \"$PGPASSFILE\"\n";

/// What goes in before the first statement; psql reads it only after it has logged in.
pub fn opening(password: bool) -> String {
    format!("{OPENING}{}", if password { FORGET_PASSWORD } else { "" })
}

/// A statement without its closing semicolons: psql adds a verdict per semicolon, and one must be the last.
pub fn bare(statement: &str) -> &str {
    statement.trim_matches(|c: char| c.is_whitespace() || c == ';')
}

/// What psql said about one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whatever was printed for it, without the line break at its end.
    pub text: Vec<u8>,
    /// SQLSTATE and message, if it failed.
    pub error: Option<(String, String)>,
    /// Rows returned or changed.
    pub rows: u64,
}

/// Writes scripts and reads their answers, one after another.
pub struct Answers {
    secret: String,
    count: u64,
    buffer: Vec<u8>,
    /// Before this place `buffer` holds no closing mark.
    searched: usize,
}

impl Answers {
    /// `secret` must be random.
    pub fn new(secret: [u8; 16]) -> Self {
        let mut hex = String::with_capacity(32);
        for byte in secret {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        Self { secret: hex, count: 0, buffer: Vec::new(), searched: 0 }
    }

    fn mark(&self) -> String {
        format!("pgmigration-{}-{}", self.secret, self.count)
    }

    /// The script for one statement without parameters.
    pub fn statement(&mut self, statement: &str) -> Result<Bytes, SqlError> {
        let statement = sendable("statement", bare(statement))?;
        self.count += 1;
        Ok(format!("{statement}\n;\n{}", self.verdict()).into())
    }

    /// The script for one question. With parameters it is a prepared statement, so that the server itself, not we, finds
    /// the placeholders; all parameters are declared `text`.
    pub fn question(&mut self, question: &Question) -> Result<Bytes, SqlError> {
        let sql = sendable(question.name, bare(&question.sql))?;
        if question.parameters.is_empty() {
            return self.statement(sql);
        }
        self.count += 1;
        let name = format!("pgmigration_{}", self.count);
        let (mut set, mut unset, mut values) = (String::new(), String::new(), Vec::new());
        for (index, value) in question.parameters.iter().enumerate() {
            let value = set_quoted(sendable(question.name, value)?);
            // Writing to a String cannot fail.
            let _ = writeln!(set, "\\set pgmigration_p{index} {value}");
            let _ = writeln!(unset, "\\unset pgmigration_p{index}");
            values.push(format!(":'pgmigration_p{index}'"));
        }
        let types = vec!["text"; values.len()].join(", ");
        let values = values.join(", ");
        let verdict = self.verdict();
        let script = format!(
            "{set}PREPARE {name}({types}) AS {sql}\n;\n\\if :ERROR\n{verdict}\\else\nEXECUTE {name}({values});\n{verdict}\
             DEALLOCATE {name};\n\\endif\n{unset}"
        );
        Ok(script.into())
    }

    fn verdict(&self) -> String {
        let mark = self.mark();
        format!("\\echo\n\\echo {mark} :ERROR :SQLSTATE :ROW_COUNT\n\\echo :LAST_ERROR_MESSAGE\n\\echo {mark} end\n")
    }

    /// Takes psql's output; gives the answer once it is complete.
    ///
    /// Errors: `Protocol` when the answer grows beyond 64 MiB or is not of this language.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Answer>, SqlError> {
        self.buffer.extend_from_slice(bytes);
        let closing = format!("\n{} end\n", self.mark());
        let Some(end) = find(&self.buffer[self.searched..], closing.as_bytes()).map(|at| at + self.searched) else {
            self.searched = self.buffer.len().saturating_sub(closing.len());
            if self.buffer.len() > ANSWER_CAP {
                return Err(protocol(&format!("psql: an answer of more than {ANSWER_CAP} bytes")));
            }
            return Ok(None);
        };
        let rest = self.buffer.split_off(end + closing.len());
        let whole = std::mem::replace(&mut self.buffer, rest);
        self.searched = 0;
        self.take_apart(&whole[..end]).map(Some)
    }

    fn take_apart(&self, whole: &[u8]) -> Result<Answer, SqlError> {
        let unreadable = || protocol("psql: an answer without a verdict");
        let opening = format!("\n{} ", self.mark());
        let at = find(whole, opening.as_bytes()).ok_or_else(unreadable)?;
        let verdict = String::from_utf8_lossy(&whole[at + opening.len()..]);
        let (line, message) = verdict.split_once('\n').ok_or_else(unreadable)?;
        let mut words = line.split(' ');
        let (Some(error), Some(sqlstate), Some(rows), None) = (words.next(), words.next(), words.next(), words.next()) else {
            return Err(unreadable());
        };
        let error = match error {
            "false" => None,
            "true" => Some((sqlstate.to_owned(), message.to_owned())),
            _ => return Err(unreadable()),
        };
        let rows = rows.parse().map_err(|_| unreadable())?;
        let text = whole[..at].strip_suffix(b"\n").unwrap_or(&whole[..at]).to_vec();
        Ok(Answer { text, error, rows })
    }
}

/// The answer of a statement that succeeded, or the server's refusal.
pub fn outcome(answer: Answer) -> Result<Answer, SqlError> {
    match answer.error {
        None => Ok(answer),
        Some((sqlstate, message)) => Err(SqlError { kind: SqlErrorKind::Statement, sqlstate: Some(sqlstate), message }),
    }
}

/// The one JSON document of a question's answer.
pub fn document(name: &str, answer: Answer) -> Result<Value, SqlError> {
    let answer = outcome(answer)?;
    if answer.rows != 1 {
        return Err(protocol(&format!("{name}: {} rows instead of one", answer.rows)));
    }
    if answer.text.is_empty() {
        return Err(protocol(&format!("{name}: NULL instead of a document")));
    }
    serde_json::from_slice(&answer.text).map_err(|error| protocol(&format!("{name}: {error}")))
}

/// psql ended when it should have answered: it could not log in, or the server ended the session.
pub fn ended(code: i32, stderr: &str) -> SqlError {
    // A session that the server ends is reported as `FATAL:  57P01: terminating connection ...`.
    let fatal = stderr.lines().rev().find_map(|line| {
        let (_, said) = line.split_once("FATAL:  ").or_else(|| line.split_once("PANIC:  "))?;
        let (code, message) = said.split_once(": ")?;
        let is_state = code.len() == 5 && code.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
        is_state.then(|| (code.to_owned(), message.to_owned()))
    });
    if let Some((sqlstate, message)) = fatal {
        return SqlError { kind: SqlErrorKind::Connect, sqlstate: Some(sqlstate), message };
    }
    let words = stderr.strip_prefix("psql: error: ").unwrap_or(stderr);
    let message = if words.is_empty() { format!("psql ended with status {code}") } else { words.to_owned() };
    SqlError::new(SqlErrorKind::Connect, message)
}

fn protocol(message: &str) -> SqlError {
    SqlError::new(SqlErrorKind::Protocol, message)
}

/// Text can carry anything but a NUL, for psql as for the server.
fn sendable<'a>(name: &str, text: &'a str) -> Result<&'a str, SqlError> {
    if text.contains('\0') { Err(protocol(&format!("{name}: holds a NUL"))) } else { Ok(text) }
}

/// A value as an argument of `\set`: in single quotes, where psql knows C-like escapes and expands nothing.
fn set_quoted(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('\'');
    for c in value.chars() {
        match c {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

/// The first place of a line break that `line` begins with.
fn find(haystack: &[u8], line: &[u8]) -> Option<usize> {
    let breaks = haystack.iter().enumerate().filter(|&(_, &byte)| byte == b'\n');
    breaks.map(|(at, _)| at).find(|&at| haystack[at..].starts_with(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> (Answers, String) {
        let mut answers = Answers::new([0xab; 16]);
        answers.statement("SELECT 1;").unwrap();
        let mark = answers.mark();
        (answers, mark)
    }

    #[test]
    fn an_answer_is_found_however_it_is_cut_into_pieces() {
        let (_, mark) = answers();
        let output = format!("{{\"a\":\n1}}\n\n{mark} false 00000 1\n\n{mark} end\nrest");
        for size in 1..output.len() {
            let (mut answers, _) = answers();
            let found = output.as_bytes().chunks(size).find_map(|piece| answers.push(piece).unwrap());
            assert_eq!(found, Some(Answer { text: b"{\"a\":\n1}".to_vec(), error: None, rows: 1 }), "{size}");
        }
    }

    #[test]
    fn an_error_carries_its_code_and_all_lines_of_its_message() {
        let (mut answers, mark) = answers();
        let output = format!("\n{mark} true 42P01 0\nrelation \"a\nb\" does not exist\n{mark} end\n");
        let error = outcome(answers.push(output.as_bytes()).unwrap().unwrap()).unwrap_err();
        assert_eq!(error.kind, SqlErrorKind::Statement);
        assert!(error.is("42P01"));
        assert_eq!(error.message, "relation \"a\nb\" does not exist");
    }

    #[test]
    fn only_one_row_with_one_document_is_an_answer() {
        let answer = |text: &str, rows| Answer { text: text.into(), error: None, rows };
        assert_eq!(document("q", answer("[1]", 1)).unwrap(), serde_json::json!([1]));
        for wrong in [answer("[1]\n[2]", 2), answer("", 1), answer("[1]|[2]", 1), answer("", 0), answer("\n[1]", 2)] {
            assert_eq!(document("q", wrong.clone()).unwrap_err().kind, SqlErrorKind::Protocol, "{wrong:?}");
        }
    }

    #[test]
    fn too_long_an_answer_is_refused() {
        let (mut answers, _) = answers();
        let piece = vec![b' '; ANSWER_CAP / 2];
        assert_eq!(answers.push(&piece).unwrap(), None);
        assert_eq!(answers.push(&piece).unwrap(), None);
        assert_eq!(answers.push(b" ").unwrap_err().kind, SqlErrorKind::Protocol);
    }

    #[test]
    fn the_end_of_psql_says_why() {
        let login = ended(2, "psql: error: connection to server on socket \"/x\" failed: FATAL:  database \"a\" does not exist");
        assert_eq!(login.kind, SqlErrorKind::Connect);
        assert_eq!(login.sqlstate, None);
        assert!(login.message.starts_with("connection to server"));
        let killed = ended(2, "FATAL:  57P01: terminating connection due to administrator command\nLOCATION:  x\nserver closed");
        assert!(killed.is("57P01"));
        assert_eq!(killed.message, "terminating connection due to administrator command");
        assert_eq!(ended(1, "").message, "psql ended with status 1");
    }

    #[test]
    fn a_nul_is_refused_before_anything_is_sent() {
        let (mut answers, _) = answers();
        assert!(answers.statement("SELECT '\0'").is_err());
        assert!(answers.question(&Question::new("q", "SELECT $1").with("\0")).is_err());
    }
}
