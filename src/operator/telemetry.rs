//! Logs: where they go, how they look, and what may never be in them.

use std::str::FromStr;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use super::args::{LogFormat, Logs};

/// Libraries that see raw bytes or headers and print them when asked for enough detail: passwords on their way into a
/// container, tokens, query texts. They stay at info whatever the user asks for.
const NEVER_BELOW_INFO: [&str; 10] = [
    "aws_sdk_s3",
    "aws_sigv4",
    "aws_smithy_http_client",
    "aws_smithy_runtime",
    "h2",
    "hyper",
    "hyper_util",
    "rustls",
    "tokio_postgres",
    "tungstenite",
];

/// What is logged: a level, or levels by module.
#[derive(Clone, Debug)]
pub struct Filter(String);

impl FromStr for Filter {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        filter_of(text).map(|_| Self(text.to_owned()))
    }
}

/// Sends the logs of the whole process to standard error. To be called once, before anything else.
pub fn init(logs: &Logs) {
    // Neither can fail: the filter was read before, and nobody else sets up logs.
    let Ok(filter) = filter_of(&logs.log_filter.0) else { return };
    let _ = match logs.log_format {
        LogFormat::Text => text(filter, std::io::stderr).try_init(),
        LogFormat::Json => json(filter, std::io::stderr).try_init(),
    };
}

fn filter_of(text: &str) -> Result<EnvFilter, ParseError> {
    let mut filter = EnvFilter::builder().parse(text)?;
    for library in NEVER_BELOW_INFO {
        filter = filter.add_directive(format!("{library}=info").parse()?);
    }
    Ok(filter)
}

fn text<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(writer).finish()
}

fn json<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt().with_env_filter(filter).json().flatten_event(true).with_writer(writer).finish()
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn read(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn raw_bytes_stay_out_even_at_trace() {
        for asked in ["trace", "info,tungstenite=trace", "tungstenite::protocol::frame=trace,trace"] {
            let page = Page::default();
            let writer = page.clone();
            tracing::subscriber::with_default(text(filter_of(asked).unwrap(), move || writer.clone()), || {
                tracing::trace!(target: "tungstenite::protocol", "frame with a password");
                tracing::debug!(target: "h2::codec", "header with a token");
                tracing::info!(target: "pgmigration::operator", "step done");
            });
            assert!(page.read().contains("step done"), "{asked}");
            assert!(!page.read().contains("password") && !page.read().contains("token"), "{asked}: {}", page.read());
        }
    }

    #[test]
    fn json_lines_are_json() {
        let page = Page::default();
        let writer = page.clone();
        tracing::subscriber::with_default(json(filter_of("info").unwrap(), move || writer.clone()), || {
            tracing::info!(step = "Fence", "begun");
        });
        let line: serde_json::Value = serde_json::from_str(page.read().trim_end()).unwrap();
        assert_eq!((line["message"].as_str(), line["step"].as_str()), (Some("begun"), Some("Fence")));
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_an_error() {
        assert!(filter_of("pgmigration=loudly").is_err());
    }
}
