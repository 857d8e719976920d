//! A byte stream to a port of a pod, through the API server.
//!
//! Here: opening the stream, its errors in words, its end. Not here: who speaks over it (`postgres::network`, by its
//! `Dial`). No pings are sent on it: whoever waits for an answer over it keeps a deadline.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::Portforwarder;
use kube::{Api, Client};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::timeout;

use crate::postgres::network::{ByteStream, Dial};

use super::exec::{ExecError, ExecErrorKind, OPEN_DEADLINE};

/// After its stream is dropped a connection has this long to send what was written (a goodbye) before it is cut.
const LINGER: Duration = Duration::from_secs(2);

/// Opens a stream to `port` of the pod.
///
/// `Ok` says that the API server accepted. Whether anything listens in the pod shows at the first read, as an
/// [`io::Error`] with the kubelet's words. The request is answered within 60 s or fails with `Deadline`.
///
/// Errors: as [`super::exec::start`]; here `Forbidden` is about `pods/portforward`.
pub async fn open(client: &Client, namespace: &str, pod: &str, port: u16) -> Result<ForwardedPort, ExecError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut forwarder = timeout(OPEN_DEADLINE, pods.portforward(pod, &[port]))
        .await
        .map_err(|_| {
            ExecError::new(
                ExecErrorKind::Deadline,
                format!("the API server did not answer port-forward within {} s", OPEN_DEADLINE.as_secs()),
            )
        })?
        .map_err(|error| ExecError::opening("pods/portforward", &error))?;
    let (Some(stream), Some(error)) = (forwarder.take_stream(port), forwarder.take_error(port)) else {
        return Err(ExecError::new(ExecErrorKind::Protocol, "port-forward without a stream"));
    };
    Ok(ForwardedPort { stream, end: Some(End { error: Box::pin(error), forwarder }) })
}

/// A [`Dial`] to `port` of the pod, for SQL over the network protocol: each session has a stream of its own.
pub fn dial(client: &Client, namespace: &str, pod: &str, port: u16) -> Dial {
    let (client, namespace, pod) = (client.clone(), namespace.to_owned(), pod.to_owned());
    Arc::new(move || {
        let (client, namespace, pod) = (client.clone(), namespace.clone(), pod.clone());
        Box::pin(async move { open(&client, &namespace, &pod, port).await.map(ByteStream::new).map_err(io::Error::other) })
    })
}

/// A stream to a port of a pod. Dropping it ends the connection, within two seconds.
pub struct ForwardedPort {
    stream: DuplexStream,
    /// Present while the server has not spoken about the port.
    end: Option<End>,
}

struct End {
    /// Resolves to the server's words when the port cannot be used, to `None` when the connection has ended.
    error: Pin<Box<dyn Future<Output = Option<String>> + Send>>,
    forwarder: Portforwarder,
}

impl ForwardedPort {
    /// What the server said about the port, if it said that it cannot be used.
    fn refusal(&mut self, context: &mut Context<'_>) -> Option<io::Error> {
        let end = self.end.as_mut()?;
        let Poll::Ready(error) = end.error.as_mut().poll(context) else { return None };
        self.end = None;
        Some(io::Error::new(io::ErrorKind::ConnectionAborted, error?.trim().to_owned()))
    }
}

impl AsyncRead for ForwardedPort {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => Poll::Ready(Ok(())),
            // At an end as well as before it: the server's reason, if there is one, is what counts.
            Poll::Ready(result) => Poll::Ready(self.refusal(context).map_or(result, Err)),
            Poll::Pending => self.refusal(context).map_or(Poll::Pending, |error| Poll::Ready(Err(error))),
        }
    }
}

impl AsyncWrite for ForwardedPort {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Drop for ForwardedPort {
    fn drop(&mut self) {
        let (Some(end), Ok(runtime)) = (self.end.take(), tokio::runtime::Handle::try_current()) else { return };
        // The task behind the stream would wait for the peer's close for ever; it ends when the stream, dropped with
        // us, has been emptied and the peer agrees, or when it has lingered long enough.
        runtime.spawn(async move {
            let _ = timeout(LINGER, end.error).await;
            end.forwarder.abort();
        });
    }
}
