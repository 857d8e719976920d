//! Events about a PostgresMigration, written with the operator's own identity. They are told to people; nothing is decided by them.

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

use super::errors::{Error, Request, ask};
use crate::api::PostgresMigration;

/// Longest reason or action in characters, and longest note in bytes, that the API server takes.
const WORD: usize = 128;
const NOTE: usize = 1024;

/// How an event is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Something went as it should.
    Normal,
    /// Somebody may want to look.
    Warning,
}

/// Writes events. One for the whole process: equal events within six minutes become one with a count.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// With the operator's client, and the name of its pod.
    pub fn new(client: Client, instance: Option<String>) -> Self {
        Self { recorder: Recorder::new(client, Reporter { controller: "postgres-migration-operator".into(), instance }) }
    }

    /// Writes one event. `reason` and `action` are constants in PascalCase; `note` is for people, holds no secret, and is cut
    /// at 1024 bytes.
    ///
    /// # Errors
    /// When it cannot be written. Nothing depends on it: callers log that and go on.
    pub async fn publish(
        &self,
        about: &PostgresMigration,
        severity: Severity,
        reason: &str,
        action: &str,
        note: &str,
    ) -> Result<(), Error> {
        let event = Event {
            type_: match severity {
                Severity::Normal => EventType::Normal,
                Severity::Warning => EventType::Warning,
            },
            reason: cut(reason, WORD),
            action: cut(action, WORD),
            note: (!note.is_empty()).then(|| cut(note, NOTE)),
            secondary: None,
        };
        let namespace = about.metadata.namespace.clone().unwrap_or_default();
        let reference = about.object_ref(&());
        ask(Request::new("create", "events.events.k8s.io", &namespace, ""), self.recorder.publish(&event, &reference)).await
    }
}

/// At most `limit` bytes, whole characters, an ellipsis where something is missing.
fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut end = limit.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_between_characters() {
        assert_eq!(cut("short", 1024), "short");
        let long = cut(&"ä".repeat(1000), NOTE);
        assert!(long.len() <= NOTE && long.ends_with("ä…"), "{}", long.len());
        assert_eq!(cut(&"x".repeat(200), WORD).len(), WORD);
    }
}
