//! One process over one WebSocket: frames, half-close, keep-alive, and the end.
//!
//! Two parties share the socket. A task owns its sending half: it sends what [`Stdin`] hands over, one frame at a time,
//! and a ping when there is nothing to send. [`Output`] owns the receiving half and reads only when asked, so that a
//! slow reader slows the process down instead of filling memory.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::error::{ExecError, ExecErrorKind};

// The first byte of a message names its channel.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
/// A message of this channel closes the channel named by its second byte.
const CLOSE: u8 = 255;

/// The most data in one frame; with its channel byte a frame is 1 MiB. Larger frames bring nothing, smaller ones cost
/// CPU in every process on the way.
const FRAME_DATA: usize = (1 << 20) - 1;

/// A peer that left this many pings unanswered when the next one is due is gone.
const UNANSWERED_PINGS: u64 = 3;

/// What a process does with its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// It has none.
    None,
    /// It reads whatever comes at once, so the peer can always read what is behind.
    Prompt,
    /// It reads when it likes.
    Stream,
}

/// The times of the protocol. Constant in the product; tests shorten them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// Between pings while nothing else is sent.
    pub ping_every: Duration,
    /// From the last input to the ping that asks whether the peer took it.
    pub ping_after_input: Duration,
    /// How long to wait for late frames and the peer's close once the end is known.
    pub drain: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { ping_every: Duration::from_secs(15), ping_after_input: Duration::from_secs(1), drain: Duration::from_secs(5) }
    }
}

/// A running process: its input and its output, to be used concurrently.
///
/// When both are dropped, the connection is gone. The process itself notices only when it next reads or writes; one that
/// does neither goes on running.
#[derive(Debug)]
pub struct Process {
    /// The way into the process; `None` when it was started without input.
    pub stdin: Option<Stdin>,
    /// The way out, and the verdict.
    pub output: Output,
}

/// The input of a process. Must be closed: dropped without [`Stdin::close`] it cuts the process off, because an input
/// that merely stopped must not look complete.
#[derive(Debug)]
pub struct Stdin {
    commands: mpsc::Sender<Command>,
    ended: CancellationToken,
    sent: watch::Receiver<Sent>,
}

/// The output of a process.
#[derive(Debug)]
pub struct Output {
    /// `None` once the end is known: the connection is let go then, not when the output is dropped.
    stream: Option<Box<dyn Frames>>,
    sent: watch::Receiver<Sent>,
    sender_gone: bool,
    /// Whether input may stand in the way of pings.
    held_up: bool,
    /// What had been sent when the peer was last known to be alive.
    answered: Answered,
    status: Option<Status>,
    /// When to stop waiting for the peer's close.
    closing_at: Option<Instant>,
    drain: Duration,
    ended: CancellationToken,
    /// Ends the sending task, and with it the connection, when the output is dropped.
    _guard: DropGuard,
}

/// What a process gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bytes of its standard output; never empty.
    Stdout(Bytes),
    /// Bytes of its error output; never empty.
    Stderr(Bytes),
    /// It ended with this exit status. Nothing comes after it. It does not say that all output came before it.
    Exit(i32),
}

#[derive(Debug)]
enum Command {
    Data(Bytes),
    End,
}

/// What the sending task has done so far.
#[derive(Debug, Clone, Default)]
struct Sent {
    pings: u64,
    /// Frames of input.
    frames: u64,
    /// Why nothing more will be sent, if so.
    stopped: Option<String>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Answered {
    pings: u64,
    frames: u64,
}

trait Frames: futures::Stream<Item = Result<Message, tungstenite::Error>> + Send + Unpin + std::fmt::Debug {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug> Frames for SplitStream<WebSocketStream<S>> {}

impl Process {
    /// Takes over an open WebSocket on which v5 was negotiated.
    pub(super) fn over<S>(socket: WebSocketStream<S>, input: Input, timing: Timing) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug + 'static,
    {
        let (sink, stream) = socket.split();
        let (sent_by, sent) = watch::channel(Sent::default());
        let (commands, queue) = mpsc::channel(1);
        let ended = CancellationToken::new();
        let stdin = input != Input::None;
        let sender = Sender { sink, sent: sent_by, ended: ended.clone(), timing };
        tokio::spawn(sender.drive(stdin.then_some(queue)));
        let stdin = stdin.then(|| Stdin { commands, ended: ended.clone(), sent: sent.clone() });
        let output = Output {
            stream: Some(Box::new(stream)),
            sent,
            sender_gone: false,
            held_up: input == Input::Stream,
            answered: Answered::default(),
            status: None,
            closing_at: None,
            drain: timing.drain,
            ended: ended.clone(),
            _guard: ended.drop_guard(),
        };
        Self { stdin, output }
    }
}

impl Stdin {
    /// Hands `data` over, in frames of at most 1 MiB; returns when the last of it is on its way or one frame from it.
    ///
    /// Waits as long as the process does not read. Fails with `Cut` when the process has ended, the connection is gone
    /// or the [`Output`] was dropped; the reason that matters is then in [`Output::next`]. If the returned future is
    /// dropped half-way, part of `data` may have been sent: drop the `Stdin` too.
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), ExecError> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(FRAME_DATA));
            self.command(Command::Data(piece)).await?;
        }
        Ok(())
    }

    /// Ends the input in order: the process reads end of file after all that was written.
    pub async fn close(self) -> Result<(), ExecError> {
        self.command(Command::End).await
    }

    async fn command(&self, command: Command) -> Result<(), ExecError> {
        tokio::select! {
            biased;
            () = self.ended.cancelled() => Err(ExecError::new(ExecErrorKind::Cut, "the process has ended; it takes no more input")),
            result = self.commands.send(command) => result.map_err(|_| {
                let reason = self.sent.borrow().stopped.clone();
                ExecError::new(ExecErrorKind::Cut, reason.unwrap_or_else(|| "the connection is gone".to_owned()))
            }),
        }
    }
}

impl Output {
    /// The next output, or the end. Cancel safe: nothing is lost when the returned future is dropped.
    ///
    /// Reading is the only thing that makes room for more output; a process whose output is not read stands still.
    /// Waits as long as the peer is alive: it is deemed gone (`Cut`) when pings stay unanswered, after about a minute: as
    /// patient as kubectl. Pongs queue behind input that the process has not read yet, so while such input may exist their
    /// absence proves nothing; then a lost machine is noticed by TCP alone (about a quarter of an hour, or never where
    /// something in between keeps the connection), and it is the caller's to ask in another way whether the process waits.
    /// Input of a process started by [`super::converse`] is never held up.
    ///
    /// Errors: `Cut` when the stream ended without a status (never taken for success), `Runtime` when the process could
    /// not be run, `Protocol`. After an error or [`Event::Exit`] each call fails.
    pub async fn next(&mut self) -> Result<Event, ExecError> {
        let result = self.advance().await;
        if !matches!(result, Ok(Event::Stdout(_) | Event::Stderr(_))) {
            self.stream = None;
            self.ended.cancel();
        }
        result
    }

    async fn advance(&mut self) -> Result<Event, ExecError> {
        loop {
            let closing_at = self.closing_at;
            let Some(stream) = self.stream.as_mut() else {
                return Err(ExecError::new(ExecErrorKind::Protocol, "read after the end of the process"));
            };
            tokio::select! {
                biased;
                frame = stream.next() => {
                    if let Some(event) = self.receive(frame)? {
                        return Ok(event);
                    }
                }
                changed = self.sent.changed(), if !self.sender_gone => {
                    self.sender_gone = changed.is_err();
                    self.judge_peer()?;
                }
                () = sleep_until(closing_at.unwrap_or_else(Instant::now)), if closing_at.is_some() => {
                    return self.verdict("the connection went silent at its end");
                }
            }
        }
    }

    fn receive(&mut self, frame: Option<Result<Message, tungstenite::Error>>) -> Result<Option<Event>, ExecError> {
        let message = match frame {
            None => return self.verdict("the connection was closed").map(Some),
            Some(Err(error)) => {
                return self.verdict(&format!("the connection broke: {error}")).map(Some);
            }
            Some(Ok(message)) => message,
        };
        // Whatever arrives shows that the peer is there.
        self.answered.pings = self.sent.borrow().pings;
        if self.closing_at.is_some() {
            self.closing_at = Some(Instant::now() + self.drain);
        }
        match message {
            Message::Binary(frame) => self.data(&frame),
            Message::Pong(payload) => {
                // It carries the number of input frames sent before its ping; the peer has taken all of those.
                if let Ok(frames) = <[u8; 8]>::try_from(&payload[..]) {
                    self.answered.frames = self.answered.frames.max(u64::from_be_bytes(frames));
                }
                Ok(None)
            }
            Message::Close(reason) => {
                let reason = reason.map(|frame| format!(" ({} {})", u16::from(frame.code), frame.reason));
                self.verdict(&format!("the API server closed the connection{}", reason.unwrap_or_default())).map(Some)
            }
            // The WebSocket layer answers pings.
            Message::Ping(_) => Ok(None),
            Message::Text(_) | Message::Frame(_) => {
                Err(ExecError::new(ExecErrorKind::Protocol, "the API server sent a message that is not of v5.channel.k8s.io"))
            }
        }
    }

    fn data(&mut self, frame: &Bytes) -> Result<Option<Event>, ExecError> {
        let Some(channel) = frame.first() else {
            return Ok(None);
        };
        let data = frame.slice(1..);
        match *channel {
            // Servers open each channel with an empty message.
            STDOUT | STDERR | STATUS if data.is_empty() => Ok(None),
            STDOUT => Ok(Some(Event::Stdout(data))),
            STDERR => Ok(Some(Event::Stderr(data))),
            STATUS => {
                let status = serde_json::from_slice(&data).map_err(|error| {
                    ExecError::new(ExecErrorKind::Protocol, format!("unreadable status of the process: {error}"))
                })?;
                // Output may still follow: the end is the peer's close. Input has nobody to read it any more.
                self.status = Some(status);
                self.closing_at = Some(Instant::now() + self.drain);
                self.ended.cancel();
                Ok(None)
            }
            other => Err(ExecError::new(
                ExecErrorKind::Protocol,
                format!("the API server sent data on channel {other}, which v5.channel.k8s.io does not have"),
            )),
        }
    }

    /// Called when the sending task has something to say.
    fn judge_peer(&mut self) -> Result<(), ExecError> {
        let sent = self.sent.borrow();
        if sent.stopped.is_some() && self.closing_at.is_none() {
            self.closing_at = Some(Instant::now() + self.drain);
        }
        // The last ping has just been sent and does not count.
        let unanswered = sent.pings.saturating_sub(self.answered.pings);
        let all_input_taken = !self.held_up || sent.frames == self.answered.frames;
        if unanswered > UNANSWERED_PINGS && all_input_taken {
            return Err(ExecError::new(
                ExecErrorKind::Cut,
                format!("the API server left {UNANSWERED_PINGS} pings unanswered: the connection is dead"),
            ));
        }
        Ok(())
    }

    /// The end of the stream: the status if there was one, else the reason why not.
    fn verdict(&mut self, end: &str) -> Result<Event, ExecError> {
        let Some(status) = self.status.take() else {
            let stopped = self.sent.borrow().stopped.clone();
            let reason = stopped.unwrap_or_else(|| end.to_owned());
            return Err(ExecError::new(
                ExecErrorKind::Cut,
                format!("{reason}; no exit status came, so the outcome of the process is unknown"),
            ));
        };
        exit_code(&status).map(Event::Exit)
    }
}

/// Reads the status object that ends a process.
fn exit_code(status: &Status) -> Result<i32, ExecError> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let message = status.message.clone().unwrap_or_else(|| "no message".to_owned());
    if status.reason.as_deref() == Some("NonZeroExitCode") {
        let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
        let code = causes
            .filter(|cause| cause.reason.as_deref() == Some("ExitCode"))
            .find_map(|cause| cause.message.as_deref()?.parse::<i32>().ok());
        return match code {
            Some(code) if code != 0 => Ok(code),
            Some(_) | None => Err(ExecError::new(ExecErrorKind::Protocol, format!("a failure without an exit code: {message}"))),
        };
    }
    Err(ExecError::new(ExecErrorKind::Runtime, message))
}

/// The task that owns the sending half.
struct Sender<S> {
    sink: SplitSink<WebSocketStream<S>, Message>,
    sent: watch::Sender<Sent>,
    ended: CancellationToken,
    timing: Timing,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Sender<S> {
    /// Runs until the process has ended, the output was dropped, the input was abandoned, or sending failed.
    async fn drive(mut self, mut queue: Option<mpsc::Receiver<Command>>) {
        let ended = self.ended.clone();
        tokio::select! {
            biased;
            () = ended.cancelled() => {}
            reason = self.send_all(&mut queue) => self.sent.send_modify(|sent| sent.stopped = Some(reason)),
        }
    }

    /// Returns the reason why nothing more can be sent.
    async fn send_all(&mut self, queue: &mut Option<mpsc::Receiver<Command>>) -> String {
        let mut next_ping = Instant::now() + self.timing.ping_every;
        loop {
            let command = tokio::select! {
                biased;
                command = receive(queue) => command,
                () = sleep_until(next_ping) => {
                    let frames = self.sent.borrow().frames;
                    let ping = Message::Ping(Bytes::copy_from_slice(&frames.to_be_bytes()));
                    if let Err(error) = self.sink.send(ping).await {
                        return broken(&error);
                    }
                    self.sent.send_modify(|sent| sent.pings += 1);
                    next_ping = Instant::now() + self.timing.ping_every;
                    continue;
                }
            };
            let frame = match command {
                Some(Command::Data(data)) => framed(STDIN, &data),
                Some(Command::End) => {
                    *queue = None;
                    framed(CLOSE, &[STDIN])
                }
                None => {
                    let _ = self.sink.send(Message::Close(None)).await;
                    return "the input was given up before its end".to_owned();
                }
            };
            // Counted before it is sent: a frame on its way may already hold up the pongs behind it.
            self.sent.send_if_modified(|sent| {
                sent.frames += 1;
                false
            });
            if let Err(error) = self.sink.send(Message::Binary(frame)).await {
                return broken(&error);
            }
            next_ping = Instant::now() + self.timing.ping_after_input;
        }
    }
}

fn broken(error: &tungstenite::Error) -> String {
    format!("the connection broke while sending: {error}")
}

/// The next command; never, once there is no queue.
async fn receive(queue: &mut Option<mpsc::Receiver<Command>>) -> Option<Command> {
    match queue {
        Some(queue) => queue.recv().await,
        None => std::future::pending().await,
    }
}

fn framed(channel: u8, data: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(data.len() + 1);
    frame.put_u8(channel);
    frame.extend_from_slice(data);
    frame.freeze()
}
