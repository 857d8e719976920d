//! The psql carrier against real servers: its language with a psql of this machine in the place of one in a container,
//! and the same answers as the network carrier's.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use pgmigration::kubernetes::exec::{Event, ExecError, ExecErrorKind};
use pgmigration::kubernetes::psql::{Launch, Pipe, PsqlCarrier, PsqlLogin};
use pgmigration::postgres::carrier::{Carrier, Question, Session, SqlErrorKind, quote_identifier, quote_literal};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use crate::cluster::{Cluster, SOON, servers};

/// Starts commands as children, with this environment.
struct Here(Vec<(&'static str, String)>);

struct ChildPipe {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

fn broken(error: &std::io::Error) -> ExecError {
    ExecError { kind: ExecErrorKind::Cut, http_status: None, message: error.to_string() }
}

#[async_trait]
impl Launch for Here {
    async fn launch(&self, argv: &[String]) -> Result<Box<dyn Pipe>, ExecError> {
        let mut child = Command::new(&argv[0])
            .args(&argv[1..])
            .envs(self.0.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| broken(&error))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        Ok(Box::new(ChildPipe { child, stdin, stdout, stderr }))
    }
}

#[async_trait]
impl Pipe for ChildPipe {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ExecError> {
        self.stdin.as_mut().unwrap().write_all(&bytes).await.map_err(|error| broken(&error))
    }

    async fn close_input(&mut self) -> Result<(), ExecError> {
        self.stdin = None;
        Ok(())
    }

    async fn next(&mut self) -> Result<Event, ExecError> {
        let (mut out, mut err) = ([0; 4096], [0; 4096]);
        while self.stdout.is_some() || self.stderr.is_some() {
            let read_out = async {
                match self.stdout.as_mut() {
                    Some(stdout) => stdout.read(&mut out).await,
                    None => std::future::pending().await,
                }
            };
            let read_err = async {
                match self.stderr.as_mut() {
                    Some(stderr) => stderr.read(&mut err).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                read = read_out => match read.map_err(|error| broken(&error))? {
                    0 => self.stdout = None,
                    length => return Ok(Event::Stdout(Bytes::copy_from_slice(&out[..length]))),
                },
                read = read_err => match read.map_err(|error| broken(&error))? {
                    0 => self.stderr = None,
                    length => return Ok(Event::Stderr(Bytes::copy_from_slice(&err[..length]))),
                },
            }
        }
        let status = self.child.wait().await.map_err(|error| broken(&error))?;
        Ok(Event::Exit(status.code().unwrap_or(-1)))
    }
}

impl Cluster {
    /// A carrier through this version's psql, in an environment that would mislead a careless one.
    fn psql(&self, login: PsqlLogin) -> PsqlCarrier {
        let path = format!("{}:{}", self.bin().display(), std::env::var("PATH").unwrap());
        let environment = vec![
            ("PATH", path),
            ("PGHOST", self.socket()),
            ("PGOPTIONS", "-c search_path=nonesuch -c statement_timeout=1".to_owned()),
            ("PGDATABASE", "nonesuch".to_owned()),
            ("PGCLIENTENCODING", "LATIN1".to_owned()),
            ("LC_ALL", "de_DE.UTF-8".to_owned()),
        ];
        PsqlCarrier::over(Arc::new(Here(environment)), login)
    }

    /// Through psql, and over the network's protocol.
    fn carriers(&self, role: &str) -> [Box<dyn Carrier>; 2] {
        [Box::new(self.psql(PsqlLogin::new(role, "pgmigration/test/psql"))), Box::new(self.carrier(role))]
    }

    async fn psql_session(&self, database: &str) -> Box<dyn Session> {
        self.psql(PsqlLogin::new("postgres", "pgmigration/test/psql")).connect(database, SOON).await.unwrap()
    }
}

const DATABASES: [&str; 9] = [
    "plain",
    "with space and 'quote'",
    "dou\"ble",
    "host=/nonesuch port=1",
    "postgresql://nonesuch/x",
    "-l",
    "back\\slash\\",
    "line\nbreak",
    "Übung 数据 :HOST $1",
];

#[tokio::test]
async fn both_carriers_reach_databases_of_any_name() {
    for bin in servers() {
        let cluster = Cluster::start(&bin, &[]);
        for name in DATABASES {
            cluster.sql("postgres", &format!("CREATE DATABASE {};", quote_identifier(name)));
            let question = Question::new("where", "SELECT to_json(current_database())");
            for mut session in [cluster.psql_session(name).await, cluster.session(name).await] {
                assert_eq!(session.ask(&question, SOON).await.unwrap(), json!(name));
                session.close().await;
            }
        }
    }
}

#[tokio::test]
async fn both_carriers_give_the_same_answers() {
    let values = [
        "",
        " ",
        "it's",
        "back\\slash \\n \\' \\",
        "two\nlines\r\nand\ttabs\u{8}",
        ":pgmigration_p0 :'HOST' :\"USER\" :{?x} \\! touch /tmp/x",
        "$1 $$ $tag$ -- /* ;",
        "ünïcödé 数据 \u{1f418}",
        "\\",
        "''",
    ];
    let odd = "SELECT json_build_object('a', $1::text, 'n', $2::int8 + 1, 'quoted', ':pgmigration_p0 $1 ;', 'dollar', \
               $q$ it's :'x' $1 \\echo $q$, 'slice', (ARRAY[1,2,3])[1:2], 'lines', '\n\\echo not me\n')\n-- the end ;";
    for bin in servers() {
        let cluster = Cluster::start(&bin, &[]);
        let mut psql = cluster.psql_session("postgres").await;
        let mut network = cluster.session("postgres").await;
        for value in values {
            let question = Question::new("odd", odd).with(value).with("41");
            let expected = json!({"a": value, "n": 42, "quoted": ":pgmigration_p0 $1 ;", "dollar": " it's :'x' $1 \\echo ",
                "slice": [1, 2], "lines": "\n\\echo not me\n"});
            assert_eq!(psql.ask(&question, SOON).await.unwrap(), expected);
            assert_eq!(network.ask(&question, SOON).await.unwrap(), expected);
        }
        let text = "x".repeat(3_000_000);
        let large = Question::new("large", "SELECT to_json($1::text)").with(text.clone());
        assert_eq!(psql.ask(&large, SOON).await.unwrap(), Value::String(text));

        // Tables may be called anything, and their names stand in questions as quoted identifiers.
        let table = "a\"b :'HOST' $1 'x\\n;\n:ERROR";
        psql.execute(&format!("CREATE TABLE public.{} (i int)", quote_identifier(table)), SOON).await.unwrap();
        let count = format!("SELECT json_build_array(count(*), $1::text) FROM public.{}", quote_identifier(table));
        let count = Question { name: "count", sql: count.into(), parameters: vec![":p".to_owned()] };
        for session in [&mut psql, &mut network] {
            assert_eq!(session.ask(&count, SOON).await.unwrap(), json!([0, ":p"]));
        }
        let settings = Question::new(
            "settings",
            "SELECT json_object_agg(name, setting ORDER BY name) FROM pg_settings WHERE name IN \
             ('search_path', 'TimeZone', 'DateStyle', 'IntervalStyle', 'extra_float_digits', 'bytea_output', 'row_security', \
             'statement_timeout', 'transaction_timeout', 'client_encoding', 'lc_monetary', 'standard_conforming_strings')",
        );
        let pinned = psql.ask(&settings, SOON).await.unwrap();
        assert_eq!(pinned, network.ask(&settings, SOON).await.unwrap());
        assert_eq!((&pinned["TimeZone"], &pinned["statement_timeout"]), (&json!("UTC"), &json!("0")));
    }
}

#[tokio::test]
async fn refusals_have_a_code_and_the_session_goes_on() {
    for bin in servers() {
        let cluster = Cluster::start(&bin, &[]);
        for mut session in [cluster.psql_session("postgres").await, cluster.session("postgres").await] {
            let missing = Question::new("missing", "SELECT to_json(x) FROM public.nonesuch");
            let error = session.ask(&missing, SOON).await.unwrap_err();
            assert_eq!(error.kind, SqlErrorKind::Statement);
            assert!(error.is("42P01"), "{error}");
            assert_eq!(error.message, "relation \"public.nonesuch\" does not exist");
            // Refused when it is prepared, and when it is executed.
            for sql in ["SELECT to_json($1::nonesuch)", "SELECT to_json($1::text::int8)"] {
                let error = session.ask(&Question::new("cast", sql).with("x\ny"), SOON).await.unwrap_err();
                assert_eq!(
                    (error.kind, error.sqlstate.as_deref()),
                    (SqlErrorKind::Statement, Some(if sql.contains("int8") { "22P02" } else { "42704" }))
                );
            }
            let words = "two\nlines 'quoted' \\x :ERROR";
            let raise =
                format!("DO $$ BEGIN RAISE EXCEPTION USING MESSAGE = {}, ERRCODE = 'PGM01'; END $$", quote_literal(words));
            let error = session.execute(&raise, SOON).await.unwrap_err();
            assert_eq!((error.sqlstate.as_deref(), error.message.as_str()), (Some("PGM01"), words));

            session.execute("BEGIN", SOON).await.unwrap();
            assert!(session.ask(&missing, SOON).await.is_err());
            let error = session.ask(&Question::new("q", "SELECT to_json($1::text)").with("x"), SOON).await.unwrap_err();
            assert!(error.is("25P02"), "{error}");
            let error = session.execute("COMMIT;", SOON).await.unwrap_err();
            assert!(error.is("25P02"), "a COMMIT that rolls back is no success: {error}");
            session.execute("ROLLBACK", SOON).await.unwrap();
            assert_eq!(session.ask(&Question::new("q", "SELECT to_json($1::text)").with("x"), SOON).await.unwrap(), json!("x"));
            session.execute("BEGIN;", SOON).await.unwrap();
            session.execute("CREATE TABLE public.kept (i int); ", SOON).await.unwrap();
            session.execute("COMMIT", SOON).await.unwrap();
            session.execute("DROP TABLE public.kept", SOON).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_is_not_one_document_ends_the_session() {
    for bin in servers() {
        let cluster = Cluster::start(&bin, &[]);
        for sql in [
            "SELECT NULL::json",
            "SELECT to_json(i) FROM generate_series(1, 2) i",
            "SELECT '1'::json, '2'::json",
            "SELECT '1'::json WHERE false",
            "SELECT CASE i WHEN 2 THEN '1'::json END FROM generate_series(1, 2) i",
            "SELECT 'no json'",
        ] {
            for mut session in [cluster.psql_session("postgres").await, cluster.session("postgres").await] {
                let error = session.ask(&Question::new("wrong", sql), SOON).await.unwrap_err();
                assert_eq!(error.kind, SqlErrorKind::Protocol, "{sql}: {error}");
                let error = session.ask(&Question::new("later", "SELECT '1'::json"), SOON).await.unwrap_err();
                assert_eq!(error.kind, SqlErrorKind::Connect, "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_deadline_is_kept_and_ends_the_session() {
    for bin in servers() {
        let cluster = Cluster::start(&bin, &[]);
        let mut session = cluster.psql_session("postgres").await;
        let slow = Question::new("slow", "SELECT to_json(1) FROM pg_sleep(60)");
        let error = session.ask(&slow, Duration::from_millis(300)).await.unwrap_err();
        assert_eq!(error.kind, SqlErrorKind::Deadline, "{error}");
        let error = session.execute("SELECT 1", SOON).await.unwrap_err();
        assert_eq!(error.kind, SqlErrorKind::Connect, "{error}");

        // A call that is dropped half-way must not leave its answer to the next one.
        let mut session = cluster.psql_session("postgres").await;
        let slow = Question::new("slow", "SELECT to_json(1) FROM pg_sleep(1)");
        assert!(tokio::time::timeout(Duration::from_millis(300), session.ask(&slow, SOON)).await.is_err());
        let error = session.ask(&Question::new("next", "SELECT '2'::json"), SOON).await.unwrap_err();
        assert_eq!(error.kind, SqlErrorKind::Connect, "{error}");
    }
}

#[tokio::test]
async fn a_session_that_the_server_ends_says_so() {
    for bin in servers() {
        let cluster = Cluster::start(&bin, &[]);
        let mut admin = cluster.session("postgres").await;
        let mut victim = cluster.psql_session("postgres").await;
        let kill = Question::new(
            "kill",
            "SELECT json_agg(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE application_name = $1::text",
        );
        assert_eq!(admin.ask(&kill.with("pgmigration/test/psql"), SOON).await.unwrap(), json!([true]));
        let error = victim.execute("SELECT 1", SOON).await.unwrap_err();
        assert_eq!(error.kind, SqlErrorKind::Connect, "{error}");
        assert!(error.is("57P01"), "{error}");
        let error = victim.execute("SELECT 1", SOON).await.unwrap_err();
        assert_eq!(error.kind, SqlErrorKind::Connect, "{error}");
    }
}

#[tokio::test]
async fn a_failed_login_says_why_and_closing_leaves_no_session() {
    for bin in servers() {
        let cluster = Cluster::start(&bin, &[]);
        let carrier = cluster.psql(PsqlLogin::new("postgres", "pgmigration/test/psql"));
        let error = carrier.connect("nonesuch", SOON).await.err().unwrap();
        assert_eq!(error.kind, SqlErrorKind::Connect);
        assert!(error.message.contains("database \"nonesuch\" does not exist"), "{error}");

        let session = carrier.connect("postgres", SOON).await.unwrap();
        session.close().await;
        let mut admin = cluster.session("postgres").await;
        // psql has said goodbye; the server's process for it may take a moment longer.
        let left = Question::new("left", "SELECT to_json(count(*)) FROM pg_stat_activity WHERE application_name = $1::text")
            .with("pgmigration/test/psql");
        let begin = Instant::now();
        while admin.ask(&left, SOON).await.unwrap() != json!(0) {
            assert!(begin.elapsed() < SOON);
        }

        let absent = PsqlCarrier::over(Arc::new(Here(vec![("PATH", "/nonesuch".to_owned())])), PsqlLogin::new("postgres", "x"));
        assert_eq!(absent.connect("postgres", SOON).await.err().unwrap().kind, SqlErrorKind::Connect);
    }
}

/// In the words of each version, through both carriers.
#[tokio::test]
async fn a_server_that_is_away_is_told_from_one_that_refuses_the_login() {
    for bin in servers() {
        let mut cluster = Cluster::start(&bin, &[]);
        cluster.sql("postgres", "CREATE ROLE full LOGIN CONNECTION LIMIT 0; CREATE ROLE barred; CREATE ROLE secret LOGIN; CREATE ROLE rejected LOGIN;");
        cluster.demand_password("secret");
        cluster.put_rule("local all rejected reject");
        for (role, expected) in [
            ("full", (true, false)),
            ("barred", (false, true)),
            ("secret", (false, true)),
            ("nobody", (false, true)),
            ("rejected", (false, true)),
        ] {
            for carrier in cluster.carriers(role) {
                let error = carrier.connect("postgres", SOON).await.err().unwrap();
                assert_eq!((error.is_unavailable(), error.is_login_refused()), expected, "{role}: {error:?}");
            }
        }
        cluster.crash();
        let [psql, _] = cluster.carriers("postgres");
        let error = psql.connect("postgres", SOON).await.err().unwrap();
        assert!(error.is_unavailable() && !error.is_login_refused(), "{error:?}");
    }
}

#[tokio::test]
async fn a_password_goes_in_by_the_input_and_leaves_no_file() {
    for bin in servers() {
        let cluster = Cluster::start(&bin, &[]);
        let password = r#"p:a\ss 'w"ö$rd "#;
        cluster.sql("postgres", &format!("CREATE ROLE app LOGIN PASSWORD {};", quote_literal(password)));
        cluster.demand_password("app");
        let folder = std::path::PathBuf::from(cluster.scratch("tmp"));
        std::fs::create_dir(&folder).unwrap();
        let login = |password: &str| PsqlLogin { password: Some(password.to_owned()), ..PsqlLogin::new("app", "x") };
        let carrier = |password: &str| {
            let path = format!("{}:{}", cluster.bin().display(), std::env::var("PATH").unwrap());
            let environment = vec![
                ("PATH", path),
                ("PGHOST", cluster.socket()),
                ("TMPDIR", cluster.scratch("tmp")),
                ("PGPASSWORD", "wrong".into()),
            ];
            PsqlCarrier::over(Arc::new(Here(environment)), login(password))
        };
        let mut session = carrier(password).connect("postgres", SOON).await.unwrap();
        assert_eq!(session.ask(&Question::new("who", "SELECT to_json(current_user)"), SOON).await.unwrap(), json!("app"));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "the file goes as soon as the login is done");
        session.close().await;

        let error = carrier("other").connect("postgres", SOON).await.err().unwrap();
        assert_eq!(error.kind, SqlErrorKind::Connect);
        assert!(error.message.contains("password authentication failed"), "{error}");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        // Without one: refused at once, never a question on the input that carries statements.
        let none = PsqlLogin { password: None, ..login("") };
        let path = format!("{}:{}", cluster.bin().display(), std::env::var("PATH").unwrap());
        let none = PsqlCarrier::over(Arc::new(Here(vec![("PATH", path), ("PGHOST", cluster.socket())])), none);
        let error = none.connect("postgres", SOON).await.err().unwrap();
        assert!(error.message.contains("no password supplied"), "{error}");
    }
}
