//! A password for a libpq program in a container: first line of its input, never argv, never its environment.
//!
//! The wrapped command is `sh -c <constant script> sh <argv...>`. The shell takes the first line with `read -r`, which
//! reads byte by byte, so everything behind that line stays for the program. It writes the line to a file that only its
//! user may read, points `PGPASSFILE` at it, and removes it when the program has ended.

use bytes::Bytes;

use super::error::{ExecError, ExecErrorKind};

/// Reads one line of a password file from its input, then runs its arguments with `PGPASSFILE`. A `PGPASSWORD` of the
/// container would go before the file.
///
/// The program stays a child of the shell: something must be left to remove the file, and container runtimes cut an
/// exec's input when the first process's outputs are closed.
const SCRIPT: &str = r#"umask 077
for directory in "${TMPDIR:-/tmp}" /tmp /dev/shm /var/run/postgresql "$HOME"; do
  file=$(mktemp "$directory/.pgmigration.XXXXXX" 2>/dev/null) && break
done
test -n "$file" || { echo 'pgmigration: no directory to write a password file into' >&2; exit 125; }
trap 'rm -f "$file"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE
trap 'exit 143' TERM
IFS= read -r line || { echo 'pgmigration: no password line on the input' >&2; exit 125; }
printf '%s\n' "$line" >"$file" || exit 125
unset line PGPASSWORD
PGPASSFILE=$file "$@""#;

/// The exit status of the wrapper itself when it could not take the password.
pub const FAILED: i32 = 125;

/// Wraps `argv` (a libpq program and its arguments). Its input must begin with [`line`]; give the program `-w`, so that
/// it never asks for a password on the input that carries data.
pub fn wrap(argv: &[String]) -> Vec<String> {
    ["sh", "-c", SCRIPT, "sh"].into_iter().map(str::to_owned).chain(argv.iter().cloned()).collect()
}

/// The first line of the input: an entry of a password file that fits every host, port, database and user.
///
/// Errors: `Protocol` for an empty password and for one with a line break or NUL, which a password file cannot hold.
pub fn line(password: &str) -> Result<Bytes, ExecError> {
    if password.is_empty() || password.contains(['\n', '\r', '\0']) {
        return Err(ExecError::new(
            ExecErrorKind::Protocol,
            "the password is empty or holds a line break, which cannot be passed to a PostgreSQL program",
        ));
    }
    let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
    Ok(Bytes::from(format!("*:*:*:*:{escaped}\n")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn the_program_finds_the_entry_and_the_rest_of_the_input_and_the_file_is_gone_after_it() {
        let directory = std::env::temp_dir().join(format!("pgmigration-passfile-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let program = r#"printf %s "$PGPASSWORD"; stat -c %a "$PGPASSFILE"; cat "$PGPASSFILE"; tr '\0' 0; printf %s "$1""#;
        let argv = ["sh", "-c", program, "sh", "a b'\"$x"].map(str::to_owned);
        let wrapped = wrap(&argv);
        let mut child = Command::new(&wrapped[0])
            .args(&wrapped[1..])
            .env("TMPDIR", &directory)
            .env("PGPASSWORD", "of the container")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = line(r" a\b:c 'ü$  ").unwrap().to_vec();
        input.extend_from_slice(b"\0archive\nmore");
        child.stdin.take().unwrap().write_all(&input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let expected = "600\n*:*:*:*: a\\\\b\\:c 'ü$  \n0archive\nmorea b'\"$x";
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
        std::fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn a_failing_program_keeps_its_status_and_a_missing_line_is_a_failure() {
        let status = |argv: &[&str], input: &[u8]| {
            let wrapped = wrap(&argv.iter().map(|&a| a.to_owned()).collect::<Vec<_>>());
            let mut child =
                Command::new(&wrapped[0]).args(&wrapped[1..]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(input).unwrap();
            child.wait().unwrap().code()
        };
        assert_eq!(status(&["sh", "-c", "exit 3"], b"*:*:*:*:x\n"), Some(3));
        assert_eq!(status(&["true"], b""), Some(FAILED));
    }

    #[test]
    fn passwords_that_a_password_file_cannot_hold_are_refused() {
        assert!(line("").is_err());
        assert!(line("a\nb").is_err());
        assert!(line("a b").is_ok());
    }
}
