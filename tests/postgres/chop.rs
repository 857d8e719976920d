//! A carrier that dies at a chosen call, as a killed operator does: from then on nothing gets through.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pgmigration::postgres::carrier::{Carrier, Question, Session, SqlError, SqlErrorKind};
use serde_json::Value;

/// Which side of the fatal call the death is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The statement is never sent.
    Before,
    /// The statement runs; its answer is never seen.
    After,
}

/// The carrier and how many calls it lives for.
pub struct Chop {
    inner: Arc<dyn Carrier>,
    left: Arc<AtomicI64>,
    side: Side,
}

impl Chop {
    pub fn new(inner: Arc<dyn Carrier>, calls: i64, side: Side) -> Self {
        Self { inner, left: Arc::new(AtomicI64::new(calls)), side }
    }

    pub fn is_dead(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }
}

fn dead() -> SqlError {
    SqlError::new(SqlErrorKind::Connect, "killed by the test")
}

#[async_trait]
impl Carrier for Chop {
    async fn connect(&self, database: &str, deadline: Duration) -> Result<Box<dyn Session>, SqlError> {
        if self.is_dead() {
            return Err(dead());
        }
        let inner = self.inner.connect(database, deadline).await?;
        Ok(Box::new(ChopSession { inner, left: self.left.clone(), side: self.side }))
    }
}

struct ChopSession {
    inner: Box<dyn Session>,
    left: Arc<AtomicI64>,
    side: Side,
}

#[async_trait]
impl Session for ChopSession {
    async fn ask(&mut self, question: &Question, deadline: Duration) -> Result<Value, SqlError> {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            0 if self.side == Side::After => self.inner.ask(question, deadline).await.and(Err(dead())),
            left if left <= 0 => Err(dead()),
            _ => self.inner.ask(question, deadline).await,
        }
    }

    async fn execute(&mut self, statement: &str, deadline: Duration) -> Result<(), SqlError> {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            0 if self.side == Side::After => self.inner.execute(statement, deadline).await.and(Err(dead())),
            left if left <= 0 => Err(dead()),
            _ => self.inner.execute(statement, deadline).await,
        }
    }

    async fn close(self: Box<Self>) {
        self.inner.close().await;
    }
}
