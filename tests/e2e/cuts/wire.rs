//! A TCP proxy that does to one connection, at one byte, what bad networks do. It knows no protocol: TLS passes as it is, and is
//! checked at both ends as always.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes of one piece, and between two pieces of a slow tail: some 200 kB/s.
const PIECE: usize = 16 << 10;
const BETWEEN: Duration = Duration::from_millis(80);

/// A direction, seen from the mover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Way {
    /// From the mover to the server.
    Up,
    /// From the server to the mover.
    Down,
}

/// What happens to a connection from one byte on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fault {
    /// Both ends get a reset.
    Reset,
    /// The receiver of this direction sees its end; the sender goes on into nothing. The other direction stays whole.
    HalfClose,
    /// Everything in both directions vanishes; the connection stays open.
    Blackhole,
    /// Everything in this direction vanishes; the connection stays open.
    OneWayHole,
    /// Nobody reads any more, in either direction; the connection stays open.
    Stall,
    /// The rest of this direction comes slowly.
    Slow,
    /// Not this connection but the next one, and all after it, lead to a server with the certificate of another authority.
    Certificate,
}

impl Fault {
    /// Whether the mover can learn of it only by waiting in vain.
    pub fn is_silent(self) -> bool {
        matches!(self, Self::Blackhole | Self::OneWayHole | Self::Stall)
    }
}

/// A fault and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Strike {
    /// Which connection, in the order of their begin since the proxy was armed.
    pub connection: usize,
    /// In which direction bytes are counted.
    pub way: Way,
    /// So many bytes pass first.
    pub at: u64,
    /// What happens then.
    pub fault: Fault,
}

/// Bytes that passed a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// To the server.
    pub up: u64,
    /// To the mover.
    pub down: u64,
}

#[derive(Default)]
struct Counters {
    up: AtomicU64,
    down: AtomicU64,
}

struct Inner {
    server: String,
    other: Option<String>,
    strike: Mutex<Option<Strike>>,
    struck: AtomicUsize,
    connections: Mutex<Vec<Arc<Counters>>>,
    /// Grows when everything that is held up may end.
    healed: watch::Sender<u64>,
}

/// The running proxy. It ends with the runtime.
pub struct Wire {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    inner: Arc<Inner>,
}

impl Wire {
    /// Starts a proxy before `server` (`host:port`). `other` is where [`Fault::Certificate`] leads.
    pub async fn before(server: &str, other: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner = Arc::new(Inner {
            server: server.to_owned(),
            other,
            strike: Mutex::default(),
            struck: AtomicUsize::new(0),
            connections: Mutex::default(),
            healed: watch::Sender::new(0),
        });
        let shared = Arc::clone(&inner);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let inner = Arc::clone(&shared);
                tokio::spawn(async move {
                    let _ = serve(client, &inner).await;
                });
            }
        });
        Self { port, inner }
    }

    /// Counts connections anew from 0, and does this to one of them; `None` only counts.
    pub fn arm(&self, strike: Option<Strike>) {
        self.inner.connections.lock().unwrap().clear();
        self.inner.struck.store(0, Ordering::SeqCst);
        *self.inner.strike.lock().unwrap() = strike;
    }

    /// No connection is harmed from now on; what is held up already stays so.
    pub fn disarm(&self) {
        *self.inner.strike.lock().unwrap() = None;
    }

    /// Ends what is held up.
    pub fn heal(&self) {
        self.disarm();
        self.inner.healed.send_modify(|times| *times += 1);
    }

    /// Whether the fault has struck since the proxy was armed.
    pub fn struck(&self) -> bool {
        self.inner.struck.load(Ordering::SeqCst) > 0
    }

    /// What passed since the proxy was armed, by connection.
    pub fn traffic(&self) -> Vec<Traffic> {
        let all = self.inner.connections.lock().unwrap();
        all.iter().map(|c| Traffic { up: c.up.load(Ordering::Relaxed), down: c.down.load(Ordering::Relaxed) }).collect()
    }
}

/// How both directions of one connection influence each other.
struct Link<'a> {
    inner: &'a Inner,
    counters: Arc<Counters>,
    strike: Option<Strike>,
    /// Bytes of both directions vanish.
    vanish: AtomicBool,
    /// Nobody reads any more.
    stall: AtomicBool,
    /// Something is held up that nobody will end.
    hole: AtomicBool,
}

/// How a direction came to its end.
enum End {
    Closed,
    Reset,
}

async fn serve(mut client: TcpStream, inner: &Inner) -> io::Result<()> {
    let counters = Arc::new(Counters::default());
    let number = {
        let mut all = inner.connections.lock().unwrap();
        all.push(Arc::clone(&counters));
        all.len() - 1
    };
    let strike = *inner.strike.lock().unwrap();
    let mut address = &inner.server;
    if let (Some(Strike { fault: Fault::Certificate, connection, .. }), Some(other)) = (strike, &inner.other)
        && number >= connection
    {
        inner.struck.fetch_add(1, Ordering::SeqCst);
        address = other;
    }
    let mut server = TcpStream::connect(address.as_str()).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let strike = strike.filter(|s| s.connection == number && s.fault != Fault::Certificate);
    let no = || AtomicBool::new(false);
    let link = Link { inner, counters, strike, vanish: no(), stall: no(), hole: no() };
    let mut healed = inner.healed.subscribe();
    let reset = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = pump(&link, Way::Up, from_client, to_server);
        let down = pump(&link, Way::Down, from_server, to_client);
        tokio::pin!(up, down);
        let (mut up_open, mut down_open) = (true, true);
        loop {
            let end = tokio::select! {
                end = &mut up, if up_open => { up_open = false; end }
                end = &mut down, if down_open => { down_open = false; end }
                _ = healed.changed(), if link.hole.load(Ordering::SeqCst) => Ok(End::Reset),
                // Looks again whether a hole has opened.
                () = tokio::time::sleep(Duration::from_millis(200)), if up_open || down_open => continue,
            };
            match end {
                Ok(End::Closed) if up_open || down_open => {}
                Ok(End::Closed) => break false,
                Ok(End::Reset) | Err(_) => break true,
            }
        }
    };
    if reset {
        client.set_zero_linger()?;
        server.set_zero_linger()?;
    }
    Ok(())
}

async fn pump(link: &Link<'_>, way: Way, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<End> {
    let counter = match way {
        Way::Up => &link.counters.up,
        Way::Down => &link.counters.down,
    };
    let strike = link.strike.filter(|s| s.way == way);
    let (mut slow, mut vanish, mut passed) = (false, false, 0_u64);
    let mut buffer = vec![0; 64 << 10];
    loop {
        if link.stall.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        let read = from.read(&mut buffer).await;
        let held = vanish || link.vanish.load(Ordering::SeqCst) || link.stall.load(Ordering::SeqCst);
        let length = match read {
            // Nobody hears of an end behind a hole.
            Ok(0) | Err(_) if held => return std::future::pending().await,
            Ok(0) => {
                let _ = to.shutdown().await;
                return Ok(End::Closed);
            }
            Err(error) => return Err(error),
            Ok(length) => length,
        };
        if held {
            continue;
        }
        let mut rest = &buffer[..length];
        let due = strike.filter(|s| passed <= s.at && s.at < passed + length as u64);
        if let Some(strike) = due {
            let (before, after) = rest.split_at(usize::try_from(strike.at - passed).unwrap());
            to.write_all(before).await?;
            passed += before.len() as u64;
            counter.fetch_add(before.len() as u64, Ordering::Relaxed);
            link.inner.struck.fetch_add(1, Ordering::SeqCst);
            rest = after;
            match strike.fault {
                Fault::Reset => return Ok(End::Reset),
                Fault::HalfClose => {
                    to.shutdown().await?;
                    while from.read(&mut buffer).await? > 0 {}
                    return Ok(End::Closed);
                }
                Fault::Blackhole => link.vanish.store(true, Ordering::SeqCst),
                Fault::OneWayHole => vanish = true,
                Fault::Stall => link.stall.store(true, Ordering::SeqCst),
                Fault::Slow => slow = true,
                Fault::Certificate => {}
            }
            if strike.fault.is_silent() {
                link.hole.store(true, Ordering::SeqCst);
                continue;
            }
        }
        if slow {
            for piece in rest.chunks(PIECE) {
                to.write_all(piece).await?;
                tokio::time::sleep(BETWEEN).await;
            }
        } else {
            to.write_all(rest).await?;
        }
        passed += rest.len() as u64;
        counter.fetch_add(rest.len() as u64, Ordering::Relaxed);
    }
}
