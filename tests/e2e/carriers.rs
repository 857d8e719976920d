//! Exec, psql over exec and port-forward on real chains: API server, kubelet, containerd, pods of two Postgres versions.

use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use pgmigration::kubernetes::clients;
use pgmigration::kubernetes::exec::{self, Event, ExecError, ExecErrorKind, Process, Target};
use pgmigration::kubernetes::portforward;
use pgmigration::kubernetes::psql::{PsqlCarrier, PsqlLogin};
use pgmigration::postgres::carrier::{Carrier, Question, Session, SqlErrorKind, quote_identifier, quote_literal};
use pgmigration::postgres::network::{NetworkCarrier, Tls};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, Room, Side, eventually, setting};

/// Far more than one answer takes.
pub const SOON: Duration = Duration::from_secs(30);
/// What our sessions of these tests call themselves.
pub const TAG: &str = "pgmigration/e2e/carriers";

/// A Postgres pod in a namespace of its own.
pub struct Server {
    room: Room,
    side: Side,
    client: Client,
    target: Target,
}

impl Server {
    pub async fn start(side: Side) -> Self {
        let room = Room::new(side, "carriers").await;
        let client = clients::own(&side.config().await).unwrap();
        let image = setting(match side {
            Side::Old => "PGM_PG15_IMAGE",
            Side::New => "PGM_PG17_IMAGE",
        });
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "pg"},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                {"name": "postgres", "image": image, "env": [{"name": "POSTGRES_PASSWORD", "value": "by network"}]}]},
        }))
        .unwrap();
        Api::namespaced(client.clone(), &room.name).create(&PostParams::default(), &pod).await.unwrap();
        let target = Target { namespace: room.name.clone(), pod: "pg".into(), container: "postgres".into() };
        let server = Self { room, side, client, target };
        // The image starts a server for its set-up first, which listens on the socket only.
        eventually("Postgres to accept connections", || async {
            server.run(&["pg_isready", "-h", "127.0.0.1"], b"").await.map_err(|error| error.to_string()).and_then(|done| {
                if done.exit_code == 0 { Ok(()) } else { Err(String::from_utf8_lossy(&done.stdout).into_owned()) }
            })
        })
        .await;
        server
    }

    pub async fn run(&self, argv: &[&str], stdin: &[u8]) -> Result<exec::Completed, ExecError> {
        exec::run(&self.client, &self.target, &words(argv), stdin, SOON, 1 << 20).await
    }

    pub fn psql(&self, login: PsqlLogin) -> PsqlCarrier {
        PsqlCarrier::new(self.client.clone(), self.target.clone(), login)
    }

    pub async fn session(&self, database: &str) -> Box<dyn Session> {
        self.psql(PsqlLogin::new("postgres", TAG)).connect(database, SOON).await.unwrap()
    }

    pub fn network(&self, port: u16) -> NetworkCarrier {
        let dial = portforward::dial(&self.client, &self.target.namespace, &self.target.pod, port);
        NetworkCarrier::new(dial, Tls::Disabled, "postgres", Some("by network"), TAG)
    }

    pub async fn end(self) {
        self.room.end().await;
    }
}

fn words(argv: &[&str]) -> Vec<String> {
    argv.iter().map(|&word| word.to_owned()).collect()
}

fn hex(context: Context) -> String {
    context.finish().as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Reads to the end: bytes and SHA-256 of the output, text of the error output, exit status.
async fn drain(output: &mut exec::Output) -> Result<(usize, String, String, i32), ExecError> {
    let (mut length, mut digest, mut stderr) = (0, Context::new(&SHA256), exec::Tail::new(4096));
    loop {
        match output.next().await? {
            Event::Stdout(bytes) => {
                length += bytes.len();
                digest.update(&bytes);
            }
            Event::Stderr(bytes) => stderr.push(&bytes),
            Event::Exit(code) => return Ok((length, hex(digest), stderr.text(), code)),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_megabytes_go_each_way_whole() {
    const LENGTH: usize = 200_000_000;
    let server = Server::start(Side::Old).await;
    let script = r#"head -c "$1" /dev/urandom >/tmp/out; sha256sum </tmp/out >&2; cat /tmp/out"#;
    let argv = words(&["sh", "-c", script, "sh", &LENGTH.to_string()]);
    let begin = Instant::now();
    let mut down = exec::start(&server.client, &server.target, &argv, false).await.unwrap();
    let (length, digest, stderr, code) = timeout(PATIENCE, drain(&mut down.output)).await.unwrap().unwrap();
    assert_eq!((length, code), (LENGTH, 0));
    assert_eq!(stderr.split_whitespace().next(), Some(digest.as_str()));
    println!("200 MB out of a pod in {:?}", begin.elapsed());

    let argv = words(&["sh", "-c", "tee /tmp/in | sha256sum; wc -c </tmp/in"]);
    let Process { stdin, mut output } = exec::start(&server.client, &server.target, &argv, true).await.unwrap();
    let mut stdin = stdin.unwrap();
    let begin = Instant::now();
    let up = async {
        let mut sent = Context::new(&SHA256);
        let mut left = LENGTH;
        let mut value = 1_u64;
        while left > 0 {
            // xorshift: bytes that no two places share by rule.
            let piece: Vec<u8> = (0..left.min(800_000))
                .map(|_| {
                    value ^= value << 13;
                    value ^= value >> 7;
                    value ^= value << 17;
                    value.to_le_bytes()[3]
                })
                .collect();
            left -= piece.len();
            sent.update(&piece);
            stdin.write(Bytes::from(piece)).await.unwrap();
        }
        stdin.close().await.unwrap();
        hex(sent)
    };
    let read = async {
        let mut text = String::new();
        loop {
            match output.next().await.unwrap() {
                Event::Stdout(bytes) => text.push_str(std::str::from_utf8(&bytes).unwrap()),
                Event::Stderr(bytes) => panic!("{}", String::from_utf8_lossy(&bytes)),
                Event::Exit(code) => return (text, code),
            }
        }
    };
    let (sent, (seen, code)) = timeout(PATIENCE, async { tokio::join!(up, read) }).await.unwrap();
    assert_eq!((seen, code), (format!("{sent}  -\n{LENGTH}\n"), 0));
    println!("200 MB into a pod in {:?}", begin.elapsed());

    // Both at once: what goes in comes out, while neither waits for the other to end.
    let Process { stdin, mut output } = exec::start(&server.client, &server.target, &words(&["cat"]), true).await.unwrap();
    let mut stdin = stdin.unwrap();
    let piece = (0..1_000_000_u32).map(|i| i.to_le_bytes()[1]).collect::<Bytes>();
    let feed = async {
        let mut sent = Context::new(&SHA256);
        for _ in 0..50 {
            sent.update(&piece);
            stdin.write(piece.clone()).await.unwrap();
        }
        stdin.close().await.unwrap();
        hex(sent)
    };
    let (sent, seen) = timeout(PATIENCE, async { tokio::join!(feed, drain(&mut output)) }).await.unwrap();
    assert_eq!(seen.unwrap(), (50_000_000, sent, String::new(), 0));
    server.end().await;
}

#[tokio::test]
async fn outcomes_and_refusals_are_told_apart() {
    let server = Server::start(Side::Old).await;
    let done = server.run(&["sh", "-c", "cat; echo \"$1\" >&2; exit 7", "sh", "a 'b' $c\n&d=%20"], b"in\0put").await.unwrap();
    assert_eq!((done.stdout.as_slice(), done.exit_code), (b"in\0put".as_slice(), 7));
    assert_eq!(String::from_utf8(done.stderr).unwrap().trim_end(), "a 'b' $c\n&d=%20");

    let error = server.run(&["no-such-program"], b"").await.unwrap_err();
    assert_eq!(error.kind, ExecErrorKind::Runtime, "{error}");
    assert!(error.message.contains("no-such-program"), "{error}");
    let elsewhere = |pod: &str, container: &str| Target { pod: pod.into(), container: container.into(), ..server.target.clone() };
    let run =
        async |client: &Client, target: &Target| exec::run(client, target, &words(&["true"]), b"", SOON, 100).await.unwrap_err();
    let error = run(&server.client, &elsewhere("absent", "postgres")).await;
    assert_eq!((error.kind, error.http_status), (ExecErrorKind::NotFound, Some(404)), "{error}");
    let error = run(&server.client, &elsewhere("pg", "absent")).await;
    assert_eq!((error.kind, error.http_status), (ExecErrorKind::Refused, Some(400)), "{error}");
    assert!(error.message.contains("absent"), "{error}");
    let nobody = clients::impersonated(&server.side.config().await, &server.target.namespace, "default").unwrap();
    let error = run(&nobody, &server.target).await;
    assert_eq!((error.kind, error.http_status), (ExecErrorKind::Forbidden, Some(403)), "{error}");
    assert!(error.message.contains("pods/exec"), "{error}");
    let error = portforward::open(&nobody, &server.target.namespace, "pg", 5432).await.err().unwrap();
    assert_eq!((error.kind, error.http_status), (ExecErrorKind::Forbidden, Some(403)), "{error}");
    server.end().await;
}

/// What happens to a wire.
#[derive(Clone, Copy)]
enum Fate {
    /// Open, and nothing moves any more.
    Silent,
    /// Cut on both sides.
    Cut,
}

/// A client whose connections go through here, until the token is cancelled.
async fn through_a_wire(side: Side, fate: Fate) -> (Client, CancellationToken) {
    let mut config = side.config().await;
    let server = format!("{}:{}", config.cluster_url.host().unwrap(), config.cluster_url.port_u16().unwrap());
    let wire = TcpListener::bind("127.0.0.1:0").await.unwrap();
    config.tls_server_name = Some(config.cluster_url.host().unwrap().into());
    config.cluster_url = format!("https://{}", wire.local_addr().unwrap()).parse().unwrap();
    let end = CancellationToken::new();
    let ended = end.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = wire.accept().await {
            let (server, ended) = (server.clone(), ended.clone());
            tokio::spawn(async move {
                let mut far = TcpStream::connect(server).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    () = ended.cancelled() => match fate {
                        Fate::Silent => std::future::pending().await,
                        Fate::Cut => near.set_zero_linger().unwrap(),
                    },
                }
            });
        }
    });
    (clients::own(&config).unwrap(), end)
}

/// Longer than a peer may leave pings unanswered.
const QUIET: Duration = Duration::from_secs(150);

#[tokio::test]
async fn quiet_is_not_death_and_silence_is() {
    let server = Server::start(Side::Old).await;
    let quiet = QUIET.as_secs().to_string();
    let start = async |script: &str, stdin| {
        let argv = words(&["sh", "-c", script, "sh", &quiet]);
        exec::start(&server.client, &server.target, &argv, stdin).await.unwrap()
    };
    let megabyte = Bytes::from(vec![b'x'; 1_000_000]);
    let end = async |process: &mut Process| drain(&mut process.output).await.map(|(length, _, _, code)| (length, code));

    let without_input = async { end(&mut start("sleep $1", false).await).await };
    let with_an_idle_input = async { end(&mut start("sleep $1", true).await).await };
    let input_that_waits = async {
        let mut process = start("sleep $1; wc -c >&2; echo", true).await;
        let mut stdin = process.stdin.take().unwrap();
        let feed = async {
            stdin.write(megabyte.clone()).await.unwrap();
            stdin.close().await.unwrap();
        };
        tokio::join!(feed, end(&mut process)).1
    };
    let input_that_was_read = async {
        let mut process = start("head -c 1000000 | wc -c; sleep $1", true).await;
        process.stdin.as_mut().unwrap().write(megabyte.clone()).await.unwrap();
        end(&mut process).await
    };
    let output_that_waits = async {
        let mut process = start("head -c 50000000 /dev/zero", false).await;
        tokio::time::sleep(QUIET).await;
        end(&mut process).await
    };
    let silence = async {
        let (client, silent) = through_a_wire(Side::Old, Fate::Silent).await;
        let argv = words(&["sh", "-c", "echo; sleep 3600"]);
        let mut process = exec::start(&client, &server.target, &argv, false).await.unwrap();
        assert_eq!(process.output.next().await.unwrap(), Event::Stdout("\n".into()));
        silent.cancel();
        timeout(QUIET, process.output.next()).await.expect("a dead connection must be noticed")
    };
    let ends = Box::pin(async {
        tokio::join!(without_input, with_an_idle_input, input_that_waits, input_that_was_read, output_that_waits, silence)
    });
    let ends = timeout(QUIET + PATIENCE, ends).await.unwrap();
    assert_eq!(ends.0.unwrap(), (0, 0));
    assert_eq!(ends.1.unwrap(), (0, 0));
    assert_eq!(ends.2.unwrap(), (1, 0));
    assert_eq!(ends.3.unwrap(), (8, 0));
    assert_eq!(ends.4.unwrap(), (50_000_000, 0));
    let error = ends.5.unwrap_err();
    assert_eq!(error.kind, ExecErrorKind::Cut);
    assert!(error.message.contains("pings"), "{error}");
    server.end().await;
}

#[tokio::test]
async fn a_wire_that_is_cut_is_noticed_at_once_by_streams_and_sessions() {
    let server = Server::start(Side::Old).await;
    let (client, cut) = through_a_wire(Side::Old, Fate::Cut).await;
    let carrier = PsqlCarrier::new(client.clone(), server.target.clone(), PsqlLogin::new("postgres", TAG));
    let forwarded = portforward::dial(&client, &server.target.namespace, &server.target.pod, 5432);
    let forwarded = NetworkCarrier::new(forwarded, Tls::Disabled, "postgres", Some("by network"), TAG);
    let mut sessions = [carrier.connect("postgres", SOON).await.unwrap(), forwarded.connect("postgres", SOON).await.unwrap()];
    let mut flood = exec::start(&client, &server.target, &words(&["cat", "/dev/zero"]), false).await.unwrap();
    let Process { stdin, output: _unread } =
        exec::start(&client, &server.target, &words(&["sleep", "3600"]), true).await.unwrap();
    let mut stdin = stdin.unwrap();

    let megabyte = Bytes::from(vec![0; 1 << 20]);
    let write = async {
        loop {
            if let Err(error) = stdin.write(megabyte.clone()).await {
                return error;
            }
        }
    };
    let [psql, network] = &mut sessions;
    let sleep = Question::new("sleep", "SELECT to_json(1) FROM pg_sleep(3600)");
    let ask = async { tokio::join!(psql.ask(&sleep, 2 * PATIENCE), network.ask(&sleep, 2 * PATIENCE)) };
    let cutting = async {
        // All of them are under way by then: the sessions seen by the server, the writer stuck.
        let mut admin = server.psql(PsqlLogin::new("postgres", "admin")).connect("postgres", SOON).await.unwrap();
        let asleep = Question::new("asleep", "SELECT to_json(count(*)) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
        while admin.ask(&asleep, SOON).await.unwrap() != json!(2) {}
        cut.cancel();
        Instant::now()
    };
    let all = Box::pin(async { tokio::join!(cutting, drain(&mut flood.output), write, ask) });
    let (cut_at, flooded, written, asked) = timeout(PATIENCE, all).await.expect("a cut must be noticed");
    assert!(cut_at.elapsed() < Duration::from_secs(15), "noticed only after {:?}", cut_at.elapsed());
    assert_eq!(flooded.unwrap_err().kind, ExecErrorKind::Cut);
    assert_eq!(written.kind, ExecErrorKind::Cut);
    assert_eq!(asked.0.unwrap_err().kind, SqlErrorKind::Connect);
    assert_eq!(asked.1.unwrap_err().kind, SqlErrorKind::Connect);
    server.end().await;
}

#[tokio::test]
async fn a_pod_that_goes_away_in_mid_stream_is_never_success() {
    let server = Server::start(Side::Old).await;
    let mut process = exec::start(&server.client, &server.target, &words(&["cat", "/dev/zero"]), false).await.unwrap();
    let mut length = 0;
    while length < 10_000_000 {
        if let Event::Stdout(bytes) = process.output.next().await.unwrap() {
            length += bytes.len();
        }
    }
    let pods: Api<Pod> = Api::namespaced(server.client.clone(), &server.target.namespace);
    pods.delete("pg", &DeleteParams::default().grace_period(0)).await.unwrap();
    match timeout(PATIENCE, drain(&mut process.output)).await.expect("must not hang") {
        Ok((.., code)) => assert_ne!(code, 0),
        Err(error) => assert!(matches!(error.kind, ExecErrorKind::Cut | ExecErrorKind::Runtime), "{error:?}"),
    }
    server.end().await;
}

#[tokio::test]
async fn psql_over_exec_and_the_protocol_over_port_forward_give_the_same_answers() {
    for side in [Side::Old, Side::New] {
        let server = Server::start(side).await;
        let mut admin = server.session("postgres").await;
        for name in
            ["with space 'n quote", "dou\"ble", "host=/nonesuch", "-l", "back\\slash\\", "line\nbreak", "Übung 数据 :HOST $1"]
        {
            admin.execute(&format!("CREATE DATABASE {}", quote_identifier(name)), SOON).await.unwrap();
            let mut psql = server.session(name).await;
            let mut network = server.network(5432).connect(name, SOON).await.unwrap();
            let create = format!("CREATE TABLE public.{} AS SELECT i FROM generate_series(1, 1000) i", quote_identifier(name));
            psql.execute(&create, SOON).await.unwrap();
            let sql = format!(
                "SELECT json_build_object('database', current_database(), 'rows', json_agg(i ORDER BY i), 'value', $1::text,\n \
                 'settings', (SELECT json_object_agg(name, setting) FROM pg_settings WHERE source = 'session'), \
                 'body', $q$ :'x' $1 \\q it's $q$, 'tag', current_setting('application_name')) FROM public.{} -- end;",
                quote_identifier(name)
            );
            let question = Question { name: "all", sql: sql.into(), parameters: vec![format!("{name}\\n:'x'\t\u{1f418}")] };
            let answers = [psql.ask(&question, SOON).await.unwrap(), network.ask(&question, SOON).await.unwrap()];
            assert_eq!(answers[0], answers[1]);
            assert_eq!((&answers[0]["database"], &answers[0]["tag"]), (&json!(name), &json!(TAG)));
            assert_eq!(answers[0]["rows"].as_array().unwrap().len(), 1000);
            for session in [&mut psql, &mut network] {
                let error = session.execute("DROP TABLE public.nonesuch", SOON).await.unwrap_err();
                assert_eq!((error.kind, error.sqlstate.as_deref()), (SqlErrorKind::Statement, Some("42P01")));
            }
            psql.close().await;
            network.close().await;
        }
        let large = Question::new("large", "SELECT to_json(repeat('x', 20000000))");
        let begin = Instant::now();
        assert_eq!(admin.ask(&large, SOON).await.unwrap().as_str().unwrap().len(), 20_000_000);
        println!("{side:?}: 20 MB through psql in {:?}", begin.elapsed());
        server.end().await;
    }
}

#[tokio::test]
async fn sessions_end_on_both_sides_and_say_why_there_is_none() {
    let server = Server::start(Side::New).await;
    let error = server.psql(PsqlLogin::new("postgres", TAG)).connect("nonesuch", SOON).await.err().unwrap();
    assert_eq!(error.kind, SqlErrorKind::Connect);
    assert!(error.message.contains("database \"nonesuch\" does not exist"), "{error}");
    let error = server.network(5432).connect("nonesuch", SOON).await.err().unwrap();
    assert!(error.is("3D000"), "{error}");
    let error = server.network(5433).connect("postgres", SOON).await.err().unwrap();
    assert_eq!(error.kind, SqlErrorKind::Connect);
    assert!(error.message.contains("refused"), "the kubelet's words: {error}");

    let mut admin = server.psql(PsqlLogin::new("postgres", "admin")).connect("postgres", SOON).await.unwrap();
    let count =
        Question::new("count", "SELECT to_json(count(*)) FROM pg_stat_activity WHERE application_name = $1::text").with(TAG);
    let closed = [server.session("postgres").await, server.network(5432).connect("postgres", SOON).await.unwrap()];
    assert_eq!(admin.ask(&count, SOON).await.unwrap(), json!(2));
    for session in closed {
        session.close().await;
    }
    // Dropped without a goodbye: psql reads the end of its input, the server that of its socket.
    drop([server.session("postgres").await, server.network(5432).connect("postgres", SOON).await.unwrap()]);
    let begin = Instant::now();
    while admin.ask(&count, SOON).await.unwrap() != json!(0) {
        assert!(begin.elapsed() < PATIENCE, "sessions are left over");
    }
    server.end().await;
}

#[tokio::test]
async fn a_password_goes_in_by_the_input() {
    let server = Server::start(Side::Old).await;
    let password = r#"p:a\ss 'w"ö$rd "#;
    let mut admin = server.session("postgres").await;
    admin.execute(&format!("CREATE ROLE app LOGIN PASSWORD {}", quote_literal(password)), SOON).await.unwrap();
    let rule = r#"sed -i '1i local all app scram-sha-256' "$PGDATA/pg_hba.conf" && rm -rf /tmp/*"#;
    assert_eq!(server.run(&["sh", "-c", rule], b"").await.unwrap().exit_code, 0);
    admin.execute("SELECT pg_reload_conf()", SOON).await.unwrap();
    let login = |password: Option<&str>| PsqlLogin { password: password.map(str::to_owned), ..PsqlLogin::new("app", TAG) };

    // The reload takes a moment to reach new sessions.
    eventually("the rule", || async {
        let error = server.psql(login(None)).connect("postgres", SOON).await.err().ok_or("let in without a password")?;
        if error.message.contains("no password supplied") { Ok(()) } else { Err("another error") }
    })
    .await;
    let mut session = server.psql(login(Some(password))).connect("postgres", SOON).await.unwrap();
    assert_eq!(session.ask(&Question::new("who", "SELECT to_json(current_user)"), SOON).await.unwrap(), json!("app"));
    let left = server
        .run(&["sh", "-c", "ls -A /tmp; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'"], b"")
        .await
        .unwrap();
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    assert!(left.contains("PGPASSFILE") && !left.contains("p:a") && !left.contains("p\\:a"), "{left}");
    assert!(!left.lines().any(|line| line.starts_with(".pgmigration")), "{left}");
    let error = server.psql(login(Some("other"))).connect("postgres", SOON).await.err().unwrap();
    assert!(error.message.contains("password authentication failed"), "{error}");
    drop(session);
    server.end().await;
}
