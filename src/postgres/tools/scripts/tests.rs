use super::*;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The shells of the usual images, as far as this machine has them.
fn shells() -> Vec<Vec<&'static str>> {
    let mut shells = vec![vec!["sh"]];
    for shell in [vec!["dash"], vec!["bash"], vec!["busybox", "sh"]] {
        if Command::new(shell[0]).arg("-c").arg("true").stderr(Stdio::null()).status().is_ok() {
            shells.push(shell);
        }
    }
    shells
}

struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pgm-scripts-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn entries(&self) -> usize {
        std::fs::read_dir(&self.0).unwrap().count()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn start(shell: &[&str], scratch: &Scratch, argv: &[String]) -> Child {
    Command::new(shell[0])
        .args(&shell[1..])
        .args(&argv[1..])
        .env("TMPDIR", &scratch.0)
        .env("PGOPTIONS", "-c foreign=1")
        .env("PGPASSWORD", "of the container")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn run(shell: &[&str], scratch: &Scratch, argv: &[String], input: Vec<u8>) -> Output {
    let mut child = start(shell, scratch, argv);
    let mut stdin = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

fn command(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|&p| p.to_owned()).collect()
}

fn last_verdict(output: &Output) -> Option<PodVerdict> {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    verdict(text.lines().last()?, "n0nce")
}

fn sha256(bytes: &[u8]) -> String {
    crate::archive::Sha256::hex_of(bytes)
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|n| u8::try_from((n * 31 + n / 251) % 256).unwrap()).collect()
}

#[test]
fn what_a_command_prints_is_counted_and_hashed_and_passed_on() {
    for shell in shells() {
        let scratch = Scratch::new("produce");
        let argv = produce(
            "n0nce",
            "pgm/u/m/dump/1",
            "u",
            &command(&["sh", "-c", "printf '%s' \"$PGOPTIONS\"; head -c 5000000 /dev/zero; echo said >&2"]),
        );
        let output = run(&shell, &scratch, &argv, vec![]);
        assert!(output.status.success(), "{shell:?}");
        assert_eq!(output.stdout.len(), 5_000_000, "{shell:?}");
        let verdict = last_verdict(&output).unwrap();
        assert_eq!(verdict, PodVerdict { command: 0, copy: 0, bytes: 5_000_000, sha256: sha256(&output.stdout) });
        assert_eq!(scratch.entries(), 0, "the folder is gone");
    }
}

#[test]
fn small_pieces_are_joined_on_their_way() {
    let write = "for n in 1 2 3 4 5 6 7 8 9 10; do head -c 4096 /dev/zero; done";
    for shell in shells() {
        let scratch = Scratch::new("joined");
        let argv = produce("n0nce", "pgm/u/m/dump/1", "u", &command(&["sh", "-c", write]));
        let mut child = start(&shell, &scratch, &argv);
        drop(child.stdin.take());
        let mut piece = vec![0; 65536];
        let first = child.stdout.take().unwrap().read(&mut piece).unwrap();
        assert_eq!(first, 40_960, "{shell:?}");
        assert!(child.wait_with_output().unwrap().status.success(), "{shell:?}");
    }
}

#[test]
fn a_failing_producer_is_no_success_however_much_it_printed() {
    for shell in shells() {
        let scratch = Scratch::new("produce-fails");
        let argv = produce("n0nce", "pgm/u/m/dump/1", "u", &command(&["sh", "-c", "echo half; exit 3"]));
        let output = run(&shell, &scratch, &argv, vec![]);
        assert!(!output.status.success(), "{shell:?}");
        assert_eq!(last_verdict(&output).unwrap().command, 3);
        let missing = produce("n0nce", "t", "u", &command(&["no-such-tool"]));
        assert_eq!(last_verdict(&run(&shell, &scratch, &missing, vec![])).unwrap().command, 127);
        assert_eq!(scratch.entries(), 0);
    }
}

#[test]
fn a_consumer_gets_every_byte_behind_the_password_line() {
    let data = bytes(3_000_001);
    for shell in shells() {
        let scratch = Scratch::new("consume");
        let reader = r#"cat "$PGPASSFILE" >&2; stat -c %a "$PGPASSFILE" >&2; echo "<$PGPASSWORD>" >&2; cat"#;
        let argv = consume("n0nce", "pgm/u/m/restore/1", "u", true, &command(&["sh", "-c", reader]));
        let mut input = b"*:*:*:*: s\\\\e\\:c ret \n".to_vec();
        input.extend_from_slice(&data);
        let output = run(&shell, &scratch, &argv, input);
        assert!(output.status.success(), "{shell:?} {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == data, "{shell:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with("*:*:*:*: s\\\\e\\:c ret \n600\n<>\n"), "{shell:?} {said}");
        assert_eq!(last_verdict(&output).unwrap(), PodVerdict { command: 0, copy: 0, bytes: 3_000_001, sha256: sha256(&data) });
        assert_eq!(scratch.entries(), 0);
    }
}

#[test]
fn what_a_satisfied_consumer_leaves_unread_is_counted() {
    let data = bytes(2_000_000);
    for shell in shells() {
        let scratch = Scratch::new("unread");
        let argv = consume("n0nce", "t", "u", false, &command(&["head", "-c", "10"]));
        let output = run(&shell, &scratch, &argv, data.clone());
        assert!(output.status.success(), "{shell:?}");
        assert_eq!(last_verdict(&output).unwrap(), PodVerdict { command: 0, copy: 0, bytes: 2_000_000, sha256: sha256(&data) });
    }
}

#[test]
fn a_failing_consumer_says_so_at_once_and_then_reads_on_to_the_end() {
    for shell in shells() {
        let scratch = Scratch::new("consume-fails");
        let argv = consume("n0nce", "t", "u", false, &command(&["sh", "-c", "head -c 10 >/dev/null; exit 7"]));
        let mut child = start(&shell, &scratch, &argv);
        child.stdin.as_mut().unwrap().write_all(&bytes(400_000)).unwrap();
        let mut said = String::new();
        BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(verdict(said.trim(), "n0nce").unwrap().command, 7, "{shell:?} {said}");
        child.stdin.as_mut().unwrap().write_all(&bytes(1_000_000)).expect("nobody would read this");
        assert_eq!(child.try_wait().unwrap(), None);
        assert!(!child.wait().unwrap().success());
        assert_eq!(scratch.entries(), 0);
    }
}

#[test]
fn a_missing_password_line_is_a_failure() {
    for shell in shells() {
        let scratch = Scratch::new("no-line");
        let output = run(&shell, &scratch, &consume("n0nce", "t", "u", true, &command(&["cat"])), vec![]);
        assert_eq!(output.status.code(), Some(NOT_BEGUN));
        assert_eq!(last_verdict(&output), None);
    }
}

#[test]
fn a_kept_file_is_whole_and_private_and_swept() {
    let uid = format!("keep{}", std::process::id());
    for shell in shells() {
        let scratch = Scratch::new("keep");
        let output = run(&shell, &scratch, &keep("n0nce", "t", &uid), bytes(100_000));
        let path = String::from_utf8(output.stdout.clone()).unwrap();
        let path = std::path::Path::new(path.trim());
        assert_eq!(std::fs::read(path).unwrap(), bytes(100_000));
        assert_eq!(last_verdict(&output).unwrap().sha256, sha256(&bytes(100_000)));
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        let swept = run(&shell, &scratch, &sweep(&uid), vec![]);
        assert_eq!(String::from_utf8_lossy(&swept.stdout).trim(), "0");
        assert_eq!(scratch.entries(), 0);
    }
}

#[test]
fn a_command_runs_on_what_was_kept_and_a_failed_one_leaves_nothing() {
    let uid = format!("kept{}", std::process::id());
    for shell in shells() {
        let scratch = Scratch::new("kept");
        let output = run(&shell, &scratch, &keep_and_run("n0nce", "t", &uid, &command(&["wc", "-c"])), bytes(100_000));
        let said = String::from_utf8(output.stdout.clone()).unwrap();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(std::fs::read(lines[0]).unwrap(), bytes(100_000));
        assert_eq!(lines[1], sha256(&bytes(100_000)));
        assert_eq!(lines[2].trim(), format!("100000 {}", lines[0]));
        let verdict = last_verdict(&output).unwrap();
        assert_eq!((verdict.command, verdict.copy, verdict.sha256), (0, 0, sha256(&output.stdout)));
        assert_eq!(
            std::fs::read_dir(std::path::Path::new(lines[0]).parent().unwrap()).unwrap().count(),
            3,
            "head, count and sum"
        );
        run(&shell, &scratch, &sweep(&uid), vec![]);

        let output = run(&shell, &scratch, &keep_and_run("n0nce", "t", &uid, &command(&["sh", "-c", "exit 3"])), bytes(10));
        assert_eq!((last_verdict(&output).unwrap().command, output.status.code()), (3, Some(1)));
        assert_eq!(scratch.entries(), 0);
    }
}

#[test]
fn a_sweep_ends_what_a_lost_client_left_running_and_nothing_else() {
    let uid = format!("orphan{}", std::process::id());
    for shell in shells() {
        let scratch = Scratch::new("sweep");
        let tag = format!("pgm/{uid}/m/restore/1");
        let mut orphan = start(&shell, &scratch, &consume("n0nce", &tag, &uid, false, &command(&["cat"])));
        let mut other = start(&shell, &scratch, &consume("n0nce", "pgm/other/m/restore/1", "other", false, &command(&["cat"])));
        let deadline = Instant::now() + Duration::from_secs(10);
        while scratch.entries() < 2 {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(10));
        }
        let swept = run(&shell, &scratch, &sweep(&uid), vec![]);
        assert_eq!(String::from_utf8_lossy(&swept.stdout).trim(), "0", "{shell:?}");
        assert!(!orphan.wait().unwrap().success());
        assert_eq!(scratch.entries(), 1, "the other migration's folder stays");
        assert_eq!(other.try_wait().unwrap(), None, "the other migration's process lives");
        drop(other.stdin.take());
        assert!(other.wait().unwrap().success());
    }
}

/// A tool that takes its time to end when it is told to, as one does that has to tell its server first.
const SLOW: &str = "trap 'sleep 0.5; exit 1' TERM; while :; do sleep 0.05; done";

/// Processes of this machine whose command line is such.
fn processes(such: impl Fn(&str) -> bool) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| such(&String::from_utf8_lossy(line))).count()
}

/// Waits until the tool `sh -c "# <uid>..."` runs: the shell around it is ready for everything then.
fn wait_for_tool(uid: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while processes(|line| line.starts_with(&format!("sh\0-c\0# {uid}\n"))) == 0 {
        assert!(Instant::now() < deadline, "{uid}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a shell leaves behind goes to process 1, and that is the postmaster.
#[test]
fn a_shell_that_is_told_to_end_leaves_no_child_behind() {
    for shell in shells() {
        for consuming in [false, true] {
            let uid = format!("family{}{}{consuming}", std::process::id(), shell.concat());
            let scratch = Scratch::new(&uid);
            let (tag, slow) = (format!("pgm/{uid}/m/x/1"), format!("# {uid}\n{SLOW}"));
            let tool = command(&["sh", "-c", &slow]);
            let argv = if consuming { consume("n0nce", &tag, &uid, false, &tool) } else { produce("n0nce", &tag, &uid, &tool) };
            let mut child = start(&shell, &scratch, &argv);
            wait_for_tool(&uid);
            let swept = run(&shell, &scratch, &sweep(&uid), vec![]);
            assert_eq!(String::from_utf8_lossy(&swept.stdout).trim(), "0", "{shell:?}");
            assert!(!child.wait().unwrap().success());
            assert_eq!((processes(|line| line.contains(&uid)), scratch.entries()), (0, 0), "{shell:?}");
        }
    }
}

#[test]
fn a_shell_outlives_its_children_when_it_is_told_to_end() {
    for shell in shells() {
        let uid = format!("outlives{}{}", std::process::id(), shell.concat());
        let scratch = Scratch::new(&uid);
        let argv = consume("n0nce", "t", &uid, false, &command(&["sh", "-c", &format!("# {uid}\n{SLOW}")]));
        let mut child = start(&shell, &scratch, &argv);
        wait_for_tool(&uid);
        let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(told.success());
        assert_eq!(child.wait().unwrap().code(), Some(143), "{shell:?}");
        assert_eq!(processes(|line| line.contains(&uid)), 0, "{shell:?}: left to process 1");
        assert_eq!(scratch.entries(), 0);
    }
}

/// Only a child that does not listen is killed, and only while its shell lives to bury it.
#[test]
fn a_tool_that_does_not_listen_is_killed_under_its_shell() {
    for shell in shells() {
        let uid = format!("deaf{}{}", std::process::id(), shell.concat());
        let scratch = Scratch::new(&uid);
        let tool = format!("# {uid}\ntrap '' TERM; while :; do sleep 0.05; done");
        let argv = produce("n0nce", &format!("pgm/{uid}/m/x/1"), &uid, &command(&["sh", "-c", &tool]));
        let mut child = start(&shell, &scratch, &argv);
        wait_for_tool(&uid);
        let swept = run(&shell, &scratch, &sweep(&uid), vec![]);
        assert_eq!(String::from_utf8_lossy(&swept.stdout).trim(), "0", "{shell:?}");
        assert_eq!(child.wait().unwrap().code(), Some(143), "{shell:?}: it was to end by itself");
        assert_eq!(processes(|line| line.contains(&uid)), 0, "{shell:?}");
    }
}

#[test]
fn work_is_told_from_waiting() {
    for shell in shells() {
        for (name, tool, works) in [("busy", "while :; do :; done", true), ("waits", "read -r line", false)] {
            let uid = format!("{name}{}{}", std::process::id(), shell.concat());
            let scratch = Scratch::new(&uid);
            let argv =
                consume("n0nce", &format!("pgm/{uid}/m/x/1"), &uid, false, &command(&["sh", "-c", &format!("# {uid}\n{tool}")]));
            let mut child = start(&shell, &scratch, &argv);
            wait_for_tool(&uid);
            let look = || run(&shell, &scratch, &used(&uid), vec![]).stdout;
            let (first, deadline) = (look(), Instant::now() + Duration::from_secs(if works { 20 } else { 1 }));
            let mut moved = false;
            while !moved && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
                moved = look() != first;
            }
            assert_eq!(moved, works, "{shell:?}");
            run(&shell, &scratch, &sweep(&uid), vec![]);
            child.wait().unwrap();
        }
    }
}

#[test]
fn only_a_whole_verdict_with_the_nonce_counts() {
    let sum = "a".repeat(64);
    assert!(verdict(&format!("pgm-verdict n 0 0 12 {sum}"), "n").is_some());
    for line in [
        format!("pgm-verdict m 0 0 12 {sum}"),
        format!("pgm-verdict n 0 0 12 {}", &sum[1..]),
        format!("pgm-verdict n 0 0 {sum}"),
        format!("pgm-verdict n 0 x 12 {sum}"),
        String::new(),
    ] {
        assert_eq!(verdict(&line, "n"), None, "{line}");
    }
}
