//! Where a test may end this process: before and after every effect and every record, and between two bytes of a stream.
//!
//! Nobody can hit such a moment from outside, so the rooms name their boundaries as they pass them, at the few places that all
//! effects go through: a request that changes something (`kubernetes`), a statement (`kubernetes/psql`), a write to the bucket
//! (`archive`), a record (`operator`), a mover's tool, bytes and verdict (`mover`).
//!
//! Nothing of this happens unless the process was started with a setting that no shipped file holds ([`OPERATOR_ENV`]; a
//! mover gets [`MOVER_ENV`] from such an operator only), and then only at work for an object that carries [`ANNOTATION`]. Who
//! can change the operator's Deployment can put any program there, so this gives nobody a power that he lacked.
//!
//! An operator ends by replacing itself with a fresh process: memory, threads and connections are gone as after SIGKILL, with
//! all objects at work struck at once, but without the growing pauses of a kubelet that restarts a container. A mover aborts.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::Serialize;
use serde_json::Value;

/// Variable that lets an operator be ended by objects: `enabled`.
pub const OPERATOR_ENV: &str = "PGMIGRATION_CRASH";
/// Variable that tells a mover where to end: the object's annotation.
pub const MOVER_ENV: &str = "PGMIGRATION_CRASH_AT";
/// Annotation of an object: names of boundaries, one a line. The operator ends once at each of them; `Undo(*` means each of its
/// own that begins so. With nothing in it, boundaries are only logged.
pub const ANNOTATION: &str = "pgmigration.dev/crash-at";

/// Byte positions that are logged by themselves: the powers of two from here. Any other may be asked for.
const SMALLEST_STEP: u64 = 1 << 14;

static ENABLED: AtomicBool = AtomicBool::new(false);
/// What a mover works for: nothing else.
static PROCESS: OnceLock<Subject> = OnceLock::new();
tokio::task_local! {
    /// What an operator works for in this task.
    static VISIT: Subject;
}

/// An object that asks for an end.
#[derive(Debug)]
pub struct Subject {
    uid: String,
    at: String,
    place: Mutex<String>,
    ends: Ends,
}

/// How a process ends.
#[derive(Clone, Copy, Debug)]
enum Ends {
    /// As an operator: once at each boundary, replaced by a fresh process.
    Replaced,
    /// As a mover: for good. Its boundaries name the attempt, so the next one passes.
    Aborted,
}

/// Lets objects end this process, an operator.
pub fn enable() {
    tracing::warn!("for tests: objects may end this process with the annotation {ANNOTATION}");
    ENABLED.store(true, Ordering::Relaxed);
}

/// The whole of this process, a mover, works for `uid` and ends `at` one of these boundaries.
pub fn begin(uid: &str, at: &str) {
    if PROCESS.set(Subject::new(uid, at, Ends::Aborted)).is_ok() {
        ENABLED.store(true, Ordering::Relaxed);
    }
}

/// Does an operator's `work` for the object `uid`, which asks for an end `at` these boundaries.
pub async fn watch<T>(uid: &str, at: Option<&str>, work: impl Future<Output = T>) -> T {
    match at.filter(|_| ENABLED.load(Ordering::Relaxed)) {
        Some(at) => VISIT.scope(Subject::new(uid, at, Ends::Replaced), work).await,
        None => work.await,
    }
}

/// What a mover of the object at work has to be told.
pub fn for_mover() -> Option<String> {
    let mut at = None;
    with(|subject| at = Some(subject.at.clone()));
    at
}

/// From here on boundaries are named after this place.
pub fn place(name: impl FnOnce() -> String) {
    with(|subject| *subject.place.lock().unwrap_or_else(PoisonError::into_inner) = name());
}

/// A boundary.
pub fn point(what: impl FnOnce() -> String) {
    with(|subject| subject.pass(&what()));
}

/// An effect: a boundary before it, and one after it whatever came of it.
pub async fn around<T>(what: impl FnOnce() -> String, effect: impl Future<Output = T>) -> T {
    if !ENABLED.load(Ordering::Relaxed) {
        return effect.await;
    }
    let what = what();
    point(|| format!("before {what}"));
    let outcome = effect.await;
    point(|| format!("after {what}"));
    outcome
}

/// The bytes of a stream from `before` to `after` have passed.
pub fn bytes(before: u64, after: u64) {
    with(|subject| {
        let logged = std::iter::successors(Some(SMALLEST_STEP), |n| n.checked_mul(2)).take_while(|n| *n <= after);
        let asked = subject.at.lines().filter_map(|line| line.trim().strip_prefix(&subject.named("byte "))?.parse().ok());
        for position in logged.chain(asked).filter(|n| before < *n && *n <= after) {
            subject.pass(&format!("byte {position}"));
        }
    });
}

/// A statement, request or key in the words of a boundary: what is not the same in every run is left out.
pub fn words(text: &str) -> String {
    let first = text.split('\'').next().unwrap_or_default();
    first.chars().take(100).collect::<String>().trim_end().to_owned()
}

/// What differs between two documents, as paths. Words for people, times and progress do not count: they vary from run to run.
pub fn changed(before: &impl Serialize, after: &impl Serialize) -> String {
    let (Ok(before), Ok(after)) = (serde_json::to_value(before), serde_json::to_value(after)) else { return String::new() };
    let mut paths = Vec::new();
    difference("", &before, &after, &mut paths);
    if paths.is_empty() { "words".into() } else { paths.into_iter().take(3).collect::<Vec<_>>().join(" ") }
}

const PASSING: [&str; 20] = [
    "bytesDone",
    "bytesTotal",
    "completionTime",
    "conditions",
    "durationSeconds",
    "endTime",
    "failingSince",
    "heard",
    "itemsDone",
    "itemsTotal",
    "message",
    "messageSince",
    "notBefore",
    "observedGeneration",
    "percent",
    "phase",
    "progress",
    "secondsLeft",
    "size",
    "startTime",
];

fn difference(path: &str, before: &Value, after: &Value, paths: &mut Vec<String>) {
    let null = Value::Null;
    match (before, after) {
        (Value::Object(one), Value::Object(other)) => {
            let names: HashSet<&String> = one.keys().chain(other.keys()).collect();
            let mut names: Vec<&String> = names.into_iter().filter(|name| !PASSING.contains(&name.as_str())).collect();
            names.sort();
            for name in names {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                difference(&path, one.get(name).unwrap_or(&null), other.get(name).unwrap_or(&null), paths);
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            for at in 0..one.len().max(other.len()) {
                difference(&format!("{path}[{at}]"), one.get(at).unwrap_or(&null), other.get(at).unwrap_or(&null), paths);
            }
        }
        (one, other) if one != other => paths.push(path.to_owned()),
        _ => {}
    }
}

fn with(look: impl FnOnce(&Subject)) {
    if !ENABLED.load(Ordering::Relaxed) {
        return;
    }
    let mut look = Some(look);
    let _ = VISIT.try_with(|subject| {
        if let Some(look) = look.take() {
            look(subject);
        }
    });
    if let (Some(look), Some(subject)) = (look, PROCESS.get()) {
        look(subject);
    }
}

impl Subject {
    fn new(uid: &str, at: &str, ends: Ends) -> Self {
        Self { uid: uid.into(), at: at.into(), place: Mutex::default(), ends }
    }

    /// `what` at the present place, without what tells this run from another: digits of the UID, times.
    fn named(&self, what: &str) -> String {
        let mut name = format!("{}: {what}", self.place.lock().unwrap_or_else(PoisonError::into_inner));
        let hex: String = self.uid.chars().filter(char::is_ascii_hexdigit).collect();
        for part in [self.uid.as_str(), hex.get(..12).unwrap_or_default(), hex.get(..8).unwrap_or_default()] {
            if !part.is_empty() {
                name = name.replace(part, "~");
            }
        }
        name.replace(char::is_control, " ")
    }

    fn pass(&self, what: &str) {
        let boundary = self.named(what);
        tracing::info!(uid = self.uid, boundary, "passed a boundary");
        let asked = |line: &str| match line.trim().strip_suffix('*') {
            Some(beginning) => matches!(self.ends, Ends::Replaced) && boundary.starts_with(beginning),
            None => line.trim() == boundary,
        };
        if !self.at.lines().any(asked) {
            return;
        }
        match self.ends {
            Ends::Aborted => {
                tracing::warn!(uid = self.uid, boundary, "ending at a boundary");
                std::process::abort();
            }
            Ends::Replaced if first_time(&format!("{} {boundary}", self.uid)) => {
                tracing::warn!(uid = self.uid, boundary, "ending at a boundary");
                let error = Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).exec();
                tracing::error!(error = &error as &dyn std::error::Error, "no fresh process: aborting");
                std::process::abort();
            }
            Ends::Replaced => {}
        }
    }
}

/// Whether nothing ended here before, noted so that processes to come know it. What cannot be noted does not end: it would
/// end there for ever.
fn first_time(line: &str) -> bool {
    static NOTED: OnceLock<(PathBuf, Mutex<HashSet<String>>)> = OnceLock::new();
    let (file, noted) = NOTED.get_or_init(|| {
        let file = std::env::temp_dir().join("crashed-at");
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        (file, Mutex::new(text.lines().map(Into::into).collect()))
    });
    let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
    if noted.contains(line) {
        return false;
    }
    let written = OpenOptions::new().create(true).append(true).open(file).and_then(|mut file| writeln!(file, "{line}"));
    noted.insert(line.into());
    written.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_boundary_has_the_same_name_in_every_run() {
        let name = |uid: &str, digits: &str| {
            let subject = Subject::new(uid, "", Ends::Replaced);
            *subject.place.lock().unwrap() = "Run(Restore)".into();
            subject.named(&format!("before {}", words(&format!("CREATE DATABASE \"onyx_{digits}s\" OWNER 'x{uid}'"))))
        };
        let one = name("0a1b2c3d-4e5f-6789-abcd-ef0123456789", "0a1b2c3d4e5f");
        assert_eq!(one, "Run(Restore): before CREATE DATABASE \"onyx_~s\" OWNER");
        assert_eq!(one, name("ffffffff-1111-2222-3333-444444444444", "ffffffff1111"));
    }

    #[test]
    fn records_are_told_apart_by_what_they_change() {
        let before =
            json!({"message": "a", "steps": [{"name": "Pin", "state": "Done"}], "transfer": {"percent": 1}, "fence": null});
        let changed_to = |after: Value| changed(&before, &after);
        assert_eq!(
            changed_to(json!({"message": "b", "steps": [{"name": "Pin", "state": "Done"}], "transfer": {"percent": 2}})),
            "words"
        );
        assert_eq!(
            changed_to(
                json!({"steps": [{"name": "Pin", "state": "Undone"}, {"name": "Fence"}], "transfer": {}, "fence": {"closed": true}})
            ),
            "fence steps[0].state steps[1]"
        );
    }

    #[tokio::test]
    async fn nothing_happens_in_a_process_that_was_not_started_for_it() {
        // The annotation alone has no power: were this object heard, the test would not outlive its first boundary.
        watch("uid", Some("*"), async {
            point(|| panic!("a boundary was looked at"));
            bytes(0, u64::MAX);
            assert_eq!(for_mover(), None);
            assert_eq!(around(|| panic!("an effect was named"), async { 1 }).await, 1);
        })
        .await;
    }
}
