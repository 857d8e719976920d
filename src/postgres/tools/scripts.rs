//! The constant shell scripts around a tool in a pod. Every value is a positional argument or comes on standard input.
//!
//! They work in dash, bash and busybox. None redirects the outputs of its first process away: container runtimes cut the input
//! of an exec when those end. The shell stays the parent until the end, counts and hashes inside the pod, and says the verdict
//! as the last line of its error output. After that it reads its input to the end: an exec whose process ends with input unread
//! hangs, or breaks without a status. So whoever feeds a script must end the input when it sees the verdict.
//!
//! **No process of ours may ever be left to process 1.** In a container that is the postmaster as a rule, and a postmaster
//! that reaps a child which died by a signal takes it for a crashed backend: it ends every session and restarts the server,
//! which empties unlogged tables. So a shell that is told to end first ends its children and waits for them, only shells are
//! told to end, and only children of a living shell are ever killed. Workers of a `pg_restore` are its children, not the shell's: told
//! to end, it tells them and does not wait, and they end by `exit(1)`, with which a postmaster finds nothing wrong.
//!
//! Each keeps its files in one private folder that it removes; whatever is left is found and removed by [`sweep`], by the
//! session tag in its command line or the UID in its folder's name.

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
    script(&format!("{HEAD}{TAKE_IN}{KEEP}"), &[nonce, tag, uid], &[])
}

/// Arguments before the command: nonce, session tag, UID. Writes the input into a file as [`keep`] does, then runs the command
/// with the file's path as its last argument. Prints the path, the SHA-256 of what was written and what the command prints; all
/// of that is counted and hashed. When the command fails, nothing stays.
pub fn keep_and_run(nonce: &str, tag: &str, uid: &str, argv: &[String]) -> Vec<String> {
    script(&format!("{HEAD}{TAKE_IN}{RUN_ON_KEPT}"), &[nonce, tag, uid], argv)
}

/// Ends every process of this migration's scripts in the container and removes their folders. Prints the number of processes
/// that are left after about ten seconds, `0` when all is gone. Sessions in the server are ended separately.
///
/// A process whose shell was killed from outside and which the postmaster has inherited is not signalled, only counted: it
/// ends with its session. One whose parent is outside of the container, such as a psql whose connection to us is lost, is told
/// to end: nobody in the container takes note of its end.
pub fn sweep(uid: &str) -> Vec<String> {
    script(SWEEP, &[uid], &[])
}

/// Arguments: the UID. Prints the processor time that processes of this migration's scripts and their children have used until
/// now, in ticks: it grows as long as they work.
pub fn used(uid: &str) -> Vec<String> {
    script(USED, &[uid], &[])
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
for utility in mktemp mkfifo tee dd wc sha256sum cat rm kill; do
  command -v "$utility" >/dev/null || { echo "pgm: the container has no $utility" >&2; exit 126; }
done
dir=
for base in "${TMPDIR:-/tmp}" /tmp /dev/shm /var/run/postgresql; do
  dir=$(mktemp -d "$base/pgm.$uid.XXXXXX" 2>/dev/null) && break
done
[ -n "$dir" ] || { echo 'pgm: the container has no folder to write into' >&2; exit 125; }
LC_ALL=C; export LC_ALL
unset PGOPTIONS PGCLIENTENCODING PGAPPNAME PGSERVICE PGDATABASE PGUSER PGTZ PGDATESTYLE
trap 'rm -rf "$dir"' EXIT
tool= copier= joiner= hasher= counter= drain=
stop() { # our exit status
  trap '' HUP INT PIPE TERM
  [ -z "$tool" ] || kill -TERM $tool 2>/dev/null
  for helper in $copier $joiner $hasher $counter $drain; do kill -KILL $helper 2>/dev/null; done
  wait
  exit "$1"
}
# While pipes are being laid we hear nothing: half of them would wait for ever.
hush() { trap '' HUP INT TERM; }
listen() { trap 'stop 129' HUP; trap 'stop 130' INT; trap 'stop 143' TERM; }
trap 'stop 141' PIPE
listen
say() { # command's status, copy's status
  read -r bytes <"$dir/count"
  read -r sum rest <"$dir/sum"
  printf 'pgm-verdict %s %s %s %s %s\n' "$nonce" "$1" "$2" "$bytes" "$sum" >&2
}
read_on() { # to the end of what is left on our input; in the background, because a shell hears no signal while it waits in front
  cat <&3 >/dev/null & drain=$!
  wait $drain
  drain=
}
"#;

/// A `pg_dump` that compresses writes 4 KiB at a time. Passed on as they come, each would be a message of its own in every
/// process on the way, and those would take the processor from `pg_dump`: so they are joined (dd with blocks of two sizes). By the
/// mebibyte, because what comes in one burst finds all those processes awake.
const PRODUCE: &str = r#"shift 3
mkfifo "$dir/out" "$dir/a" "$dir/b" "$dir/c" || exit 125
hush
sha256sum <"$dir/a" >"$dir/sum" & hasher=$!
wc -c <"$dir/b" >"$dir/count" & counter=$!
dd ibs=32k obs=1024k <"$dir/c" 2>/dev/null & joiner=$!
tee "$dir/a" "$dir/b" <"$dir/out" >"$dir/c" & copier=$!
exec 3<&0
listen
"$@" <&3 3<&- >"$dir/out" & tool=$!
exec </dev/null
wait $tool; command=$?; tool=
wait $copier; copy=$?; copier=
wait $joiner; joined=$?; joiner=
[ $copy -ne 0 ] || copy=$joined
wait $hasher; wait $counter; hasher= counter=
say $command $copy
read_on
[ $command -eq 0 ] && [ $copy -eq 0 ]"#;

/// A `pg_restore` reads 4 KiB at a time. Whenever it has read one, each process on the way before it would wake up to pass one on,
/// and those would take the processor from the server: dd takes in much at once, and what stands before it rests meanwhile.
const CONSUME: &str = r#"login=$4
shift 4
if [ "$login" = password ]; then
  IFS= read -r line || { echo 'pgm: no password line on the input' >&2; exit 125; }
  printf '%s\n' "$line" >"$dir/passfile" || exit 125
  unset line PGPASSWORD
  PGPASSFILE=$dir/passfile; export PGPASSFILE
fi
mkfifo "$dir/in" "$dir/a" "$dir/b" "$dir/c" || exit 125
hush
sha256sum <"$dir/a" >"$dir/sum" & hasher=$!
wc -c <"$dir/b" >"$dir/count" & counter=$!
exec 3<&0
dd ibs=64k obs=256k <&3 2>/dev/null 3<&- >"$dir/c" & joiner=$!
tee "$dir/a" "$dir/b" <"$dir/c" 3<&- >"$dir/in" & copier=$!
exec 4<"$dir/in"
listen
"$@" <&4 3<&- 4<&- & tool=$!
exec </dev/null
wait $tool; command=$?; tool=
if [ $command -eq 0 ]; then
  cat <&4 >/dev/null & drain=$!
  wait $drain; drain=
else
  kill -PIPE $copier $joiner 2>/dev/null
fi
exec 4<&-
wait $copier; copy=$?; copier=
wait $joiner; joined=$?; joiner=
[ $copy -ne 0 ] || copy=$joined
wait $hasher; wait $counter; hasher= counter=
say $command $copy
read_on
[ $command -eq 0 ] && [ $copy -eq 0 ]"#;

const TAKE_IN: &str = r#"trap - EXIT
fail() { rm -rf "$dir"; read_on; exit 125; }
exec 3<&0
cat <&3 >"$dir/kept" & drain=$!
wait $drain || fail
drain=
"#;

const RUN_ON_KEPT: &str = r#"shift 3
sha256sum <"$dir/kept" >"$dir/sum" && read -r sum rest <"$dir/sum" || fail
printf '%s\n%s\n' "$dir/kept" "$sum" >"$dir/said" || fail
"$@" "$dir/kept" </dev/null 3<&- >>"$dir/said" & tool=$!
wait $tool; command=$?; tool=
wc -c <"$dir/said" >"$dir/count" && sha256sum <"$dir/said" >"$dir/sum" || fail
cat "$dir/said" & copier=$!
wait $copier; copy=$?; copier=
say $command $copy
[ $command -eq 0 ] && [ $copy -eq 0 ] || { rm -rf "$dir"; exit 1; }
rm -f "$dir/said""#;

const KEEP: &str = r#"wc -c <"$dir/kept" >"$dir/count" && sha256sum <"$dir/kept" >"$dir/sum" || fail
printf '%s\n' "$dir/kept"
say 0 0"#;

const SWEEP: &str = r#"uid=$1
case $(tr '\0' ' ' <"/proc/1/cmdline" 2>/dev/null) in *postgres* | *postmaster*) server=1 ;; *) server= ;; esac
look() { # fills shells, children (of living shells), lonely (shells without any), orphans, lone (of which, not of process 1) and left
  shells= children= parents= lonely= orphans= lone= marked=
  for entry in /proc/[0-9]*; do
    pid=${entry#/proc/}
    [ "$pid" != $$ ] || continue
    line=$(tr '\0' ' ' <"$entry/cmdline" 2>/dev/null) || continue
    case $line in
      *"pgm/$uid/m/"* | *"pgm.$uid."*) ;;
      *) continue ;;
    esac
    case $line in *"sh -c umask 077"*) shells="$shells $pid" ;; *) marked="$marked $pid" ;; esac
  done
  left="$shells$marked"
  [ -n "$left" ] || return 0
  for entry in /proc/[0-9]*; do
    pid=${entry#/proc/}
    { read -r stat <"$entry/stat"; } 2>/dev/null || continue
    set -- ${stat##*) }
    case " $shells " in *" $2 "*) children="$children $pid" parents="$parents $2" ;; esac
    case "$server $2" in "1 1") ;; *) lonely="$lonely $pid" ;; esac
  done
  some=$lonely lonely=
  for pid in $shells; do
    case " $parents " in *" $pid "*) continue ;; esac
    case " $some " in *" $pid "*) lonely="$lonely $pid" ;; esac
  done
  for pid in $marked; do
    case " $children " in *" $pid "*) continue ;; esac
    orphans="$orphans $pid"
    case " $some " in *" $pid "*) lone="$lone $pid" ;; esac
  done
}
for round in 1 2 3 4 5 6 7 8 9 10 11; do
  look
  [ -n "$left" ] || break
  if [ $round -lt 5 ]; then
    kill -TERM $shells 2>/dev/null
  else
    kill -KILL $children $lonely 2>/dev/null
  fi
  if [ -n "$server" ]; then kill -TERM $lone 2>/dev/null; else kill -TERM $orphans 2>/dev/null; fi
  sleep 1
done
for base in "${TMPDIR:-/tmp}" /tmp /dev/shm /var/run/postgresql; do
  rm -rf "$base/pgm.$uid."*
done
set -- $left
echo $#"#;

const USED: &str = r#"uid=$1 marked= total=0
for entry in /proc/[0-9]*; do
  pid=${entry#/proc/}
  [ "$pid" != $$ ] || continue
  line=$(tr '\0' ' ' <"$entry/cmdline" 2>/dev/null) || continue
  case $line in *"pgm/$uid/m/"* | *"pgm.$uid."*) marked="$marked $pid" ;; esac
done
for entry in /proc/[0-9]*; do
  { read -r stat <"$entry/stat"; } 2>/dev/null || continue
  set -- ${stat##*) }
  case " $marked " in *" ${entry#/proc/} "* | *" $2 "*) total=$((total + ${12} + ${13})) ;; esac
done
echo $total"#;

#[cfg(test)]
mod tests;
