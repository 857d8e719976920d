//! A plain HTTP proxy before the server without TLS. It reads the head of each request and does to it what the next
//! matching fault says.

use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It takes effect at the server; the client sees a closed connection instead of the answer.
    LoseAnswer,
    /// The answer ends after so many bytes.
    CutAnswer(usize),
    /// The server is never asked; the client gets 503 SlowDown.
    SlowDown,
    /// The request ends after so many bytes; the server never gets the rest.
    CutRequest(usize),
}

struct Rule {
    method: &'static str,
    part_of_head: String,
    fault: Fault,
}

/// The running proxy.
pub struct Proxy {
    /// URL to use as endpoint.
    pub endpoint: String,
    rules: Arc<Mutex<Vec<Rule>>>,
    struck: Arc<Mutex<usize>>,
}

impl Proxy {
    /// Starts a proxy before `port` of this machine.
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let rules = Arc::new(Mutex::new(Vec::new()));
        let struck = Arc::new(Mutex::new(0));
        let (its_rules, its_struck) = (rules.clone(), struck.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (rules, struck) = (its_rules.clone(), its_struck.clone());
                tokio::spawn(async move {
                    let _ = serve(client, port, &rules, &struck).await;
                });
            }
        });
        Self { endpoint, rules, struck }
    }

    /// The next request with this method whose head holds this text gets this fault, once.
    pub fn next(&self, method: &'static str, part_of_head: &str, fault: Fault) {
        self.rules.lock().unwrap().push(Rule { method, part_of_head: part_of_head.into(), fault });
    }

    /// Faults that have struck.
    pub fn struck(&self) -> usize {
        *self.struck.lock().unwrap()
    }
}

async fn serve(mut client: TcpStream, port: u16, rules: &Mutex<Vec<Rule>>, struck: &Mutex<usize>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let fault = {
        let mut rules = rules.lock().unwrap();
        let found = rules.iter().position(|r| text.starts_with(r.method) && text.contains(&r.part_of_head));
        found.map(|at| rules.remove(at).fault)
    };
    if fault.is_some() {
        *struck.lock().unwrap() += 1;
    }
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    match fault {
        None => {
            server.write_all(&head).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        }
        Some(Fault::SlowDown) => {
            let body = "<Error><Code>SlowDown</Code><Message>later</Message></Error>";
            let answer = format!("HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            client.write_all(answer.as_bytes()).await?;
        }
        Some(Fault::CutRequest(bytes)) => server.write_all(&head[..bytes.min(head.len())]).await?,
        Some(Fault::LoseAnswer) => {
            server.write_all(&head).await?;
            let (mut from_client, _to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            let mut answer = Vec::new();
            tokio::select! {
                _ = async { tokio::io::copy(&mut from_client, &mut to_server).await?; std::future::pending::<std::io::Result<()>>().await } => {}
                read = from_server.read_to_end(&mut answer) => { read?; }
            }
        }
        Some(Fault::CutAnswer(bytes)) => {
            server.write_all(&head).await?;
            let mut answer = server.take(bytes as u64);
            tokio::io::copy(&mut answer, &mut client).await?;
        }
    }
    Ok(())
}
