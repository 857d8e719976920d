//! An API server for tests: one TCP listener that answers exec as each test says, and a client that speaks to it.

use std::future::Future;

use futures::{SinkExt, StreamExt};
use kube::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::Target;

pub type Socket = WebSocketStream<TcpStream>;

pub fn target() -> Target {
    Target { namespace: "onyx".into(), pod: "pg-0".into(), container: "postgres".into() }
}

/// Serves one connection: upgrades it to `protocol` and runs `script`. Its result comes out of the handle.
pub async fn serve<F, T>(
    protocol: &'static str,
    script: impl FnOnce(Socket, String) -> F + Send + 'static,
) -> (Client, JoinHandle<T>)
where
    F: Future<Output = T> + Send,
    T: Send + 'static,
{
    let (client, listener) = listen().await;
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut path = String::new();
        #[expect(clippy::result_large_err, reason = "the signature is the library's")]
        let answer = |request: &Request, mut response: Response| {
            path = request.uri().to_string();
            response.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, answer).await.unwrap();
        script(socket, path).await
    });
    (client, task)
}

/// Serves one connection: answers the request with `response`, as it is.
pub async fn answer(response: String) -> Client {
    let (client, listener) = listen().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut request).await.unwrap() > 0);
        }
        stream.write_all(response.as_bytes()).await.unwrap();
    });
    client
}

async fn listen() -> (Client, TcpListener) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut config = kube::Config::new(format!("http://{address}").parse().unwrap());
    config.write_timeout = None;
    config.default_retry = false;
    (Client::try_from(config).unwrap(), listener)
}

pub async fn send(socket: &mut Socket, channel: u8, data: &[u8]) {
    let mut frame = vec![channel];
    frame.extend_from_slice(data);
    socket.send(Message::Binary(frame.into())).await.unwrap();
}

pub async fn exit(socket: &mut Socket, code: i32) {
    let status = if code == 0 {
        r#"{"metadata":{},"status":"Success"}"#.to_owned()
    } else {
        format!(
            r#"{{"metadata":{{}},"status":"Failure","message":"command terminated with non-zero exit code","reason":"NonZeroExitCode","details":{{"causes":[{{"reason":"ExitCode","message":"{code}"}}]}}}}"#
        )
    };
    send(socket, 3, status.as_bytes()).await;
}

/// Ends the connection as servers do: close frame, then the peer's, then the end of the stream.
pub async fn close(mut socket: Socket) {
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
}

/// Ends the connection with a TCP reset.
pub fn reset(socket: Socket) {
    socket.get_ref().set_zero_linger().unwrap();
    drop(socket);
}

/// The next frame of data; answers pings on the way.
pub async fn receive(socket: &mut Socket) -> Option<Bytes> {
    loop {
        match socket.next().await? {
            Ok(Message::Binary(frame)) => return Some(frame),
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            Ok(_) | Err(_) => return None,
        }
    }
}
