//! A script of `postgres::tools` under way in a pod, and the proof that its bytes are whole.

use super::error::MoverError;
use crate::archive::Sha256;
use crate::crash;
use crate::kubernetes::exec::{self, Event, Output, Stdin, Target};
use crate::plan::operation::Reason;
use crate::postgres::connection::says_unavailable;
use crate::postgres::tools::scripts::{self, NOT_BEGUN, PodVerdict, UTILITY_MISSING};
use crate::postgres::tools::{Said, said};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use bytes::Bytes;
use std::collections::VecDeque;
use tokio_util::sync::CancellationToken;

/// Lines of error output kept for the message.
const KEPT_LINES: usize = 12;

/// Longest line kept, bytes.
const LONGEST_LINE: usize = 2000;

/// A shell tells a child that ended by a signal by this and the signal's number (POSIX, 2.8.2).
const KILLED: i32 = 128;

/// What a server says to one of two sessions that wait for each other: a later attempt may fare better.
const DEADLOCK: &str = "ERROR:  deadlock detected";

/// How a session hands on that a parallel worker of it was ended.
const WORKER: &str = "ERROR:  terminating connection due to ";

/// A name that no output of an earlier run can imitate.
pub fn nonce() -> Result<String, MoverError> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| MoverError::new(Reason::Interrupted, "the machine gives no random numbers"))?;
    Ok(crate::archive::hex(&bytes))
}

/// A script under way. Reading it is what keeps it going.
pub struct Running {
    output: Output,
    lines: Lines,
    judged: CancellationToken,
    /// Input that stays open until the verdict is there.
    held: Option<Stdin>,
    exit: Option<i32>,
    what: String,
}

/// What a script left behind.
#[derive(Debug)]
pub struct Ended {
    exit: i32,
    lines: Lines,
    what: String,
}

/// Starts a script. `what` names it in messages ("pg_dump in ns/pod[c]").
///
/// # Errors
/// When the API server does not start it.
pub async fn start(
    client: &kube::Client,
    target: &Target,
    what: &str,
    argv: &[String],
    nonce: &str,
) -> Result<(Option<Stdin>, Running), MoverError> {
    let tool = || format!("start of {}", what.split(' ').next().unwrap_or_default());
    let process = crash::around(tool, exec::start(client, target, argv, true)).await.map_err(|e| MoverError::from(e).of(what))?;
    let lines = Lines::new(nonce);
    Ok((
        process.stdin,
        Running {
            output: process.output,
            lines,
            judged: CancellationToken::new(),
            held: None,
            exit: None,
            what: what.to_owned(),
        },
    ))
}

impl Running {
    /// Cancelled when the script has said its verdict and only waits for the end of its input.
    pub fn judged(&self) -> CancellationToken {
        self.judged.clone()
    }

    /// Holds the input of a script that wants none, until it has said its verdict. The streams of an exec have no order among each
    /// other: one that ends by itself may be reported as ended, and closed, before the last line of its error output is through.
    pub fn holding(mut self, stdin: Option<Stdin>) -> Self {
        self.held = stdin;
        self
    }

    /// The next bytes of standard output; `None` when the process has ended. `on_said` is called for what the tool
    /// says of its progress in between.
    ///
    /// # Errors
    /// When the stream breaks: never taken for an end.
    pub async fn next(&mut self, mut on_said: impl FnMut(Said)) -> Result<Option<Bytes>, MoverError> {
        while self.exit.is_none() {
            match self.output.next().await.map_err(|e| MoverError::from(e).of(&self.lines.context(&self.what)))? {
                Event::Stdout(bytes) => return Ok(Some(bytes)),
                Event::Stderr(bytes) => {
                    self.lines.push(&bytes, &mut on_said);
                    if self.lines.verdict.is_some() {
                        self.judged.cancel();
                        if let Some(stdin) = self.held.take() {
                            // It fails when the process has ended already.
                            let _ = stdin.close().await;
                        }
                    }
                }
                Event::Exit(code) => self.exit = Some(code),
            }
        }
        Ok(None)
    }

    /// Reads to the end, giving standard output away.
    ///
    /// # Errors
    /// When the stream breaks.
    pub async fn drain(mut self, mut on_said: impl FnMut(Said)) -> Result<Ended, MoverError> {
        while self.next(&mut on_said).await?.is_some() {}
        self.ended()
    }

    /// What was left behind, once [`Running::next`] gave `None`.
    pub fn ended(mut self) -> Result<Ended, MoverError> {
        self.lines.push(b"\n", &mut |_| {});
        match self.exit {
            Some(exit) => Ok(Ended { exit, lines: self.lines, what: self.what }),
            None => Err(MoverError::new(Reason::StreamBroken, format!("{} was left before its end", self.what))),
        }
    }
}

impl Ended {
    /// Whether all of it went well: exit status 0 seen by the API server, the tool's own 0 seen inside the pod, no error said,
    /// and as many bytes with the same SHA-256 in the pod as here.
    ///
    /// # Errors
    /// `failed` when the tool failed, [`Reason::ToolMissing`] when it could not begin, [`Reason::StreamBroken`] without a verdict from
    /// inside, [`Reason::ArchiveMismatch`] when the bytes differ.
    pub fn proven(&self, failed: Reason, bytes: u64, sha256: &str) -> Result<(), MoverError> {
        let verdict = self.verdict(failed)?;
        if verdict.bytes == bytes && verdict.sha256 == sha256 {
            return Ok(());
        }
        Err(MoverError::new(
            Reason::ArchiveMismatch,
            format!(
                "{}: the pod counted {} bytes with SHA-256 {}, the mover {bytes} bytes with {sha256}",
                self.what, verdict.bytes, verdict.sha256
            ),
        ))
    }

    /// The verdict from inside the pod, when it and everything else says that the tool succeeded.
    ///
    /// # Errors
    /// As [`Ended::proven`], but for the bytes.
    pub fn verdict(&self, failed: Reason) -> Result<&PodVerdict, MoverError> {
        let error = |reason, what: String| Err(MoverError::new(reason, self.lines.context(&format!("{}: {what}", self.what))));
        match (&self.lines.verdict, self.exit) {
            (None, UTILITY_MISSING | NOT_BEGUN | 127) => {
                error(Reason::ToolMissing, format!("it could not begin (status {})", self.exit))
            }
            (None, exit) => error(Reason::StreamBroken, format!("no verdict came from inside the pod (status {exit})")),
            (Some(verdict), _) if verdict.command == 127 => {
                error(Reason::ToolMissing, "the container has no such program".into())
            }
            (Some(verdict), _) if verdict.command > KILLED => {
                error(Reason::Interrupted, format!("it was ended by signal {}", verdict.command - KILLED))
            }
            (Some(verdict), _) if verdict.command != 0 => match self.lines.passing {
                Some(passing) => {
                    error(passing, format!("its server did not let it go on, and it ended with status {}", verdict.command))
                }
                None => error(failed, format!("it ended with status {}", verdict.command)),
            },
            (Some(_), _) if self.lines.errors > 0 => error(failed, "it reported errors".into()),
            (Some(verdict), _) if verdict.copy != 0 => {
                error(Reason::StreamBroken, format!("copying in the pod ended with status {}", verdict.copy))
            }
            (Some(_), exit) if exit != 0 => error(Reason::StreamBroken, format!("the exec ended with status {exit}")),
            (Some(verdict), _) => Ok(verdict),
        }
    }
}

/// Error output, read line by line in bounded memory.
#[derive(Debug)]
struct Lines {
    nonce: String,
    partial: Vec<u8>,
    kept: VecDeque<String>,
    /// The verdict, as long as nothing was said after it.
    verdict: Option<PodVerdict>,
    errors: u64,
    /// It said something that is not the archive's fault and may pass, of this kind.
    passing: Option<Reason>,
    /// What comes is quoted, a statement or a row, up to the tool's own next line.
    quoted: bool,
}

impl Lines {
    fn new(nonce: &str) -> Self {
        Self {
            nonce: nonce.to_owned(),
            partial: Vec::new(),
            kept: VecDeque::new(),
            verdict: None,
            errors: 0,
            passing: None,
            quoted: false,
        }
    }

    fn push(&mut self, bytes: &[u8], on_said: &mut impl FnMut(Said)) {
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            let room = LONGEST_LINE.saturating_sub(self.partial.len());
            self.partial.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                let line = String::from_utf8_lossy(&self.partial).trim_end().to_owned();
                self.partial.clear();
                self.line(line, on_said);
            }
        }
    }

    fn line(&mut self, line: String, on_said: &mut impl FnMut(Said)) {
        if line.is_empty() {
            return;
        }
        self.verdict = scripts::verdict(&line, &self.nonce);
        if self.verdict.is_some() {
            return;
        }
        self.quoted = quotes(&line) || self.quoted && !TOOLS.iter().any(|tool| line.starts_with(tool));
        if line.contains(WORKER) {
            self.passing = Some(Reason::DatabaseUnavailable);
        } else if line.contains(DEADLOCK) {
            self.passing.get_or_insert(Reason::QueryFailed);
        } else if !self.quoted && !line.contains("ERROR:  ") && says_unavailable(&line) {
            self.passing = Some(Reason::DatabaseUnavailable);
        }
        match said(&line) {
            said @ (Said::Table | Said::Index) => on_said(said),
            Said::Error => self.errors += 1,
            Said::Other => {}
        }
        // What was said about an error explains more than the progress after it.
        if self.kept.len() == KEPT_LINES {
            self.kept.pop_front();
        }
        self.kept.push_back(line);
    }

    /// `what` with the lines that explain it.
    fn context(&self, what: &str) -> String {
        let said: Vec<&str> = self.kept.iter().map(String::as_str).collect();
        let from = said.iter().position(|l| l.contains("error:") || l.contains("ERROR:") || l.starts_with("pgm: "));
        let said = &said[from.unwrap_or(said.len().saturating_sub(3))..];
        if said.is_empty() { what.to_owned() } else { format!("{what}: {}", said.join(" | ")) }
    }
}

/// How the tools begin their own lines. What servers say, and what is quoted, may follow on more lines.
const TOOLS: [&str; 2] = ["pg_dump: ", "pg_restore: "];

/// Whether this line, and what follows it, holds what users have written: a statement, or values of a row.
fn quotes(line: &str) -> bool {
    line.contains("Command was: ") || ["CONTEXT:  ", "DETAIL:  ", "QUERY:  "].iter().any(|field| line.starts_with(field))
}

/// What the mover counted, ready to be compared.
pub fn counted(hash: Sha256) -> (u64, String) {
    (hash.bytes(), hash.finish_hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(stderr: &str, exit: i32) -> Ended {
        let mut lines = Lines::new("n");
        for piece in stderr.as_bytes().chunks(7) {
            lines.push(piece, &mut |_| {});
        }
        lines.push(b"\n", &mut |_| {});
        Ended { exit, lines, what: "pg_dump".into() }
    }

    fn sum() -> String {
        "a".repeat(64)
    }

    #[test]
    fn only_everything_together_is_success() {
        let good = format!("pg_dump: dumping\npgm-verdict n 0 0 5 {}\n", sum());
        let reason = |e: Ended, bytes, sha: &str| e.proven(Reason::DumpFailed, bytes, sha).map_err(|e| e.reason);
        assert_eq!(reason(ended(&good, 0), 5, &sum()), Ok(()));
        assert_eq!(reason(ended(&good, 0), 4, &sum()), Err(Reason::ArchiveMismatch));
        assert_eq!(reason(ended(&good, 0), 5, &"b".repeat(64)), Err(Reason::ArchiveMismatch));
        assert_eq!(reason(ended(&good, 137), 5, &sum()), Err(Reason::StreamBroken));
        assert_eq!(reason(ended("pg_dump: dumping\n", 0), 5, &sum()), Err(Reason::StreamBroken));
        assert_eq!(reason(ended(&good.replace(" n ", " m "), 0), 5, &sum()), Err(Reason::StreamBroken));
        assert_eq!(reason(ended(&format!("{good}pg_dump: late\n"), 0), 5, &sum()), Err(Reason::StreamBroken));
        assert_eq!(reason(ended(&good.replace("n 0 0", "n 1 0"), 1), 5, &sum()), Err(Reason::DumpFailed));
        assert_eq!(reason(ended(&good.replace("n 0 0", "n 0 141"), 1), 5, &sum()), Err(Reason::StreamBroken));
        assert_eq!(reason(ended(&good.replace("dumping", "error: x"), 0), 5, &sum()), Err(Reason::DumpFailed));
        assert_eq!(reason(ended(&good.replace("n 0 0", "n 127 0"), 1), 5, &sum()), Err(Reason::ToolMissing));
        assert_eq!(reason(ended(&good.replace("n 0 0", "n 137 0"), 1), 5, &sum()), Err(Reason::Interrupted));
        let lost = "pg_dump: error: server closed the connection unexpectedly\n";
        let lost = format!("{lost}{}", good.replace("n 0 0", "n 1 0"));
        assert_eq!(reason(ended(&lost, 1), 5, &sum()), Err(Reason::DatabaseUnavailable));
        let said = |words: &str| ended(&format!("pg_restore: error: {words}\n{}", good.replace("n 0 0", "n 1 0")), 1);
        for words in ["FATAL:  too many connections for role \"a\"", "FATAL:  sorry, too many clients already"] {
            assert_eq!(reason(said(words), 5, &sum()), Err(Reason::DatabaseUnavailable), "{words}");
        }
        assert_eq!(reason(said("ERROR:  deadlock detected"), 5, &sum()), Err(Reason::QueryFailed));
        let words = "terminating connection";
        for quoted in
            ["Command was: CREATE FUNCTION f()\n  -- ", "CONTEXT:  COPY t, line 1, column body: ", "DETAIL:  Key (body)=("]
        {
            let quoted = format!("could not execute query: ERROR:  no\n{quoted}{words}");
            assert_eq!(reason(said(&quoted), 5, &sum()), Err(Reason::DumpFailed), "{quoted}");
            let after = said(&format!("{quoted}\npg_restore: error: could not execute query: FATAL:  {words}"));
            assert_eq!(reason(after, 5, &sum()), Err(Reason::DatabaseUnavailable), "{quoted}");
        }
        assert_eq!(reason(said(&format!("ERROR:  value \"{words}\" is wrong")), 5, &sum()), Err(Reason::DumpFailed));
        let worker = said(
            "could not execute query: ERROR:  terminating connection due to administrator command\nCONTEXT:  parallel worker",
        );
        assert_eq!(reason(worker, 5, &sum()), Err(Reason::DatabaseUnavailable));
        let both = said("ERROR:  deadlock detected\npg_restore: error: no connection to the server");
        assert_eq!(reason(both, 5, &sum()), Err(Reason::DatabaseUnavailable));
        assert_eq!(reason(ended("pgm: the container has no tee\n", 126), 5, &sum()), Err(Reason::ToolMissing));
    }

    #[test]
    fn a_message_holds_what_the_tool_said() {
        let failed =
            ended(&format!("pg_dump: a\npg_dump: error: query failed\npg_dump: detail: why\npgm-verdict n 1 0 5 {}\n", sum()), 1);
        let message = failed.proven(Reason::DumpFailed, 5, &sum()).unwrap_err().message;
        assert_eq!(message, "pg_dump: it ended with status 1: pg_dump: error: query failed | pg_dump: detail: why");
    }

    #[test]
    fn endless_lines_do_not_fill_the_memory() {
        let mut lines = Lines::new("n");
        for _ in 0..1000 {
            lines.push(&[b'x'; 1000], &mut |_| {});
        }
        assert!(lines.partial.len() <= LONGEST_LINE);
    }
}
