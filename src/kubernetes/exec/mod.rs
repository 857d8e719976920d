//! Processes in pods: the API server's `pods/exec` over the WebSocket protocol `v5.channel.k8s.io`.
//!
//! Here: everything about bytes and protocol between us and a process in a container. Stalls, truncation, half-closing
//! and lost peers have this one home. Not here: what is run, and what makes a transfer a success. An exit status of 0
//! does not prove that all output arrived (kubelet and container runtime lose tails), so a caller that moves data must
//! compare length and digest with what was computed inside the pod.
//!
//! We drive the WebSocket ourselves, on `kube::Client::connect`: the client library's own exec leaves readers hanging
//! when a connection is reset, sends no end of input on drop, and sends input in 4 KiB frames.
//!
//! The client given must have no write timeout: a consumer that pauses (a restore that waits for a checkpoint) is no
//! fault. Secrets must not be in argv, which audit logs and process lists show; [`passfile`] is the way for a password.

mod error;
pub mod passfile;
#[cfg(test)]
mod peer;
mod process;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use kube::Client;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

pub use error::{ExecError, ExecErrorKind};
pub use process::{Event, Output, Process, Stdin};
use process::{Input, Timing};

/// Within this time the API server must have answered a request to open a stream.
pub(super) const OPEN_DEADLINE: Duration = Duration::from_mins(1);

/// The container in which a process is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Name of the container in it.
    pub container: String,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}[{}]", self.namespace, self.pod, self.container)
    }
}

/// Starts `argv` in the container, without a terminal. `argv` is passed as it is; no shell looks at it.
///
/// With `stdin` false the process reads an empty input and [`Process::stdin`] is `None`.
///
/// That this returns `Ok` says only that the API server accepted: a program that does not exist shows up as an error of
/// kind `Runtime` in [`Output::next`]. The request is answered within 60 s or fails with `Deadline`.
///
/// Errors: `Forbidden`, `NotFound`, `Refused`, `Connect`, `Protocol`, `Deadline`.
pub async fn start(client: &Client, target: &Target, argv: &[String], stdin: bool) -> Result<Process, ExecError> {
    let input = if stdin { Input::Stream } else { Input::None };
    start_with(client, target, argv, input, Timing::default()).await
}

/// As [`start`] with input, for a process that takes each input at once, as psql does that waits for the next statement.
///
/// Nothing can hold up pings then, so a lost connection is noticed whatever was sent before.
pub async fn converse(client: &Client, target: &Target, argv: &[String]) -> Result<Process, ExecError> {
    start_with(client, target, argv, Input::Prompt, Timing::default()).await
}

async fn start_with(
    client: &Client,
    target: &Target,
    argv: &[String],
    input: Input,
    timing: Timing,
) -> Result<Process, ExecError> {
    let request = http::Request::get(exec_path(target, argv, input != Input::None))
        .body(Vec::new())
        .map_err(|error| ExecError::new(ExecErrorKind::Protocol, format!("no valid request for exec: {error}")))?;
    let connection = tokio::time::timeout(OPEN_DEADLINE, client.connect(request))
        .await
        .map_err(|_| {
            ExecError::new(
                ExecErrorKind::Deadline,
                format!("the API server did not answer exec within {} s", OPEN_DEADLINE.as_secs()),
            )
        })?
        .map_err(|error| ExecError::opening("pods/exec", &error))?;
    if !connection.supports_stream_close() {
        return Err(ExecError::new(
            ExecErrorKind::Protocol,
            "the API server offers exec only as v4.channel.k8s.io, which cannot end an input; Kubernetes 1.30 or newer is needed",
        ));
    }
    Ok(Process::over(connection.into_stream(), input, timing))
}

/// What a short command left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// All of its output.
    pub stdout: Vec<u8>,
    /// The last `cap` bytes of its error output.
    pub stderr: Vec<u8>,
    /// Its exit status.
    pub exit_code: i32,
}

/// Runs a short command to its end: gives it `stdin` (nothing at all when empty), collects its output.
///
/// More than `cap` bytes on stdout are an error (`Protocol`), never a silent truncation; of stderr the last `cap` bytes
/// are kept. `deadline` covers all of it; when it passes, the process is cut off and may go on running in the pod. A
/// command that ends without having read all of `stdin` is no error.
pub async fn run(
    client: &Client,
    target: &Target,
    argv: &[String],
    stdin: &[u8],
    deadline: Duration,
    cap: usize,
) -> Result<Completed, ExecError> {
    let work = async {
        let Process { stdin: input, mut output } = start(client, target, argv, !stdin.is_empty()).await?;
        let feed = async {
            if let Some(mut input) = input {
                // A failure here shows itself in the output: as an exit status, or as the reason of the cut.
                if input.write(Bytes::copy_from_slice(stdin)).await.is_ok() {
                    let _ = input.close().await;
                }
            }
        };
        let ((), completed) = tokio::join!(feed, collect(&mut output, cap));
        completed
    };
    tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| {
        let program = argv.first().map_or("", String::as_str);
        Err(ExecError::new(ExecErrorKind::Deadline, format!("{program} in {target} did not end within {} s", deadline.as_secs())))
    })
}

async fn collect(output: &mut Output, cap: usize) -> Result<Completed, ExecError> {
    let mut stdout = Vec::new();
    let mut stderr = Tail::new(cap);
    loop {
        match output.next().await? {
            Event::Stdout(bytes) => {
                if stdout.len() + bytes.len() > cap {
                    return Err(ExecError::new(ExecErrorKind::Protocol, format!("more than {cap} bytes of output")));
                }
                stdout.extend_from_slice(&bytes);
            }
            Event::Stderr(bytes) => stderr.push(&bytes),
            Event::Exit(exit_code) => {
                return Ok(Completed { stdout, stderr: stderr.into_bytes(), exit_code });
            }
        }
    }
}

/// Keeps the last bytes of a stream, such as an error output of unknown length, in bounded memory.
#[derive(Debug, Clone)]
pub struct Tail {
    cap: usize,
    bytes: Vec<u8>,
}

impl Tail {
    /// Keeps at most `cap` bytes.
    pub fn new(cap: usize) -> Self {
        Self { cap, bytes: Vec::new() }
    }

    /// Appends, forgetting what is too old. Holds up to twice `cap` at times.
    pub fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.cap)..];
        if self.bytes.len() + bytes.len() > self.cap.saturating_mul(2) {
            let excess = self.bytes.len().saturating_sub(self.cap);
            self.bytes.drain(..excess);
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The last `cap` bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.bytes.len().saturating_sub(self.cap)..]
    }

    /// The last `cap` bytes as text for people: trimmed, invalid UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.as_bytes()).trim().to_owned()
    }

    fn into_bytes(mut self) -> Vec<u8> {
        let excess = self.bytes.len().saturating_sub(self.cap);
        self.bytes.drain(..excess);
        self.bytes
    }
}

/// Path and query of an exec request; every value is encoded byte by byte.
fn exec_path(target: &Target, argv: &[String], stdin: bool) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut path = format!(
        "/api/v1/namespaces/{}/pods/{}/exec?container={}&stdin={stdin}&stdout=true&stderr=true&tty=false",
        encode(&target.namespace),
        encode(&target.pod),
        encode(&target.container),
    );
    for argument in argv {
        path.push_str("&command=");
        path.push_str(&encode(argument));
    }
    path
}
