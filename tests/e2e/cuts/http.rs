//! A proxy before the S3 server without TLS that reads requests and answers, and lies in them. Every connection carries one
//! request: the server is asked to close it.

use std::io;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::dice::Dice;

/// What is done to requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Trouble {
    /// So many of a hundred requests get 503 SlowDown, chosen by this seed.
    Busy(u64, u64),
    /// The answer to this request says that its body is this much longer or shorter.
    WrongLength(usize, i64),
    /// The answer to this request ends after so many thousandths of its body.
    Truncated(usize, u64),
    /// One byte, so many thousandths into the body of the answer to this request, is another one.
    Changed(usize, u64),
    /// A request that completes an upload is answered with 200 and an error in the body; the server never sees it (0) or obeys
    /// it (1). So many of them.
    ErrorIn200(u64, u32),
    /// The first upload is begun, and nobody hears of it.
    LostBegin,
}

struct State {
    trouble: Option<Trouble>,
    requests: usize,
    struck: usize,
    /// Bytes of the bodies of answers, by request.
    answers: Vec<u64>,
    dice: Dice,
}

/// The running proxy. It ends with the runtime.
pub struct Http {
    /// URL to use as endpoint.
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Http {
    /// Starts a proxy before `port` of this machine.
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = State { trouble: None, requests: 0, struck: 0, answers: Vec::new(), dice: Dice::new(0) };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    let _ = serve(client, port, &state).await;
                });
            }
        });
        Self { endpoint, state }
    }

    /// Counts requests anew from 0 and makes this trouble.
    pub fn arm(&self, trouble: Option<Trouble>) {
        let dice = Dice::new(if let Some(Trouble::Busy(_, seed)) = trouble { seed } else { 0 });
        *self.state.lock().unwrap() = State { trouble, requests: 0, struck: 0, answers: Vec::new(), dice };
    }

    /// Makes no trouble from now on.
    pub fn disarm(&self) {
        self.state.lock().unwrap().trouble = None;
    }

    /// Whether anything was done to a request since the proxy was armed.
    pub fn struck(&self) -> bool {
        self.state.lock().unwrap().struck > 0
    }

    /// Length of the bodies of the answers since the proxy was armed, by request.
    pub fn answers(&self) -> Vec<u64> {
        self.state.lock().unwrap().answers.clone()
    }
}

/// What is done to this one request.
enum Deed {
    Nothing,
    Busy,
    Lie(Trouble),
    /// An error in the answer; whether the server is asked at all.
    Error200(bool),
    /// The server does it; the answer is lost.
    Lose,
}

async fn serve(mut client: TcpStream, port: u16, state: &Mutex<State>) -> io::Result<()> {
    let mut head = Vec::new();
    let end = loop {
        if let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    };
    let text = String::from_utf8_lossy(&head[..end]).into_owned();
    let (number, deed) = decide(&mut state.lock().unwrap(), &text);
    match deed {
        Deed::Busy => return refuse(&mut client, "503 Slow Down", "SlowDown").await,
        Deed::Error200(false) => return refuse(&mut client, "200 OK", "InternalError").await,
        Deed::Nothing | Deed::Lie(_) | Deed::Error200(true) | Deed::Lose => {}
    }
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    server.write_all(format!("{text}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    server.write_all(&head[end + 4..]).await?;
    let mut answer = Vec::new();
    {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let ask = async {
            tokio::io::copy(&mut from_client, &mut to_server).await?;
            std::future::pending::<io::Result<()>>().await
        };
        let hear = async {
            while from_server.read_buf(&mut answer).await? > 0 {
                if answer.starts_with(b"HTTP/1.1 100") && answer.ends_with(b"\r\n\r\n") {
                    to_client.write_all(&answer).await?;
                    answer.clear();
                }
            }
            Ok(())
        };
        tokio::select! {
            gone = ask => gone?,
            heard = hear => { let _: io::Result<()> = heard; }
        }
    }
    let Some(split) = answer.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4) else { return Ok(()) };
    let length = (answer.len() - split) as u64;
    {
        let mut state = state.lock().unwrap();
        if state.answers.len() <= number {
            state.answers.resize(number + 1, 0);
        }
        state.answers[number] = length;
    }
    match deed {
        Deed::Error200(_) => return refuse(&mut client, "200 OK", "InternalError").await,
        Deed::Lose => return Ok(()),
        Deed::Lie(trouble) if lie(trouble, &mut answer, split) => state.lock().unwrap().struck += 1,
        Deed::Nothing | Deed::Busy | Deed::Lie(_) => {}
    }
    client.write_all(&answer).await?;
    client.shutdown().await
}

fn decide(state: &mut State, head: &str) -> (usize, Deed) {
    let number = state.requests;
    state.requests += 1;
    let deed = match state.trouble {
        None => Deed::Nothing,
        Some(Trouble::Busy(percent, _)) if state.dice.below(100) < usize::try_from(percent).unwrap() => Deed::Busy,
        Some(Trouble::Busy(..)) => Deed::Nothing,
        Some(Trouble::ErrorIn200(obeyed, times)) => {
            let completes = head.starts_with("POST ") && head.lines().next().is_some_and(|line| line.contains("uploadId="));
            if !completes {
                return (number, Deed::Nothing);
            }
            state.trouble = (times > 1).then_some(Trouble::ErrorIn200(obeyed, times - 1));
            Deed::Error200(obeyed == 1)
        }
        Some(Trouble::LostBegin) => {
            let begins = head.starts_with("POST ") && head.lines().next().is_some_and(|line| line.contains("?uploads"));
            if !begins {
                return (number, Deed::Nothing);
            }
            state.trouble = None;
            Deed::Lose
        }
        Some(trouble @ (Trouble::WrongLength(at, _) | Trouble::Truncated(at, _) | Trouble::Changed(at, _))) if at == number => {
            return (number, Deed::Lie(trouble));
        }
        Some(Trouble::WrongLength(..) | Trouble::Truncated(..) | Trouble::Changed(..)) => Deed::Nothing,
    };
    if !matches!(deed, Deed::Nothing) {
        state.struck += 1;
    }
    (number, deed)
}

async fn refuse(client: &mut TcpStream, status: &str, code: &str) -> io::Result<()> {
    let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>later</Message></Error>");
    let answer = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await?;
    // What the client still sends is read, or it might see a reset before the answer.
    let mut rest = vec![0; 64 << 10];
    while client.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Changes an answer whose body begins at `split`; whether there was anything to change.
fn lie(trouble: Trouble, answer: &mut Vec<u8>, split: usize) -> bool {
    let length = answer.len() - split;
    let part = |thousandths: u64| usize::try_from(length as u64 * thousandths / 1000).unwrap();
    match trouble {
        Trouble::Changed(_, place) if length > 0 => {
            answer[split + part(place).min(length - 1)] ^= 1;
            true
        }
        Trouble::Truncated(_, place) if length > 0 => {
            answer.truncate(split + part(place).min(length - 1));
            true
        }
        Trouble::WrongLength(_, by) => {
            let head = String::from_utf8_lossy(&answer[..split]).into_owned();
            let said = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse::<i64>().ok())
                    .flatten()
                    .map(|n| (line, name, n))
            });
            let Some((line, name, said)) = said else { return false };
            let changed = head.replace(line, &format!("{name}: {}", (said + by).max(0)));
            answer.splice(..split, changed.into_bytes());
            true
        }
        Trouble::Changed(..) | Trouble::Truncated(..) | Trouble::Busy(..) | Trouble::ErrorIn200(..) | Trouble::LostBegin => false,
    }
}
