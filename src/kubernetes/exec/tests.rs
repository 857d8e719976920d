//! The protocol against a peer in this process, which does what real chains do on bad days.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::peer::{self, answer, exit, receive, reset, send, serve, target};
use super::process::{Event, Input, Process, Timing};
use super::{ExecErrorKind, Tail, run, start, start_with};

const V5: &str = "v5.channel.k8s.io";
/// Nothing here takes that long; what does hangs.
const SOON: Duration = Duration::from_secs(10);
const QUICK: Timing = Timing {
    ping_every: Duration::from_millis(20),
    ping_after_input: Duration::from_millis(5),
    drain: Duration::from_millis(200),
};

fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

async fn next(process: &mut Process) -> Result<Event, super::ExecError> {
    timeout(SOON, process.output.next()).await.expect("next() must not hang")
}

#[tokio::test]
async fn output_error_output_and_exit_come_in_order_and_argv_travels_whole() {
    let (client, server) = serve(V5, |mut socket, path| async move {
        for channel in 1..=3 {
            send(&mut socket, channel, b"").await;
        }
        send(&mut socket, 1, b"out").await;
        send(&mut socket, 2, b"err").await;
        exit(&mut socket, 3).await;
        peer::close(socket).await;
        path
    })
    .await;
    let mut process = start(&client, &target(), &argv(&["echo", "a b&c=%\n'ü"]), false).await.unwrap();
    assert!(process.stdin.is_none());
    assert_eq!(next(&mut process).await.unwrap(), Event::Stdout("out".into()));
    assert_eq!(next(&mut process).await.unwrap(), Event::Stderr("err".into()));
    assert_eq!(next(&mut process).await.unwrap(), Event::Exit(3));
    assert_eq!(next(&mut process).await.unwrap_err().kind, ExecErrorKind::Protocol);
    assert_eq!(
        server.await.unwrap(),
        "/api/v1/namespaces/onyx/pods/pg%2D0/exec?container=postgres&stdin=false&stdout=true&stderr=true&tty=false\
         &command=echo&command=a%20b%26c%3D%25%0A%27%C3%BC"
    );
}

#[tokio::test]
async fn a_status_before_the_last_output_loses_nothing() {
    let (client, _server) = serve(V5, |mut socket, _| async move {
        exit(&mut socket, 0).await;
        send(&mut socket, 1, b"late").await;
        peer::close(socket).await;
    })
    .await;
    let done = run(&client, &target(), &argv(&["x"]), b"", SOON, 100).await.unwrap();
    assert_eq!((done.stdout.as_slice(), done.exit_code), (b"late".as_slice(), 0));
}

#[tokio::test]
async fn after_a_status_a_peer_that_never_closes_does_not_hold_us() {
    let (client, _server) = serve(V5, |mut socket, _| async move {
        exit(&mut socket, 0).await;
        std::future::pending::<()>().await;
    })
    .await;
    let mut process = start_with(&client, &target(), &argv(&["x"]), Input::None, QUICK).await.unwrap();
    assert_eq!(next(&mut process).await.unwrap(), Event::Exit(0));
}

#[tokio::test]
async fn a_close_without_a_status_is_a_cut() {
    let (client, _server) = serve(V5, |mut socket, _| async move {
        send(&mut socket, 1, b"part").await;
        peer::close(socket).await;
    })
    .await;
    let error = run(&client, &target(), &argv(&["x"]), b"", SOON, 100).await.unwrap_err();
    assert_eq!(error.kind, ExecErrorKind::Cut);
    assert!(error.message.contains("no exit status"), "{error}");
}

#[tokio::test]
async fn a_reset_is_an_error_at_once_for_reader_and_writer() {
    let (client, _server) = serve(V5, |mut socket, _| async move {
        send(&mut socket, 1, b"part").await;
        // The writer below is stuck by now: nobody reads its input.
        receive(&mut socket).await.unwrap();
        reset(socket);
    })
    .await;
    let Process { stdin, mut output } = start(&client, &target(), &argv(&["x"]), true).await.unwrap();
    let mut stdin = stdin.unwrap();
    let write = async {
        loop {
            if let Err(error) = stdin.write(Bytes::from(vec![7; 1 << 20])).await {
                return error;
            }
        }
    };
    let read = async {
        assert_eq!(output.next().await.unwrap(), Event::Stdout("part".into()));
        output.next().await.unwrap_err()
    };
    let (written, read) = timeout(SOON, async { tokio::join!(write, read) }).await.expect("a reset must not hang");
    assert_eq!(written.kind, ExecErrorKind::Cut);
    assert_eq!(read.kind, ExecErrorKind::Cut);
    assert!(read.message.contains("broke"), "{read}");
}

#[tokio::test]
async fn an_unknown_program_is_not_an_exit_code() {
    let (client, _server) = serve(V5, |mut socket, _| async move {
        let status = br#"{"status":"Failure","message":"exec: \"pg_dmp\": executable file not found in $PATH","reason":"InternalError","code":500}"#;
        send(&mut socket, 3, status).await;
        peer::close(socket).await;
    })
    .await;
    let error = run(&client, &target(), &argv(&["pg_dmp"]), b"", SOON, 100).await.unwrap_err();
    assert_eq!(error.kind, ExecErrorKind::Runtime);
    assert!(error.message.contains("not found in $PATH"));
}

#[tokio::test]
async fn a_failure_without_a_readable_code_is_never_success() {
    for status in [
        r#"{"status":"Failure","reason":"NonZeroExitCode"}"#,
        r#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"0"}]}}"#,
        "{",
    ] {
        let (client, _server) = serve(V5, move |mut socket, _| async move {
            send(&mut socket, 3, status.as_bytes()).await;
            let _ = socket.close(None).await;
        })
        .await;
        let error = run(&client, &target(), &argv(&["x"]), b"", SOON, 100).await.unwrap_err();
        assert_eq!(error.kind, ExecErrorKind::Protocol, "{status}");
    }
}

#[tokio::test]
async fn refusals_are_told_apart_and_readable() {
    let refusal = |code: &str, content: &str, body: &str| {
        format!("HTTP/1.1 {code}\r\ncontent-type: {content}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    };
    let json = |code: u16, message: &str| {
        format!(
            r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":{message:?},"reason":"R","code":{code}}}"#
        )
    };
    let long_page = format!("<html>{}</html>", "x".repeat(5000));
    let cases = [
        (
            refusal("403 Forbidden", "application/json", &json(403, "pods \"pg-0\" is forbidden: ")),
            ExecErrorKind::Forbidden,
            Some(403),
            "verbs get and create",
        ),
        (
            refusal("401 Unauthorized", "application/json", &json(401, "Unauthorized")),
            ExecErrorKind::Unauthorized,
            Some(401),
            "not authenticated",
        ),
        (
            refusal("404 Not Found", "application/json", &json(404, "pods \"pg-0\" not found")),
            ExecErrorKind::NotFound,
            Some(404),
            "pods \"pg-0\" not found",
        ),
        (
            refusal("400 Bad Request", "application/json", &json(400, "container x is not valid for pod pg-0")),
            ExecErrorKind::Refused,
            Some(400),
            "container x is not valid",
        ),
        (refusal("502 Bad Gateway", "text/html", &long_page), ExecErrorKind::Refused, Some(502), "<html>xxx"),
        (refusal("200 OK", "text/plain", "hello"), ExecErrorKind::Protocol, None, "200"),
        ("nonsense\r\n\r\n".to_owned(), ExecErrorKind::Connect, None, ""),
    ];
    for (response, kind, http_status, words) in cases {
        let client = answer(response.clone()).await;
        let error = start(&client, &target(), &argv(&["x"]), false).await.unwrap_err();
        assert_eq!((error.kind, error.http_status), (kind, http_status), "{response}: {error}");
        assert!(error.message.contains(words), "{error}");
        assert!(error.message.len() < 1200, "{}", error.message.len());
    }
}

#[tokio::test]
async fn nobody_listening_is_a_connect_error() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut config = kube::Config::new(format!("http://{address}").parse().unwrap());
    config.default_retry = false;
    let client = kube::Client::try_from(config).unwrap();
    let error = timeout(SOON, start(&client, &target(), &argv(&["x"]), false)).await.unwrap().unwrap_err();
    assert_eq!(error.kind, ExecErrorKind::Connect);
    assert!(error.message.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_server_without_half_close_is_refused() {
    let (client, _server) = serve("v4.channel.k8s.io", |socket, _| async move {
        peer::close(socket).await;
    })
    .await;
    let error = start(&client, &target(), &argv(&["x"]), true).await.unwrap_err();
    assert_eq!(error.kind, ExecErrorKind::Protocol);
    assert!(error.message.contains("v4"), "{error}");
}

#[tokio::test]
async fn closing_the_input_half_closes_and_the_output_goes_on() {
    let (client, _server) = serve(V5, |mut socket, _| async move {
        let (mut length, mut largest) = (0, 0);
        loop {
            let frame = receive(&mut socket).await.expect("input must end in order");
            if frame[..] == [255, 0] {
                break;
            }
            assert_eq!(frame[0], 0);
            length += frame.len() - 1;
            largest = largest.max(frame.len());
        }
        send(&mut socket, 1, format!("{length} {largest}").as_bytes()).await;
        exit(&mut socket, 0).await;
        peer::close(socket).await;
    })
    .await;
    let input = vec![5; 5_000_000];
    let done = run(&client, &target(), &argv(&["wc"]), &input, SOON, 100).await.unwrap();
    assert_eq!(String::from_utf8(done.stdout).unwrap(), format!("5000000 {}", 1 << 20));
    assert_eq!(done.exit_code, 0);
}

#[tokio::test]
async fn an_input_dropped_before_its_end_cuts_the_process_off() {
    let (client, server) = serve(V5, |mut socket, _| async move {
        let mut frames = Vec::new();
        while let Some(frame) = receive(&mut socket).await {
            frames.push(frame);
        }
        frames
    })
    .await;
    let mut process = start(&client, &target(), &argv(&["cat"]), true).await.unwrap();
    process.stdin.as_mut().unwrap().write("half".into()).await.unwrap();
    process.stdin = None;
    let error = next(&mut process).await.unwrap_err();
    assert_eq!(error.kind, ExecErrorKind::Cut);
    assert!(error.message.contains("given up"), "{error}");
    // No end of input among the frames: the process must not take a half for the whole.
    assert_eq!(server.await.unwrap(), [Bytes::from_static(b"\0half")]);
}

#[tokio::test]
async fn a_process_that_ends_without_reading_does_not_hold_its_writer() {
    let (client, _server) = serve(V5, |mut socket, _| async move {
        exit(&mut socket, 1).await;
        // It never reads, and keeps the connection for as long as the test runs.
        std::future::pending::<()>().await;
    })
    .await;
    let Process { stdin, mut output } = start_with(&client, &target(), &argv(&["false"]), Input::Stream, QUICK).await.unwrap();
    let mut stdin = stdin.unwrap();
    let write = async { while stdin.write(Bytes::from(vec![0; 1 << 20])).await.is_ok() {} };
    let ((), end) = timeout(SOON, async { tokio::join!(write, output.next()) }).await.expect("must not hang");
    assert_eq!(end.unwrap(), Event::Exit(1));
}

#[tokio::test]
async fn output_that_nobody_reads_stands_still_in_bounded_memory_and_holds_up_no_input() {
    let (input_done, input_seen) = oneshot::channel();
    let (client, server) = serve(V5, |socket, _| async move {
        let (mut sink, mut stream) = socket.split();
        let flood = async {
            let mut sent = 0_usize;
            let frame = Message::Binary(vec![1; 32 << 10].into());
            while timeout(Duration::from_millis(500), sink.send(frame.clone())).await.is_ok_and(|sent| sent.is_ok()) {
                sent += 32 << 10;
            }
            sent
        };
        let input = async {
            let mut length = 0;
            while length < 20 << 20 {
                if let Message::Binary(frame) = stream.next().await.unwrap().unwrap() {
                    length += frame.len() - 1;
                }
            }
            input_done.send(()).unwrap();
        };
        let (sent, ()) = tokio::join!(flood, input);
        // The client is dropped now; that must be noticed here.
        while let Some(Ok(_)) = stream.next().await {}
        sent
    })
    .await;
    let mut process = start(&client, &target(), &argv(&["cat"]), true).await.unwrap();
    timeout(SOON, process.stdin.as_mut().unwrap().write(Bytes::from(vec![0; 20 << 20]))).await.unwrap().unwrap();
    timeout(SOON, input_seen).await.unwrap().unwrap();
    drop(process);
    let unread = timeout(SOON, server).await.expect("the drop must end the connection").unwrap();
    assert!(unread < 64 << 20, "{unread} bytes were taken without being read");
}

#[tokio::test]
async fn a_huge_error_output_keeps_its_tail_and_too_much_output_is_an_error() {
    let script = |channel: u8| {
        move |mut socket: peer::Socket, _| async move {
            for _ in 0..1000 {
                send(&mut socket, channel, &vec![b'.'; 32 << 10]).await;
            }
            send(&mut socket, channel, b"the last words\n").await;
            exit(&mut socket, 1).await;
            peer::close(socket).await;
        }
    };
    let (client, _server) = serve(V5, script(2)).await;
    let done = run(&client, &target(), &argv(&["x"]), b"", SOON, 4096).await.unwrap();
    assert_eq!((done.stderr.len(), done.exit_code), (4096, 1));
    assert!(done.stderr.ends_with(b"..the last words\n"));

    let (client, _server) = serve(V5, |mut socket, _| async move {
        send(&mut socket, 1, &[b'.'; 5000]).await;
        while receive(&mut socket).await.is_some() {}
    })
    .await;
    let error = run(&client, &target(), &argv(&["x"]), b"", SOON, 4096).await.unwrap_err();
    assert_eq!(error.kind, ExecErrorKind::Protocol);
}

#[tokio::test]
async fn a_short_command_keeps_its_deadline() {
    let (client, _server) = serve(V5, |mut socket, _| async move { while receive(&mut socket).await.is_some() {} }).await;
    let deadline = Duration::from_millis(50);
    let error = timeout(SOON, run(&client, &target(), &argv(&["sleep"]), b"x", deadline, 10)).await.unwrap().unwrap_err();
    assert_eq!(error.kind, ExecErrorKind::Deadline);
}

#[tokio::test]
async fn an_idle_connection_is_kept_alive_even_while_nobody_reads() {
    let (pinged, pings) = oneshot::channel();
    let (client, _server) = serve(V5, |mut socket, _| async move {
        let mut seen = 0;
        while seen < 10 {
            if let Message::Ping(_) = socket.next().await.unwrap().unwrap() {
                seen += 1;
            }
        }
        pinged.send(()).unwrap();
        exit(&mut socket, 0).await;
        peer::close(socket).await;
    })
    .await;
    let mut process = start_with(&client, &target(), &argv(&["sleep"]), Input::Stream, QUICK).await.unwrap();
    timeout(SOON, pings).await.expect("pings must come without reads").unwrap();
    assert_eq!(next(&mut process).await.unwrap(), Event::Exit(0));
}

#[tokio::test]
async fn a_peer_that_answers_no_pings_is_gone() {
    let (client, _server) = serve(V5, |socket, _| async move {
        // Holds the connection and reads nothing: no pong, no reset.
        let _held = socket;
        std::future::pending::<()>().await;
    })
    .await;
    let mut process = start_with(&client, &target(), &argv(&["x"]), Input::None, QUICK).await.unwrap();
    let error = next(&mut process).await.unwrap_err();
    assert_eq!(error.kind, ExecErrorKind::Cut);
    assert!(error.message.contains("pings"), "{error}");
}

#[tokio::test]
async fn a_peer_that_answered_pings_after_the_input_and_then_stops_is_gone() {
    let (client, _server) = serve(V5, |mut socket, _| async move {
        assert_eq!(receive(&mut socket).await.unwrap()[..], *b"\0select 1;");
        // This reads the ping behind the input and answers it.
        while !matches!(socket.next().await.unwrap().unwrap(), Message::Ping(_)) {}
        socket.flush().await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let mut process = start_with(&client, &target(), &argv(&["psql"]), Input::Stream, QUICK).await.unwrap();
    process.stdin.as_mut().unwrap().write("select 1;".into()).await.unwrap();
    let error = next(&mut process).await.unwrap_err();
    assert!(error.message.contains("pings"), "{error}");
}

#[tokio::test]
async fn a_process_that_does_not_read_its_input_is_not_mistaken_for_a_dead_peer() {
    let (stall, stalled) = oneshot::channel::<()>();
    let (client, _server) = serve(V5, |mut socket, _| async move {
        // As API servers do: while input waits for the process, nothing behind it is read, pings neither.
        stalled.await.unwrap();
        while receive(&mut socket).await.unwrap()[..] != [255, 0] {}
        exit(&mut socket, 0).await;
        peer::close(socket).await;
    })
    .await;
    let mut process = start_with(&client, &target(), &argv(&["pg_restore"]), Input::Stream, QUICK).await.unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write("archive".into()).await.unwrap();
    stdin.close().await.unwrap();
    // Far longer than a peer without input would be given.
    let early = timeout(QUICK.ping_every * 20, process.output.next()).await;
    assert!(early.is_err(), "{early:?}");
    stall.send(()).unwrap();
    assert_eq!(next(&mut process).await.unwrap(), Event::Exit(0));
}

#[tokio::test]
async fn a_hole_that_swallows_a_question_is_noticed() {
    let (client, _server) = serve(V5, |socket, _| async move {
        // Takes neither the question nor the pings behind it.
        let _held = socket;
        std::future::pending::<()>().await;
    })
    .await;
    let mut process = start_with(&client, &target(), &argv(&["psql"]), Input::Prompt, QUICK).await.unwrap();
    process.stdin.as_mut().unwrap().write("select 1;".into()).await.unwrap();
    let error = next(&mut process).await.unwrap_err();
    assert_eq!(error.kind, ExecErrorKind::Cut);
    assert!(error.message.contains("pings"), "{error}");
}

#[test]
fn a_tail_holds_the_last_bytes() {
    let mut tail = Tail::new(4);
    for word in ["a", "bcdefgh", "ij", "", "k"] {
        tail.push(word.as_bytes());
    }
    assert_eq!(tail.text(), "hijk");
    assert_eq!(tail.into_bytes(), b"hijk");
}

#[test]
fn a_tail_of_single_bytes_takes_no_more_than_twice_its_size() {
    let mut tail = Tail::new(4);
    let longest = (0..100).map(|n: u8| {
        tail.push(&[n]);
        tail.bytes.len()
    });
    assert_eq!(longest.max(), Some(8));
    assert_eq!(tail.into_bytes(), [96, 97, 98, 99]);
}
