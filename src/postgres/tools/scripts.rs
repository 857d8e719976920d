//! The constant shell scripts around a tool in a pod. Every value is a positional argument or comes on standard input.
//!
//! They work in dash, bash and busybox. None redirects the outputs of its first process away: container runtimes cut the input
//! of an exec when those end. The shell stays the parent until the end, counts and hashes inside the pod, and says the verdict
//! as the last line of its error output. After that it reads its input to the end: an exec whose process ends with input unread
//! hangs, or breaks without a status. So whoever feeds a script must end the input when it sees the verdict. Each keeps its files in one private folder that it removes; whatever is killed too
//! hard for that is found and removed by [`SWEEP`], by the session tag in its command line or the UID in its folder's name.

/// Arguments before the command: nonce, session tag, UID. Runs the command on our input; its output goes on to ours, counted
/// and hashed.
///
/// Ends with status 0 only when the command and the copying of its output ended with 0.
pub fn produce(nonce: &str, tag: &str, uid: &str, argv: &[String]) -> Vec<String> {
    script(&format!("{HEAD}{PRODUCE}"), &[nonce, tag, uid], argv)
}

/// Arguments before the command: nonce, session tag, UID, `password` or `none`. With `password` the first line of the input is
/// an entry for a password file (`kubernetes::exec::passfile`). All further input goes to the command, counted and hashed;
/// what the command leaves unread when it ends with 0 is counted too.
pub fn consume(nonce: &str, tag: &str, uid: &str, password: bool, argv: &[String]) -> Vec<String> {
    let login = if password { "password" } else { "none" };
    script(&format!("{HEAD}{CONSUME}"), &[nonce, tag, uid, login], argv)
}

/// Arguments: nonce, session tag, UID. Writes the input into a file that only its user may read and prints the file's path.
/// Folder and file stay until [`sweep`].
pub fn keep(nonce: &str, tag: &str, uid: &str) -> Vec<String> {
    script(&format!("{HEAD}{KEEP}"), &[nonce, tag, uid], &[])
}

/// Ends every process of this migration's scripts in the container and removes their folders. Prints the number of processes
/// that are left after ten seconds, `0` when all is gone. Sessions in the server are ended separately.
pub fn sweep(uid: &str) -> Vec<String> {
    script(SWEEP, &[uid], &[])
}

fn script(text: &str, arguments: &[&str], argv: &[String]) -> Vec<String> {
    let lead = ["sh", "-c", text, "sh"].into_iter().chain(arguments.iter().copied()).map(str::to_owned);
    lead.chain(argv.iter().cloned()).collect()
}

/// What the pod says about the bytes that passed, on the last line of error output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodVerdict {
    /// Exit status of the command.
    pub command: i32,
    /// Exit status of the copying.
    pub copy: i32,
    /// Bytes that passed.
    pub bytes: u64,
    /// Their SHA-256, lower-case hex.
    pub sha256: String,
}

/// First word of a verdict line.
const VERDICT: &str = "pgm-verdict";

/// Reads a verdict line; `None` for any other line, or one with another nonce.
pub fn verdict(line: &str, nonce: &str) -> Option<PodVerdict> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [VERDICT, its_nonce, command, copy, bytes, sha256] = words.as_slice() else { return None };
    let hex = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (*its_nonce == nonce && hex).then_some(())?;
    Some(PodVerdict {
        command: command.parse().ok()?,
        copy: copy.parse().ok()?,
        bytes: bytes.parse().ok()?,
        sha256: (*sha256).to_owned(),
    })
}

/// Exit status of a script that could not begin: no writable folder, no password line.
pub const NOT_BEGUN: i32 = 125;

/// Exit status of a script that misses a utility; the line before names it.
pub const UTILITY_MISSING: i32 = 126;

/// Takes nonce and UID, makes the private folder, undoes settings of the container that would change what tools do.
const HEAD: &str = r#"umask 077
nonce=$1 uid=$3
for utility in mktemp mkfifo tee wc sha256sum cat rm kill; do
  command -v "$utility" >/dev/null || { echo "pgm: the container has no $utility" >&2; exit 126; }
done
dir=
for base in "${TMPDIR:-/tmp}" /tmp /dev/shm /var/run/postgresql; do
  dir=$(mktemp -d "$base/pgm.$uid.XXXXXX" 2>/dev/null) && break
done
[ -n "$dir" ] || { echo 'pgm: the container has no folder to write into' >&2; exit 125; }
LC_ALL=C; export LC_ALL
unset PGOPTIONS PGCLIENTENCODING PGAPPNAME PGSERVICE PGDATABASE PGUSER PGTZ PGDATESTYLE
clean() { rm -rf "$dir"; }
trap 'clean' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE
trap 'exit 143' TERM
say() { # command's status, copy's status
  read -r bytes <"$dir/count"
  read -r sum rest <"$dir/sum"
  printf 'pgm-verdict %s %s %s %s %s\n' "$nonce" "$1" "$2" "$bytes" "$sum" >&2
}
"#;

const PRODUCE: &str = r#"shift 3
mkfifo "$dir/out" "$dir/a" "$dir/b" || exit 125
sha256sum <"$dir/a" >"$dir/sum" & hasher=$!
wc -c <"$dir/b" >"$dir/count" & counter=$!
tee "$dir/a" "$dir/b" <"$dir/out" & copier=$!
exec 3<&0
"$@" <&3 >"$dir/out" & command=$!
exec </dev/null
wait $command; command=$?
wait $copier; copier=$?
wait $hasher; wait $counter
say $command $copier
cat <&3 >/dev/null
[ $command -eq 0 ] && [ $copier -eq 0 ]"#;

const CONSUME: &str = r#"login=$4
shift 4
if [ "$login" = password ]; then
  IFS= read -r line || { echo 'pgm: no password line on the input' >&2; exit 125; }
  printf '%s\n' "$line" >"$dir/passfile" || exit 125
  unset line PGPASSWORD
  PGPASSFILE=$dir/passfile; export PGPASSFILE
fi
mkfifo "$dir/in" "$dir/a" "$dir/b" || exit 125
sha256sum <"$dir/a" >"$dir/sum" & hasher=$!
wc -c <"$dir/b" >"$dir/count" & counter=$!
exec 3<&0
tee "$dir/a" "$dir/b" <&3 >"$dir/in" & copier=$!
{ "$@"; ended=$?; [ $ended -ne 0 ] || cat >/dev/null; exit $ended; } <"$dir/in" & command=$!
exec </dev/null
wait $command; command=$?
[ $command -eq 0 ] || kill -PIPE $copier 2>/dev/null
wait $copier; copier=$?
wait $hasher; wait $counter
say $command $copier
cat <&3 >/dev/null
[ $command -eq 0 ] && [ $copier -eq 0 ]"#;

const KEEP: &str = r#"trap - EXIT
cat >"$dir/kept" || { clean; exit 125; }
wc -c <"$dir/kept" >"$dir/count" && sha256sum <"$dir/kept" >"$dir/sum" || { clean; exit 125; }
printf '%s\n' "$dir/kept"
say 0 0"#;

const SWEEP: &str = r#"uid=$1
marked() { # prints the processes of this migration, ours left out
  for entry in /proc/[0-9]*; do
    pid=${entry#/proc/}
    [ "$pid" != $$ ] || continue
    line=$(tr '\0' ' ' <"$entry/cmdline" 2>/dev/null) || continue
    case $line in *"pgm/$uid/m/"* | *"pgm.$uid."*) echo "$pid" ;; esac
  done
}
signal=TERM left=1
for round in 1 2 3 4 5 6 7 8 9 10 11; do
  pids=$(marked)
  [ -n "$pids" ] || { left=0; break; }
  kill -$signal $pids 2>/dev/null
  [ $round -lt 5 ] || signal=KILL
  sleep 1
done
for base in "${TMPDIR:-/tmp}" /tmp /dev/shm /var/run/postgresql; do
  rm -rf "$base/pgm.$uid."*
done
[ $left -eq 0 ] || { set -- $pids; left=$#; }
echo "$left""#;

#[cfg(test)]
mod tests;
