//! SQL over the wire: a [`Carrier`] that speaks the PostgreSQL protocol through any byte stream.
//!
//! Here: logging in (password, TLS), putting questions, and what a failure means. The stream comes from a factory, so a
//! host and a port forwarded by an API server look the same. Not here: where hosts, Secrets and forwarded ports come from.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use futures::future::BoxFuture;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, NoTls};
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, Config, Error, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::carrier::{Carrier, Question, Session, SqlError, SqlErrorKind, session_settings};

/// How long [`Session::close`] waits for the server's end of the connection.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// A byte stream to a server.
pub struct ByteStream(Box<dyn Stream>);

impl ByteStream {
    /// Takes any stream.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self(Box::new(stream))
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl AsyncRead for ByteStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Makes one new byte stream to the server for every session.
pub type Dial = Arc<dyn Fn() -> BoxFuture<'static, io::Result<ByteStream>> + Send + Sync>;

/// A [`Dial`] by host name and TCP port.
pub fn dial_tcp(host: &str, port: u16) -> Dial {
    let host = host.to_owned();
    Arc::new(move || {
        let host = host.clone();
        Box::pin(async move {
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            Ok(ByteStream::new(stream))
        })
    })
}

/// Whether and how the stream is encrypted. There is no way between the two: nothing is downgraded silently.
#[derive(Clone)]
pub enum Tls {
    /// Bytes go as they are. For streams that something else already protects, such as a forwarded port.
    Disabled,
    /// TLS 1.2 or newer; the certificate chain and the host name are checked.
    VerifyFull {
        /// The name that the server's certificate must carry.
        host: String,
        /// Trust anchors and protocol versions, from [`Tls::verify_full`].
        config: Arc<rustls::ClientConfig>,
    },
}

impl Tls {
    /// Verification of `host` against the certificates of a PEM bundle, and against no others.
    ///
    /// Errors: `Connect` when the bundle holds no certificate or an unreadable one.
    pub fn verify_full(host: &str, bundle: &[u8]) -> Result<Self, SqlError> {
        let refuse = |why: String| SqlError::new(SqlErrorKind::Connect, format!("CA bundle: {why}"));
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle) {
            let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
            roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(refuse("no certificate in it".into()));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| refuse(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self::VerifyFull { host: host.to_owned(), config: Arc::new(config) })
    }
}

/// Reaches one server by its own protocol.
#[derive(Clone)]
pub struct NetworkCarrier {
    dial: Dial,
    tls: Tls,
    user: String,
    password: Option<String>,
    application_name: String,
    options: Option<String>,
}

impl NetworkCarrier {
    /// A carrier that logs in as `user`. `application_name` tells our sessions from foreign ones (the server cuts it
    /// after 63 bytes).
    pub fn new(dial: Dial, tls: Tls, user: &str, password: Option<&str>, application_name: &str) -> Self {
        Self {
            dial,
            tls,
            user: user.to_owned(),
            password: password.map(str::to_owned),
            application_name: application_name.to_owned(),
            options: None,
        }
    }

    /// The same carrier under another application name.
    #[must_use]
    pub fn with_name(mut self, application_name: &str) -> Self {
        application_name.clone_into(&mut self.application_name);
        self
    }

    /// The same carrier with options that the server applies before anything else runs in the session, login event
    /// triggers included: `-c event_triggers=off` (17 and newer, superusers only).
    #[must_use]
    pub fn with_options(mut self, options: &str) -> Self {
        self.options = Some(options.to_owned());
        self
    }

    async fn open(&self, database: &str) -> Result<NetworkSession, SqlError> {
        let mut config = Config::new();
        config.user(&self.user).dbname(database).application_name(&self.application_name);
        if let Some(password) = &self.password {
            config.password(password);
        }
        if let Some(options) = &self.options {
            config.options(options);
        }
        let stream = (self.dial)().await.map_err(|error| SqlError::new(SqlErrorKind::Connect, error.to_string()))?;
        let (client, connection) = match &self.tls {
            Tls::Disabled => {
                config.ssl_mode(SslMode::Disable);
                let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(|error| connect_error(&error))?;
                (client, tokio::spawn(async move { connection.await.map_err(|error| words(&error)) }))
            }
            Tls::VerifyFull { host, config: tls } => {
                config.ssl_mode(SslMode::Require);
                let mut maker = MakeRustlsConnect::new(rustls::ClientConfig::clone(tls));
                let connector = <MakeRustlsConnect as MakeTlsConnect<ByteStream>>::make_tls_connect(&mut maker, host)
                    .map_err(|error| SqlError::new(SqlErrorKind::Connect, error.to_string()))?;
                let (client, connection) = config.connect_raw(stream, connector).await.map_err(|error| connect_error(&error))?;
                (client, tokio::spawn(async move { connection.await.map_err(|error| words(&error)) }))
            }
        };
        let session = NetworkSession { client: Some(client), connection };
        session.query(&session_settings()).await?;
        Ok(session)
    }
}

#[async_trait]
impl Carrier for NetworkCarrier {
    async fn connect(&self, database: &str, deadline: Duration) -> Result<Box<dyn Session>, SqlError> {
        match timeout(deadline, self.open(database)).await {
            Ok(session) => Ok(Box::new(session?)),
            Err(_) => Err(SqlError::deadline("connecting", deadline)),
        }
    }
}

/// One connection. `client` is gone once the session is unusable.
struct NetworkSession {
    client: Option<Client>,
    connection: JoinHandle<Result<(), String>>,
}

impl NetworkSession {
    fn client(&self) -> Result<&Client, SqlError> {
        self.client
            .as_ref()
            .ok_or_else(|| SqlError::new(SqlErrorKind::Connect, "the session was given up after an earlier failure"))
    }

    async fn query(&self, question: &Question) -> Result<Value, SqlError> {
        let parameters: Vec<(String, Type)> = question.parameters.iter().map(|value| (value.clone(), Type::TEXT)).collect();
        let rows = self.client()?.query_typed_raw(&question.sql, parameters).await.map_err(|error| statement_error(&error))?;
        let rows: Vec<Row> = rows.try_collect().await.map_err(|error| statement_error(&error))?;
        document(question.name, &rows)
    }

    async fn run(&self, statement: &str) -> Result<(), SqlError> {
        let word = statement.trim().trim_end_matches(';').trim_end();
        if word.eq_ignore_ascii_case("commit") {
            // The server answers COMMIT of a failed transaction with ROLLBACK and no error, and the client library does
            // not show that answer. In a failed transaction this probe is refused with 25P02.
            self.drain("SELECT 1").await?;
        }
        self.drain(statement).await
    }

    /// Runs one statement, which the extended protocol insists on, and lets its rows go by.
    async fn drain(&self, statement: &str) -> Result<(), SqlError> {
        let no_parameters: Vec<(String, Type)> = Vec::new();
        let rows = self.client()?.query_typed_raw(statement, no_parameters).await.map_err(|error| statement_error(&error))?;
        rows.try_for_each(|_| async { Ok(()) }).await.map_err(|error| statement_error(&error))
    }

    /// Gives the session up when what came of a call leaves its state unknown.
    fn settle<T>(&mut self, outcome: Result<Result<T, SqlError>, SqlError>) -> Result<T, SqlError> {
        let result = outcome.and_then(|inner| inner);
        if let Err(error) = &result {
            match error.kind {
                SqlErrorKind::Statement => {}
                SqlErrorKind::Connect | SqlErrorKind::Deadline | SqlErrorKind::Protocol => {
                    self.client = None;
                    self.connection.abort();
                }
            }
        }
        result
    }
}

#[async_trait]
impl Session for NetworkSession {
    async fn ask(&mut self, question: &Question, deadline: Duration) -> Result<Value, SqlError> {
        let outcome = timeout(deadline, self.query(question)).await.map_err(|_| SqlError::deadline(question.name, deadline));
        self.settle(outcome)
    }

    async fn execute(&mut self, statement: &str, deadline: Duration) -> Result<(), SqlError> {
        let outcome = timeout(deadline, self.run(statement)).await.map_err(|_| SqlError::deadline("statement", deadline));
        self.settle(outcome)
    }

    async fn close(mut self: Box<Self>) {
        // Without its client the connection says goodbye and ends.
        self.client = None;
        if timeout(CLOSE_DEADLINE, &mut self.connection).await.is_err() {
            self.connection.abort();
        }
    }
}

impl Drop for NetworkSession {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The text of a `json`, `jsonb` or text column.
struct JsonText(String);

impl<'a> FromSql<'a> for JsonText {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let text = if *kind == Type::JSONB {
            // Binary jsonb is a version byte, 1, and the text.
            raw.strip_prefix(&[1]).ok_or("unknown jsonb version")?
        } else {
            raw
        };
        Ok(Self(std::str::from_utf8(text)?.to_owned()))
    }

    fn accepts(kind: &Type) -> bool {
        matches!(*kind, Type::JSON | Type::JSONB | Type::TEXT)
    }
}

fn document(name: &str, rows: &[Row]) -> Result<Value, SqlError> {
    let protocol = |why: &str| SqlError::new(SqlErrorKind::Protocol, format!("{name}: {why}"));
    let [row] = rows else {
        return Err(protocol("not exactly one row"));
    };
    if row.len() != 1 {
        return Err(protocol("not exactly one column"));
    }
    let text: Option<JsonText> = row.try_get(0).map_err(|error| protocol(&words(&error)))?;
    let text = text.ok_or_else(|| protocol("NULL instead of a document"))?;
    serde_json::from_str(&text.0).map_err(|error| protocol(&error.to_string()))
}

/// The library's own `Display` names only the kind of an error; the reason is in its sources.
fn words(error: &Error) -> String {
    use std::error::Error as _;
    if let Some(server) = error.as_db_error() {
        return server.message().to_owned();
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

fn connect_error(error: &Error) -> SqlError {
    SqlError { kind: SqlErrorKind::Connect, sqlstate: error.code().map(|code| code.code().to_owned()), message: words(error) }
}

fn statement_error(error: &Error) -> SqlError {
    let kind = match error.as_db_error() {
        // FATAL and PANIC end the session; the words of the severity may be translated, the parsed form is not.
        Some(server) => match server.parsed_severity() {
            Some(tokio_postgres::error::Severity::Fatal | tokio_postgres::error::Severity::Panic) => SqlErrorKind::Connect,
            Some(_) | None => SqlErrorKind::Statement,
        },
        None if error.is_closed() || is_io(error) => SqlErrorKind::Connect,
        None => SqlErrorKind::Protocol,
    };
    SqlError { kind, sqlstate: error.code().map(|code| code.code().to_owned()), message: words(error) }
}

fn is_io(error: &Error) -> bool {
    use std::error::Error as _;
    error.source().is_some_and(|source| source.downcast_ref::<io::Error>().is_some())
}
